"""A run's results as one page of HTML that needs nothing else."""

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fir_tf.datasets.catalogue import Catalogue
from fir_tf.errors import FirError
from fir_tf.evaluation.cases import Case, Cases
from fir_tf.evaluation.compared import Compared
from fir_tf.evaluation.confusion import (
    by_similarity,
    confusion_counts,
    most_confused,
    row_shares,
)
from fir_tf.evaluation.headline import Headline
from fir_tf.evaluation.measured import Measured
from fir_tf.evaluation.metrics import RetrievalResult, retrieval_metrics
from fir_tf.evaluation.paper import PaperResult
from fir_tf.evaluation.pictures import empty_figure, recall_figure
from fir_tf.explain import PhotoExplainer
from fir_tf.files import write_text
from fir_tf.pages import render

_PAIRS = 200_000
# More cells than this cannot be read; the page then shows the categories most often confused.
_MOST_CATEGORIES = 25
_MOST_CONFUSED = 10
_WORST, _OTHERS, _CHANGED = 12, 6, 8


@dataclasses.dataclass(frozen=True)
class Beside:
    """What stands beside a run's own numbers.

    Attributes:
        headline: Headline; None where nothing counts.
        links: sequence of (str, str), what belongs to the run and its address, "" where it is not
            there yet.
        paper: sequence of PaperResult, measured on the same images.
        compared: Compared, with another run; None without one.
        explain: PhotoExplainer, what wrong answers come from; None where it cannot be told.
    """

    headline: Headline | None = None
    links: Sequence[tuple[str, str]] = ()
    paper: Sequence[PaperResult] = ()
    compared: Compared | None = None
    explain: PhotoExplainer | None = None


def write_report(
    path: str | Path,
    title: str,
    metrics: dict[str, Any],
    catalogue: Catalogue,
    measured: Measured,
    beside: Beside = Beside(),
) -> None:
    """Writes a retrieval test as one self-contained HTML page.

    On top what the run is worth in words, then another run where there is one, the queries that
    fail, the categories with the worst first, which of them are taken for which others, the recall
    curve, the whole gallery beside one limited to the query's own category, distances of matching
    and other pairs, all numbers, and the protocol.

    Args:
        path: str or Path ending in .html.
        title: str.
        metrics: dict, what metrics.json holds: floats by name, and `protocol`.
        catalogue: Catalogue of all images.
        measured: Measured, of these images.
        beside: Beside.

    Raises:
        FirError: `path` has another ending, or there is neither a query nor a classified image.
    """
    if Path(path).suffix != ".html":
        raise FirError(f"`path` must end in .html. Received: {path}")
    if measured.result is None and not len(measured.classified):
        raise FirError("there is nothing to report: no query and no classified image")
    cases = Cases(measured, catalogue, explain=beside.explain) if measured.result else None
    page = render(
        "evaluation.html",
        title=title,
        headline=beside.headline,
        links=beside.links,
        compared=beside.compared,
        changed=_changed(cases, beside.compared) if cases and beside.compared else {},
        metrics=[(name, value) for name, value in metrics.items() if isinstance(value, float)],
        protocol=metrics.get("protocol", {}),
        cases=_cases(cases) if cases else None,
        retrieval=measured.result and _retrieval(measured, measured.result, catalogue, beside),
        confusion=_confusion(catalogue, measured),
    )
    write_text(path, page)


def _cases(cases: Cases) -> dict[str, Any]:
    """The queries that the page shows."""
    return {
        "count": len(cases.asked),
        "failing": cases.failing,
        "worst": cases.worst(_WORST),
        "best": cases.best(_OTHERS),
        "random": cases.random(_OTHERS),
    }


def _changed(cases: Cases, compared: Compared) -> dict[str, tuple[int, list[Case]]]:
    """{heading: (how many, the first of them)}: the queries whose first answer changed."""

    def note(place: int) -> str:
        here, there = (
            f"rank {rank[place]}" if rank[place] else f"beyond rank {cases.looked}"
            for rank in (compared.rank, compared.other_rank)
        )
        return f"{here} here, {there} in {compared.name}"

    return {
        heading: (len(places), [cases.show(place, note(place)) for place in places[:_CHANGED]])
        for heading, places in (
            (f"Found first in {compared.name} alone", compared.lost),
            ("Found first here alone", compared.gained),
        )
    }


def _retrieval(
    measured: Measured, result: RetrievalResult, catalogue: Catalogue, beside: Beside
) -> dict[str, Any]:
    """What the page shows of queries and gallery."""
    recalls = {k: result.values[f"recall@{k}"] for k in result.ks if f"recall@{k}" in result.values}
    curve = recalls and _png(recall_figure({"this run": recalls}, "", beside.paper), dpi=150)
    return {
        "recalls": recalls,
        "curve": curve,
        **_scopes(measured, result, catalogue),
        "distances": _distances(*distance_pairs(measured, catalogue.item)),
    }


def _png(figure: Figure, dpi: int = 110) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def _scopes(
    measured: Measured, whole: RetrievalResult, catalogue: Catalogue
) -> dict[str, list[tuple[Any, ...]]]:
    """What is found in the whole gallery and in a query's own category, in all and by category."""
    asked_for = catalogue.category[measured.query]
    there = catalogue.category[measured.gallery]
    categories: list[tuple[Any, ...]] = []
    parts = []
    for number in np.unique(asked_for[asked_for >= 0]):
        asked, inside = np.flatnonzero(asked_for == number), np.flatnonzero(there == number)
        own = _inside(measured, whole, catalogue, asked, inside) if len(inside) else None
        if own is not None and own.evaluated.any():
            parts.append(own)
        found = whole.means(asked)
        categories.append(
            (
                catalogue.categories[number],
                len(asked),
                len(inside),
                whole.evaluated[asked].sum(),
                *(found.get(name) for name in ("recall@1", "recall@5", "mAP@R")),
                own.values.get("recall@1") if own is not None else None,
            )
        )
    names = [f"recall@{k}" for k in whole.ks if parts and f"recall@{k}" in whole.values]
    weights = [part.evaluated.sum() for part in parts]
    means = [np.average([part.values[name] for part in parts], weights=weights) for name in names]
    # The worst first; those without a query that counts last.
    categories.sort(key=lambda row: (row[4] is None, row[4], -row[3]))
    scopes = [(name, whole.values[name], mean) for name, mean in zip(names, means, strict=True)]
    return {"categories": categories, "scopes": scopes}


def _inside(
    measured: Measured,
    whole: RetrievalResult,
    catalogue: Catalogue,
    asked: np.ndarray,
    inside: np.ndarray,
) -> RetrievalResult:
    """What some of the queries find in a part of the gallery; both are places."""
    query, gallery = measured.query[asked], measured.gallery[inside]
    return retrieval_metrics(
        measured.query_embedding[asked],
        measured.gallery_embedding[inside],
        catalogue.item[query],
        catalogue.item[gallery],
        query_ids=query,
        gallery_ids=gallery,
        ks=whole.ks,
    )


def _distances(positive: np.ndarray, negative: np.ndarray) -> dict[str, Any] | None:
    """Histograms of squared distances of pairs of one item and of different items."""
    if not len(positive) or not len(negative):
        return None
    figure = empty_figure(8, 3.6)
    axes = figure.add_subplot()
    axes.hist(
        [positive, negative],
        np.linspace(0, max(positive.max(), negative.max(), 1e-6), 60).tolist(),
        density=True,
        histtype="stepfilled",
        alpha=0.55,
        label=["same item", "other items"],
        color=["#0072B2", "#D55E00"],
    )
    axes.set_xlabel("squared L2 distance")
    axes.set_ylabel("density")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    medians = {"same": np.median(positive), "other": np.median(negative)}
    return {"picture": _png(figure), **medians}


def distance_pairs(
    measured: Measured, items: np.ndarray, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Squared distances of matching pairs, and of as many pairs of different items at random.

    A pair of the same image takes no part, nor does an image of unknown item.

    Args:
        measured: Measured; its embeddings have unit length.
        items: int array, the item of every row of the catalogue; -1 is unknown.
        seed: int.

    Returns:
        (positive, negative): float32 arrays, at most 200,000 distances each.
    """
    rng = np.random.default_rng(seed)
    asked, there = items[measured.query], items[measured.gallery]
    queries = pd.DataFrame({"item": asked, "query": np.arange(len(asked))})
    gallery = pd.DataFrame({"item": there, "place": np.arange(len(there))})
    pairs = queries[asked >= 0].merge(gallery, on="item")[["query", "place"]].to_numpy()
    pairs = pairs[measured.query[pairs[:, 0]] != measured.gallery[pairs[:, 1]]]
    if len(pairs) > _PAIRS:
        pairs = pairs[rng.choice(len(pairs), _PAIRS, replace=False)]
    count = min(_PAIRS, max(10_000, len(pairs)))
    others = rng.integers(0, (len(asked), len(there)), (count, 2))
    left, right = asked[others[:, 0]], there[others[:, 1]]
    others = others[(left != right) & (left >= 0) & (right >= 0)]

    def distance(chosen: np.ndarray) -> np.ndarray:
        parts = [
            np.einsum(
                "nd,nd->n",
                measured.query_embedding[part[:, 0]],
                measured.gallery_embedding[part[:, 1]],
            )
            for part in np.array_split(chosen, max(1, len(chosen) // 4096))
        ]
        return np.maximum(2 - 2 * np.concatenate(parts), 0)

    return distance(pairs), distance(others)


def _confusion(catalogue: Catalogue, measured: Measured) -> dict[str, Any] | None:
    """Which categories are taken for which others; None where none was scored."""
    counts, names = confusion_counts(measured, catalogue), catalogue.categories
    if counts is None:
        return None
    shown, shares = by_similarity(counts, _MOST_CATEGORIES), row_shares(counts)
    return {
        "names": [names[number] for number in shown],
        "rows": [
            (names[number], counts[number].sum(), shares[number, shown].tolist())
            for number in shown
        ],
        "left_out": (counts.sum(axis=0) + counts.sum(axis=1) > 0).sum() - len(shown),
        "worst": [
            (names[true], names[guessed], counts[true, guessed], counts[true].sum())
            for true, guessed in most_confused(counts, _MOST_CONFUSED)
        ],
    }
