"""Means and sums over the pairs of a batch that count, margins, and passes over its positives."""

from collections.abc import Callable, Sequence

import tensorflow as tf

FEW = 32
"""int, how many positives of an anchor are looked at one by one: sorting is faster for more."""


def masked_mean(values: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Returns the mean of `values` where `mask` holds, 0 where it holds nowhere."""
    mask = tf.cast(mask, tf.float32)
    return tf.math.divide_no_nan(tf.reduce_sum(values * mask), tf.reduce_sum(mask))


def hinge(gap: tf.Tensor, margin: float | None) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns (loss, active), float32 and bool, of how much farther positives are than negatives.

    Args:
        gap: float32, the distance to a positive less that to a negative.
        margin: float, of `max(0, margin + gap)`; None for the soft margin `log(1 + exp(gap))`
            (Hermans et al. 2017, Section 2), which is above zero everywhere: active is then what
            has the positive farther than the negative.
    """
    if margin is None:
        return tf.math.softplus(gap), gap > 0
    above = margin + gap
    return tf.nn.relu(above), above > 0


def log_sum_exp(values: tf.Tensor, mask: tf.Tensor, axis: int = 1) -> tf.Tensor:
    """Returns the logarithm of the sum of exp(values) where `mask` holds.

    Where it holds nowhere that is very low, but finite: so is the gradient, and softplus of it
    (the logarithm of one plus the sum) is 0.
    """
    return tf.reduce_logsumexp(tf.where(mask, values, tf.float32.min / 4), axis=axis)


def sorted_where(values: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Returns each row's values where `mask` holds in ascending order, infinity behind them."""
    return tf.sort(tf.where(mask, values, float("inf")), axis=1)


def count_below(ordered: tf.Tensor, limits: tf.Tensor, equal: bool = False) -> tf.Tensor:
    """Returns how many numbers of a row are below each limit of that row, int32 [n, m].

    As tf.searchsorted, for which XLA compares everything with everything, in n^3 memory.

    Args:
        ordered: float32 [n, n], each row in ascending order.
        limits: float32 [n, m].
        equal: bool, whether to count those that equal the limit.
    """
    size = tf.shape(ordered)[1]
    (largest,) = tf.while_loop(lambda step: step < size, lambda step: [2 * step], [1])

    def halve(step: tf.Tensor, found: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        further = found + step
        value = tf.gather(ordered, tf.minimum(further, size) - 1, batch_dims=1)
        below = value <= limits if equal else value < limits
        return step // 2, tf.where((further <= size) & below, further, found)

    start = largest, tf.zeros_like(limits, tf.int32)
    return tf.while_loop(lambda step, _: step > 0, halve, start)[1]


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
