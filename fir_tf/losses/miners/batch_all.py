"""The miner `all`."""

import tensorflow as tf

from fir_tf.losses.masked import sorted_negatives


def batch_all(
    distance: tf.Tensor, positive: tf.Tensor, negative: tf.Tensor, margin: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """Averages over the active triplets of the batch.

    Hermans et al. (2017), "batch all", the mean over non-zero terms: with the mean over every
    triplet the signal fades as training goes well.
    """
    # Per positive: the negatives inside its margin are a prefix of the sorted ones, so counts
    # and prefix sums give the sum over all triplets in n^2 memory instead of n^3.
    ordered = sorted_negatives(distance, negative)
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
