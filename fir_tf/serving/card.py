"""The model card beside every export, from what the run's folder says (Mitchell et al. 2019)."""

from pathlib import Path

from fir_tf import registry
from fir_tf.files import read_json

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


def model_card(run, config, categories, facts):
    """Writes the card's text.

    Args:
        run: Path of the run's folder; metrics.json and versions.json are read where they exist.
        config: Config of the run.
        categories: list of str.
        facts: dict of str to str, what the export knows of itself, in order.

    Returns:
        str, Markdown.
    """
    weights = registry.get("backbone", config.backbone).weights
    source = weights.source if config.weights == "imagenet" else config.weights
    licence = weights.licence if config.weights == "imagenet" else "that of the file"
    start = (
        "random initialisation"
        if config.weights == "none"
        else f"{source}; licence: {licence}. Weights trained on ImageNet may carry "
        "non-commercial terms"
    )
    terms = [
        f"{term.weight:g} * {registry.summary('loss', term.loss).rstrip('.')}, by {term.label}"
        for term in config.terms()
    ]
    loss = f"{config.losses}: {'; '.join(terms)}"
    sections = [
        f"# Model card: {config.backbone}, {config.losses}, {config.dataset}",
        "## Intended use\n\nFinding the same garment, or similar ones, in a catalogue of product "
        "photos from one photo, and naming its category. Photos of other things get an embedding "
        "and a category as well: nothing here says that a photo shows no garment. Not meant for "
        "recognising people.",
        "## This export\n\n" + _table(facts),
        "## Data\n\n"
        + _table(
            {
                "layout": config.dataset,
                "folder": Path(config.data_dir).resolve().name,
                "licence": _data_licence(config.data_dir),
                "categories": f"{len(categories)}: {', '.join(categories)}",
                "input": f"{config.image_size} x {config.image_size} pixels, {config.resize}",
            }
        ),
        "## Training\n\n"
        + _table(
            {
                "starts from": start,
                "loss": loss,
                **{name: getattr(config, name) for name in _TRAINING},
            }
        ),
        "## Metrics\n\n" + _metrics(run / "metrics.json"),
        "## Versions at training\n\n" + _versions(run / "versions.json"),
    ]
    return "\n\n".join(sections) + "\n"


def _table(rows):
    lines = ["| what | value |", "|---|---|"]
    lines += [f"| {name} | {str(value).replace('|', '/')} |" for name, value in rows.items()]
    return "\n".join(lines)


def _metrics(path):
    if not path.is_file():
        return "Not evaluated: `evaluate.py` was not run before the export."
    metrics = read_json(path, "Run evaluate.py again, or delete the file")
    values = {
        name: f"{metrics[name]:.4f}"
        for name in _METRICS
        if isinstance(metrics.get(name), int | float)
    }
    protocol = metrics.get("protocol")
    protocol = protocol if isinstance(protocol, dict) else {}
    return _table(values) + "\n\nProtocol:\n\n" + _table(protocol)


def _data_licence(data_dir):
    found = sorted(path.name for path in Path(data_dir).glob("LICEN[CS]E*"))
    return f"see {', '.join(found)} in that folder" if found else "no licence file in that folder"


def _versions(path):
    if not path.is_file():
        return "Not known: the run has no versions.json."
    return _table(read_json(path, "Delete the file, and the card goes without the versions"))
