"""Random draws that depend on a seed alone."""

from collections.abc import Sequence

import tensorflow as tf

_SORT_MAX = 4096


def integers(seed: tf.Tensor, shape: Sequence[int], high: tf.Tensor | int) -> tf.Tensor:
    """Uniform integers in [0, high); `high` may be a tensor that broadcasts to `shape`."""
    high = tf.cast(high, tf.int32)
    fraction = tf.random.stateless_uniform(shape, seed, dtype=tf.float64)
    value = tf.cast(fraction * tf.cast(high, tf.float64), tf.int32)
    return tf.clip_by_value(value, 0, tf.maximum(high - 1, 0))


def shuffled(position: tf.Tensor, seed: tf.Tensor, count: int) -> tf.Tensor:
    """Positions in a random permutation of range(count).

    `index_shuffle` needs no table, but its cipher is far from uniform on small ranges (on 62
    places it never brings some numbers to some places); there a sort of random keys is cheap.
    """
    if count <= _SORT_MAX:
        keys = tf.random.stateless_uniform([count], seed, None, None, tf.int32)
        return tf.gather(tf.argsort(keys, stable=True), position)
    return tf.random.experimental.index_shuffle(position, seed, count - 1)
