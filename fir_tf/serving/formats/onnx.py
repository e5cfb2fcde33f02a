"""ONNX."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from fir_tf.errors import FirError
from fir_tf.evaluation.embedder import Network, as_network
from fir_tf.extras import require
from fir_tf.search.exported import run_onnx
from fir_tf.serving.formats import Export, Format, Measures
from fir_tf.serving.formats.int8 import quantised
from fir_tf.serving.formats.network import network_function, write_network


def write_onnx(export: Export, folder: Path) -> Measures:
    """Writes `model.onnx` with tf2onnx.

    Raises:
        FirError: see `convert_onnx`, for int8 also `int8_photos`.
    """
    return write_network(export, folder, "model.onnx", convert_onnx)


def convert_onnx(network: keras.Model, folder: Path, photos: Sequence[np.ndarray] = ()) -> Network:
    """Writes the network as `model.onnx`.

    Args:
        network: keras.Model, folded.
        folder: Path, created.
        photos: sequence of float32 [1, s, s, 3] that ranges are read off, for convolutions in
            int8; none for float32.

    Returns:
        Network that runs it in onnxruntime.

    Raises:
        FirError: if tf2onnx or onnxruntime, or for int8 NNCF, is missing, or tf2onnx cannot convert
            the network.
    """
    tf2onnx = require("tf2onnx", "onnx")
    # Before the conversion, which takes a while; what is written is run at the end.
    require("onnxruntime", "onnx")
    forward = network_function(network)
    try:
        model, _ = tf2onnx.convert.from_function(
            forward, input_signature=forward.input_signature, opset=17
        )
    except Exception as error:
        raise FirError(f"tf2onnx could not convert the network: {error}") from error
    if photos:
        (pixels,) = model.graph.input
        model = quantised(model, [{pixels.name: photo} for photo in photos], _floats(model))
    folder.mkdir()
    path = folder / "model.onnx"
    require("onnx", "onnx").save(model, str(path))
    return as_network(run_onnx(path))


def _floats(model: Any) -> list[str]:
    """Returns the names of what stays in float, see `fir_tf.serving.formats.int8`."""
    graph = require("onnx", "onnx").shape_inference.infer_shapes(model).graph
    maps = {value.name for value in graph.value_info if len(value.type.tensor_type.shape.dim) == 4}
    # Kernels are [out, in, h, w]: a depthwise convolution reads one channel.
    depthwise = {value.name for value in graph.initializer if list(value.dims[1:2]) == [1]}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    kept = convolutions[:1] + [node for node in convolutions if node.input[1] in depthwise]
    kept += [node for node in graph.node if node.output[0] not in maps]
    return [node.name for node in kept]


ONNX = Format("Writes `model.onnx` with tf2onnx.", write_onnx, takes=("int8",))
