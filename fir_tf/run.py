"""A run's folder, read and written: what is in it, and whether a run may go on in it."""

import csv
import json
import platform
import weakref
from importlib import metadata
from pathlib import Path

import keras

from fir_tf import __version__
from fir_tf.config import Config
from fir_tf.errors import FirError
from fir_tf.files import read_json, write_json
from fir_tf.keras_versions import check_saved_by
from fir_tf.models import saving

CARD = "MODEL_CARD.md"
"""str, what every export says of its model."""

_LABELS_ADVICE = (
    "Copy the run's folder again, or give the run's train.py command again, which writes the file"
)


# Models that somebody holds, by the place and the state of their files.
_shared: weakref.WeakValueDictionary[tuple[str, int, int], keras.Model] = (
    weakref.WeakValueDictionary()
)


def load_run(run: str | Path, shared: bool = False) -> tuple[keras.Model, Config, list[str]]:
    """Loads the best model of a run.

    Args:
        run: str or Path, the run's folder.
        shared: bool, whether it may be the one that another caller who shares holds: it is
            loaded and kept in memory once. It must not be trained or changed.

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
    model = _shared_model(path) if shared else saving.load_model(path)
    count = model.output["category"].shape[-1]
    if len(categories) != count:
        raise FirError(
            f"{run / 'labels.json'} must have the {count} categories of {path.name}. "
            f"Received: {len(categories)}. {_LABELS_ADVICE}"
        )
    return model, config, categories


def _shared_model(path: Path) -> keras.Model:
    state = path.stat()
    key = str(path.resolve()), state.st_mtime_ns, state.st_size
    model = _shared.get(key)
    if model is None:
        model = _shared[key] = saving.load_model(path)
    return model


def _read_categories(path: Path) -> list[str]:
    categories = read_json(path, _LABELS_ADVICE).get("categories")
    if not isinstance(categories, list) or not all(isinstance(name, str) for name in categories):
        raise FirError(
            f"{path} must have a list of names under `categories`. "
            f"Received: {categories!r:.60}. {_LABELS_ADVICE}"
        )
    return categories


def open_run(config: Config) -> Path:
    """Creates the run's folder, or checks that an existing one may be resumed.

    Args:
        config: Config.

    Returns:
        Path of the folder, holding config.json, plugins.json and versions.json.

    Raises:
        FirError: if the folder holds a run of another config or of another Keras generation, or
            `resume` is off, or something that is no run.
    """
    run = Path(config.run)
    path = run / "config.json"
    if path.is_file():
        if not config.resume:
            raise FirError(
                f"{run} holds a run already and --resume is off. Give another --run, or delete "
                "the folder"
            )
        check_saved_by(_keras_of(run), f"the run {run}")
        differences = config.differences(Config.load(path))
        if differences:
            lines = "\n".join(
                f"  --{name}: now {new!r}, there {old!r}"
                for name, (new, old) in differences.items()
            )
            raise FirError(
                f"{run} holds a run of another config:\n{lines}\nGive another --run, repeat the "
                "flags of that run, or delete the folder"
            )
    elif run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise FirError(
            f"`run` must be a new folder or that of a run. Received: {run}, which holds other files"
        )
    run.mkdir(parents=True, exist_ok=True)
    config.save(path)
    write_json(run / "versions.json", versions())
    return run


def _keras_of(run: Path) -> str:
    """The Keras version of a run, "" where it cannot be read."""
    try:
        return str(json.loads((run / "versions.json").read_text(encoding="utf-8"))["keras"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def read_log_rows(path: str | Path) -> list[tuple[int, str, float]]:
    """Returns log.csv as a list of (step, name, value); half-written lines are left out."""
    entries = []
    if Path(path).is_file():
        with open(path, newline="", encoding="utf-8", errors="replace") as file:
            # A disk that lost power leaves zeros.
            for row in list(csv.reader(line.replace("\0", "") for line in file))[1:]:
                try:
                    entries.append((int(row[0]), row[1], float(row[2])))
                except (ValueError, IndexError):
                    continue
    return entries


def read_history(run: str | Path) -> dict[str, list[tuple[int, float]]]:
    """Returns {name: [(step, value), ...]} from a run's log.csv."""
    history: dict[str, list[tuple[int, float]]] = {}
    for step, name, value in read_log_rows(Path(run) / "log.csv"):
        history.setdefault(name, []).append((step, value))
    return history


def versions() -> dict[str, str]:
    """Returns {package: version} of what a run's numbers depend on."""
    names = ("tensorflow", "keras", "keras-cv", "numpy", "pillow")
    found = {name: metadata.version(name) for name in names}
    return {"fir_tf": __version__, "python": platform.python_version(), **found}
