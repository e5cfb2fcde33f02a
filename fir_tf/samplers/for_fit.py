"""Samplers as tf.data, for `fit` and for loops of one's own."""

from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from fir_tf.checks import check_positive, numbered, plain_labels
from fir_tf.errors import FirError
from fir_tf.samplers.pk import PKSampler
from fir_tf.samplers.triplets import TripletSampler


class _Batches:
    """Endless batches of a sampler; itself one, see `fir_tf.samplers.sampler.Sampler`.

    Attributes:
        size: int, rows in a batch.
        steps_per_epoch: int, for `fit`: as many batches as hold about as many images as there are.
    """

    def __init__(
        self, labels: np.ndarray, codes: np.ndarray, sampler: PKSampler | TripletSampler
    ) -> None:
        self._labels, self._codes, self._sampler = labels, codes, sampler
        self.size, self.steps_per_epoch = sampler.size, sampler.steps_per_epoch
        self.classified, self.triplets = sampler.classified, sampler.triplets
        self.describe = sampler.describe

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Returns int32 [size], the rows of the batch number `step` (int64 scalar)."""
        return self._sampler(step)

    def dataset(self, start: int = 0) -> tf.data.Dataset:
        """Returns the rows of the batches from number `start` on, int32 [size] each, without end.

        Batch number n is the same in every process, so that a run goes on where it was stopped.
        """
        steps = tf.data.Dataset.range(start, np.iinfo(np.int64).max)
        return steps.map(self._sampler, num_parallel_calls=tf.data.AUTOTUNE)

    def batches(self, examples: Any, start: int = 0) -> tf.data.Dataset:
        """Returns batches (examples, labels), without end: for `fit(..., steps_per_epoch=...)`.

        Args:
            examples: array [n, ...], or a dict or tuple of such, one row for each label; or a
                tf.data.Dataset of n single examples, which is read into memory.
            start: int, the first batch's number.

        Returns:
            tf.data.Dataset of (the examples' rows [size, ...], labels [size]). Labels are those
            that were given; where these are no numbers, their place among the sorted ones.

        Raises:
            FirError: there is not one example for each label.
        """
        if isinstance(examples, tf.data.Dataset):
            # In one batch, whatever the structure of an example is.
            found = examples.batch(len(self._labels) + 1)
            whole = next(iter(found), None)
            if whole is None:
                raise FirError(self._wrong(0))
            examples = whole
        tensors = tf.nest.map_structure(tf.convert_to_tensor, examples)
        for tensor in tf.nest.flatten(tensors):
            count = tensor.shape[0] if tensor.shape.rank else 0
            if count != len(self._labels):
                raise FirError(self._wrong(count))
        labels = tf.constant(self._labels if self._labels.dtype.kind in "iu" else self._codes)

        def gathered(rows: tf.Tensor) -> tuple[Any, tf.Tensor]:
            picked = tf.nest.map_structure(lambda tensor: tf.gather(tensor, rows), tensors)
            return picked, tf.gather(labels, rows)

        rows = self.dataset(start)
        return rows.map(gathered, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)

    def _wrong(self, count: int) -> str:
        return (
            f"`examples` must have one row for each of the {len(self._labels)} labels. "
            f"Received: {count}"
        )


class PK(_Batches):
    """Batches of P labels x K images each, what mining in the batch needs.

    A pass visits every label once in a new order. A label with fewer than K images appears with
    each of them once; its vacant places go to images drawn from all. Images of an unknown label,
    negative or "", are never drawn.

    Args:
        labels: list, array or tensor [n] of integers or strings.
        p: int, labels in a batch.
        k: int, images of each.
        seed: int.

    Raises:
        FirError: labels of another shape or type, fewer than two labels, or none of two images.

    Example:
        >>> sampler = PK([7, 7, 7, 8, 8, 9, 9], p=2, k=2, seed=0)
        >>> rows = next(iter(sampler.dataset())).numpy()
        >>> images = np.arange(7.0)
        >>> examples, labels = next(iter(sampler.batches(images)))
        >>> bool((examples.numpy() == images[rows]).all()), len(set(labels.numpy().tolist()))
        (True, 2)
    """

    def __init__(self, labels: ArrayLike, p: int, k: int, seed: int = 0) -> None:
        p, k = check_positive("p", p), check_positive("k", k)
        for name, value in (("p", p), ("k", k)):
            if value < 2:
                raise FirError(f"`{name}` must be at least 2. Received: {value}")
        array, codes = _coded(labels)
        there = len(np.unique(codes[codes >= 0]))
        if there > 1 and p > there:
            raise FirError(f"`p` must be at most {there}, the labels there are. Received: {p}")
        sampler = PKSampler(codes, np.arange(len(codes)), p * k, k, seed, "label")
        super().__init__(array, codes, sampler)


class Triplets(_Batches):
    """Batches of explicit triplets: n anchors, their positives, their negatives, in this order.

    An epoch takes every image as an anchor once whose label has another image.

    Args:
        labels: list, array or tensor [n] of integers or strings; negative or "" is unknown.
        n: int, triplets in a batch; a batch has three times as many rows.
        seed: int.

    Raises:
        FirError: see `PK`.
    """

    def __init__(self, labels: ArrayLike, n: int, seed: int = 0) -> None:
        array, codes = _coded(labels)
        rows = np.arange(len(codes))
        sampler = TripletSampler([codes], rows, check_positive("n", n), seed, ["label"])
        super().__init__(array, codes, sampler)


def _coded(labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Returns labels as an array [n], and their numbers int32 [n], -1 where unknown."""
    array = plain_labels(labels)
    if array.ndim != 1 or array.dtype.kind not in "iuU" or not len(array):
        raise FirError(
            "`labels` must be integers or strings of shape [n]. Received: "
            f"{array.dtype} {array.shape}"
        )
    return array, numbered(array)
