"""CosFace: class centres with a margin of the cosine (Wang et al. 2018)."""

import tensorflow as tf

from fir_tf.losses.normface import NormFace


class CosFace(NormFace):
    """Softmax over cosines to class centres, the own one less a margin (Wang et al. 2018).

    `-log(exp(scale (cos_y - margin)) / (exp(scale (cos_y - margin)) + sum_j exp(scale cos_j)))`
    with y the image's class and j the others (its Equation 4); the mean over images.

    Options, with their defaults: `scale` (30), `margin` (0.35) and `label_smoothing` (the flag's).
    """

    options = {**NormFace.options, "margin": "[0, inf)"}
    default_scale = 30.0

    def with_margin(self, cosine: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """Returns the cosines, those to the own centre less the margin."""
        return cosine - tf.one_hot(
            labels, tf.shape(cosine)[1], on_value=self.option("margin", 0.35), off_value=0.0
        )
