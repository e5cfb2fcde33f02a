"""Photos that a data set has twice, and what that means where they lie."""

import dataclasses

import numpy as np
import pandas as pd

from fir_tf.datasets.catalogue import Catalogue
from fir_tf.hygiene import near_duplicates
from fir_tf.hygiene.findings import HELD_OUT, Example, Finding, plural

# Of a large group so many rows are compared, to show two.
_COMPARED = 64


@dataclasses.dataclass(frozen=True)
class Prints:
    """What tells the images of a catalogue apart, a row each.

    Attributes:
        digests: object array [n], bytes of the files' SHA-256; None where a file cannot be read.
        words: uint64 [n, 4] and `cells`: uint8 [n, 192], see `near_duplicates.fingerprint`.
    """

    digests: np.ndarray
    words: np.ndarray
    cells: np.ndarray

    def distance(self, one: int, other: int) -> tuple[int, int]:
        """Returns `near_duplicates.distance` of two rows; (-1, 0) if they are the same file."""
        if self.digests[one] == self.digests[other]:
            return -1, 0
        return near_duplicates.distance(self.words, self.cells, one, other)


@dataclasses.dataclass(frozen=True)
class _Kind:
    """What groups of copies can mean.

    Attributes:
        severity: str, see `Finding`.
        text: str, what the groups lie across.
        advice: str, what it means and what to do.
        shown: which two of a group are shown: names of two bool columns, of which one has to hold
            for each, or of one whose values have to differ, or twice of one whose values have to
            be alike.
    """

    severity: str
    text: str
    advice: str
    shown: tuple[str, ...]


_KINDS = {
    "leakage": _Kind(
        "warning",
        "across train and a held-out split",
        "The result is better than it would be on unseen photos. Keep them on one side.",
        ("train", "held_out"),
    ),
    "item_duplicates": _Kind(
        "warning",
        "between different items",
        "One photo cannot be two items: a search cannot tell them apart. Join the items, or take "
        "the photos out.",
        ("item",),
    ),
    "category_duplicates": _Kind(
        "warning",
        "between different categories",
        "One photo has two labels. Correct one.",
        ("loose",),
    ),
    "easy_queries": _Kind(
        "note",
        "of a query and the gallery",
        "The query's own photo is a match that any method finds.",
        ("query", "gallery"),
    ),
    "repeats": _Kind(
        "note",
        "with the same file more than once on one side",
        "They count as several photos.",
        ("code", "code"),
    ),
}


def copy_findings(catalogue: Catalogue, prints: Prints, near: bool) -> list[Finding]:
    """Looks for exact copies and, where `near`, near-duplicates; returns a list of Finding."""
    table = _groups(catalogue, prints, near)
    findings = []
    for name, hit in _hits(table).items():
        parts = table[table["group"].isin(hit.index[hit])]
        if not len(parts):
            continue
        kind = _KINDS[name]
        pairs = [
            _pair(catalogue, prints, part, kind.shown)
            for _, part in parts.groupby("group", sort=False)
        ]
        pairs.sort(key=lambda pair: pair[0])
        what = f"{plural(len(pairs), 'group')} of {'near-duplicates' if near else 'copies'}"
        text = f"{what} {kind.text} ({plural(len(parts), 'image')})"
        examples = [example for _, example in pairs]
        findings.append(Finding(name, kind.severity, text, kind.advice, examples))
    return findings


def _groups(catalogue: Catalogue, prints: Prints, near: bool) -> pd.DataFrame:
    """Returns the rows that have a copy: their group, file, labels and sides."""
    readable = np.flatnonzero(pd.notna(prints.digests))
    code, _ = pd.factorize(prints.digests[readable])
    _, first = np.unique(code, return_index=True)
    rows = readable[first]
    groups = near_duplicates.group(prints.words[rows], prints.cells[rows])[code] if near else code
    split, item = catalogue.split[readable], catalogue.item[readable]
    table = pd.DataFrame(
        {
            "row": readable,
            "group": groups,
            "code": code,
            "item": pd.array(item, "Int32"),
            "loose": pd.array(np.where(item < 0, catalogue.category[readable], -1), "Int32"),
            "train": split == "train",
            "held_out": np.isin(split, HELD_OUT),
            "query": split == "query",
            "gallery": split == "gallery",
        }
    )
    for name in ("item", "loose"):
        table.loc[table[name] < 0, name] = pd.NA
    return table[table.groupby("group")["row"].transform("size") > 1]


def _hits(table: pd.DataFrame) -> dict[str, pd.Series]:
    """Returns for each of `_KINDS` which groups are of it: bool by group."""
    groups = table.groupby("group")
    holds = groups[["train", "held_out", "query", "gallery"]].any()
    count = groups[["item", "loose", "code"]].nunique()
    leak = holds["train"] & holds["held_out"]
    # Across the splits the items are different by themselves: once is enough.
    items, categories = ~leak & (count["item"] > 1), ~leak & (count["loose"] > 1)
    easy = holds["query"] & holds["gallery"] & (count["item"] <= 1)
    rest = ~(leak | items | categories | easy)
    return {
        "leakage": leak,
        "item_duplicates": items,
        "category_duplicates": categories,
        "easy_queries": easy,
        "repeats": rest & (count["code"] < groups.size()),
    }


def _pair(
    catalogue: Catalogue, prints: Prints, part: pd.DataFrame, shown: tuple[str, ...]
) -> tuple[tuple[int, int], Example]:
    """Returns (distance, Example) of the nearest two rows of a group that show why it is one."""
    rows, fits = _candidates(part, shown)
    pairs = [
        (int(rows[one]), int(rows[other])) for one, other in np.argwhere(np.triu(fits | fits.T, 1))
    ]
    apart, pair = min((prints.distance(*pair), pair) for pair in pairs)
    names = [
        catalogue.split[row]
        + (f", item {catalogue.items[catalogue.item[row]]}" if catalogue.item[row] >= 0 else "")
        for row in pair
    ]
    how = "the same file" if apart[0] < 0 else f"{apart[0]} of 256 bits differ"
    more = f"; group of {len(part)}" if len(part) > 2 else ""
    return apart, Example(pair, f"{names[0]} / {names[1]}: {how}{more}")


def _candidates(part: pd.DataFrame, shown: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Returns (rows of the catalogue [m], bool [m, m]: which two may be shown), see `_Kind`."""
    name = shown[0]
    if len(shown) == 1:
        # One row of every value first, so that a large group still has a pair.
        part = part[part[name].notna()]
        part = part.loc[part[name].duplicated().sort_values(kind="stable").index].head(_COMPARED)
        values = part[name].to_numpy(np.int64)
        fits = values[:, None] != values
    elif shown[1] == name:
        part = part[part[name].duplicated(keep=False)].sort_values(name).head(_COMPARED)
        values = part[name].to_numpy()
        fits = values[:, None] == values
    else:
        part = pd.concat([part[part[side]].head(_COMPARED // 2) for side in shown])
        left, right = (part[side].to_numpy() for side in shown)
        fits = left[:, None] & right
    return part["row"].to_numpy(), fits
