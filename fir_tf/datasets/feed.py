"""A shop's product feed as a Catalogue."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd

from fir_tf.datasets.catalogue import Catalogue
from fir_tf.datasets.feeds import FORMATS, format_of
from fir_tf.datasets.feeds.source import open_source
from fir_tf.datasets.gathering import Gathered, gather
from fir_tf.datasets.naming import parse_columns
from fir_tf.datasets.table import catalogue_of, existing_file, found_photos
from fir_tf.errors import FirError


def load_feed(data_dir: str | Path, split_by_hash: bool = True, columns: str = "") -> Catalogue:
    """Loads a feed: Google Merchant's (text or XML), Product Search's CSV, JSON Lines or COCO.

    Which of them it is, the contents tell; `.gz` is read. Photos are `image_link` and up to ten
    `additional_image_link`, relative to the feed's folder; `item_group_id`, or else `id`, is the
    item, `product_type` or `google_product_category` the category. A photo that several rows of
    the feed show is taken once, with the first of them. Columns `domain`, `split` and `box`
    mean what they do in a table (`fir_tf.datasets.table.load_table`); the box is that of the first
    photo of a row. Product Search's polygon is one too, and the first of COCO's boxes of an image
    is that of the largest area.

    All other columns are metadata, see `Catalogue.columns`: `price` and what ends in `_price` as a
    number, with the currency in a column `price_currency`; others as what all of their cells are.

    Args:
        data_dir: str or Path, the feed's file.
        split_by_hash: bool; False puts all rows of a feed without splits into `gallery`, which an
            index is made of.
        columns: str, other names for columns, see `fir_tf.datasets.naming.parse_columns`.

    Returns:
        Catalogue. Notes count what is left out, with lines.

    Raises:
        FirError: naming file and line, for a file that is no feed, damaged or cut off, a missing
            column, two rows of one id, or what `load_table` objects to.
    """
    path = existing_file(data_dir)
    source = open_source(path)
    form = format_of(source)
    if form is None:
        raise FirError(
            f"{path} must be a feed: {'; '.join(form.description for form in FORMATS)}. Received: "
            f"{source.head.strip()[:60]!r}. A table of photos is --dataset=table, with "
            "--columns=path=NAME,item=NAME for names of its own"
        )
    gathered = found_photos(path, gather(path, form.rows(source), form, parse_columns(columns)))
    return catalogue_of(path, _each_once(path, gathered), split_by_hash)


def _each_once(path: Path, gathered: Gathered) -> Gathered:
    """Leaves out photos that an earlier row shows: sizes of a garment often share theirs."""
    photos = pd.Series(gathered.cells["path"], dtype=object)
    again = photos.duplicated().to_numpy()
    if not again.any():
        return gathered
    row = int(np.argmax(again))
    first = int(np.argmax((photos == photos[row]).to_numpy()))
    note = (
        f"note: {again.sum():,} photos stand in {path} again and are taken once, with what is said "
        f"of them first: line {gathered.line[row]} shows {photos[row]} of line "
        f"{gathered.line[first]}{', ...' if again.sum() > 1 else ''}"
    )
    rows = np.flatnonzero(~again)
    return dataclasses.replace(
        gathered,
        cells={name: [cells[row] for row in rows] for name, cells in gathered.cells.items()},
        line=gathered.line[rows],
        product=gathered.product[rows],
        box=gathered.box[rows],
        box_in_shares=gathered.box_in_shares[rows],
        notes=(*gathered.notes, note),
    )
