"""The network alone for other runtimes: fitted pixels -> embedding and categories.

Decoding and fitting stay with the caller (`fir_tf.images.decode`, or `fir_tf.serving.client` for a
server), because none of these runtimes has TensorFlow's decoders.
"""

import tensorflow as tf

from fir_tf.evaluation.embed import make_embedder
from fir_tf.serving.quality import measured, report


def network_function(network, batch=None):
    """Returns a tf.function, `pixels` float32 [batch, s, s, 3] -> embedding and category."""
    shape = [batch, *network.input_shape[1:]]

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32, name="pixels")], autograph=False)
    def forward(pixels):
        outputs = network(pixels, training=False)
        return {name: tf.identity(outputs[name], name) for name in ("embedding", "category")}

    return forward


def compare_files(export, runners):
    """Measures each written file against the model in float32, and prints it.

    Args:
        export: Export.
        runners: {file name: function float32 [n, s, s, 3] -> {"embedding", "category"}}.

    Returns:
        {file name: what `fir_tf.serving.quality.report` returns}.
    """

    def compare(test_set):
        reference = test_set.embed(make_embedder(export.model))
        return {
            name: report(name, test_set.compare(reference, test_set.embed(run)))
            for name, run in runners.items()
        }

    return measured(export.config, export.options.data_dir, compare)
