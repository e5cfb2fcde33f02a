"""Pooling: the last feature map -> one vector an image.

A pooling is a function from a feature map [n, h, w, c] to [n, c'], of Keras layers. One whose last
layer is not called "features" gets another layer of that name behind it.
"""

import keras
import tensorflow as tf


def average(features: tf.Tensor) -> tf.Tensor:
    """Averages the feature map over its places, as the paper does."""
    return keras.layers.GlobalAveragePooling2D(dtype="float32", name="features")(features)


def max_average(features: tf.Tensor) -> tf.Tensor:
    """Adds the largest value of each channel to its average."""
    mean = keras.layers.GlobalAveragePooling2D(dtype="float32", name="average")(features)
    largest = keras.layers.GlobalMaxPooling2D(dtype="float32", name="largest")(features)
    return keras.layers.Add(dtype="float32", name="features")([mean, largest])
