"""What a model's folder holds, opened: a run, an exported SavedModel or an OpenVINO export."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import tensorflow as tf

from fir_tf.errors import FirError
from fir_tf.evaluation.embedder import Embedded, Embedder, Network, as_network
from fir_tf.evaluation.views import averaged, embedder_of, parse_scales
from fir_tf.extras import require
from fir_tf.files import read_json, without_wildcards
from fir_tf.run import load_run
from fir_tf.shell import fault

# What an export holds: the model, and how it was made.
_SAVED_MODEL, _OPENVINO = "saved_model.pb", "model.xml"
FACTS = "assets.extra/export.json"


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
    """A model that is ready to embed photos; see `fir_tf.search.encoder.Encoder`."""

    network: Network | None

    def encode(self, photos: Sequence[bytes], guess: bool) -> Encoded:
        """Embeds photos given as files' contents; `guess` where the categories are wanted."""

    def encode_files(self, files: Sequence[str], batch_size: int, guess: bool) -> Iterator[Encoded]:
        """Embeds image files; yields a batch at a time, in order."""


def open_model(folder: Path, flip: bool, scales: str) -> OpenedModel:
    """Opens a model; the arguments are those of `fir_tf.search.encoder.Encoder`.

    Raises:
        FirError: the folder holds none, or an export is asked for what it cannot do.
    """
    saved, intermediate = (_export(folder, name) for name in (_SAVED_MODEL, _OPENVINO))
    for name, asked in (
        ("flip", flip and saved is not None),
        ("scales", parse_scales(scales) != (1.0,) and (saved or intermediate)),
    ):
        if asked:
            raise FirError(
                f"`{name}` needs a run's folder. Received: {folder}, an export, which takes "
                "photos as they are"
            )
    if saved:
        return _Served(saved)
    return _open_openvino(intermediate, flip) if intermediate else _open_run(folder, flip, scales)


def _export(folder: Path, name: str) -> Path | None:
    """Returns the export's folder that is meant, which holds the file `name`, or None."""
    if (folder / name).is_file():
        return folder
    versions = [
        path for path in folder.glob("*") if path.name.isdecimal() and (path / name).is_file()
    ]
    return max(versions, key=lambda path: int(path.name)) if versions else None


def _open_run(folder: Path, flip: bool, scales: str) -> OpenedModel:
    model, config, categories = load_run(folder)
    embedder = embedder_of(model, config, flip, scales)
    return EmbeddingModel(embedder, categories if config.reads("logits") else [])


def _open_openvino(folder: Path, flip: bool) -> OpenedModel:
    openvino = require("openvino", "openvino")
    advice = "Copy the export again, or export again"
    facts = read_json(folder / FACTS, advice)
    missing = {"image_size", "resize", "categories"} - set(facts)
    if missing:
        raise FirError(f"{folder / FACTS} lacks {', '.join(sorted(missing))}. {advice}")
    # In bfloat16, its own choice where the processor has it, vectors would be other ones.
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    runner = openvino.Core().compile_model(str(folder / _OPENVINO), "CPU", exact)

    network = averaged({facts["image_size"]: as_network(runner)}, flip)
    return EmbeddingModel(
        Embedder(network, facts["image_size"], facts["resize"]), facts["categories"]
    )


class EmbeddingModel:
    """A network with our preprocessing; `categories` are empty where none were trained."""

    def __init__(self, embedder: Embedder, categories: Sequence[str]) -> None:
        self._embedder, self._names = embedder, np.array(categories, object)
        self.network = embedder.network

    def encode(self, photos: Sequence[bytes], guess: bool) -> Encoded:
        """See `OpenedModel`."""
        return self._named(self._embedder.photos(photos))

    def encode_files(self, files: Sequence[str], batch_size: int, guess: bool) -> Iterator[Encoded]:
        """See `OpenedModel`."""
        return map(self._named, self._embedder.files(files, batch_size))

    def _named(self, embedded: Embedded) -> Encoded:
        names = [""] * len(embedded.valid)
        if len(self._names):
            best = self._names[embedded.category.argmax(axis=1)]
            names = np.where(embedded.valid, best, "").tolist()
        return Encoded(embedded.embedding, names, embedded.valid)


class _Served:
    """A SavedModel, whose graph begins with image bytes."""

    network: Network | None = None

    def __init__(self, folder: Path) -> None:
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

    def encode(self, photos: Sequence[bytes], guess: bool) -> Encoded:
        photos = tf.constant(photos, tf.string)
        answer = self._signatures["embed"](image_bytes=photos)
        names = [""] * len(photos)
        # Another pass through the network: embedding and categories are apart in an export.
        if guess and "classify" in self._signatures:
            best = self._signatures["classify"](image_bytes=photos)["category"].numpy()[:, 0]
            names = [name.decode() for name in best]
        return Encoded(answer["embedding"].numpy(), names, answer["valid"].numpy())

    def encode_files(self, files: Sequence[str], batch_size: int, guess: bool) -> Iterator[Encoded]:
        # The last batch is filled up, so that the shape is always the same.
        padded = [*files, *[""] * (-len(files) % batch_size)]
        photos = tf.data.Dataset.from_tensor_slices(tf.constant(padded, tf.string))
        photos = photos.map(_read_or_empty, num_parallel_calls=tf.data.AUTOTUNE)
        for start, batch in enumerate(photos.batch(batch_size).prefetch(2)):
            found, left = self.encode(batch, guess), len(files) - start * batch_size
            yield Encoded(found.embedding[:left], found.category[:left], found.valid[:left])


@tf.autograph.experimental.do_not_convert
def _read_or_empty(path: tf.Tensor) -> tf.Tensor:
    """Returns a file's contents; those of a missing or unreadable one are empty."""
    good = tf.data.Dataset.from_tensors(path).map(tf.io.read_file).ignore_errors()
    empty = tf.data.Dataset.from_tensors(tf.constant(b""))
    return good.concatenate(empty).take(1).get_single_element()
