"""ArcFace: class centres with a margin of the angle (Deng et al. 2019)."""

import math

import tensorflow as tf

from fir_tf.losses.normface import NormFace


class ArcFace(NormFace):
    """Softmax over cosines to class centres, the own angle plus a margin (Deng et al. 2019).

    As `normface` with `cos(angle + margin)`, in radians, in place of the own class's cosine (its
    Equation 3). Beyond the angle pi - margin, where that would rise again, it is
    `cos(angle) - margin sin(margin)`, as in the authors' code: it falls over all angles.

    Options, with their defaults: `scale` (30), `margin` (0.5) and `label_smoothing` (the flag's).
    """

    # Far beyond a right angle the second formula would begin above the first one's end.
    options = {**NormFace.options, "margin": "[0, 1.57] radians"}
    default_scale = 30.0

    def with_margin(self, cosine: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """Returns the cosines, that of the own angle plus the margin."""
        margin = self.option("margin", 0.5)
        own = tf.gather(cosine, tf.maximum(labels, 0)[:, None], batch_dims=1)
        square = 1.0 - tf.square(own)
        # The root's slope is infinite at 0, and what is less is float32's error at a cosine of 1.
        safe = square > 1e-6
        sine = tf.where(safe, tf.sqrt(tf.where(safe, square, 1.0)), 0.0)
        turned = tf.where(
            own > -math.cos(margin),
            own * math.cos(margin) - sine * math.sin(margin),
            own - margin * math.sin(margin),
        )
        is_own = tf.one_hot(labels, tf.shape(cosine)[1], on_value=True, off_value=False)
        return tf.where(is_own, turned, cosine)
