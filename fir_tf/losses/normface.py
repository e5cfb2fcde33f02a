"""Cross-entropy over the classes of a label, by the cosine to a learned centre of each."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fir_tf.keras_versions import make_variable, tensor_of
from fir_tf.losses.loss import ANY, Loss
from fir_tf.losses.softmax import cross_entropy

SCALE = 20.0
"""The default of `scale`, by which cosines are multiplied: one over Zhai and Wu's temperature."""


def cosines(values: tf.Tensor, centres: tf.Tensor) -> tf.Tensor:
    """Returns float32 [n, classes], the cosines of values [n, d] to centres [classes, d]."""
    values, centres = (
        tf.math.l2_normalize(tf.cast(rows, tf.float32), axis=1) for rows in (values, centres)
    )
    return tf.matmul(values, centres, transpose_b=True)


class NormFace(Loss):
    """Softmax over the cosines to learned class centres (Wang et al. 2017; Zhai and Wu 2019)."""

    output = "embedding"
    options = {"scale": "(0, inf)", "label_smoothing": "[0, 1)"}
    sampler = ANY
    has_classes = True

    def build(self, classes: int, width: int) -> list[Any]:
        """Makes the centres, [classes, width], at random."""
        centres = keras.initializers.GlorotUniform()((classes, width))
        self._centres = make_variable(np.asarray(centres), "normface_centres", trainable=True)
        return [self._centres]

    def __call__(
        self,
        values: tf.Tensor,
        labels: tf.Tensor,
        triplets: tuple[slice, slice, slice] | None = None,
    ) -> dict[str, tf.Tensor]:
        """Returns the loss and the share of the images nearest to their own class's centre."""
        cosine = cosines(values, tensor_of(self._centres))
        smoothing = self.option("label_smoothing", self.settings.label_smoothing)
        loss, accuracy = cross_entropy(self.option("scale", SCALE) * cosine, labels, smoothing)
        return {"loss": loss, "centre_accuracy": accuracy}
