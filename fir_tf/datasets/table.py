"""A table of images, CSV or Parquet, as a Catalogue: anyone's own data."""

import csv
import posixpath
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
from fir_tf.errors import FirError

COLUMNS = ("path", "item", "category", "domain", "split")
_DOMAINS = {"": UNKNOWN, "shop": SHOP, "consumer": CONSUMER}


def load_table(data_dir: str | Path, split_by_hash: bool = True) -> Catalogue:
    """Loads a table of images.

    Columns, by their names in the first row and in any order:

    - `path`: the image file, relative to the table's folder, with forward slashes;
    - `item`, `category` (optional): names of any kind; an empty cell is unknown;
    - `domain` (optional): shop or consumer; an empty cell is unknown;
    - `split` (optional): train, val, query, gallery or test in every row. Without it the images
      are split by a hash of their items' names, see `hash_split`.

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
    path = Path(data_dir)
    if not str(data_dir) or not path.is_file():
        raise FirError(
            "`data_dir` must be a table of images, a CSV or Parquet file with the columns "
            f"{', '.join(COLUMNS)}. Received: {str(data_dir)!r} (there is no such file)"
        )
    read = _read_parquet if path.suffix.lower() in (".parquet", ".pq") else _read_csv
    header, columns, line = read(path)
    if not len(line):
        raise FirError(f"{path} has no rows below its header")
    paths = np.array([_normal(cell) for cell in columns["path"]], object)
    empty = [""] * len(paths)
    item, items = encode(columns.get("item", empty))
    category, categories = encode(columns.get("category", empty))
    domain = _choice(path, line, "domain", columns.get("domain", empty), _DOMAINS)
    splits = columns.get("split", empty)
    if any(splits):
        allowed = {name: number for number, name in enumerate(SPLITS)}
        split = np.array(SPLITS)[_choice(path, line, "split", splits, allowed)]
    elif not split_by_hash:
        split = np.full(len(paths), "gallery")
    else:
        split = hash_split(paths, item, items, str(path))
    ignored = [name for name in header if name not in COLUMNS]
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
        notes=(f"note: ignored columns of {path}: {', '.join(ignored)}",) if ignored else (),
    )
    check_paths(catalogue)
    check_items(catalogue)
    return catalogue


def _normal(path):
    """`./a//b.jpg` as `a/b.jpg`, so that an image has one path; `..` is left to be refused."""
    if "//" in path or path.startswith("./") or "/./" in path:
        return path if ".." in path else posixpath.normpath(path)
    return path


def _choice(path, line, column, cells, allowed):
    """Numbers a column whose cells must be keys of `allowed`; returns an int array."""
    values = np.array([allowed.get(cell, -2) for cell in cells])
    if (values == -2).any():
        row = int(np.argmax(values == -2))
        names = ", ".join(name or "empty" for name in allowed)
        raise FirError(
            f"{path}:{line[row]}: `{column}` must be one of {names}. Received: {cells[row]!r}"
        )
    return values


def _check_header(path, header):
    """Returns the header's names in lower case; FirError if `path` is missing or one repeats."""
    header = [name.strip().lower() for name in header]
    repeated = sorted({name for name in header if header.count(name) > 1 and name in COLUMNS})
    if "path" not in header or repeated:
        what = f"`{repeated[0]}` once" if repeated else "a column `path`"
        raise FirError(
            f"{path}:1: the table's header must have {what}; the columns it may have are "
            f"{', '.join(COLUMNS)}. Received: {', '.join(header)!r}"
        )
    return header


def _read_csv(path):
    """Returns (header, {column: list of str}, int32 lines) of a CSV file."""
    lines, before = [], 0
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            delimiter = max(",;\t", key=first.count)
            header = _check_header(path, next(csv.reader([first], delimiter=delimiter), []))
            wanted = [(header.index(name), []) for name in COLUMNS if name in header]
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
                        f"({', '.join(header)}). Received: {len(cells)} cells"
                    )
                lines.append(line)
                for place, column in wanted:
                    column.append(cells[place].strip())
    except UnicodeDecodeError as error:
        raise FirError(f"{path} must be UTF-8 text. Received: {error}") from error
    except csv.Error as error:
        raise FirError(f"{path}:{before + 1}: this is no CSV row: {error}") from error
    names = [name for name in COLUMNS if name in header]
    columns = {name: column for name, (_, column) in zip(names, wanted, strict=True)}
    return header, columns, np.array(lines, np.int32)


def _read_parquet(path):
    """Returns (header, {column: list of str}, int32 row numbers from 1) of a Parquet file."""
    try:
        import pyarrow as pa
        from pyarrow import parquet
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
                # Whole numbers with gaps come as floats from pandas.
                values = values.cast(pa.int64())
            values = values.cast(pa.string()).fill_null("")
        except pa.ArrowException as error:
            raise FirError(
                f"{path}: the column `{name}` must be text or whole numbers. "
                f"Received: {table.column(name).type}"
            ) from error
        columns[name.strip().lower()] = [value.strip() for value in values.to_pylist()]
    return header, columns, np.arange(1, table.num_rows + 1, dtype=np.int32)
