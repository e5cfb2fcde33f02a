"""What a model's folder holds, opened: a run, or an export.

TensorFlow is imported where it runs what is opened: it takes seconds.
"""

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from fir_tf.calibration import NAME as CALIBRATION
from fir_tf.errors import FirError
from fir_tf.evaluation.embedded import Embedded, PlainEmbedder, Runner
from fir_tf.files import read_json
from fir_tf.images.window import Boxes
from fir_tf.options import Views, parse_scales
from fir_tf.shell import quiet_tensorflow

# What an export holds: the model, and how it was made.
_SAVED_MODEL, _NETWORKS = "saved_model.pb", ("model.xml", "model.onnx")
FACTS = "assets.extra/export.json"
EXPORTED_CALIBRATION = f"assets.extra/{CALIBRATION}"
_ADVICE = "Copy the export again, or export again"


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
        network: Runner, None where there is none apart from the decoding.
        crop: "image" or "box", what photos are cropped to that have a box.
        margin: float, what is added to a box on each side, as a share of its sides.
    """

    network: Runner | None
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
    saved, network = _export(folder, _SAVED_MODEL), _network_of(folder)
    for name, asked in (
        ("flip", views.flip and saved is not None),
        ("scales", parse_scales(views.scales) != (1.0,) and (saved or network)),
    ):
        if asked:
            raise FirError(
                f"`{name}` needs a run's folder. Received: {folder}, an export, which takes "
                "photos as they are"
            )
    if network and not saved:
        return _open_network(network, views)
    quiet_tensorflow()
    if not saved:
        return _open_run(folder, views)
    from fir_tf.search.served import ServedModel

    return ServedModel(saved, views)


def calibration_place(folder: Path) -> Path:
    """Returns where a model's folder keeps what its scores are worth; it need not be there."""
    network = _network_of(folder)
    export = _export(folder, _SAVED_MODEL) or (network and network.parent)
    return export / EXPORTED_CALIBRATION if export else folder / CALIBRATION


def _network_of(folder: Path) -> Path | None:
    """Returns the file of the network alone that an export has for another runtime, or None."""
    exports = ((_export(folder, name), name) for name in _NETWORKS)
    return next((export / name for export, name in exports if export), None)


def _export(folder: Path, name: str) -> Path | None:
    """Returns the export's folder that is meant, which holds the file `name`, or None."""
    if (folder / name).is_file():
        return folder
    versions = [
        path for path in folder.glob("*") if path.name.isdecimal() and (path / name).is_file()
    ]
    return max(versions, key=lambda path: int(path.name)) if versions else None


def _open_run(folder: Path, views: Views) -> OpenedModel:
    from fir_tf.evaluation.views import embedder_of
    from fir_tf.run import load_run

    # What locates and explains beside it uses the same network.
    model, config, categories = load_run(folder, shared=True)
    config = dataclasses.replace(config, **views.cropping(config.crop, config.crop_margin))
    embedder = embedder_of(model, config, views.flip, views.scales)
    return EmbeddingModel(embedder, categories if config.reads("logits") else [])


def _open_network(path: Path, views: Views) -> OpenedModel:
    from fir_tf.search.exported import RUNTIMES, with_mirror

    place = path.parent / FACTS
    facts = read_json(place, _ADVICE)
    missing = {"image_size", "resize", "categories"} - set(facts)
    if missing:
        raise FirError(f"{place} lacks {', '.join(sorted(missing))}. {_ADVICE}")
    network = RUNTIMES[path.name](path)
    crop = views.cropping(*cropping_told(facts))
    how = facts["image_size"], facts["resize"], crop["crop"], crop["crop_margin"]
    network = with_mirror(network) if views.flip else network
    return EmbeddingModel(_embedder(network, *how), facts["categories"])


def _embedder(network: Runner, *how: Any) -> PlainEmbedder:
    """Returns what decodes for a network of another runtime."""
    if "tensorflow" not in sys.modules:
        return PlainEmbedder(network, *how)
    # Of many files TensorFlow's input decodes more a second; to import it takes longer than a few.
    from fir_tf.evaluation.embedder import Embedder, as_network

    return Embedder(as_network(network), *how)


def cropping_told(facts: dict[str, Any]) -> tuple[str, float]:
    """Returns what an export says of boxes; one from before there were any says nothing."""
    return facts.get("crop", "image"), facts.get("crop_margin", 0.0)


class EmbeddingModel:
    """A network with our preprocessing; `categories` are empty where none were trained."""

    def __init__(self, embedder: PlainEmbedder, categories: Sequence[str]) -> None:
        self._embedder, self._names = embedder, np.array(categories, object)
        self.network: Runner | None = embedder.network
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
