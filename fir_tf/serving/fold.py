"""The network that is served: the trained one with its batch norms folded into the layers before.

In inference a batch norm is a scale and an offset a channel, which a convolution or a projection
before it can do itself (Jacob et al. 2018, section 3.2). TensorFlow does not fold saved graphs.
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fir_tf.keras_versions import clone_model
from fir_tf.models.batch_norm import FusedBatchNormalization
from fir_tf.models.layers import GroupedConv2D

# Depthwise comes before Conv2D wherever the kinds are asked for one by one.
_CONVOLUTIONS = (keras.layers.DepthwiseConv2D, keras.layers.Conv2D, GroupedConv2D)

# What can do the work of a batch norm behind it.
_FOLDING = (*_CONVOLUTIONS, keras.layers.Dense)

# What computes in bfloat16 on maps; sums over the whole image and what follows stay in float32.
_BFLOAT16 = (
    *_CONVOLUTIONS,
    FusedBatchNormalization,
    keras.layers.Activation,
    keras.layers.Add,
    keras.layers.AveragePooling2D,
    keras.layers.Concatenate,
    keras.layers.MaxPooling2D,
    keras.layers.Multiply,
    keras.layers.ReLU,
    keras.layers.ZeroPadding2D,
)


def inference_model(
    model: keras.Model, fold: bool = True, precision: str = "float32"
) -> keras.Model:
    """Returns a copy of `model` for inference.

    Args:
        model: keras.Model, functional, nested functional models allowed.
        fold: bool, whether batch norms go into the convolution or dense layer before them. Those
            without one (DenseNet's stand before their convolutions) stay.
        precision: "float32", or "bfloat16": convolutions and what stands between them hold
            their weights and compute in bfloat16; pooling of the features, embedding and
            softmax stay float32.

    Returns:
        keras.Model of the same inputs and outputs and new variables. Folded in float32 its
        outputs differ from the original's by rounding (about 1e-6 of their size).
    """
    pairs = _foldable(model) if fold else {}
    absorbed = {id(norm) for norm in pairs.values()}
    copies = {}

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        if isinstance(layer, keras.Model):
            return clone_model(layer, clone, call)
        if id(layer) in absorbed:
            return keras.layers.Identity(name=layer.name)
        config = layer.get_config()
        if id(layer) in pairs:
            config["use_bias"] = True
        if precision == "bfloat16" and isinstance(layer, _BFLOAT16) and _is_map(layer.output):
            config["dtype"] = "bfloat16"
        copies[id(layer)] = type(layer).from_config(config)
        return copies[id(layer)]

    def call(layer: keras.layers.Layer, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        # The recorded call of a batch norm has arguments that an identity does not take.
        identity = isinstance(layer, keras.layers.Identity)
        return inputs if identity else layer(inputs, *args, **kwargs)

    copy = clone_model(model, clone, call)
    for layer in model._flatten_layers(include_self=False):
        if id(layer) in copies and layer.weights:
            norm = pairs.get(id(layer))
            weights = _folded_weights(layer, norm) if norm else layer.get_weights()
            copies[id(layer)].set_weights(weights)
    return copy


def _foldable(model: keras.Model) -> dict[int, keras.layers.Layer]:
    """Returns {id of a layer of `_FOLDING`: the batch norm that alone reads its output}."""
    pairs = {}
    for part in filter(_is_functional, model._flatten_layers()):
        readers: dict[int, list[Any]] = {}
        # An output is read by who has the model.
        for tensor in tf.nest.flatten(part.output):
            readers.setdefault(id(tensor), []).append(part)
        leaves = [layer for layer in part.layers if not isinstance(layer, keras.layers.InputLayer)]
        for layer in leaves:
            for tensor in tf.nest.flatten(layer.input):
                readers.setdefault(id(tensor), []).append(layer)
        for layer in leaves:
            if isinstance(layer, _FOLDING) and _is_linear(layer):
                first, *others = readers.get(id(layer.output), [None])
                if isinstance(first, keras.layers.BatchNormalization) and not others:
                    pairs[id(layer)] = first
    return pairs


def _is_functional(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, keras.Model)


def _is_map(output: Any) -> bool:
    return len(output.shape) == 4


def _is_linear(layer: keras.layers.Layer) -> bool:
    return getattr(layer, "activation", None) in (None, keras.activations.linear)


def _folded_weights(
    layer: keras.layers.Layer, norm: keras.layers.BatchNormalization
) -> list[np.ndarray]:
    """Returns [kernel, bias] of the layer that does its batch norm's work as well."""
    kernel, *biases = (value.astype(np.float64) for value in layer.get_weights())
    mean, variance = (
        np.asarray(value, np.float64) for value in (norm.moving_mean, norm.moving_variance)
    )
    factor = 1.0 / np.sqrt(variance + norm.epsilon)
    if norm.scale:
        factor = factor * np.asarray(norm.gamma, np.float64)
    offset = np.asarray(norm.beta, np.float64) if norm.center else 0.0
    bias = sum(biases) - mean
    # A depthwise kernel ends in [channels, multiplier], which the output channels run through.
    shape = kernel.shape[2:] if isinstance(layer, keras.layers.DepthwiseConv2D) else (-1,)
    return [kernel * factor.reshape(shape), bias * factor + offset]
