"""DenseNet-121 as keras.applications has it: the torch network of Huang et al. (2017)."""

import re

import keras

from fir_tf.models.applications import build_application
from fir_tf.models.backbones import Backbone
from fir_tf.models.pretrained import KERAS_APPLICATIONS, Weights
from fir_tf.models.surgery import rebuilt


def build_densenet121(input_shape: tuple[int, int, int]) -> keras.Model:
    """Builds Keras' own, whose transitions pool first and convolve then.

    An average and a 1x1 convolution can change places. Behind the pooling it has a quarter of the
    work: 8 % less for the whole network.

    Args:
        input_shape: tuple (height, width, 3).

    Returns:
        keras.Model from normalised images to the last feature map.
    """
    model = build_application(keras.applications.DenseNet121, input_shape)

    def make(layer: keras.layers.Layer) -> keras.layers.Layer:
        place = re.fullmatch("(pool[234]_)(conv|pool)", layer.name)
        if place:
            layer = model.get_layer(place[1] + {"conv": "pool", "pool": "conv"}[place[2]])
        return type(layer).from_config(layer.get_config())

    return rebuilt(model, make)


def torch_module(layer_name: str) -> str:
    """Names torch's module for a layer.

    "conv3_block1_1_bn" is "features.denseblock2.denselayer1.norm2".
    """
    ends = {"conv1_conv": "conv0", "conv1_bn": "norm0", "bn": "norm5"}
    if layer_name in ends:
        return f"features.{ends[layer_name]}"
    transition = re.fullmatch(r"pool(\d)_(conv|bn)", layer_name)
    if transition:
        stage, kind = transition.groups()
        return f"features.transition{int(stage) - 1}.{'conv' if kind == 'conv' else 'norm'}"
    ((stage, block, part),) = re.findall(r"^conv(\d)_block(\d+)_(\d_\w+)$", layer_name)
    part = {"0_bn": "norm1", "1_conv": "conv1", "1_bn": "norm2", "2_conv": "conv2"}[part]
    return f"features.denseblock{int(stage) - 1}.denselayer{block}.{part}"


DENSENET121 = Backbone(
    "DenseNet-121",
    build_densenet121,
    1024,
    ("conv1_", "conv2_|pool2_", "conv3_|pool3_", "conv4_|pool4_", "conv5_|bn"),
    Weights(
        source="keras.applications (the torch network of Huang et al. 2017)",
        file="densenet121_weights_tf_dim_ordering_tf_kernels_notop.h5",
        checksum="md5:30ee3e1110167f948a6b9946edeeb738",
        licence="BSD-3-Clause",
        top1=75.0,
        url=f"{KERAS_APPLICATIONS}/densenet",
    ),
    torch_module=torch_module,
    torch_classifier=("classifier.weight", "classifier.bias"),
    momentum=0.9,
)
