"""What an engine of an index gives up against exact search, and how fast it is."""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from tqdm import tqdm

from fir_tf.errors import FirError
from fir_tf.neighbours import top_k
from fir_tf.search.conditions import Comparison, Condition
from fir_tf.search.engines import Engine, Hit, open_engine
from fir_tf.search.engines.base import shown
from fir_tf.search.telling import tell
from fir_tf.search_options import MeasureOptions

SHARES = (0.5, 0.05, 0.005, 0.0005)
"""tuple of float, shares of an index that filters leave when they are measured."""


def measure_engine(options: MeasureOptions) -> dict[str, Any]:
    """Compares an engine with exact search over the same vectors.

    The queries are vectors of the index itself with noise added, so that none is its own answer
    to the bit.

    Args:
        options: MeasureOptions.

    Returns:
        dict: `recall@k` (share of the exact k nearest that the engine found), `recall@1`,
        `queries_per_second` in one batch, `seconds_per_query` one at a time (median), `vectors`,
        `queries`, `k`; and `filtered`, a list with the same for filters that leave SHARES of the
        records, neighbours by path, and how many they leave: `records`.

    Raises:
        FirError: the index is empty.
    """
    with open_engine(options.index, effort=options.effort) as engine:
        count = len(engine)
        if not count:
            raise FirError(
                f"the index {shown(options.index)} is empty. Fill it with search.py index"
            )
        rng = np.random.default_rng(0)
        chosen = rng.choice(count, min(options.queries, count), replace=False)
        vectors = _vectors_at(engine, chosen)
        size = vectors.shape[1]
        noise = rng.standard_normal(vectors.shape).astype(np.float32) * 0.3 / np.sqrt(size)
        queries = vectors + noise
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
        k = min(options.k, count)
        values = {
            "engine": shown(options.index),
            "vectors": count,
            "queries": len(queries),
            "k": k,
            **_measured(engine, queries, k),
            "filtered": [
                {"records": left, **_measured(engine, queries, min(k, left), where)}
                for left, where in _filters(engine, count, rng)
            ],
        }
    tell(values, _table(values), options.json)
    return values


def _table(values: dict[str, Any]) -> str:
    """Returns what was measured as text."""
    lines = [
        f"{name:20s} {value:.4f}" if isinstance(value, float) else f"{name:20s} {value}"
        for name, value in values.items()
        if name != "filtered"
    ]
    for row in values["filtered"]:
        recall = next(value for name, value in row.items() if name.startswith("recall@"))
        lines.append(
            f"filter leaves {row['records']:,}: recall {recall:.4f}, "
            f"{row['seconds_per_query']:.4f} seconds_per_query"
        )
    return "\n".join(lines)


def _measured(
    engine: Engine, queries: np.ndarray, k: int, where: Condition | None = None
) -> dict[str, float]:
    """Recall and time of an engine's search."""
    start = time.perf_counter()
    found = engine.search(queries, k, where)
    batch = time.perf_counter() - start
    times = []
    for vector in tqdm(queries[:20], desc="one at a time", disable=None, leave=False):
        start = time.perf_counter()
        engine.search(vector[np.newaxis], k, where)
        times.append(time.perf_counter() - start)
    return {
        **_recall(found, _exact_scores(engine, queries, k, where), k),
        "queries_per_second": len(queries) / batch,
        "seconds_per_query": float(np.median(times)),
    }


def _filters(
    engine: Engine, count: int, rng: np.random.Generator
) -> Iterator[tuple[int, Condition]]:
    """Yields (how many records it leaves, filter) for each of SHARES that leaves any."""
    paths = sorted(record.path for part, _ in engine.scan() for record in part)
    for left in dict.fromkeys(round(share * count) for share in SHARES):
        if left:
            start = int(rng.integers(count - left + 1))
            first, last = paths[start], paths[start + left - 1]
            yield left, Comparison("path", ">=", first) & Comparison("path", "<=", last)


def _vectors_at(engine: Engine, places: np.ndarray) -> np.ndarray:
    """Returns the vectors that `scan` comes upon at these places, float32 [len(places), d]."""
    order, found, start = np.argsort(places), [], 0
    for part in _vectors(engine):
        inside = places[(places >= start) & (places < start + len(part))]
        found.append(part[np.sort(inside) - start])
        start += len(part)
    vectors = np.concatenate(found)
    return vectors[np.argsort(order)]


def _vectors(engine: Engine, where: Condition | None = None) -> Iterator[np.ndarray]:
    for records, part in engine.scan(vectors=True):
        allowed = [where is None or where.allows(record) for record in records]
        if part is not None and any(allowed):
            yield part[allowed]


def _exact_scores(
    engine: Engine, queries: np.ndarray, k: int, where: Condition | None = None
) -> np.ndarray:
    """Returns the k largest scores of each query that are allowed, float32 [q, k], in order.

    The index is read in pieces: it may be larger than memory.
    """
    best = np.empty([len(queries), 0], np.float32)
    for part in _vectors(engine, where):
        scores = top_k(queries, part, min(k, len(part)))[0]
        best = -np.sort(-np.concatenate([best, scores], axis=1), axis=1)[:, :k]
    return best


def _recall(found: list[list[Hit]], exact: np.ndarray, k: int) -> dict[str, float]:
    """Recall by scores: a result counts if it is as near as the exact k-th, whichever of equals."""
    # Engines add up in other orders.
    tolerance = 1e-5
    shares: dict[int, list[float]] = {1: [], k: []}
    for hits, best in zip(found, exact, strict=True):
        scores = np.array([hit.score for hit in hits])
        for rank, values in shares.items():
            values.append(float((scores[:rank] >= best[rank - 1] - tolerance).sum() / rank))
    return {f"recall@{rank}": float(np.mean(values)) for rank, values in shares.items()}
