"""How much the answers of two generations of an index have in common, and which are right."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from fir_tf.evaluation.bootstrap import paired_bootstrap
from fir_tf.search.conditions import Comparison, Condition
from fir_tf.search.engines import Engine, Hit

PERSISTENCE = 0.9
"""float, of rank-biased overlap: its first ten ranks have 86 % of the weight."""


@dataclasses.dataclass(frozen=True, eq=False)
class Asked:
    """A query to both generations.

    Attributes:
        name: str, how it is shown.
        item: str, the garment's name; empty where unknown.
        own: str, the path in the index of the query itself, which must not be its answer.
        file: Path of its picture, or None.
        old, new: float32 [d], its embedding by either model.
    """

    name: str
    item: str
    own: str
    file: Path | None
    old: np.ndarray
    new: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Answered:
    """What both generations answer to a query.

    Attributes:
        asked: Asked.
        old, new: list of Hits, the best first.
        names: (list of str, list of str), what tells the answers of either from each other.
        overlap: float, see `overlap`.
        biased: float, see `rank_biased_overlap`.
    """

    asked: Asked
    old: list[Hit]
    new: list[Hit]
    names: tuple[list[str], list[str]]
    overlap: float
    biased: float


def overlap(first: Sequence[str], second: Sequence[str]) -> float:
    """Returns the share of two lists' answers that both have; 1 where both are empty.

    Example:
        >>> overlap(["a", "b", "c"], ["c", "a", "d"])
        0.6666666666666666
    """
    longest = max(len(first), len(second))
    return len(set(first) & set(second)) / longest if longest else 1.0


def rank_biased_overlap(
    first: Sequence[str], second: Sequence[str], persistence: float = PERSISTENCE
) -> float:
    """Returns how alike two rankings are, their first ranks above all.

    The extrapolated form of Webber, Moffat and Zobel (2010), "A similarity measure for indefinite
    rankings", equation 30, of the ranks that both lists have.

    Args:
        first: sequence of str, all different.
        second: the same.
        persistence: float in (0, 1), how much of a rank's weight the next one has.

    Returns:
        float in [0, 1]; 1 where both are empty.

    Example:
        >>> rank_biased_overlap("abc", "abc"), rank_biased_overlap("abc", "xyz")
        (1.0, 0.0)
    """
    depth = min(len(first), len(second))
    if not depth:
        return float(len(first) == len(second))
    ranks = np.arange(1, depth + 1)
    common = [len(set(first[:rank]) & set(second[:rank])) for rank in range(1, depth + 1)]
    agreed = common / ranks
    weights = (1 - persistence) * persistence ** (ranks - 1)
    return float(weights @ agreed + agreed[-1] * persistence**depth)


def answered(
    engines: tuple[Engine, Engine], asked: Sequence[Asked], k: int, group: bool
) -> tuple[list[Answered], tuple[float, float]]:
    """Asks both generations, one query at a time.

    Args:
        engines: (Engine, Engine), old and new.
        asked: list of Asked.
        k: int, answers for each.
        group: bool, whether an answer is an item by its best photo, or a photo.

    Returns:
        (list of Answered, median seconds of a search in the old and the new one).
    """
    found, seconds = [], np.empty([2, len(asked)])
    for number, query in enumerate(tqdm(asked, desc="queries", disable=None, leave=False)):
        hits: list[list[Hit]] = []
        for side, (engine, vector) in enumerate(zip(engines, (query.old, query.new), strict=True)):
            search = engine.search_items if group else engine.search
            start = time.perf_counter()
            hits.append(search(vector[np.newaxis], k, _others(query.own))[0])
            seconds[side, number] = time.perf_counter() - start
        old, new = ([_name(hit, group) for hit in row] for row in hits)
        alike = overlap(old, new), rank_biased_overlap(old, new)
        found.append(Answered(query, hits[0], hits[1], (old, new), *alike))
    return found, (float(np.median(seconds[0])), float(np.median(seconds[1])))


def _others(own: str) -> Condition | None:
    return Comparison("path", "!=", own) if own else None


def _name(hit: Hit, group: bool) -> str:
    """Returns what an answer is known by: an item, or a photo, whose path has no NUL in it."""
    return f"\0{hit.record.item}" if group and hit.record.item else hit.record.path


def compared(found: Sequence[Answered], items: Mapping[str, int], k: int) -> dict[str, Any]:
    """Returns what old and new answers have in common, ready for JSON.

    Args:
        found: list of Answered, at least one.
        items: dict of int by item, how many photos of it the index has.
        k: int.

    Returns:
        dict: `overlap@k`, `rank_biased_overlap` (means) and `recall@k`: of the `queries` whose
        item has another photo in the index the shares `old` and `new` that found one, their
        `difference` and its 95 % interval `low` to `high`; None without such queries.
    """
    return {
        f"overlap@{k}": float(np.mean([one.overlap for one in found])),
        "rank_biased_overlap": float(np.mean([one.biased for one in found])),
        f"recall@{k}": _recall(found, items),
    }


def _recall(found: Sequence[Answered], items: Mapping[str, int]) -> dict[str, Any] | None:
    known = [
        one
        for one in found
        if one.asked.item and items.get(one.asked.item, 0) > bool(one.asked.own)
    ]
    if not known:
        return None
    old, new = (
        np.array([any(hit.record.item == one.asked.item for hit in hits) for one, hits in pairs])
        for pairs in ([(one, one.old) for one in known], [(one, one.new) for one in known])
    )
    # Queries of one item are not independent of each other.
    luck = paired_bootstrap(new, old, [one.asked.item for one in known])
    return {
        "queries": len(known),
        "old": float(old.mean()),
        "new": float(new.mean()),
        "difference": luck.mean,
        "low": luck.low,
        "high": luck.high,
    }


def most_changed(found: Sequence[Answered], count: int) -> list[Answered]:
    """Returns the queries whose answers changed most, the most changed first."""
    return sorted(found, key=lambda one: (one.biased, one.overlap, one.asked.name))[:count]
