"""Cross-entropy over the classes of a label, by the cosine to a learned centre of each."""

import abc
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from fir_tf.keras_versions import make_variable, tensor_of
from fir_tf.losses.loss import ANY, Loss, Scalars, TripletRows
from fir_tf.losses.softmax import accuracy, cross_entropy

SCALE = 20.0
"""The default of `scale`, by which cosines are multiplied: one over Zhai and Wu's temperature."""


def cosines(values: tf.Tensor, centres: tf.Tensor) -> tf.Tensor:
    """Returns float32 [n, classes], the cosines of values [n, d] to centres [classes, d]."""
    values, centres = (
        tf.math.l2_normalize(tf.cast(rows, tf.float32), axis=1) for rows in (values, centres)
    )
    return tf.matmul(values, centres, transpose_b=True)


class ClassCentreLoss(Loss):
    """A loss on the cosines to a learned centre of each class; a subclass has `of_cosines`."""

    sampler = ANY
    has_classes = True

    def build(self, classes: int, width: int) -> list[Any]:
        """Makes the centres, [classes, width], at random."""
        centres = keras.initializers.GlorotUniform()((classes, width))
        name = f"{type(self).__name__.lower()}_centres"
        self._centres = make_variable(np.asarray(centres), name, trainable=True)
        return [self._centres]

    @abc.abstractmethod
    def of_cosines(self, cosine: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """Returns the loss, a float32 scalar.

        Args:
            cosine: float32 [n, classes].
            labels: int32 [n], -1 where unknown.
        """

    def __call__(
        self, values: tf.Tensor, labels: tf.Tensor, triplets: TripletRows | None = None
    ) -> Scalars:
        """Returns the loss and the share of the images nearest to their own class's centre."""
        cosine = cosines(values, tensor_of(self._centres))
        return {
            "loss": self.of_cosines(cosine, labels),
            "centre_accuracy": accuracy(cosine, labels),
        }


class NormFace(ClassCentreLoss):
    """Softmax over the cosines to learned class centres (Wang et al. 2017; Zhai and Wu 2019).

    Options, with their defaults: `scale` (20) and `label_smoothing` (the flag's).
    """

    options = {"scale": "(0, inf)", "label_smoothing": "[0, 1)"}
    default_scale: ClassVar[float] = SCALE

    def with_margin(self, cosine: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """Returns the cosines, made harder for the image's own class: here as they are."""
        return cosine

    def of_cosines(self, cosine: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """Returns the cross-entropy of the scaled cosines."""
        logits = self.option("scale", self.default_scale) * self.with_margin(cosine, labels)
        smoothing = self.option("label_smoothing", self.settings.label_smoothing)
        return cross_entropy(logits, labels, smoothing)[0]
