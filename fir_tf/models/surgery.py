"""Models with other layers in the places of theirs."""

import re
from collections.abc import Callable

import keras
import tensorflow as tf

from fir_tf.models.batch_norm import FusedBatchNormalization


def rebuilt(
    model: keras.Model, make: Callable[[keras.layers.Layer], keras.layers.Layer]
) -> keras.Model:
    """Returns a functional copy of `model` with other layers in its places.

    Args:
        model: keras.Model, functional or of a subclass built as one, without nested models.
        make: callable from a layer of `model` to the new layer that takes its place. All together
            they have variables of the same shapes in the same order as those of `model`.

    Returns:
        keras.Model with the same values in its variables.
    """
    # A backbone of keras-cv would be rebuilt from its own arguments if it were cloned as it is.
    plain = keras.Model(model.input, model.output, name=model.name)
    images = keras.Input(plain.input.shape[1:], dtype=plain.input.dtype, name=plain.layers[0].name)
    copy = keras.models.clone_model(plain, input_tensors=images, clone_function=make)
    copy.set_weights(plain.get_weights())
    return copy


def without_strides(model: keras.Model, layers: str) -> keras.Model:
    """Returns a functional copy of `model` some of whose convolutions compute at every place.

    Args:
        model: keras.Model, see `rebuilt`.
        layers: str, regular expression that the whole names of these layers match.
    """

    def make(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        if re.fullmatch(layers, layer.name):
            config["strides"] = 1
        return type(layer).from_config(config)

    return rebuilt(model, make)


def with_faster_layers(model: keras.Model, momentum: float | None = None) -> keras.Model:
    """Returns a functional copy of `model` that computes the same in less time.

    Batch normalisation is fused. Depthwise convolutions of a model in bfloat16 are in float32
    where they will run on a CPU: their gradients there take twice as long in bfloat16
    (benchmarks/README.md, "Training step").

    Args:
        model: keras.Model, see `rebuilt`.
        momentum: float, that of all batch normalisation in the copy; None keeps each layer's.

    Returns:
        keras.Model of new layers with the same names and the same values in their variables;
        every stock `keras.layers.BatchNormalization` has become a `FusedBatchNormalization`.
    """
    on_cpu = not (tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("TPU"))

    def make(layer: keras.layers.Layer) -> keras.layers.Layer:
        kind = type(layer)
        kind = FusedBatchNormalization if kind is keras.layers.BatchNormalization else kind
        config = layer.get_config()
        if momentum is not None and kind is FusedBatchNormalization:
            config["momentum"] = momentum
        if kind is keras.layers.DepthwiseConv2D and layer.compute_dtype == "bfloat16" and on_cpu:
            config["dtype"] = "float32"
        return kind.from_config(config)

    return rebuilt(model, make)
