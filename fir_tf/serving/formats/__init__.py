"""Export formats, one file each.

A format is a function of (export, folder): it writes the network of an `Export` into a folder that
it makes, and returns what was measured, {form: {"text": str, ...}}. One with more to say of itself
is a `Format` around that function.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras

from fir_tf import datasets, registry
from fir_tf.config import Config
from fir_tf.datasets.catalogue import Catalogue
from fir_tf.datasets.loading import training_parts
from fir_tf.evaluation.embedder import Embedder, Network
from fir_tf.options import ExportOptions

Measures = dict[str, dict[str, Any]]
"""What was measured of each form that was written: `text` for the model card, and numbers."""


@dataclasses.dataclass
class Export:
    """What is exported.

    Attributes:
        options: ExportOptions.
        config: Config of the run.
        categories: list of str.
        model: keras.Model, as it was trained.
        network: keras.Model that is written, see `fir_tf.serving.fold.inference_model`.
        name: str, of the served model.
        facts: {str: str}, for the model card; a format adds its own.
    """

    options: ExportOptions
    config: Config
    categories: list[str]
    model: keras.Model
    network: keras.Model
    name: str
    facts: dict[str, Any]

    def embedder(self, network: Network | keras.Model) -> Embedder:
        """Returns what embeds photos by a form of the network, with the run's preprocessing."""
        config = self.config
        return Embedder(network, config.eval_size, config.resize, config.crop, config.crop_margin)

    def catalogue(self) -> Catalogue:
        """Loads the run's data, or that of `options.data_dir`.

        Raises:
            FirError: it cannot be loaded.
        """
        data_dir = self.options.data_dir or self.config.data_dir
        config = self.config
        return datasets.load(config.dataset, data_dir, config.columns).with_crop(config.crop)

    def parts(self) -> Catalogue:
        """Returns `catalogue` with the parts that the run trained and validated on.

        Raises:
            FirError: it cannot be loaded or divided.
        """
        return training_parts(self.catalogue(), self.config)


@dataclasses.dataclass(frozen=True)
class Format:
    """An export format.

    Attributes:
        description: str, one line for lists.
        write: function of (Export, Path of a folder that it makes) that returns Measures.
        takes: sequence of str, what it can do of `gallery` and of the values of the option
            `precision`; the others are refused.
        folder: str, the folder of its versions below the run's `export/`, which is also the
            served model's name; `fir_<format>` where empty.
    """

    description: str
    write: Callable[[Export, Path], Measures]
    takes: Sequence[str] = ()
    folder: str = ""


def get_format(name: str) -> Format:
    """Returns the Format of that name, also of one that was registered as a function."""
    part = registry.get("format", name)
    found = part if isinstance(part, Format) else Format(registry.summary("format", name), part)
    return dataclasses.replace(found, folder=found.folder or f"fir_{name}")
