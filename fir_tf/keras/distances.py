"""The distances of a batch's embeddings, by tensorflow-addons' names."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from fir_tf.errors import FirError
from fir_tf.losses.triplet import squared_distances

Metric = str | Callable[[tf.Tensor], tf.Tensor]
"""A name of `METRICS`, or a function from embeddings [n, d] to distances [n, n]."""


def l2(embedding: tf.Tensor) -> tf.Tensor:
    """Returns the lengths of the differences, float32 [n, n]; that of 0 has the gradient 0."""
    distance = squared(embedding)
    apart = distance > 0.0
    return tf.where(apart, tf.sqrt(tf.where(apart, distance, 1.0)), 0.0)


def squared(embedding: tf.Tensor) -> tf.Tensor:
    """Returns the squared lengths of the differences, float32 [n, n], exactly 0 to itself."""
    # XLA compiles no gradient of tf.linalg.set_diag for batches of changing size.
    row = tf.range(tf.shape(embedding)[0])
    return tf.where(row[:, None] == row[None, :], 0.0, squared_distances(embedding))


def angular(embedding: tf.Tensor) -> tf.Tensor:
    """Returns 1 - the cosines, float32 [n, n] from 0 to 2."""
    unit = tf.math.l2_normalize(embedding, axis=1)
    return tf.maximum(1.0 - tf.matmul(unit, unit, transpose_b=True), 0.0)


METRICS: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "L2": l2,
    "squared-L2": squared,
    "angular": angular,
}
"""The distances by name."""


def check_metric(metric: Any) -> Metric:
    """Returns a metric.

    Raises:
        FirError: it is neither a name of `METRICS` nor callable.
    """
    if not callable(metric) and metric not in tuple(METRICS):
        raise FirError(
            f"`distance_metric` must be one of {', '.join(METRICS)}, or a callable. "
            f"Received: {metric!r}"
        )
    return metric


def pairwise(embedding: tf.Tensor, metric: Metric) -> tf.Tensor:
    """Returns float32 [n, n], the distances of the rows of `embedding`, float32 [n, d].

    Raises:
        FirError: a callable metric returns another shape.
    """
    if not callable(metric):
        return METRICS[metric](embedding)
    distance = tf.cast(tf.convert_to_tensor(metric(embedding)), tf.float32)
    count = embedding.shape[0]
    if not distance.shape.is_compatible_with([count, count]):
        raise FirError(
            "`distance_metric` must return distances of shape [n, n]. Received: shape "
            f"{tuple(distance.shape)} of {count} embeddings"
        )
    return distance
