"""Cells between commas, semicolons or tabs."""

import csv
import itertools
from collections.abc import Iterator

from fir_tf.datasets.feeds.format import Row, column_name
from fir_tf.datasets.feeds.source import Source
from fir_tf.datasets.metadata import Cell
from fir_tf.errors import FirError

_DELIMITERS = ",;\t"


def first_row(source: Source) -> list[str]:
    """Returns the cells of a file's first line as far as it was looked at; [] if it is no row."""
    lines = source.head.lstrip("\r\n").splitlines()
    line = lines[0] if lines else ""
    try:
        return next(csv.reader([line], delimiter=_delimiter_of(line)), [])
    except csv.Error:
        return []


def _delimiter_of(line: str) -> str:
    """Returns what separates the cells of a first line: what it has most of."""
    return max(_DELIMITERS, key=line.count)


def read_cells(source: Source, width: int = 0) -> Iterator[tuple[int, list[str]]]:
    """Yields (line, cells) of each row that is not empty.

    A cell in quotes may have delimiters, quotes (doubled) and line ends in it. A row stands on the
    line where it begins.

    Args:
        source: Source.
        width: int, the cells that a row must have; 0 for as many as the first.

    Raises:
        FirError: naming file and line, for a row of another width and quotes that do not fit.
    """
    lines, header = source.lines(), ""
    first = next(lines, "")
    delimiter = _delimiter_of(first)
    reader = csv.reader(itertools.chain([first], lines), delimiter=delimiter, strict=True)
    before = 0
    try:
        for cells in reader:
            line, before = before + 1, reader.line_num
            if not any(cells):
                continue
            if not width:
                width, header = len(cells), f" ({', '.join(cells)})"
            if len(cells) != width:
                raise FirError(
                    f"{source.path}:{line}: a row must have {width} cells{header}, separated by "
                    f"{delimiter!r} as the first row's. Received: {len(cells)}"
                )
            yield line, cells
    except csv.Error as error:
        raise FirError(
            f"{source.path}:{before + 1}: this is no CSV row: {error}. Cells with a "
            "quote, a delimiter or a line end in them stand in quotes, with their quotes doubled"
        ) from error


def read_named(source: Source, as_it_stands: str = "") -> Iterator[Row]:
    """Yields the Rows below a header.

    Columns of one name are one column, a list; those without a name are left out.

    Args:
        source: Source.
        as_it_stands: str, the column whose cells keep the blanks around them.
    """
    rows = read_cells(source)
    _, cells = next(rows, (0, []))
    header = [column_name(name) for name in cells]
    several = len(set(header)) < len(header)
    for line, cells in rows:
        stripped = [
            cell if name == as_it_stands else cell.strip()
            for name, cell in zip(header, cells, strict=True)
        ]
        row: dict[str, Cell] = dict(zip(header, stripped, strict=True))
        if several:
            for name in row:
                texts = [
                    cell for own, cell in zip(header, stripped, strict=True) if own == name and cell
                ]
                row[name] = texts if len(texts) > 1 else "".join(texts)
        row.pop("", None)
        yield line, row
