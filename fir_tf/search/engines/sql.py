"""Conditions as SQL; values travel beside the text, never in it."""

import json
from collections.abc import Sequence
from typing import Any, TypeAlias

from fir_tf.search.conditions import FIELDS, Dialect, Value, kind_of

Sql: TypeAlias = tuple[str, list[Any]]
"""SQL with marks, and the values that stand for them in order."""


class SqlDialect(Dialect[Sql]):
    """What SQL databases have in common.

    Attributes:
        mark: str, what stands for a value.
    """

    mark = "?"

    def all(self, parts: Sequence[Sql]) -> Sql:
        """See `Dialect`."""
        return _joined(parts, " AND ", "1 = 1")

    def any(self, parts: Sequence[Sql]) -> Sql:
        """See `Dialect`."""
        return _joined(parts, " OR ", "1 = 0")

    def negated(self, part: Sql) -> Sql:
        """See `Dialect`."""
        return f"NOT {part[0]}", part[1]

    def field(self, column: str, sign: str, value: Value) -> Sql:
        """Writes < and > of a field of the record, text that is unknown where empty."""
        if kind_of(value) != "text":
            return self.any([])
        return f"({column} <> '' AND {column} {sign} {self.mark})", [value]


def _joined(parts: Sequence[Sql], word: str, empty: str) -> Sql:
    if not parts:
        return f"({empty})", []
    return f"({word.join(text for text, _ in parts)})", [v for _, values in parts for v in values]


class SqliteDialect(SqlDialect):
    """SQLite, with a record's metadata as JSON text."""

    _TYPES = {"text": "('text')", "number": "('integer', 'real')", "boolean": "('true', 'false')"}

    def ordered(self, column: str, sign: str, value: Value) -> Sql:
        """See `Dialect`."""
        if column in FIELDS:
            return self.field(column, sign, value)
        place, types = _place(column), self._TYPES[kind_of(value)]
        same_kind = f"coalesce(json_type(metadata, ?), '') IN {types}"
        return f"({same_kind} AND json_extract(metadata, ?) {sign} ?)", [place, place, value]

    def one_of(self, column: str, values: Sequence[Value]) -> Sql:
        """See `Dialect`."""
        among = "IN (SELECT value FROM json_each(?))"
        if column in FIELDS:
            texts = [value for value in values if kind_of(value) == "text" and value]
            return f"({column} {among})", [json.dumps(texts)]
        elements = f"json_each(metadata, ?) WHERE type IN {self._TYPES[kind_of(values[0])]}"
        text = f"EXISTS (SELECT 1 FROM {elements} AND value {among})"
        return text, [_place(column), json.dumps(list(values))]

    def known(self, column: str) -> Sql:
        """See `Dialect`."""
        if column in FIELDS:
            return f"({column} <> '')", []
        return "(coalesce(json_type(metadata, ?), 'null') <> 'null')", [_place(column)]


def _place(column: str) -> str:
    """Returns a column as a path in the metadata; its name has no quotes, see `Record`."""
    return f'$."{column}"'
