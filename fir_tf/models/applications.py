"""Networks of keras.applications."""

from fir_tf.keras_versions import without_slashes


def build_application(build, input_shape):
    """Builds a network of keras.applications without its classifier and with random weights.

    Args:
        build: function of keras.applications.
        input_shape: tuple (height, width, 3).

    Returns:
        keras.Model from normalised images to the last feature map.
    """
    return without_slashes(build(include_top=False, weights=None, input_shape=input_shape))
