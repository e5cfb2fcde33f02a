"""Losses on the pairs of a batch, and of a batch with a memory of past ones."""

import abc
from typing import Any

import tensorflow as tf

from fir_tf.errors import FirError
from fir_tf.losses.grammar import LossSettings
from fir_tf.losses.loss import Loss, Scalars, TripletRows
from fir_tf.losses.memory import Memory
from fir_tf.losses.triplet import label_pairs


class PairLoss(Loss):
    """A loss on pairs of an anchor and another image; a subclass has `of_pairs`.

    With the option `memory` the anchors, which are the images of the batch, are paired with the
    last so many images of known label before the batch as well, as these were embedded then
    (cross-batch memory: Wang et al. 2020). A batch is stored after its loss is worked out: no image
    meets its own copy of the same step. Of the batches whose gradients one update adds up
    (`--accumulate`) each sees the ones before it. The memory is saved in checkpoints, and never
    exported.
    """

    options = {"memory": "[0, inf) images"}

    def __init__(self, settings: LossSettings) -> None:
        super().__init__(settings)
        size = self.option("memory", 0.0)
        if size % 1:
            raise FirError(f"`memory` must be a whole number of images. Received: {size:g}")
        self._memory_size = int(size)
        self._memory: Memory | None = None

    def build(self, classes: int, width: int) -> list[Any]:
        """Makes the memory, if there is to be one."""
        if self._memory_size < 1:
            return []
        self._memory = Memory(self._memory_size, width)
        return self._memory.variables

    @abc.abstractmethod
    def of_pairs(
        self, rows: tf.Tensor, columns: tf.Tensor, positive: tf.Tensor, negative: tf.Tensor
    ) -> tf.Tensor:
        """Returns the loss, a float32 scalar.

        Args:
            rows: float32 [n, d], the anchors.
            columns: float32 [m, d], the images that they are paired with, first the anchors.
            positive: bool [n, m], whether row and column are a pair of one label.
            negative: bool [n, m], whether they are one of two labels.
        """

    def __call__(
        self, values: tf.Tensor, labels: tf.Tensor, triplets: TripletRows | None = None
    ) -> Scalars:
        """Returns the loss."""
        rows = tf.cast(values, tf.float32)
        columns, column_labels = rows, labels
        if self._memory:
            columns, column_labels = self._memory.behind(rows, labels)
        positive, negative = label_pairs(labels, columns=column_labels)
        loss = self.of_pairs(rows, columns, positive, negative)
        if self._memory:
            self._memory.store(rows, labels)
        return {"loss": loss}
