"""The window of a photo that a box means, by the rules of `fir_tf.images.box`, in NumPy."""

from typing import NamedTuple

import numpy as np

Boxes = tuple[np.ndarray, np.ndarray]
"""float32 [n, 4] and bool [n]: the columns `box` and `box_in_shares` of a Catalogue."""


class Part(NamedTuple):
    """What of a photo is looked at.

    Attributes:
        box: float32 [4], left, top, width and height in the upright photo; NaN for all of it.
        in_shares: bool, whether in shares of its width and height instead of pixels.
        margin: float, what is added on each side, as a share of the box's width and height.
    """

    box: np.ndarray
    in_shares: bool
    margin: float


def stored_window(part: Part, turn: int, height: int, width: int) -> tuple[int, ...] | None:
    """Returns the window of a photo's stored pixels that a part means.

    Edges go to the nearest pixel, at least one pixel is left, and what lies outside of the photo
    is left out.

    Args:
        part: Part.
        turn: int, 1 to 8, the photo's EXIF orientation.
        height, width: int, the photo's size as it is stored, in pixels.

    Returns:
        (top, left, height, width) in pixels; None where the box has no area in the photo.
    """
    # Width and height as it is seen.
    sides = np.array([height, width] if turn >= 5 else [width, height], np.float32)
    found = _placed(part, sides)
    if found is None:
        return None
    corner, size = found
    margin = np.float32(part.margin)
    start = np.rint(np.clip(corner - margin * size, 0, sides))
    end = np.rint(np.clip(corner + (1 + margin) * size, 0, sides))
    start = np.minimum(start, sides - 1)
    end = np.maximum(end, start + 1)
    # What turns a photo upright, backwards.
    backwards = np.array([turn in (2, 3, 6, 7), turn in (3, 4, 7, 8)])
    start, end = np.where(backwards, sides - end, start), np.where(backwards, sides - start, end)
    left_top, size = (start[::-1], (end - start)[::-1]) if turn >= 5 else (start, end - start)
    return tuple(int(number) for number in (*left_top[::-1], *size[::-1]))


def has_area(part: Part, sides: tuple[int, int]) -> bool:
    """Returns whether a part has an area in a photo of `sides`, upright width and height."""
    return _placed(part, np.array(sides, np.float32)) is not None


def _placed(part: Part, sides: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns (left and top, width and height in pixels), None where they have no area in it."""
    box = np.asarray(part.box, np.float32).reshape(2, 2)
    if np.isnan(box).all():
        return np.zeros(2, np.float32), sides
    corner, size = box * sides if part.in_shares else box
    good = np.isfinite([corner, size]).all() and (size > 0).all()
    return (corner, size) if good and (corner < sides).all() and (corner + size > 0).all() else None
