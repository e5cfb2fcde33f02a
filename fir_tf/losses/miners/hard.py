"""The miner `hard`."""

import tensorflow as tf

from fir_tf.losses.masked import masked_mean


def hard(
    distance: tf.Tensor, positive: tf.Tensor, negative: tf.Tensor, margin: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """Takes each anchor's farthest positive and nearest negative.

    Hermans et al. (2017), "batch hard"; mean over anchors.
    """
    far = tf.reduce_max(tf.where(positive, distance, 0.0), axis=1)
    near = tf.reduce_min(tf.where(negative, distance, float("inf")), axis=1)
    usable = tf.reduce_any(positive, axis=1) & tf.reduce_any(negative, axis=1)
    hinge = tf.nn.relu(margin + far - tf.where(usable, near, 0.0))
    return masked_mean(hinge, usable), masked_mean(tf.cast(hinge > 0, tf.float32), usable)
