"""Where in its photo a garment is: boxes as tables, feeds and programs write them."""

import math
import re
from collections.abc import Callable, Sequence

from fir_tf.datasets.labels import known
from fir_tf.datasets.metadata import Cell
from fir_tf.errors import FirError

Box = tuple[float, float, float, float, bool]
"""Left, top, width and height, and whether in shares of the photo's sides instead of pixels."""

BoxReader = Callable[[str, Cell], Box | None]
"""Function of a place, such as `a.csv`, and a cell that returns a Box, None of an empty cell."""

_WHOLE = re.compile(r"\d+")


def read_box(place: str, cell: Cell) -> Box | None:
    """Reads a box, `left,top,width,height` in pixels of the upright photo.

    Args:
        place: str, where it stands, for the message.
        cell: the four numbers, as a list or a text with commas, semicolons or blanks between, in
            brackets or not. An unknown cell (`fir_tf.datasets.labels.known`) is the whole photo.

    Returns:
        Box, None for the whole photo.

    Raises:
        FirError: it is anything else, not finite, empty, or lies left of or above the photo.
    """
    parts = _parts(cell)
    if not any(known(part) for part in parts):
        return None
    numbers = _finite(parts)
    if len(numbers) == 4 and min(numbers[2:]) > 0:
        left, top, width, height = numbers
        if left + width > 0 and top + height > 0:
            return left, top, width, height, False
    raise FirError(
        f"{place}: a box must be left,top,width,height in pixels of the upright photo, with width "
        "and height above 0 and within the photo; an empty cell is the whole photo, and "
        "--columns=box=NAME takes another column. "
        f"Received: {', '.join(parts)!r}"
    )


def read_polygon(place: str, cell: Cell) -> Box | None:
    """Reads the box around a polygon as Cloud Vision writes it, `x,y,x,y,...`.

    Args:
        place: str, where it stands, for the message.
        cell: the numbers, as a list or a text with commas between. All of them from 0 to 1 are
            shares of the photo's sides, other whole numbers are pixels of the upright photo.

    Returns:
        Box, None for an empty cell.

    Raises:
        FirError: it is anything else, or of no area.
    """
    parts = _parts(cell)
    if not any(parts):
        return None
    numbers = _finite(parts)
    in_shares = all(0 <= number <= 1 for number in numbers)
    if len(numbers) >= 4 and not len(numbers) % 2:
        left, right = min(numbers[::2]), max(numbers[::2])
        top, bottom = min(numbers[1::2]), max(numbers[1::2])
        pixels = all(_WHOLE.fullmatch(part) for part in parts)
        if (in_shares or pixels) and left < right and top < bottom:
            return left, top, right - left, bottom - top, in_shares
    raise FirError(
        f"{place}: `bounding-poly` must be x,y,x,y,... of at least two vertices with an area "
        "between them, normalized between 0 and 1 or whole numbers of pixels. "
        f"Received: {','.join(parts)!r}"
    )


def _parts(cell: Cell) -> list[str]:
    """Returns the parts of a cell, a text each."""
    if isinstance(cell, list):
        return [part.strip() for part in cell]
    text = str(cell).strip()
    inner = re.fullmatch(r"[\[(](.*)[\])]", text)
    return re.split(r"\s*[,;]\s*|\s+", inner[1].strip() if inner else text)


def _finite(parts: Sequence[str]) -> list[float]:
    """Returns the numbers that the parts are, [] unless all are finite."""
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        return []
    return numbers if all(map(math.isfinite, numbers)) else []
