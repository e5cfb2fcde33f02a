"""`--where`: text such as "price < 50 and brand in ('A', 'B')" -> a Condition.

- An expression is a comparison, `expression or expression`, `expression and expression`, `not
  expression` or `(expression)`; `not` binds strongest, `or` weakest.
- A comparison is `column = value` (also `==`, `!=`, `<>`, `<`, `<=`, `>`, `>=`), `column in (value,
  ...)`, `column not in (...)`, `column is null` or `column is not null`.
- A column is a name, or any text between double quotes or backticks.
- A value is `'text'` or `"text"`, a doubled quote within for the quote itself, a number, `true` or
  `false`.

Words stand in any case.
"""

import math
import re
from collections.abc import Iterator
from typing import NoReturn

from fir_tf.errors import FirError
from fir_tf.search.conditions import AllOf, AnyOf, Comparison, Condition, Known, Not, OneOf, Value

_TOKEN = re.compile(
    r"""\s*(?:
    (?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*"|`[^`]*`)
    |(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))
    |(?P<word>[^\W\d]\w*(?:[.:]\w+)*)
    |(?P<sign><=|>=|!=|<>|==|=|<|>|\(|\)|,)
    |(?P<end>$)
    )""",
    re.VERBOSE,
)
_SIGNS = {"==": "=", "<>": "!="}
# Deeper ones are no question of a person, and would end in Python's own limit.
_DEEPEST = 100


def parse(text: str) -> Condition:
    """Reads a condition.

    Raises:
        FirError: it is no condition; the message shows the place.

    Example:
        >>> parse("price < 50 and not brand = 'A'").columns()
        {'price': [50.0], 'brand': ['A']}
    """
    return _Parser(text).whole()


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(self._read())
        self._next = 0
        self._depth = 0

    def _read(self) -> Iterator[tuple[str, str, int]]:
        """Yields (kind, text, place) of all tokens, the last of them an "end"."""
        place = 0
        while True:
            found = _TOKEN.match(self._text, place)
            if not found or not found.lastgroup:
                rest = self._text[place:]
                start = place + len(rest) - len(rest.lstrip())
                quote = self._text[start] if self._text[start] in "'\"`" else ""
                self._wrong(
                    f"this {quote} has no end" if quote else "this is not understood", start
                )
            kind, place = found.lastgroup, found.end()
            yield kind, found[kind], found.start(kind)
            if kind == "end":
                return

    def _wrong(self, why: str, place: int) -> NoReturn:
        line = self._text.replace("\n", " ").replace("\t", " ")
        raise FirError(
            f"`where`: {why}:\n  {line}\n  {' ' * place}^\n"
            "Such as: price < 50 and brand in ('A', 'B') and not sold_out = true"
        )

    def _expected(self, what: str) -> NoReturn:
        _, text, place = self._tokens[self._next]
        self._wrong(f"{what} must stand here{f', not {text}' if text else ''}", place)

    def _word(self) -> str:
        """Returns the next token where it is a word or a sign, in small letters; else ""."""
        kind, text, _ = self._tokens[self._next]
        return text.lower() if kind in ("word", "sign") else ""

    def _takes(self, *words: str) -> bool:
        """Moves on where the next token is one of these words or signs."""
        if self._word() not in words:
            return False
        self._next += 1
        return True

    def whole(self) -> Condition:
        found = self._either()
        if self._tokens[self._next][0] != "end":
            self._expected("and, or, or the end")
        return found

    def _either(self) -> Condition:
        parts = [self._both()]
        while self._takes("or"):
            parts.append(self._both())
        return AnyOf(tuple(parts)) if len(parts) > 1 else parts[0]

    def _both(self) -> Condition:
        parts = [self._single()]
        while self._takes("and"):
            parts.append(self._single())
        return AllOf(tuple(parts)) if len(parts) > 1 else parts[0]

    def _single(self) -> Condition:
        place = self._tokens[self._next][2]
        self._depth += 1
        if self._depth > _DEEPEST:
            self._wrong(f"more than {_DEEPEST} levels of `not` and parentheses", place)
        if self._takes("not"):
            found: Condition = Not(self._single())
        elif self._takes("("):
            found = self._either()
            if not self._takes(")"):
                self._expected("a )")
        else:
            found = self._comparison()
        self._depth -= 1
        return found

    def _comparison(self) -> Condition:
        kind, column, place = self._tokens[self._next]
        if kind == "text" and column[0] in '"`':
            column = _unquoted(column)
        elif kind != "word" or column.lower() in ("and", "or", "in", "is", "null", "true", "false"):
            self._expected("a column")
        self._next += 1
        if self._takes("is"):
            absent = not self._takes("not")
            if not self._takes("null"):
                self._expected("null")
            return Not(Known(column)) if absent else Known(column)
        opposite = self._takes("not")
        if self._takes("in"):
            inside = OneOf(column, self._values())
            # As != does: what is unknown is neither in nor out.
            return AllOf((Known(column), Not(inside))) if opposite else inside
        sign = _SIGNS.get(self._word(), self._word())
        if opposite or not self._takes("=", "!=", "<", "<=", ">", ">=", "==", "<>"):
            self._expected("in" if opposite else "= != < <= > >=, in or is")
        value = self._value()
        try:
            return Comparison(column, sign, value)
        except FirError as error:
            self._wrong(str(error), place)

    def _values(self) -> tuple[Value, ...]:
        place = self._tokens[self._next][2]
        if not self._takes("("):
            self._expected("a (")
        values = [self._value()]
        while self._takes(","):
            values.append(self._value())
        if not self._takes(")"):
            self._expected("a , or a )")
        if len({type(value) for value in values}) > 1:
            self._wrong("these values must all be text, all numbers or all true and false", place)
        return tuple(values)

    def _value(self) -> Value:
        kind, text, _ = self._tokens[self._next]
        if self._takes("true", "false"):
            return text.lower() == "true"
        if kind not in ("text", "number") or text.startswith("`"):
            self._expected("a value ('text', a number, true or false)")
        if kind == "number" and math.isinf(float(text)):
            self._expected("a number that is not as large")
        self._next += 1
        return float(text) if kind == "number" else _unquoted(text)


def _unquoted(text: str) -> str:
    return text[1:-1].replace(text[0] * 2, text[0])
