"""What a photo may be in Python, as the contents of an image file."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from fir_tf.errors import FirError
from fir_tf.images.file import UnreadableImageError, read

KINDS = "a path, an image file's bytes, a PIL image or an array uint8 [height, width, 3]"


def is_photo(value: Any) -> bool:
    """Whether a value is one photo (and not, say, a list of them)."""
    if isinstance(value, np.ndarray):
        coloured = value.ndim == 3 and value.shape[2] in (3, 4)
        return value.dtype == np.uint8 and value.size > 0 and (value.ndim == 2 or coloured)
    return isinstance(value, str | Path | bytes | Image.Image)


def contents_of(photo: Any) -> bytes:
    """Returns a photo as an image file's bytes; pixels as PNG, which changes none.

    Raises:
        FirError: it is no photo, or a file that cannot be read.
    """
    if isinstance(photo, bytes):
        return photo
    if isinstance(photo, str | Path):
        try:
            return read(photo)
        except UnreadableImageError as error:
            raise FirError(f"{photo} is no photo that can be read: {error}") from error
    if isinstance(photo, np.ndarray) and is_photo(photo):
        photo = Image.fromarray(photo)
    if not isinstance(photo, Image.Image):
        shape = f" of {photo.dtype} {photo.shape}" if isinstance(photo, np.ndarray) else ""
        raise FirError(f"a photo must be {KINDS}. Received: {type(photo).__name__}{shape}")
    file = io.BytesIO()
    try:
        image = ImageOps.exif_transpose(photo)
        if image.mode not in ("RGB", "RGBA", "L", "LA", "P"):
            image = image.convert("RGB")
        image.save(file, "PNG")
    except (OSError, ValueError) as error:
        raise FirError(f"a PIL image cannot be read: {error}") from error
    return file.getvalue()


def contents_or_empty(photo: Any) -> bytes:
    """Returns a photo's contents, none of one that cannot be read.

    Raises:
        FirError: it is no photo.
    """
    try:
        return contents_of(photo)
    except FirError:
        if not is_photo(photo):
            raise
        return b""


def all_paths(photos: Sequence[Any]) -> bool:
    """Whether all of these photos are files, which are read ahead of the model."""
    return all(isinstance(photo, str | Path) for photo in photos)
