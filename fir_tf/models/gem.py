"""Generalised-mean pooling, between the average and the largest value (Radenovic et al. 2018)."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fir_tf.models.layers import Shape

_LEAST = 1e-6


@keras.saving.register_keras_serializable(package="fir_tf")
class GeneralisedMeanPooling2D(keras.layers.Layer):
    """The generalised mean of a feature map over its places, its exponent learned.

    For the values x of a channel at the places X, `(mean over X of x^p)^(1/p)` (Radenovic, Tolias,
    Chum, *Fine-tuning CNN Image Retrieval with No Human Annotation*, 2018, Equation 3): the average
    for p = 1, towards the largest value for large p. What is learned is log p, so p stays above 0.
    Values below 1e-6 count as 1e-6 and get no gradient.

    Args:
        by_channel: bool, whether each channel has an exponent of its own; otherwise all share one.
        exponent: float above 0, what p starts from; 3 as in the paper.
        dtype: str, that of the layer; float32 also under mixed precision.
        **kwargs: those of `keras.layers.Layer`.

    Input: float [batch, height, width, channels], such as a ReLU's. Output: float32
    [batch, channels].
    """

    def __init__(
        self, by_channel: bool = False, exponent: float = 3.0, dtype: str = "float32", **kwargs: Any
    ) -> None:
        super().__init__(dtype=dtype, **kwargs)
        self.by_channel = bool(by_channel)
        self.exponent = float(exponent)

    def build(self, input_shape: Shape) -> None:
        """Makes the logarithm of the exponent."""
        self.log_exponent = self.add_weight(
            shape=(input_shape[-1],) if self.by_channel else (1,),
            initializer=keras.initializers.Constant(float(np.log(self.exponent))),
            name="log_exponent",
        )
        self.built = True

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Pools a batch of feature maps."""
        log_exponent = tf.cast(self.log_exponent, tf.float32)
        # Powers are taken as exp(p log x - largest): none overflows, and no whole-number runtime
        # has to divide by what it has rounded to 0.
        logs = tf.math.log(tf.maximum(tf.cast(inputs, tf.float32), _LEAST)) * tf.exp(log_exponent)
        largest = tf.stop_gradient(tf.reduce_max(logs, (1, 2), keepdims=True))
        mean = tf.reduce_mean(tf.exp(logs - largest), (1, 2))
        return tf.exp((tf.math.log(mean) + largest[:, 0, 0]) * tf.exp(-log_exponent))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """[batch, channels]."""
        return (input_shape[0], input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        """The arguments, as Keras saves them."""
        own = {"by_channel": self.by_channel, "exponent": self.exponent}
        return {**super().get_config(), **own}


def gem(features: tf.Tensor) -> tf.Tensor:
    """Takes the generalised mean, GeM, with one learned exponent (Radenovic et al. 2018)."""
    return GeneralisedMeanPooling2D(name="features")(features)


def gem_channels(features: tf.Tensor) -> tf.Tensor:
    """Takes the generalised mean, GeM, with a learned exponent for each channel."""
    return GeneralisedMeanPooling2D(by_channel=True, name="features")(features)
