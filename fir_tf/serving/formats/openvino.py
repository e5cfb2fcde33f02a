"""OpenVINO and its model server."""

import tempfile
from pathlib import Path

import keras
import tensorflow as tf

from fir_tf.evaluation.embedder import Network, as_network
from fir_tf.extras import require
from fir_tf.keras_versions import tensor_of
from fir_tf.serving.formats import Export, Measures
from fir_tf.serving.formats.network import network_function
from fir_tf.serving.quality import compare_networks


def write_openvino(export: Export, folder: Path) -> Measures:
    """Writes `model.xml` and `model.bin`, as OpenVINO Model Server loads them.

    Raises:
        FirError: if OpenVINO is missing.
    """
    return compare_networks(export, {"model.xml": convert_openvino(export.network, folder)})


def convert_openvino(network: keras.Model, folder: Path) -> Network:
    """Writes the network as `model.xml` and `model.bin`.

    Args:
        network: keras.Model, folded.
        folder: Path, created.

    Returns:
        Network that runs it in OpenVINO.

    Raises:
        FirError: if OpenVINO is missing.
    """
    openvino = require("openvino", "openvino")
    with tempfile.TemporaryDirectory() as saved:
        module = tf.Module()
        module.weights = [tensor_of(weight) for weight in network.weights]
        module.forward = network_function(network)
        tf.saved_model.save(module, saved, signatures=module.forward)
        model = openvino.convert_model(saved)
    folder.mkdir()
    # In float32: where the processor has bfloat16 OpenVINO uses it by itself.
    openvino.save_model(model, str(folder / "model.xml"), compress_to_fp16=False)
    return as_network(openvino.Core().compile_model(str(folder / "model.xml"), "CPU"))
