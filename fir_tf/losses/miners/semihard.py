"""The miner `semihard`."""

import tensorflow as tf

from fir_tf.losses.masked import masked_mean, sorted_negatives


def semihard(
    distance: tf.Tensor, positive: tf.Tensor, negative: tf.Tensor, margin: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """Takes for each pair the nearest negative that is farther than the positive.

    Or the farthest negative where there is none (Schroff et al. 2015); mean over pairs.
    """
    ordered = sorted_negatives(distance, negative)
    count = tf.reduce_sum(tf.cast(negative, tf.int32), axis=1, keepdims=True)
    beyond = tf.searchsorted(tf.stop_gradient(ordered), tf.stop_gradient(distance), side="right")
    chosen = tf.clip_by_value(tf.minimum(beyond, count - 1), 0, tf.shape(distance)[1] - 1)
    usable = positive & (count > 0)
    ordered = tf.where(tf.math.is_finite(ordered), ordered, 0.0)
    hinge = tf.nn.relu(margin + distance - tf.gather(ordered, chosen, batch_dims=1))
    return masked_mean(hinge, usable), masked_mean(tf.cast(hinge > 0, tf.float32), usable)
