"""Image bytes -> pixels without TensorFlow, whose import takes seconds.

Pillow decodes and NumPy fits, by the rules of `fir_tf.images.decode`, which says them.
"""

import io
import math
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile

from fir_tf.images.claimed import claimed_size, format_of
from fir_tf.images.file import UnreadableImageError, opened
from fir_tf.images.rules import BLOCK, CROP_FRACTION, HALVINGS_MAX, OVERSAMPLING
from fir_tf.images.window import Part, stored_window

_ORIENTATION_TAG = 0x0112
# Rows of a result that are multiplied at a time.
_ROWS = 16
# What of a PNG its pixels are made of.
_PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")


class _Cut(NamedTuple):
    """What of a photo is looked at, decoded.

    Attributes:
        pixels: uint8 [height, width, 3].
        extent: (height, width) of it in these pixels, which may be up to half a pixel more or less
            than their shape.
        turn: int, the photo's EXIF orientation.
    """

    pixels: np.ndarray
    extent: tuple[float, float]
    turn: int


def decode_and_fit(
    contents: bytes, image_size: int, resize: str, part: Part | None = None
) -> np.ndarray:
    """Decodes a file, fits it or a part of it, and turns it upright.

    Args:
        contents: bytes, a JPEG, PNG, GIF (first frame) or BMP file.
        image_size: int, side of the square result in pixels.
        resize: "crop", "squash" or "pad", see `fir_tf.images.decode.fit`.
        part: Part, what of the photo is looked at; None for all of it.

    Returns:
        float32 [image_size, image_size, 3] in [0, 255], antialiased.

    Raises:
        UnreadableImageError: the file cannot be decoded or is too large, or the part has no area
            in the photo.
    """
    claimed_size(contents)
    if format_of(contents) == "JPEG":
        found = _jpeg(contents, part, image_size, resize)
    else:
        found = _other(contents, part)
    return _upright(_fitted(found, image_size, resize), found.turn)


def _jpeg(contents: bytes, part: Part | None, image_size: int, resize: str) -> _Cut:
    with opened(contents), JpegImageFile(io.BytesIO(contents)) as image:
        turn = _turn(image.info.get("exif", b""))
        top, left, *sides = _window(part, turn, image.height, image.width)
        wanted = image_size / CROP_FRACTION if resize == "crop" else image_size
        kept = max(sides) if resize == "pad" else min(sides)
        # Whatever is wanted, a side keeps a block: what fills up a smaller one is no picture.
        ratio = 2 ** min(_halvings(kept, OVERSAMPLING * wanted), _halvings(min(sides), BLOCK))
        if ratio > 1:
            image.draft(None, (image.width // ratio, image.height // ratio))
        pixels = _without_ink(image)
    # Edges go to the nearest pixel of the smaller image, which keeps one of a short side.
    bottom, right = top + sides[0], left + sides[1]
    top, left, bottom, right = ((edge + ratio // 2) // ratio for edge in (top, left, bottom, right))
    cut = pixels[top : max(bottom, top + 1), left : max(right, left + 1)]
    return _Cut(cut, (sides[0] / ratio, sides[1] / ratio), turn)


def _halvings(available: int, wanted: float) -> int:
    return sum(available >= wanted * 2**count for count in range(1, HALVINGS_MAX + 1))


def _window(part: Part | None, turn: int, height: int, width: int) -> tuple[int, ...]:
    """Returns (top, left, height, width) of what is looked at, in the stored pixels."""
    window = stored_window(part, turn, height, width) if part else (0, 0, height, width)
    if window is None:
        raise UnreadableImageError("unreadable", "its box has no area in it")
    return window


def _without_ink(image: Image.Image) -> np.ndarray:
    """Returns a JPEG's pixels; those of print as light, without regard to profiles."""
    if image.mode != "CMYK":
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    # Adobe's programs store light for ink, which Pillow takes all others to do too.
    light = np.asarray(image).astype(np.uint16)
    light = 255 - light if "adobe" in image.info else light
    return (light[..., :3] * light[..., 3:] // 255).astype(np.uint8)


def _other(contents: bytes, part: Part | None) -> _Cut:
    turn, form = 1, format_of(contents)
    if form == "PNG":
        contents, exif = _png_pixels(contents)
        turn = _turn(exif)
    with opened(contents) as (image, _):
        # Where the pixels lie on the canvas.
        frame = image.tile[0][1] if isinstance(image, GifImageFile) else None
        pixels = _rgba(image)
    if frame:
        # Nothing is drawn around it.
        canvas = np.zeros_like(pixels)
        inside = slice(frame[1], frame[3]), slice(frame[0], frame[2])
        canvas[inside] = pixels[inside]
        pixels = canvas
    top, left, height, width = _window(part, turn, *pixels.shape[:2])
    return _Cut(_on_white(pixels[top : top + height, left : left + width]), (height, width), turn)


def _png_pixels(contents: bytes) -> tuple[bytes, bytes]:
    """Returns (a PNG without what its pixels are not made of, the body of its EXIF chunk)."""
    kept, exif = [contents[:8]], b""
    for name, chunk in _png_chunks(contents):
        if name in _PNG_PIXELS:
            kept.append(chunk)
        elif name == b"eXIf" and not exif:
            exif = chunk[8:-4]
    return b"".join(kept), exif


def _png_chunks(contents: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields (name, whole chunk) to the end; damage to one that the pixels need is an error."""
    place, name = 8, b""
    while name != b"IEND" and place < len(contents):
        (length,) = struct.unpack(">I", contents[place : place + 4].rjust(4, b"\0"))
        chunk, name = contents[place : place + length + 12], contents[place + 4 : place + 8]
        if name in _PNG_PIXELS and zlib.crc32(chunk[4:-4]).to_bytes(4, "big") != chunk[-4:]:
            raise UnreadableImageError("unreadable", "its data are damaged")
        yield name, chunk
        place += length + 12


def _rgba(image: Image.Image) -> np.ndarray:
    """Returns an opened image that is no JPEG as uint8 [height, width, 4]."""
    if image.mode.startswith("I"):
        # Of 16 bits the upper ones count, but for what is transparent.
        values = np.asarray(image).astype(np.int32)
        alpha = np.where(values == image.info.get("transparency", -1), 0, 255)
        grey = values >> 8
        return np.stack([grey, grey, grey, alpha], axis=2).astype(np.uint8)
    return np.asarray(image.convert("RGBA"))


def _on_white(pixels: np.ndarray) -> np.ndarray:
    """uint8 [height, width, 4] -> [height, width, 3]."""
    if (pixels[..., 3] == 255).all():
        return pixels[..., :3]
    # In place: of the largest photos each copy takes 800 MB.
    colour = pixels[..., :3].astype(np.float32)
    colour -= 255
    colour *= pixels[..., 3:].astype(np.float32) * np.float32(1 / 255)
    colour += 255.5
    return colour.astype(np.uint8)


def orientation(contents: bytes) -> int:
    """Reads the EXIF orientation of an image file, see `fir_tf.images.exif.orientation`.

    Args:
        contents: bytes, the file.

    Returns:
        int, 1 (upright) to 8; 1 where there is none.

    Raises:
        UnreadableImageError: the file is damaged.
    """
    form = format_of(contents)
    if form == "PNG":
        return _turn(_png_pixels(contents)[1])
    if form == "JPEG":
        with opened(contents), JpegImageFile(io.BytesIO(contents)) as image:
            return _turn(image.info.get("exif", b""))
    return 1


def _turn(exif: bytes) -> int:
    """Returns the orientation that an EXIF segment states (EXIF 2.32, tag 0x0112)."""
    found = Image.Exif()
    try:
        found.load(exif)
        value = found.get(_ORIENTATION_TAG, 1)
    except Exception:
        # Broken metadata does not make a photo unreadable; it is then taken as it stands.
        return 1
    return value if value in range(1, 9) else 1


def _fitted(found: _Cut, image_size: int, resize: str) -> np.ndarray:
    """See `fir_tf.images.decode.fit`."""
    if resize == "squash":
        return _resampled(found.pixels, (0, 0), found.extent, (image_size, image_size))
    if resize == "pad":
        longest = np.float32(max(found.extent))
        scaled = np.rint(np.array(found.extent, np.float32) * np.float32(image_size) / longest)
        height, width = (max(int(side), 1) for side in scaled)
        padded = np.full((image_size, image_size, 3), 255, np.float32)
        top, left = (image_size - height) // 2, (image_size - width) // 2
        padded[top : top + height, left : left + width] = _resampled(
            found.pixels, (0, 0), found.extent, (height, width)
        )
        return padded
    side = min(found.extent) * CROP_FRACTION
    corner = ((found.extent[0] - side) / 2, (found.extent[1] - side) / 2)
    return _resampled(found.pixels, corner, (side, side), (image_size, image_size))


def _resampled(
    pixels: np.ndarray,
    corner: tuple[float, float],
    sides: tuple[float, float],
    size: tuple[int, int],
) -> np.ndarray:
    """Resizes a window whose edges may lie between pixels, antialiased (triangle filter).

    Args:
        pixels: uint8 [height, width, 3].
        corner, sides: top and left, height and width of the window in pixels.
        size: height and width of the result.

    Returns:
        float32 [*size, 3] in [0, 255].
    """
    # Each pass has the axis that it resizes first.
    for axis in (0, 1):
        pixels = _along_first(pixels, corner[axis], sides[axis], size[axis]).swapaxes(0, 1)
    return np.clip(pixels, 0, 255)


def _along_first(pixels: np.ndarray, corner: float, side: float, count: int) -> np.ndarray:
    """Resizes the window's first axis: float32 [count, width, 3], means under triangles."""
    first, last = math.floor(corner), min(math.ceil(corner + side), len(pixels))
    step = side / count
    reach = max(step, 1.0)
    centres = ((np.arange(count) + 0.5) * step + corner)[:, np.newaxis]
    result = np.empty((count, *pixels.shape[1:]), np.float32)
    # A few at a time, which lie side by side: of all rows most would be multiplied by 0.
    for start in range(0, count, _ROWS):
        some = centres[start : start + _ROWS]
        low = max(math.floor(some[0, 0] - reach), first)
        high = min(math.ceil(some[-1, 0] + reach), last)
        away = np.abs(np.arange(low, high) + 0.5 - some)
        weights = np.maximum(1 - away / reach, 0)
        weights /= weights.sum(axis=1, keepdims=True)
        rows = pixels[low:high].reshape(high - low, -1).astype(np.float32)
        found = weights.astype(np.float32) @ rows
        result[start : start + _ROWS] = found.reshape(-1, *pixels.shape[1:])
    return result


def _upright(pixels: np.ndarray, turn: int) -> np.ndarray:
    """Turns a fitted image the way it was seen."""
    if turn >= 5:
        pixels = pixels.swapaxes(0, 1)
    if turn in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if turn in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
