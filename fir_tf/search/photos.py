"""What a photo may be in Python, as the contents of an image file."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from fir_tf.errors import FirError
from fir_tf.images.claimed import FORMATS, claimed_size
from fir_tf.images.file import UnreadableImageError, read
from fir_tf.images.picture import see_or_convert

KINDS = "a path, an image file's bytes, a PIL image or an array uint8 [height, width, 3]"

# Formats that Pillow reads where it was built with them, or was given a plugin, by their ending.
_CONVERTED = {".webp": "WebP", ".tif": "TIFF", ".avif": "AVIF", ".heic": "HEIC"}
# Pixels of the longest side: PNG files of more could be larger than what is read.
_CONVERTED_SIDE = 2048


def formats() -> list[str]:
    """Returns the names of the formats that `readable` takes."""
    known = Image.registered_extensions()
    return [*FORMATS, *(name for ending, name in _CONVERTED.items() if ending in known)]


def not_decoded() -> str:
    """Returns what is said of a photo that `readable` does not take."""
    *names, last = formats()
    return f"cannot be decoded. {', '.join(names)} and {last} are read"


def readable(contents: bytes) -> bytes:
    """Returns a query's image file as the model reads it: other formats are converted to PNG.

    Raises:
        UnreadableImageError: if it cannot be read.
    """
    try:
        claimed_size(contents)
    except UnreadableImageError as error:
        if error.kind != "format":
            raise
        return _converted(contents)
    return contents


def _converted(contents: bytes) -> bytes:
    file = io.BytesIO()
    try:
        see_or_convert(contents, _CONVERTED_SIDE)[0].image.save(file, "PNG")
    except UnreadableImageError as error:
        if error.kind == "too_large":
            raise
        raise UnreadableImageError("format", not_decoded()) from error
    return file.getvalue()


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
