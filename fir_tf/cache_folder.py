"""Where what was fetched once is kept for the next time."""

import os
from pathlib import Path

import pooch

from fir_tf.errors import FirError


def cache_folder() -> Path:
    """Returns the Path of the folder that downloads are kept in.

    It is the environment variable FIR_TF_CACHE, or `fir_tf` in the user's own cache folder.

    Raises:
        FirError: the user has no home.
    """
    try:
        return Path(os.environ.get("FIR_TF_CACHE") or pooch.os_cache("fir_tf")).expanduser()
    except RuntimeError as error:
        raise FirError(
            "there is no home folder to keep downloads in: set HOME, or the environment variable "
            "FIR_TF_CACHE to a folder"
        ) from error
