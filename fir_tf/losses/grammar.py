"""The sum of losses as people write it, see `HELP`.

Imports nothing but names: the command line answers at once.
"""

import dataclasses
import math
import re

from fir_tf import registry
from fir_tf.errors import FirError

LABELS = ("item", "category")
"""What a loss may be by, the finer one first."""

# The paper's losses (PAPER: Equation 1) with the flags that weigh them.
_SHORTHAND = {
    "OC": ("softmax", "category", "alpha"),
    "IS": ("triplet", "item", "beta"),
    "OS": ("triplet", "category", "beta"),
}

# What a loss is by where no label is given: as in the paper, items before categories.
_DEFAULTS = {loss: label for loss, label, _ in reversed(_SHORTHAND.values())}

HELP = (
    "Sum of losses: OC (softmax:category with the weight --alpha), IS (triplet:item) and OS "
    "(triplet:category, both with --beta), or [weight*]loss[(option=number,...)][:label] with the "
    "label item or category, such as OC+10*IS or softmax:category+0.5*triplet(margin=0.2):item. "
    "An option may be true or false too, and on=features lets a loss read the pooled features."
)


@dataclasses.dataclass(frozen=True)
class Term:
    """One loss of a sum.

    Attributes:
        name: str, as the log calls it: "OC", "triplet:item".
        loss: str, a registered loss.
        label: str, one of `LABELS`.
        weight: float, or None where `flag` says it.
        flag: str, the flag that weighs it where no number does; empty for 1.
        options: tuple of (str, float), what the loss itself is told, before what flags say; true
            is 1 and false 0.
        output: str, the output of the model that it reads; empty for the one the loss names.
    """

    name: str
    loss: str
    label: str
    weight: float | None = None
    flag: str = ""
    options: tuple[tuple[str, float], ...] = ()
    output: str = ""


@dataclasses.dataclass(frozen=True)
class LossSettings:
    """What the flags, and a term of its own, say to losses.

    Attributes:
        margin: float, of the triplet loss: the paper's delta.
        triplets: str, a registered miner, or "explicit".
        label_smoothing: float in [0, 1), the share of a target spread evenly over all classes.
        options: tuple of (str, float), what the term says in brackets.
    """

    margin: float = 0.3
    triplets: str = "all"
    label_smoothing: float = 0.0
    options: tuple[tuple[str, float], ...] = ()


_SWITCH = {"true": 1.0, "false": 0.0}

# Between two terms. That of a number such as 1e+2 is none, but that behind a name such as v2e is.
_PLUS = r"(?<![\d.][eE])\+|(?<=[A-Za-z_]\d[eE])\+|(?<=[eE])\+(?!\d)"
# A bracket is passed over whole: within it a + is a number's sign.
_BRACKET_OR_PLUS = rf"\([^)]*|(?P<plus>{_PLUS})"


def parse_losses(text: str) -> tuple[Term, ...]:
    """Reads a sum of losses.

    Args:
        text: str, see `HELP`.

    Returns:
        tuple of Term: the paper's first, in its order, then the others as written.

    Raises:
        FirError: showing the place, for an unknown loss or label, a weight that is no number >= 0,
            an option that is no number, what comes twice, or an empty term.
    """
    terms, seen = [], set()
    signs = [found.start() for found in re.finditer(_BRACKET_OR_PLUS, text) if found["plus"]]
    for start, end in zip([-1, *signs], [*signs, len(text)], strict=True):
        term = _parse_term(text, start + 1, text[start + 1 : end])
        if (term.loss, term.label) in seen:
            raise _wrong(text, start + 1, f"{term.loss}:{term.label} comes twice")
        seen.add((term.loss, term.label))
        terms.append(term)
    paper = list(_SHORTHAND)
    return tuple(
        sorted(terms, key=lambda term: paper.index(term.name) if term.name in paper else len(paper))
    )


def _parse_term(text: str, start: int, part: str) -> Term:
    head, bracket, behind = part.partition("(")
    weight, star, before = head.rpartition("*")
    at = start + len(head) - len(before.lstrip())
    number = None
    if star:
        try:
            number = float(weight)
        except ValueError:
            number = -1.0
        if not 0 <= number < float("inf"):
            raise _wrong(text, start, f"a weight must be a number >= 0, not {weight.strip()!r}")
    inside, closed, after = behind.partition(")")
    if bracket and not closed:
        raise _wrong(text, at, "a bracket is not closed")
    after = after.strip()
    if after and not after.startswith(":"):
        place = start + part.rindex(after)
        raise _wrong(text, place, f"behind a bracket only :label may stand, not {after!r}")
    inner = start + len(part) - len(behind)
    options, output = _parse_options(text, inner, inside) if bracket else ((), "")
    name = before.strip() + after
    if name.upper() in _SHORTHAND:
        loss, label, flag = _SHORTHAND[name.upper()]
        return Term(name.upper(), loss, label, number, flag, options, output)
    loss, colon, label = (part.strip() for part in name.partition(":"))
    known = registry.names("loss")
    if loss not in known:
        what = f"there is no loss {loss!r}" if loss else "a loss is missing here"
        raise _wrong(text, at, f"{what}; there are {', '.join([*_SHORTHAND, *known])}")
    if colon and label not in LABELS:
        raise _wrong(text, at, f"the label must be {' or '.join(LABELS)}, not {label!r}")
    label = label or _DEFAULTS.get(loss, LABELS[0])
    return Term(f"{loss}:{label}", loss, label, number, options=options, output=output)


def _parse_options(text: str, at: int, inside: str) -> tuple[tuple[tuple[str, float], ...], str]:
    """The options and the output that a bracket names."""
    options: dict[str, float] = {}
    output = ""
    for part in inside.split(","):
        place = at + len(part) - len(part.lstrip())
        name, _, value = (side.strip() for side in part.partition("="))
        number = _number(value)
        reads = name == "on" and value.isidentifier()
        if not name or not (reads or math.isfinite(number)):
            raise _wrong(text, place, f"an option must be name=number, not {part.strip()!r}")
        if name in options or (reads and output):
            raise _wrong(text, place, f"{name} comes twice")
        if reads:
            output = value
        else:
            options[name] = number
        at += len(part) + 1
    return tuple(options.items()), output


def _number(text: str) -> float:
    """The number of an option, not a number where it is none."""
    if text in _SWITCH:
        return _SWITCH[text]
    try:
        return float(text)
    except ValueError:
        return math.nan


def _wrong(text: str, at: int, why: str) -> FirError:
    return FirError(
        "`losses` must be a sum of [weight*]loss[(option=number,...)][:label], each at most once, "
        "such as OC+IS. "
        f"Received: {text!r}: {why}\n  {text}\n  {' ' * at}^"
    )
