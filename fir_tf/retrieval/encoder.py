"""A trained model as what turns photos into vectors: a run's folder or an exported SavedModel."""

import base64
import dataclasses
import hashlib
import io
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

from fir_tf.errors import FirError
from fir_tf.input.images import preprocess
from fir_tf.retrieval.evaluate import load_model

# Two models that embed the probe photos with less than this cosine are different ones. Other
# orders of summation (folded batch norm, another machine) move it by about 1e-6.
SAME_COSINE = 0.9999
_PROBES = 4


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
    category: list
    valid: np.ndarray


class Encoder:
    """Embeds photos with the preprocessing the model was trained for.

    Args:
        model: str or Path: a run's folder, the version's folder of an exported SavedModel, or
            the folder above it with versions as names, of which the highest is taken.
        flip: bool, test-time augmentation: the mean of a photo and its mirror image.

    Raises:
        FirError: `model` is neither, or `flip` is asked of an export.
    """

    def __init__(self, model, flip=False):
        self.model = Path(model)
        self._flip = flip
        saved = _saved_model(self.model)
        if saved:
            if flip:
                raise FirError(
                    f"`flip` needs a run's folder. Received: {self.model}, an export, whose graph "
                    "takes photos as they are"
                )
            self._open_export(saved)
        else:
            self._open_run()
        probes = self.encode(_probe_photos())
        self._probes = probes.embedding
        self.dimension = int(self._probes.shape[1])

    def _open_export(self, folder):
        self._loaded = tf.saved_model.load(str(folder))
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

        self._serve, self._names = serve, None

    def _open_run(self):
        network, config, categories = load_model(self.model)
        self._names = np.array(categories) if "OC" in config.loss_kinds() else np.array([])
        size, resize = config.image_size, config.resize

        def fit(photo):
            return preprocess(photo, size, resize)

        @tf.function(reduce_retracing=True)
        def forward(pixels, valid):
            outputs = network(pixels, training=False)
            embedding = outputs["embedding"]
            if self._flip:
                mirrored = network(tf.reverse(pixels, axis=[2]), training=False)["embedding"]
                embedding = tf.math.l2_normalize(embedding + mirrored, axis=1)
            return {
                "embedding": embedding * tf.cast(valid, tf.float32)[:, None],
                "category": tf.argmax(outputs["category"], axis=1),
                "valid": valid,
            }

        image = tf.TensorSpec([size, size, 3], tf.float32)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def serve(photos):
            pixels, valid = tf.map_fn(
                fit, photos, fn_output_signature=(image, tf.TensorSpec([], tf.bool))
            )
            return forward(pixels, valid)

        self._serve = lambda photos, guess: serve(photos)
        self._fit, self._forward = fit, forward

    def encode(self, photos, guess=False):
        """Embeds photos given as files' contents.

        Args:
            photos: list of bytes.
            guess: bool, whether the categories are wanted; an export gives none otherwise.

        Returns:
            Encoded.
        """
        return self._encoded(self._serve(tf.constant(photos, tf.string), guess))

    def encode_files(self, files, batch_size=64, guess=False):
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
        run = self._names is not None
        load = self._load_and_fit if run else _read_or_empty
        # The last batch is filled up, so that the model sees one shape.
        padded = list(files) + [""] * (-len(files) % batch_size)
        dataset = tf.data.Dataset.from_tensor_slices(tf.constant(padded, tf.string))
        dataset = dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        left = len(files)
        for batch in dataset.batch(batch_size).prefetch(2):
            encoded = self._encoded(self._forward(*batch) if run else self._serve(batch, guess))
            count = min(left, batch_size)
            left -= count
            yield Encoded(
                encoded.embedding[:count], encoded.category[:count], encoded.valid[:count]
            )

    def _load_and_fit(self, path):
        return self._fit(_read_or_empty(path))

    def _encoded(self, outputs):
        valid = outputs["valid"].numpy()
        names = [""] * len(valid)
        if "category" in outputs and self._names is None:
            names = [name.decode() for name in outputs["category"].numpy()[:, 0]]
        elif self._names is not None and len(self._names):
            best = self._names[outputs["category"].numpy()]
            names = [str(name) if ok else "" for name, ok in zip(best, valid, strict=True)]
        return Encoded(outputs["embedding"].numpy(), names, valid)

    def fingerprint(self):
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

    def check(self, fingerprint, where):
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
        cosine = float((probes.reshape(self._probes.shape) * self._probes).sum(axis=1).min())
        if not cosine >= SAME_COSINE:
            raise FirError(
                f"{text}which embeds the same pictures differently (cosine {cosine:.4f}). "
                "Give the same model, or index the catalogue with this one into a new folder"
            )


def _read_or_empty(path):
    """Returns a file's contents; those of a missing or unreadable one are empty."""
    good = tf.data.Dataset.from_tensors(path).map(tf.io.read_file).ignore_errors()
    empty = tf.data.Dataset.from_tensors(tf.constant(b""))
    return good.concatenate(empty).take(1).get_single_element()


def _saved_model(folder):
    """Returns the folder of the SavedModel that is meant, or None if there is none."""
    if (folder / "saved_model.pb").is_file():
        return folder
    versions = [
        path for path in folder.glob("*") if path.name.isdigit() and _saved_model(path) is not None
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
