"""What a trained run is worth: metrics.json, the recall curve and the contact sheet."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fir_tf import datasets
from fir_tf.config import Config
from fir_tf.datasets.catalogue import Catalogue, retrieval_sides, split_off_validation
from fir_tf.datasets.published import is_published_test_set
from fir_tf.errors import FirError
from fir_tf.evaluation.embed import check_readable, embed
from fir_tf.evaluation.metrics import (
    PAPER_RESULTS,
    classification_accuracy,
    classification_protocol,
    describe_protocol,
    retrieval_metrics,
)
from fir_tf.evaluation.pictures import contact_sheet, recall_curve
from fir_tf.evaluation.report import sheet_row, write_projector, write_report
from fir_tf.evaluation.rerank import better_search, whiten, whitening, write_whitening
from fir_tf.evaluation.views import averaged, networks_at, parse_scales
from fir_tf.files import read_json, write_json
from fir_tf.models import saving
from fir_tf.neighbours import top_k
from fir_tf.options import EvaluateOptions, find_run
from fir_tf.shell import draw_or_note, fault

log = logging.getLogger(__package__)

# The splits of a part whose images are classified.
_CLASSIFIED = {"val": ("val",), "test": ("test", "query", "gallery")}
_LABELS_ADVICE = (
    "Copy the run's folder again, or give the run's train.py command again, which writes the file"
)


def load_model(run: str | Path) -> tuple[keras.Model, Config, list[str]]:
    """Loads the best model of a run.

    Args:
        run: str or Path, the run's folder.

    Returns:
        (keras.Model, Config, list of category names).

    Raises:
        FirError: if the folder is no run, has no model yet, or a file in it is damaged.
    """
    run = Path(run)
    config = Config.load(run / "config.json")
    path = run / "model.keras"
    if not path.is_file():
        raise FirError(
            f"{run} has no model yet: {path.name} is missing. Let train.py finish an epoch first"
        )
    categories = _read_categories(run / "labels.json")
    model = saving.load_model(path)
    count = model.output["category"].shape[-1]
    if len(categories) != count:
        raise FirError(
            f"{run / 'labels.json'} must have the {count} categories of {path.name}. "
            f"Received: {len(categories)}. {_LABELS_ADVICE}"
        )
    return model, config, categories


def _read_categories(path):
    categories = read_json(path, _LABELS_ADVICE).get("categories")
    if not isinstance(categories, list) or not all(isinstance(name, str) for name in categories):
        raise FirError(
            f"{path} must have a list of names under `categories`. "
            f"Received: {categories!r:.60}. {_LABELS_ADVICE}"
        )
    return categories


def _measure_parts(
    embedder,
    catalogue,
    split,
    fit,
    classifies,
    batch_size=64,
    gallery_scope="test",
    space=None,
    find=top_k,
):
    """Embeds the images of a split once; returns what the metrics and the pictures need.

    `fit` is (image_size, resize); `space` is what `whiten` takes, None for the model's own;
    `find` ranks as `top_k` does.
    """
    query, gallery = retrieval_sides(catalogue, split, gallery_scope)
    classified = np.flatnonzero(np.isin(catalogue.split, _CLASSIFIED[split]))
    asked = {"queries": len(query), "gallery images": len(gallery)}
    rows = np.union1d(np.union1d(query, gallery), classified).astype(np.int64)
    if not len(rows):
        return None
    part = catalogue.rows(rows)
    embedded = embed(embedder, part, *fit, batch_size, label=split)
    skipped = check_readable(part, embedded.valid)
    vectors = whiten(embedded.embedding, *space) if space else embedded.embedding
    place = np.full(len(catalogue), -1, np.int64)
    place[rows[embedded.valid]] = np.flatnonzero(embedded.valid)
    query, gallery, classified = (side[place[side] >= 0] for side in (query, gallery, classified))
    values, protocol, reasons, result = {}, {}, {}, None
    if classifies:
        labels = catalogue.category[classified]
        values.update(classification_accuracy(embedded.category[place[classified]], labels))
        protocol.update(classification_protocol(labels))
    if len(query) and len(gallery):
        result = retrieval_metrics(
            vectors[place[query]],
            vectors[place[gallery]],
            catalogue.item[query],
            catalogue.item[gallery],
            query_ids=query,
            gallery_ids=gallery,
            find=find,
        )
        values.update(result.values)
        protocol.update(result.protocol)
    if "category_top1" not in values:
        reasons["category_topk"] = _why_not_classified(catalogue, classifies, classified)
    if "mAP@R" not in values:
        read = {"queries": len(query), "gallery images": len(gallery)}
        why = _why_not_retrieved(split, asked, read, result)
        reasons |= dict.fromkeys(("recall@k", "mAP@R", "R-precision"), why)
    return {
        "values": values,
        "protocol": protocol,
        "reasons": reasons,
        "result": result,
        "query": query,
        "gallery": gallery,
        "query_embedding": vectors[place[query]],
        "gallery_embedding": vectors[place[gallery]],
        "classified": classified,
        "category_scores": embedded.category[place[classified]] if classifies else None,
        "skipped": skipped,
    }


def _why_not_classified(catalogue, classifies, classified):
    if not classifies:
        return "no loss of the run reads the categories"
    if not len(classified):
        return "no image to classify could be read"
    names = ", ".join(catalogue.categories[:5]) + (", ..." if len(catalogue.categories) > 5 else "")
    return f"none of the {len(classified)} images has one of the model's categories ({names})"


def _why_not_retrieved(split, asked, read, result):
    """Says why there is no recall, from the numbers of images on each side: all, and readable."""
    for side, count in asked.items():
        if not count:
            if split == "val":
                return "no validation image (split `val`) has an item"
            wanted = {"queries": "query", "gallery images": "gallery"}[side]
            return f"there are no {side}: no image of the data set is in the split `{wanted}`"
        if not read[side]:
            return f"none of the {count} {side} can be read"
    unknown = result.protocol["queries_of_unknown_item"]
    text = (
        f"none of the {len(result.evaluated)} queries has another image of its item in the gallery"
    )
    return f"{text} ({unknown} queries are of unknown item)" if unknown else text


def measure(
    embedder: Callable[[tf.Tensor], dict[str, tf.Tensor]],
    catalogue: Catalogue,
    split: str,
    image_size: int,
    resize: str,
    classifies: bool = True,
) -> dict[str, float]:
    """Measures one part of a catalogue.

    Args:
        embedder: see `fir_tf.evaluation.embed.make_embedder`.
        catalogue: Catalogue with the categories of the model.
        split: "val" or "test".
        image_size, resize: of the model, see `fir_tf.evaluation.embed.embed`.
        classifies: bool, whether its categories were trained.

    Returns:
        dict of float by metric; empty where the part has no image.
    """
    parts = _measure_parts(embedder, catalogue, split, (image_size, resize), classifies)
    return parts["values"] if parts else {}


def evaluate(options: EvaluateOptions) -> dict[str, Any]:
    """Measures a run's best model and writes metrics.json, pictures and report.html.

    metrics.json has the metrics by name at the top level (fractions, `recall@1` ... `recall@50`,
    `mAP@R`, `R-precision`, `category_top1` ...), what they mean under `protocol`, and under
    `not_measured` why those that are missing are.

    Args:
        options: EvaluateOptions.

    Returns:
        dict, what metrics.json holds.

    Raises:
        FirError: if the run has no model, or the data nothing to measure.
    """
    run = find_run(options.run)
    model, config, categories = load_model(run)
    dataset = options.dataset or config.dataset
    data_dir = options.data_dir or config.data_dir
    scope = options.gallery_scope or config.gallery_scope
    catalogue = datasets.load(dataset, data_dir)
    for note in catalogue.notes:
        log.info(note)
    if options.split == "val":
        catalogue = split_off_validation(catalogue, config.val_fraction)
    catalogue = catalogue.with_categories(categories)
    embedder = tf.function(
        averaged(networks_at(model, config, parse_scales(options.scales)), options.flip),
        reduce_retracing=True,
        autograph=False,
    )
    output = Path(options.output) if options.output else run
    space = None
    if options.whiten:
        space = _learn_whitening(embedder, catalogue, config, options)
        write_whitening(output / "whitening.npz", *space)
    parts = _measure_parts(
        embedder,
        catalogue,
        options.split,
        (config.image_size, config.resize),
        config.reads("logits"),
        options.batch_size,
        scope,
        space,
        better_search(options.expand, options.expand_alpha, options.rerank),
    )
    if parts is None:
        raise FirError(
            f"there is nothing to measure: {catalogue.source} has no image in "
            f"{', '.join(_CLASSIFIED[options.split])}. Received: --split={options.split}"
        )
    result = parts["result"]
    metrics = {
        **parts["values"],
        "protocol": {
            "dataset": dataset,
            "data_dir": str(data_dir),
            "split": options.split,
            **({"gallery_scope": scope} if options.split == "test" else {}),
            "image_size": config.image_size,
            "resize": config.resize,
            **_improvements(options),
            "unreadable_images": len(parts["skipped"]),
            **parts["protocol"],
        },
        "not_measured": parts["reasons"],
        "run": {"folder": str(run), "backbone": config.backbone, "losses": config.losses},
    }
    paper = [row for row in PAPER_RESULTS if row.dataset == dataset]
    log.info(_report(metrics, paper))
    title, note = f"{Path(data_dir).resolve().name}: {config.backbone}, {config.losses}", ""
    if paper and not (scope == "test" and is_published_test_set(dataset, catalogue)):
        note = "the paper's numbers are for DeepFashion's own images, not for these"
        log.info(f"note: {note}")
    if parts["skipped"]:
        log.info(f"skipped {len(parts['skipped'])} images that cannot be decoded:")
        for path in parts["skipped"]:
            log.info(f"  {path}")
    try:
        write_json(output / "metrics.json", metrics)
    except OSError as error:
        raise FirError(f"{fault(error) or error}. --output takes another folder") from error
    written = [output / "metrics.json"]
    if result:
        written += _draw(catalogue, parts, config, title, note, paper, options, output)
    names = ("query", "gallery", "query_embedding", "gallery_embedding")
    written += draw_or_note(
        output / "report.html",
        lambda: write_report(
            output / "report.html",
            title=title,
            metrics=metrics,
            catalogue=catalogue,
            result=result,
            classified=parts["classified"],
            category_scores=parts["category_scores"],
            paper=paper,
            note=note,
            **{name: parts[name] for name in names},
        ),
    )
    if options.projector:
        if not result:
            raise FirError(
                "`projector` shows embeddings of queries and gallery, and there are none. Leave it"
                " out"
            )
        # In the validation part the queries are the gallery.
        rows, places = np.unique(
            np.concatenate([parts["query"], parts["gallery"]]), return_index=True
        )
        embedding = np.concatenate([parts["query_embedding"], parts["gallery_embedding"]])
        write_projector(output / "projector", catalogue, rows, embedding[places])
        written.append(output / "projector")
    log.info("wrote " + ", ".join(str(path) for path in written))
    return metrics


def _learn_whitening(embedder, catalogue, config, options):
    """Returns what `whiten` takes, learned on the training images that can be read."""
    train = catalogue.part("train")
    if not len(train):
        raise FirError(
            f"`whiten` is learned on training images, and {catalogue.source} has none. Leave it out"
        )
    embedded = embed(
        embedder, train, config.image_size, config.resize, options.batch_size, label="train"
    )
    return whitening(embedded.embedding[embedded.valid], options.whiten)


def _improvements(options):
    """What is done beyond the model's embeddings and inner products, for the protocol."""
    found = {}
    if options.flip:
        found["flip"] = "mean of an image and its mirror image"
    if parse_scales(options.scales) != (1.0,):
        found["scales"] = f"mean over {options.scales} times the image size"
    if options.whiten:
        found["whiten"] = f"PCA-whitened to {options.whiten} numbers, learned on training images"
    if options.expand:
        found["expand"] = (
            f"alpha query expansion by {options.expand} images, alpha {options.expand_alpha:g}"
        )
    if options.rerank:
        found["rerank"] = f"k-reciprocal re-ranking of {options.rerank} results"
    return found


def _report(metrics, paper):
    """The metrics as text: the protocol, then ours and the paper's side by side."""
    lines = [describe_protocol(metrics["protocol"]), ""]
    names = [name for name, value in metrics.items() if isinstance(value, float)]
    columns = [("ours", metrics), *((row.name, row.values) for row in paper)]
    lines.append("metric".ljust(16) + "".join(name.rjust(len(name) + 3) for name, _ in columns))
    for name in names:
        cells = [
            (f"{values[name]:.4f}" if name in values else "").rjust(len(heading) + 3)
            for heading, values in columns
        ]
        lines.append((name.ljust(16) + "".join(cells)).rstrip())
    for reason in dict.fromkeys(metrics["not_measured"].values()):
        missing = [name for name, why in metrics["not_measured"].items() if why == reason]
        lines.append(f"not measured: {', '.join(missing)}: {reason}")
    return "\n".join(lines)


def _draw(catalogue, parts, config, title, note, paper, options, output):
    """Draws the recall curve and the contact sheet; returns the paths of what was drawn."""
    result = parts["result"]
    curve, sheet = output / "recall_curve.png", output / "contact_sheet.png"
    recalls = {
        int(name.split("@")[1]): value
        for name, value in result.values.items()
        if name.startswith("recall@")
    }
    if not recalls:
        return []
    name = f"this run: {config.backbone}, {config.losses}"
    heading = f"{title} ({note})" if note else title
    rows = _sheet_rows(catalogue, parts, options.sheet_rows, options.sheet_matches)
    return [
        *draw_or_note(curve, lambda: recall_curve({name: recalls}, curve, heading, paper=paper)),
        *draw_or_note(sheet, lambda: contact_sheet(rows, sheet, title)),
    ]


def _sheet_rows(catalogue, parts, count, matches):
    """Queries for the contact sheet: of `count` items, spread evenly over the evaluated ones."""
    result, query, gallery = parts["result"], parts["query"], parts["gallery"]
    # Any of an item's queries, the same ones in every run: the first is always the same view.
    candidates = np.random.default_rng(0).permutation(np.flatnonzero(result.evaluated))
    _, first = np.unique(catalogue.item[query[candidates]], return_index=True)
    places = np.unique(np.linspace(0, len(first) - 1, min(count, len(first))).round().astype(int))
    return [
        sheet_row(catalogue, query, gallery, result, number, matches)
        for number in candidates[first[places]]
    ]
