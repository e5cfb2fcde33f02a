"""Checks of arguments that need no TensorFlow."""

import operator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fir_tf.errors import FirError


def check_positive(name: str, value: Any) -> int:
    """Returns `value` as an int.

    Raises:
        FirError: it is not a whole number of at least 1.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if number < 1 or isinstance(value, bool):
        raise FirError(f"`{name}` must be a whole number of at least 1. Received: {value!r}")
    return number


def plain_labels(labels: ArrayLike) -> np.ndarray:
    """Returns labels [n] or [n, 1] as an array [n], bytes as text; others as they are."""
    array = np.asarray(labels)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.dtype.kind in "SO" and array.ndim == 1:
        array = np.array([text.decode() if isinstance(text, bytes) else text for text in array])
    return array


def numbered(labels: np.ndarray) -> np.ndarray:
    """Returns the places of labels, integers or text [n], among the sorted ones, int32 [n].

    -1 where a label is unknown: negative, or "".
    """
    known = labels != "" if labels.dtype.kind == "U" else labels >= 0
    _, places = np.unique(labels, return_inverse=True)
    return np.where(known, places, -1).astype(np.int32)
