"""A table of images, CSV or Parquet, as a Catalogue: anyone's own data."""

import codecs
import csv
import os
import posixpath
import stat
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

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
)
from fir_tf.datasets.labels import known, read_labels
from fir_tf.datasets.walk import image_kind, unreachable
from fir_tf.errors import FirError

COLUMNS = ("path", "item", "category", "domain", "split")
# A table's header, its columns by their names, and the int32 line of each row.
_Cells = tuple[list[str], dict[str, list[str]], np.ndarray]

_DOMAINS = {"": UNKNOWN, "shop": SHOP, "consumer": CONSUMER}


def load_table(data_dir: str | Path, split_by_hash: bool = True) -> Catalogue:
    """Loads a table of images.

    Columns, by their names in the first row and in any order:

    - `path`: the image file, relative to the table's folder, with forward slashes; blanks around
      it belong to it only where there is such a file;
    - `item`, `category` (optional): names of any kind, read in Unicode's NFC;
    - `domain` (optional): shop or consumer;
    - `split` (optional): train, val, query, gallery or test in every row. Without it the images
      are split by a hash of their items' names, see `hash_split`.

    An empty cell is unknown, and so are `nan`, `None`, `null`, `N/A`, `NA`, `-`, `?`, `unknown`
    and their like in any case (`fir_tf.datasets.labels.UNKNOWN_NAMES`, which holds what pandas'
    `na_values` has by default). In a column of whole numbers 12.0 is 12. Notes count both.

    Other columns are ignored, and a note says so. In a CSV file cells are separated by commas,
    semicolons or tabs, whichever the first row has most of.

    Args:
        data_dir: str or Path, the table: `.csv`, `.tsv` or `.txt`, or `.parquet` (needs pyarrow).
        split_by_hash: bool; False puts all rows of a table without splits into `gallery`, which
            an index is made of.

    Returns:
        Catalogue.

    Raises:
        FirError: naming file and line (in Parquet: row), for a missing or unreadable table, a
            missing or repeated column, a row with too many or too few cells, an unknown domain or
            split, a path that leaves the table's folder, an image that is listed twice, or an
            item in more than one of train, val and test.
    """
    path = _existing_file(data_dir)
    read = _read_parquet if path.suffix.lower() in (".parquet", ".pq") else _read_csv
    header, columns, line = read(path)
    if not len(line):
        raise FirError(f"{path} has no rows below its header")
    paths = np.array([_find(path.parent, cell) for cell in columns["path"]], object)
    empty = [""] * len(paths)
    cells = {name: columns.get(name, empty) for name in COLUMNS}
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
    ignored = ", ".join(name for name in header if name not in COLUMNS)
    notes = (f"note: ignored columns of {path}: {ignored}",) if ignored else ()
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
        notes=(*notes, *item_notes, *category_notes),
    )
    check_paths(catalogue)
    check_items(catalogue)
    return catalogue


def _existing_file(data_dir: str | Path) -> Path:
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
            f"{', '.join(COLUMNS)}. Received: {str(data_dir)!r} (there is no such file)"
        )
    return path


def _find(root: Path, cell: str) -> str:
    """Returns the path that a cell means.

    Of a cell with blanks around it or other than ASCII, what the file system has counts: the cell
    as it stands, without the blanks, or in another Unicode form.
    """
    bare = cell.strip()
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


def _check_header(path: Path, names: Sequence[str]) -> list[str]:
    """Returns the header's names in lower case; FirError if `path` is missing or one repeats."""
    header = [name.strip().lower() for name in names]
    repeated = sorted({name for name in header if header.count(name) > 1 and name in COLUMNS})
    if "path" not in header or repeated:
        what = f"`{repeated[0]}` once" if repeated else "a column `path`"
        raise FirError(
            f"{path}:1: the table's header must have {what}; the columns it may have are "
            f"{', '.join(COLUMNS)}. Received: {', '.join(header)!r}"
        )
    return header


def _read_csv(path: Path) -> _Cells:
    """Returns (header, {column: list of str}, int32 lines) of a CSV file."""
    lines, before = [], 0
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            delimiter = max(",;\t", key=first.count)
            header = _check_header(path, next(csv.reader([first], delimiter=delimiter), []))
            places = {name: header.index(name) for name in COLUMNS if name in header}
            columns: dict[str, list[str]] = {name: [] for name in places}
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            before = 1
            for cells in reader:
                # A quoted cell may span lines: the row stands where it begins.
                line, before = before + 1, reader.line_num + 1
                if not any(cells):
                    continue
                if len(cells) != len(header):
                    raise FirError(
                        f"{path}:{line}: a row must have {len(header)} cells "
                        f"({', '.join(header)}), separated by {delimiter!r} as the header's. "
                        f"Received: {len(cells)}"
                    )
                lines.append(line)
                for name, place in places.items():
                    columns[name].append(cells[place])
    except UnicodeDecodeError as error:
        raise _no_text(path, error) from error
    except csv.Error as error:
        raise FirError(f"{path}:{before + 1}: this is no CSV row: {error}") from error
    columns = {name: _stripped(name, cells) for name, cells in columns.items()}
    return header, columns, np.array(lines, np.int32)


def _no_text(path: Path, error: UnicodeDecodeError) -> FirError:
    """Returns the FirError of a table that is no UTF-8."""
    with open(path, "rb") as file:
        start = file.read(26)
    if image_kind(start):
        return FirError(
            f"{path} is an image, no table. Give the folder it lies in, or a table of images with "
            f"the columns {', '.join(COLUMNS)}"
        )
    utf16 = start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    found = "UTF-16, which spreadsheets call Unicode text" if utf16 else error
    return FirError(
        f"{path} must be text in UTF-8. Received: {found}. Save it anew; spreadsheets call it "
        '"CSV UTF-8"'
    )


def _stripped(name: str, cells: list[str]) -> list[str]:
    """Returns a column's cells without the blanks around them; in a path they may be meant."""
    return cells if name == "path" else [cell.strip() for cell in cells]


def _read_parquet(path: Path) -> _Cells:
    """Returns (header, {column: list of str}, int32 row numbers from 1) of a Parquet file."""
    try:
        import pyarrow as pa
        from pyarrow import compute, parquet
    except ImportError as error:
        raise FirError(
            f"reading {path} needs pyarrow: pip install 'fir_tf[parquet]', or give a CSV file"
        ) from error
    try:
        names = parquet.read_schema(path).names
        header = _check_header(path, names)
        table = parquet.read_table(
            path, columns=[name for name, own in zip(names, header, strict=True) if own in COLUMNS]
        )
    except (pa.ArrowException, OSError) as error:
        raise FirError(f"{path} is no readable Parquet file. Received: {error}") from error
    columns = {}
    for name in table.column_names:
        values = table.column(name)
        try:
            if pa.types.is_floating(values.type):
                # Whole numbers with gaps come as floats from pandas, gaps as NaN from others.
                gaps = compute.is_nan(values)
                values = compute.if_else(gaps, None, values).cast(pa.int64())
            values = values.cast(pa.string()).fill_null("")
        except pa.ArrowException as error:
            raise FirError(
                f"{path}: the column `{name}` must be text or whole numbers. "
                f"Received: {table.column(name).type}"
            ) from error
        name = name.strip().lower()
        columns[name] = _stripped(name, values.to_pylist())
    return header, columns, np.arange(1, table.num_rows + 1, dtype=np.int32)
