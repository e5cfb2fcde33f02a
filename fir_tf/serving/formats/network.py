"""The network alone for other runtimes: fitted pixels -> embedding and categories.

Decoding and fitting stay with the caller (`fir_tf.images.decode`, or `fir_tf.serving.client` for a
server), because none of these runtimes has TensorFlow's decoders.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from fir_tf.evaluation.embedder import OUTPUTS, Network
from fir_tf.serving.formats import Export, Measures
from fir_tf.serving.formats.int8 import int8_photos
from fir_tf.serving.quality import compare_networks


def network_function(
    network: keras.Model, batch: int | None = None
) -> tf.types.experimental.GenericFunction:
    """Returns a tf.function, `pixels` float32 [batch, s, s, 3] -> embedding and category."""
    shape = [batch, *network.input_shape[1:]]

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32, name="pixels")], autograph=False)
    def forward(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = network(pixels, training=False)
        return {name: tf.identity(outputs[name], name) for name in OUTPUTS}

    return forward


def write_network(
    export: Export,
    folder: Path,
    name: str,
    convert: Callable[[keras.Model, Path, Sequence[np.ndarray]], Network],
) -> Measures:
    """Writes a network of another runtime in the precision that is asked for, and measures it.

    Args:
        export: Export.
        folder: Path, created.
        name: str, what the network in float32 is called.
        convert: function of (keras.Model, folder, photos that ranges are read off, none for
            float32) that writes it and returns what runs it.

    Raises:
        FirError: as `convert`, for int8 also as `int8_photos`.
    """
    if export.options.precision == "int8":
        network = convert(export.network, folder, int8_photos(export))
        return compare_networks(export, {"int8": network}, "val")
    return compare_networks(export, {name: convert(export.network, folder, ())})
