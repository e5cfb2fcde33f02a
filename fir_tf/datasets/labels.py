"""Labels as people and their programs write them: which mean unknown, and which mean the same."""

import collections
import re
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np

from fir_tf.datasets.walk import printable

# fmt: off
UNKNOWN_NAMES = frozenset([
    "", "nan", "-nan", "none", "null", "na", "n/a", "<na>", "#na", "#n/a", "#n/a n/a",
    "1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan",
    "nat", "nil", "n.a.", "-nan(ind)", "\\n", "(null)", "[null]", "<null>", "(none)", "<none>",
    "[none]", "(blank)", "#null!", "#ref!", "#value!", "#name?", "#num!", "#div/0!",
    "n.a", "n\\a", "n/a.",
    "unknown", "(unknown)", "<unknown>", "[unknown]", "undefined", "not available",
    "not applicable",
])
# fmt: on
"""frozenset of str, names that mean unknown, as `plain` gives them: what pandas' `na_values` has by
default, and what spreadsheets, databases and people write besides."""

_WHOLE = re.compile(r"[+-]?\d+(\.0+)?")


def plain(text: str) -> str:
    """Returns what labels that look alike have in common.

    Without case, width and other Unicode variants (NFKC), invisible characters, and the number of
    blanks between words.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
        text = "".join(letter for letter in text if unicodedata.category(letter) != "Cf")
    return " ".join(text.casefold().split())


def composed(text: str) -> str:
    """Returns a name in Unicode's NFC: macOS writes the same letters in another form."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def known(text: str) -> str:
    """Returns a label in NFC; empty if it means unknown.

    That is one of `UNKNOWN_NAMES`, or of nothing but punctuation, as `...`, `__`, `[]` or `''`.
    """
    bare = plain(text)
    marks = all(letter in " \u2212" or unicodedata.category(letter)[0] == "P" for letter in bare)
    return "" if marks or bare in UNKNOWN_NAMES else composed(text)


def read_labels(
    what: str, cells: Sequence[str], numbers: bool = True
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Reads a column of labels.

    Args:
        what: str, the column's name, for the notes.
        cells: sequence of str.
        numbers: bool, whether 12.0 is 12, as programs write whole numbers in a column with gaps;
            only where every known label of the column is a whole number.

    Returns:
        (str array [n], empty where unknown; tuple of str, notes that count what was not taken
        as it stands).
    """
    # As long to import as an exported network takes to answer a photo.
    import pandas as pd

    codes, values = pd.factorize(np.array(cells, object))
    names = [known(value) for value in values]
    count = np.bincount(codes, minlength=len(values))
    notes = []
    unknown = [
        f"{count[place]:,} {printable(value)}"
        for place, value in enumerate(values)
        if value and not names[place]
    ]
    if unknown:
        notes.append(f"note: {what} is unknown where it is written so: {_first(unknown)}")
    spellings = collections.Counter(filter(None, names))
    twice = [name for name in spellings if spellings[name] > 1]
    if twice:
        notes.append(
            f"note: {what}: {len(twice):,} written in more than one Unicode form and read as one: "
            f"{_first(twice)}"
        )
    if numbers and spellings and all(_WHOLE.fullmatch(name) for name in spellings):
        cut = [name.partition(".")[0] for name in names]
        changed = [f"{name} as {new}" for name, new in zip(names, cut, strict=True) if name != new]
        if changed:
            notes.append(f"note: {what}: numbers are read without .0: {_first(changed)}")
        names = cut
    return np.array([*names, ""], object)[codes], tuple(notes)


def _first(texts: Iterable[str], most: int = 5) -> str:
    texts = list(texts)
    return ", ".join(texts[:most]) + (", ..." if len(texts) > most else "")
