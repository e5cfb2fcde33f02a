"""What a model's folder holds, opened: a run, an exported SavedModel or an OpenVINO export."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from fir_tf.calibration import NAME as CALIBRATION
from fir_tf.errors import FirError
from fir_tf.evaluation.embedder import Embedded, Embedder, Network, as_network
from fir_tf.evaluation.views import averaged, embedder_of, parse_scales
from fir_tf.extras import require
from fir_tf.files import read_json, without_wildcards
from fir_tf.images.box import shares
from fir_tf.images.decode import guarded_rows
from fir_tf.input.batches import Boxes
from fir_tf.options import Views
from fir_tf.run import load_run
from fir_tf.shell import fault

# What an export holds: the model, and how it was made.
_SAVED_MODEL, _OPENVINO = "saved_model.pb", "model.xml"
FACTS = "assets.extra/export.json"
EXPORTED_CALIBRATION = f"assets.extra/{CALIBRATION}"


@dataclasses.dataclass(frozen=True)
class Encoded:
    """What a model makes of a batch of photos.

    Attributes:
        embedding: float32 [n, d], unit length; zeros where not valid.
        category: list of n str, the best scored category; empty where not valid, or where the
            model was not trained to tell categories.
        valid: bool [n], whether the photo could be read.
    """

    embedding: np.ndarray
    category: list[str]
    valid: np.ndarray


class OpenedModel(Protocol):
    """A model that is ready to embed photos; see `fir_tf.search.encoder.Encoder`.

    Attributes:
        network: Network, None where there is none apart from the decoding.
        crop: "image" or "box", what photos are cropped to that have a box.
        margin: float, what is added to a box on each side, as a share of its sides.
    """

    network: Network | None
    crop: str
    margin: float

    def encode(self, photos: Sequence[bytes], guess: bool, boxes: Boxes | None = None) -> Encoded:
        """Embeds photos given as files' contents; `guess` where the categories are wanted."""

    def encode_files(
        self, files: Sequence[str], batch_size: int, guess: bool, boxes: Boxes | None = None
    ) -> Iterator[Encoded]:
        """Embeds image files; yields a batch at a time, in order."""


def open_model(folder: Path, views: Views) -> OpenedModel:
    """Opens a model.

    Args:
        folder: Path.
        views: Views, what is embedded of a photo.

    Raises:
        FirError: the folder holds none, or an export is asked for what it cannot do.
    """
    saved, intermediate = (_export(folder, name) for name in (_SAVED_MODEL, _OPENVINO))
    for name, asked in (
        ("flip", views.flip and saved is not None),
        ("scales", parse_scales(views.scales) != (1.0,) and (saved or intermediate)),
    ):
        if asked:
            raise FirError(
                f"`{name}` needs a run's folder. Received: {folder}, an export, which takes "
                "photos as they are"
            )
    if saved:
        return _Served(saved, views)
    return _open_openvino(intermediate, views) if intermediate else _open_run(folder, views)


def calibration_place(folder: Path) -> Path:
    """Returns where a model's folder keeps what its scores are worth; it need not be there."""
    exports = (_export(folder, name) for name in (_SAVED_MODEL, _OPENVINO))
    export = next((found for found in exports if found), None)
    return export / EXPORTED_CALIBRATION if export else folder / CALIBRATION


def _export(folder: Path, name: str) -> Path | None:
    """Returns the export's folder that is meant, which holds the file `name`, or None."""
    if (folder / name).is_file():
        return folder
    versions = [
        path for path in folder.glob("*") if path.name.isdecimal() and (path / name).is_file()
    ]
    return max(versions, key=lambda path: int(path.name)) if versions else None


def _open_run(folder: Path, views: Views) -> OpenedModel:
    # What locates and explains beside it uses the same network.
    model, config, categories = load_run(folder, shared=True)
    config = dataclasses.replace(config, **views.cropping(config.crop, config.crop_margin))
    embedder = embedder_of(model, config, views.flip, views.scales)
    return EmbeddingModel(embedder, categories if config.reads("logits") else [])


def _open_openvino(folder: Path, views: Views) -> OpenedModel:
    openvino = require("openvino", "openvino")
    advice = "Copy the export again, or export again"
    facts = read_json(folder / FACTS, advice)
    missing = {"image_size", "resize", "categories"} - set(facts)
    if missing:
        raise FirError(f"{folder / FACTS} lacks {', '.join(sorted(missing))}. {advice}")
    # In bfloat16, its own choice where the processor has it, vectors would be other ones.
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    runner = openvino.Core().compile_model(str(folder / _OPENVINO), "CPU", exact)

    network = averaged({facts["image_size"]: as_network(runner)}, views.flip)
    crop = views.cropping(*_cropping(facts))
    how = facts["image_size"], facts["resize"], crop["crop"], crop["crop_margin"]
    return EmbeddingModel(Embedder(network, *how), facts["categories"])


def _cropping(facts: dict[str, Any]) -> tuple[str, float]:
    """Returns what an export says of boxes; one from before there were any says nothing."""
    return facts.get("crop", "image"), facts.get("crop_margin", 0.0)


class EmbeddingModel:
    """A network with our preprocessing; `categories` are empty where none were trained."""

    def __init__(self, embedder: Embedder, categories: Sequence[str]) -> None:
        self._embedder, self._names = embedder, np.array(categories, object)
        self.network = embedder.network
        self.crop, self.margin = embedder.crop, embedder.margin

    def encode(self, photos: Sequence[bytes], guess: bool, boxes: Boxes | None = None) -> Encoded:
        """See `OpenedModel`."""
        return self._named(self._embedder.photos(photos, boxes))

    def encode_files(
        self, files: Sequence[str], batch_size: int, guess: bool, boxes: Boxes | None = None
    ) -> Iterator[Encoded]:
        """See `OpenedModel`."""
        return map(self._named, self._embedder.files(files, batch_size, boxes))

    def _named(self, embedded: Embedded) -> Encoded:
        names = [""] * len(embedded.valid)
        if len(self._names):
            best = self._names[embedded.category.argmax(axis=1)]
            names = np.where(embedded.valid, best, "").tolist()
        return Encoded(embedded.embedding, names, embedded.valid)


class _Served:
    """A SavedModel, whose graph begins with image bytes."""

    network: Network | None = None

    def __init__(self, folder: Path, views: Views) -> None:
        try:
            with without_wildcards(folder) as place:
                # Its variables go with it.
                self._loaded = tf.saved_model.load(str(place))
        # TensorFlow's readers raise errors of many kinds for a damaged model.
        except Exception as error:
            if fault(error):
                raise
            raise FirError(
                f"`model` must be a whole export. Received: {folder}, which cannot be loaded "
                f"({type(error).__name__}: {str(error):.300}). Copy it again, or export again"
            ) from error
        self._signatures = signatures = self._loaded.signatures
        outputs = signatures["embed"].structured_outputs if "embed" in signatures else {}
        if not {"embedding", "valid"} <= set(outputs):
            raise FirError(
                f"`model` must be an export of this project. Received: {folder}, whose signatures "
                f"are {', '.join(sorted(signatures)) or 'none'}"
            )
        facts = read_json(folder / FACTS, "") if (folder / FACTS).is_file() else {}
        crop = views.cropping(*_cropping(facts))
        self.crop, self.margin = crop["crop"], crop["crop_margin"]
        if self.margin != _cropping(facts)[1]:
            raise FirError(
                "`crop_margin` of an export is the one it was made with, "
                f"{_cropping(facts)[1]:g}. Received: {self.margin:g} for {folder}. Give the run's "
                "folder, or leave it out"
            )
        if self.crop == "box" and "embed_boxes" not in signatures:
            raise FirError(
                f"`crop` box needs an export that takes boxes. Received: {folder}, which is from "
                "before there were any. Export again, or give the run's folder"
            )

    def encode(self, photos: Sequence[bytes], guess: bool, boxes: Boxes | None = None) -> Encoded:
        inputs = {"image_bytes": tf.constant(photos, tf.string)}
        kind = ""
        if boxes:
            kind = "_boxes"
            inputs["box"], _ = _all_shares(inputs["image_bytes"], *boxes)
        answer = self._signatures[f"embed{kind}"](**inputs)
        names = [""] * len(photos)
        # Another pass through the network: embedding and categories are apart in an export.
        if guess and "classify" in self._signatures:
            best = self._signatures[f"classify{kind}"](**inputs)["category"].numpy()[:, 0]
            names = [name.decode() for name in best]
        return Encoded(answer["embedding"].numpy(), names, answer["valid"].numpy())

    def encode_files(
        self, files: Sequence[str], batch_size: int, guess: bool, boxes: Boxes | None = None
    ) -> Iterator[Encoded]:
        # The last batch is filled up, so that the shape is always the same.
        lacking = -len(files) % batch_size
        padded = [*files, *[""] * lacking]
        if boxes:
            boxes = np.pad(boxes[0], [(0, lacking), (0, 0)]), np.pad(boxes[1], (0, lacking))
        photos = tf.data.Dataset.from_tensor_slices(tf.constant(padded, tf.string))
        photos = photos.map(_read_or_empty, num_parallel_calls=tf.data.AUTOTUNE)
        for start, batch in enumerate(photos.batch(batch_size).prefetch(2)):
            part = slice(start * batch_size, (start + 1) * batch_size)
            own = (boxes[0][part], boxes[1][part]) if boxes else None
            found, left = self.encode(batch, guess, own), len(files) - part.start
            yield Encoded(found.embedding[:left], found.category[:left], found.valid[:left])


@tf.function(
    input_signature=[
        tf.TensorSpec([None], tf.string),
        tf.TensorSpec([None, 4], tf.float32),
        tf.TensorSpec([None], tf.bool),
    ],
    autograph=False,
)
def _all_shares(
    photos: tf.Tensor, box: tf.Tensor, in_shares: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns (boxes in shares, float32 [n, 4], of which photos the header can be read)."""
    return guarded_rows(shares, (photos, box, in_shares), (4,))


@tf.autograph.experimental.do_not_convert
def _read_or_empty(path: tf.Tensor) -> tf.Tensor:
    """Returns a file's contents; those of a missing or unreadable one are empty."""
    good = tf.data.Dataset.from_tensors(path).map(tf.io.read_file).ignore_errors()
    empty = tf.data.Dataset.from_tensors(tf.constant(b""))
    return good.concatenate(empty).take(1).get_single_element()
