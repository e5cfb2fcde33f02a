"""OpenVINO and its model server."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fir_tf.evaluation.embedder import Network, as_network
from fir_tf.extras import require
from fir_tf.keras_versions import tensor_of
from fir_tf.serving.formats import Export, Format, Measures
from fir_tf.serving.formats.int8 import quantised
from fir_tf.serving.formats.network import network_function, write_network

_CONVOLUTIONS = ("Convolution", "GroupConvolution")


def write_openvino(export: Export, folder: Path) -> Measures:
    """Writes `model.xml` and `model.bin`, as OpenVINO Model Server loads them.

    Raises:
        FirError: if OpenVINO is missing; for int8 see `int8_photos`.
    """
    return write_network(export, folder, "model.xml", convert_openvino)


def convert_openvino(
    network: keras.Model, folder: Path, photos: Sequence[np.ndarray] = ()
) -> Network:
    """Writes the network as `model.xml` and `model.bin`.

    Args:
        network: keras.Model, folded.
        folder: Path, created.
        photos: sequence of float32 [1, s, s, 3] that ranges are read off, for convolutions in
            int8; none for float32.

    Returns:
        Network that runs it in OpenVINO.

    Raises:
        FirError: if OpenVINO, or for int8 NNCF, is missing.
    """
    openvino = require("openvino", "openvino")
    with tempfile.TemporaryDirectory() as saved:
        module = tf.Module()
        module.weights = [tensor_of(weight) for weight in network.weights]
        module.forward = network_function(network)
        tf.saved_model.save(module, saved, signatures=module.forward)
        model = openvino.convert_model(saved)
    if photos:
        model = quantised(model, photos, _floats(model))
    folder.mkdir()
    # In float32: where the processor has bfloat16 OpenVINO uses it by itself.
    openvino.save_model(model, str(folder / "model.xml"), compress_to_fp16=False)
    return as_network(openvino.Core().compile_model(str(folder / "model.xml"), "CPU"))


def _floats(model: Any) -> list[str]:
    """Returns the names of what stays in float, see `fir_tf.serving.formats.int8`."""
    # A model's results have the shape of what they hand on.
    nodes = [node for node in model.get_ordered_ops() if node.get_output_size()]
    convolutions = [node for node in nodes if node.get_type_name() in _CONVOLUTIONS]
    kept = [*convolutions[:1], *filter(_is_depthwise, convolutions)]
    kept += [node for node in nodes if not _is_map(node)]
    return [node.get_friendly_name() for node in kept]


def _is_map(node: Any) -> bool:
    return node.get_output_partial_shape(0).rank.get_length() == 4


def _is_depthwise(node: Any) -> bool:
    """Whether each output reads one input channel; kernels are [groups, out, in, h, w]."""
    grouped = node.get_type_name() == "GroupConvolution"
    return grouped and node.get_input_partial_shape(1)[2].get_length() == 1


OPENVINO = Format(
    "Writes `model.xml` and `model.bin`, as OpenVINO Model Server loads them.",
    write_openvino,
    takes=("int8",),
)
