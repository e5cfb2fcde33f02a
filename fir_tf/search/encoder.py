"""A trained model as what turns photos into vectors: a run's folder or an exported SavedModel."""

import base64
import dataclasses
import functools
import hashlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from fir_tf.errors import FirError
from fir_tf.evaluation.evaluate import load_model
from fir_tf.evaluation.rerank import read_whitening, whiten
from fir_tf.evaluation.views import averaged, networks_at, parse_scales
from fir_tf.extras import require
from fir_tf.files import read_json, without_wildcards
from fir_tf.images.decode import decode_and_fit, guarded_rows
from fir_tf.input.batches import ordered_batches
from fir_tf.shell import fault

# Two models that embed the probe photos with less than this cosine are different ones. Other
# orders of summation (folded batch norm, another machine) move it by about 1e-6.
SAME_COSINE = 0.9999
_PROBES = 4

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


class Encoder:
    """Embeds photos with the preprocessing the model was trained for.

    Args:
        model: str or Path: a run's folder, the version's folder of an exported SavedModel, or
            the folder above it with versions as names, of which the highest is taken. An
            OpenVINO export is run by OpenVINO.
        flip: bool, test-time augmentation: the mean of a photo and its mirror image.
        scales: str, test-time augmentation: the mean over image sizes, such as "1,1.5" times the
            model's, see `fir_tf.evaluation.views`.
        whitening: str or Path, a file that `evaluate.py --whiten` wrote; empty for none.

    Attributes:
        dimension: int, length of an embedding.
        network: the model alone, fitted pixels float32 [n, size, size, 3] -> dict of tensors;
            None for a SavedModel, whose graph begins with image bytes.

    Raises:
        FirError: `model` is neither, an export is asked for what it cannot do, or `whitening` is
            of another model.
    """

    def __init__(
        self,
        model: str | Path,
        flip: bool = False,
        scales: str = "1",
        whitening: str | Path = "",
    ) -> None:
        self.model = Path(model)
        self._flip, self._scales = flip, parse_scales(scales)
        self._whitening = read_whitening(whitening) if whitening else None
        saved, intermediate = (_export(self.model, name) for name in (_SAVED_MODEL, _OPENVINO))
        if saved:
            self._refuse("flip", flip)
        if saved or intermediate:
            self._refuse("scales", self._scales != (1.0,))
        if saved:
            self._open_saved_model(saved)
        elif intermediate:
            self._open_openvino(intermediate)
        else:
            self._open_run()
        probes = self.encode(_probe_photos())
        self._probes = probes.embedding
        self.dimension = int(self._probes.shape[1])

    def _refuse(self, name, asked):
        if asked:
            raise FirError(
                f"`{name}` needs a run's folder. Received: {self.model}, an export, which takes "
                "photos as they are"
            )

    def _open_saved_model(self, folder):
        try:
            with without_wildcards(folder) as place:
                self._loaded = tf.saved_model.load(str(place))
        # TensorFlow's readers raise errors of many kinds for a damaged model.
        except Exception as error:
            if fault(error):
                raise
            raise FirError(
                f"`model` must be a whole export. Received: {folder}, which cannot be loaded "
                f"({type(error).__name__}: {str(error):.300}). Copy it again, or export again"
            ) from error
        signatures = self._loaded.signatures
        outputs = signatures["embed"].structured_outputs if "embed" in signatures else {}
        if not {"embedding", "valid"} <= set(outputs):
            raise FirError(
                f"`model` must be an export of this project. Received: {folder}, whose signatures "
                f"are {', '.join(sorted(signatures)) or 'none'}"
            )

        def serve(photos, guess):
            answer = dict(signatures["embed"](image_bytes=photos))
            # Another pass through the network: embedding and categories are apart in an export.
            if guess and "classify" in signatures:
                answer["category"] = signatures["classify"](image_bytes=photos)["category"]
            return answer

        self.network = None
        self._serve, self._names, self._forward = serve, None, None

    def _open_openvino(self, folder):
        openvino = require("openvino", "openvino")
        advice = "Copy the export again, or export again"
        facts = read_json(folder / FACTS, advice)
        missing = {"image_size", "resize", "categories"} - set(facts)
        if missing:
            raise FirError(f"{folder / FACTS} lacks {', '.join(sorted(missing))}. {advice}")
        # In bfloat16, its own choice where the processor has it, vectors would be other ones.
        exact = {"INFERENCE_PRECISION_HINT": "f32"}
        compiled = openvino.Core().compile_model(str(folder / _OPENVINO), "CPU", exact)

        def network(pixels):
            found = compiled(pixels.numpy())
            return {name: tf.constant(found[name]) for name in ("embedding", "category")}

        network = averaged({facts["image_size"]: network}, self._flip)
        self._serve_pixels(network, facts["image_size"], facts["resize"], facts["categories"])

    def _open_run(self):
        model, config, categories = load_model(self.model)

        shape = [None, config.image_size, config.image_size, 3]
        network = tf.function(
            averaged(networks_at(model, config, self._scales), self._flip),
            input_signature=[tf.TensorSpec(shape, tf.float32)],
            autograph=False,
        )
        categories = categories if config.reads("logits") else []
        self._serve_pixels(network, config.image_size, config.resize, categories)

    def _serve_pixels(self, network, size, resize, categories):
        """Takes `network`, fitted pixels -> outputs, for the model."""
        self.network = network
        self._names = np.array(categories)

        def forward(pixels, valid):
            outputs = network(pixels)
            return {
                "embedding": outputs["embedding"] * tf.cast(valid, tf.float32)[:, None],
                "category": tf.argmax(outputs["category"], axis=1),
                "valid": valid,
            }

        fitted = _fitter(size, resize)
        self._serve = lambda photos, guess: forward(*fitted(photos))
        self._forward, self._fitting = forward, (size, resize)

    def encode(self, photos: Sequence[bytes], guess: bool = False) -> Encoded:
        """Embeds photos given as files' contents.

        Args:
            photos: list of bytes.
            guess: bool, whether the categories are wanted; an export gives none otherwise.

        Returns:
            Encoded.
        """
        return self._encoded(self._serve(tf.constant(photos, tf.string), guess))

    def encode_files(
        self, files: Sequence[str], batch_size: int = 64, guess: bool = False
    ) -> Iterator[Encoded]:
        """Embeds image files, decoding ahead of the model on all cores.

        Args:
            files: list of str.
            batch_size: int.
            guess: see `encode`.

        Yields:
            Encoded for each batch, in order. A file that is missing or cannot be read is not
            valid.
        """
        if not len(files):
            return
        left = len(files)
        for outputs in self._outputs(files, batch_size, guess):
            encoded = self._encoded(outputs)
            count = min(left, batch_size)
            left -= count
            yield Encoded(
                encoded.embedding[:count], encoded.category[:count], encoded.valid[:count]
            )

    def _outputs(self, files, batch_size, guess):
        """Yields a batch's outputs; the last batch is filled up, so that the shape is the same."""
        if self._forward is not None:
            batches, _ = ordered_batches(files, *self._fitting, batch_size)
            for batch in batches:
                yield self._forward(batch["images"], batch["valid"])
            return
        padded = [*files, *[""] * (-len(files) % batch_size)]
        photos = tf.data.Dataset.from_tensor_slices(tf.constant(padded, tf.string))
        photos = photos.map(_read_or_empty, num_parallel_calls=tf.data.AUTOTUNE)
        for batch in photos.batch(batch_size).prefetch(2):
            yield self._serve(batch, guess)

    def _encoded(self, outputs):
        valid = outputs["valid"].numpy()
        names = [""] * len(valid)
        if "category" in outputs and self._names is None:
            names = [name.decode() for name in outputs["category"].numpy()[:, 0]]
        elif self._names is not None and len(self._names):
            best = self._names[outputs["category"].numpy()]
            names = [str(name) if ok else "" for name, ok in zip(best, valid, strict=True)]
        embedding = outputs["embedding"].numpy()
        if self._whitening:
            embedding = whiten(embedding, *self._whitening) * valid[:, np.newaxis]
        return Encoded(embedding, names, valid)

    def fingerprint(self) -> dict[str, Any]:
        """Returns what an index keeps of the model: how it embeds a few fixed pictures.

        Returns:
            dict ready for JSON. The export of a run has the run's fingerprint, to rounding.
        """
        contents = self._probes.astype("<f2").tobytes()
        return {
            "probes": base64.b64encode(contents).decode(),
            "name": hashlib.blake2b(contents, digest_size=4).hexdigest(),
            "model": str(self.model),
        }

    def check(self, fingerprint: dict[str, Any], where: str) -> None:
        """Raises FirError unless a fingerprint is this model's.

        Args:
            fingerprint: dict, see `fingerprint`.
            where: str, whose fingerprint it is, for the message.
        """
        probes = np.frombuffer(base64.b64decode(fingerprint["probes"]), "<f2")
        text = (
            f"`model` must be the one that {where} was made with: {fingerprint['model']} "
            f"({fingerprint['name']}). Received: {self.model} ({self.fingerprint()['name']}), "
        )
        if probes.size != self._probes.size:
            raise FirError(
                f"{text}whose vectors have length {self.dimension} instead of "
                f"{probes.size // _PROBES}"
            )
        probes = probes.reshape(self._probes.shape).astype(np.float32)
        # Rounding to 16 bits changes the length of short vectors by more than is allowed for.
        lengths = np.linalg.norm(probes, axis=1) * np.linalg.norm(self._probes, axis=1)
        cosine = float(((probes * self._probes).sum(axis=1) / lengths).min())
        if not cosine >= SAME_COSINE:
            raise FirError(
                f"{text}which embeds the same pictures differently (cosine {cosine:.4f}). "
                "Give the same model, or index the catalogue with this one into a new folder"
            )


@functools.cache
def _fitter(size, resize):
    """Returns the function from files' contents, string [n], to fitted pixels and `valid`."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
    def fitted(photos):
        return guarded_rows(
            lambda photo: decode_and_fit(photo, size, resize), photos, (size, size, 3)
        )

    return fitted


@tf.autograph.experimental.do_not_convert
def _read_or_empty(path):
    """Returns a file's contents; those of a missing or unreadable one are empty."""
    good = tf.data.Dataset.from_tensors(path).map(tf.io.read_file).ignore_errors()
    empty = tf.data.Dataset.from_tensors(tf.constant(b""))
    return good.concatenate(empty).take(1).get_single_element()


def _export(folder, name):
    """Returns the export's folder that is meant, which holds the file `name`, or None."""
    if (folder / name).is_file():
        return folder
    versions = [
        path for path in folder.glob("*") if path.name.isdecimal() and (path / name).is_file()
    ]
    return max(versions, key=lambda path: int(path.name)) if versions else None


def _probe_photos():
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
