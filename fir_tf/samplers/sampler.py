"""What a sampler is."""

from typing import Protocol

import numpy as np
import tensorflow as tf


class Sampler(Protocol):
    """Which images are in a batch.

    Attributes:
        size: int, rows in a batch.
        steps_per_epoch: int.
        classified: bool [size], the rows that OC applies to.
    """

    size: int
    steps_per_epoch: int
    classified: np.ndarray

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Returns int32 [size], the rows of the batch number `step` (int64 scalar)."""

    def describe(self) -> str:
        """Returns one line for the run's sampler."""
