"""LiteRT, for phones."""

import tempfile

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from fir_tf import datasets
from fir_tf.datasets.catalogue import unit_hash
from fir_tf.extras import require
from fir_tf.input.batches import ordered_batches
from fir_tf.serving.formats.network import network_function
from fir_tf.serving.quality import compare_networks

REPRESENTATIVE_IMAGES = 200


def write_tflite(export, folder):
    """Writes `fir_float16.tflite` and `fir_int8.tflite` for LiteRT, one image at a time.

    int8 computes in whole numbers between float inputs and outputs; its ranges are read off
    200 training images, or others where there are none.

    Args:
        export: Export.
        folder: Path, created.

    Returns:
        What was measured of both files.

    Raises:
        FirError: if the training images cannot be read.
    """
    require("ai_edge_litert.interpreter", "edge")
    folder.mkdir()
    with tempfile.TemporaryDirectory() as saved:
        _save_frozen(export.network, saved)
        runners = _convert_tflite(saved, folder, export.config, export.options.data_dir)
    return compare_networks(export, runners)


def _save_frozen(network, folder):
    """Saves the network without variables: LiteRT's own freezing leaves some to be read."""
    frozen = convert_variables_to_constants_v2(
        network_function(network, batch=1).get_concrete_function()
    )

    @tf.function(
        input_signature=[tf.TensorSpec([1, *network.input_shape[1:]], name="pixels")],
        autograph=False,
    )
    def forward(pixels):
        # The outputs in the order of their names.
        category, embedding = tf.nest.flatten(frozen(pixels))
        return {"category": category, "embedding": embedding}

    module = tf.Module()
    module.forward = forward
    tf.saved_model.save(module, folder, signatures=forward.get_concrete_function())


def _convert_tflite(saved, folder, config, data_dir):
    found = {}
    for kind in ("float16", "int8"):
        converter = tf.lite.TFLiteConverter.from_saved_model(saved)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if kind == "float16":
            converter.target_spec.supported_types = [tf.float16]
        else:
            converter.representative_dataset = _representative(config, data_dir)
        path = folder / f"fir_{kind}.tflite"
        path.write_bytes(converter.convert())
        found[path.name] = _tflite_runner(path)
    return found


def _representative(config, data_dir):
    """Returns what the converter calls for sample inputs: training images, one at a time."""
    catalogue = datasets.load(config.dataset, data_dir or config.data_dir)
    train = catalogue.part("train")
    catalogue = train if len(train) else catalogue
    # The same images in every export, from all over the set.
    order = np.argsort([unit_hash(str(path), "representative") for path in catalogue.path])
    chosen = catalogue.rows(order[:REPRESENTATIVE_IMAGES])

    def images():
        batches, _ = ordered_batches(chosen.files(), config.image_size, config.resize, 1)
        for batch in batches:
            yield [batch["images"]]

    return images


def _tflite_runner(path):
    interpreter = require("ai_edge_litert.interpreter", "edge").Interpreter(str(path))
    signature = interpreter.get_signature_runner()

    def run(pixels):
        rows = [signature(pixels=image[None]) for image in np.asarray(pixels)]
        return {
            name: tf.constant(np.concatenate([row[name] for row in rows]))
            for name in ("embedding", "category")
        }

    return run
