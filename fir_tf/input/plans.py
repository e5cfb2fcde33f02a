"""Which images are in batch number `step`: pure functions of (seed, step).

No plan holds a shuffled stream. A run resumes at any step exactly, replicas read shares of the
same global batch, and a batch that went wrong can be made again.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from fir_tf.config import Config
from fir_tf.datasets.catalogue import Catalogue
from fir_tf.errors import FirError

_SORT_MAX = 4096


def _integers(seed, shape, high):
    """Uniform integers in [0, high); `high` may be a tensor that broadcasts to `shape`."""
    high = tf.cast(high, tf.int32)
    fraction = tf.random.stateless_uniform(shape, seed, dtype=tf.float64)
    value = tf.cast(fraction * tf.cast(high, tf.float64), tf.int32)
    return tf.clip_by_value(value, 0, tf.maximum(high - 1, 0))


class _Groups:
    """Rows sorted by label, so that a group is a start and a length.

    Attributes:
        rows: int32 [m], rows of the catalogue with a known label, sorted by label.
        start, length: int32 [groups], each group's place in `rows`.
        group: int32 [m], the group of each of `rows`.
    """

    def __init__(self, labels, rows):
        rows = np.asarray(rows)[labels[rows] >= 0]
        order = np.argsort(labels[rows], kind="stable")
        self.rows = rows[order].astype(np.int32)
        _, self.start, self.group, self.length = np.unique(
            labels[self.rows], return_index=True, return_inverse=True, return_counts=True
        )
        self.start, self.group, self.length = (
            value.astype(np.int32) for value in (self.start, self.group, self.length)
        )

    def __len__(self):
        return len(self.length)


class Plan(Protocol):
    """Which images are in a batch.

    Attributes:
        size: int, rows in a batch.
        steps_per_epoch: int.
        classified: bool [size], the rows that OC applies to.
    """

    size: int
    steps_per_epoch: int
    classified: np.ndarray

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Returns int32 [size], the rows of the batch number `step` (int64 scalar)."""

    def describe(self) -> str:
        """Returns one line for the run's plan."""


class UniformPlan:
    """Every image once an epoch, in a new order; the last batch is filled from its beginning.

    Attributes:
        size: int, rows in a batch.
        steps_per_epoch: int.
        classified: bool [size], the rows that OC applies to.
    """

    def __init__(self, rows: ArrayLike, size: int, seed: int) -> None:
        self._rows = np.asarray(rows, np.int32)
        self.size = size
        self._seed = seed
        self.steps_per_epoch = -(-len(self._rows) // size)
        self.classified = np.ones(size, bool)

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Returns int32 [size], the rows of the batch number `step` (int64 scalar)."""
        epoch = tf.cast(step // self.steps_per_epoch, tf.int32)
        batch = tf.cast(step % self.steps_per_epoch, tf.int32)
        position = (batch * self.size + tf.range(self.size)) % len(self._rows)
        seed = tf.stack([tf.constant(self._seed, tf.int32), epoch])
        return tf.gather(self._rows, _shuffled(position, seed, len(self._rows)))

    def describe(self) -> str:
        """Returns one line for the run's plan."""
        return f"{self.size} images drawn uniformly from {len(self._rows)}"


def _shuffled(position, seed, count):
    """Positions in a random permutation of range(count).

    `index_shuffle` needs no table, but its cipher is far from uniform on small ranges (on 62
    places it never brings some numbers to some places); there a sort of random keys is cheap.
    """
    if count <= _SORT_MAX:
        keys = tf.random.stateless_uniform([count], seed, None, None, tf.int32)
        return tf.gather(tf.argsort(keys, stable=True), position)
    return tf.random.experimental.index_shuffle(position, seed, count - 1)


class PKPlan:
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
        self._groups = _Groups(labels, rows)
        _check_groups(self._groups, noun)
        self.groups_per_batch = min(size // per_group, len(self._groups))
        self.per_group = size // self.groups_per_batch
        self.size = size
        self._seed = seed
        self._noun = noun
        self.batches_per_pass = -(-len(self._groups) // self.groups_per_batch)
        images = len(self._groups.rows) / (len(self._groups) * self.per_group)
        self.steps_per_epoch = self.batches_per_pass * max(1, round(images))
        self.classified = np.ones(size, bool)

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Returns int32 [size], the rows of the batch number `step`, group by group."""
        groups, p, k = self._groups, self.groups_per_batch, self.per_group
        turn = tf.cast(step // self.batches_per_pass, tf.int32)
        batch = tf.cast(step % self.batches_per_pass, tf.int32)
        # The last batch of a pass is filled from the pass's beginning: distinct groups still.
        position = (batch * p + tf.range(p)) % len(groups)
        pass_seed = tf.stack([tf.constant(self._seed, tf.int32), turn])
        chosen = _shuffled(position, pass_seed, len(groups))
        start, length = tf.gather(groups.start, chosen), tf.gather(groups.length, chosen)

        seeds = tf.random.split(tf.random.fold_in(pass_seed, batch), k + 1)
        # Floyd's draw of K from `length` without replacement, all groups side by side.
        drawn: list[tf.Tensor] = []
        for slot in range(k):
            top = tf.maximum(length - k + slot, slot)
            pick = _integers(seeds[slot], [p], top + 1)
            if drawn:
                taken = tf.reduce_any(tf.stack(drawn) == pick, axis=0)
                pick = tf.where(taken, top, pick)
            drawn.append(pick)
        place = tf.stack(drawn, axis=1)
        slots = tf.range(k)[None, :]
        few = (length < k)[:, None]
        place = tf.where(few, tf.minimum(slots, length[:, None] - 1), place)
        vacant = few & (slots >= length[:, None])
        filler = _integers(seeds[k], [self.size], len(groups.rows))
        index = tf.where(vacant, tf.reshape(filler[: p * k], [p, k]), start[:, None] + place)
        index = tf.concat([tf.reshape(index, [p * k]), filler[p * k :]], axis=0)
        return tf.gather(groups.rows, tf.ensure_shape(index, [self.size]))

    def describe(self) -> str:
        """Returns one line for the run's plan."""
        return (
            f"{self.groups_per_batch} x {self.per_group}: {self.groups_per_batch} of "
            f"{len(self._groups)} {_plural(self._noun)}, {self.per_group} images each"
        )


class TripletPlan:
    """Explicit (anchor, positive, negative) batches, as in Equation 1.

    An epoch takes every image that can be an anchor once: its group has another image. The
    positive is another image of the group, the negative an image of another group, both drawn
    uniformly.

    A batch holds `anchors` anchors, then for each kind of group as many positives and as many
    negatives: rows [A | P1 | N1 | P2 | N2]. OC applies to the anchors.

    Args:
        labels: list of int32 [n], one column per similarity loss (item for IS, category for
            OS), -1 where unknown.
        rows: int [m], the rows to draw from.
        anchors: int, triplets in a batch.
        seed: int.
        nouns: list of str, what a group is, for messages.
    """

    def __init__(
        self,
        labels: Sequence[np.ndarray],
        rows: ArrayLike,
        anchors: int,
        seed: int,
        nouns: Sequence[str] = ("item",),
    ) -> None:
        self._kinds = [_Groups(column, rows) for column in labels]
        for groups, noun in zip(self._kinds, nouns, strict=True):
            _check_groups(groups, noun)
        first = self._kinds[0]
        self._uniform = UniformPlan(np.flatnonzero(first.length[first.group] > 1), anchors, seed)
        self._seed = seed
        self._nouns = nouns
        self._row_count = len(labels[0])
        self.anchors = anchors
        self.size = anchors * (1 + 2 * len(self._kinds))
        self.steps_per_epoch = self._uniform.steps_per_epoch
        self.classified = np.arange(self.size) < anchors

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Returns int32 [size], the rows of the batch number `step`."""
        index = self._uniform(step)
        anchor = tf.gather(self._kinds[0].rows, index)
        seed = tf.random.fold_in(tf.constant([self._seed, 1], tf.int32), step)
        parts = [anchor]
        for number, groups in enumerate(self._kinds):
            place = index
            if number:
                table = np.full(self._row_count, -1, np.int32)
                table[groups.rows] = np.arange(len(groups.rows))
                # An anchor without this label draws at random; the loss leaves it out.
                place = tf.maximum(tf.gather(table, anchor), 0)
            seeds = tf.random.split(tf.random.fold_in(seed, number), 2)
            group = tf.gather(groups.group, place)
            start, length = tf.gather(groups.start, group), tf.gather(groups.length, group)
            own = place - start
            other = _integers(seeds[0], [self.anchors], length - 1)
            other += tf.cast(other >= own, tf.int32)
            positive = start + tf.minimum(other, length - 1)
            outside = _integers(seeds[1], [self.anchors], len(groups.rows) - length)
            negative = outside + tf.where(outside >= start, length, 0)
            parts += [tf.gather(groups.rows, positive), tf.gather(groups.rows, negative)]
        return tf.concat(parts, axis=0)

    def describe(self) -> str:
        """Returns one line for the run's plan."""
        kinds = " and ".join(self._nouns)
        return f"{self.anchors} explicit triplets by {kinds}: {self.size} images"


class MixedPlan:
    """The rows of one plan followed by those of another: mixed category/triplet batches.

    Every batch holds as many rows of each as their sizes say, whatever the sources they come
    from. An epoch is the first plan's; the second goes through its own images at its own pace.
    """

    def __init__(self, first: Plan, second: Plan) -> None:
        self._first, self._second = first, second
        self.size = first.size + second.size
        self.steps_per_epoch = first.steps_per_epoch
        self.classified = np.concatenate([first.classified, second.classified])

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Returns int32 [size], the rows of the batch number `step`."""
        return tf.concat([self._first(step), self._second(step)], axis=0)

    def describe(self) -> str:
        """Returns one line for the run's plan."""
        return f"{self._first.describe()}; {self._second.describe()} for OC"


def _plural(noun):
    return {"category": "categories"}.get(noun, noun + "s")


def _check_groups(groups, noun):
    if len(groups) < 2:
        raise FirError(
            f"a triplet needs images of at least 2 {_plural(noun)}. Received: {len(groups)}"
        )
    if not (groups.length > 1).any():
        raise FirError(
            f"a triplet needs two images of one {noun}; each of the {len(groups)} "
            f"{_plural(noun)} has one. Give more photos of a {noun}, or train with --losses=OC"
        )


def _drawn_by(config):
    """The labels, "item" or "category", of which an image needs one to be drawn."""
    kinds = config.loss_kinds()
    nouns = [noun for kind, noun in (("IS", "item"), ("OS", "category")) if kind in kinds]
    if config.triplets != "explicit":
        # Batches of P x K come from the groups of one label; the other is mined within them.
        nouns = nouns[:1]
    if "OC" in kinds and (config.category_fraction or not nouns):
        nouns.append("category")
    return list(dict.fromkeys(nouns))


def drawn_rows(catalogue: Catalogue, config: Config) -> np.ndarray:
    """Returns the training rows that the plan of `make_plan` can draw.

    Args:
        catalogue: Catalogue; its split `train`.
        config: Config; `losses`, `triplets`, `category_fraction`.

    Returns:
        int array of rows in ascending order.
    """
    known = np.any([getattr(catalogue, noun) >= 0 for noun in _drawn_by(config)], axis=0)
    return np.flatnonzero((catalogue.split == "train") & known)


def describe_undrawn(catalogue: Catalogue, config: Config) -> str:
    """Returns a note on training images that the plan never draws, an empty string without any.

    Args:
        catalogue: Catalogue.
        config: Config.

    Returns:
        str.
    """
    count = int((catalogue.split == "train").sum())
    left = count - len(drawn_rows(catalogue, config))
    if not left:
        return ""
    return (
        f"note: {left:,} of {count:,} training images are never drawn: they lack the label "
        f"({' or '.join(_drawn_by(config))}) that batches are made by; see --category_fraction"
    )


def make_plan(catalogue: Catalogue, config: Config) -> Plan:
    """Builds the plan that `config` asks for over the training rows of `catalogue`.

    With a similarity loss and `category_fraction` f, the share f of `batch_size` (images; with
    explicit triplets, triplets) is drawn uniformly from all training images with a category,
    whether they have an item or not, and the rest from those with the similarity loss's label.

    Args:
        catalogue: Catalogue; its split `train` is drawn from.
        config: Config; `losses`, `triplets`, `batch_size`, `images_per_item`,
            `category_fraction`, `seed`.

    Returns:
        Plan.

    Raises:
        FirError: if the catalogue has no training image, lacks the labels a loss needs, or holds
            a source of which no image would be drawn; if `category_fraction` has no effect.
    """
    rows = np.flatnonzero(catalogue.split == "train")
    if not len(rows):
        raise FirError(f"the split 'train' is empty in {catalogue.source}")
    kinds = config.loss_kinds()
    columns = {"IS": ("item", catalogue.item), "OS": ("category", catalogue.category)}
    for kind in ("OC", "OS", "IS"):
        noun, column = columns.get(kind, columns["OS"])
        if kind in kinds and not (column[rows] >= 0).any():
            raise FirError(
                f"the loss {kind} needs {noun} labels, and no training image of "
                f"{catalogue.source} has one. Received: --losses={config.losses}"
            )
    drawn = drawn_rows(catalogue, config)
    for origin in np.unique(catalogue.origin[rows]):
        if not (catalogue.origin[drawn] == origin).any():
            raise FirError(
                f"no image of {catalogue.sources[origin]} would ever be drawn: batches are made "
                f"by {' or '.join(_drawn_by(config))}, and its images have no such label. Take it "
                "out, change --losses, or draw images that have a category only with "
                "--category_fraction, such as 0.25"
            )
    similarity = [columns[kind] for kind in ("IS", "OS") if kind in kinds]
    categorised = rows[catalogue.category[rows] >= 0]
    if not similarity:
        return UniformPlan(categorised, config.batch_size, config.seed)
    extra = round(config.batch_size * config.category_fraction)
    if config.category_fraction and ("OC" not in kinds or not 0 < extra < config.batch_size):
        raise FirError(
            "`category_fraction` must bring at least one image a batch for OC, and leave one for "
            f"triplets. Received: {config.category_fraction} of a batch of {config.batch_size} "
            f"with --losses={config.losses}"
        )
    size = config.batch_size - extra
    if config.triplets == "explicit":
        plan: Plan = TripletPlan(
            [column for _, column in similarity],
            rows,
            size,
            config.seed,
            [noun for noun, _ in similarity],
        )
    else:
        noun, column = similarity[0]
        plan = PKPlan(column, rows, size, config.images_per_item, config.seed, noun)
    if extra:
        plan = MixedPlan(plan, UniformPlan(categorised, extra, config.seed + 1))
    return plan
