"""A table of images, CSV or Parquet, as a Catalogue: anyone's own data."""

import dataclasses
import math
import os
import posixpath
import stat
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fir_tf.datasets.catalogue import (
    CONSUMER,
    SHOP,
    SPLITS,
    UNKNOWN,
    Catalogue,
    check_items,
    check_paths,
    encode,
    hash_split,
    is_address,
)
from fir_tf.datasets.feeds.delimited import first_row, read_named
from fir_tf.datasets.feeds.format import BOXES, Format, Row, column_name
from fir_tf.datasets.feeds.source import open_source
from fir_tf.datasets.gathering import Gathered, gather
from fir_tf.datasets.labels import known, read_labels
from fir_tf.datasets.metadata import Cell
from fir_tf.datasets.naming import COLUMNS, parse_columns
from fir_tf.datasets.walk import unreachable
from fir_tf.errors import FirError

# Rows of Parquet in memory at a time.
_PIECE = 8192
_CSV = Format(
    "a table",
    recognises=lambda source: True,
    rows=read_named,
    roles={name: (name,) for name in COLUMNS} | {"box": BOXES},
    more_photos="",
    key="",
    required=("path",),
)
_PARQUET = dataclasses.replace(_CSV, typed=True)
_DOMAINS = {"": UNKNOWN, "shop": SHOP, "consumer": CONSUMER}


def load_table(data_dir: str | Path, split_by_hash: bool = True, columns: str = "") -> Catalogue:
    """Loads a table of images.

    Columns, by their names in the first row and in any order:

    - `path`: the image file, relative to the table's folder, with forward slashes; blanks around
      it belong to it only where there is such a file;
    - `item`, `category` (optional): names of any kind, read in Unicode's NFC;
    - `domain` (optional): shop or consumer;
    - `split` (optional): train, val, query, gallery or test in every row. Without it the images
      are split by a hash of their items' names, see `hash_split`;
    - `box` (optional): `left,top,width,height` of the garment in pixels of the upright photo, in
      Parquet and JSON also a list; or four columns `box_left`, `box_top`, `box_width` and
      `box_height`. Empty for the whole photo.

    An empty cell is unknown, and so are `nan`, `None`, `null`, `N/A`, `NA`, `-`, `?`, `unknown`
    and their like in any case (`fir_tf.datasets.labels.UNKNOWN_NAMES`, which holds what pandas'
    `na_values` has by default). In a column of whole numbers 12.0 is 12. Notes count both.

    Other columns are metadata, see `Catalogue.columns`. In a CSV file cells are separated by
    commas, semicolons or tabs, whichever the first row has most of. `.gz` is read.

    Args:
        data_dir: str or Path, the table: `.csv`, `.tsv` or `.txt`, or Parquet (needs pyarrow).
        split_by_hash: bool; False puts all rows of a table without splits into `gallery`, which
            an index is made of.
        columns: str, other names for columns, see `fir_tf.datasets.naming.parse_columns`.

    Returns:
        Catalogue.

    Raises:
        FirError: naming file and line (in Parquet: row), for a missing or unreadable table, a
            missing or repeated column, a row with too many or too few cells, an unknown domain or
            split, a path that leaves the table's folder, a box that is none, an image that is
            listed twice, or an item in more than one of train, val and test.
    """
    path = existing_file(data_dir)
    own = parse_columns(columns)
    form, rows = _PARQUET, _read_parquet
    if path.suffix.lower() not in (".parquet", ".pq"):
        form, rows = _CSV, _read_csv
    gathered = gather(path, rows(path, own), form, own)
    return catalogue_of(path, found_photos(path, gathered), split_by_hash)


def found_photos(path: Path, gathered: Gathered) -> Gathered:
    """Returns the Gathered whose paths are those that their cells mean."""
    paths = [_find(path.parent, cell) for cell in gathered.cells["path"]]
    return dataclasses.replace(gathered, cells=gathered.cells | {"path": paths})


def catalogue_of(path: Path, gathered: Gathered, split_by_hash: bool) -> Catalogue:
    """Makes a Catalogue of what the rows of a file say of photos.

    Args:
        path: Path of the file.
        gathered: Gathered.
        split_by_hash: bool, see `load_table`.

    Raises:
        FirError: see `load_table`.
    """
    cells, line = gathered.cells, gathered.line
    paths = np.array(cells["path"], object)
    names, item_notes = read_labels("the item", cells["item"])
    item, items = encode(names)
    names, category_notes = read_labels("the category", cells["category"])
    category, categories = encode(names)
    domain = _choice(path, line, "domain", cells["domain"], _DOMAINS)
    if any(known(name) for name in set(cells["split"])):
        allowed = {name: number for number, name in enumerate(SPLITS)}
        split = np.array(SPLITS)[_choice(path, line, "split", cells["split"], allowed)]
    elif split_by_hash:
        split = hash_split(paths, item, items, str(path))
    else:
        split = np.full(len(paths), "gallery")
    catalogue = Catalogue(
        root=path.parent,
        path=paths,
        category=category,
        item=item,
        domain=domain.astype(np.int8),
        split=split,
        categories=categories,
        items=items,
        source=str(path),
        line=line,
        notes=(*gathered.notes, *item_notes, *category_notes),
        columns=gathered.columns,
        product=gathered.product,
        box=gathered.box,
        box_in_shares=gathered.box_in_shares,
    )
    check_paths(catalogue)
    check_items(catalogue)
    return catalogue


def existing_file(data_dir: str | Path) -> Path:
    """Returns `data_dir` as a Path; FirError if it is no file, or cannot be reached."""
    path = Path(data_dir)
    try:
        there = bool(str(data_dir)) and stat.S_ISREG(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        there = False
    except OSError as error:
        raise FirError(f"the table cannot be reached: {unreachable(path, error)}") from error
    if not there:
        raise FirError(
            "`data_dir` must be a table of images, a CSV or Parquet file with the columns "
            f"{', '.join(COLUMNS)}, or a product feed. Received: {str(data_dir)!r} (there is no "
            "such file)"
        )
    return path


def _find(root: Path, cell: str) -> str:
    """Returns the path that a cell means.

    Of a cell with blanks around it or other than ASCII, what the file system has counts: the cell
    as it stands, without the blanks, or in another Unicode form.
    """
    bare = cell.strip()
    if is_address(bare):
        return bare
    if "\\" in cell:
        _check_slashes(root, bare)
    if bare == cell and cell.isascii():
        return _normal(cell)
    forms = [cell, bare, *(unicodedata.normalize(form, bare) for form in ("NFC", "NFD"))]
    for path in dict.fromkeys(map(_normal, forms)):
        if os.path.lexists(os.path.join(root, path)) and path.strip():
            return path
    return _normal(bare)


def _check_slashes(root: Path, cell: str) -> None:
    """Raises FirError for a path of Windows; a name may have a backslash where there is one."""
    path = cell.replace("\\", "/")
    if not os.path.lexists(os.path.join(root, cell)) and os.path.lexists(os.path.join(root, path)):
        raise FirError(
            f"a path in a table must have forward slashes. Received: {cell!r} in {root}, where "
            f"there is {path}. Replace the backslashes in the whole column"
        )


def _normal(path: str) -> str:
    """`./a//b.jpg` as `a/b.jpg`, so that an image has one path; `..` is left to be refused."""
    if "//" in path or path.startswith("./") or "/./" in path:
        return path if ".." in path else posixpath.normpath(path)
    return path


def _choice(
    path: Path, line: np.ndarray, column: str, cells: Sequence[str], allowed: Mapping[str, int]
) -> np.ndarray:
    """Numbers a column whose cells must be keys of `allowed`; returns an int array."""
    values = np.array([allowed.get(known(cell), -2) for cell in cells])
    if (values == -2).any():
        row = int(np.argmax(values == -2))
        names = ", ".join(name or "empty" for name in allowed)
        raise FirError(
            f"{path}:{line[row]}: `{column}` must be one of {names}. Received: {cells[row]!r}"
        )
    return values


def _check_header(path: Path, names: Sequence[str], own: Mapping[str, str]) -> list[str]:
    """Returns the names of columns; FirError if that of the paths is missing or one repeats."""
    header = [column_name(name) for name in names]
    needed = own.get("path", "path")
    meant = {own.get(name, name) for name in COLUMNS}
    repeated = sorted({name for name in header if header.count(name) > 1 and name in meant})
    if needed not in header or repeated:
        what = f"`{repeated[0]}` once" if repeated else f"a column `{needed}`"
        raise FirError(
            f"{path}:1: the table's header must have {what}; the columns it may have are "
            f"{', '.join(COLUMNS)}, or others by --columns=path=NAME. "
            f"Received: {', '.join(header)!r}"
        )
    return header


def _read_csv(path: Path, own: Mapping[str, str]) -> Iterator[Row]:
    """Yields the Rows of a CSV file."""
    source = open_source(path)
    _check_header(path, first_row(source), own)
    yield from read_named(source, as_it_stands=own.get("path", "path"))


def _read_parquet(path: Path, own: Mapping[str, str]) -> Iterator[Row]:
    """Yields the Rows of a Parquet file, numbered from 1."""
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise FirError(
            f"reading {path} needs pyarrow: pip install 'fir_tf[parquet]', or give a CSV file"
        ) from error
    meant = {own.get(name, name) for name in COLUMNS if name != "box"}
    number = 0
    try:
        file = parquet.ParquetFile(path)
        header = _check_header(path, file.schema_arrow.names, own)
        for batch in file.iter_batches(_PIECE):
            columns = [
                _as_labels(path, name, column) if name in meant else _as_cells(column)
                for name, column in zip(header, batch.columns, strict=True)
            ]
            for cells in zip(*columns, strict=True):
                number += 1
                yield number, dict(zip(header, cells, strict=True))
    except (pa.ArrowException, OSError) as error:
        raise FirError(f"{path} is no readable Parquet file. Received: {error}") from error


def _as_labels(path: Path, name: str, values: Any) -> list[str]:
    """Returns a pyarrow Array of text or whole numbers as texts, empty where there is none."""
    import pyarrow as pa
    from pyarrow import compute

    found = values.type
    try:
        if pa.types.is_floating(found):
            # Whole numbers with gaps come as floats from pandas, gaps as NaN from others.
            values = compute.if_else(compute.is_nan(values), None, values).cast(pa.int64())
        texts = values.cast(pa.string()).fill_null("").to_pylist()
    except pa.ArrowException as error:
        raise FirError(
            f"{path}: the column `{name}` must be text or whole numbers. Received: {found}"
        ) from error
    return texts if name == "path" else [text.strip() for text in texts]


def _as_cells(values: Any) -> list[Cell]:
    """Returns a pyarrow Array as cells: numbers, truth values, lists of texts, else texts."""

    def cell(value: Any) -> Cell:
        if value is None or (isinstance(value, float) and not math.isfinite(value)):
            return ""
        if isinstance(value, list):
            return [str(part) for part in value]
        return value if isinstance(value, str | bool | int | float) else str(value)

    return [cell(value) for value in values.to_pylist()]
