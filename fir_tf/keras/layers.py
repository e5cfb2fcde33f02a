"""Layers that hold what a loss learns."""

from typing import Any

import keras
import tensorflow as tf

from fir_tf.checks import check_positive
from fir_tf.errors import FirError
from fir_tf.losses.normface import cosines


@keras.saving.register_keras_serializable(package="fir_tf")
class ClassCentres(keras.layers.Layer):
    """The cosines of embeddings to a learned centre of each class, as losses with centres read.

    float [n, d] becomes float32 [n, classes], whatever the precision of the model. The centres
    are a weight of the model: `fit` trains them, `.keras` files keep them. The embedding model
    without this layer is what is searched with.

    Args:
        classes: int, of the labels, which are 0 to classes - 1.
        **kwargs: of keras.layers.Layer.

    Raises:
        FirError: `classes` is no whole number of at least 1; the input is not [n, d].
    """

    def __init__(self, classes: int, **kwargs: Any) -> None:
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        self.classes = check_positive("classes", classes)

    def build(self, input_shape: Any) -> None:
        """Makes the centres, [classes, d], at random."""
        if len(input_shape) != 2 or input_shape[1] is None:
            raise FirError(
                f"ClassCentres takes embeddings of shape [n, d]. Received: {tuple(input_shape)}"
            )
        self.centres = self.add_weight(
            name="centres",
            shape=(self.classes, input_shape[1]),
            initializer="glorot_uniform",
            trainable=True,
        )
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the cosines, float32 [n, classes]."""
        return cosines(inputs, tf.convert_to_tensor(self.centres))

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, int]:
        """Returns (n, classes)."""
        return (input_shape[0], self.classes)

    def get_config(self) -> dict[str, Any]:
        """Returns what the layer is made again from."""
        return {**super().get_config(), "classes": self.classes}
