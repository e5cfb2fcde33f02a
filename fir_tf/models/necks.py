"""Necks: what stands between the pooled features and the embedding.

A neck is a function from features [n, c] and a width to [n, d], of Keras layers. What it returns is
normalised to unit length. A width of 0 asks for none in particular. A neck may return a `Split`
where losses that compare images and losses with class centres are to read different vectors.
"""

from typing import NamedTuple

import keras
import tensorflow as tf

from fir_tf.models.batch_norm import FusedBatchNormalization


class Split(NamedTuple):
    """The vectors of an image on both sides of a batch normalisation, each [n, d].

    Attributes:
        before: what losses that compare images read.
        behind: what losses with class centres read.
        search_before: bool, whether the embedding is the one before; otherwise the one behind.
    """

    before: tf.Tensor
    behind: tf.Tensor
    search_before: bool = False


def linear(features: tf.Tensor, width: int) -> tf.Tensor:
    """Projects linearly to --embedding_size; with 0 takes the features as they are."""
    if not width:
        return features
    return keras.layers.Dense(width, use_bias=False, name="projection")(features)


def linear_bn(features: tf.Tensor, width: int) -> tf.Tensor:
    """Batch norm behind the linear projection, for all losses and for search."""
    return _batch_norm(linear(features, width), center=True)


def bnneck(features: tf.Tensor, width: int) -> Split:
    """BNNeck: class centres and search behind a batch norm, pairs before it (Luo et al. 2019).

    Luo et al., *Bag of Tricks and A Strong Baseline for Deep Person Re-identification*, section
    3.5: the batch norm has no trained shift, and stands here behind the projection if there is one.
    """
    before = linear(features, width)
    return Split(before, _batch_norm(before, center=False))


def bnneck_before(features: tf.Tensor, width: int) -> Split:
    """BNNeck with the embedding for search from before the batch norm."""
    before = linear(features, width)
    return Split(before, _batch_norm(before, center=False), search_before=True)


def _batch_norm(features: tf.Tensor, center: bool) -> tf.Tensor:
    # torch's values: its momentum of 0.1 is the weight of the new value.
    return FusedBatchNormalization(
        epsilon=1e-5, momentum=0.9, center=center, dtype="float32", name="neck"
    )(features)
