"""Which records may be found: conditions on their columns, as objects.

A column is a field of a Record (`path`, `item`, `category`, `domain`) or one of its metadata. A
condition holds or it does not, there is no third value as in SQL: no comparison with a column that
is unknown holds, `!=` neither, which asks for a known column that is not equal; `~` turns that
round. What is of another type than the value is not equal, less or more. A list equals a value
where one of its elements does, and is neither less nor more. Text is compared by its code points.
"""

import abc
import dataclasses
import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Generic, TypeAlias, TypeVar

from fir_tf.errors import FirError

Value: TypeAlias = str | float | bool
"""What a column is compared with; an int is a number as a float is."""

FIELDS = ("path", "item", "category", "domain")
"""Fields of a Record that are columns: text, unknown where empty."""

_COMPARED = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
OPERATORS = ("=", "!=", *_COMPARED)

# Kinds of what a column is compared with.
_TOLD = ("text", "number", "boolean")

_Written = TypeVar("_Written")


class Dialect(abc.ABC, Generic[_Written]):
    """What an engine writes conditions down as, in a language of its own."""

    def compared(self, column: str, sign: str, value: Value) -> _Written:
        """Writes a Comparison; `sign` is among OPERATORS."""
        if sign not in ("=", "!="):
            return self.ordered(column, sign, value)
        equal = self.one_of(column, [value])
        return equal if sign == "=" else self.all([self.known(column), self.negated(equal)])

    @abc.abstractmethod
    def ordered(self, column: str, sign: str, value: Value) -> _Written:
        """Writes a Comparison by <, <=, > or >=."""

    @abc.abstractmethod
    def one_of(self, column: str, values: Sequence[Value]) -> _Written:
        """Writes a OneOf; there is at least one value, all of one kind."""

    @abc.abstractmethod
    def known(self, column: str) -> _Written:
        """Writes a Known."""

    @abc.abstractmethod
    def all(self, parts: Sequence[_Written]) -> _Written:
        """Writes what holds where all parts do; without any, always."""

    @abc.abstractmethod
    def any(self, parts: Sequence[_Written]) -> _Written:
        """Writes what holds where a part does; without any, never."""

    @abc.abstractmethod
    def negated(self, part: _Written) -> _Written:
        """Writes what holds where a part does not."""


class Condition(abc.ABC):
    """What holds of some records; combined with `&`, `|` and `~`."""

    @abc.abstractmethod
    def allows(self, record: Any) -> bool:
        """Whether it holds of a Record."""

    @abc.abstractmethod
    def written(self, dialect: Dialect[_Written]) -> _Written:
        """Returns it as an engine's language has it."""

    @abc.abstractmethod
    def columns(self) -> dict[str, list[Value]]:
        """Returns what each column is compared with."""

    def __and__(self, other: "Condition") -> "Condition":
        return AllOf((self, other))

    def __or__(self, other: "Condition") -> "Condition":
        return AnyOf((self, other))

    def __invert__(self) -> "Condition":
        return Not(self)


def kind_of(value: Any) -> str:
    """Returns "text", "number", "boolean" or "list"; "" for None and what is none of them."""
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "text"
    return "list" if isinstance(value, list | tuple) else ""


def _value_of(record: Any, column: str) -> Any:
    """Returns what a record has in a column; None where unknown."""
    if column in FIELDS:
        return getattr(record, column) or None
    return record.metadata.get(column)


def _same_kind(value: Any, other: Value) -> list[Any]:
    """Returns the elements of a list, or the value alone, that are of the kind of another."""
    elements = value if kind_of(value) == "list" else [value]
    return [element for element in elements if kind_of(element) == kind_of(other)]


@dataclasses.dataclass(frozen=True)
class Comparison(Condition):
    """A column beside a value.

    Attributes:
        column: str.
        sign: str, among OPERATORS.
        value: str, float or bool; a bool is only equal to another or not.

    Raises:
        FirError: another sign, or a value of another type.
    """

    column: str
    sign: str
    value: Value

    def __post_init__(self) -> None:
        if self.sign not in OPERATORS:
            signs = " ".join(OPERATORS)
            raise FirError(f"`sign` must be one of {signs}. Received: {self.sign!r}")
        kind = _plain_kind(self.value)
        if kind == "boolean" and self.sign not in ("=", "!="):
            raise FirError(
                f"true and false are compared by = and != only. Received: {self.column} {self.sign}"
            )

    def allows(self, record: Any) -> bool:
        """See `Condition`."""
        value = _value_of(record, self.column)
        same = _same_kind(value, self.value)
        if self.sign == "!=":
            return value is not None and self.value not in same
        if self.sign == "=":
            return self.value in same
        return kind_of(value) != "list" and any(_COMPARED[self.sign](e, self.value) for e in same)

    def written(self, dialect: Dialect[_Written]) -> _Written:
        """See `Condition`."""
        return dialect.compared(self.column, self.sign, self.value)

    def columns(self) -> dict[str, list[Value]]:
        """See `Condition`."""
        return {self.column: [self.value]}


@dataclasses.dataclass(frozen=True)
class OneOf(Condition):
    """A column that is one of some values.

    Attributes:
        column: str.
        values: tuple of str, float or bool, all of one kind; never holds without any.
    """

    column: str
    values: tuple[Value, ...]

    def __post_init__(self) -> None:
        kinds = {_plain_kind(value) for value in self.values}
        if len(kinds) > 1:
            raise FirError(
                f"the values of `{self.column}` must be of one kind. "
                f"Received: {', '.join(sorted(kinds))}"
            )

    def allows(self, record: Any) -> bool:
        """See `Condition`."""
        value = _value_of(record, self.column)
        return any(allowed in _same_kind(value, allowed) for allowed in self.values)

    def written(self, dialect: Dialect[_Written]) -> _Written:
        """See `Condition`."""
        return dialect.one_of(self.column, self.values) if self.values else dialect.any([])

    def columns(self) -> dict[str, list[Value]]:
        """See `Condition`."""
        return {self.column: list(self.values)}


@dataclasses.dataclass(frozen=True)
class Known(Condition):
    """A column that a record has."""

    column: str

    def allows(self, record: Any) -> bool:
        """See `Condition`."""
        return _value_of(record, self.column) is not None

    def written(self, dialect: Dialect[_Written]) -> _Written:
        """See `Condition`."""
        return dialect.known(self.column)

    def columns(self) -> dict[str, list[Value]]:
        """See `Condition`."""
        return {self.column: []}


@dataclasses.dataclass(frozen=True)
class Not(Condition):
    """The opposite of another condition."""

    part: Condition

    def allows(self, record: Any) -> bool:
        """See `Condition`."""
        return not self.part.allows(record)

    def written(self, dialect: Dialect[_Written]) -> _Written:
        """See `Condition`."""
        return dialect.negated(self.part.written(dialect))

    def columns(self) -> dict[str, list[Value]]:
        """See `Condition`."""
        return self.part.columns()


@dataclasses.dataclass(frozen=True)
class _Several(Condition):
    parts: tuple[Condition, ...]

    def columns(self) -> dict[str, list[Value]]:
        """See `Condition`."""
        found: dict[str, list[Value]] = {}
        for part in self.parts:
            for name, values in part.columns().items():
                found.setdefault(name, []).extend(values)
        return found


class AllOf(_Several):
    """What all of some conditions allow; without any, everything."""

    def allows(self, record: Any) -> bool:
        """See `Condition`."""
        return all(part.allows(record) for part in self.parts)

    def written(self, dialect: Dialect[_Written]) -> _Written:
        """See `Condition`."""
        return dialect.all([part.written(dialect) for part in self.parts])


class AnyOf(_Several):
    """What one of some conditions allows; without any, nothing."""

    def allows(self, record: Any) -> bool:
        """See `Condition`."""
        return any(part.allows(record) for part in self.parts)

    def written(self, dialect: Dialect[_Written]) -> _Written:
        """See `Condition`."""
        return dialect.any([part.written(dialect) for part in self.parts])


@dataclasses.dataclass(frozen=True)
class Filter(Condition):
    """Categories and domains, each any of those given; an empty tuple allows all.

    Attributes:
        categories: tuple of str.
        domains: tuple of str.
    """

    categories: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()

    def _parts(self) -> AllOf:
        wanted = {"category": self.categories, "domain": self.domains}
        return AllOf(tuple(OneOf(column, values) for column, values in wanted.items() if values))

    def allows(self, record: Any) -> bool:
        """See `Condition`."""
        return self._parts().allows(record)

    def written(self, dialect: Dialect[_Written]) -> _Written:
        """See `Condition`."""
        return self._parts().written(dialect)

    def columns(self) -> dict[str, list[Value]]:
        """See `Condition`."""
        return self._parts().columns()


def combined(*conditions: Condition | None) -> Condition | None:
    """Returns what all of the conditions allow; None where each is None or an empty Filter."""
    given = [each for each in conditions if each is not None and each != Filter()]
    return AllOf(tuple(given)) if len(given) > 1 else given[0] if given else None


def check_columns(condition: Condition, kinds: Mapping[str, Iterable[str]]) -> None:
    """Compares a condition with the columns there are.

    Args:
        condition: Condition.
        kinds: {column: kinds of its values, "text", "number" or "boolean"} of the metadata; a
            Record's fields are known.

    Raises:
        FirError: a column that is not there, or a value of a kind that the column has not.
    """
    known = {**{name: ("text",) for name in FIELDS}, **kinds}
    for column, values in condition.columns().items():
        if column not in known:
            raise FirError(
                f"the index has no column {column!r}. It has: {', '.join(sorted(known))}"
            )
        for value in values:
            if kind_of(value) not in known[column]:
                raise FirError(
                    f"`{column}` must be compared with {' or '.join(sorted(known[column]))}. "
                    f"Received: {value!r}"
                )


def _plain_kind(value: Any) -> str:
    """Returns the kind of a value that a column can be compared with."""
    kind = kind_of(value)
    if kind not in _TOLD or (kind == "number" and not math.isfinite(value)):
        raise FirError(f"a column is compared with text, a number or a bool. Received: {value!r}")
    return kind
