"""A whole image decoded by the graph, for what is checked, prepared and shown."""

import numpy as np
import tensorflow as tf

from fir_tf.images.decode import decode, halvings
from fir_tf.images.exif import orientation


def decoded(contents: bytes, wanted: float) -> tuple[np.ndarray, int] | None:
    """Decodes an image as training, evaluation, the index and serving do.

    Args:
        contents: bytes, the file.
        wanted: float, pixels that the longest side keeps at least where a JPEG is halved.

    Returns:
        (uint8 [height, width, 3] as stored, its EXIF orientation); None where they would not
        decode it.
    """
    try:
        pixels, turn = _pixels(contents, wanted)
    except tf.errors.OpError:
        return None
    return pixels.numpy(), int(turn)


# Nothing here is for AutoGraph, whose conversion takes seconds at the first image.
@tf.function(
    input_signature=[tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.float32)], autograph=False
)
def _pixels(contents: tf.Tensor, wanted: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    def choose(height: tf.Tensor, width: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        longest = tf.maximum(height, width)
        return tf.stack([0, 0, height, width]), halvings(longest, wanted)

    with tf.device("CPU:0"):
        return decode(contents, choose)[0], orientation(contents)
