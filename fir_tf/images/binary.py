"""Parts of a file's bytes, as TensorFlow ops."""

import functools
from collections.abc import Callable

import tensorflow as tf


def traced_once(function: Callable[[tf.Tensor], tf.Tensor]) -> Callable[[tf.Tensor], tf.Tensor]:
    """Makes a function of a file, string scalar, one that all graphs of a process share.

    What reads headers is most of a decoder's graph and the same for every size, crop and signature;
    building it takes a second of a processor.
    """
    signature = [tf.TensorSpec([], tf.string)]
    traced = tf.function(function, input_signature=signature, autograph=False)

    @functools.wraps(function)
    def call(contents: tf.Tensor) -> tf.Tensor:
        return traced(contents)

    return call


def cut(contents: tf.Tensor, position: tf.Tensor, count: tf.Tensor | int) -> tf.Tensor:
    """Cuts a part out of a string; there is no more of it than the string has.

    `tf.strings.substr` fails behind the end, with the string's bytes in its message.

    Args:
        contents: string scalar.
        position: int32 scalar >= 0.
        count: int32 scalar or int >= 0.

    Returns:
        string scalar, at most `count` bytes.
    """
    return tf.strings.substr(contents, tf.minimum(position, tf.strings.length(contents)), count)


def read_bytes(contents: tf.Tensor, position: tf.Tensor, count: tf.Tensor | int) -> tf.Tensor:
    """Reads bytes of a string as numbers.

    Args:
        contents: string scalar.
        position: int32 scalar >= 0.
        count: int32 scalar or int >= 0.

    Returns:
        int32 [count], zeros where the string has ended.
    """
    raw = tf.io.decode_raw(cut(contents, position, count), tf.uint8)
    values = tf.pad(tf.cast(raw, tf.int32), [[0, count - tf.size(raw)]])
    return tf.ensure_shape(values, [count]) if isinstance(count, int) else values


def unsigned(values: tf.Tensor, little_endian: tf.Tensor | bool = False) -> tf.Tensor:
    """Joins bytes to a number.

    Args:
        values: int32 [count], bytes.
        little_endian: bool, or bool scalar tensor.

    Returns:
        int64 scalar.
    """
    values = tf.cast(values, tf.int64)
    values = tf.where(little_endian, values, tf.reverse(values, [0]))
    return tf.reduce_sum(tf.bitwise.left_shift(values, 8 * tf.range(tf.size(values, tf.int64))))
