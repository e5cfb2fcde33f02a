"""What a format of feeds is, and how its columns are called."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

from fir_tf.datasets.boxes import BoxReader, read_box
from fir_tf.datasets.feeds.source import Source
from fir_tf.datasets.metadata import Cell

Row = tuple[int, Mapping[str, Cell]]
"""The line that a row begins on, from 1, and its cells by their columns' names."""

BOXES = ("box", "box_left+box_top+box_width+box_height")
"""tuple of str, the columns that may have a box: one with all of it, or four, with + between."""

# Of several columns the first that is not empty counts. Google Merchant's names, then our own.
_ROLES = {
    "path": ("image_link", "path"),
    "item": ("item_group_id", "item", "id"),
    "category": ("product_type", "google_product_category", "category"),
    "domain": ("domain",),
    "split": ("split",),
    "box": BOXES,
}


@dataclasses.dataclass(frozen=True)
class Format:
    """A format of product feeds.

    Attributes:
        description: str, for lists and messages.
        recognises: function of a Source that tells by its `head` whether it is of this format.
        rows: function of a Source that yields its Rows.
        roles: dict of the columns that may say an image's path, item, category, domain, split and
            box.
        more_photos: str, the column of a product's further photos; empty where there is none.
        most_photos: int, how many of those are read.
        key: str, the column whose values must differ; empty where there is none.
        required: sequence of str, the roles that rows must have a column for.
        read_box: BoxReader of the cells that say where the garment is.
        typed: bool, whether cells come with their types; otherwise columns of text are looked at.
    """

    description: str
    recognises: Callable[[Source], bool]
    rows: Callable[[Source], Iterator[Row]]
    roles: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=lambda: _ROLES)
    more_photos: str = "additional_image_link"
    most_photos: int = 10
    key: str = "id"
    required: Sequence[str] = ("path", "item")
    read_box: BoxReader = read_box
    typed: bool = False


@functools.lru_cache(1 << 12)
def column_name(text: str) -> str:
    """Returns a feed's column as it is called here: `g:Image Link` is `image_link`."""
    return "_".join(text.strip().lower().removeprefix("g:").split())
