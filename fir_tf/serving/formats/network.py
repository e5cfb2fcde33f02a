"""The network alone for other runtimes: fitted pixels -> embedding and categories.

Decoding and fitting stay with the caller (`fir_tf.images.decode`, or `fir_tf.serving.client` for a
server), because none of these runtimes has TensorFlow's decoders.
"""

import keras
import tensorflow as tf

from fir_tf.evaluation.embedder import OUTPUTS


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
