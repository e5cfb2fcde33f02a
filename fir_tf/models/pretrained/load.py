"""Weights from files into models: all of a file fits, or none of it is used."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import keras
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file as read_safetensors

from fir_tf.errors import FirError
from fir_tf.models.pretrained import imagenet_weights
from fir_tf.models.pretrained.assign import assign_torch
from fir_tf.models.pretrained.download import imagenet_file
from fir_tf.models.surgery import with_faster_layers
from fir_tf.models.torch_file import read_torch_file

if TYPE_CHECKING:
    from fir_tf.models.backbones import Backbone


TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")


def load_imagenet(model: keras.Model, backbone: "Backbone") -> None:
    """Puts the ImageNet weights of a backbone into `model`.

    Args:
        model: keras.Model as `backbone.build` returns it.
        backbone: fir_tf.models.backbones.Backbone.

    Raises:
        FirError: if they cannot be had, saying what to do instead.
    """
    weights = imagenet_weights(model.name, backbone.weights)
    load_file(model, backbone, imagenet_file(weights))


def load_file(model: keras.Model, backbone: "Backbone", path: str | Path) -> None:
    """Puts the weights of a file into `model`; all of them fit or none is used.

    Args:
        model: keras.Model as `backbone.build` returns it.
        backbone: fir_tf.models.backbones.Backbone.
        path: str or Path: `.weights.h5` as `save_weights` of the backbone or the converter writes
            it (with or without the fused batch normalisation), `.h5` as keras.applications has
            it, without the classifier, or a torch state dict of a network of the same layout,
            `.safetensors` or `.pth`.

    Raises:
        FirError: naming `path`, if it is missing, of another kind or of another network.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FirError(f'`weights` must be "imagenet", "none" or a file. Received: no file {path}')
    if path.suffix in TORCH_SUFFIXES:
        if backbone.torch_refusal:
            raise FirError(f"cannot load {path} into {model.name}: {backbone.torch_refusal}")
        load_torch(model, backbone, path)
    elif path.suffix == ".h5":
        _load_h5(model, path)
    else:
        raise FirError(
            f"`weights` must be a .weights.h5, .h5, .safetensors or .pth file. Received: {path}"
        )


def load_torch(model: keras.Model, backbone: "Backbone", path: str | Path) -> list[str]:
    """Puts a torch state dict into `model`, taking the layout on trust where it does not show.

    Args:
        model: keras.Model as `backbone.build` returns it, or its copy with fused batch
            normalisation.
        backbone: fir_tf.models.backbones.Backbone.
        path: str or Path of a `.safetensors` or torch file.

    Returns:
        list of str, the tensors that were left out: the classifier's and torch's step counters.

    Raises:
        FirError: naming `path` and each tensor that is missing, left over or of another shape.
    """
    path = Path(path).expanduser()
    try:
        return assign_torch(model, _read_tensors(path), backbone)
    except FirError as error:
        raise FirError(f"cannot load {path} into {model.name}: {error}") from error


def _read_tensors(path: Path) -> Mapping[str, np.ndarray]:
    if path.suffix != ".safetensors":
        return read_torch_file(path)
    try:
        return read_safetensors(path)
    # The reader names a type that numpy lacks by a KeyError or TypeError.
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise FirError(
            "it is not a whole safetensors file of numbers numpy knows "
            f"({type(error).__name__}: {error})"
        ) from error


def _load_h5(model: keras.Model, path: Path) -> None:
    try:
        with h5py.File(path) as file:
            groups = file.get("layers", {})
            fused = any(name.startswith("fused_batch") for name in groups)
            saved = _count_datasets(groups)
        # Keras passes over layers the file has nothing for, with a warning only.
        if path.name.endswith(".weights.h5") and saved != len(model.weights):
            raise ValueError(f"it has {saved} variables, {len(model.weights)} are expected")
        # Keras addresses the variables in a .weights.h5 file by their layers' class names, so
        # they can only be read into layers of the classes that wrote them.
        reader = with_faster_layers(model) if fused else model
        reader.load_weights(str(path))
    # h5py and Keras raise OSError, KeyError and ValueError for the many ways not to fit.
    except Exception as error:
        raise FirError(
            f"cannot load {path} into {model.name}: it is not a weights file of this network "
            f"without its classifier ({type(error).__name__}: {str(error):.300})"
        ) from error
    if reader is not model:
        model.set_weights(reader.get_weights())


def _count_datasets(group: h5py.Group | h5py.Dataset) -> int:
    """Number of saved variables; the random state of a Dropout is none of the weights."""
    if isinstance(group, h5py.Dataset):
        return 1
    return sum(_count_datasets(group[name]) for name in group if name != "seed_generator")
