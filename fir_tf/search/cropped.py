"""The box that a record's photo is cropped to.

It stands in the record's checksum, behind that of the contents: a vector is made of both, and of
another box it is another vector. A box travels with its record and needs no column of an engine.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fir_tf.datasets.catalogue import no_boxes
from fir_tf.errors import FirError
from fir_tf.hygiene.boxes import no_area
from fir_tf.images.file import opened
from fir_tf.images.window import Boxes
from fir_tf.search.engines.base import Record

_MARK, _SHARES = "@", "%"


def with_box(record: Record, box: np.ndarray, in_shares: bool) -> Record:
    """Returns a record of a photo that is not read yet, which bears its box.

    Args:
        record: Record without a checksum.
        box: float32 [4], see `fir_tf.datasets.catalogue.Catalogue`; NaN for the whole photo.
        in_shares: bool.
    """
    if np.isnan(box).any():
        return record
    # As many digits as float32 has.
    text = ",".join(f"{number:.9g}" for number in box) + _SHARES * bool(in_shares)
    return dataclasses.replace(record, checksum=_MARK + text)


def with_contents(record: Record, checksum: str) -> Record:
    """Returns a record that is not read yet, perhaps with a box, with its contents' checksum."""
    return dataclasses.replace(record, checksum=checksum + record.checksum)


def known_contents(record: Record, before: Record | None) -> str:
    """Returns the checksum of the contents that an index has a photo's vector of.

    Args:
        record: Record that is not read yet.
        before: Record of the same path in the index, or None.

    Returns:
        str, empty where it has none of this photo, or one of another box.
    """
    contents, mark, box = (before.checksum if before else "").partition(_MARK)
    return contents if mark + box == record.checksum else ""


def boxes_of(records: Sequence[Record]) -> Boxes | None:
    """Returns the boxes that records bear; None where none has any."""
    texts = [record.checksum.partition(_MARK)[2] for record in records]
    if not any(texts):
        return None
    boxes = no_boxes(len(texts))
    for row, text in enumerate(texts):
        if text:
            boxes[row] = [float(number) for number in text.removesuffix(_SHARES).split(",")]
    return boxes, np.array([text.endswith(_SHARES) for text in texts], bool)


def without_box(record: Record) -> Record:
    """Returns a record as it is where photos are not cropped."""
    return dataclasses.replace(record, checksum=record.checksum.partition(_MARK)[0])


def unread(record: Record) -> Record:
    """Returns a record of an index as one that is not read yet, with its box."""
    _, mark, box = record.checksum.partition(_MARK)
    return dataclasses.replace(record, checksum=mark + box)


def as_shares(contents: bytes, box: Sequence[float]) -> list[float]:
    """Returns a box in pixels as shares of the photo's sides: it may be converted to another size.

    Args:
        contents: bytes, the photo's file.
        box: left, top, width and height, perhaps followed by what else is told of it.

    Raises:
        FirError: it has no area in the photo.
        UnreadableImageError: the photo cannot be read.
    """
    with opened(contents) as (_, header):
        width, height = header.width, header.height
        if header.orientation >= 5:
            width, height = height, width
    left, top, *size = box[:4]
    if left >= width or top >= height:
        raise FirError(
            f"`box` must have an area in the photo of {width} x {height} pixels. "
            f"Received: {left:g},{top:g},{size[0]:g},{size[1]:g}"
        )
    return [left / width, top / height, size[0] / width, size[1] / height]


def cropping_of(how: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `crop` and `crop_margin` of how an index's photos were embedded.

    Example:
        >>> cropping_of({"flip": False})
        {'crop': 'image', 'crop_margin': 0.0}
    """
    return {"crop": how.get("crop", "image"), "crop_margin": how.get("crop_margin", 0.0)}


def cropped_alike(how: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether photos are cropped in the same way; without a crop there is no margin."""
    one, two = cropping_of(how), cropping_of(other)
    return one == two or one["crop"] == two["crop"] != "box"


def why_not_cropped(file: Path, record: Record) -> str:
    """Returns why a photo has no area in its box, empty where it has, or has no box."""
    found = boxes_of([record])
    return no_area(file, found[0][0], bool(found[1][0])) if found else ""
