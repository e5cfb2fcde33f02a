"""LiteRT, for phones."""

import tempfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from fir_tf.evaluation.embedder import OUTPUTS, Network, as_network
from fir_tf.extras import require
from fir_tf.serving.formats import Export, Measures
from fir_tf.serving.formats.network import network_function
from fir_tf.serving.formats.representative import representative_photos
from fir_tf.serving.quality import compare_networks


def write_tflite(export: Export, folder: Path) -> Measures:
    """Writes `fir_float16.tflite` and `fir_int8.tflite` for LiteRT, one image at a time.

    int8 computes in whole numbers between float inputs and outputs; its ranges are read off
    200 training images, or others where there are none.

    Raises:
        FirError: if the training images cannot be read.
    """
    require("ai_edge_litert.interpreter", "edge")
    folder.mkdir()
    with tempfile.TemporaryDirectory() as saved:
        _save_frozen(export.network, saved)
        catalogue = export.parts()
        train = catalogue.part("train")
        shown = train if len(train) else catalogue
        names = {"float16": "fir_float16.tflite", "int8": "fir_int8.tflite"}
        for kind, name in names.items():
            converter = tf.lite.TFLiteConverter.from_saved_model(saved)
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            if kind == "float16":
                converter.target_spec.supported_types = [tf.float16]
            else:
                converter.representative_dataset = lambda: (
                    [photo] for photo in representative_photos(export, shown)
                )
            (folder / name).write_bytes(converter.convert())
    return compare_networks(export, {name: _runner(folder / name) for name in names.values()})


def _save_frozen(network: keras.Model, folder: str) -> None:
    """Saves the network without variables: LiteRT's own freezing leaves some to be read."""
    frozen = convert_variables_to_constants_v2(
        network_function(network, batch=1).get_concrete_function()
    )

    @tf.function(
        input_signature=[tf.TensorSpec([1, *network.input_shape[1:]], name="pixels")],
        autograph=False,
    )
    def forward(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        # The outputs in the order of their names.
        category, embedding = tf.nest.flatten(frozen(pixels))
        return {"category": category, "embedding": embedding}

    module = tf.Module()
    module.forward = forward
    tf.saved_model.save(module, folder, signatures=forward.get_concrete_function())


def _runner(path: Path) -> Network:
    interpreter = require("ai_edge_litert.interpreter", "edge").Interpreter(str(path))
    signature = interpreter.get_signature_runner()

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        rows = [signature(pixels=image[None]) for image in images]
        return {name: np.concatenate([row[name] for row in rows]) for name in OUTPUTS}

    return as_network(run)
