"""How large the benchmarks are as published, and whether a folder holds all of it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    # The boutique's command takes the name of its manifest from here, and needs no pandas.
    from fir_tf.datasets.catalogue import Catalogue


@dataclasses.dataclass(frozen=True)
class Published:
    """A benchmark's size as its authors give it (PAPER: the three benchmarks).

    Attributes:
        name: str, the benchmark's name.
        counts: dict of int, by what is counted: `images`, `items`, `train images`, `test items`
            (of query and gallery together) and so on.
    """

    name: str
    counts: dict[str, int]


PUBLISHED = {
    "inshop": Published(
        "In-Shop Clothes Retrieval",
        {
            "images": 52712,
            "items": 7982,
            "train images": 25882,
            "train items": 3997,
            "query images": 14218,
            "gallery images": 12612,
            "test items": 3985,
        },
    ),
    "category": Published(
        "Category and Attribute Prediction",
        {"images": 289222, "train images": 209222, "val images": 40000, "test images": 40000},
    ),
    "category_fine": Published(
        "Category and Attribute Prediction, Anno_fine",
        {"images": 20000, "train images": 14000, "val images": 2000, "test images": 4000},
    ),
    "consumer2shop": Published(
        "Consumer-to-Shop Clothes Retrieval",
        {"pairs": 195540, "images": 239557, "items": 33881},
    ),
}

# Written by `fir_tf.boutique` beside its annotations.
BOUTIQUE = "boutique.json"

_SIDES = {
    "train": ("train",),
    "val": ("val",),
    "query": ("query",),
    "gallery": ("gallery",),
    "test": ("query", "gallery", "test"),
}


def count(catalogue: Catalogue, what: str) -> int:
    """Counts what a key of `Published.counts` names: "images", "train items" ...

    Args:
        catalogue: Catalogue.
        what: str: "images" or "items", alone or after a split. `test` is the query, gallery and
            test images together.

    Returns:
        int.
    """
    side, _, noun = what.rpartition(" ")
    rows = np.isin(catalogue.split, _SIDES[side]) if side else np.ones(len(catalogue), bool)
    if noun == "images":
        return int(rows.sum())
    items = catalogue.item[rows]
    return len(np.unique(items[items >= 0]))


def compare_with_published(benchmark: str, catalogue: Catalogue, **counted: int) -> str:
    """Says whether the counts are those of the benchmark as published.

    A subset is legal: training goes on.

    Args:
        benchmark: str, a key of `PUBLISHED`.
        catalogue: Catalogue.
        **counted: int, counts that the catalogue does not hold, such as `pairs`.

    Returns:
        str, one line for the screen; it starts with "warning:" where a count differs and gives
        both numbers then.
    """
    published = PUBLISHED[benchmark]
    own = {
        what: counted[what] if what in counted else count(catalogue, what)
        for what in published.counts
    }
    if own == published.counts:
        shown = ", ".join(f"{number:,} {what}" for what, number in own.items())
        return f"counts equal the published ones of {published.name}: {shown}"
    shown = ", ".join(
        f"{own[what]:,} of {number:,} {what}"
        for what, number in published.counts.items()
        if own[what] != number
    )
    return (
        f"warning: counts differ from {published.name} as published (fine for a subset or other "
        f"photos in its layout): {shown}"
    )


def describe_boutique(benchmark: str, catalogue: Catalogue) -> str:
    """Returns the line for the screen of rendered garments; nobody takes them for the benchmark."""
    name = PUBLISHED[benchmark].name
    return f"rendered garments in the layout of {name}: {len(catalogue):,} images"


def is_published_test_set(benchmark: str, catalogue: Catalogue) -> bool:
    """Returns whether query, gallery and test images are as many as published.

    Args:
        benchmark: str; a name that is no key of `PUBLISHED` gives False.
        catalogue: Catalogue.

    Returns:
        bool; False too where no such counts are published.
    """
    published = PUBLISHED.get(benchmark)
    wanted = {
        what: number
        for what, number in (published.counts if published else {}).items()
        if what in ("query images", "gallery images", "test images")
    }
    return bool(wanted) and all(count(catalogue, what) == number for what, number in wanted.items())
