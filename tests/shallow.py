"""Backbones with one block in each stage: the same kinds of layers, in a third of the time.

For tests in which the depth of the network is not the point. There are no weights that fit, so
`--weights=none` goes with it; models saved meanwhile load anywhere.
"""

import contextlib
import functools
import importlib
from pathlib import Path
from unittest import mock

# ResNets and SE-ResNe(X)ts of two stages, where the network does not matter at all.
TWO_STAGES = (1, 1)
# To stand before the code of a process of its own.
CODE = f"""
from fir_tf.models import senet
senet._BLOCKS = {TWO_STAGES}
"""
TWO_LAYERS = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from shallow import build_two_layers
from fir_tf.models import fir
from fir_tf.training import from_config
fir.build_backbone = from_config.build_backbone = build_two_layers
"""


@contextlib.contextmanager
def shallow_backbones(stages=(1,) * 4):
    """Shortens EfficientNet-Lite0, DenseNet-121 and what `fir_tf.models.senet` builds.

    Args:
        stages: tuple of int, the blocks of each stage of the latter.
    """
    import keras

    from fir_tf.keras_versions import KERAS_2
    from fir_tf.models import efficientnet_lite, senet

    # What takes the numbers of blocks is in no public module.
    densenet = importlib.import_module(keras.applications.DenseNet121.__module__).DenseNet
    # Keras 2 names it by its depth.
    named = {} if KERAS_2 else {"name": "densenet121"}
    short = functools.partial(densenet, (1,) * 4, **named)
    with (
        mock.patch.object(efficientnet_lite, "_REPEATS", (1,) * 7),
        mock.patch.object(keras.applications, "DenseNet121", short),
        mock.patch.object(senet, "_BLOCKS", stages),
    ):
        yield


@contextlib.contextmanager
def two_layer_backbones():
    """Has every backbone built by `build_two_layers`."""
    from fir_tf.models import fir
    from fir_tf.training import from_config

    with (
        mock.patch.object(fir, "build_backbone", build_two_layers),
        mock.patch.object(from_config, "build_backbone", build_two_layers),
    ):
        yield


def build_two_layers(name, image_size, weights, last_stride=2):
    """Stands for fir_tf's build_backbone, with names of ResNet's: a convolution and batch norm."""
    import keras

    from fir_tf.models.batch_norm import FusedBatchNormalization

    images = keras.Input((image_size, image_size, 3))
    kernel = keras.initializers.GlorotUniform(seed=1)
    conv = keras.layers.Conv2D(8, 5, strides=8, kernel_initializer=kernel, name="layer1.0.conv1")
    maps = FusedBatchNormalization(name="layer1.0.bn1")(conv(images))
    return keras.Model(images, maps, name=name)
