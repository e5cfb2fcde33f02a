"""ResNet-50 as keras.applications has it: the Caffe network of He et al. (2015)."""

import functools
import re

import keras

from fir_tf.models.applications import build_application
from fir_tf.models.backbones import Backbone
from fir_tf.models.pretrained import KERAS_APPLICATIONS, Normalisation, Weights


def torch_module(layer_name: str) -> str:
    """Names torch's module for a layer: "conv3_block1_0_bn" is "layer2.0.downsample.1"."""
    if layer_name in ("conv1_conv", "conv1_bn"):
        return {"conv1_conv": "conv1", "conv1_bn": "bn1"}[layer_name]
    pattern = r"^conv(\d)_block(\d)_(\d)_(conv|bn)$"
    ((stage, block, number, kind),) = re.findall(pattern, layer_name)
    part = f"downsample.{int(kind == 'bn')}" if number == "0" else f"{kind}{number}"
    return f"layer{int(stage) - 1}.{int(block) - 1}.{part}"


RESNET50 = Backbone(
    "ResNet-50 with its strides on the first 1x1 convolutions, as in the paper's time",
    functools.partial(build_application, keras.applications.ResNet50),
    2048,
    ("conv1_", "conv2_", "conv3_", "conv4_", "conv5_"),
    Weights(
        source="keras.applications (the Caffe network of He et al. 2015)",
        file="resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
        checksum="md5:4d473c1dd8becc155b73f8504c6f6626",
        licence="MIT",
        # BGR with the mean subtracted.
        normalisation=Normalisation((103.939, 116.779, 123.68), (1.0, 1.0, 1.0), bgr=True),
        top1=74.9,
        url=f"{KERAS_APPLICATIONS}/resnet",
    ),
    torch_module=torch_module,
    # The batch normalisation behind each convolution makes them superfluous.
    torch_has_biases=False,
    torch_refusal="its names and shapes do not tell where a ResNet50 has its strides. "
    "torchvision's and timm's have them on the 3x3 convolutions, which is "
    "--backbone=resnet50_v15; this one has them on the first 1x1 convolutions",
    momentum=0.9,
    last_strides="conv5_block1_[01]_conv",
)
