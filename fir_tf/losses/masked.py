"""Means over the pairs of a batch that count, and passes over its positives."""

from collections.abc import Callable, Sequence

import tensorflow as tf

FEW = 32
"""int, how many positives of an anchor are looked at one by one: sorting is faster for more."""


def masked_mean(values: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Returns the mean of `values` where `mask` holds, 0 where it holds nowhere."""
    mask = tf.cast(mask, tf.float32)
    return tf.math.divide_no_nan(tf.reduce_sum(values * mask), tf.reduce_sum(mask))


def sorted_where(values: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Returns each row's values where `mask` holds in ascending order, infinity behind them."""
    return tf.sort(tf.where(mask, values, float("inf")), axis=1)


def has_few(positive: tf.Tensor) -> tf.Tensor:
    """Returns whether no anchor has more than `FEW` positives, of bool [n, n]."""
    return tf.reduce_all(tf.math.count_nonzero(positive, axis=1) <= FEW)


def over_positives(
    positive: tf.Tensor,
    step: Callable[..., Sequence[tf.Tensor]],
    state: Sequence[tf.Tensor],
) -> Sequence[tf.Tensor]:
    """Goes through the positives of all anchors at once, one of each at a time.

    Plain maxima and sums over [n, n], which XLA compiles well, unlike sorting and searching.

    Args:
        positive: bool [n, n].
        step: function of (column, here, *state) that returns the next state: int32 [n], the
            column of a positive of each anchor, and bool [n, n], where that is, nowhere for
            anchors that have had all of theirs.
        state: tensors that it begins with.

    Returns:
        the last state.
    """
    count = tf.shape(positive)[0]
    columns = tf.range(count)
    places = tf.where(positive, columns, count)

    def turn(column: tf.Tensor, *state: tf.Tensor) -> Sequence[tf.Tensor]:
        here = columns == column[:, None]
        state = tuple(step(tf.minimum(column, count - 1), here, *state))
        return (following(column), *state)

    def following(column: tf.Tensor) -> tf.Tensor:
        return tf.reduce_min(tf.where(places > column[:, None], places, count), axis=1)

    _, *last = tf.while_loop(
        lambda column, *_: tf.reduce_any(column < count),
        turn,
        (following(tf.fill([count], -1)), *state),
    )
    return last
