"""A memory of past batches, to pair a batch with more images than it has (Wang et al. 2020)."""

import numpy as np
import tensorflow as tf

from fir_tf.keras_versions import make_variable, tensor_of


class Memory:
    """The rows of past batches with their labels, the oldest first; empty at the start.

    All replicas store the same rows, those of the global batch, each in its own copy of the
    variables, which TensorFlow takes to be the same when it saves the first one's.

    Args:
        size: int >= 1, rows that it holds.
        width: int, numbers in a row.

    Attributes:
        variables: list of keras variables: the rows, float32 [size, width], and their labels, int64
            [size], -1 where it is empty.
    """

    def __init__(self, size: int, width: int) -> None:
        self._size = size
        self.variables = [
            make_variable(np.zeros((size, width)), "memory_rows"),
            # TensorFlow has no int32 variables on GPUs.
            make_variable(np.full(size, -1), "memory_labels", dtype="int64"),
        ]

    def behind(self, rows: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns rows [n + size, width] and labels [n + size]: those given, then what it holds."""
        stored, stored_labels = (tensor_of(variable) for variable in self.variables)
        labels = tf.concat([labels, tf.cast(stored_labels, labels.dtype)], axis=0)
        return tf.concat([rows, stored], axis=0), labels

    def store(self, rows: tf.Tensor, labels: tf.Tensor) -> None:
        """Stores the rows with a label >= 0, without their gradients, in place of the oldest.

        Args:
            rows: float32 [n, width].
            labels: int [n].
        """
        stored, stored_labels = (tensor_of(variable) for variable in self.variables)
        labels = tf.concat([stored_labels, tf.cast(labels, tf.int64)], axis=0)
        count = tf.shape(labels)[0]
        # Those without a label first, the others as they come: the last ones are to stay.
        order = tf.argsort(tf.range(count) + count * tf.cast(labels >= 0, tf.int32))
        kept = order[count - self._size :]
        for variable, values in ((stored, [stored, rows]), (stored_labels, [labels])):
            # Straight into the replica's own copy, which `assign` would ask the others about.
            tf.raw_ops.AssignVariableOp(
                resource=variable.handle,
                value=tf.stop_gradient(tf.gather(tf.concat(values, axis=0), kept)),
            )
