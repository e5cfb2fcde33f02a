"""The window of a photo that a box means, in the pixels as they are stored.

Everything here is TensorFlow ops, so the served graph cuts as training and evaluation do.
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from fir_tf.images.exif import orientation
from fir_tf.images.header import dimensions

Choose = Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
"""See `fir_tf.images.decode.decode`."""


class Crop(NamedTuple):
    """What of a photo is looked at.

    Attributes:
        box: float32 [4], left, top, width and height in the upright photo; NaN for all of it.
        in_shares: bool scalar, whether in shares of its width and height instead of pixels.
        margin: float, what is added on each side, as a share of the box's width and height.
    """

    box: tf.Tensor
    in_shares: tf.Tensor
    margin: float


def within(crop: Crop, turn: tf.Tensor, choose: Choose) -> Choose:
    """Returns what chooses in a photo as `choose` does in the crop of it.

    A box without an area, or that shares none with the photo, is an error when it is run.

    Args:
        crop: Crop.
        turn: int32 scalar, the photo's EXIF orientation, see `fir_tf.images.exif.orientation`.
        choose: Choose.
    """

    def chosen(height: tf.Tensor, width: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        cut = stored_window(crop, turn, height, width)
        window, count = choose(cut[2], cut[3])
        return tf.concat([cut[:2] + window[:2], window[2:]], axis=0), count

    return chosen


def stored_window(crop: Crop, turn: tf.Tensor, height: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
    """Returns the window of a photo's stored pixels that a crop means.

    Edges go to the nearest pixel, at least one pixel is left, and what lies outside of the photo
    is left out.

    Args:
        crop: Crop.
        turn: int32 scalar, see `within`.
        height, width: int32 scalars, the photo's size as it is stored, in pixels.

    Returns:
        int32 [4]: top, left, height, width in pixels.

    Raises:
        tf.errors.InvalidArgumentError: when run, for a box without an area in the photo.
    """
    stored = tf.cast(tf.stack([width, height]), tf.float32)
    # Width and height as it is seen.
    sides = tf.where(turn >= 5, stored[::-1], stored)
    corner, size, good = _placed(crop, sides)
    with tf.control_dependencies([tf.debugging.Assert(good, ["no area in the photo", crop.box])]):
        start = tf.round(tf.clip_by_value(corner - crop.margin * size, 0.0, sides))
        end = tf.round(tf.clip_by_value(corner + (1.0 + crop.margin) * size, 0.0, sides))
    start = tf.minimum(start, sides - 1.0)
    end = tf.maximum(end, start + 1.0)
    # What turns a photo upright, backwards.
    backwards = tf.stack(
        [tf.reduce_any(tf.equal(turn, [2, 3, 6, 7])), tf.reduce_any(tf.equal(turn, [3, 4, 7, 8]))]
    )
    start, end = tf.where(backwards, sides - end, start), tf.where(backwards, sides - start, end)
    window = tf.stack([start[::-1], end[::-1] - start[::-1]])
    window = tf.where(turn >= 5, window[:, ::-1], window)
    return tf.cast(tf.reshape(window, [4]), tf.int32)


def has_area(crop: Crop, sides: tf.Tensor) -> tf.Tensor:
    """Returns a bool scalar, whether a crop has an area in a photo.

    Args:
        crop: Crop.
        sides: float32 [2], width and height of the upright photo in pixels.
    """
    return _placed(crop, sides)[2]


def _placed(crop: Crop, sides: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns (left and top, width and height in pixels, whether they have an area in it)."""
    whole = tf.reduce_all(tf.math.is_nan(crop.box))
    box = tf.reshape(crop.box, [2, 2]) * tf.where(crop.in_shares, sides, 1.0)
    box = tf.where(whole, tf.stack([tf.zeros([2]), sides]), box)
    corner, size = box[0], box[1]
    good = tf.reduce_all(tf.math.is_finite(box)) & tf.reduce_all(size > 0)
    good &= tf.reduce_all(corner < sides) & tf.reduce_all(corner + size > 0)
    return corner, size, good


def shares(contents: tf.Tensor, box: tf.Tensor, in_shares: tf.Tensor) -> tf.Tensor:
    """Returns a box in shares of the sides of its upright photo.

    Args:
        contents: string scalar, an image file's bytes.
        box: float32 [4], see `Crop`.
        in_shares: bool scalar, see `Crop`.

    Returns:
        float32 [4]: left, top, width and height; 0, 0, 1, 1 of the whole photo.
    """
    found = tf.where(in_shares, box, box / tf.tile(upright_sides(contents), [2]))
    return tf.where(tf.reduce_all(tf.math.is_nan(box)), [0.0, 0.0, 1.0, 1.0], found)


def upright_sides(contents: tf.Tensor) -> tf.Tensor:
    """Returns width and height of a photo as it is seen upright, in pixels: float32 [2].

    Args:
        contents: string scalar, an image file's bytes.
    """
    height_and_width = tf.cast(dimensions(contents), tf.float32)
    turned = orientation(contents) >= 5
    return tf.where(turned, height_and_width, height_and_width[::-1])
