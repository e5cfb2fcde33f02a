"""A run's results as one page of HTML that needs nothing else, and files for the projector."""

import base64
import html
import tempfile
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fir_tf.errors import FirError
from fir_tf.evaluation.metrics import retrieval_metrics
from fir_tf.evaluation.pictures import Match, SheetRow, contact_sheet, recall_curve
from fir_tf.files import replacing, write_text

_PAIRS = 200_000
# More cells than this cannot be read; the page then shows the categories most often confused.
_MOST_CATEGORIES = 25
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 75rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .8rem; border-bottom: 1px solid #dedede; text-align: right; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; } .scroll { overflow-x: auto; } dt { font-weight: 600; }
p.note { color: #5c5c5c; }
"""


def write_report(
    path,
    *,
    title,
    metrics,
    catalogue,
    query,
    gallery,
    query_embedding,
    gallery_embedding,
    result=None,
    classified=(),
    category_scores=None,
    paper=(),
    note="",
    sheet_rows=6,
    sheet_matches=6,
):
    """Writes a retrieval test as one self-contained HTML page.

    Metrics with their protocol, the recall curve beside the paper's, the whole gallery beside one
    limited to the query's own category, contact sheets of the best, the worst and random queries,
    a table by category, distances of matching and other pairs, and what categories are confused.

    Args:
        path: str or Path ending in .html.
        title: str.
        metrics: dict, what metrics.json holds: floats by name, and `protocol`.
        catalogue: Catalogue of all images.
        query, gallery: int arrays, rows of the catalogue.
        query_embedding, gallery_embedding: float32 [len(query), d] and [len(gallery), d].
        result: RetrievalResult of these queries and this gallery; None without both.
        classified: int array, rows whose category was scored.
        category_scores: float32 [len(classified), categories] or None.
        paper: iterable of `fir_tf.evaluation.paper.PaperResult`.
        note: str below the recall curve.
        sheet_rows, sheet_matches: ints, size of a contact sheet.

    Raises:
        FirError: `path` has another ending, or there is neither a query nor a classified image.
    """
    if Path(path).suffix != ".html":
        raise FirError(f"`path` must end in .html. Received: {path}")
    sections = [_numbers(metrics)]
    if result is not None:
        sections += _retrieval_sections(
            result,
            catalogue,
            (query, gallery),
            (query_embedding, gallery_embedding),
            paper,
            note,
            (sheet_rows, sheet_matches),
        )
    elif not len(classified):
        raise FirError("there is nothing to report: no query and no classified image")
    if category_scores is not None and len(classified):
        sections.append(
            _confusion(
                catalogue.category[classified],
                category_scores.argmax(axis=1),
                catalogue.categories,
            )
        )
    title = html.escape(title)
    write_text(
        path,
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n<h1>{title}</h1>\n"
        + "\n".join(sections)
        + "\n</html>\n",
    )


def _retrieval_sections(whole, catalogue, sides, embeddings, paper, note, sheet):
    query, gallery = sides
    items, categories = catalogue.item, catalogue.category

    def measured(q, g):
        return retrieval_metrics(
            embeddings[0][q],
            embeddings[1][g],
            items[query[q]],
            items[gallery[g]],
            query_ids=query[q],
            gallery_ids=gallery[g],
            ks=whole.ks,
        )

    known = np.unique(categories[query][categories[query] >= 0])
    rows, own = [], []
    for number in known:
        asked = np.flatnonzero(categories[query] == number)
        inside = np.flatnonzero(categories[gallery] == number)
        part = measured(asked, inside) if len(inside) else None
        count = int(whole.evaluated[asked].sum())
        own_values = part.values if part is not None else {}
        full = whole.means(asked)
        name = catalogue.categories[number]
        rows.append((name, len(asked), len(inside), count, full, own_values))
        if part is not None:
            own.append((int(part.evaluated.sum()), part))
    sections = [_curve(whole, paper, note)]
    if len(known):
        sections += [_scopes(whole, own), _by_category(rows)]
    return [
        *sections,
        *_sheets(catalogue, query, gallery, whole, sheet),
        _distances(catalogue, query, gallery, embeddings),
    ]


def _numbers(metrics):
    table = _table(
        ("metric", "value"),
        [(name, f"{value:.4f}") for name, value in metrics.items() if isinstance(value, float)],
    )
    rules = "".join(
        f"<dt>{html.escape(str(name))}</dt><dd>{html.escape(str(value))}</dd>"
        for name, value in metrics.get("protocol", {}).items()
    )
    return (
        f"<h2>Metrics</h2>{table}<details open><summary>Protocol: what was measured, and by which "
        f"rules</summary><dl>{rules}</dl></details>"
    )


def _table(head, rows):
    lines = ["".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) for row in rows]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in head)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll">{table}</div>'


def _embedded(draw, suffix, alt):
    """Returns an <img> of the picture that `draw` writes to the path it is given."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"picture{suffix}"
        draw(path)
        data = base64.b64encode(path.read_bytes()).decode()
    kind = "png" if suffix == ".png" else "jpeg"
    return f'<img src="data:image/{kind};base64,{data}" alt="{html.escape(alt)}">'


def _curve(whole, paper, note):
    recalls = {k: whole.values.get(f"recall@{k}") for k in whole.ks}
    if None in recalls.values():
        return ""
    text = ", ".join(f"{value:.3f} at {k}" for k, value in recalls.items())
    picture = _embedded(
        lambda path: recall_curve({"this run": recalls}, path, "", paper=paper),
        ".png",
        f"recall@k: {text}",
    )
    return f'<h2>Recall</h2>{picture}<p class="note">{html.escape(note)}</p>'


def _scopes(whole, own):
    """Whole gallery against the query's own category, both over the queries of known category."""
    rows = []
    for k in whole.ks:
        name = f"recall@{k}"
        pairs = [(count, part.values[name]) for count, part in own if count]
        if not pairs or name not in whole.values:
            continue
        weights, values = zip(*pairs, strict=True)
        mean = float(np.average(values, weights=weights))
        rows.append((name, f"{whole.values[name]:.4f}", f"{mean:.4f}"))
    return (
        "<h2>Whole gallery, and the query's own category</h2>"
        + _table(("metric", "whole gallery", "own category only"), rows)
        + '<p class="note">The second column presumes that a query\'s category is known. It is '
        "easier, and not the protocol of the paper.</p>"
    )


def _by_category(rows):
    def value(values, name):
        return f"{values[name]:.3f}" if name in values else ""

    head = ("category", "queries", "gallery", "with a match", "recall@1", "recall@5", "mAP@R")
    cells = [
        (
            name,
            asked,
            inside,
            count,
            *(value(full, metric) for metric in head[4:]),
            value(part, "recall@1"),
        )
        for name, asked, inside, count, full, part in rows
    ]
    return "<h2>By category</h2>" + _table((*head, "recall@1, own category"), cells)


def _sheets(catalogue, query, gallery, whole, sheet):
    asked = np.flatnonzero(whole.evaluated)
    if not len(asked):
        return []
    rank = np.where(
        whole.correct[asked].any(axis=1), whole.correct[asked].argmax(axis=1), len(gallery)
    )
    best_score = whole.scores[asked, 0]
    chosen = {
        # Sure and right; sure and wrong for longest.
        "Best queries": np.lexsort((-best_score, rank)),
        "Worst queries": np.lexsort((-best_score, -rank)),
        "Random queries": np.random.default_rng(0).permutation(len(asked)),
    }
    sections = []
    for heading, order in chosen.items():
        rows = [
            sheet_row(catalogue, query, gallery, whole, number, sheet[1])
            for number in asked[order[: sheet[0]]]
        ]
        text = f"{heading}: {', '.join(row.label for row in rows)}"
        picture = _embedded(lambda path, rows=rows: contact_sheet(rows, path), ".jpg", text)
        sections.append(f'<h2>{heading}</h2><div class="scroll">{picture}</div>')
    return sections


def sheet_row(catalogue, query, gallery, whole, number, matches):
    """Returns the SheetRow of a query and its first results.

    Args:
        catalogue: Catalogue of all images.
        query, gallery: int arrays, rows of the catalogue.
        whole: RetrievalResult.
        number: int, the query's place among the queries.
        matches: int, results shown.
    """

    def label(row):
        item = catalogue.item[row]
        return catalogue.items[item] if item >= 0 else "unknown item"

    found = [
        Match(
            catalogue.root / catalogue.path[gallery[place]],
            float(score),
            bool(right),
            label(gallery[place]),
        )
        for place, score, right in zip(
            whole.neighbours[number][:matches],
            whole.scores[number][:matches],
            whole.correct[number][:matches],
            strict=True,
        )
        if place >= 0
    ]
    row = query[number]
    return SheetRow(catalogue.root / catalogue.path[row], label(row), found)


def _distances(catalogue, query, gallery, embeddings):
    """Histograms of squared distances of pairs of one item and of different items."""
    positive, negative = distance_pairs(
        catalogue.item[query], catalogue.item[gallery], query, gallery, *embeddings
    )
    if not len(positive) or not len(negative):
        return ""

    def draw(path):
        figure = Figure(figsize=(8, 3.6), layout="constrained")
        axes = figure.add_subplot()
        bins = np.linspace(0, max(positive.max(), negative.max(), 1e-6), 60)
        for values, name, colour in (
            (positive, "same item", "#0072B2"),
            (negative, "other items", "#D55E00"),
        ):
            axes.hist(values, bins, density=True, alpha=0.55, label=name, color=colour)
        axes.set_xlabel("squared L2 distance")
        axes.set_ylabel("density")
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        FigureCanvasAgg(figure)
        figure.savefig(path, dpi=110)

    text = (
        f"squared distance, median: {np.median(positive):.3f} between query and gallery images of "
        f"one item, {np.median(negative):.3f} between those of different items"
    )
    return f"<h2>Distances</h2>{_embedded(draw, '.png', text)}<p>{text}.</p>"


def distance_pairs(query_items, gallery_items, query_ids, gallery_ids, queries, gallery, seed=0):
    """Squared distances of matching pairs, and of as many pairs of different items at random.

    Args:
        query_items, gallery_items: int arrays [q] and [g]; -1 is unknown and takes no part.
        query_ids, gallery_ids: int arrays [q] and [g]; a pair of the same image takes no part.
        queries, gallery: float32 [q, d] and [g, d], unit length.
        seed: int.

    Returns:
        (positive, negative): float32 arrays, at most 200,000 distances each.
    """
    rng = np.random.default_rng(seed)
    places = {}
    for place, item in enumerate(gallery_items):
        places.setdefault(int(item), []).append(place)
    pairs = [
        (number, place)
        for number, item in enumerate(query_items)
        if item >= 0
        for place in places.get(int(item), ())
        if query_ids[number] != gallery_ids[place]
    ]
    pairs = np.array(pairs, np.int64).reshape(-1, 2)
    if len(pairs) > _PAIRS:
        pairs = pairs[rng.choice(len(pairs), _PAIRS, replace=False)]
    count = min(_PAIRS, max(10_000, len(pairs)))
    others = np.stack(
        [rng.integers(0, len(query_items), count), rng.integers(0, len(gallery_items), count)], 1
    )
    left, right = query_items[others[:, 0]], gallery_items[others[:, 1]]
    others = others[(left != right) & (left >= 0) & (right >= 0)]

    def distance(chosen):
        parts = [
            np.einsum("nd,nd->n", queries[part[:, 0]], gallery[part[:, 1]])
            for part in np.array_split(chosen, max(1, len(chosen) // 4096))
        ]
        return np.maximum(2 - 2 * np.concatenate(parts), 0)

    return distance(pairs), distance(others)


def _confusion(true, guessed, names):
    known = true >= 0
    true, guessed = true[known], guessed[known]
    if not len(true):
        return ""
    table = np.zeros((len(names), len(names)), np.int64)
    np.add.at(table, (true, guessed), 1)
    wrong = table - np.diag(np.diag(table))
    order = np.argsort(-(wrong.sum(axis=0) + wrong.sum(axis=1)), kind="stable")
    shown = order[(table.sum(axis=0) + table.sum(axis=1))[order] > 0][:_MOST_CATEGORIES]
    part = table[np.ix_(shown, shown)]
    labels = [names[number] for number in shown]

    def draw(path):
        side = 2.5 + 0.42 * len(shown)
        figure = Figure(figsize=(side, side), layout="constrained")
        axes = figure.add_subplot()
        share = part / np.maximum(table[shown].sum(axis=1, keepdims=True), 1)
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for row, column in zip(*np.nonzero(part), strict=True):
            axes.text(
                column,
                row,
                part[row, column],
                ha="center",
                va="center",
                fontsize=8,
                color="white" if share[row, column] > 0.5 else "black",
            )
        axes.set_xticks(range(len(shown)), labels, rotation=90, fontsize=8, parse_math=False)
        axes.set_yticks(range(len(shown)), labels, fontsize=8, parse_math=False)
        axes.set_xlabel("guessed")
        axes.set_ylabel("true")
        FigureCanvasAgg(figure)
        figure.savefig(path, dpi=110)

    pairs = np.dstack(np.unravel_index(np.argsort(-wrong, axis=None, kind="stable"), wrong.shape))
    worst = [
        (names[row], names[column], wrong[row, column], table[row].sum())
        for row, column in pairs[0][:10]
        if wrong[row, column]
    ]
    picture = _embedded(draw, ".png", "counts of true against guessed categories")
    return (
        f'<h2>Categories</h2><div class="scroll">{picture}</div>'
        "<h3>Most often confused</h3>"
        + _table(("true", "guessed as", "images", "of the category's images"), worst)
    )


def write_projector(folder, catalogue, rows, embedding):
    """Writes embeddings for TensorBoard's projector: `tensorboard --logdir=FOLDER`.

    Args:
        folder: str or Path.
        catalogue: Catalogue.
        rows: int array [n], rows of the catalogue.
        embedding: float32 [n, d].
    """
    folder = Path(folder)

    def clean(text):
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
