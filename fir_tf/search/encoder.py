"""A trained model as what turns photos into vectors."""

import base64
import dataclasses
import hashlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from fir_tf.errors import FirError
from fir_tf.evaluation.rerank import read_whitening, whiten
from fir_tf.images.window import Boxes
from fir_tf.options import Views
from fir_tf.search.opened import Encoded, open_model

if TYPE_CHECKING:
    import keras

    from fir_tf.search.in_hand import ImageFunction

# Two models that embed the probe photos with less than this cosine are different ones. Other
# orders of summation (folded batch norm, another machine) move it by about 1e-6.
SAME_COSINE = 0.9999
_PROBES = 4


class Encoder:
    """Embeds photos with the preprocessing the model was trained for.

    Args:
        model: str or Path: a run's folder, the version's folder of an exported SavedModel, or
            the folder above it with versions as names, of which the highest is taken. OpenVINO
            and ONNX exports are run by OpenVINO and onnxruntime, without TensorFlow.
        flip: bool, test-time augmentation: the mean of a photo and its mirror image.
        scales: str, test-time augmentation: the mean over image sizes, such as "1,1.5" times the
            model's, see `fir_tf.evaluation.views`.
        whitening: str or Path, a file that `evaluate.py --whiten` wrote; empty for none.
        crop: "image", or "box" for photos that are cropped where they have a box; empty for what
            the model was trained with.
        crop_margin: float in [0, 1], what is added to a box on each side, as a share of its width
            and height; below 0 for what the model was trained with.

    Attributes:
        crop: str, what is meant.
        margin: float, what is added to a box.
        dimension: int, length of an embedding.
        network: the model alone, see `fir_tf.evaluation.embedded.Runner`; None for a SavedModel,
            whose graph begins with image bytes.

    Raises:
        FirError: `model` is neither, an export is asked for what it cannot do, or `whitening` is
            of another model.
    """

    def __init__(
        self,
        model: "str | Path | keras.Model | ImageFunction",
        flip: bool = False,
        scales: str = "1",
        whitening: str | Path = "",
        crop: str = "",
        crop_margin: float = -1.0,
    ) -> None:
        self._whitening = read_whitening(whitening) if whitening else None
        if isinstance(model, str | Path):
            self.model = str(Path(model))
            views = Views(flip=flip, scales=scales, crop=crop, crop_margin=crop_margin)
            self._opened = open_model(Path(model), views)
        elif flip or scales != "1":
            raise FirError("`flip` and `scales` need a run's folder. Received: a model in hand")
        else:
            from fir_tf.search.in_hand import open_in_hand

            self.model = ""
            self._opened = open_in_hand(model, crop or "image", max(crop_margin, 0.0))
        self.network = self._opened.network
        self.crop, self.margin = self._opened.crop, self._opened.margin
        self._probes = self.encode(_probe_photos()).embedding
        self.dimension = int(self._probes.shape[1])

    def encode(
        self, photos: Sequence[bytes], guess: bool = False, boxes: Boxes | None = None
    ) -> Encoded:
        """Embeds photos given as files' contents.

        Args:
            photos: list of bytes.
            guess: bool, whether the categories are wanted; an export gives none otherwise.
            boxes: Boxes that they are cropped to, whatever `crop` is; None for whole photos.

        Returns:
            Encoded. A photo without an area in its box is not valid.
        """
        return self._whitened(self._opened.encode(photos, guess, boxes))

    def encode_files(
        self,
        files: Sequence[str],
        batch_size: int = 64,
        guess: bool = False,
        boxes: Boxes | None = None,
    ) -> Iterator[Encoded]:
        """Embeds image files, decoding ahead of the model on all cores.

        Args:
            files: list of str.
            batch_size: int.
            guess, boxes: see `encode`.

        Yields:
            Encoded for each batch, in order. A file that is missing or cannot be read is not
            valid.
        """
        if len(files):
            found = self._opened.encode_files(files, batch_size, guess, boxes)
            yield from map(self._whitened, found)

    def _whitened(self, encoded: Encoded) -> Encoded:
        if not self._whitening:
            return encoded
        embedding = whiten(encoded.embedding, *self._whitening) * encoded.valid[:, np.newaxis]
        return dataclasses.replace(encoded, embedding=embedding)

    def fingerprint(self) -> dict[str, Any]:
        """Returns what an index keeps of the model: how it embeds a few fixed pictures.

        Returns:
            dict ready for JSON. The export of a run has the run's fingerprint, to rounding.
        """
        contents = self._probes.astype("<f2").tobytes()
        return {
            "probes": base64.b64encode(contents).decode(),
            "name": hashlib.blake2b(contents, digest_size=4).hexdigest(),
            "model": str(Path(self.model).resolve()) if self.model else "",
        }

    def check(self, fingerprint: dict[str, Any], where: str) -> None:
        """Raises FirError unless a fingerprint is this model's.

        Args:
            fingerprint: dict, see `fingerprint`.
            where: str, whose fingerprint it is, for the message.
        """
        probes = np.frombuffer(base64.b64decode(fingerprint["probes"]), "<f2")
        text = (
            f"`model` must be the one that {where} was made with: "
            f"{fingerprint['model'] or 'a model in hand'} ({fingerprint['name']}). Received: "
            f"{self.model or 'a model in hand'} ({self.fingerprint()['name']}), "
        )
        if probes.size != self._probes.size:
            raise FirError(
                f"{text}whose vectors have length {self.dimension} instead of "
                f"{probes.size // _PROBES}"
            )
        probes = probes.reshape(self._probes.shape).astype(np.float32)
        # Rounding to 16 bits changes the length of short vectors by more than is allowed for.
        lengths = np.linalg.norm(probes, axis=1) * np.linalg.norm(self._probes, axis=1)
        cosine = float(((probes * self._probes).sum(axis=1) / np.maximum(lengths, 1e-12)).min())
        if not cosine >= SAME_COSINE:
            raise FirError(
                f"{text}which embeds the same pictures differently (cosine {cosine:.4f}). "
                "Give the same model, change the index's with search.py migrate, or index the "
                "catalogue with this one into a new folder"
            )


def _probe_photos() -> list[bytes]:
    """Returns the fixed pictures of the fingerprint: PNG bytes, not square, coarse and fine."""
    rng = np.random.default_rng(20)
    photos = []
    for number in range(_PROBES):
        coarse = rng.integers(0, 256, (4 + 3 * number, 3 + 2 * number, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((150, 200), Image.Resampling.NEAREST)
        file = io.BytesIO()
        picture.save(file, "PNG")
        photos.append(file.getvalue())
    return photos
