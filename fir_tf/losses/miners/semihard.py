"""The miner `semihard`."""

import tensorflow as tf

from fir_tf.losses.masked import count_below, has_few, hinge, masked_mean, over_positives


def semihard_gap(
    distance: tf.Tensor, positive: tf.Tensor, negative: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns (gap, usable), float32 and bool [n, n], of each pair of an anchor and a positive.

    The distance less that of the negative which `semihard` takes for the pair, and which pairs
    have one.
    """
    fixed = tf.stop_gradient(distance)
    chosen = tf.cond(
        has_few(positive),
        lambda: _chosen_one_by_one(fixed, positive, negative),
        lambda: _chosen_by_sorting(fixed, negative),
    )
    usable = positive & tf.reduce_any(negative, axis=1, keepdims=True)
    # By places in the flat matrix: TensorFlow 2.15 has no gradient of an empty batched gather.
    count = tf.shape(distance)[0]
    places = chosen + count * tf.range(count)[:, None]
    return distance - tf.gather(tf.reshape(distance, [-1]), places), usable


def _chosen_one_by_one(distance: tf.Tensor, positive: tf.Tensor, negative: tf.Tensor) -> tf.Tensor:
    """The column of each positive pair's negative, int32 [n, n]; other pairs have any."""
    columns = tf.range(tf.shape(distance)[0])
    last = tf.shape(distance)[0] - 1
    far = tf.where(negative, distance, float("-inf"))
    farthest = tf.reduce_max(
        tf.where(far == tf.reduce_max(far, axis=1, keepdims=True), columns, 0), axis=1
    )

    def step(column: tf.Tensor, here: tf.Tensor, chosen: tf.Tensor) -> tuple[tf.Tensor]:
        near = tf.gather(distance, column, batch_dims=1)[:, None]
        beyond = tf.where(far > near, far, float("inf"))
        least = tf.reduce_min(beyond, axis=1, keepdims=True)
        nearest = tf.reduce_min(tf.where(beyond == least, columns, last), axis=1)
        found = tf.where(least[:, 0] < float("inf"), nearest, farthest)
        return (tf.where(here, found[:, None], chosen),)

    (chosen,) = over_positives(positive, step, [tf.zeros_like(distance, tf.int32)])
    return chosen


def _chosen_by_sorting(distance: tf.Tensor, negative: tf.Tensor) -> tf.Tensor:
    """The same for the negative of every pair."""
    values = tf.where(negative, distance, float("inf"))
    order = tf.argsort(values, axis=1)
    ordered = tf.gather(values, order, batch_dims=1)
    beyond = count_below(ordered, distance, equal=True)
    count = tf.reduce_sum(tf.cast(negative, tf.int32), axis=1, keepdims=True)
    return tf.gather(order, tf.maximum(tf.minimum(beyond, count - 1), 0), batch_dims=1)


def semihard(
    distance: tf.Tensor, positive: tf.Tensor, negative: tf.Tensor, margin: float | None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Takes for each pair the nearest negative that is farther than the positive.

    Or the farthest negative where there is none (Schroff et al. 2015); mean over pairs.
    """
    gap, usable = semihard_gap(distance, positive, negative)
    loss, active = hinge(gap, margin)
    return masked_mean(loss, usable), masked_mean(tf.cast(active, tf.float32), usable)
