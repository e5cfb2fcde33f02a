"""A torch state dict into a Keras model, strictly by name."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import keras
import numpy as np

from fir_tf.errors import FirError
from fir_tf.keras_versions import name_of

if TYPE_CHECKING:
    from fir_tf.models.backbones import Backbone


_SUFFIXES = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def assign_torch(
    model: keras.Model, tensors: Mapping[str, np.ndarray], backbone: "Backbone"
) -> list[str]:
    """Assigns a torch state dict to `model` by name, strictly.

    Every variable gets its tensor, every tensor is used once or is one of the classifier or the
    step counter of a batch normalisation; nothing is assigned before all have been checked.
    Convolution kernels turn from [out, in, h, w] to [h, w, in, out], depthwise ones from
    [channels, 1, h, w] to [h, w, channels, 1].

    Args:
        model: keras.Model of convolutions and batch normalisation.
        tensors: dict of str to np.ndarray.
        backbone: fir_tf.models.backbones.Backbone; `torch_module`, `torch_classifier` and
            `torch_has_biases`.

    Returns:
        list of str, the tensors that were left out.

    Raises:
        FirError: naming each tensor that is missing, left over, of another shape or not finite.
    """
    left = dict(tensors)
    found, missing, wrong, counters = [], [], [], set()
    for layer in model.layers:
        depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
        for variable in layer.weights:
            module, shape = backbone.torch_module(layer.name), tuple(variable.shape)
            own = name_of(variable)
            name = f"{module}.{_SUFFIXES[own]}"
            if own == "bias" and not backbone.torch_has_biases:
                found.append((variable, np.zeros(shape)))
                continue
            if name not in left:
                missing.append(name)
                continue
            value = left.pop(name)
            if own == "kernel" and value.ndim == 4:
                value = np.transpose(value, (2, 3, 0, 1) if depthwise else (2, 3, 1, 0))
            if value.shape != shape:
                wrong.append(f"{name} {value.shape} instead of {shape}")
            elif not np.isfinite(value.astype("float32")).all():
                wrong.append(f"{name} with numbers that are not finite")
            found.append((variable, value))
            counters.add(f"{module}.num_batches_tracked")
    ignored = [name for name in left if name in counters or name in backbone.torch_classifier]
    surplus = [name for name in left if name not in ignored]
    problems = [
        f"{what}: {', '.join(names)}"
        for what, names in (("lacks", missing), ("has unfit", wrong), ("has also", surplus))
        if names
    ]
    if problems:
        raise FirError(f"the state dict {'; '.join(problems)}")
    for variable, value in found:
        variable.assign(value.astype("float32"))
    return ignored
