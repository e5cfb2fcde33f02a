"""Mixed category/triplet batches."""

import numpy as np
import tensorflow as tf

from fir_tf.samplers.sampler import Sampler


class MixedSampler:
    """The rows of one sampler followed by those of another: mixed category/triplet batches.

    Every batch holds as many rows of each as their sizes say, whatever the sources they come
    from. An epoch is the first sampler's; the second goes through its own images at its own pace.
    """

    def __init__(self, first: Sampler, second: Sampler) -> None:
        self._first, self._second = first, second
        self.size = first.size + second.size
        self.steps_per_epoch = first.steps_per_epoch
        self.triplets = first.triplets
        self.classified = np.concatenate([first.classified, second.classified])

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Returns int32 [size], the rows of the batch number `step`."""
        return tf.concat([self._first(step), self._second(step)], axis=0)

    def describe(self) -> str:
        """Returns one line for the run's sampler."""
        return f"{self._first.describe()}; {self._second.describe()} for the classification"
