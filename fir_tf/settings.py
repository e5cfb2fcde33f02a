"""Settings: dataclass fields that are also flags, checked by what they declare."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from fir_tf import registry
from fir_tf.errors import FirError


def option(
    default: Any,
    help_text: str,
    choices: Sequence[str] | None = None,
    *,
    within: str = "",
    path: bool = False,
    alone: str = "",
    part: str = "",
) -> Any:
    """Declares a dataclass field that is also a flag.

    Args:
        default: its default value.
        help_text: str, for --help.
        choices: sequence of str, the values it may have, beside those of `part`; None for any.
        within: str, the interval that a number lies in and its unit, such as "[0, 1)" or
            "[32, 4096] pixels"; empty for any.
        path: bool, whether it is a path, or has paths in it.
        alone: str, the value it has where the flag is given without one; empty where it needs one.
        part: str, the kind of part whose name it is, see `fir_tf.registry`; empty for none.
    """
    return dataclasses.field(
        default=default,
        metadata={
            "help": help_text,
            "choices": choices,
            "within": within,
            "path": path,
            "alone": alone,
            "part": part,
        },
    )


PLUGINS_HELP = (
    "Modules or .py files of yours that bring parts (backbones, data sets ...), with commas; "
    "`python -m fir_tf parts` lists what is known."
)


COLUMNS_HELP = (
    "Other names for the columns of a table or a feed, such as item=sku,path=photo: what (path, "
    "item, category, domain, split, box) and the file's name for it; box=x+y+w+h takes four."
)


def help_of(field: dataclasses.Field) -> str:
    """Returns the help text of an option, with the names where it is that of a part."""
    kind, choices = field.metadata.get("part"), field.metadata.get("choices") or ()
    known = f" One of {', '.join([*choices, *registry.names(kind)])}." if kind else ""
    return field.metadata["help"] + known


def check_settings(settings: Any) -> None:
    """Raises FirError unless each field has a value that it may have."""
    check_parts(settings)
    for field in dataclasses.fields(settings):
        value, choices = getattr(settings, field.name), field.metadata["choices"]
        if choices and not field.metadata["part"] and value not in choices:
            raise FirError(
                f"`{field.name}` must be one of {', '.join(choices)}. Received: {value!r}"
            )
        if field.metadata["within"]:
            check_within(field.name, value, field.metadata["within"])


def check_parts(settings: Any) -> None:
    """Raises FirError unless each field that is a part's name, and not empty, is a known one."""
    for field in dataclasses.fields(settings):
        name, kind = getattr(settings, field.name), field.metadata["part"]
        if kind and (name or field.default) and name not in (field.metadata["choices"] or ()):
            registry.check(kind, name, field.name)


def check_within(name: str, value: float, interval: str) -> None:
    """Raises FirError unless a number lies in an interval, see `option`."""
    ((left, low, high, right, unit),) = re.findall(r"^([\[(])(.+), (.+)([\])])(.*)$", interval)
    above = value >= float(low) if left == "[" else value > float(low)
    below = value <= float(high) if right == "]" else value < float(high)
    if above and below:
        return
    if high == "inf":
        what = f"{'>=' if left == '[' else '>'} {low}"
    elif left == "[" and right == "]":
        what = f"between {low} and {high}"
    else:
        what = f"{'at least' if left == '[' else 'above'} {low} and "
        what += f"{'at most' if right == ']' else 'below'} {high}"
    raise FirError(f"`{name}` must be {what}{unit}. Received: {value!r}")
