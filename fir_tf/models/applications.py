"""Networks of keras.applications."""

from collections.abc import Callable

import keras

from fir_tf.keras_versions import without_slashes


def build_application(
    build: Callable[..., keras.Model], input_shape: tuple[int, int, int]
) -> keras.Model:
    """Builds a network of keras.applications without its classifier and with random weights."""
    return without_slashes(build(include_top=False, weights=None, input_shape=input_shape))
