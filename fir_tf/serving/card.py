"""The model card beside every export, from what the run's folder says (Mitchell et al. 2019)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fir_tf import registry
from fir_tf.config import Config
from fir_tf.files import read_json
from fir_tf.pages import render

_TRAINING = (
    "alpha",
    "beta",
    "delta",
    "triplets",
    "batch_size",
    "images_per_item",
    "epochs",
    "learning_rate",
    "seed",
)
_METRICS = ("recall@1", "recall@5", "recall@10", "recall@20", "mAP@R", "category_top1")


def model_card(
    run: Path, config: Config, categories: Sequence[str], facts: Mapping[str, str]
) -> str:
    """Writes the card's text.

    Args:
        run: Path of the run's folder; metrics.json and versions.json are read where they exist.
        config: Config of the run.
        categories: list of str.
        facts: dict of str to str, what the export knows of itself, in order.

    Returns:
        str, Markdown.
    """
    data = {
        "layout": config.dataset,
        "folder": Path(config.data_dir).resolve().name,
        "licence": _data_licence(config.data_dir),
        "categories": f"{len(categories)}: {', '.join(categories)}",
        "input": f"{config.eval_size} x {config.eval_size} pixels, {config.resize}{_crop(config)}",
    }
    terms = [
        f"{term.weight:g} * {registry.summary('loss', term.loss).rstrip('.')}, by {term.label}"
        for term in config.terms()
    ]
    training = {
        "starts from": _start(config),
        "loss": f"{config.losses}: {'; '.join(terms)}",
        **{name: getattr(config, name) for name in _TRAINING},
    }
    metrics = _found(run / "metrics.json", "Run evaluate.py again, or delete the file")
    versions = _found(
        run / "versions.json", "Delete the file, and the card goes without the versions"
    )
    protocol = (metrics or {}).get("protocol")
    return render(
        "card.md",
        config=config,
        facts=facts,
        data=data,
        training=training,
        values=None if metrics is None else _values(metrics),
        protocol=protocol if isinstance(protocol, dict) else {},
        versions=versions,
    )


def _crop(config: Config) -> str:
    """What the images were cropped to."""
    if config.crop == "image":
        return ""
    return f", cropped to the garment's box and a margin of {config.crop_margin:g} of its sides"


def _start(config: Config) -> str:
    """What the training began with, and its licence."""
    if config.weights == "none":
        return "random initialisation"
    weights = registry.get("backbone", config.backbone).weights
    own = config.weights == "imagenet"
    source = weights.source if own else config.weights
    licence = weights.licence if own else "that of the file"
    return (
        f"{source}; licence: {licence}. Weights trained on ImageNet may carry non-commercial terms"
    )


def _values(metrics: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: f"{metrics[name]:.4f}"
        for name in _METRICS
        if isinstance(metrics.get(name), int | float)
    }


def _data_licence(data_dir: str) -> str:
    found = sorted(path.name for path in Path(data_dir).glob("LICEN[CS]E*"))
    return f"see {', '.join(found)} in that folder" if found else "no licence file in that folder"


def _found(path: Path, advice: str) -> dict[str, Any] | None:
    return read_json(path, advice) if path.is_file() else None
