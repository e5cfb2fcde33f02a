"""The similarity loss: explicit triplets and in-batch mining.

Distances are squared L2 on normalised embeddings, always in float32. A label of -1 is unknown:
such an image is neither anchor, positive nor negative.
"""

from typing import Any, NamedTuple

import tensorflow as tf

from fir_tf import registry
from fir_tf.losses.grammar import LossSettings
from fir_tf.losses.loss import Loss, Scalars, TripletRows
from fir_tf.losses.masked import masked_mean


class TripletLoss(NamedTuple):
    """A triplet loss and what is worth watching about it; all float32 scalars.

    Attributes:
        loss: the mean hinge.
        active: share of the triplets whose hinge is above zero, 0 where there is no triplet.
        positive_distance: mean squared distance of the anchor-positive pairs looked at.
        negative_distance: mean squared distance of the anchor-negative pairs looked at.
    """

    loss: Any
    active: Any
    positive_distance: Any
    negative_distance: Any


def similarities(embedding: tf.Tensor) -> tf.Tensor:
    """Returns float32 [n, n], the dot products of the rows of `embedding` [n, d]."""
    embedding = tf.cast(embedding, tf.float32)
    return tf.matmul(embedding, embedding, transpose_b=True)


def squared_distances(embedding: tf.Tensor) -> tf.Tensor:
    """Returns float32 [n, n], the squared L2 distances of the rows of `embedding` [n, d].

    No square root is taken, so the gradient is finite where a distance is zero.
    """
    square = tf.reduce_sum(tf.square(tf.cast(embedding, tf.float32)), axis=1)
    distance = square[:, None] - 2.0 * similarities(embedding) + square[None, :]
    return tf.maximum(distance, 0.0)


def explicit_triplet_loss(
    anchor: tf.Tensor, positive: tf.Tensor, negative: tf.Tensor, valid: tf.Tensor, margin: float
) -> TripletLoss:
    """Equation 1's similarity term: mean over triplets of the hinge.

    `max(0, margin + |anchor - positive|^2 - |anchor - negative|^2)`. The minus that the paper
    prints before the term is a misprint (minimised literally it drives positives apart).

    Args:
        anchor, positive, negative: float [n, d], L2-normalised.
        valid: bool [n]; other triplets take no part.
        margin: float, the paper's delta.

    Returns:
        TripletLoss.
    """
    anchor, positive, negative = (
        tf.cast(value, tf.float32) for value in (anchor, positive, negative)
    )
    near = tf.reduce_sum(tf.square(anchor - positive), axis=1)
    far = tf.reduce_sum(tf.square(anchor - negative), axis=1)
    hinge = tf.nn.relu(margin + near - far)
    return TripletLoss(
        loss=masked_mean(hinge, valid),
        active=masked_mean(tf.cast(hinge > 0, tf.float32), valid),
        positive_distance=masked_mean(near, valid),
        negative_distance=masked_mean(far, valid),
    )


def label_pairs(labels: tf.Tensor, known: tf.Tensor | None = None) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns (positive, negative), bool [n, n] each, of int labels [n].

    Labels that are not `known`, bool [n], are in no pair: -1 by default.
    """
    known = labels >= 0 if known is None else known
    both = known[:, None] & known[None, :]
    same = labels[:, None] == labels[None, :]
    positive = both & same & ~tf.eye(tf.shape(labels)[0], dtype=tf.bool)
    return positive, both & ~same


def mined_triplet_loss(
    embedding: tf.Tensor, labels: tf.Tensor, margin: float, miner: str
) -> TripletLoss:
    """Triplet loss over the triplets found in a batch.

    Args:
        embedding: float [n, d], L2-normalised.
        labels: int [n], -1 where unknown.
        margin: float, the paper's delta.
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
    """Triplet loss with a margin in squared L2 distance, mined or explicit (PAPER: Equation 1)."""

    options = {"margin": "[0, inf)"}

    def __init__(self, settings: LossSettings) -> None:
        super().__init__(settings)
        if settings.triplets == "explicit":
            self.sampler, self.needs_triplets = "triplets", True

    def __call__(
        self, values: tf.Tensor, labels: tf.Tensor, triplets: TripletRows | None = None
    ) -> Scalars:
        """Returns the loss and what is worth watching about it, see `TripletLoss`."""
        margin = self.option("margin", self.settings.margin)
        if triplets is None:
            return mined_triplet_loss(values, labels, margin, self.settings.triplets)._asdict()
        anchor, positive, negative = triplets
        known = (labels[anchor] >= 0) & (labels[positive] >= 0) & (labels[negative] >= 0)
        valid = known & (labels[anchor] == labels[positive]) & (labels[anchor] != labels[negative])
        found = explicit_triplet_loss(
            values[anchor], values[positive], values[negative], valid, margin
        )
        return found._asdict()
