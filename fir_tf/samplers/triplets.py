"""Batches of explicit triplets."""

import itertools
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from fir_tf.samplers.draws import integers
from fir_tf.samplers.groups import Groups, check_groups
from fir_tf.samplers.sampler import Request
from fir_tf.samplers.uniform import UniformSampler


def triplet_rows(anchors: int, nouns: Sequence[str]) -> dict[str, tuple[slice, slice, slice]]:
    """Returns {noun: (anchors, positives, negatives)}, slices of rows [A | P1 | N1 | P2 | N2]."""
    ends = [anchors * number for number in range(2 * len(nouns) + 2)]
    places = [slice(*end) for end in itertools.pairwise(ends)]
    return {
        noun: (places[0], places[1 + 2 * number], places[2 + 2 * number])
        for number, noun in enumerate(nouns)
    }


class TripletSampler:
    """Explicit (anchor, positive, negative) batches, as in Equation 1.

    An epoch takes every image that can be an anchor once: its group has another image. The
    positive is another image of the group, the negative an image of another group, both drawn
    uniformly.

    A batch holds `anchors` anchors, then for each kind of group as many positives and as many
    negatives: rows [A | P1 | N1 | P2 | N2]. Losses on single images apply to the anchors.

    Args:
        labels: list of int32 [n], one column a loss on triplets (item, category), -1 where
            unknown.
        rows: int [m], the rows to draw from.
        anchors: int, triplets in a batch.
        seed: int.
        nouns: list of str, what a group is, for messages.
    """

    def __init__(
        self,
        labels: Sequence[np.ndarray],
        rows: ArrayLike,
        anchors: int,
        seed: int,
        nouns: Sequence[str] = ("item",),
    ) -> None:
        self._kinds = [Groups(column, rows) for column in labels]
        for groups, noun in zip(self._kinds, nouns, strict=True):
            check_groups(groups, noun)
        first = self._kinds[0]
        self._uniform = UniformSampler(np.flatnonzero(first.length[first.group] > 1), anchors, seed)
        self._seed = seed
        self._nouns = nouns
        self._row_count = len(labels[0])
        self.anchors = anchors
        self.size = anchors * (1 + 2 * len(self._kinds))
        self.steps_per_epoch = self._uniform.steps_per_epoch
        self.classified = np.arange(self.size) < anchors
        self.triplets = triplet_rows(anchors, nouns)

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Returns int32 [size], the rows of the batch number `step`."""
        index = self._uniform(step)
        anchor = tf.gather(self._kinds[0].rows, index)
        seed = tf.random.fold_in(tf.constant([self._seed, 1], tf.int32), step)
        parts = [anchor]
        for number, groups in enumerate(self._kinds):
            place = index
            if number:
                table = np.full(self._row_count, -1, np.int32)
                table[groups.rows] = np.arange(len(groups.rows))
                # An anchor without this label draws at random; the loss leaves it out.
                place = tf.maximum(tf.gather(table, anchor), 0)
            seeds = tf.random.split(tf.random.fold_in(seed, number), 2)
            group = tf.gather(groups.group, place)
            start, length = tf.gather(groups.start, group), tf.gather(groups.length, group)
            own = place - start
            other = integers(seeds[0], [self.anchors], length - 1)
            other += tf.cast(other >= own, tf.int32)
            positive = start + tf.minimum(other, length - 1)
            outside = integers(seeds[1], [self.anchors], len(groups.rows) - length)
            negative = outside + tf.where(outside >= start, length, 0)
            parts += [tf.gather(groups.rows, positive), tf.gather(groups.rows, negative)]
        return tf.concat(parts, axis=0)

    def describe(self) -> str:
        """Returns one line for the run's sampler."""
        kinds = " and ".join(self._nouns)
        return f"{self.anchors} explicit triplets by {kinds}: {self.size} images"


def triplets(request: Request) -> TripletSampler:
    """Draws explicit (anchor, positive, negative) triplets, as in the paper's Equation 1."""
    return TripletSampler(
        list(request.labels.values()),
        request.rows,
        request.size,
        request.seed,
        list(request.labels),
    )
