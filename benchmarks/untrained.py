"""A run's folder with a model that was not trained, for benchmarks that need no good answers."""

from fir_tf.config import Config
from fir_tf.files import write_json
from fir_tf.models.fir import build_fir


def write_run(folder, categories, **options):
    """Writes the folder of a run; returns it.

    Args:
        folder: Path.
        categories: list of str.
        options: Config's fields, such as `backbone` and `image_size`.
    """
    config = Config(run=str(folder), **options)
    config.save(folder / "config.json")
    write_json(folder / "labels.json", {"categories": categories})
    build_fir(config, config.image_size, len(categories)).save(folder / "model.keras")
    return folder
