"""Cloud Vision Product Search's CSV for bulk imports: eight columns and no header.

https://cloud.google.com/vision/product-search/docs/csv-format
"""

import re
from collections.abc import Iterator

from fir_tf.datasets.boxes import read_polygon
from fir_tf.datasets.feeds.delimited import first_row, read_cells
from fir_tf.datasets.feeds.format import Format, Row, column_name
from fir_tf.datasets.feeds.source import Source
from fir_tf.datasets.metadata import Cell
from fir_tf.errors import FirError

_COLUMNS = (
    "image_uri",
    "image_id",
    "product_set_id",
    "product_id",
    "product_category",
    "product_display_name",
    "labels",
    "bounding_poly",
)


def _recognises(source: Source) -> bool:
    cells = first_row(source)
    # A file's name or address, and what no header has: the set's and the product's names.
    return len(cells) == len(_COLUMNS) and bool(re.search(r"\.\w{3,4}$|://", cells[0].strip()))


def _rows(source: Source) -> Iterator[Row]:
    for line, cells in read_cells(source, len(_COLUMNS)):
        row: dict[str, Cell] = dict(zip(_COLUMNS, map(str.strip, cells), strict=True))
        place = f"{source.path}:{line}"
        row["bounding_poly"] = _vertices(str(row["bounding_poly"]))
        labels = _labels(place, str(row.pop("labels")))
        yield line, row | {name: texts[0] if len(texts) == 1 else texts for name, texts in labels}


def _labels(place: str, text: str) -> Iterator[tuple[str, list[str]]]:
    """Yields (key, its values) of `key=value,key=value`, also with `|` between them."""
    labels: dict[str, list[str]] = {}
    for pair in filter(None, map(str.strip, re.split("[,|]", text))):
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not (key and equals):
            raise FirError(f"{place}: `labels` must be key=value pairs. Received: {pair!r}")
        name = column_name(key)
        labels.setdefault(f"label_{name}" if name in _COLUMNS else name, []).append(value)
    yield from labels.items()


def _vertices(text: str) -> Cell:
    """Returns the polygon `x,y,x,y,...` as a list of its numbers."""
    return [number.strip() for number in text.split(",")] if text else ""


FORMAT = Format(
    "Cloud Vision Product Search's CSV",
    _recognises,
    _rows,
    {
        "path": ("image_uri",),
        "item": ("product_id",),
        "category": ("product_category",),
        "domain": (),
        "split": (),
        "box": ("bounding_poly",),
    },
    more_photos="",
    key="image_id",
    required=("path", "item", "category"),
    read_box=read_polygon,
)
