"""What the places of a photo add to a score, drawn over the photo."""

import dataclasses

import numpy as np
from PIL import Image

from fir_tf.images.rules import CROP_FRACTION

Window = tuple[float, float, float, float]
"""Left, top, right and bottom, as shares of a photo's width and height; outside of [0, 1] there is
no photo."""

# Okabe and Ito's vermilion and blue, told apart with any colour vision.
FOR, AGAINST = (213, 94, 0), (0, 114, 178)
# How much of the photo's light is left under no heat, and how much of it the heat covers at most.
_DIMMED, _COVERED = 0.45, 0.4


@dataclasses.dataclass(frozen=True)
class Heat:
    """A map that is drawn over a photo.

    Attributes:
        values: float [h, w], what each place adds to the score.
        resize: str, how the photo was fitted for the network, see `fir_tf.images.decode.fit`.
    """

    values: np.ndarray
    resize: str


def window(width: int, height: int, resize: str) -> Window:
    """Returns the part of a photo that a network's square input shows.

    Args:
        width, height: int, pixels of the upright photo.
        resize: str, how photos are fitted, see `fir_tf.images.decode.fit`.
    """
    if resize == "squash":
        return 0.0, 0.0, 1.0, 1.0
    side = max(width, height) if resize == "pad" else CROP_FRACTION * min(width, height)
    across, down = side / width, side / height
    return (1 - across) / 2, (1 - down) / 2, (1 + across) / 2, (1 + down) / 2


def draw_heat(photo: Image.Image, heat: Heat) -> Image.Image:
    """Draws a map over a photo: orange where it speaks for the match, blue where against it.

    What the network did not see, and what adds nothing, is dark.

    Args:
        photo: PIL.Image.Image of mode RGB, upright.
        heat: Heat.

    Returns:
        PIL.Image.Image of the photo's size.
    """
    around = window(*photo.size, heat.resize)
    strength = _over(photo.size, heat.values, around)[..., None]
    light = np.asarray(photo, np.float32)
    grey = light @ np.array([0.299, 0.587, 0.114], np.float32)
    under = _DIMMED * (0.5 * light + 0.5 * grey[..., None])
    share = np.abs(strength)
    shown = under + share * (light - under)
    colour = np.where(strength > 0, np.array(FOR, np.float32), np.array(AGAINST, np.float32))
    shown += _COVERED * share * share * (colour - shown)
    return Image.fromarray(np.clip(shown + 0.5, 0, 255).astype(np.uint8))


def _over(size: tuple[int, int], heat: np.ndarray, around: Window) -> np.ndarray:
    """Returns the map in [-1, 1] for each pixel of a photo of `size`, 0 outside of its window."""
    scale = float(np.abs(heat).max()) or 1.0
    picture = Image.fromarray((np.asarray(heat) / scale).astype(np.float32))
    left, top, right, bottom = around
    width, height = size
    box = [round(left * width), round(top * height), round(right * width), round(bottom * height)]
    sides = max(box[2] - box[0], 1), max(box[3] - box[1], 1)
    canvas = Image.new("F", size)
    canvas.paste(picture.resize(sides, Image.Resampling.BICUBIC), (box[0], box[1]))
    return np.clip(np.asarray(canvas), -1, 1)
