"""The order in which groups are visited where those of a category stand together."""

import numpy as np
import tensorflow as tf


class Blocks:
    """Random orders of groups in blocks of `count` groups of one category.

    In each order the groups of a category are shuffled and cut into blocks of `count`. Whole ones
    come first, in random order; then, in random order too, what is left of each category, together
    as far as it goes. A group of no known category is left alone.

    Args:
        category: int32 [groups], -1 where unknown.
        count: int >= 2.

    Attributes:
        count: int.
        rest: int, groups that are in no whole block.
    """

    def __init__(self, category: np.ndarray, count: int) -> None:
        self.count = count
        # Each unknown one is a category of its own.
        alone = category.max(initial=0) + 1 + np.arange(len(category))
        _, self._category, sizes = np.unique(
            np.where(category < 0, alone, category), return_inverse=True, return_counts=True
        )
        # In the order of categories, a place's block is the same whatever group stands there.
        owner = np.repeat(np.arange(len(sizes)), sizes)
        rank = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        partial = rank // count >= sizes[owner] // count
        self.rest = int(partial.sum())
        _, self._block = np.unique(np.stack([owner, rank // count]), axis=1, return_inverse=True)
        self._block, self._partial = self._block.reshape(-1), partial

    def __call__(self, seed: tf.Tensor) -> tf.Tensor:
        """Returns int32 [groups], the groups in the order of a seed, int32 [2]."""
        seeds = tf.random.split(seed, 2)
        size = len(self._block)
        key = tf.random.stateless_uniform([size], seeds[0], dtype=tf.float64)
        by_category = tf.argsort(tf.cast(self._category, tf.float64) + key)
        key = tf.random.stateless_uniform([size], seeds[1], dtype=tf.float64)
        key = tf.gather(key, self._block) + tf.cast(self._partial, tf.float64)
        return tf.gather(by_category, tf.argsort(key, stable=True))
