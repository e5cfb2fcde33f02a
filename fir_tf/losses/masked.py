"""Means and minima over the pairs of a batch that count."""

import tensorflow as tf


def masked_mean(values: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Returns the mean of `values` where `mask` holds, 0 where it holds nowhere."""
    mask = tf.cast(mask, tf.float32)
    return tf.math.divide_no_nan(tf.reduce_sum(values * mask), tf.reduce_sum(mask))


def sorted_negatives(distance: tf.Tensor, negative: tf.Tensor) -> tf.Tensor:
    """Returns each anchor's negative distances in ascending order, infinity behind them."""
    return tf.sort(tf.where(negative, distance, float("inf")), axis=1)
