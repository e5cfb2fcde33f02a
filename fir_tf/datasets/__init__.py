"""Data sources: each becomes a Catalogue."""

import sys
from typing import TYPE_CHECKING

from fir_tf.interrupt import end_quietly
from fir_tf.lazy import lazy

if sys.argv[:1] == ["-m"]:
    # `python -m fir_tf.datasets` imports this package before its own first line; it is "-m" then.
    end_quietly()

if TYPE_CHECKING:
    from fir_tf.datasets.catalogue import Catalogue
    from fir_tf.datasets.loading import load, load_training

__all__ = ["Catalogue", "load", "load_training"]


__getattr__, __dir__ = lazy(__name__, dict.fromkeys(__all__, "fir_tf.datasets.loading"))
