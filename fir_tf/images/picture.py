"""An image file as the model sees it, for what is checked, prepared and shown.

The decoder is the graph's (`fir_tf.images.decode`). What it refuses is refused; Pillow converts
what training does not read at all, and finds words for what is wrong.
"""

import dataclasses
import io
from typing import Any

import numpy as np
from PIL import Image

from fir_tf.images.claimed import claimed_size
from fir_tf.images.file import UnreadableImageError, bounded, opened, to_rgb, upright

# What may be wrong with a file of which `see_or_convert` makes a picture all the same.
CONVERTIBLE = ("format", "too_large")


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
    # TensorFlow takes seconds to import, and what is no photo is told without it.
    from fir_tf.images.whole import decoded

    # Twice the size is kept, so that the last step is a proper filter.
    found = decoded(contents, 2.0 * (max_side or np.inf))
    if found is None:
        raise _explained(contents)
    pixels, turn = found
    image = bounded(Image.fromarray(pixels), max_side, (width, height))
    return Picture(upright(image, turn), width, height, turn)


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
