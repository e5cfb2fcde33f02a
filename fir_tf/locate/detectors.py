"""Detectors that others trained: what they say of a photo as garments."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

from fir_tf.errors import FirError
from fir_tf.extras import require
from fir_tf.files import without_wildcards
from fir_tf.images.file import UnreadableImageError
from fir_tf.images.picture import see
from fir_tf.locate.garments import Garment, Locator, suppressed

LABELS = "labels.txt"
"""str, the file beside a detector with the names of its classes, one a line, from class 1 on."""

# Detectors give a hundred boxes, most of which they do not believe in themselves.
_LEAST_SCORE = 0.3
# Longest side in pixels of what a detector of any size is shown; memory is the photo's otherwise.
_LONGEST = 1024

_TF_NAMES = ("detection_boxes", "detection_scores", "detection_classes")
_TORCH_NAMES = ("boxes", "scores", "labels")

Detect = Callable[[np.ndarray], Mapping[str, np.ndarray]]
"""uint8 [height, width, 3] -> its outputs by name, those of one photo."""


def open_saved_model(place: str, model: str) -> Locator:
    """Runs a SavedModel detector with the signature of TensorFlow's Object Detection API.

    Its `serving_default` takes `input_tensor`, uint8 [1, height, width, 3], and gives
    `detection_boxes` [1, n, 4] (top, left, bottom, right, in shares), `detection_scores` and
    `detection_classes` [1, n]. `labels.txt` in its folder names the classes, the first is 1.

    Args:
        place: str, its folder.
        model: not used.

    Raises:
        FirError: there is none, or its signature is another.
    """
    folder = Path(place)
    if not place or not (folder / "saved_model.pb").is_file():
        raise FirError(
            "`locator` must name the folder of a SavedModel: --locator=saved_model:<folder>. "
            f"Received: {place or 'none'}"
        )
    with without_wildcards(folder) as where:
        loaded = tf.saved_model.load(str(where))
    signature = loaded.signatures.get("serving_default")
    given = set(signature.structured_outputs) if signature else set()
    inputs = signature.structured_input_signature[1] if signature else {}
    if not set(_TF_NAMES[:2]) <= given or len(inputs) != 1:
        raise FirError(
            f"{folder} must have TensorFlow's detection signature: one image in, "
            f"{' and '.join(_TF_NAMES[:2])} out. Received: "
            f"{', '.join(sorted(inputs)) or 'nothing'} in, "
            f"{', '.join(sorted(given)) or 'nothing'} out"
        )
    ((name, spec),) = inputs.items()

    def detect(pixels: np.ndarray) -> Mapping[str, np.ndarray]:
        image = tf.cast(_resized(pixels, *spec.shape[1:3])[None], spec.dtype)
        # `loaded` has the variables.
        found = loaded.signatures["serving_default"](**{name: image})
        return {key: value.numpy() for key, value in found.items()}

    return _Detector(detect, _labels(folder / LABELS))


def open_onnx(place: str, model: str) -> Locator:
    """Runs an ONNX detector with the outputs of TensorFlow's or of torchvision's detectors.

    Either `detection_boxes`, `detection_scores` and `detection_classes` of uint8 pixels
    [1, height, width, 3], as tf2onnx leaves them, or `boxes` (left, top, right, bottom in
    pixels), `scores` and `labels` of float32 [1, 3, height, width] or [3, height, width] in
    [0, 1]. `labels.txt` beside the file names the classes, the first is 1.

    Args:
        place: str, the file.
        model: not used.

    Raises:
        FirError: there is none, onnxruntime is missing, or its outputs are others.
    """
    path = Path(place)
    if not place or not path.is_file():
        raise FirError(
            f"`locator` must name an ONNX file: --locator=onnx:<file>. Received: {place or 'none'}"
        )
    runtime = require("onnxruntime", "onnx")
    try:
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    # onnxruntime's own errors, of many kinds for a damaged file.
    except Exception as error:
        raise FirError(f"{path} must be an ONNX model. Received: {error}") from error
    outputs = [output.name for output in session.get_outputs()]
    image, *others = session.get_inputs()
    if others or not any(set(names[:2]) <= set(outputs) for names in (_TF_NAMES, _TORCH_NAMES)):
        raise FirError(
            f"{path} must take one image and give {' and '.join(_TF_NAMES[:2])}, or "
            f"{' and '.join(_TORCH_NAMES[:2])}. Received: {', '.join(outputs)}"
        )
    channels_first = set(_TORCH_NAMES[:2]) <= set(outputs)
    sides = image.shape[-2:] if channels_first else image.shape[-3:-1]

    def detect(pixels: np.ndarray) -> Mapping[str, np.ndarray]:
        seen = _resized(pixels, *sides)
        height, width = seen.shape[:2]
        fed = seen if "uint8" in image.type else seen.astype(np.float32)
        if channels_first:
            fed = (fed / np.float32(255)).transpose(2, 0, 1)
        fed = fed[None] if len(image.shape) == 4 else fed
        found = dict(zip(outputs, session.run(outputs, {image.name: fed}), strict=True))
        if channels_first:
            # As TensorFlow's detectors have it.
            boxes = found["boxes"].reshape(-1, 4) / [width, height, width, height]
            found["boxes"] = boxes[:, [1, 0, 3, 2]]
            names = zip(_TF_NAMES, _TORCH_NAMES, strict=True)
            found = {new: found[old] for new, old in names if old in found}
        return found

    return _Detector(detect, _labels(path.parent / LABELS))


class _Detector:
    """A detector as a Locator."""

    def __init__(self, detect: Detect, labels: Sequence[str]) -> None:
        self._detect, self._labels = detect, labels

    def __call__(self, photos: Sequence[bytes]) -> list[list[Garment]]:
        return [self._garments(photo) for photo in photos]

    def _garments(self, photo: bytes) -> list[Garment]:
        try:
            pixels = np.asarray(see(photo, _LONGEST).image)
        except UnreadableImageError:
            return []
        found = self._detect(pixels)
        scores = np.asarray(found[_TF_NAMES[1]], np.float32).reshape(-1)
        top, left, bottom, right = np.clip(found[_TF_NAMES[0]].reshape(-1, 4), 0, 1).T
        boxes = np.stack([left, top, right - left, bottom - top], axis=1)
        # Some fill up their outputs with boxes of nothing.
        scores = np.where((boxes[:, 2] > 0) & (boxes[:, 3] > 0), scores, 0)
        classes = np.asarray(found.get(_TF_NAMES[2], np.zeros(len(scores)))).reshape(-1)
        return [
            Garment(tuple(boxes[place].tolist()), self._name(classes[place]), float(scores[place]))
            for place in suppressed(boxes, scores, _LEAST_SCORE)
        ]

    def _name(self, number: float) -> str:
        place = round(float(number)) - 1
        return self._labels[place] if 0 <= place < len(self._labels) else ""


def _resized(pixels: np.ndarray, height: object, width: object) -> np.ndarray:
    """Returns the pixels in the size that a detector wants; names and None are any."""
    if not isinstance(height, int) or not isinstance(width, int):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))


def _labels(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
