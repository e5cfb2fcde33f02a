"""The similarity loss: explicit triplets and in-batch mining.

Distances are squared L2, of normalised embeddings as a rule, always in float32. A label of -1 is
unknown: such an image is neither anchor, positive nor negative.
"""

from typing import Any, NamedTuple

import tensorflow as tf

from fir_tf import registry
from fir_tf.errors import FirError
from fir_tf.losses.grammar import LossSettings
from fir_tf.losses.loss import SWITCH, Loss, Scalars, TripletRows
from fir_tf.losses.masked import hinge, masked_mean


class TripletLoss(NamedTuple):
    """A triplet loss and what is worth watching about it; all float32 scalars.

    Attributes:
        loss: the mean hinge, or soft margin.
        active: share of the triplets whose hinge is above zero, or with the soft margin of those
            with the positive farther than the negative; 0 where there is no triplet.
        positive_distance: mean squared distance of the anchor-positive pairs looked at.
        negative_distance: mean squared distance of the anchor-negative pairs looked at.
    """

    loss: Any
    active: Any
    positive_distance: Any
    negative_distance: Any


def similarities(embedding: tf.Tensor, columns: tf.Tensor | None = None) -> tf.Tensor:
    """Returns float32 [n, m], the dot products of the rows of `embedding` [n, d] and `columns`.

    Those are the rows of [m, d], the embedding's when not given.
    """
    embedding = tf.cast(embedding, tf.float32)
    columns = embedding if columns is None else tf.cast(columns, tf.float32)
    return tf.matmul(embedding, columns, transpose_b=True)


def squared_distances(embedding: tf.Tensor, columns: tf.Tensor | None = None) -> tf.Tensor:
    """Returns float32 [n, m], the squared L2 distances of the rows that `similarities` takes.

    No square root is taken, so the gradient is finite where a distance is zero.
    """
    columns = embedding if columns is None else columns
    square, other = (
        tf.reduce_sum(tf.square(tf.cast(rows, tf.float32)), axis=1) for rows in (embedding, columns)
    )
    distance = square[:, None] - 2.0 * similarities(embedding, columns) + other[None, :]
    return tf.maximum(distance, 0.0)


def explicit_triplet_loss(
    anchor: tf.Tensor,
    positive: tf.Tensor,
    negative: tf.Tensor,
    valid: tf.Tensor,
    margin: float | None,
) -> TripletLoss:
    """Equation 1's similarity term: mean over triplets of the hinge.

    `max(0, margin + |anchor - positive|^2 - |anchor - negative|^2)`. The minus that the paper
    prints before the term is a misprint (minimised literally it drives positives apart).

    Args:
        anchor, positive, negative: float [n, d], L2-normalised as a rule.
        valid: bool [n]; other triplets take no part.
        margin: float, the paper's delta; None for the soft margin, see
            `fir_tf.losses.masked.hinge`.

    Returns:
        TripletLoss.
    """
    anchor, positive, negative = (
        tf.cast(value, tf.float32) for value in (anchor, positive, negative)
    )
    near = tf.reduce_sum(tf.square(anchor - positive), axis=1)
    far = tf.reduce_sum(tf.square(anchor - negative), axis=1)
    loss, active = hinge(near - far, margin)
    return TripletLoss(
        loss=masked_mean(loss, valid),
        active=masked_mean(tf.cast(active, tf.float32), valid),
        positive_distance=masked_mean(near, valid),
        negative_distance=masked_mean(far, valid),
    )


def label_pairs(
    labels: tf.Tensor, known: tf.Tensor | None = None, columns: tf.Tensor | None = None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns (positive, negative), bool [n, m] each: which rows and columns are pairs.

    Args:
        labels: int [n], of the rows.
        known: bool [n]; other rows are in no pair: those labelled -1 when not given.
        columns: int [m], -1 where unknown: the labels of the rows again, which are in no pair
            with themselves, and of what else they are paired with; the rows' alone when not given.
    """
    known = labels >= 0 if known is None else known
    columns, usable = (labels, known) if columns is None else (columns, columns >= 0)
    both = known[:, None] & usable[None, :]
    same = labels[:, None] == columns[None, :]
    itself = tf.eye(tf.shape(labels)[0], tf.shape(columns)[0], dtype=tf.bool)
    return both & same & ~itself, both & ~same


def mined_triplet_loss(
    embedding: tf.Tensor, labels: tf.Tensor, margin: float | None, miner: str
) -> TripletLoss:
    """Triplet loss over the triplets found in a batch.

    Args:
        embedding: float [n, d], L2-normalised as a rule.
        labels: int [n], -1 where unknown.
        margin: float, the paper's delta; None for the soft margin, see
            `fir_tf.losses.masked.hinge`.
        miner: str, a registered one's name.

    Returns:
        TripletLoss; zeros where the batch holds no triplet.

    Raises:
        FirError: for an unknown miner.
    """
    mine = registry.get("miner", miner)
    distance = squared_distances(embedding)
    positive, negative = label_pairs(labels)
    loss, active = mine(distance, positive, negative, margin)
    return TripletLoss(
        loss, active, masked_mean(distance, positive), masked_mean(distance, negative)
    )


class Triplet(Loss):
    """Triplet loss with a margin in squared L2 distance, mined or explicit (PAPER: Equation 1).

    Options: `margin`, the flag's by default, or `soft=true` for the soft margin
    `log(1 + exp(d(a, p) - d(a, n)))` (Hermans et al. 2017, Section 2), which never lets go of a
    triplet.
    """

    options = {"margin": "[0, inf)", "soft": SWITCH}

    def __init__(self, settings: LossSettings) -> None:
        super().__init__(settings)
        self._margin: float | None = self.option("margin", settings.margin)
        if self.option("soft", 0.0):
            if "margin" in dict(settings.options):
                raise FirError(
                    f"`margin` has no meaning beside soft=true. Received: margin={self._margin:g}"
                )
            self._margin = None
        if settings.triplets == "explicit":
            self.sampler, self.needs_triplets = "triplets", True

    def __call__(
        self, values: tf.Tensor, labels: tf.Tensor, triplets: TripletRows | None = None
    ) -> Scalars:
        """Returns the loss and what is worth watching about it, see `TripletLoss`."""
        if triplets is None:
            miner = self.settings.triplets
            return mined_triplet_loss(values, labels, self._margin, miner)._asdict()
        anchor, positive, negative = triplets
        known = (labels[anchor] >= 0) & (labels[positive] >= 0) & (labels[negative] >= 0)
        valid = known & (labels[anchor] == labels[positive]) & (labels[anchor] != labels[negative])
        found = explicit_triplet_loss(
            values[anchor], values[positive], values[negative], valid, self._margin
        )
        return found._asdict()
