"""Networks of other runtimes, run without TensorFlow."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from fir_tf.evaluation.embedded import OUTPUTS, Runner
from fir_tf.extras import require


def with_mirror(network: Runner) -> Runner:
    """Returns the network whose outputs are means over a photo and its mirror image.

    See `fir_tf.evaluation.views.averaged`.
    """

    def forward(pixels: np.ndarray) -> dict[str, np.ndarray]:
        found = [network(view) for view in (pixels, np.ascontiguousarray(pixels[:, :, ::-1]))]
        embedding, category = (found[0][name] + found[1][name] for name in OUTPUTS)
        lengths = np.sqrt(np.maximum((embedding**2).sum(axis=1, keepdims=True), 1e-12))
        return {"embedding": embedding / lengths, "category": category / 2}

    return forward


def run_openvino(path: Path) -> Runner:
    """Opens a `model.xml`.

    Raises:
        FirError: OpenVINO is not installed.
    """
    openvino = require("openvino", "openvino")
    # In bfloat16, its own choice where the processor has it, vectors would be other ones.
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    return openvino.Core().compile_model(str(path), "CPU", exact)


def run_onnx(path: Path) -> Runner:
    """Opens a `model.onnx`.

    Raises:
        FirError: onnxruntime is not installed.
    """
    runtime = require("onnxruntime", "onnx")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (pixels,) = session.get_inputs()
    return lambda images: dict(
        zip(OUTPUTS, session.run(OUTPUTS, {pixels.name: images}), strict=True)
    )


RUNTIMES: dict[str, Callable[[Path], Runner]] = {"model.xml": run_openvino, "model.onnx": run_onnx}
"""How a network is run, by the name of its file."""
