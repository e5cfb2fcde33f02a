"""An image file as the model sees it, for what is checked, prepared and shown.

The decoder is the graph's (`fir_tf.images.decode`). What it refuses is refused; Pillow converts
what training does not read at all, and finds words for what is wrong.
"""

import dataclasses
import io
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from fir_tf.images.decode import decode, halvings
from fir_tf.images.exif import orientation
from fir_tf.images.file import UnreadableImageError, bounded, opened, to_rgb, upright
from fir_tf.images.header import FORMATS, dimensions, is_known
from fir_tf.images.limits import MAX_BYTES, MAX_PIXELS

# What may be wrong with a file of which `see_or_convert` makes a picture all the same.
CONVERTIBLE = ("format", "too_large")

_CONTENTS = tf.TensorSpec([], tf.string)


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image that was read.

    Attributes:
        image: PIL.Image.Image of mode RGB, upright, what is transparent on white.
        width: int, pixels, as stored.
        height: int, pixels, as stored.
        orientation: int, 1 to 8 (EXIF 2.3, section 4.6.4: Orientation); 1 is upright.
    """

    image: Image.Image
    width: int
    height: int
    orientation: int

    def jpeg(self, **options: Any) -> bytes:
        """Returns the image as a JPEG file's bytes; `options` are Pillow's, such as `quality`."""
        buffer = io.BytesIO()
        self.image.save(buffer, "JPEG", **options)
        return buffer.getvalue()


def claimed_size(contents: bytes) -> tuple[int, int]:
    """Reads an image's header as training does.

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
    try:
        known, sides = _header(contents)
    except tf.errors.InvalidArgumentError as error:
        raise _explained(contents) from error
    height, width = (int(side) for side in sides)
    if not known:
        raise UnreadableImageError("format", f"it is none of {', '.join(FORMATS)}")
    if height * width > MAX_PIXELS or len(contents) > MAX_BYTES:
        raise UnreadableImageError(
            "too_large",
            f"{width} x {height} pixels in {len(contents):,} bytes are more than the "
            f"{MAX_PIXELS:,} pixels or {MAX_BYTES:,} bytes that are taken",
        )
    if not height * width:
        if contents.startswith(b"BM"):
            raise UnreadableImageError(
                "format", "of BMPs only plain ones of 24 or 32 bits a pixel are read"
            )
        raise UnreadableImageError("unreadable", "it has no pixels")
    return height, width


def see(contents: bytes, max_side: int | None = None) -> Picture:
    """Decodes an image as training, evaluation, the index and serving do.

    Args:
        contents: bytes, the file.
        max_side: int, the longest side in pixels; smaller images are not enlarged. None for any.

    Returns:
        Picture.

    Raises:
        UnreadableImageError: if they would not decode it.
    """
    height, width = claimed_size(contents)
    try:
        # Twice the size is kept, so that the last step is a proper filter.
        pixels, turn = _pixels(contents, 2.0 * (max_side or np.inf))
    except tf.errors.OpError as error:
        raise _explained(contents) from error
    image = Image.fromarray(pixels.numpy())
    image = bounded(image, max_side, (width, height))
    return Picture(upright(image, int(turn)), width, height, int(turn))


def _converted(contents: bytes, max_side: int | None) -> Picture:
    """Reads an image that training does not read; see `see`."""
    with opened(contents) as (image, header):
        rgb = to_rgb(image, header.orientation, max_side)
        return Picture(rgb, header.width, header.height, header.orientation)


def see_or_convert(contents: bytes, max_side: int | None = None) -> tuple[Picture, str]:
    """Reads any image: as training does, or, where that is a matter of its format, by Pillow.

    Args:
        contents: bytes, the file.
        max_side: see `see`.

    Returns:
        (Picture, str: why training does not read it, one of `CONVERTIBLE`, or "" if it does).

    Raises:
        UnreadableImageError: if it cannot be decoded.
    """
    try:
        return see(contents, max_side), ""
    except UnreadableImageError as error:
        if error.kind not in CONVERTIBLE:
            raise
        return _converted(contents, max_side), error.kind


def _explained(contents: bytes) -> UnreadableImageError:
    """Returns the UnreadableImageError of a file that the graph refuses, in Pillow's words."""
    try:
        with opened(contents) as (image, _):
            image.load()
    except UnreadableImageError as error:
        return error
    return UnreadableImageError("unreadable", "its data are damaged")


# Nothing here is for AutoGraph, whose conversion takes seconds at the first image.
@tf.function(input_signature=[_CONTENTS], autograph=False)
def _header(contents: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    with tf.device("CPU:0"):
        return is_known(contents), dimensions(contents)


@tf.function(input_signature=[_CONTENTS, tf.TensorSpec([], tf.float32)], autograph=False)
def _pixels(contents: tf.Tensor, wanted: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    def choose(height: tf.Tensor, width: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        longest = tf.maximum(height, width)
        return tf.stack([0, 0, height, width]), halvings(longest, wanted)

    with tf.device("CPU:0"):
        return decode(contents, choose)[0], orientation(contents)
