"""What a backbone is, and how one is built by its name, loaded and partly frozen."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras

from fir_tf import registry
from fir_tf.errors import FirError
from fir_tf.models.layers import PixelNormalisation
from fir_tf.models.pretrained import IMAGENET, Normalisation, Weights
from fir_tf.models.pretrained.load import load_file, load_imagenet
from fir_tf.models.surgery import with_faster_layers, without_strides

STAGES = ("stem", "stage1", "stage2", "stage3", "stage4")
"""The parts of every backbone: the stem, then what computes at 1/4, 1/8, 1/16, 1/32 of the size."""


@dataclass(frozen=True)
class Backbone:
    """A network without its classifier.

    Attributes:
        description: str, one line for lists.
        build: callable from an input shape (height, width, 3) to a keras.Model with random
            weights, from normalised float images to the last feature map
            [batch, h', w', features].
        features: int, channels of the last feature map.
        stages: five regular expressions, one for each of `STAGES`; the name of each layer with
            variables starts with a match of exactly one of them.
        weights: Weights, of ImageNet; None where there are none.
        torch_module: callable from a layer's name to the name of the module in a torch state dict.
        torch_classifier: tuple of str, the tensors of a torch state dict that belong to the
            classifier.
        torch_has_biases: bool, whether biases of the Keras network are in the state dict;
            otherwise they are zero.
        torch_refusal: str, why a torch state dict is not loaded without being asked twice; empty
            where its names and shapes tell that it fits.
        momentum: float, share of the old value in a moving statistic, where keras.applications
            has another than torch's networks were trained with; None keeps the builder's.
        last_strides: str, regular expression of the names of the layers that halve the map where
            the last stage begins, all of them convolutions that do the same at every place where
            their strides are 1; empty where the network cannot do without.
    """

    description: str
    build: Callable[[tuple[int, int, int]], keras.Model]
    features: int
    stages: tuple[str, ...]
    weights: Weights | None = None
    torch_module: Callable[[str], str] = str
    torch_classifier: tuple[str, ...] = ("fc.weight", "fc.bias")
    torch_has_biases: bool = True
    torch_refusal: str = ""
    momentum: float | None = None
    last_strides: str = ""

    @property
    def normalisation(self) -> Normalisation:
        """What is done to the pixels, for random weights too: what the ImageNet weights expect."""
        return self.weights.normalisation if self.weights else IMAGENET

    def stage_of(self, layer_name: str) -> int:
        """Returns the index in `STAGES` of the part that a layer belongs to."""
        (stage,) = (number for number, part in enumerate(self.stages) if re.match(part, layer_name))
        return stage


def normalisation(name: str) -> PixelNormalisation:
    """Returns a new layer from RGB pixels in [0, 255] to what backbone `name` expects.

    Args:
        name: str, a registered backbone's.

    Returns:
        fir_tf.models.layers.PixelNormalisation, float32 also under mixed precision.

    Raises:
        FirError: for an unknown name.
    """
    wanted = registry.get("backbone", name).normalisation
    return PixelNormalisation(wanted.mean, wanted.std, wanted.bgr, name="normalisation")


def build_backbone(
    name: str,
    image_size: int | tuple[int, int],
    weights: str | Path | None = "imagenet",
    last_stride: int = 2,
) -> keras.Model:
    """Builds a backbone of the faster layers, see `fir_tf.models.surgery.with_faster_layers`.

    Random weights depend on `keras.utils.set_random_seed` only.

    Args:
        name: str, a registered backbone's.
        image_size: int, or (height, width), of at least 32 pixels.
        weights: "imagenet", the path of a weights file (see `pretrained.load.load_file`), or None
            or "none" for random ones.
        last_stride: int, 1 or 2: what the last stage divides the side of the map by; 1 leaves the
            last map at 1/16 of the image's size (Luo et al. 2019, section 3.4). The weights are the
            same.

    Returns:
        keras.Model named `name`, from normalised images (see `normalisation`), float
        [batch, height, width, 3], to the last feature map, [batch, h', w', features] in the
        compute type of the current Keras policy.

    Raises:
        FirError: for an unknown name, a size too small, weights that cannot be loaded, or a last
            stride of 1 where the backbone has no such thing.
    """
    backbone = registry.get("backbone", name)
    _check_last_stride(name, backbone, last_stride)
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    try:
        height, width = (int(side) for side in size)
    except (TypeError, ValueError):
        height = width = 0
    if min(height, width) < 32:
        raise FirError(
            "`image_size` must be a number of pixels, 32 or more, or (height, width). "
            f"Received: {image_size!r}"
        )
    model = backbone.build((height, width, 3))
    if model.name != name:
        model = keras.Model(model.input, model.output, name=name)
    if weights == "imagenet":
        load_imagenet(model, backbone)
    elif weights not in (None, "none"):
        load_file(model, backbone, weights)
    if last_stride == 1:
        model = without_strides(model, backbone.last_strides)
    return with_faster_layers(model, backbone.momentum)


def _check_last_stride(name: str, backbone: Backbone, last_stride: int) -> None:
    if last_stride not in (1, 2):
        raise FirError(f"`last_stride` must be 1 or 2. Received: {last_stride!r}")
    if last_stride == 1 and not backbone.last_strides:
        known = registry.names("backbone")
        able = [other for other in known if registry.get("backbone", other).last_strides]
        raise FirError(
            f"`last_stride` must be 2 with the backbone {name}; it can be 1 with "
            f"{', '.join(able)}. Received: 1"
        )


def stage_count(freeze: int | str) -> int:
    """Returns how many of `STAGES` are meant by `freeze`.

    Args:
        freeze: int from 0 (none) to 5 (all), or a name in `STAGES`: up to and including it.

    Raises:
        FirError: for anything else.
    """
    if freeze in STAGES:
        return STAGES.index(freeze) + 1
    if type(freeze) is int and 0 <= freeze <= len(STAGES):
        return freeze
    raise FirError(
        f"`freeze` must be a number from 0 to {len(STAGES)} or one of {', '.join(STAGES)}. "
        f"Received: {freeze!r}"
    )


def freeze_stages(model: keras.Model, backbone: Backbone, freeze: int | str) -> int:
    """Keeps the first stages of a backbone as they are, statistics of batch normalisation too.

    Args:
        model: keras.Model as `build_backbone` returns it.
        backbone: Backbone that it was built from.
        freeze: see `stage_count`.

    Returns:
        int, the number of layers with variables that are frozen.

    Raises:
        FirError: for a stage there is none of.
    """
    count = stage_count(freeze)
    frozen = [
        layer for layer in model.layers if layer.weights and backbone.stage_of(layer.name) < count
    ]
    for layer in frozen:
        layer.trainable = False
    return len(frozen)
