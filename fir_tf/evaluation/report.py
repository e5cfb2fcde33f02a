"""A run's results as one page of HTML that needs nothing else, and files for the projector."""

import dataclasses
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fir_tf.datasets.catalogue import Catalogue
from fir_tf.datasets.walk import printable
from fir_tf.errors import FirError
from fir_tf.evaluation.measured import Measured
from fir_tf.evaluation.metrics import RetrievalResult, retrieval_metrics
from fir_tf.evaluation.paper import PaperResult
from fir_tf.evaluation.pictures import (
    SheetMatch,
    SheetRow,
    empty_figure,
    recall_figure,
    sheet_image,
)
from fir_tf.files import replacing, write_text
from fir_tf.pages import render

_PAIRS = 200_000
# More cells than this cannot be read; the page then shows the categories most often confused.
_MOST_CATEGORIES = 25
_SHEET_ROWS, _SHEET_MATCHES = 6, 6


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Published results that a run's stand beside.

    Attributes:
        paper: sequence of PaperResult.
        note: str, how far the two can be compared; may be empty.
    """

    paper: Sequence[PaperResult] = ()
    note: str = ""


def write_report(
    path: str | Path,
    title: str,
    metrics: dict[str, Any],
    catalogue: Catalogue,
    measured: Measured,
    comparison: Comparison = Comparison(),
) -> None:
    """Writes a retrieval test as one self-contained HTML page.

    Metrics with their protocol, the recall curve beside the paper's, the whole gallery beside one
    limited to the query's own category, contact sheets of the best, the worst and random queries,
    a table by category, distances of matching and other pairs, and what categories are confused.

    Args:
        path: str or Path ending in .html.
        title: str.
        metrics: dict, what metrics.json holds: floats by name, and `protocol`.
        catalogue: Catalogue of all images.
        measured: Measured, of these images.
        comparison: Comparison.

    Raises:
        FirError: `path` has another ending, or there is neither a query nor a classified image.
    """
    if Path(path).suffix != ".html":
        raise FirError(f"`path` must end in .html. Received: {path}")
    if measured.result is None and not len(measured.classified):
        raise FirError("there is nothing to report: no query and no classified image")
    page = render(
        "evaluation.html",
        title=title,
        metrics=[(name, value) for name, value in metrics.items() if isinstance(value, float)],
        protocol=metrics.get("protocol", {}),
        retrieval=measured.result and _retrieval(measured, measured.result, catalogue, comparison),
        confusion=_confusion(catalogue, measured),
    )
    write_text(path, page)


def _retrieval(
    measured: Measured, result: RetrievalResult, catalogue: Catalogue, comparison: Comparison
) -> dict[str, Any]:
    """What the page shows of queries and gallery."""
    recalls = {k: result.values[f"recall@{k}"] for k in result.ks if f"recall@{k}" in result.values}
    curve = recalls and _png(recall_figure({"this run": recalls}, "", comparison.paper), dpi=150)
    return {
        "recalls": recalls,
        "curve": curve,
        "note": comparison.note,
        **_scopes(measured, result, catalogue),
        "sheets": _sheets(catalogue, measured, result),
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


def _sheets(
    catalogue: Catalogue, measured: Measured, result: RetrievalResult
) -> list[tuple[str, str, bytes]]:
    """(heading, the items, JPEG) of contact sheets: the best queries, the worst and others."""
    asked = np.flatnonzero(result.evaluated)
    if not len(asked):
        return []
    correct = result.correct[asked]
    rank = np.where(correct.any(axis=1), correct.argmax(axis=1), len(measured.gallery))
    best_score = result.scores[asked, 0]
    chosen = {
        # Sure and right; sure and wrong for longest.
        "Best queries": np.lexsort((-best_score, rank)),
        "Worst queries": np.lexsort((-best_score, -rank)),
        "Random queries": np.random.default_rng(0).permutation(len(asked)),
    }
    sheets = []
    for heading, order in chosen.items():
        rows = [
            sheet_row(catalogue, measured, number, _SHEET_MATCHES)
            for number in asked[order[:_SHEET_ROWS]]
        ]
        buffer = io.BytesIO()
        sheet_image(rows).save(buffer, "JPEG")
        sheets.append((heading, ", ".join(row.label for row in rows), buffer.getvalue()))
    return sheets


def sheet_row(catalogue: Catalogue, measured: Measured, number: int, matches: int) -> SheetRow:
    """Returns the SheetRow of a query and its first results.

    Args:
        catalogue: Catalogue of all images.
        measured: Measured, with a result.
        number: int, the query's place among the queries.
        matches: int, results shown.
    """

    def label(row: int) -> str:
        item = catalogue.item[row]
        return catalogue.items[item] if item >= 0 else "unknown item"

    result = measured.result
    assert result is not None
    neighbours = result.neighbours[number][:matches]
    found = []
    for place, row in enumerate(measured.gallery[neighbours[neighbours >= 0]]):
        score, correct = result.scores[number, place], result.correct[number, place]
        photo = catalogue.root / catalogue.path[row]
        found.append(SheetMatch(photo, float(score), bool(correct), label(row)))
    row = measured.query[number]
    return SheetRow(catalogue.root / catalogue.path[row], label(row), found)


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
    names, true = catalogue.categories, catalogue.category[measured.classified]
    known = true >= 0
    if measured.category_scores is None or not known.any():
        return None
    counts = np.zeros((len(names), len(names)), np.int64)
    np.add.at(counts, (true[known], measured.category_scores[known].argmax(axis=1)), 1)
    wrong = counts - np.diag(np.diag(counts))
    order = np.argsort(-(wrong.sum(axis=0) + wrong.sum(axis=1)), kind="stable")
    shown = order[(counts.sum(axis=0) + counts.sum(axis=1))[order] > 0][:_MOST_CATEGORIES]
    worst = np.argsort(-wrong, axis=None, kind="stable")[:10]
    return {
        "picture": _png(_confusion_figure(counts, shown, names)),
        "worst": [
            (names[row], names[column], wrong[row, column], counts[row].sum())
            for row, column in zip(*np.unravel_index(worst, wrong.shape), strict=True)
            if wrong[row, column]
        ],
    }


def _confusion_figure(counts: np.ndarray, shown: np.ndarray, names: Sequence[str]) -> Figure:
    """Draws the rows and columns `shown` of counts [true, guessed], coloured by a row's share."""
    side = 2.5 + 0.42 * len(shown)
    figure = empty_figure(side, side)
    axes = figure.add_subplot()
    part = counts[np.ix_(shown, shown)]
    share = part / np.maximum(counts[shown].sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row, column in zip(*np.nonzero(part), strict=True):
        colour = "white" if share[row, column] > 0.5 else "black"
        text = f"{part[row, column]}"
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
    # Longer ones would leave no room for the counts.
    labels = [re.sub(r"(.{29}).{2,}", r"\1…", printable(names[number])) for number in shown]
    axes.set_xticks(range(len(shown)), labels, rotation=90, fontsize=8, parse_math=False)
    axes.set_yticks(range(len(shown)), labels, fontsize=8, parse_math=False)
    axes.set_xlabel("guessed")
    axes.set_ylabel("true")
    return figure


def write_projector(
    folder: str | Path, catalogue: Catalogue, rows: np.ndarray, embedding: np.ndarray
) -> None:
    """Writes embeddings for TensorBoard's projector: `tensorboard --logdir=FOLDER`.

    Args:
        folder: str or Path.
        catalogue: Catalogue.
        rows: int array [n], rows of the catalogue.
        embedding: float32 [n, d].
    """
    folder = Path(folder)

    def clean(text: str) -> str:
        return " ".join(str(text).split()) or "-"

    with replacing(folder / "vectors.tsv") as temporary:
        np.savetxt(temporary, embedding, fmt="%.6g", delimiter="\t")
    lines = ["item\tcategory\tpath"]
    for row in rows:
        item, category = catalogue.item[row], catalogue.category[row]
        lines.append(
            f"{clean(catalogue.items[item] if item >= 0 else '')}\t"
            f"{clean(catalogue.categories[category] if category >= 0 else '')}\t"
            f"{clean(catalogue.path[row])}"
        )
    write_text(folder / "metadata.tsv", "\n".join(lines) + "\n")
    write_text(
        folder / "projector_config.pbtxt",
        'embeddings {\n  tensor_name: "embedding"\n  tensor_path: "vectors.tsv"\n'
        '  metadata_path: "metadata.tsv"\n}\n',
    )
