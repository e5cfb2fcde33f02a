"""The run's folder: what is in it and whether a run may go on in it."""

import json
import platform
from importlib import metadata
from pathlib import Path

from fir_tf import __version__
from fir_tf.config import Config
from fir_tf.errors import FirError
from fir_tf.files import write_json
from fir_tf.keras_versions import check_saved_by


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


def versions() -> dict[str, str]:
    """Returns {package: version} of what a run's numbers depend on."""
    names = ("tensorflow", "keras", "keras-cv", "numpy", "pillow")
    found = {name: metadata.version(name) for name in names}
    return {"fir_tf": __version__, "python": platform.python_version(), **found}
