"""The similarity loss: explicit triplets and in-batch mining.

Distances are squared L2 on normalised embeddings, always in float32. A label of -1 is unknown:
such an image is neither anchor, positive nor negative.
"""

from typing import Any, NamedTuple

import tensorflow as tf

from fir_tf.errors import FirError


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


def squared_distances(embedding: tf.Tensor) -> tf.Tensor:
    """Returns float32 [n, n], the squared L2 distances of the rows of `embedding` [n, d].

    No square root is taken, so the gradient is finite where a distance is zero.
    """
    embedding = tf.cast(embedding, tf.float32)
    product = tf.matmul(embedding, embedding, transpose_b=True)
    square = tf.reduce_sum(tf.square(embedding), axis=1)
    distance = square[:, None] - 2.0 * product + square[None, :]
    return tf.maximum(distance, 0.0)


def _mean(values, mask):
    mask = tf.cast(mask, tf.float32)
    return tf.math.divide_no_nan(tf.reduce_sum(values * mask), tf.reduce_sum(mask))


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
        loss=_mean(hinge, valid),
        active=_mean(tf.cast(hinge > 0, tf.float32), valid),
        positive_distance=_mean(near, valid),
        negative_distance=_mean(far, valid),
    )


def _pairs(labels):
    known = labels >= 0
    both = known[:, None] & known[None, :]
    same = labels[:, None] == labels[None, :]
    positive = both & same & ~tf.eye(tf.shape(labels)[0], dtype=tf.bool)
    return positive, both & ~same


def _sorted_negatives(distance, negative):
    """Each anchor's negative distances in ascending order, infinity behind them."""
    return tf.sort(tf.where(negative, distance, float("inf")), axis=1)


def _all(distance, positive, negative, margin):
    # Per positive: the negatives inside its margin are a prefix of the sorted ones, so counts
    # and prefix sums give the sum over all triplets in n^2 memory instead of n^3.
    ordered = _sorted_negatives(distance, negative)
    limit = distance + margin
    inside = tf.searchsorted(tf.stop_gradient(ordered), tf.stop_gradient(limit), side="left")
    finite = tf.where(tf.math.is_finite(ordered), ordered, 0.0)
    prefix = tf.pad(tf.cumsum(finite, axis=1), [[0, 0], [1, 0]])
    sums = tf.gather(prefix, inside, batch_dims=1)
    count = tf.cast(inside, tf.float32)
    mask = tf.cast(positive, tf.float32)
    active = tf.reduce_sum(count * mask)
    total = tf.reduce_sum((count * limit - sums) * mask)
    triplets = tf.reduce_sum(
        tf.reduce_sum(mask, axis=1) * tf.reduce_sum(tf.cast(negative, tf.float32), axis=1)
    )
    return tf.math.divide_no_nan(total, active), tf.math.divide_no_nan(active, triplets)


def _semihard(distance, positive, negative, margin):
    ordered = _sorted_negatives(distance, negative)
    count = tf.reduce_sum(tf.cast(negative, tf.int32), axis=1, keepdims=True)
    beyond = tf.searchsorted(tf.stop_gradient(ordered), tf.stop_gradient(distance), side="right")
    chosen = tf.clip_by_value(tf.minimum(beyond, count - 1), 0, tf.shape(distance)[1] - 1)
    usable = positive & (count > 0)
    ordered = tf.where(tf.math.is_finite(ordered), ordered, 0.0)
    hinge = tf.nn.relu(margin + distance - tf.gather(ordered, chosen, batch_dims=1))
    return _mean(hinge, usable), _mean(tf.cast(hinge > 0, tf.float32), usable)


def _hard(distance, positive, negative, margin):
    far = tf.reduce_max(tf.where(positive, distance, 0.0), axis=1)
    near = tf.reduce_min(tf.where(negative, distance, float("inf")), axis=1)
    usable = tf.reduce_any(positive, axis=1) & tf.reduce_any(negative, axis=1)
    hinge = tf.nn.relu(margin + far - tf.where(usable, near, 0.0))
    return _mean(hinge, usable), _mean(tf.cast(hinge > 0, tf.float32), usable)


# Each miner: (distance [n, n], positive pairs, negative pairs, margin) -> (loss, active share).
MINERS = {"all": _all, "semihard": _semihard, "hard": _hard}


def mined_triplet_loss(
    embedding: tf.Tensor, labels: tf.Tensor, margin: float, miner: str
) -> TripletLoss:
    """Triplet loss over the triplets found in a batch.

    Miners: `all` averages over the active triplets of the batch (Hermans et al. 2017, "batch
    all", the mean over non-zero terms: with the mean over every triplet the signal fades as
    training goes well). `semihard` takes for each anchor-positive pair the nearest negative
    that is farther than the positive, or the farthest negative where there is none (Schroff et
    al. 2015), mean over pairs. `hard` takes each anchor's farthest positive and nearest
    negative (Hermans et al. 2017, "batch hard"), mean over anchors.

    Args:
        embedding: float [n, d], L2-normalised.
        labels: int [n], -1 where unknown.
        margin: float, the paper's delta.
        miner: str, a key of `MINERS`.

    Returns:
        TripletLoss; zeros where the batch holds no triplet.

    Raises:
        FirError: for an unknown miner.
    """
    if miner not in MINERS:
        raise FirError(f"`miner` must be one of {', '.join(MINERS)}. Received: {miner!r}")
    distance = squared_distances(embedding)
    positive, negative = _pairs(labels)
    loss, active = MINERS[miner](distance, positive, negative, margin)
    return TripletLoss(loss, active, _mean(distance, positive), _mean(distance, negative))
