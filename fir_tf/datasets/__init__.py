"""Data sources: each becomes a Catalogue."""

import importlib
import sys
from typing import TYPE_CHECKING, Any

from fir_tf.interrupt import end_quietly

if sys.argv[:1] == ["-m"]:
    # `python -m fir_tf.datasets` imports this package before its own first line; it is "-m" then.
    end_quietly()

if TYPE_CHECKING:
    from fir_tf.datasets.catalogue import Catalogue
    from fir_tf.datasets.loading import load, load_training

__all__ = ["Catalogue", "load", "load_training"]


def __getattr__(name: str) -> Any:
    # pandas takes a second to import, and the help of the commands needs none of it.
    if name in __all__:
        return getattr(importlib.import_module("fir_tf.datasets.loading"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
