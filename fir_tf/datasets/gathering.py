"""Rows of a file -> its photos with their labels, and its products with their metadata."""

import array
import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from fir_tf.datasets.boxes import Box
from fir_tf.datasets.catalogue import no_boxes
from fir_tf.datasets.feeds.format import BOXES, Format, Row
from fir_tf.datasets.metadata import Cell, Column, MetadataBuilder
from fir_tf.datasets.naming import COLUMNS
from fir_tf.errors import FirError

_LABELS = tuple(name for name in COLUMNS if name != "box")
_SHOWN = 5
# Rows after which a column that is needed must have been seen.
_EARLY = 4096


@dataclasses.dataclass(frozen=True)
class Gathered:
    """What a file of rows has.

    Attributes:
        cells: dict of list of str [n], by `COLUMNS` but the box: what is said of each photo, as it
            stands.
        line: int32 array [n], the line of each photo's row.
        product: int32 array [n], each photo's place in the columns.
        columns: dict of Column by name, all of one length: metadata.
        box: float32 array [n, 4], see `Catalogue`.
        box_in_shares: bool array [n].
        notes: tuple of str, what was left out or not understood.
    """

    cells: dict[str, list[str]]
    line: np.ndarray
    product: np.ndarray
    columns: dict[str, Column]
    box: np.ndarray
    box_in_shares: np.ndarray
    notes: tuple[str, ...]


def gather(path: Path, rows: Iterable[Row], form: Format, own: Mapping[str, str]) -> Gathered:
    """Reads the rows of a file.

    Args:
        path: Path, for messages.
        rows: iterable of Row.
        form: Format.
        own: dict of columns by what they say, see `parse_columns`; they take the place of those
            of the format.

    Returns:
        Gathered. Rows without a photo are left out and counted in its notes.

    Raises:
        FirError: naming file and line: there is no row, a needed column is missing, two rows have
            the same id, or a box is none.
    """
    gatherer = _Gatherer(path, form, own)
    for line, row in rows:
        gatherer.add(line, row)
    return gatherer.finish()


class _Gatherer:
    def __init__(self, path: Path, form: Format, own: Mapping[str, str]) -> None:
        self._path, self._form = path, form
        self._roles: dict[str, Sequence[str]] = {
            role: (own[role],) if role in own else form.roles[role] for role in COLUMNS
        }
        self._needed = {*form.required, *own}
        self._key = "" if form.key in self._roles["item"][:1] else form.key
        self._photos = (*self._roles["path"], form.more_photos)
        boxes = (part for name in BOXES for part in name.split("+"))
        self._left_out = {*COLUMNS, *self._photos, *boxes}
        self._seen: set[str] = set()
        self._cells: dict[str, list[str]] = {role: [] for role in _LABELS}
        # By the number of the photo, of those that have one.
        self._boxes: dict[int, Box] = {}
        # By photo, and by product.
        self._line, self._product = array.array("i"), array.array("i")
        self._lines, self._keys = array.array("i"), array.array("q")
        self._metadata = MetadataBuilder(form.typed)
        self._lacking: dict[str, list[int]] = collections.defaultdict(list)
        self._names: dict[str, str] = {}
        self._count = 0

    def add(self, line: int, row: Mapping[str, Cell]) -> None:
        """Adds a row."""
        self._count += 1
        if self._count <= _EARLY:
            self._seen.update(row)
        if self._count == _EARLY:
            self._check_columns(line)
        photos = self._photos_of(line, row)
        if not photos:
            self._lacking["photo"].append(line)
            return
        labels = {role: self._label(role, row) for role in _LABELS if role != "path"}
        if "item" in self._form.required and not labels["item"]:
            self._lacking["item"].append(line)
        box = self._form.read_box(f"{self._path}:{line}", self._box_cell(row))
        if box:
            # The further photos of a product show it elsewhere.
            self._boxes[len(self._line)] = box
        for role, label in (labels | {"path": ""}).items():
            self._cells[role] += photos if role == "path" else [label] * len(photos)
        self._line.extend([line] * len(photos))
        self._product.extend([len(self._lines)] * len(photos))
        self._lines.append(line)
        key = _first(row.get(self._key, "")) if self._key else ""
        self._keys.append(hash(key) if key else 0)
        self._metadata.add({name: cell for name, cell in row.items() if name not in self._left_out})

    def _photos_of(self, line: int, row: Mapping[str, Cell]) -> list[str]:
        """Returns the photos of a row, none where it has no main one."""
        cells = (_texts(row.get(name, "")) for name in self._roles["path"])
        main = next(filter(None, cells), [])
        if not main or not main[0].strip():
            return []
        more = row.get(self._form.more_photos, "")
        # In a text they stand with commas between them.
        parts = more.split(",") if isinstance(more, str) else _texts(more)
        others = [part.strip() for part in [*main[1:], *parts] if part.strip()]
        if len(others) > self._form.most_photos:
            self._lacking["most"].append(line)
        return list(dict.fromkeys([main[0], *others[: self._form.most_photos]]))

    def _label(self, role: str, row: Mapping[str, Cell]) -> str:
        cells = (_first(row.get(name, "")) for name in self._roles[role])
        label = next(filter(None, cells), "")
        # Many rows share one: it is kept once.
        return label if role == "item" else self._names.setdefault(label, label)

    def _box_cell(self, row: Mapping[str, Cell]) -> Cell:
        """Returns what a row says of its box, four columns as a list."""
        for name in self._roles["box"]:
            columns = name.split("+")
            cells: list[Cell] = [row.get(column, "") for column in columns]
            if any(cell != "" for cell in cells):
                return cells[0] if len(cells) == 1 else list(map(str, cells))
        return ""

    def _check_columns(self, line: int) -> None:
        for role in sorted(self._needed, key=COLUMNS.index):
            names = self._roles[role]
            parts = [name.split("+") if role == "box" else [name] for name in names]
            if not any(map(self._seen.issuperset, parts)):
                needed = " or ".join(f"`{name}`" for name in names)
                raise FirError(
                    f"{self._path}:{line}: a row must have a column {needed}, its {role}; "
                    f"--columns={role}=NAME takes another. Received: "
                    f"{', '.join(sorted(self._seen)) or 'none'}"
                )

    def finish(self) -> Gathered:
        """Returns what all rows have."""
        if not self._count:
            raise FirError(f"{self._path} has no rows below its header, or no products")
        first = self._lines[0] if self._lines else 1
        self._check_columns(first)
        notes = self._said()
        if not self._lines:
            raise FirError("\n".join([f"{self._path} has no row with a photo", *notes]))
        lines = np.array(self._lines, np.int32)
        columns, said = self._metadata.build(lambda row: f"{self._path}:{lines[row]}")
        self._check_keys(columns)
        line, product = np.array(self._line, np.int32), np.array(self._product, np.int32)
        box, in_shares = no_boxes(len(line)), np.zeros(len(line), bool)
        for place, (*numbers, shares) in self._boxes.items():
            box[place], in_shares[place] = numbers, shares
        return Gathered(self._cells, line, product, columns, box, in_shares, (*notes, *said))

    def _said(self) -> list[str]:
        photo = " or ".join(f"`{name}`" for name in self._roles["path"])
        item = " or ".join(f"`{name}`" for name in self._roles["item"])
        texts = {
            "photo": f"skipped in {self._path}: %s of {self._count:,} rows, which have no {photo}",
            "item": f"note: the item is unknown in %s rows of {self._path} without {item}",
            "most": f"note: of %s rows in {self._path} the first {self._form.most_photos} of "
            f"`{self._form.more_photos}` are read",
        }
        return [
            f"{texts[what] % format(len(lines), ',')}: {_listed(lines)}"
            for what, lines in self._lacking.items()
        ]

    def _check_keys(self, columns: Mapping[str, Column]) -> None:
        """Raises FirError if two rows have one id; hashes take an eighth of the memory of ids."""
        keys = np.array(self._keys, np.int64)
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        for place in np.flatnonzero((ordered[1:] == ordered[:-1]) & (ordered[1:] != 0)):
            first, second = sorted(order[place : place + 2])
            key = columns[self._key][int(second)]
            if key == columns[self._key][int(first)]:
                raise FirError(
                    f"{self._path}:{self._lines[second]}: two rows have one `{self._key}`. "
                    f"Received: {key!r}, which is that of line {self._lines[first]} too. Rows must "
                    "have ids of their own; what belongs together has one `item_group_id`"
                )


def _texts(cell: Cell) -> list[str]:
    """Returns what stands in a cell as texts."""
    if isinstance(cell, list):
        return cell
    return [cell] if isinstance(cell, str) and cell else [] if cell == "" else [str(cell)]


def _first(cell: Cell) -> str:
    """Returns a cell's text, of a list the first; 12.0 is 12, as programs write whole numbers."""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    texts = _texts(cell)
    return texts[0] if texts else ""


def _listed(lines: Sequence[int]) -> str:
    more = ", ..." if len(lines) > _SHOWN else ""
    return f"line{'s' if len(lines) > 1 else ''} {', '.join(map(str, lines[:_SHOWN]))}{more}"
