"""COCO's JSON of images and annotations: a row for each annotated garment.

https://cocodataset.org/#format-data
"""

import json
import math
import re
from collections.abc import Iterator
from typing import Any

from fir_tf.datasets.boxes import read_box
from fir_tf.datasets.feeds.format import BOXES, Format, Row, column_name
from fir_tf.datasets.feeds.json_lines import as_cell
from fir_tf.datasets.feeds.source import Source
from fir_tf.datasets.metadata import Cell
from fir_tf.errors import FirError

_BEGINNING = re.compile(r'\s*\{\s*"(info|licenses|images|annotations|categories)"\s*:')
# What COCO says of images and annotations; all else is metadata.
_OWN = frozenset(
    ["id", "file_name", "width", "height", "license", "coco_url", "flickr_url", "date_captured"]
    + ["image_id", "category_id", "bbox", "area", "segmentation", "iscrowd", "keypoints"]
    + ["num_keypoints"]
)


def _recognises(source: Source) -> bool:
    if not _BEGINNING.match(source.head):
        return False
    try:
        first = json.loads(source.head.lstrip().splitlines()[0])
    except (ValueError, RecursionError):
        # Over several lines, or in one that is longer than what was looked at: no JSON Lines.
        return True
    return isinstance(first, dict) and {"images", "annotations"} <= first.keys()


def _rows(source: Source) -> Iterator[Row]:
    """Yields the annotations of each image, the largest box first, numbered from 1.

    An image without annotations is a row of the number 0.
    """
    images, annotations, categories = _read(source)
    found: dict[Any, list[tuple[float, int, dict[str, Cell]]]] = {key: [] for key in images}
    for number, annotation in enumerate(annotations, 1):
        place = f"{source.path}: annotation {number} (id {annotation.get('id', 'missing')})"
        image = images.get(annotation.get("image_id"))
        if image is None:
            raise FirError(
                f"{place}: `image_id` must be that of an image. "
                f"Received: {annotation.get('image_id')!r}"
            )
        category = annotation.get("category_id")
        if category is not None and category not in categories:
            raise FirError(f"{place}: `category_id` must be a category's. Received: {category!r}")
        bbox = as_cell(annotation.get("bbox"))
        row = {**_others(annotation), "category": categories.get(category, ""), "box": bbox}
        found[annotation["image_id"]].append((-_area(place, bbox, image), number, row))
    for key, image in images.items():
        own = {**_others(image), "path": as_cell(image.get("file_name"))}
        for _, number, row in sorted(found[key], key=lambda one: one[:2]) or [(0.0, 0, {})]:
            yield number, own | row


def _read(source: Source) -> tuple[dict[Any, dict], list[dict], dict[Any, str]]:
    """Returns the images by their ids, the annotations, and the categories' names by their ids."""
    try:
        with source.bytes() as file:
            everything = json.load(file)
    except (ValueError, RecursionError) as error:
        raise FirError(
            f"{source.path} must be one JSON object with `images` and `annotations`, as COCO has "
            f"it, or JSON Lines. Received: {error}"
        ) from error
    parts = {}
    for name in ("images", "annotations", "categories"):
        part = everything.get(name, [] if name == "categories" else None)
        if not isinstance(part, list) or not all(isinstance(one, dict) for one in part):
            raise FirError(
                f"{source.path}: `{name}` must be a list of objects, as COCO has it. "
                f"Received: {type(part).__name__}"
            )
        parts[name] = part
    images: dict[Any, dict] = {}
    for number, image in enumerate(parts["images"], 1):
        if not isinstance(image.get("id"), int | str) or image["id"] in images:
            raise FirError(
                f"{source.path}: image {number}: `id` must be a number or text of its own. "
                f"Received: {image.get('id')!r}"
            )
        images[image["id"]] = image
    names = {one.get("id"): str(one.get("name", "")) for one in parts["categories"]}
    return images, parts["annotations"], names


def _others(entry: dict) -> dict[str, Cell]:
    """Returns what COCO has no name for, such as item, split, title and price."""
    return {column_name(name): as_cell(value) for name, value in entry.items() if name not in _OWN}


def _area(place: str, bbox: Cell, image: dict) -> float:
    """Returns a box's area in pixels, 0 of none; FirError if it lies outside of its image."""
    box = read_box(place, bbox)
    if box is None:
        return 0.0
    left, top, width, height, _ = box
    across, down = (_side(image.get(name)) for name in ("width", "height"))
    if left >= across or top >= down:
        raise FirError(
            f"{place}: `bbox` lies outside of its image of {across:g} x {down:g} pixels. "
            f"Received: {left:g}, {top:g}, {width:g}, {height:g}"
        )
    return width * height


def _side(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.inf


FORMAT = Format(
    "COCO's JSON",
    _recognises,
    _rows,
    {
        "path": ("path",),
        "item": ("item", "item_id"),
        "category": ("category",),
        "domain": ("domain",),
        "split": ("split",),
        "box": BOXES,
    },
    more_photos="",
    key="",
    required=("path",),
    typed=True,
)
