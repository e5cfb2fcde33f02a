"""A run's best model for serving: image bytes in, embedding, categories and item ids out."""

import dataclasses
import logging
from pathlib import Path

import tensorflow as tf

from fir_tf import __version__
from fir_tf.calibration import NAME, Calibration, model_checksum
from fir_tf.errors import FirError
from fir_tf.files import replacing, write_json, write_text
from fir_tf.models.fir import search_model
from fir_tf.options import ExportOptions, find_run
from fir_tf.run import CARD, load_run
from fir_tf.search.opened import EXPORTED_CALIBRATION, FACTS
from fir_tf.serving.card import model_card
from fir_tf.serving.fold import inference_model
from fir_tf.serving.formats import Export, get_format

log = logging.getLogger(__package__)


def export(options: ExportOptions) -> Path:
    """Writes a version of a run's model.

    The folder is `<name>/<version>/` as TF Serving watches it. Beside the model it holds
    MODEL_CARD.md and assets.extra/export.json (what was measured), and where the run was evaluated
    assets.extra/calibration.json (what scores are worth); a SavedModel also
    assets.extra/tf_serving_warmup_requests.

    Args:
        options: ExportOptions.

    Returns:
        Path of the version's folder, `<output>/<version>`.

    Raises:
        FirError: if the run has no model, the version exists, the gallery cannot be loaded or a
            package that the format needs is missing.
    """
    run = find_run(options.run)
    model, config, categories = load_run(run)
    form = get_format(options.format)
    base = Path(options.output) if options.output else run / "export" / form.folder
    target = base / str(options.version or _next_version(base))
    if target.exists():
        raise FirError(
            f"`version` must be a new one. Received: {options.version}, and {target} exists"
        )
    network = inference_model(search_model(model), options.fold, options.precision)
    facts = {
        "format": options.format,
        "precision": options.precision,
        "batch_norm": "folded into the convolutions" if options.fold else "kept",
        "embedding": f"{model.output['embedding'].shape[-1]} numbers, unit length",
        "versions": f"fir_tf {__version__}, tensorflow {tf.__version__}",
    }
    job = Export(options, config, categories, model, network, base.resolve().name, facts)
    with replacing(target) as temporary:
        measured = form.write(job, temporary)
        facts.update((f"measured: {name}", found["text"]) for name, found in measured.items())
        write_json(
            temporary / FACTS,
            {
                **facts,
                "image_size": config.eval_size,
                "resize": config.resize,
                "crop": config.crop,
                "crop_margin": config.crop_margin,
                "categories": categories if config.reads("logits") else [],
                "measured": measured,
                "options": dataclasses.asdict(options),
            },
        )
        if calibration := _calibration(run):
            write_json(temporary / EXPORTED_CALIBRATION, calibration.to_json())
        write_text(temporary / CARD, model_card(run, config, categories, facts))
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    log.info(f"{options.format}: {target} ({size / 1e6:.0f} MB)\nmodel card: {target / CARD}")
    return target


def _calibration(run: Path) -> Calibration | None:
    """What evaluate.py has learned of the scores of this model; None where it has not."""
    path = run / NAME
    found = Calibration.load(path) if path.is_file() else None
    if found and found.model != model_checksum(run):
        log.info(
            f"note: {path} is left out: the model has been trained on since. Evaluate the run again"
        )
        return None
    return found


def _next_version(base: Path) -> int:
    taken = [int(path.name) for path in base.glob("*") if path.name.isdecimal()]
    return max(taken, default=0) + 1
