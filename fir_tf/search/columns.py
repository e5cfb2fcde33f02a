"""The metadata of an index's records: what may stand there, and what a person can filter by."""

import collections
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fir_tf.errors import FirError
from fir_tf.search.conditions import FIELDS, kind_of
from fir_tf.search.engines.base import Record

MOST_VALUES = 50
"""int, a column with more different texts is not offered as a list to choose from."""

SHOWN = ("title", "price", "price_currency", "availability", "link")
"""tuple of str, the columns that a person is told of a result, as product feeds name them."""

# In an engine's language a name stands between these.
_NOT_IN_NAMES = '"\\\0'


def check_names(names: Iterable[str]) -> None:
    """Compares names of columns with what every engine takes.

    Raises:
        FirError: one is empty, is a field of every record or has a quote, backslash or NUL in it.
    """
    for name in names:
        if not name or name in FIELDS or any(letter in name for letter in _NOT_IN_NAMES):
            raise FirError(
                "a column of metadata must have a name other than "
                f"{', '.join(FIELDS)}, without quotes and backslashes. Received: {name!r}"
            )


def plain_metadata(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a row of columns as a Record's metadata.

    Args:
        values: text, numbers, bools, NumPy's too, None, NaN, and lists of these, by name.

    Raises:
        FirError: a value of another type.
    """
    plain = {name: _plain(name, value) for name, value in values.items()}
    return {name: value for name, value in plain.items() if value is not None}


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, list | tuple | np.ndarray):
        elements = [_plain(name, element) for element in value]
        return [element for element in elements if element is not None]
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if isinstance(value, str):
        # The letter that ends a text in some databases.
        return value.replace("\0", "") or None
    if kind_of(value):
        return value
    # pandas' NA and NaT are no values either.
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    raise FirError(
        f"`{name}` must hold text, numbers, bools or lists of them. Received: "
        f"{type(value).__name__} {value!r}"
    )


def told_of(parts: Iterable[Sequence[Record]]) -> dict[str, Any]:
    """Returns what an index says of its records, ready for JSON.

    Returns:
        {"columns": see `described`, "items": int, how many they are of; a record without an item
        is one of its own}.
    """
    items, alone = set[str](), 0

    def counted() -> Iterator[Sequence[Record]]:
        nonlocal alone
        for part in parts:
            items.update(record.item for record in part)
            alone += sum(not record.item for record in part)
            yield part

    columns = described(counted())
    return {"columns": columns, "items": len(items - {""}) + alone}


def described(parts: Iterable[Sequence[Record]]) -> dict[str, dict[str, Any]]:
    """Returns what the columns of records hold, ready for JSON.

    Returns:
        dict by column: `kinds`, a list of "text", "number" and "boolean", of a list those of its
        elements; `range`, the least and the largest number; `values`, how many records have each
        text, unless they are more than MOST_VALUES.
    """
    kinds: dict[str, set[str]] = {}
    ranges: dict[str, list[float]] = {}
    counts: dict[str, collections.Counter[str]] = {}
    for part in parts:
        for record in part:
            for name, value in record.metadata.items():
                for element in value if kind_of(value) == "list" else [value]:
                    kind = kind_of(element)
                    kinds.setdefault(name, set()).add(kind)
                    if kind == "number":
                        least, most = ranges.get(name, (element, element))
                        ranges[name] = [min(least, element), max(most, element)]
                    # One more than are shown says that there are too many.
                    elif kind == "text" and len(counts.setdefault(name, collections.Counter())) <= (
                        MOST_VALUES
                    ):
                        counts[name][element] += 1
    return {
        name: {
            "kinds": sorted(found),
            **({"range": ranges[name]} if name in ranges else {}),
            **({"values": dict(sorted(counts[name].items()))} if _few(counts.get(name)) else {}),
        }
        for name, found in sorted(kinds.items())
    }


def _few(counter: Mapping[str, int] | None) -> bool:
    return counter is not None and len(counter) <= MOST_VALUES


def kinds_of(info: Mapping[str, Any]) -> dict[str, list[str]]:
    """Returns the kinds of each column of metadata, from what an index's `info` says."""
    return {name: column["kinds"] for name, column in info.get("columns", {}).items()}
