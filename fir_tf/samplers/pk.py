"""Batches of P groups x K images, for mining in the batch."""

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from fir_tf.datasets.catalogue import CONSUMER
from fir_tf.errors import FirError
from fir_tf.samplers.blocks import Blocks
from fir_tf.samplers.draws import distinct, integers, shuffled
from fir_tf.samplers.groups import Groups, check_groups, plural
from fir_tf.samplers.sampler import Request


class PKSampler:
    """P groups x K images each: what in-batch mining needs.

    A pass visits every group once in a new order; an epoch has as many passes as bring about as
    many images as the training set has. The K images of a group are a uniform draw without
    replacement. A group with fewer than K images appears with each of them once, never
    repeated, so it is not over-weighted; its vacant places go to images drawn uniformly from
    all groups. With fewer than P groups, K grows accordingly. `of_one_category` and
    `of_both_domains` make batches harder.

    Args:
        labels: int32 [n], the group of every row of the catalogue, -1 where unknown.
        rows: int [m], the rows to draw from.
        size: int, rows in a batch.
        per_group: int, K; `size` must be a multiple of it.
        seed: int.
        noun: str, what a group is, for messages.
    """

    def __init__(
        self,
        labels: np.ndarray,
        rows: ArrayLike,
        size: int,
        per_group: int,
        seed: int,
        noun: str = "item",
    ) -> None:
        if per_group < 2:
            raise FirError(f"`images_per_item` must be at least 2. Received: {per_group}")
        if size % per_group:
            raise FirError(
                f"`batch_size` must be a multiple of `images_per_item`. "
                f"Received: {size} and {per_group}"
            )
        if size < 2 * per_group:
            raise FirError(
                f"`batch_size` must be at least twice `images_per_item`: a triplet needs a second "
                f"{noun}. Received: {size} and {per_group}"
            )
        self._groups = Groups(labels, rows)
        check_groups(self._groups, noun)
        self.groups_per_batch = min(size // per_group, len(self._groups))
        self.per_group = size // self.groups_per_batch
        self.size = size
        self._seed = seed
        self._noun = noun
        self._blocks: Blocks | None = None
        self._shops: np.ndarray | None = None
        self.batches_per_pass = -(-len(self._groups) // self.groups_per_batch)
        images = len(self._groups.rows) / (len(self._groups) * self.per_group)
        self.steps_per_epoch = self.batches_per_pass * max(1, round(images))
        self.classified = np.ones(size, bool)
        self.triplets: dict[str, tuple[slice, slice, slice]] = {}

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Returns int32 [size], the rows of the batch number `step`, group by group."""
        groups, p, k = self._groups, self.groups_per_batch, self.per_group
        turn = tf.cast(step // self.batches_per_pass, tf.int32)
        batch = tf.cast(step % self.batches_per_pass, tf.int32)
        # The last batch of a pass is filled from the pass's beginning: distinct groups still.
        position = (batch * p + tf.range(p)) % len(groups)
        pass_seed = tf.stack([tf.constant(self._seed, tf.int32), turn])
        chosen = (
            shuffled(position, pass_seed, len(groups))
            if self._blocks is None
            else tf.gather(self._blocks(pass_seed), position)
        )
        start, length = tf.gather(groups.start, chosen), tf.gather(groups.length, chosen)

        seeds = tf.random.split(tf.random.fold_in(pass_seed, batch), k + 1)
        place = (
            distinct(seeds[:k], length, tf.minimum(k, length))
            if self._shops is None
            else self._from_both(pass_seed, batch, chosen)
        )
        slots = tf.range(k)[None, :]
        few = (length < k)[:, None]
        place = tf.where(few, tf.minimum(slots, length[:, None] - 1), place)
        vacant = few & (slots >= length[:, None])
        filler = integers(seeds[k], [self.size], len(groups.rows))
        index = tf.where(vacant, tf.reshape(filler[: p * k], [p, k]), start[:, None] + place)
        index = tf.concat([tf.reshape(index, [p * k]), filler[p * k :]], axis=0)
        return tf.gather(groups.rows, tf.ensure_shape(index, [self.size]))

    def of_one_category(self, category: np.ndarray, count: int) -> None:
        """Puts `count` groups of one category beside each other in a batch, see `Blocks`.

        Negatives of the anchor's own category are the hard ones. A pass still visits every group
        once. Groups whose category has fewer left, or none, come at the end of a pass, as many of
        a category together as there are.

        Args:
            category: int32 [n], the category of every row of the catalogue, -1 where unknown; a
                group's is that of its first row with a known one.
            count: int, which must divide P.

        Raises:
            FirError: `count` does not divide P, or no category has two groups.
        """
        groups = self._groups
        if self.groups_per_batch % count and self.groups_per_batch < len(groups):
            raise FirError(
                "`items_per_category` must divide the number of items in a batch "
                f"({self.groups_per_batch}). Received: {count}"
            )
        own = np.full(len(groups), -1, np.int32)
        known = category[groups.rows] >= 0
        names, first = np.unique(groups.group[known], return_index=True)
        own[names] = category[groups.rows[known][first]]
        if np.unique(own[own >= 0], return_counts=True)[1].max(initial=0) < 2:
            raise FirError(
                f"`items_per_category` needs two {plural(self._noun)} of one category, and there "
                f"are none. Received: {count}"
            )
        self._blocks = Blocks(own, count)

    def of_both_domains(self, consumer: np.ndarray) -> None:
        """Draws a group's K images half from its consumer's and half from its other photos.

        Where a group has fewer of one side, or none, the other side fills its places.

        Args:
            consumer: bool [n], for every row of the catalogue, whether it is a consumer's photo.

        Raises:
            FirError: no group has photos of both sides.
        """
        groups = self._groups
        side = consumer[groups.rows]
        # A group keeps its place; in it the shop's photos come first.
        groups.rows = groups.rows[np.lexsort((side, groups.group))]
        self._shops = np.bincount(groups.group[~side], minlength=len(groups)).astype(np.int32)
        self._both = int(((self._shops > 0) & (self._shops < groups.length)).sum())
        if not self._both:
            raise FirError(
                f"`cross_domain` needs {plural(self._noun)} with a consumer's photo and a shop's, "
                "and there are none. Leave it out, or give a data set that says where photos are "
                "from"
            )

    def _from_both(self, pass_seed: tf.Tensor, batch: tf.Tensor, chosen: tf.Tensor) -> tf.Tensor:
        """Places in groups, int32 [P, K], the shop's photos before the consumer's."""
        k, groups = self.per_group, self._groups
        shops = tf.gather(tf.constant(self._shops), chosen)
        others = tf.gather(groups.length, chosen) - shops
        # The odd place goes to either side by chance.
        seeds = tf.random.split(
            tf.random.fold_in(tf.random.fold_in(pass_seed, batch), 1), 2 * k + 1
        )
        half = k // 2 + (integers(seeds[2 * k], [self.groups_per_batch], 2) if k % 2 else 0)
        first = tf.minimum(shops, tf.maximum(half, k - others))
        second = tf.minimum(others, k - first)
        shop = distinct(seeds[:k], shops, first)
        other = shops[:, None] + distinct(seeds[k : 2 * k], others, second)
        slots = tf.range(k)[None, :] - first[:, None]
        moved = tf.gather(other, tf.maximum(slots, 0), batch_dims=1)
        return tf.where(slots < 0, shop, moved)

    def describe(self) -> str:
        """Returns one line for the run's sampler."""
        told = (
            f"{self.groups_per_batch} x {self.per_group}: {self.groups_per_batch} of "
            f"{len(self._groups)} {plural(self._noun)}, {self.per_group} images each"
        )
        if self._blocks is not None:
            count, rest = self._blocks.count, self._blocks.rest
            told += (
                f", {count} of a category together ({rest} at the end of a pass, of what is left "
                "of their categories)"
            )
        if self._shops is not None:
            told += f", from both domains ({self._both} of {len(self._groups)} have both)"
        return told


def pk(request: Request) -> PKSampler:
    """Draws P items (or categories) x K images, for mining in the batch."""
    # The other labels are mined within batches by the first.
    noun, column = next(iter(request.labels.items()))
    sampler = PKSampler(
        column, request.rows, request.size, request.images_per_item, request.seed, noun
    )
    if request.items_per_category > 1:
        sampler.of_one_category(request.category, request.items_per_category)
    if request.cross_domain:
        sampler.of_both_domains(request.domain == CONSUMER)
    return sampler


pk.by_one_label = True  # type: ignore[attr-defined]  # see fir_tf.samplers.sampler.Request
pk.takes = ("items_per_category", "cross_domain")  # type: ignore[attr-defined]
