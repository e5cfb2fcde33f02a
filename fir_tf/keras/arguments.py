"""Checks of what a loss is given: shapes always, values where they are there to be read."""

import math
from typing import Any

import tensorflow as tf

from fir_tf.errors import FirError


def check_number(name: str, value: Any, least: float = -math.inf) -> float:
    """Returns `value` as a float.

    Raises:
        FirError: it is no finite number of at least `least`.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or number < least:
        limit = f" of at least {least:g}" if math.isfinite(least) else ""
        raise FirError(f"`{name}` must be a finite number{limit}. Received: {value!r}")
    return number


def embeddings_of(y_pred: Any) -> tf.Tensor:
    """Returns float32 [n, d], one vector an example.

    Raises:
        FirError: it is of another rank; where tensors have values, one is not finite.
    """
    return _floats(y_pred, 2, "vectors, of shape [n, d]")


def similarities_of(y_pred: Any) -> tf.Tensor:
    """Returns float32 [n, n], the similarities of n examples to n others.

    Raises:
        FirError: it is of another shape; where tensors have values, one is not finite.
    """
    wanted = "the similarities of two rows of examples, of shape [n, n]"
    values = _floats(y_pred, 2, wanted)
    if not values.shape.is_compatible_with(values.shape[::-1]):
        raise _wrong_shape("y_pred", wanted, values)
    return values


def distances_of(y_pred: Any) -> tf.Tensor:
    """Returns float32 [n], the distance of the two examples of a pair.

    Raises:
        FirError: it is of another shape than [n] or [n, 1]; where tensors have values, one is not
            finite.
    """
    wanted = "the distance of each pair, of shape [n] or [n, 1]"
    values = _flat("y_pred", wanted, tf.convert_to_tensor(y_pred))
    return _floats(values, 1, wanted)


def labels_of(y_true: Any, count: tf.Tensor) -> tf.Tensor:
    """Returns the labels of the rows of `count`, [n] of a type with whole numbers.

    Args:
        y_true: integers [n] or [n, 1]; floats are taken if they are whole numbers.
        count: tensor with n rows.

    Raises:
        FirError: they are strings or of another shape or count; where tensors have values, one is
            no whole number.
    """
    labels = _tensor(y_true)
    hint = ""
    if labels.shape.rank == 2 and (labels.shape[1] or 0) > 1:
        hint = "; one-hot labels become such by tf.argmax(y_true, axis=1)"
    labels = _flat("y_true", "integer labels of shape [n] or [n, 1]", labels, hint)
    if labels.dtype.is_floating and tf.executing_eagerly():
        broken = tf.boolean_mask(labels, labels != tf.round(labels))
        if len(broken):
            raise FirError(f"`y_true` must be integer labels. Received: {broken[0].numpy()}")
    return same_count(labels, count)


def classes_of(y_true: Any, count: tf.Tensor) -> tf.Tensor:
    """Returns float32 [n, classes], 1 where the example is in the class.

    Args:
        y_true: 0 and 1, a tensor, or a tf.SparseTensor.
        count: tensor with n rows.

    Raises:
        FirError: they are strings or of another shape or count; where tensors have values, one is
            neither 0 nor 1.
    """
    if isinstance(y_true, tf.SparseTensor):
        y_true = tf.sparse.to_dense(y_true)
    wanted = "0 and 1, of shape [n, classes]"
    labels = _tensor(y_true)
    if labels.shape.rank != 2:
        raise _wrong_shape("y_true", wanted, labels)
    labels = tf.cast(labels, tf.float32)
    check_binary(labels, wanted)
    return same_count(labels, count)


def check_binary(labels: tf.Tensor, wanted: str) -> None:
    """Raises FirError, where tensors have values, if one is neither 0 nor 1."""
    if tf.executing_eagerly():
        others = tf.boolean_mask(labels, (labels != 0) & (labels != 1))
        if len(others):
            raise FirError(f"`y_true` must be {wanted}. Received: {others[0].numpy()}")


def check_below(labels: tf.Tensor, classes: int) -> None:
    """Raises FirError, where tensors have values, if a label is no class' number."""
    if tf.executing_eagerly():
        largest = int(tf.reduce_max(tf.pad(labels, [[0, 1]])))
        if largest >= classes:
            raise FirError(f"`y_true` must be below {classes}, the classes. Received: {largest}")


def same_count(labels: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """Returns `labels` unless `values` has another number of rows.

    A graph finds that out when it runs, and XLA not at all.

    Raises:
        FirError: the numbers are known and differ.
    """
    message = "`y_true` must have a label for each row of `y_pred`. Received: "
    rows, count = labels.shape[0], values.shape[0]
    if rows is None or count is None:
        given = tf.shape(labels)[0], tf.shape(values)[0]
        with tf.control_dependencies([tf.debugging.assert_equal(*given, message=message)]):
            return tf.identity(labels)
    if rows != count:
        raise FirError(f"{message}{rows} labels for {count} rows")
    return labels


def _tensor(y_true: Any) -> tf.Tensor:
    """Labels as a tensor of numbers."""
    try:
        labels = tf.convert_to_tensor(y_true)
    except (TypeError, ValueError) as error:
        raise FirError(f"`y_true` must be integer labels. Received: {y_true!r}") from error
    if labels.dtype == tf.bool:
        return tf.cast(labels, tf.int32)
    if not (labels.dtype.is_integer or labels.dtype.is_floating):
        raise FirError(
            f"`y_true` must be integer labels. Received: {labels.dtype.name}s. "
            "keras.layers.StringLookup and np.unique(labels, return_inverse=True)[1] number strings"
        )
    return labels


def _flat(name: str, wanted: str, values: tf.Tensor, hint: str = "") -> tf.Tensor:
    """Values [n] or [n, 1] as [n]."""
    if values.shape.rank not in (1, 2, None) or (
        values.shape.rank == 2 and values.shape[1] not in (1, None)
    ):
        raise _wrong_shape(name, wanted, values, hint)
    return tf.reshape(values, [-1]) if values.shape.rank != 1 else values


def _floats(y_pred: Any, rank: int, wanted: str) -> tf.Tensor:
    values = tf.cast(tf.convert_to_tensor(y_pred), tf.float32)
    if values.shape.rank != rank:
        raise _wrong_shape("y_pred", wanted, values)
    if tf.executing_eagerly():
        rows = tf.reshape(tf.math.is_finite(values), [values.shape[0], -1 if len(values) else 0])
        broken = len(values) - int(tf.math.count_nonzero(tf.reduce_all(rows, axis=1)))
        if broken:
            raise FirError(
                f"`y_pred` must be finite. Received: NaN or infinity in {broken} of "
                f"{len(values)} rows"
            )
    return values


def _wrong_shape(name: str, wanted: str, values: tf.Tensor, hint: str = "") -> FirError:
    return FirError(f"`{name}` must be {wanted}. Received: shape {tuple(values.shape)}{hint}")
