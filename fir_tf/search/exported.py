"""Networks of other runtimes, with our preprocessing and without TensorFlow."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fir_tf.evaluation.embedded import OUTPUTS, Embedded, masked
from fir_tf.extras import require
from fir_tf.images.file import UnreadableImageError, read
from fir_tf.images.plain import decode_and_fit
from fir_tf.images.window import Boxes, Part
from fir_tf.parallel import ahead

Runner = Callable[[np.ndarray], Mapping[Any, np.ndarray]]
"""Fitted pixels float32 [n, side, side, 3] in [0, 255] -> its `OUTPUTS`, float32."""


class PlainEmbedder:
    """Embeds photos as `fir_tf.evaluation.embedder.Embedder` does, without TensorFlow.

    Args:
        network: Runner.
        image_size, resize, crop, margin: see `Embedder`.

    Attributes:
        network: Runner.
        crop, margin: as given.
    """

    def __init__(
        self, network: Runner, image_size: int, resize: str, crop: str, margin: float
    ) -> None:
        self.network, self.crop, self.margin = network, crop, margin
        self._image_size, self._resize = image_size, resize

    def photos(self, contents: Sequence[bytes], boxes: Boxes | None = None) -> Embedded:
        """Embeds photos given as files' contents, or what their boxes hold, all at once."""
        return self._embedded(*self._fitted(contents, boxes))

    def files(
        self, files: Sequence[str], batch_size: int = 64, boxes: Boxes | None = None
    ) -> Iterator[Embedded]:
        """Embeds image files, or what their boxes hold, decoding ahead of the network.

        Yields:
            Embedded for each batch, in order. A file that is missing or cannot be read, or has no
            area in its box, is not valid.
        """

        def fitted(start: int) -> tuple[np.ndarray, np.ndarray]:
            part = slice(start, start + batch_size)
            own = (boxes[0][part], boxes[1][part]) if boxes else None
            return self._fitted([_contents(file) for file in files[part]], own)

        for pixels, valid in ahead(fitted, range(0, len(files), batch_size)):
            yield self._embedded(pixels, valid)

    def _fitted(
        self, contents: Sequence[bytes], boxes: Boxes | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns (float32 [n, side, side, 3], which of them are photos)."""
        side = self._image_size
        pixels = np.zeros((len(contents), side, side, 3), np.float32)
        valid = np.zeros(len(contents), bool)
        for row, photo in enumerate(contents):
            part = Part(boxes[0][row], bool(boxes[1][row]), self.margin) if boxes else None
            try:
                pixels[row] = decode_and_fit(photo, side, self._resize, part)
            except UnreadableImageError:
                continue
            valid[row] = True
        return pixels, valid

    def _embedded(self, pixels: np.ndarray, valid: np.ndarray) -> Embedded:
        outputs = self.network(pixels)
        return masked({name: outputs[name] for name in OUTPUTS}, valid)


def _contents(file: str) -> bytes:
    try:
        return read(file)
    except UnreadableImageError:
        return b""


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
