"""A run's folder, read."""

from pathlib import Path

import keras

from fir_tf.config import Config
from fir_tf.errors import FirError
from fir_tf.files import read_json
from fir_tf.models import saving

_LABELS_ADVICE = (
    "Copy the run's folder again, or give the run's train.py command again, which writes the file"
)


def load_run(run: str | Path) -> tuple[keras.Model, Config, list[str]]:
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


def _read_categories(path: Path) -> list[str]:
    categories = read_json(path, _LABELS_ADVICE).get("categories")
    if not isinstance(categories, list) or not all(isinstance(name, str) for name in categories):
        raise FirError(
            f"{path} must have a list of names under `categories`. "
            f"Received: {categories!r:.60}. {_LABELS_ADVICE}"
        )
    return categories
