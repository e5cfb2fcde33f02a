"""Batches of P groups x K images, for mining in the batch."""

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from fir_tf.errors import FirError
from fir_tf.samplers.draws import integers, shuffled
from fir_tf.samplers.groups import Groups, check_groups, plural
from fir_tf.samplers.sampler import Request


class PKSampler:
    """P groups x K images each: what in-batch mining needs.

    A pass visits every group once in a new order; an epoch has as many passes as bring about as
    many images as the training set has. The K images of a group are a uniform draw without
    replacement. A group with fewer than K images appears with each of them once, never
    repeated, so it is not over-weighted; its vacant places go to images drawn uniformly from
    all groups. With fewer than P groups, K grows accordingly.

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
        chosen = shuffled(position, pass_seed, len(groups))
        start, length = tf.gather(groups.start, chosen), tf.gather(groups.length, chosen)

        seeds = tf.random.split(tf.random.fold_in(pass_seed, batch), k + 1)
        # Floyd's draw of K from `length` without replacement, all groups side by side.
        drawn: list[tf.Tensor] = []
        for slot in range(k):
            top = tf.maximum(length - k + slot, slot)
            pick = integers(seeds[slot], [p], top + 1)
            if drawn:
                taken = tf.reduce_any(tf.stack(drawn) == pick, axis=0)
                pick = tf.where(taken, top, pick)
            drawn.append(pick)
        place = tf.stack(drawn, axis=1)
        slots = tf.range(k)[None, :]
        few = (length < k)[:, None]
        place = tf.where(few, tf.minimum(slots, length[:, None] - 1), place)
        vacant = few & (slots >= length[:, None])
        filler = integers(seeds[k], [self.size], len(groups.rows))
        index = tf.where(vacant, tf.reshape(filler[: p * k], [p, k]), start[:, None] + place)
        index = tf.concat([tf.reshape(index, [p * k]), filler[p * k :]], axis=0)
        return tf.gather(groups.rows, tf.ensure_shape(index, [self.size]))

    def describe(self) -> str:
        """Returns one line for the run's sampler."""
        return (
            f"{self.groups_per_batch} x {self.per_group}: {self.groups_per_batch} of "
            f"{len(self._groups)} {plural(self._noun)}, {self.per_group} images each"
        )


def pk(request: Request) -> PKSampler:
    """Draws P items (or categories) x K images, for mining in the batch."""
    # The other labels are mined within batches by the first.
    noun, column = next(iter(request.labels.items()))
    return PKSampler(
        column, request.rows, request.size, request.images_per_item, request.seed, noun
    )


pk.by_one_label = True  # type: ignore[attr-defined]  # see fir_tf.samplers.sampler.Request
