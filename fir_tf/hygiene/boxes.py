"""Boxes that have no area in their photos."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from fir_tf.datasets.catalogue import Catalogue
from fir_tf.datasets.walk import printable
from fir_tf.images.claimed import claimed_size
from fir_tf.images.file import UnreadableImageError, read
from fir_tf.images.plain import orientation
from fir_tf.images.window import Part, has_area


def box_fault(catalogue: Catalogue, row: int) -> str:
    """Says why an image cannot be cropped to its box.

    Args:
        catalogue: Catalogue.
        row: int.

    Returns:
        str that names file and line; empty where the image has no box, has one with an area in it,
        or is itself what cannot be read.
    """
    if not catalogue.has_box()[row]:
        return ""
    path = catalogue.root / catalogue.path[row]
    fault = no_area(path, catalogue.box[row], bool(catalogue.box_in_shares[row]))
    return f"{catalogue.location(row)}: {printable(str(path))}: {fault}" if fault else ""


def no_area(path: Path, box: np.ndarray, in_shares: bool) -> str:
    """Says that a box, float32 [4], has no area in the photo of a file, with the photo's size."""
    try:
        contents = read(path)
        height, width = claimed_size(contents)
        turned = orientation(contents) >= 5
    except UnreadableImageError:
        return ""
    return area_fault(box, in_shares, (height, width) if turned else (width, height))


def area_fault(box: np.ndarray, in_shares: bool, sides: tuple[int, int]) -> str:
    """Says that a box, float32 [4], has no area in a photo; empty where it has.

    Args:
        box: float32 [4], see `fir_tf.images.window.Part`.
        in_shares: bool.
        sides: (width, height) of the upright photo in pixels.
    """
    if has_area(Part(box, in_shares, 0.0), sides):
        return ""
    numbers = ", ".join(f"{number:g}" for number in box)
    unit = "shares of its sides" if in_shares else "pixels"
    return (
        f"its box must have an area in the photo of {sides[0]} x {sides[1]} pixels. "
        f"Received: {numbers} in {unit}"
    )


def described(catalogue: Catalogue, rows: Iterable[int]) -> list[str]:
    """Returns a text for each image that could not be read: its path, or what its box lacks."""
    return [box_fault(catalogue, row) or str(catalogue.root / catalogue.path[row]) for row in rows]
