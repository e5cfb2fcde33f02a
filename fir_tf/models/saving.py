"""Loads saved models, with the layers of this package known to Keras."""

from pathlib import Path

import keras

# Importing the modules registers their layers with Keras.
import fir_tf.models.batch_norm
import fir_tf.models.gem
import fir_tf.models.layers  # noqa: F401
from fir_tf.errors import FirError
from fir_tf.keras_versions import check_saved_by, saved_version
from fir_tf.shell import fault


def load_model(path: str | Path) -> keras.Model:
    """Loads a `.keras` file of this package: the model a run keeps, or any other.

    Args:
        path: str or Path.

    Returns:
        keras.Model, not compiled, that gives the outputs of the model which was saved.

    Raises:
        FirError: if there is no such file, it holds no model, or the other Keras wrote it.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FirError(f"`path` must be a .keras file. Received: no file {path}")
    check_saved_by(saved_version(path), path)
    try:
        return keras.models.load_model(path, compile=False)
    # Keras and its readers raise errors of many kinds for a damaged file.
    except Exception as error:
        if fault(error):
            raise
        raise FirError(
            f"{path} is not a Keras model, or it is damaged ({type(error).__name__}: "
            f"{str(error):.300}). Copy it again, or train again"
        ) from error
