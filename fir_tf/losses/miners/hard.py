"""The miner `hard`."""

import tensorflow as tf

from fir_tf.losses.masked import hinge, masked_mean


def hardest(
    distance: tf.Tensor, positive: tf.Tensor, negative: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns each anchor's distances to its farthest positive and nearest negative.

    Args:
        distance: float32 [n, n].
        positive: bool [n, n], whether column and row are of one label, but not one image.
        negative: bool [n, n], whether they are of two labels.

    Returns:
        (far, near): float32 [n] each, -infinity and infinity where there is none.
    """
    far = tf.reduce_max(tf.where(positive, distance, float("-inf")), axis=1)
    near = tf.reduce_min(tf.where(negative, distance, float("inf")), axis=1)
    return far, near


def hard(
    distance: tf.Tensor, positive: tf.Tensor, negative: tf.Tensor, margin: float | None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Takes each anchor's farthest positive and nearest negative.

    Hermans et al. (2017), "batch hard"; mean over anchors.
    """
    far, near = hardest(distance, positive, negative)
    usable = ~(tf.math.is_inf(far) | tf.math.is_inf(near))
    # Where one is infinite the gradient of the soft margin would be no number.
    loss, active = hinge(tf.where(usable, far, 0.0) - tf.where(usable, near, 0.0), margin)
    return masked_mean(loss, usable), masked_mean(tf.cast(active, tf.float32), usable)
