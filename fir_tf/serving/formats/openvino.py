"""OpenVINO and its model server."""

import tempfile

import numpy as np
import tensorflow as tf

from fir_tf.extras import require
from fir_tf.keras_versions import tensor_of
from fir_tf.serving.formats.network import network_function
from fir_tf.serving.quality import compare_networks


def write_openvino(export, folder):
    """Writes `model.xml` and `model.bin`, as OpenVINO Model Server loads them.

    Args:
        export: Export.
        folder: Path, created.

    Returns:
        What was measured.

    Raises:
        FirError: if OpenVINO is missing.
    """
    return compare_networks(export, {"model.xml": convert_openvino(export.network, folder)})


def convert_openvino(network, folder):
    """Writes the network as `model.xml` and `model.bin`.

    Args:
        network: keras.Model, folded.
        folder: Path, created.

    Returns:
        function float32 [n, s, s, 3] -> {"embedding", "category"} that runs it.

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
    compiled = openvino.Core().compile_model(str(folder / "model.xml"), "CPU")

    def run(pixels):
        found = compiled(np.asarray(pixels))
        return {name: tf.constant(found[name]) for name in ("embedding", "category")}

    return run
