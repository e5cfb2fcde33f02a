"""Models in hand as what turns photos into vectors: keras models and functions of images."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from fir_tf.errors import FirError
from fir_tf.evaluation.embedder import Embedder, Network, compiled
from fir_tf.images.file import UnreadableImageError
from fir_tf.images.picture import see
from fir_tf.images.window import Boxes, Part, stored_window
from fir_tf.search.opened import EmbeddingModel, Encoded, OpenedModel
from fir_tf.search.photos import contents_or_empty

ImageFunction = Callable[[list[Image.Image]], np.ndarray]
"""RGB images, upright and of any size -> their embeddings, float [n, d]."""


def open_in_hand(
    model: keras.Model | ImageFunction,
    crop: str = "image",
    margin: float = 0.0,
    resize: str = "crop",
) -> OpenedModel:
    """Makes a model in hand ready to embed photos.

    Args:
        model: keras.Model of square images, float32 [n, side, side, 3] in [0, 255], whose output is
            the embedding or a dict with "embedding"; or an ImageFunction. Embeddings are
            normalised.
        crop, margin: what is looked at, see `fir_tf.search.encoder.Encoder`.
        resize: str, how photos are fitted to a keras.Model, see `fir_tf.images.decode.fit`.

    Raises:
        FirError: a keras.Model takes no square images, or it is neither.
    """
    if isinstance(model, keras.Model):
        return _open_keras(model, resize, crop, margin)
    if callable(model):
        return _Function(model, crop, margin)
    raise FirError(
        "`model` must be a folder, a keras.Model or a function from a list of PIL images to "
        f"vectors. Received: {type(model).__name__}"
    )


def _open_keras(model: keras.Model, resize: str, crop: str, margin: float) -> OpenedModel:
    shape = getattr(model, "input_shape", None)
    side = shape[1] if isinstance(shape, tuple) and len(shape) == 4 else None
    if shape is None or not side or shape[2:] != (side, 3):
        raise FirError(
            "`model` must be of one input of square images [n, side, side, 3]. Received: a "
            f"model of input shape {shape}"
        )

    def network(pixels: tf.Tensor) -> Mapping[str, tf.Tensor]:
        found = model(pixels, training=False)
        vectors: Any = found.get("embedding") if isinstance(found, Mapping) else found
        if not tf.is_tensor(vectors) or vectors.shape.rank != 2:
            raise FirError(
                '`model` must give an embedding [n, d], or a dict with it as "embedding". '
                f"Received: {tf.nest.map_structure(lambda value: value.shape, found)}"
            )
        vectors = tf.math.l2_normalize(tf.cast(vectors, tf.float32), axis=1)
        return {"embedding": vectors, "category": tf.zeros([tf.shape(vectors)[0], 0])}

    return EmbeddingModel(Embedder(compiled(network, side), side, resize, crop, margin), [])


class _Function:
    network: Network | None = None

    def __init__(self, function: ImageFunction, crop: str, margin: float) -> None:
        self._function = function
        self.crop, self.margin = crop, margin
        self._dimension = 0
        self._dimension = self._vectors([Image.new("RGB", (64, 64), "white")]).shape[1]

    def encode(self, photos: Sequence[bytes], guess: bool, boxes: Boxes | None = None) -> Encoded:
        images = [_seen(photo) for photo in photos]
        if boxes:
            images = [
                image and cropped(image, Part(box, shares, self.margin))
                for image, box, shares in zip(images, *boxes, strict=True)
            ]
        valid = np.array([image is not None for image in images], bool)
        embedding = np.zeros([len(images), self._dimension], np.float32)
        if valid.any():
            embedding[valid] = self._vectors([image for image in images if image is not None])
        return Encoded(embedding, [""] * len(images), valid)

    def encode_files(
        self, files: Sequence[str], batch_size: int, guess: bool, boxes: Boxes | None = None
    ) -> Iterator[Encoded]:
        for start in range(0, len(files), batch_size):
            part = slice(start, start + batch_size)
            photos = [contents_or_empty(file) for file in files[part]]
            yield self.encode(photos, guess, (boxes[0][part], boxes[1][part]) if boxes else None)

    def _vectors(self, images: list[Image.Image]) -> np.ndarray:
        vectors = np.asarray(self._function(images), np.float32)
        right = vectors.ndim == 2 and len(vectors) == len(images) and np.isfinite(vectors).all()
        if not right or (self._dimension and vectors.shape[1] != self._dimension):
            raise FirError(
                "`model` must return finite vectors [n, d] for a list of n images, always of the "
                f"same d. Received: shape {vectors.shape} for {len(images)} images"
            )
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def cropped(image: Image.Image, part: Part) -> Image.Image | None:
    """Returns what an upright image has in a box; None where the box has no area in it."""
    window = stored_window(part, 1, image.height, image.width)
    if window is None:
        return None
    top, left, rows, columns = window
    return image.crop((left, top, left + columns, top + rows))


def _seen(contents: bytes) -> Image.Image | None:
    try:
        return see(contents).image
    except UnreadableImageError:
        return None
