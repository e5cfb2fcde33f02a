"""What an image file says of itself before it is decoded, read without TensorFlow.

The rules are those of `fir_tf.images.header`, which reads the same in a graph.
"""

import struct

from fir_tf.images.file import UnreadableImageError, opened
from fir_tf.images.limits import MAX_BYTES, MAX_PIXELS

_STARTS = {
    "JPEG": b"\xff\xd8\xff",
    "PNG": b"\x89PNG\r\n\x1a\n",
    "GIF": b"GIF8",
    "BMP": b"BM",
}
FORMATS = tuple(_STARTS)

# A BMP's pixels are plain, or in fields: red, green, blue, and alpha where it has one.
_BMP_PLAIN, _BMP_FIELDS = 0, 3
_BMP_MASKS = (0x00FF0000, 0x0000FF00, 0x000000FF)


def format_of(contents: bytes) -> str:
    """Returns which of `FORMATS` a file (bytes) begins like, empty for none."""
    return next((name for name, start in _STARTS.items() if contents.startswith(start)), "")


def claimed_size(contents: bytes) -> tuple[int, int]:
    """Reads an image's header.

    Args:
        contents: bytes, the file.

    Returns:
        (height, width): ints, pixels, as stored.

    Raises:
        UnreadableImageError: of kind "empty", "format", "too_large" or "unreadable", if training
            would not decode the file whatever its data are.
    """
    if not contents:
        raise UnreadableImageError("empty", "the file has no bytes")
    form = format_of(contents)
    if not form:
        raise UnreadableImageError("format", f"it is none of {', '.join(FORMATS)}")
    if form == "BMP" and not _is_plain_bmp(contents):
        raise UnreadableImageError(
            "format", "of BMPs only plain ones of 24 or 32 bits a pixel are read"
        )
    height, width = _size(contents, form)
    if height * width > MAX_PIXELS or len(contents) > MAX_BYTES:
        raise UnreadableImageError(
            "too_large",
            f"{width} x {height} pixels in {len(contents):,} bytes are more than the "
            f"{MAX_PIXELS:,} pixels or {MAX_BYTES:,} bytes that are taken",
        )
    if not height * width:
        raise UnreadableImageError("unreadable", "it has no pixels")
    return height, width


def _size(contents: bytes, form: str) -> tuple[int, int]:
    if form == "PNG":
        # What else is in its head is not asked: damaged texts do not keep it from being read.
        width, height = struct.unpack(">II", contents[16:24].ljust(8, b"\0"))
        return height, width
    if form == "BMP":
        width, height = struct.unpack("<Ii", contents[18:26])
        return abs(height), width
    with opened(contents) as (image, _):
        return image.height, image.width


def _is_plain_bmp(contents: bytes) -> bool:
    """Whether TensorFlow reads a BMP as it is meant: of others palette indices become brightness.

    Plain are 24 and 32 bits a pixel, not compressed, in the usual order, of Windows' kind.
    """
    head = contents[:66].ljust(66, b"\0")
    (size,), bits, packing = (
        struct.unpack_from("<I", head, 14),
        head[28] + 256 * head[29],
        head[30:34],
    )
    (packing,) = struct.unpack("<I", packing)
    in_fields = bits == 32 and packing == _BMP_FIELDS
    if in_fields and struct.unpack_from("<III", head, 54) != _BMP_MASKS:
        return False
    return size >= 40 and (in_fields or (bits in (24, 32) and packing == _BMP_PLAIN))
