"""Necks: what stands between the pooled features and the embedding.

A neck is a function from features [n, c] and a width to [n, d], of Keras layers. What it returns is
normalised to unit length. A width of 0 asks for none in particular.
"""

import keras
import tensorflow as tf


def linear(features: tf.Tensor, width: int) -> tf.Tensor:
    """Projects linearly to --embedding_size; with 0 takes the features as they are."""
    if not width:
        return features
    return keras.layers.Dense(width, use_bias=False, name="projection")(features)
