"""An exported SavedModel, opened: its graph begins with image bytes."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from fir_tf.errors import FirError
from fir_tf.evaluation.embedder import Network
from fir_tf.files import read_json, without_wildcards
from fir_tf.images.box import shares
from fir_tf.images.decode import guarded_rows
from fir_tf.images.window import Boxes
from fir_tf.options import Views
from fir_tf.search.opened import FACTS, Encoded, cropping_told
from fir_tf.shell import fault


class ServedModel:
    """See `fir_tf.search.opened.OpenedModel`.

    Args:
        folder: Path.
        views: Views, what is embedded of a photo.

    Raises:
        FirError: the export is damaged, of another project, or is asked for what it cannot do.
    """

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
        _, made_with = told = cropping_told(facts)
        crop = views.cropping(*told)
        self.crop, self.margin = crop["crop"], crop["crop_margin"]
        if self.margin != made_with:
            raise FirError(
                f"`crop_margin` of an export is the one it was made with, {made_with:g}. "
                f"Received: {self.margin:g} for {folder}. Give the run's folder, or leave it out"
            )
        if self.crop == "box" and "embed_boxes" not in signatures:
            raise FirError(
                f"`crop` box needs an export that takes boxes. Received: {folder}, which is from "
                "before there were any. Export again, or give the run's folder"
            )

    def encode(self, photos: Sequence[bytes], guess: bool, boxes: Boxes | None = None) -> Encoded:
        """See `OpenedModel`."""
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
        """See `OpenedModel`."""
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
