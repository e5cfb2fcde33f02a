"""What the samplers and the input pipeline make, at small cost."""

import functools

import tensorflow as tf

from fir_tf.images.decode import decode_and_fit, guarded_rows
from fir_tf.input.augment import DRAWS


def batches_of(sampler, count):
    """The rows [count, size] of the first `count` batches, made in one graph: thousands a second."""
    steps = tf.data.Dataset.range(count).map(sampler).batch(count)
    return steps.get_single_element().numpy()


def guarded(function, contents, shape):
    """Calls `function` on one file as the pipeline does on many: (its result, whether it worked)."""
    values, valid = guarded_rows(function, contents[None], shape)
    return values[0], valid[0]


def preprocess(contents, image_size, resize):
    """Decodes and fits one file: (pixels, zeros for a bad one; whether it is valid)."""
    shape = (image_size, image_size, 3)
    return guarded(lambda file: decode_and_fit(file, image_size, resize), contents, shape)


@functools.cache
def _graph(image_size, resize):
    """`preprocess` as a graph, which takes a second to build."""
    return tf.function(
        lambda contents: preprocess(contents, image_size, resize),
        input_signature=[tf.TensorSpec([], tf.string)],
    )


def preprocessed(contents, image_size, resize):
    """Returns `preprocess` of a file's bytes."""
    return _graph(image_size, resize)(tf.constant(contents))


def cheap_view(contents, draws, config):
    """A view for tests of what surrounds the views: its graph takes a tenth of the time.

    Like the real one it needs every draw, and fails for a file that is broken.
    """
    pixels = tf.image.resize(tf.io.decode_jpeg(contents), [config.image_size] * 2)
    weights = tf.range(1.0, DRAWS + 1.0)
    return pixels * tf.reduce_sum(draws * weights) / tf.reduce_sum(weights)
