"""The sum of losses as people write it: `[weight*]loss[:label]+...`, or the paper's names.

Imports nothing but names: the command line answers at once.
"""

import dataclasses
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
    "(triplet:category, both with --beta), or [weight*]loss[:label] with the label item or "
    "category, such as OC+10*IS or softmax:category+0.5*triplet:item."
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
    """

    name: str
    loss: str
    label: str
    weight: float | None = None
    flag: str = ""


@dataclasses.dataclass(frozen=True)
class LossSettings:
    """What the flags say to losses.

    Attributes:
        margin: float, of the triplet loss: the paper's delta.
        triplets: str, a registered miner, or "explicit".
        label_smoothing: float in [0, 1), the share of a target spread evenly over all classes.
    """

    margin: float = 0.3
    triplets: str = "all"
    label_smoothing: float = 0.0


# Between two terms. That of a number such as 1e+2 is none, but that behind a name such as v2e is.
_PLUS = r"(?<![\d.][eE])\+|(?<=[A-Za-z_]\d[eE])\+|(?<=[eE])\+(?!\d)"


def parse_losses(text: str) -> tuple[Term, ...]:
    """Reads a sum of losses.

    Args:
        text: str, see `HELP`.

    Returns:
        tuple of Term: the paper's first, in its order, then the others as written.

    Raises:
        FirError: showing the place, for an unknown loss or label, a weight that is no number >= 0,
            a term that comes twice, or an empty one.
    """
    terms, seen = [], set()
    signs = [sign.start() for sign in re.finditer(_PLUS, text)]
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
    weight, star, rest = part.rpartition("*")
    at = start + len(weight) + len(star) + len(rest) - len(rest.lstrip())
    number = None
    if star:
        try:
            number = float(weight)
        except ValueError:
            number = -1.0
        if not 0 <= number < float("inf"):
            raise _wrong(text, start, f"a weight must be a number >= 0, not {weight.strip()!r}")
    name = rest.strip()
    if name.upper() in _SHORTHAND:
        loss, label, flag = _SHORTHAND[name.upper()]
        return Term(name.upper(), loss, label, number, flag)
    loss, colon, label = (part.strip() for part in name.partition(":"))
    known = registry.names("loss")
    if loss not in known:
        what = f"there is no loss {loss!r}" if loss else "a loss is missing here"
        raise _wrong(text, at, f"{what}; there are {', '.join([*_SHORTHAND, *known])}")
    if colon and label not in LABELS:
        raise _wrong(text, at, f"the label must be {' or '.join(LABELS)}, not {label!r}")
    label = label or _DEFAULTS.get(loss, LABELS[0])
    return Term(f"{loss}:{label}", loss, label, number)


def _wrong(text: str, at: int, why: str) -> FirError:
    return FirError(
        "`losses` must be a sum of [weight*]loss[:label], each at most once, such as OC+IS. "
        f"Received: {text!r}: {why}\n  {text}\n  {' ' * at}^"
    )
