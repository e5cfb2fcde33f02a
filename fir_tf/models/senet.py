"""SE-ResNet-50 and SE-ResNeXt-50 (32x4d), with squeeze-and-excitation of reduction 16.

Hu, Shen, Sun, *Squeeze-and-Excitation Networks* (2018), table 2 and figure 3; Xie et al.,
*Aggregated Residual Transformations for Deep Neural Networks* (2017), table 1. They follow the
authors' Caffe networks and their ports to torch (`legacy_seresnet50` and
`legacy_seresnext50_32x4d` of timm), padding and all, so that those weights give those features:
a layer here bears the name of its module there.
"""

import keras

from fir_tf.models.layers import FusedBatchNormalization, GroupedConv2D

_BLOCKS = (3, 4, 6, 3)
_REDUCTION = 16


def build_seresnet50(input_shape):
    """Builds SE-ResNet-50: the stride sits on a block's first 1x1 convolution.

    Args:
        input_shape: tuple (height, width, 3).

    Returns:
        keras.Model from normalised images, float [batch, height, width, 3], to the last feature
        map, [batch, about height / 32, about width / 32, 2048].
    """
    return _build("seresnet50", input_shape, groups=1, width_of=lambda planes: planes)


def build_seresnext50(input_shape):
    """Builds SE-ResNeXt-50 32x4d: the stride sits on a block's grouped 3x3 convolution.

    Args:
        input_shape: tuple (height, width, 3).

    Returns:
        keras.Model as `build_seresnet50`.
    """
    return _build("seresnext50", input_shape, groups=32, width_of=lambda planes: planes * 2)


def _build(name, input_shape, groups, width_of):
    images = keras.Input(input_shape, name="images")
    x = _convolution(images, 64, 7, "layer0.conv1", strides=2)
    x = _batch_norm(x, "layer0.bn1")
    x = keras.layers.ReLU(name="layer0.relu1")(x)
    # torch's ceil_mode: windows may reach over the bottom and right edge. After ReLU a zero
    # there never wins over the pixels of the window that do exist.
    bottom, right = ((side - 3) % 2 for side in x.shape[1:3])
    x = keras.layers.ZeroPadding2D(((0, bottom), (0, right)), name="pool0.pad")(x)
    x = keras.layers.MaxPooling2D(3, 2, name="pool0")(x)
    for stage, blocks in enumerate(_BLOCKS):
        planes = 64 * 2**stage
        for block in range(blocks):
            x = _bottleneck(
                x,
                width_of(planes),
                4 * planes,
                groups,
                strides=2 if stage and not block else 1,
                project=not block,
                name=f"layer{stage + 1}.{block}",
            )
    return keras.Model(images, x, name=name)


def _bottleneck(inputs, width, features, groups, strides, project, name):
    first, second = (strides, 1) if groups == 1 else (1, strides)
    x = _convolution(inputs, width, 1, f"{name}.conv1", strides=first)
    x = _batch_norm(x, f"{name}.bn1")
    x = keras.layers.ReLU(name=f"{name}.relu1")(x)
    x = _convolution(x, width, 3, f"{name}.conv2", strides=second, groups=groups)
    x = _batch_norm(x, f"{name}.bn2")
    x = keras.layers.ReLU(name=f"{name}.relu2")(x)
    x = _convolution(x, features, 1, f"{name}.conv3")
    x = _batch_norm(x, f"{name}.bn3")
    x = _squeeze_excite(x, f"{name}.se_module")
    shortcut = inputs
    if project:
        shortcut = _convolution(inputs, features, 1, f"{name}.downsample.0", strides=strides)
        shortcut = _batch_norm(shortcut, f"{name}.downsample.1")
    x = keras.layers.Add(name=f"{name}.add")([x, shortcut])
    return keras.layers.ReLU(name=f"{name}.relu")(x)


def _squeeze_excite(x, name):
    channels = x.shape[-1]
    gate = keras.layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}.mean")(x)
    gate = _convolution(gate, channels // _REDUCTION, 1, f"{name}.fc1", use_bias=True)
    gate = keras.layers.ReLU(name=f"{name}.relu")(gate)
    gate = _convolution(gate, channels, 1, f"{name}.fc2", use_bias=True)
    gate = keras.layers.Activation("sigmoid", name=f"{name}.sigmoid")(gate)
    return keras.layers.Multiply(name=f"{name}.multiply")([x, gate])


def _convolution(x, filters, kernel_size, name, strides=1, groups=1, use_bias=False):
    """A convolution padded with zeros all around, as torch does.

    TensorFlow's own "same" padding of a strided convolution is lopsided on even sizes.
    """
    if kernel_size > 1:
        x = keras.layers.ZeroPadding2D(kernel_size // 2, name=f"{name}.pad")(x)
    options = {
        "strides": strides,
        "use_bias": use_bias,
        # He et al. 2015, over the outputs.
        "kernel_initializer": keras.initializers.VarianceScaling(
            2.0, "fan_out", "untruncated_normal"
        ),
        "name": name,
    }
    if groups > 1:
        return GroupedConv2D(filters, kernel_size, groups, **options)(x)
    return keras.layers.Conv2D(filters, kernel_size, **options)(x)


def _batch_norm(x, name):
    # torch's momentum of 0.1 is the weight of the new value, Keras' that of the old one.
    return FusedBatchNormalization(epsilon=1e-5, momentum=0.9, name=name)(x)
