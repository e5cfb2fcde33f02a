"""The miner `all`."""

import tensorflow as tf

from fir_tf.losses.masked import (
    count_below,
    has_few,
    hinge,
    over_positives,
    sorted_where,
)


def batch_all(
    distance: tf.Tensor, positive: tf.Tensor, negative: tf.Tensor, margin: float | None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Averages over the active triplets of the batch, or over all with the soft margin.

    Hermans et al. (2017), "batch all", the mean over non-zero terms: with the mean over every
    triplet the signal fades as training goes well. No term of the soft margin is zero.
    """
    triplets = tf.reduce_sum(
        tf.math.count_nonzero(positive, axis=1, dtype=tf.float32)
        * tf.math.count_nonzero(negative, axis=1, dtype=tf.float32)
    )
    if margin is None:
        total, active = _soft_sums(distance, positive, negative)
        return tf.math.divide_no_nan(total, triplets), tf.math.divide_no_nan(active, triplets)
    limit = distance + margin
    # The sum over triplets is one over pairs, each times its triplets: n^2 memory instead of n^3.
    of_positive, of_negative = tf.nest.map_structure(
        tf.stop_gradient,
        tf.cond(
            has_few(positive),
            lambda: _count_one_by_one(distance, limit, positive, negative),
            lambda: _count_by_sorting(distance, limit, positive, negative),
        ),
    )
    active = tf.reduce_sum(of_positive)
    total = tf.reduce_sum(of_positive * limit - of_negative * distance)
    return tf.math.divide_no_nan(total, active), tf.math.divide_no_nan(active, triplets)


def _count_one_by_one(
    distance: tf.Tensor, limit: tf.Tensor, positive: tf.Tensor, negative: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """In how many active triplets each pair is, float32 [n, n]: as the positive, the negative."""

    def step(
        column: tf.Tensor, here: tf.Tensor, of_positive: tf.Tensor, of_negative: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        inside = tf.gather(limit, column, batch_dims=1)[:, None] > distance
        inside &= negative & tf.reduce_any(here, axis=1, keepdims=True)
        inside = tf.cast(inside, tf.float32)
        count = tf.reduce_sum(inside, axis=1, keepdims=True)
        return tf.where(here, count, of_positive), of_negative + inside

    zeros = tf.zeros_like(distance)
    of_positive, of_negative = over_positives(positive, step, [zeros, zeros])
    return of_positive, of_negative


def _count_by_sorting(
    distance: tf.Tensor, limit: tf.Tensor, positive: tf.Tensor, negative: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """The same."""
    nearer = count_below(sorted_where(distance, negative), limit)
    short = count_below(sorted_where(limit, positive), distance, equal=True)
    beyond = tf.math.count_nonzero(positive, axis=1, keepdims=True, dtype=tf.int32) - short
    return (
        tf.where(positive, tf.cast(nearer, tf.float32), 0.0),
        tf.where(negative, tf.cast(beyond, tf.float32), 0.0),
    )


def _soft_sums(
    distance: tf.Tensor, positive: tf.Tensor, negative: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """The sum of the soft margin over all triplets, and how many are active; float32 scalars."""
    fixed = tf.stop_gradient(distance)

    def step(
        column: tf.Tensor, here: tf.Tensor, slope: tf.Tensor, total: tf.Tensor, active: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        gap = tf.gather(fixed, column, batch_dims=1)[:, None] - fixed
        inside = tf.cast(negative & tf.reduce_any(here, axis=1, keepdims=True), tf.float32)
        loss, above = hinge(gap, None)
        by_gap = inside * tf.sigmoid(gap)
        slope += tf.where(here, tf.reduce_sum(by_gap, axis=1, keepdims=True), 0.0) - by_gap
        active += tf.reduce_sum(inside * tf.cast(above, tf.float32))
        return slope, total + tf.reduce_sum(inside * loss), active

    start = [tf.zeros_like(fixed), tf.constant(0.0), tf.constant(0.0)]
    slope, total, active = over_positives(positive, step, start)
    # XLA has no gradient of the loop: a difference that is zero carries the slopes found in it.
    return total + tf.reduce_sum(slope * (distance - fixed)), active
