"""ONNX."""

import numpy as np
import tensorflow as tf

from fir_tf.errors import FirError
from fir_tf.extras import require
from fir_tf.serving.formats.network import network_function
from fir_tf.serving.quality import compare_networks


def write_onnx(export, folder):
    """Writes `model.onnx` with tf2onnx.

    Args:
        export: Export.
        folder: Path, created.

    Returns:
        What was measured, in onnxruntime.

    Raises:
        FirError: see `convert_onnx`.
    """
    return compare_networks(export, {"model.onnx": convert_onnx(export.network, folder)})


def convert_onnx(network, folder):
    """Writes the network as `model.onnx`.

    Args:
        network: keras.Model, folded.
        folder: Path, created.

    Returns:
        function float32 [n, s, s, 3] -> {"embedding", "category"} that runs it in onnxruntime.

    Raises:
        FirError: if tf2onnx or onnxruntime is missing or cannot convert the network.
    """
    tf2onnx = require("tf2onnx", "onnx")
    runtime = require("onnxruntime", "onnx")
    forward = network_function(network)
    folder.mkdir()
    path = folder / "model.onnx"
    try:
        tf2onnx.convert.from_function(
            forward, input_signature=forward.input_signature, opset=17, output_path=str(path)
        )
    except Exception as error:
        raise FirError(f"tf2onnx could not convert the network: {error}") from error
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (name,) = (value.name for value in session.get_inputs())

    def run(pixels):
        embedding, category = session.run(["embedding", "category"], {name: np.asarray(pixels)})
        return {"embedding": tf.constant(embedding), "category": tf.constant(category)}

    return run
