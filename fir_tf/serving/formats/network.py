"""The network alone for other runtimes: fitted pixels -> embedding and categories.

Decoding and fitting stay with the caller (`fir_tf.images.decode`, or `fir_tf.serving.client` for a
server), because none of these runtimes has TensorFlow's decoders.
"""

import tensorflow as tf


def network_function(network, batch=None):
    """Returns a tf.function, `pixels` float32 [batch, s, s, 3] -> embedding and category."""
    shape = [batch, *network.input_shape[1:]]

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32, name="pixels")], autograph=False)
    def forward(pixels):
        outputs = network(pixels, training=False)
        return {name: tf.identity(outputs[name], name) for name in ("embedding", "category")}

    return forward
