"""ResNet-50 and SE-ResNe(X)t-50 as their weights in torch have them.

Hu, Shen, Sun, *Squeeze-and-Excitation Networks* (2018), table 2 and figure 3; Xie et al.,
*Aggregated Residual Transformations for Deep Neural Networks* (2017), table 1. There are two
lines of descent, and each weights file fits the one it was trained in:

- the authors' Caffe networks, ported to torch (timm's `legacy_seresnet50` and
  `legacy_seresnext50_32x4d`): the paper's time. The pooling of the stem has windows reaching over
  the bottom and right edge, and SE-ResNet-50 its strides on the first 1x1 convolutions;
- torchvision's layout, called v1.5 (torchvision's `resnet50`, timm's `seresnet50` and
  `seresnext50_32x4d`): pooling padded all around, strides on the 3x3 convolutions.

A layer here bears the name of its module there.
"""

import dataclasses
import functools
from typing import Any

import keras
import tensorflow as tf

from fir_tf.models.backbones import Backbone
from fir_tf.models.batch_norm import FusedBatchNormalization
from fir_tf.models.layers import GroupedConv2D
from fir_tf.models.pretrained import TIMM, TORCHVISION, Weights

_BLOCKS = (3, 4, 6, 3)
_REDUCTION = 16


@dataclasses.dataclass(frozen=True)
class _Layout:
    """What distinguishes the networks of this module.

    Attributes:
        groups: int, groups of the 3x3 convolutions; 32 is ResNeXt's, with twice the width.
        stride_on_3x3: bool, otherwise on the first 1x1 convolution of a block.
        stem: str, prefix of the stem's layers.
        ceil_pool: bool, whether the stem's pooling is not padded but reaches over the edge.
        excitation: str, name of a block's squeeze-and-excitation; empty for none.
    """

    groups: int = 1
    stride_on_3x3: bool = True
    stem: str = ""
    ceil_pool: bool = False
    excitation: str = "se"


_CAFFE = _Layout(stride_on_3x3=False, stem="layer0.", ceil_pool=True, excitation="se_module")


def _build(layout: _Layout, input_shape: tuple[int, int, int]) -> keras.Model:
    images = keras.Input(input_shape, name="images")
    x = _convolution(images, 64, 7, f"{layout.stem}conv1", strides=2)
    x = _batch_norm(x, f"{layout.stem}bn1")
    x = keras.layers.ReLU(name=f"{layout.stem}relu1")(x)
    # Of what is never negative, a zero beside the edge never wins over the pixels of a window.
    margin = [(1, 1), (1, 1)]
    if layout.ceil_pool:
        margin = [(0, (side - 3) % 2) for side in x.shape[1:3]]
    x = keras.layers.ZeroPadding2D(margin, name="pool0.pad")(x)
    x = keras.layers.MaxPooling2D(3, 2, name="pool0")(x)
    for stage, blocks in enumerate(_BLOCKS):
        for block in range(blocks):
            x = _bottleneck(
                x,
                layout,
                planes=64 * 2**stage,
                strides=2 if stage and not block else 1,
                project=not block,
                name=f"layer{stage + 1}.{block}",
            )
    return keras.Model(images, x)


def _bottleneck(
    inputs: tf.Tensor, layout: _Layout, planes: int, strides: int, project: bool, name: str
) -> tf.Tensor:
    first, second = (1, strides) if layout.stride_on_3x3 else (strides, 1)
    width = planes if layout.groups == 1 else 2 * planes
    x = _convolution(inputs, width, 1, f"{name}.conv1", strides=first)
    x = _batch_norm(x, f"{name}.bn1")
    x = keras.layers.ReLU(name=f"{name}.relu1")(x)
    x = _convolution(x, width, 3, f"{name}.conv2", strides=second, groups=layout.groups)
    x = _batch_norm(x, f"{name}.bn2")
    x = keras.layers.ReLU(name=f"{name}.relu2")(x)
    x = _convolution(x, 4 * planes, 1, f"{name}.conv3")
    x = _batch_norm(x, f"{name}.bn3")
    if layout.excitation:
        x = _squeeze_excite(x, f"{name}.{layout.excitation}")
    shortcut = inputs
    if project:
        shortcut = _convolution(inputs, 4 * planes, 1, f"{name}.downsample.0", strides=strides)
        shortcut = _batch_norm(shortcut, f"{name}.downsample.1")
    x = keras.layers.Add(name=f"{name}.add")([x, shortcut])
    return keras.layers.ReLU(name=f"{name}.relu")(x)


def _squeeze_excite(x: tf.Tensor, name: str) -> tf.Tensor:
    channels = x.shape[-1]
    gate = keras.layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}.mean")(x)
    reduced = keras.layers.Conv2D(
        channels // _REDUCTION, 1, kernel_initializer=_he(), name=f"{name}.fc1"
    )
    gate = keras.layers.ReLU(name=f"{name}.relu")(reduced(gate))
    gate = keras.layers.Conv2D(channels, 1, kernel_initializer=_he(), name=f"{name}.fc2")(gate)
    gate = keras.layers.Activation("sigmoid", name=f"{name}.sigmoid")(gate)
    return keras.layers.Multiply(name=f"{name}.multiply")([x, gate])


def _convolution(
    x: tf.Tensor, filters: int, kernel_size: int, name: str, strides: int = 1, groups: int = 1
) -> tf.Tensor:
    """A convolution padded with zeros all around, as torch does."""
    padding = "same"
    if kernel_size > 1 and strides > 1:
        # TensorFlow's own padding of a strided convolution is lopsided on even sizes.
        x = keras.layers.ZeroPadding2D(kernel_size // 2, name=f"{name}.pad")(x)
        padding = "valid"
    kind: Any = functools.partial(GroupedConv2D, groups=groups)
    return (kind if groups > 1 else keras.layers.Conv2D)(
        filters,
        kernel_size,
        strides=strides,
        padding=padding,
        use_bias=False,
        kernel_initializer=_he(),
        name=name,
    )(x)


def _he() -> keras.initializers.Initializer:
    """Returns the initialiser of He et al. (2015), over the outputs."""
    return keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")


def _batch_norm(x: tf.Tensor, name: str) -> tf.Tensor:
    # torch's momentum of 0.1 is the weight of the new value, Keras' that of the old one.
    return FusedBatchNormalization(epsilon=1e-5, momentum=0.9, name=name)(x)


def _senet(description: str, layout: _Layout, weights: Weights, classifier: str = "fc") -> Backbone:
    """A Backbone of one of the layouts."""
    stem = layout.stem or "conv1|bn1"
    stages = (stem, *(f"layer{number}." for number in range(1, 5)))
    return Backbone(
        description,
        functools.partial(_build, layout),
        2048,
        tuple(stage.replace(".", r"\.") for stage in stages),
        weights,
        torch_classifier=(f"{classifier}.weight", f"{classifier}.bias"),
        # The stride is on one of the two, the other has none.
        last_strides=r"layer4\.0\.(conv[12]|downsample\.0)",
    )


RESNET50_V15 = _senet(
    "ResNet-50 with its strides on the 3x3 convolutions, as torchvision has it",
    _Layout(excitation=""),
    Weights(
        source="torchvision (resnet50, IMAGENET1K_V1)",
        file="resnet50-0676ba61.pth",
        checksum="sha256:0676ba61",
        licence="BSD-3-Clause",
        top1=76.130,
        url=TORCHVISION,
    ),
)
SERESNET50 = _senet(
    "SE-ResNet-50, the authors' Caffe network",
    _CAFFE,
    Weights(
        source="timm legacy_seresnet50.in1k (the Caffe network of Hu et al. 2018)",
        file="se_resnet50-ce0d4300.pth",
        checksum="sha256:ce0d4300",
        licence="Apache-2.0",
        top1=77.644,
        url=f"{TIMM}/v0.1-cadene",
    ),
    classifier="last_linear",
)
SERESNET50_V15 = _senet(
    "SE-ResNet-50 with its strides on the 3x3 convolutions, trained later and longer",
    _Layout(),
    Weights(
        source="timm seresnet50.ra2_in1k",
        file="seresnet50_ra_224-8efdb4bb.pth",
        checksum="sha256:8efdb4bb",
        licence="Apache-2.0",
        image_size=288,
        crop=0.95,
        interpolation="bicubic",
        top1=81.284,
        url=f"{TIMM}/v0.1-weights",
    ),
)
SERESNEXT50 = _senet(
    "SE-ResNeXt-50 (32x4d), the authors' Caffe network",
    dataclasses.replace(_CAFFE, groups=32, stride_on_3x3=True),
    Weights(
        source="timm legacy_seresnext50_32x4d.in1k (the Caffe network of Hu et al. 2018)",
        file="legacy_se_resnext50_32x4d-f3651bad.pth",
        checksum="sha256:f3651bad",
        licence="Apache-2.0",
        top1=79.076,
        url=f"{TIMM}/v0.1-weights",
    ),
    classifier="last_linear",
)
SERESNEXT50_V15 = _senet(
    "SE-ResNeXt-50 (32x4d) in torchvision's layout, trained later and longer",
    _Layout(groups=32),
    Weights(
        source="timm seresnext50_32x4d.racm_in1k",
        file="seresnext50_32x4d_racm-a304a460.pth",
        checksum="sha256:a304a460",
        licence="Apache-2.0",
        image_size=288,
        crop=0.95,
        interpolation="bicubic",
        top1=82.196,
        url=f"{TIMM}/v0.1-weights",
    ),
)
