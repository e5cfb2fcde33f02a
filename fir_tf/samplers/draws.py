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


def distinct(seeds: tf.Tensor, length: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """Draws without replacement, Floyd's way, for several groups side by side.

    Args:
        seeds: int32 [slots, 2].
        length: int32 [n], numbers to draw from: those below it.
        count: int32 [n], numbers to draw, at most `length` and `slots`.

    Returns:
        int32 [n, slots]: the first `count` of each row are different numbers below `length`.
    """
    drawn: list[tf.Tensor] = []
    for slot in range(seeds.shape[0]):
        top = tf.maximum(length - count + slot, slot)
        pick = integers(seeds[slot], length.shape, top + 1)
        if drawn:
            taken = tf.reduce_any(tf.stack(drawn) == pick, axis=0)
            pick = tf.where(taken, top, pick)
        drawn.append(pick)
    return tf.stack(drawn, axis=1)


def shuffled(position: tf.Tensor, seed: tf.Tensor, count: int) -> tf.Tensor:
    """Positions in a random permutation of range(count).

    `index_shuffle` needs no table, but its cipher is far from uniform on small ranges (on 62
    places it never brings some numbers to some places); there a sort of random keys is cheap.
    """
    if count <= _SORT_MAX:
        keys = tf.random.stateless_uniform([count], seed, None, None, tf.int32)
        return tf.gather(tf.argsort(keys, stable=True), position)
    return tf.random.experimental.index_shuffle(position, seed, count - 1)
