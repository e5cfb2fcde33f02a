"""ONNX."""

from pathlib import Path

import keras

from fir_tf.errors import FirError
from fir_tf.evaluation.embedder import OUTPUTS, Network, as_network
from fir_tf.extras import require
from fir_tf.serving.formats import Export, Measures
from fir_tf.serving.formats.network import network_function
from fir_tf.serving.quality import compare_networks


def write_onnx(export: Export, folder: Path) -> Measures:
    """Writes `model.onnx` with tf2onnx.

    Raises:
        FirError: see `convert_onnx`.
    """
    return compare_networks(export, {"model.onnx": convert_onnx(export.network, folder)})


def convert_onnx(network: keras.Model, folder: Path) -> Network:
    """Writes the network as `model.onnx`.

    Args:
        network: keras.Model, folded.
        folder: Path, created.

    Returns:
        Network that runs it in onnxruntime.

    Raises:
        FirError: if tf2onnx or onnxruntime is missing or cannot convert the network.
    """
    tf2onnx = require("tf2onnx", "onnx")
    runtime = require("onnxruntime", "onnx")
    forward = network_function(network)
    folder.mkdir()
    path = str(folder / "model.onnx")
    try:
        tf2onnx.convert.from_function(
            forward, input_signature=forward.input_signature, opset=17, output_path=path
        )
    except Exception as error:
        raise FirError(f"tf2onnx could not convert the network: {error}") from error
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (pixels,) = session.get_inputs()
    return as_network(
        lambda images: dict(zip(OUTPUTS, session.run(OUTPUTS, {pixels.name: images}), strict=True))
    )
