"""What a feed or a table says of its products beside labels: columns that have a type."""

import array
import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import overload

import numpy as np

from fir_tf.datasets.prices import read_price
from fir_tf.errors import FirError

TYPES = ("text", "number", "boolean", "list")

Cell = str | bool | int | float | list[str]
"""What stands in a column of a row that is read; an empty string where nothing does."""

Value = str | float | bool | tuple[str, ...]
"""What a column of text, of numbers, of truth values or of lists has of a product."""

# Between the parts of a list: a letter that is made for that and stands in no text.
_UNIT = "\x1f"
_BOOLEANS = {"true": True, "yes": True, "false": False, "no": False}
# As programs write numbers; what begins with a zero is a code, and so is what float64 would round.
_NUMBER = re.compile(r"-?(0|[1-9]\d{0,14})(\.\d{1,15})?")
# Of Google Merchant's columns those that may look like numbers and are names.
_NAMES = frozenset(
    ["id", "item_group_id", "gtin", "mpn", "google_product_category", "product_type", "size"]
    + ["brand", "color", "title", "description", "material", "pattern", "product_id", "image_id"]
    + [f"custom_label_{number}" for number in range(5)]
)


class Texts(Sequence[str]):
    """Texts in one block of UTF-8: a fraction of what strings of Python's take.

    Args:
        data: bytes-like, all of them one behind the other.
        ends: int64 array [n], where each ends.
    """

    def __init__(self, data: bytes | bytearray, ends: np.ndarray) -> None:
        self._data, self._ends = data, ends

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return [self[one] for one in range(*row.indices(len(self)))]
        if not 0 <= row < len(self):
            raise IndexError(row)
        start = self._ends[row - 1] if row else 0
        return self._data[start : self._ends[row]].decode()

    def __iter__(self) -> Iterator[str]:
        start = 0
        for end in self._ends:
            yield self._data[start:end].decode()
            start = end


@dataclasses.dataclass(frozen=True, eq=False)
class Column:
    """One column of metadata.

    Attributes:
        type: str, one of `TYPES`.
        cells: Texts [n] of a text or a list, empty where unknown; float64 array [n] of numbers,
            NaN where unknown; int8 array [n] of truth values, -1 where unknown.
    """

    type: str
    cells: Texts | np.ndarray

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, row: int) -> Value | None:
        """Returns a cell, None where it is unknown."""
        cell = self.cells[row]
        if isinstance(cell, str):
            found = tuple(cell.split(_UNIT)) if self.type == "list" else cell
            return found if cell else None
        if self.type == "number":
            return None if np.isnan(cell) else float(cell)
        return None if cell < 0 else bool(cell)


class _TextsBuilder:
    """Gathers texts. The first may be missing: they are empty."""

    def __init__(self, missing: int = 0) -> None:
        self._data, self._ends = bytearray(), array.array("q", bytes(8 * missing))

    def extend(self, texts: Iterable[str]) -> None:
        for text in texts:
            # What is no Unicode, of an escape in JSON, is kept as that escape.
            self._data += text.encode(errors="backslashreplace")
            self._ends.append(len(self._data))

    def build(self) -> Texts:
        return Texts(self._data, np.frombuffer(self._ends, np.int64))


def texts_of(texts: Iterable[str]) -> Texts:
    """Returns texts in one block."""
    builder = _TextsBuilder()
    builder.extend(texts)
    return builder.build()


class ColumnBuilder:
    """Gathers the cells of a column and finds its type.

    Args:
        name: str, of the column. Those called price or ending in `_price` are prices.
        missing: int, how many rows came before the first that has the column.
        typed: bool, whether cells come with their types; otherwise texts that are all numbers, or
            all of yes, no, true and false, are what they look like.
    """

    def __init__(self, name: str, missing: int, typed: bool) -> None:
        self.name, self._typed = name, typed
        self._texts = _TextsBuilder(missing)
        self._types: set[str] = set()

    def extend(self, cells: Sequence[Cell]) -> None:
        """Adds the cells of the next rows."""
        if self._types != {"text"} or not all(type(cell) is str for cell in cells):
            self._types |= {self._type_of(cell) for cell in _distinct(cells)}
        self._texts.extend(map(_as_text, cells))

    def _type_of(self, cell: Cell) -> str:
        if isinstance(cell, list):
            return "list"
        if self.name in _NAMES:
            return "text"
        if isinstance(cell, bool):
            return "boolean"
        if isinstance(cell, str) and (self._typed or self.name == "availability"):
            return "text"
        text = _as_text(cell)
        if text.lower() in _BOOLEANS:
            return "boolean"
        return "number" if isinstance(cell, float) or _NUMBER.fullmatch(text) else "text"

    def build(self, place: Callable[[int], str]) -> tuple[dict[str, Column], list[str]]:
        """Returns the column, of prices with their currency, and what was found.

        Args:
            place: function of a row that tells where it stands, for the notes.

        Returns:
            (dict of Column by name, list of str). A price is three columns: `price`, a number;
            `price_currency` where any has one; `price_text`, those that cannot be read.
        """
        texts = self._texts.build()
        if "list" in self._types:
            return {self.name: Column("list", texts)}, []
        numbers_come = self._typed and self._types == {"number"}
        if re.search(r"(^|_)price$", self.name) and not numbers_come:
            return self._prices(texts, place)
        if self.name == "availability":
            plain = texts_of(text.replace("_", " ").lower() for text in texts)
            return {self.name: Column("text", plain)}, []
        if self._types == {"number"}:
            numbers = np.fromiter((float(text or "nan") for text in texts), float, len(texts))
            return {self.name: Column("number", numbers)}, []
        if self._types == {"boolean"}:
            truths = (_BOOLEANS.get(text.lower(), -1) for text in texts)
            return {self.name: Column("boolean", np.fromiter(truths, np.int8, len(texts)))}, []
        return {self.name: Column("text", texts)}, []

    def _prices(
        self, texts: Texts, place: Callable[[int], str]
    ) -> tuple[dict[str, Column], list[str]]:
        amounts = np.full(len(texts), np.nan)
        currencies, unread, bad = _TextsBuilder(), _TextsBuilder(), list[int]()
        for row, text in enumerate(texts):
            price = read_price(text) if text else (np.nan, "")
            amounts[row], currency = price or (np.nan, "")
            currencies.extend([currency])
            unread.extend(["" if price else text])
            if price is None:
                bad.append(row)
        columns = {self.name: Column("number", amounts)}
        for name, found in (("currency", currencies.build()), ("text", unread.build())):
            if any(found):
                columns[f"{self.name}_{name}"] = Column("text", found)
        shown = ", ".join(f"{place(row)} {texts[row]!r}" for row in bad[:5])
        more = ", ..." if len(bad) > 5 else ""
        notes = [
            f"note: `{self.name}` of {len(bad):,} rows cannot be read as a price; it is unknown, "
            f"and the text is kept as `{self.name}_text`: {shown}{more}"
        ]
        return columns, notes if bad else []


def _distinct(cells: Sequence[Cell]) -> list[Cell]:
    """Returns the cells that are not empty, equal texts once; at most one list, which tells all."""
    lists = [cell for cell in cells if isinstance(cell, list)][:1]
    # By the type too: 1 and True are equal.
    others = {(type(cell), cell) for cell in cells if not isinstance(cell, list) and cell != ""}
    return [*lists, *(cell for _, cell in others)]


def _as_text(cell: Cell) -> str:
    if isinstance(cell, list):
        return _UNIT.join(part.replace(_UNIT, " ") for part in cell)
    if isinstance(cell, bool):
        return "true" if cell else "false"
    return cell if isinstance(cell, str) else repr(cell)


class MetadataBuilder:
    """Gathers rows of metadata whose columns may differ, and becomes a column each.

    Args:
        typed: bool, see `ColumnBuilder`.
    """

    # Rows that wait to be taken column by column.
    _PIECE = 4096
    # A feed whose columns are without end has something else in place of names.
    _MOST = 1000

    def __init__(self, typed: bool) -> None:
        self._typed = typed
        self._builders: dict[str, ColumnBuilder] = {}
        self._waiting: list[dict[str, Cell]] = []
        self._taken = 0

    def add(self, row: dict[str, Cell]) -> None:
        """Adds a row."""
        self._waiting.append(row)
        if len(self._waiting) >= self._PIECE:
            self._take()

    def _take(self) -> None:
        for name in dict.fromkeys(name for row in self._waiting for name in row):
            if name not in self._builders:
                self._builders[name] = ColumnBuilder(name, self._taken, self._typed)
        if len(self._builders) > self._MOST:
            raise FirError(
                f"a feed must have at most {self._MOST} columns. Received: {len(self._builders)}, "
                f"the last {name!r}"
            )
        for name, builder in self._builders.items():
            builder.extend([row.get(name, "") for row in self._waiting])
        self._taken += len(self._waiting)
        self._waiting.clear()

    def build(self, place: Callable[[int], str]) -> tuple[dict[str, Column], list[str]]:
        """Returns (dict of Column by name, notes), see `ColumnBuilder.build`."""
        if self._waiting:
            self._take()
        columns: dict[str, Column] = {}
        derived: dict[str, Column] = {}
        notes = list[str]()
        while self._builders:
            name = next(iter(self._builders))
            found, said = self._builders.pop(name).build(place)
            columns[name] = found.pop(name)
            derived |= found
            notes += said
        # A column that the feed has itself is not replaced by what comes from a price.
        return derived | columns, notes
