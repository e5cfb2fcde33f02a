"""What a locator finds in a photo, and how a locator is asked for."""

import dataclasses
import io
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from fir_tf import registry
from fir_tf.errors import FirError

Box = tuple[float, float, float, float]
"""Left, top, width and height, as shares of the upright photo's width and height."""

# Garments of one photo; of two boxes that share more than this of their union one is left.
MOST, SAME_PLACE = 8, 0.5


@dataclasses.dataclass(frozen=True)
class Garment:
    """A garment that was found in a photo.

    Attributes:
        box: Box.
        category: str, empty where the locator knows none.
        score: float in [0, 1], how sure it is.
    """

    box: Box
    category: str
    score: float


Locator = Callable[[Sequence[bytes]], list[list[Garment]]]
"""Image files' contents -> the garments of each, the surest first; none of what cannot be read."""


def open_locator(text: str, model: str = "") -> Locator:
    """Opens the locator that `--locator` names.

    Args:
        text: str, `<name>` or `<name>:<place>`, the name of a part of the kind "locator" and what
            it is told, such as `saved_model:detector`.
        model: str, the folder of the model that searches: of a run or an export.

    Raises:
        FirError: there is no such part, or it cannot be opened.
    """
    name, _, place = text.partition(":")
    return registry.get("locator", name)(place, model)


def own_locator(model: str) -> Locator:
    """Opens what needs nothing but the model that searches: its category map.

    Args:
        model: str, the folder of a run or an export; empty for a model in hand.

    Raises:
        FirError: it has none.
    """
    return open_locator("category_map", model)


def suppressed(boxes: np.ndarray, scores: np.ndarray, least: float) -> list[int]:
    """Returns which boxes are left of those that show the same, the best first.

    Args:
        boxes: float [n, 4], left, top, width and height.
        scores: float [n].
        least: float, boxes of lower scores are left out.
    """
    if not len(boxes):
        return []
    import tensorflow as tf

    corners = np.asarray(boxes, np.float32).copy()
    corners[:, 2:] += corners[:, :2]
    kept = tf.image.non_max_suppression(
        corners[:, [1, 0, 3, 2]], np.asarray(scores, np.float32), MOST, SAME_PLACE, least
    )
    return kept.numpy().tolist()


def cut(photo: Image.Image, box: Box) -> Image.Image:
    """Cuts a garment out of a photo: a square around its box with some room, within the photo.

    Args:
        photo: PIL.Image.Image, upright.
        box: Box.

    Raises:
        FirError: the box has no area in the photo.
    """
    left, top = box[0] * photo.width, box[1] * photo.height
    width, height = box[2] * photo.width, box[3] * photo.height
    outside = left >= photo.width or top >= photo.height or left + width <= 0 or top + height <= 0
    if not np.isfinite(box).all() or width <= 0 or height <= 0 or outside:
        raise FirError(f"`box` must have an area in the photo. Received: {box}")
    import tensorflow as tf

    from fir_tf.locate.room import with_room

    sides = np.array(photo.size, np.float32)
    start, square = np.split(with_room(tf.constant(box, tf.float32), sides).numpy(), 2)
    edges = np.rint([*start, *(start + square)]).astype(int).tolist()
    return photo.crop(
        (edges[0], edges[1], max(edges[2], edges[0] + 1), max(edges[3], edges[1] + 1))
    )


def png(image: Image.Image) -> bytes:
    """Returns an image as a PNG file's contents."""
    buffer = io.BytesIO()
    # What is written is read at once.
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
