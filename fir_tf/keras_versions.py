"""What Keras 2 and Keras 3 do differently: the one place that knows which of them is there.

TensorFlow 2.15 with Keras 2 is the last pair that tensorflow-addons runs on; TensorFlow 2.18 and
later come with Keras 3 (docs/packages.md). Everything else is written in what both have.
"""

import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fir_tf.errors import FirError

KERAS_2 = keras.__version__.startswith("2.")
"""bool, whether this is Keras 2."""

# A layer's variable, which has no class that both share, and an optimizer.
Variable = Any
Optimizer = Any

if KERAS_2:
    # Dropout then draws from a generator whose state can be saved, as in Keras 3.
    keras.backend.experimental.enable_tf_random_generator()


def tensor_of(variable: Variable) -> tf.Variable:
    """Returns the tf.Variable of a layer's variable, which Keras 3 wraps."""
    return variable if KERAS_2 else variable.value


def name_of(variable: Variable) -> str:
    """Returns Keras 3's name of a variable in its layer, str such as "kernel"."""
    return variable.name.split("/")[-1].removesuffix(":0").removeprefix("depthwise_")


def path_of(variable: Variable) -> str:
    """Returns the name of a model's variable with those of its layers, str."""
    return variable.name if KERAS_2 else variable.path


def without_slashes(model: keras.Model) -> keras.Model:
    """Gives the layers of a model the names of Keras 3, which has no "/" in them; returns it."""
    for layer in model.layers:
        if "/" in layer.name:
            layer._name = layer.name.replace("/", "_")
    return model


def layer_of(tensor: tf.Tensor) -> keras.layers.Layer:
    """Returns the layer of a functional model that a symbolic tensor comes from."""
    history = tensor._keras_history
    return history.layer if KERAS_2 else history.operation


def calls_of(model: keras.Model) -> list[tuple[keras.layers.Layer, list[Any], list[Any]]]:
    """Returns what a functional model does, in an order it can be done in.

    Args:
        model: keras.Model.

    Returns:
        list of (layer, list of symbolic tensors it reads, list of those it puts out), without
        the inputs of the model.
    """
    depths = sorted(model._nodes_by_depth.items(), reverse=True)
    nodes = [node for _, found in depths for node in found if not node.is_input]
    if KERAS_2:
        return [(node.layer, node.keras_inputs, tf.nest.flatten(node.outputs)) for node in nodes]
    return [(node.operation, node.input_tensors, node.output_tensors) for node in nodes]


def make_variable(
    value: np.ndarray, name: str, trainable: bool = False, dtype: str = "float32"
) -> Variable:
    """Returns a variable beside a model's own.

    Args:
        value: numpy array, what it holds at first.
        name: str.
        trainable: bool, whether a gradient tape is to watch it.
        dtype: str, a number's type.
    """
    kind = tf.Variable if KERAS_2 else keras.Variable
    return kind(value, dtype=dtype, trainable=trainable, name=name)


def random_states(model: keras.Model) -> list[Any]:
    """Returns the states of a model's dropout layers, which Keras leaves out of checkpoints.

    Args:
        model: keras.Model; nested models are entered.

    Returns:
        list of objects that tf.train.Checkpoint saves.
    """
    if not KERAS_2:
        return [variable for variable in model.variables if "seed_generator" in variable.path]
    drawing = [layer for layer in model._flatten_layers() if hasattr(layer, "_random_generator")]
    return [layer._random_generator._generator for layer in drawing]


def seed_variables(model: keras.Model) -> list[tf.Variable]:
    """Returns the variables that a model's layers draw by, see `random_states`."""
    states = random_states(model)
    return [state.state if KERAS_2 else state.value for state in states]


def clone_model(
    model: keras.Model,
    clone: Callable[[keras.layers.Layer], keras.layers.Layer],
    call: Callable[..., tf.Tensor],
) -> keras.Model:
    """Copies a functional model layer by layer.

    Args:
        model: keras.Model.
        clone: callable from a layer to the new one in its place.
        call: callable (new layer, inputs, *args, **kwargs) -> outputs, for Keras 3, which hands a
            layer the arguments that the one before it was called with. Keras 2 calls the new
            layers by themselves.

    Returns:
        keras.Model of the new layers, connected as in `model`.
    """
    if KERAS_2:
        return keras.models.clone_model(model, clone_function=clone)
    return keras.models.clone_model(model, clone_function=clone, call_function=call)


class _Keras2Adam(keras.optimizers.Adam):
    """Keras 2's Adam with the methods of Keras 3's."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, jit_compile=False, **kwargs)

    def scale_loss(self, loss: tf.Tensor) -> tf.Tensor:
        return loss

    def apply(self, gradients: Sequence[tf.Tensor], variables: Sequence[Variable]) -> None:
        pairs = zip(gradients, variables, strict=True)
        self.apply_gradients(pairs, skip_gradients_aggregation=True)

    def _update_step(self, gradient: tf.Tensor, variable: Variable) -> None:
        self.update_step(gradient, variable, self.learning_rate)

    def _get_variable_index(self, variable: Variable) -> int:
        return self._index_dict[self._var_key(variable)]


Adam: Any = _Keras2Adam if KERAS_2 else keras.optimizers.Adam
"""keras.optimizers.Adam, to be given an `update_step(gradient, variable, learning_rate)`; its
`build`, `scale_loss` and `apply` are Keras 3's."""


class _Rows(keras.losses.Loss):
    """Weighs and reduces what a loss found for each row."""

    def call(self, y_true: Any, y_pred: tf.Tensor) -> tf.Tensor:
        return y_pred


class _Keras3RowLoss(keras.losses.Loss):
    """Hands labels on as they are: as float32, Keras 3's choice, 16777217 is 16777216."""

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> tf.Tensor:
        with tf.name_scope(self.name):
            rows = self.call(y_true, y_pred)
            if rows.shape == (0,) and self.reduction not in (None, "none"):
                # Keras leaves an empty batch without a number.
                return tf.reduce_sum(rows)
            return _Rows(reduction=self.reduction, dtype="float32")(rows, rows, sample_weight)


RowLoss: Any = keras.losses.Loss if KERAS_2 else _Keras3RowLoss
"""keras.losses.Loss whose `call` gets the labels in their own type and returns float32 [n]."""


def with_loss_scale(optimizer: Optimizer) -> Optimizer:
    """Returns an optimizer that scales the loss dynamically, for float16.

    Args:
        optimizer: `Adam`, not built yet.
    """
    if not KERAS_2:
        return keras.optimizers.LossScaleOptimizer(optimizer)
    scaled = keras.mixed_precision.LossScaleOptimizer(optimizer)

    def apply(gradients: Sequence[tf.Tensor], variables: Sequence[Variable]) -> None:
        pairs = zip(scaled.get_unscaled_gradients(gradients), variables, strict=True)
        scaled.apply_gradients(pairs, skip_gradients_aggregation=True)

    # Keras 2 makes the object of a class of its own choice.
    scaled.scale_loss, scaled.apply = scaled.get_scaled_loss, apply
    return scaled


def stack() -> str:
    """Returns the packages that a saved model depends on, "Keras 3.15.1 (TensorFlow 2.21.0)"."""
    return f"Keras {keras.__version__} (TensorFlow {tf.__version__})"


def check_saved_by(version: str, what: object) -> None:
    """Refuses what the other Keras wrote.

    Args:
        version: str, the Keras that wrote it; "" where that is not known.
        what: str, the file or folder, for the message.

    Raises:
        FirError: naming both and what to do.
    """
    if version and version.startswith("2.") != KERAS_2:
        extra = "pip install '.[addons]'" if version.startswith("2.") else "pip install ."
        raise FirError(
            f"{what} was written with Keras {version}, and this is {stack()}, which cannot read "
            f"it. Use an environment with Keras {version.split('.')[0]} ({extra}), or train "
            "again here. An exported SavedModel serves in both"
        )


def saved_version(path: str | Path) -> str:
    """Returns the Keras version that wrote a `.keras` file, str, "" if it does not say."""
    try:
        with zipfile.ZipFile(path) as archive:
            return str(json.loads(archive.read("metadata.json"))["keras_version"])
    # Damaged in one of many ways: Keras' own reader says which.
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, TypeError):
        return ""
