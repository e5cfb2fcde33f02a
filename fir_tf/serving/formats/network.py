"""The network alone for other runtimes: fitted pixels -> embedding and categories.

Decoding and fitting stay with the caller (`fir_tf.images.decode`, or `fir_tf.serving.client` for a
server), because none of these runtimes has TensorFlow's decoders.
"""

from collections.abc import Callable, Mapping

import keras
import numpy as np
import tensorflow as tf

from fir_tf.evaluation.embedder import Network

OUTPUTS = ("embedding", "category")


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


def as_network(run: Callable[[np.ndarray], Mapping[str, np.ndarray]]) -> Network:
    """Returns a Network of what another runtime makes of float32 [n, s, s, 3]: its `OUTPUTS`."""

    def forward(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        found = run(np.asarray(pixels))
        return {name: tf.constant(found[name]) for name in OUTPUTS}

    return forward
