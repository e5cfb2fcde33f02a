"""A photo small enough to be shown, with the pixels that the model sees."""

from pathlib import Path

from fir_tf.images.file import UnreadableImageError, read
from fir_tf.images.picture import Picture, see, see_or_convert


def thumbnail(photo: bytes | str | Path, side: int, convert: bool = False) -> Picture:
    """Reads a photo as training does, and makes it small.

    Args:
        photo: bytes of an image file, or its path.
        side: int, the longest side in pixels; smaller photos are not enlarged.
        convert: bool, whether to show as well what training does not read for its format only.

    Returns:
        Picture.

    Raises:
        UnreadableImageError: if there is nothing to show.
    """
    contents = photo if isinstance(photo, bytes) else read(photo)
    return see_or_convert(contents, side)[0] if convert else see(contents, side)


def small_jpeg(path: str | Path, side: int) -> bytes:
    """Returns a photo as a small JPEG file for a page; no bytes where it cannot be read.

    Args:
        path: str or Path.
        side: int, the longest side in pixels.
    """
    try:
        return thumbnail(path, side, convert=True).jpeg(quality=80)
    except UnreadableImageError:
        return b""
