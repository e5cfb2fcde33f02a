"""The gallery inside the SavedModel: vectors, item ids and the exact search over them."""

import dataclasses
import logging

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from fir_tf import datasets, registry
from fir_tf.datasets.catalogue import Catalogue
from fir_tf.datasets.loading import layout_of
from fir_tf.errors import FirError
from fir_tf.evaluation.embedder import Embedder, check_readable
from fir_tf.neighbours_graph import merge_best

log = logging.getLogger(__package__)

DTYPES = ("float32", "bfloat16", "int8")

# Results for one image; a request for more must not make the server write megabytes.
K_MAX = 1000

# Numbers of a block of the gallery that are scored at a time: 64 MiB as float32.
_BLOCK_NUMBERS = 2**24


@dataclasses.dataclass(frozen=True, eq=False)
class GalleryTable:
    """The images that are searched, row by row.

    Attributes:
        embedding: float32 [g, d], unit length.
        item_id: list of str; an image of an unknown item bears its path.
        image_path: list of str, relative to the data's folder.
        category: list of str, "" where unknown.
        source: str, where they came from.
    """

    embedding: np.ndarray
    item_id: list[str]
    image_path: list[str]
    category: list[str]
    source: str


def load_gallery(
    spec: str, split: str, embedder: Embedder, columns: str = ""
) -> tuple[GalleryTable, Catalogue]:
    """Embeds the images that the export's gallery is to hold.

    Args:
        spec: str, `dataset:path` with a registered data set's name, or the path of a
            folder in the layout `folder` or of a file for `table` or `feed`.
        split: "gallery", or "all" for the images of every split.
        embedder: Embedder of the network that is served.
        columns: str, other names for a file's columns, see `fir_tf.datasets.loading.load`.

    Returns:
        (GalleryTable, Catalogue of the data's queries, possibly empty).

    Raises:
        FirError: for data that cannot be loaded, or an empty gallery.
    """
    name, colon, path = spec.partition(":")
    if not colon or name not in registry.names("dataset"):
        name, path = layout_of(spec), spec
    catalogue = datasets.load(name, path, columns).with_crop(embedder.crop)
    for note in catalogue.notes:
        log.info(note)
    part = catalogue if split == "all" else catalogue.part("gallery")
    if not len(part):
        raise FirError(
            f"`gallery` has no image in the split {split!r}. Received: {spec}. "
            "Give --gallery_split=all to take every image"
        )
    found = embedder.catalogue(part, "gallery")
    for bad in check_readable(part, found.valid):
        log.info(f"left out of the gallery, cannot be decoded: {bad}")
    part, vectors = part.rows(found.valid), found.embedding[found.valid]
    if not len(part):
        raise FirError(f"`gallery` has no image that can be decoded. Received: {spec}")
    items = [
        part.items[item] if item >= 0 else path
        for item, path in zip(part.item, part.path, strict=True)
    ]
    names = [part.categories[code] if code >= 0 else "" for code in part.category]
    table = GalleryTable(vectors, items, [str(path) for path in part.path], names, spec)
    return table, catalogue.part("query")


def quantise(embedding: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Stores vectors in fewer bytes.

    Args:
        embedding: float32 [g, d].
        dtype: "float32", "bfloat16" (half the memory) or "int8" (a quarter; one scale a row,
            rounded to the nearest of -127 ... 127).

    Returns:
        (array [g, d] of that type, float32 [g]: what each row is to be multiplied by).
    """
    ones = np.ones(len(embedding), np.float32)
    if dtype != "int8":
        return embedding.astype(tf.as_dtype(dtype).as_numpy_dtype), ones
    peak = np.abs(embedding).max(axis=1)
    scale = np.where(peak > 0, peak / 127, 1).astype(np.float32)
    return np.round(embedding / scale[:, None]).astype(np.int8), scale


class Gallery(tf.Module):
    """A gallery's variables, none of them trainable, and the search in graph operations.

    Args:
        table: GalleryTable.
        dtype: "float32", "bfloat16" or "int8", how the vectors are held.
    """

    def __init__(self, table: GalleryTable, dtype: str = "float32") -> None:
        super().__init__(name="gallery")
        vectors, scale = quantise(table.embedding, dtype)
        names = sorted(set(table.category) - {""})
        codes = {name: code for code, name in enumerate(names)}

        def fixed(value: ArrayLike | tf.Tensor, name: str) -> tf.Variable:
            return tf.Variable(value, trainable=False, name=name)

        self.vectors = fixed(vectors, "vectors")
        self.scale = fixed(scale, "scale")
        self.item_id = fixed(table.item_id, "item_id")
        self.image_path = fixed(table.image_path, "image_path")
        self.category = fixed(
            np.array([codes.get(name, -1) for name in table.category], np.int32), "category"
        )
        self.categories = fixed(tf.constant(names, tf.string, [len(names)]), "categories")

    def search(
        self, queries: tf.Tensor, k: tf.Tensor, category: tf.Tensor
    ) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """Finds the nearest rows of each query.

        Args:
            queries: float32 [n, d], finite.
            k: int32 [n], results wanted for each.
            category: string [n], the only category to search; "" for all.

        Returns:
            (dict of `item_id`, `image_path` string [n, w] and `score` float32 [n, w], see
            `Servable.search`; bool [n]: whether the category is one of the gallery's).
        """
        rows = self.vectors.shape[0]
        same = tf.equal(category[:, None], self.categories[None, :])
        anything = tf.equal(category, "")
        known = anything | tf.reduce_any(same, axis=1)
        wanted = tf.clip_by_value(tf.where(known, k, 0), 0, min(K_MAX, rows))
        width = tf.reduce_max(tf.concat([wanted, [0]], axis=0))
        code = tf.reduce_max(
            tf.where(same, tf.range(tf.shape(self.categories)[0])[None, :], -1), axis=1
        )
        score, row = self._nearest(queries, width, tf.where(known, code, -1))
        here = (tf.range(width)[None, :] < wanted[:, None]) & (row >= 0)
        row = tf.maximum(row, 0)
        found = {
            "item_id": tf.where(here, tf.gather(self.item_id, row), ""),
            "image_path": tf.where(here, tf.gather(self.image_path, row), ""),
            "score": tf.where(here, score, 0.0),
        }
        return found, known

    def _nearest(
        self, queries: tf.Tensor, width: tf.Tensor, code: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns score float32 [n, width] and row int32 [n, width]; -inf and -1 for none."""
        rows, size = self.vectors.shape
        block = max(1, _BLOCK_NUMBERS // size)
        restricted = tf.reduce_any(code >= 0)
        vectors = self.vectors.read_value()
        count = tf.shape(queries)[0]

        def advance(
            start: tf.Tensor, best_score: tf.Tensor, best_row: tf.Tensor
        ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            stop = tf.minimum(start + block, rows)
            # Only a block at a time exists in float32.
            part = tf.cast(vectors[start:stop], tf.float32)
            score = tf.matmul(queries, part, transpose_b=True) * self.scale[start:stop]

            def limited() -> tf.Tensor:
                same = tf.equal(code[:, None], self.category[None, start:stop])
                return tf.where(same | (code[:, None] < 0), score, -float("inf"))

            score = tf.cond(restricted, limited, lambda: score)
            return stop, *merge_best(score, best_score, best_row, tf.range(start, stop))

        none = tf.fill([count, width], -float("inf")), tf.fill([count, width], -1)
        anything = tf.TensorShape([None, None])
        return tf.while_loop(
            lambda start, *_: start < rows,
            advance,
            (tf.constant(0), *none),
            shape_invariants=(tf.TensorShape([]), anything, anything),
        )[1:]
