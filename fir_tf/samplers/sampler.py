"""What a sampler is, and what one is asked for."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import tensorflow as tf


class Sampler(Protocol):
    """Which images are in a batch.

    Attributes:
        size: int, rows in a batch.
        steps_per_epoch: int.
        classified: bool [size], the rows for losses on single images, such as a classification;
            the others were drawn as somebody's positive or negative.
        triplets: {label: slices of the anchors', positives' and negatives' rows}, empty where
            triplets are found in the batch.
    """

    size: int
    steps_per_epoch: int
    classified: np.ndarray
    triplets: Mapping[str, tuple[slice, slice, slice]]

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Returns int32 [size], the rows of the batch number `step` (int64 scalar)."""

    def describe(self) -> str:
        """Returns one line for the run's plan."""


@dataclasses.dataclass(frozen=True)
class Request:
    """What a sampler is made for.

    The function that takes it may have an attribute `by_one_label`, True where batches are made by
    the first label alone: an image without it is never drawn then. Its attribute `takes` names the
    fields it heeds of `items_per_category` and `cross_domain`; the others must have their defaults.

    Attributes:
        labels: {label: int32 [n]}, the labels that batches are made by, the most important one
            first; one for each row of the catalogue, -1 where unknown.
        rows: int [m], the rows of the catalogue to draw from.
        size: int, images in a batch; with explicit triplets, triplets.
        images_per_item: int, K of P x K.
        seed: int.
        items_per_category: int, items of one category that are together in a batch of P x K; 1
            for any.
        cross_domain: bool, whether the K images of an item are to be of both domains.
        category: int32 [n], for each row of the catalogue; -1 where unknown.
        domain: int8 [n], for each row of the catalogue, see `fir_tf.datasets.catalogue.Catalogue`.
    """

    labels: Mapping[str, np.ndarray]
    rows: np.ndarray
    size: int
    images_per_item: int
    seed: int
    items_per_category: int
    cross_domain: bool
    category: np.ndarray
    domain: np.ndarray

    def known_rows(self) -> np.ndarray:
        """Returns those of `rows` that have one of the labels."""
        known: Sequence[np.ndarray] = [column[self.rows] >= 0 for column in self.labels.values()]
        return self.rows[np.any(known, axis=0)]
