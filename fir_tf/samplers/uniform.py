"""Batches of single images."""

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from fir_tf.samplers.draws import shuffled
from fir_tf.samplers.sampler import Request


class UniformSampler:
    """Every image once an epoch, in a new order; the last batch is filled from its beginning.

    Args:
        rows: int [m], the rows to draw.
        size: int, rows in a batch.
        seed: int.
    """

    def __init__(self, rows: ArrayLike, size: int, seed: int) -> None:
        self._rows = np.asarray(rows, np.int32)
        self.size = size
        self._seed = seed
        self.steps_per_epoch = -(-len(self._rows) // size)
        self.classified = np.ones(size, bool)
        self.triplets: dict[str, tuple[slice, slice, slice]] = {}

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Returns int32 [size], the rows of the batch number `step` (int64 scalar)."""
        epoch = tf.cast(step // self.steps_per_epoch, tf.int32)
        batch = tf.cast(step % self.steps_per_epoch, tf.int32)
        position = (batch * self.size + tf.range(self.size)) % len(self._rows)
        seed = tf.stack([tf.constant(self._seed, tf.int32), epoch])
        return tf.gather(self._rows, shuffled(position, seed, len(self._rows)))

    def describe(self) -> str:
        """Returns one line for the run's sampler."""
        return f"{self.size} images drawn uniformly from {len(self._rows)}"


def uniform(request: Request) -> UniformSampler:
    """Draws single images, each once an epoch."""
    return UniformSampler(request.known_rows(), request.size, request.seed)
