"""Two runs beside each other, query by query."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fir_tf.errors import FirError
from fir_tf.evaluation.bootstrap import Difference, paired_bootstrap
from fir_tf.evaluation.queries import Queries
from fir_tf.files import read_json

METRICS = ("recall@1", "recall@5", "mAP@R", "R-precision")
_ADVICE = "Evaluate that run again"


@dataclasses.dataclass(frozen=True)
class Other:
    """Another evaluated run.

    Attributes:
        name: str, its folder as it was given.
        queries: Queries.
        metrics: dict, what its metrics.json holds.
    """

    name: str
    queries: Queries
    metrics: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Compared:
    """What two runs are worth on the same queries.

    Attributes:
        name: str, the other run.
        values: {metric: (float, float, Difference)}, this run's mean, the other's, and this less
            the other, for `METRICS`.
        alone: {metric: (float, float)}, the numbers that both have beside them, without a
            difference query by query.
        rules: {name: (value, value)}, where the protocols differ: what this run's says and the
            other's.
        gained, lost: int arrays, the queries' places that this run alone finds first, and that the
            other alone finds first; those first that the other has furthest behind.
        rank, other_rank: int arrays [q], where each query's item stands; 0 where none was looked
            at.
    """

    name: str
    values: dict[str, tuple[float, float, Difference]]
    alone: dict[str, tuple[float, float]]
    rules: dict[str, tuple[Any, Any]]
    gained: np.ndarray
    lost: np.ndarray
    rank: np.ndarray
    other_rank: np.ndarray

    def sentence(self) -> str:
        """Returns whether this run finds more items first, and whether that is more than luck."""
        found = self.values["recall@1"][2]
        text = f"recall@1 is that of {self.name}"
        if found.mean:
            side = "above" if found.mean > 0 else "below"
            text = f"recall@1 is {100 * abs(found.mean):.1f} points {side} that of {self.name}"
        low, high = (f"{100 * end:+.1f}" for end in (found.low, found.high))
        luck = "does not explain" if found.decided else "can explain"
        return (
            f"{text} (95 % interval {low} to {high}), which the luck of these queries {luck}. The "
            "luck of training is not in it: that takes several seeds."
        )

    def text(self) -> str:
        """Returns both runs' numbers as text for a screen, and the sentence."""
        lines = [f"beside {self.name}:", f"{'metric':<16}{'here':>9}{'there':>9}   difference"]
        for metric, (own, other, found) in self.values.items():
            interval = f"{found.mean:+.4f} ({found.low:+.4f} to {found.high:+.4f})"
            lines.append(f"{metric:<16}{own:9.4f}{other:9.4f}   {interval}")
        lines += [f"{name:<16}{a:9.4f}{b:9.4f}" for name, (a, b) in self.alone.items()]
        return "\n".join([*lines, self.sentence()])


def load_other(folder: str | Path) -> Other:
    """Reads what evaluate.py wrote of a run.

    Args:
        folder: str or Path, the run's folder, or what --output named.

    Returns:
        Other.

    Raises:
        FirError: it was not evaluated, has no queries, or a file is damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FirError(f"`compare` must be the folder of an evaluated run. Received: {folder}")
    path = folder / "queries.csv"
    if not path.is_file():
        raise FirError(
            f"{folder} has no {path.name}, which says what each query is worth there. Run "
            f"evaluate.py --run={folder} first; a test without queries cannot be compared"
        )
    metrics = read_json(folder / "metrics.json", _ADVICE)
    return Other(str(folder), Queries.load(path), metrics)


def compare(queries: Queries | None, metrics: Mapping[str, Any], other: Other) -> Compared:
    """Compares a run with another on the same queries.

    Args:
        queries: Queries of this run; None where it has none.
        metrics: dict, what metrics.json holds.
        other: Other.

    Returns:
        Compared.

    Raises:
        FirError: the two were not measured on the same queries.
    """
    there = _aligned(queries, other)
    assert queries is not None
    values = {}
    for metric in METRICS:
        own, others = queries.values(metric), there.values(metric)
        found = paired_bootstrap(own, others, queries.item)
        values[metric] = (float(own.mean()), float(others.mean()), found)
    alone = {
        name: (value, other.metrics[name])
        for name, value in metrics.items()
        if name not in values and isinstance(value, float)
        if isinstance(other.metrics.get(name), float)
    }
    first, first_there = queries.rank == 1, there.rank == 1
    return Compared(
        other.name,
        values,
        alone,
        _other_rules(metrics, other.metrics),
        _furthest(first & ~first_there, there.rank),
        _furthest(first_there & ~first, queries.rank),
        queries.rank,
        there.rank,
    )


def _aligned(queries: Queries | None, other: Other) -> Queries:
    """The other's queries in this run's order."""
    own = [] if queries is None else list(zip(queries.path, queries.item, strict=True))
    theirs = list(zip(other.queries.path, other.queries.item, strict=True))
    place = {key: number for number, key in enumerate(theirs)}
    if not own or len(own) != len(theirs) or set(own) != set(place):
        here, there = len(set(own) - set(theirs)), len(set(theirs) - set(own))
        raise FirError(
            f"{other.name} was measured on other queries: {len(theirs):,} there and {len(own):,} "
            f"here, {there:,} only there and {here:,} only here. Evaluate both on the same data "
            "and the same --split"
        )
    order = np.array([place[key] for key in own], np.int64)
    columns = (getattr(other.queries, field.name) for field in dataclasses.fields(Queries))
    return Queries(*(column[order] for column in columns))


def _furthest(chosen: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """The places that are chosen, by `rank`, the largest first; 0 is beyond all."""
    places = np.flatnonzero(chosen)
    behind = np.where(rank[places] > 0, rank[places], np.iinfo(np.int64).max)
    return places[np.argsort(-behind, kind="stable")]


def _other_rules(here: Mapping[str, Any], there: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    own, others = here.get("protocol", {}), there.get("protocol", {})
    names = dict.fromkeys([*own, *(others if isinstance(others, dict) else {})])
    pairs = {name: (own.get(name, "-"), others.get(name, "-")) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
