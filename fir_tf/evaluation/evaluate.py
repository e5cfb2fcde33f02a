"""What a trained run is worth: metrics.json, recall curve, contact sheet, report, calibration."""

import dataclasses
import logging
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import keras
import numpy as np

from fir_tf import calibration, datasets
from fir_tf.config import Config
from fir_tf.datasets.catalogue import Catalogue, take_fold
from fir_tf.datasets.loading import training_parts
from fir_tf.datasets.published import is_published_test_set
from fir_tf.errors import FirError
from fir_tf.evaluation.calibrate import Learned, error_of, learn_from, learn_on
from fir_tf.evaluation.compared import Other, compare, load_other
from fir_tf.evaluation.embedder import Embedder
from fir_tf.evaluation.headline import Headline, headline
from fir_tf.evaluation.measure import CLASSIFIED, Procedure, measure
from fir_tf.evaluation.measured import Measured
from fir_tf.evaluation.metrics import describe_protocol
from fir_tf.evaluation.paper import PAPER_RESULTS, PaperResult
from fir_tf.evaluation.pictures import contact_sheet, recall_curve
from fir_tf.evaluation.projector import write_projector
from fir_tf.evaluation.report import Beside, write_report
from fir_tf.evaluation.rerank import better_search, whitening, write_whitening
from fir_tf.evaluation.sheets import sheet_rows
from fir_tf.evaluation.views import embedder_of
from fir_tf.explain import PhotoExplainer
from fir_tf.files import write_json
from fir_tf.options import EvaluateOptions, find_run, parse_scales
from fir_tf.run import CARD, load_run, read_history
from fir_tf.shell import draw_or_note, fault

log = logging.getLogger(__package__)


def evaluate(options: EvaluateOptions) -> dict[str, Any]:
    """Measures a run's best model and writes metrics.json, pictures and report.html.

    metrics.json has the metrics by name at the top level (fractions, `recall@1` ... `recall@50`,
    `mAP@R`, `R-precision`, `category_top1` ...), what they mean under `protocol`, and under
    `not_measured` why those that are missing are. On the validation part, where that is another
    one, it is learned how often a first answer of each score is right: calibration.json, and `ECE`.

    Args:
        options: EvaluateOptions.

    Returns:
        dict, what metrics.json holds.

    Raises:
        FirError: if the run has no model, or the data nothing to measure.
    """
    run = find_run(options.run)
    # Before anything is overwritten or computed: it may be an earlier result of this run.
    other = load_other(options.compare) if options.compare else None
    model, config, categories = load_run(run)
    config = dataclasses.replace(
        config,
        dataset=options.dataset or config.dataset,
        data_dir=options.data_dir or config.data_dir,
        # Those of the run are for its own layout.
        columns=options.columns or ("" if options.dataset else config.columns),
        gallery_scope=options.gallery_scope or config.gallery_scope,
        **options.cropping(config.crop, config.crop_margin),
    )
    whole = _load(config, run, options.split)
    catalogue = _part(whole, config, options.split).with_categories(categories)
    output = Path(options.output) if options.output else run
    embedder = embedder_of(model, config, options.flip, options.scales)
    procedure = _procedure(embedder, catalogue, config, options, output)
    found = _measure(embedder, catalogue, procedure, options.split)
    learned, error = _learn(embedder, whole, config, options, procedure, found)
    metrics = {
        **found.values,
        **error,
        "protocol": {
            **_conditions(config, options, found),
            **found.protocol,
            "confidence": learned.text,
        },
        "not_measured": found.reasons,
        "run": {"folder": str(run), "backbone": config.backbone, "losses": config.losses},
    }
    paper = [row for row in PAPER_RESULTS if row.dataset == config.dataset]
    if not _is_theirs(config, catalogue):
        paper = []
    log.info(_report(metrics, paper))
    if found.skipped:
        skipped = "".join(f"\n  {path}" for path in found.skipped)
        log.info(f"skipped {len(found.skipped)} images that cannot be decoded:{skipped}")
    top = headline(found, catalogue, read_history(run), _is_validated(options))
    log.info("\n".join(["", *top.sentences] if top else []))
    explain = _explainer(model, config, options)
    shown = _Shown(run, catalogue, found, config, metrics, paper, top, learned, explain)
    log.info(f"wrote {', '.join(map(str, _write(shown, output, options, other)))}")
    return metrics


def _load(config: Config, run: Path, split: str) -> Catalogue:
    if split == "cv_fold" and not config.cv_fold:
        raise FirError(f"`split` cv_fold needs a run of train.py --cv_fold=... Received: {run}")
    catalogue = datasets.load(config.dataset, config.data_dir, config.columns)
    catalogue = catalogue.with_crop(config.crop)
    for note in catalogue.notes:
        log.info(note)
    return catalogue


def _part(catalogue: Catalogue, config: Config, split: str) -> Catalogue:
    """Returns what the run calls that split; its validation part is split off as in training."""
    if split == "cv_fold":
        return take_fold(catalogue, config.cv_fold)[1]
    return catalogue if split == "test" else training_parts(catalogue, config)


def _procedure(
    embedder: Embedder, catalogue: Catalogue, config: Config, options: EvaluateOptions, output: Path
) -> Procedure:
    space = None
    if options.whiten:
        space = _learn_whitening(embedder, catalogue, options)
        write_whitening(output / "whitening.npz", *space)
    # What was left out of training stands where the validation part stands.
    split = "test" if options.split == "test" else "val"
    return Procedure(
        split,
        config.gallery_scope,
        config.reads("logits"),
        space,
        better_search(options),
        options.batch_size,
    )


def _measure(
    embedder: Embedder, catalogue: Catalogue, procedure: Procedure, asked: str
) -> Measured:
    found = measure(embedder, catalogue, procedure)
    if found is None:
        raise FirError(
            f"there is nothing to measure: {catalogue.source} has no image in "
            f"{', '.join(CLASSIFIED[procedure.split])}. Received: --split={asked}"
        )
    return found


def _learn(
    embedder: Embedder,
    whole: Catalogue,
    config: Config,
    options: EvaluateOptions,
    procedure: Procedure,
    found: Measured,
) -> tuple[Learned, dict[str, float]]:
    """Returns what scores are worth, learned where nothing was trained, and its error elsewhere."""
    part = "cv_fold" if config.cv_fold else "val"
    text = "the fold that training left out" if config.cv_fold else "the validation part"
    if found.reordered or options.expand:
        text = "no confidence is learned: --expand and --rerank make other scores"
        return Learned(text=text), {}
    if options.split == part:
        return learn_from(found, text), {}
    learned = learn_on(embedder, lambda: _part(whole, config, part), procedure, text)
    return learned, error_of(learned, found)


def _learn_whitening(
    embedder: Embedder, catalogue: Catalogue, options: EvaluateOptions
) -> tuple[np.ndarray, np.ndarray]:
    """Returns what `whiten` takes, learned on the training images that can be read."""
    train = catalogue.part("train")
    if not len(train):
        raise FirError(
            f"`whiten` is learned on training images, and {catalogue.source} has none. Leave it out"
        )
    embedded = embedder.catalogue(train, "train", options.batch_size)
    return whitening(embedded.embedding[embedded.valid], options.whiten)


def _conditions(config: Config, options: EvaluateOptions, found: Measured) -> dict[str, Any]:
    """What was measured on, and what was done beyond embeddings and inner products."""
    conditions: dict[str, Any] = {
        "dataset": config.dataset,
        "data_dir": str(config.data_dir),
        "split": options.split,
    }
    if options.split == "cv_fold":
        conditions["cv_fold"] = config.cv_fold
    if options.split == "test":
        conditions["gallery_scope"] = config.gallery_scope
    conditions |= {"image_size": config.eval_size, "resize": config.resize}
    if config.crop != "image":
        conditions |= {"crop": config.crop, "crop_margin": config.crop_margin}
    if options.flip:
        conditions["flip"] = "mean of an image and its mirror image"
    if parse_scales(options.scales) != (1.0,):
        conditions["scales"] = f"mean over {options.scales} times the image size"
    if options.whiten:
        conditions["whiten"] = (
            f"PCA-whitened to {options.whiten} numbers, learned on training images"
        )
    if options.expand:
        conditions["expand"] = (
            f"alpha query expansion by {options.expand} images, alpha {options.expand_alpha:g}"
        )
    if options.rerank:
        conditions["rerank"] = f"k-reciprocal re-ranking of {options.rerank} results"
    return {**conditions, "unreadable_images": len(found.skipped)}


def _explainer(
    model: keras.Model, config: Config, options: EvaluateOptions
) -> PhotoExplainer | None:
    """Returns what says where scores come from; None where they are not those of photos alone."""
    views = options.flip or parse_scales(options.scales) != (1.0,) or config.crop == "box"
    if views or options.whiten or options.expand or options.rerank:
        return None
    try:
        return PhotoExplainer(model, config.eval_size, config.resize)
    except FirError:
        return None


def _is_theirs(config: Config, catalogue: Catalogue) -> bool:
    """Whether the paper's numbers were measured on these images."""
    return config.gallery_scope == "test" and is_published_test_set(config.dataset, catalogue)


def _is_validated(options: EvaluateOptions) -> bool:
    """Whether what is measured are the images that the run's log has the validation of."""
    return options.split == "val" and not (options.data_dir or options.dataset)


def _report(metrics: dict[str, Any], paper: list[PaperResult]) -> str:
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


@dataclasses.dataclass(frozen=True)
class _Shown:
    """What the pictures and the page show."""

    run: Path
    catalogue: Catalogue
    found: Measured
    config: Config
    metrics: dict[str, Any]
    paper: list[PaperResult]
    headline: Headline | None
    learned: Learned
    explain: PhotoExplainer | None

    @property
    def title(self) -> str:
        """What stands above: data, backbone and losses."""
        data = Path(self.config.data_dir).resolve().name
        return f"{data}: {self.config.backbone}, {self.config.losses}"


def _write(
    shown: _Shown, output: Path, options: EvaluateOptions, other: Other | None
) -> list[Path]:
    """Writes metrics, pictures, page and projector; returns the paths of what was written."""
    found, queries = shown.found, shown.found.queries(shown.catalogue)
    page, written = output / "report.html", [output / "metrics.json"]
    try:
        write_json(written[0], shown.metrics)
    except OSError as error:
        raise FirError(f"{fault(error) or error}. --output takes another folder") from error
    if queries is not None:
        written.append(output / "queries.csv")
        queries.save(written[-1])
    written += _write_calibration(shown, output, options)
    # Behind what was measured, which a refusal must not lose.
    compared = compare(queries, shown.metrics, other) if other else None
    if compared:
        log.info(compared.text())
    beside = Beside(shown.headline, _links(shown.run, output), shown.paper, compared, shown.explain)
    written += _draw(shown, output, options)
    written += draw_or_note(
        page,
        lambda: write_report(page, shown.title, shown.metrics, shown.catalogue, found, beside),
    )
    if options.projector:
        if not found.result:
            raise FirError(
                "`projector` shows embeddings of queries and gallery, and there are none. Leave it"
                " out"
            )
        # In the validation part the queries are the gallery.
        rows, places = np.unique(np.concatenate([found.query, found.gallery]), return_index=True)
        embedding = np.concatenate([found.query_embedding, found.gallery_embedding])[places]
        write_projector(output / "projector", shown.catalogue, rows, embedding)
        written.append(output / "projector")
    return written


def _write_calibration(shown: _Shown, output: Path, options: EvaluateOptions) -> list[Path]:
    """Writes what scores are worth, where that was learned; returns what was written."""
    learned, config = shown.learned, shown.config
    if not learned.calibration:
        return []
    views = {name: getattr(config, name) for name in ("crop", "crop_margin")}
    views |= {name: getattr(options, name) for name in ("flip", "scales")}
    found = dataclasses.replace(
        learned.calibration,
        learned_on={
            "dataset": config.dataset,
            "data_dir": str(config.data_dir),
            **learned.counts,
        },
        how=calibration.how_of(views, options.whiten),
        model=calibration.model_checksum(shown.run),
    )
    path = output / calibration.NAME
    write_json(path, found.to_json())
    return [path]


def _links(run: Path, output: Path) -> list[tuple[str, str]]:
    """(what belongs to the run, its address from the page, "" where it is not there)."""
    cards = sorted(run.glob(f"export/*/*/{CARD}"), key=lambda path: path.stat().st_mtime)
    files = {
        "training curve": run / "training.png",
        "config": run / "config.json",
        "model card": cards[-1] if cards else None,
    }
    return [
        (name, quote(Path(os.path.relpath(path, output)).as_posix()) if path else "")
        for name, path in files.items()
        if path is None or path.is_file()
    ]


def _draw(shown: _Shown, output: Path, options: EvaluateOptions) -> list[Path]:
    """Draws the recall curve and the contact sheet; returns the paths of what was drawn."""
    curve, sheet = output / "recall_curve.png", output / "contact_sheet.png"
    recalls = {
        int(name.split("@")[1]): value
        for name, value in shown.found.values.items()
        if name.startswith("recall@")
    }
    if not recalls or shown.found.result is None:
        return []
    name = f"this run: {shown.config.backbone}, {shown.config.losses}"
    rows = sheet_rows(shown.catalogue, shown.found, options.sheet_rows, options.sheet_matches)
    return [
        *draw_or_note(
            curve, lambda: recall_curve({name: recalls}, curve, shown.title, shown.paper)
        ),
        *draw_or_note(sheet, lambda: contact_sheet(rows, sheet, shown.title)),
    ]
