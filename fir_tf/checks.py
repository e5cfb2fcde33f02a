"""Checks of arguments that need no TensorFlow."""

import operator
from typing import Any

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
