"""The backbones by name."""

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras

from fir_tf.errors import FirError
from fir_tf.keras_versions import without_slashes
from fir_tf.models.efficientnet_lite import build_efficientnet_lite0, torch_module
from fir_tf.models.layers import PixelNormalisation, rebuilt, with_faster_layers
from fir_tf.models.pretrained import WEIGHTS, Weights
from fir_tf.models.pretrained.assign import densenet121_module, resnet50_module
from fir_tf.models.pretrained.load import load_file, load_imagenet
from fir_tf.models.senet import build_senet

STAGES = ("stem", "stage1", "stage2", "stage3", "stage4")
"""The parts of every backbone: the stem, then what computes at 1/4, 1/8, 1/16, 1/32 of the size."""


@dataclass(frozen=True)
class Backbone:
    """A network without its classifier.

    Attributes:
        name: str, also the key of its ImageNet weights in `pretrained.WEIGHTS`.
        build: callable from an input shape (height, width, 3) to a keras.Model with random
            weights, from normalised float images to the last feature map
            [batch, h', w', features].
        features: int, channels of the last feature map.
        stages: five regular expressions, one for each of `STAGES`; the name of each layer with
            variables starts with a match of exactly one of them.
        torch_module: callable from a layer's name to the name of the module in a torch state dict.
        torch_classifier: tuple of str, the tensors of a torch state dict that belong to the
            classifier.
        torch_has_biases: bool, whether biases of the Keras network are in the state dict;
            otherwise they are zero.
        torch_refusal: str, why a torch state dict is not loaded without being asked twice; empty
            where its names and shapes tell that it fits.
        momentum: float, share of the old value in a moving statistic, where keras.applications
            has another than torch's networks were trained with; None keeps the builder's.
    """

    name: str
    build: Callable[[tuple[int, int, int]], keras.Model]
    features: int
    stages: tuple[str, str, str, str, str]
    torch_module: Callable[[str], str] = str
    torch_classifier: tuple[str, ...] = ("fc.weight", "fc.bias")
    torch_has_biases: bool = True
    torch_refusal: str = ""
    momentum: float | None = None

    @property
    def weights(self) -> Weights:
        """pretrained.Weights; their normalisation holds for random weights too."""
        return WEIGHTS[self.name]

    def stage_of(self, layer_name: str) -> int:
        """Returns the index in `STAGES` of the part that a layer belongs to."""
        (stage,) = (number for number, part in enumerate(self.stages) if re.match(part, layer_name))
        return stage


def _build_application(build, input_shape):
    return without_slashes(build(include_top=False, weights=None, input_shape=input_shape))


def _build_densenet121(input_shape):
    """Keras' own, whose transitions pool first and convolve then.

    An average and a 1x1 convolution can change places. Behind the pooling it has a quarter of the
    work: 8 % less for the whole network.
    """
    model = _build_application(keras.applications.DenseNet121, input_shape)

    def make(layer):
        place = re.fullmatch("(pool[234]_)(conv|pool)", layer.name)
        if place:
            layer = model.get_layer(place[1] + {"conv": "pool", "pool": "conv"}[place[2]])
        return type(layer).from_config(layer.get_config())

    return rebuilt(model, make)


def _senet(name, stem, **values):
    stages = (stem, *(rf"layer{number}\." for number in range(1, 5)))
    return Backbone(name, functools.partial(build_senet, name), 2048, stages, **values)


BACKBONES = {
    backbone.name: backbone
    for backbone in (
        Backbone(
            "resnet50",
            functools.partial(_build_application, keras.applications.ResNet50),
            2048,
            ("conv1_", "conv2_", "conv3_", "conv4_", "conv5_"),
            torch_module=resnet50_module,
            # The batch normalisation behind each convolution makes them superfluous.
            torch_has_biases=False,
            torch_refusal="its names and shapes do not tell where a ResNet50 has its strides. "
            "torchvision's and timm's have them on the 3x3 convolutions, which is "
            "--backbone=resnet50_v15; this one has them on the first 1x1 convolutions",
            momentum=0.9,
        ),
        _senet("resnet50_v15", "conv1|bn1"),
        Backbone(
            "densenet121",
            _build_densenet121,
            1024,
            ("conv1_", "conv2_|pool2_", "conv3_|pool3_", "conv4_|pool4_", "conv5_|bn"),
            torch_module=densenet121_module,
            torch_classifier=("classifier.weight", "classifier.bias"),
            momentum=0.9,
        ),
        _senet(
            "seresnet50",
            r"layer0\.",
            torch_classifier=("last_linear.weight", "last_linear.bias"),
        ),
        _senet("seresnet50_v15", "conv1|bn1"),
        _senet(
            "seresnext50",
            r"layer0\.",
            torch_classifier=("last_linear.weight", "last_linear.bias"),
        ),
        _senet("seresnext50_v15", "conv1|bn1"),
        Backbone(
            "efficientnet_lite0",
            build_efficientnet_lite0,
            1280,
            ("stem_|block1", "block2", "block3", "block[45]", "block[67]|top_"),
            torch_module=torch_module,
            torch_classifier=("_fc.weight", "_fc.bias"),
        ),
    )
}
"""dict of str to Backbone. A further backbone is one more entry, here and in
`pretrained.WEIGHTS`."""


def get_backbone(name: str) -> Backbone:
    """Returns the Backbone of that name.

    Raises:
        FirError: listing the names, if there is none.
    """
    try:
        return BACKBONES[name]
    except (KeyError, TypeError):
        raise FirError(
            f"`backbone` must be one of {', '.join(BACKBONES)}. Received: {name!r}"
        ) from None


def normalisation(name: str) -> PixelNormalisation:
    """Returns a new layer from RGB pixels in [0, 255] to what backbone `name` expects.

    Args:
        name: str, a key of `BACKBONES`.

    Returns:
        fir_tf.models.layers.PixelNormalisation, float32 also under mixed precision.

    Raises:
        FirError: for an unknown name.
    """
    wanted = get_backbone(name).weights.normalisation
    return PixelNormalisation(wanted.mean, wanted.std, wanted.bgr, name="normalisation")


def build_backbone(
    name: str, image_size: int | tuple[int, int], weights: str | Path | None = "imagenet"
) -> keras.Model:
    """Builds a backbone of the faster layers, see `fir_tf.models.layers.with_faster_layers`.

    Random weights depend on `keras.utils.set_random_seed` only.

    Args:
        name: str, a key of `BACKBONES`.
        image_size: int, or (height, width), of at least 32 pixels.
        weights: "imagenet", the path of a weights file (see `pretrained.load.load_file`), or None
            or "none" for random ones.

    Returns:
        keras.Model named `name`, from normalised images (see `normalisation`), float
        [batch, height, width, 3], to the last feature map, [batch, h', w', features] in the
        compute type of the current Keras policy.

    Raises:
        FirError: for an unknown name, a size too small, or weights that cannot be loaded.
    """
    backbone = get_backbone(name)
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
    if weights == "imagenet":
        load_imagenet(model, backbone)
    elif weights not in (None, "none"):
        load_file(model, backbone, weights)
    return with_faster_layers(model, backbone.momentum)


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


def freeze_stages(model: keras.Model, freeze: int | str) -> int:
    """Keeps the first stages of a backbone as they are, statistics of batch normalisation too.

    Args:
        model: keras.Model as `build_backbone` returns it.
        freeze: see `stage_count`.

    Returns:
        int, the number of layers with variables that are frozen.

    Raises:
        FirError: for a stage there is none of.
    """
    backbone, count = get_backbone(model.name), stage_count(freeze)
    frozen = [
        layer for layer in model.layers if layer.weights and backbone.stage_of(layer.name) < count
    ]
    for layer in frozen:
        layer.trainable = False
    return len(frozen)
