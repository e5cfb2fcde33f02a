"""Export formats, one file each.

A format is a function of (export, folder): it writes the network of an `Export` into a folder that
it makes, and returns what was measured, {form: {"text": str, ...}}.
"""

import dataclasses
from typing import Any

import keras

from fir_tf.config import Config
from fir_tf.options import ExportOptions


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
