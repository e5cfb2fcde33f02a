"""Retrieval metrics while a model is trained with `fit`."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fir_tf.checks import check_positive, numbered, plain_labels
from fir_tf.errors import FirError
from fir_tf.evaluation.metrics import retrieval_metrics


class RetrievalMetrics(keras.callbacks.Callback):
    """Measures recall@k, mAP@R and R-precision at the end of epochs.

    The numbers join the epoch's logs as `val_recall@1` ... `val_mAP@R` and `val_R-precision`, so
    that `History`, `TensorBoard`, `EarlyStopping(monitor="val_recall@1", mode="max")` and
    `ModelCheckpoint` see them; those that read them stand behind this callback in the list.

    Every query is compared with the whole gallery by inner product of normalised embeddings; the
    metrics and their rules are those of `fir_tf.evaluation.metrics.retrieval_metrics`: queries
    without another image of their label in the gallery are left out of the means, equal scores go
    to the lower gallery row. Images are embedded batch by batch, the score matrix is never built.

    Args:
        query: (images, labels) arrays, or a tf.data.Dataset of batches (images, labels) that ends.
            Labels are integers or strings [n]; negative or "" is unknown. A dict of labels needs
            `label`.
        gallery: likewise; None where the queries are the gallery of each other, each left out of
            its own results.
        ks: ints >= 1, for recall@k.
        output: str, which output of the model is the embedding, where it has several by name.
        label: str, which of several labels by name.
        every: int, epochs between measurements; the others have no numbers of it.
        batch_size: int, images embedded at a time where arrays are given.

    Raises:
        FirError: arrays that do not fit each other.

    Example:
        >>> images = np.repeat(np.eye(4, dtype=np.float32), 2, axis=0)
        >>> model = keras.Sequential([keras.Input([4]), keras.layers.Dense(4)])
        >>> model.compile("sgd", "mse")
        >>> metrics = RetrievalMetrics((images, [0, 0, 1, 1, 2, 2, 3, 3]), ks=[1])
        >>> history = model.fit(images, images, callbacks=[metrics], verbose=0).history
        >>> history["val_recall@1"]
        [1.0]
    """

    def __init__(
        self,
        query: Any,
        gallery: Any = None,
        *,
        ks: Sequence[int] = (1, 5, 10),
        output: str | None = None,
        label: str | None = None,
        every: int = 1,
        batch_size: int = 64,
    ) -> None:
        super().__init__()
        self._every, size = check_positive("every", every), check_positive("batch_size", batch_size)
        self._sides = [
            None if side is None else _batches(name, side, size)
            for name, side in (("query", query), ("gallery", gallery))
        ]
        self._ks, self._output, self._label = tuple(ks), output, label
        self._embed: Any = None

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Puts the metrics into `logs`, see `keras.callbacks.Callback`."""
        if (epoch + 1) % self._every == 0 and logs is not None:
            logs.update({f"val_{name}": value for name, value in self.measure().items()})

    def measure(self, model: keras.Model | None = None) -> dict[str, float]:
        """Measures a model now.

        Args:
            model: keras.Model; the one that is being trained when not given.

        Returns:
            dict of float by name, without `val_`.

        Raises:
            FirError: no query has another image of its label in the gallery, the model has several
                outputs and `output` names none of them, or an embedding is not finite.
        """
        embed = self._embedder(model)
        query, gallery = self._sides
        if query is None:
            raise FirError("`query` must be given. Received: None")
        vectors, labels = self._embedded("query", query, embed)
        ids, shown = None, (vectors, labels)
        if gallery is None:
            ids = np.arange(len(labels))
        else:
            shown = self._embedded("gallery", gallery, embed)
        items, others = _numbered_together(labels, shown[1])
        found = retrieval_metrics(
            vectors, shown[0], items, others, query_ids=ids, gallery_ids=ids, ks=self._ks
        )
        if not found.values:
            raise FirError(
                f"none of the {len(labels)} queries has another image of its label in the gallery "
                f"of {len(shown[1])}"
            )
        return found.values

    def _embedder(self, model: keras.Model | None) -> Any:
        if model is None and self._embed is not None:
            return self._embed
        chosen = self.model if model is None else model
        if chosen is None:
            raise FirError("`model` must be given before `fit`. Received: None")

        def embed(images: tf.Tensor) -> tf.Tensor:
            vectors = _chosen(chosen(images, training=False), self._output)
            return tf.math.l2_normalize(tf.cast(vectors, tf.float32), axis=1)

        function = tf.function(embed, reduce_retracing=True, autograph=False)
        if model is None:
            self._embed = function
        return function

    def set_model(self, model: keras.Model) -> None:
        """See `keras.callbacks.Callback`."""
        super().set_model(model)
        self._embed = None

    def _embedded(
        self, name: str, batches: Iterable[Any], embed: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        vectors, labels = list[np.ndarray](), list[np.ndarray]()
        for element in batches:
            if not isinstance(element, tuple) or len(element) != 2:
                size = f" of {len(element)}" if isinstance(element, tuple) else ""
                raise FirError(
                    f"`{name}` must have batches (images, labels). Received: "
                    f"{type(element).__name__}{size}"
                )
            images, given = element
            vectors.append(np.asarray(embed(images)))
            labels.append(_labels(name, given, self._label, len(vectors[-1])))
        if not vectors:
            raise FirError(f"`{name}` must have images. Received: none")
        return np.concatenate(vectors), np.concatenate(labels)


def _chosen(outputs: Any, name: str | None) -> tf.Tensor:
    if isinstance(outputs, Mapping):
        if name not in outputs:
            raise FirError(
                f"`output` must be one of the model's outputs {', '.join(outputs)}. "
                f"Received: {name!r}"
            )
        return outputs[name]
    if isinstance(outputs, list | tuple) or name is not None:
        raise FirError(
            "`output` names the output of a model with a dict of outputs. Received: "
            f"{name!r} and a model with {type(outputs).__name__} of outputs"
        )
    return outputs


def _numbered_together(labels: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the labels of both sides by one numbering from 0, -1 where unknown."""
    kinds = [side.dtype.kind in "iu" for side in (labels, others)]
    if kinds[0] != kinds[1]:
        raise FirError(
            "the labels of `query` and `gallery` must be both integers or both strings. Received: "
            f"{labels.dtype} and {others.dtype}"
        )
    items = numbered(np.concatenate([labels, others]))
    return items[: len(labels)], items[len(labels) :]


def _labels(name: str, given: Any, label: str | None, count: int) -> np.ndarray:
    if isinstance(given, Mapping):
        if label not in given:
            raise FirError(f"`label` must be one of {', '.join(given)}. Received: {label!r}")
        given = given[label]
    labels = plain_labels(given)
    if labels.shape != (count,) or labels.dtype.kind not in "iuU":
        raise FirError(
            f"the labels of `{name}` must be integers or strings of shape [{count}], one for each "
            f"image. Received: {labels.dtype} {labels.shape}"
        )
    return labels


class _Arrays:
    """Batches of arrays, as often as they are asked for."""

    def __init__(self, images: Any, labels: Any, batch_size: int) -> None:
        self._images, self._labels, self._size = images, labels, batch_size

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for start in range(0, len(self._images), self._size):
            part = slice(start, start + self._size)
            labels = self._labels
            if isinstance(labels, Mapping):
                yield self._images[part], {name: value[part] for name, value in labels.items()}
            else:
                yield self._images[part], labels[part]


def _batches(name: str, side: Any, batch_size: int) -> Iterable[tuple[Any, Any]]:
    if isinstance(side, tf.data.Dataset):
        if side.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise FirError(f"`{name}` must end: leave `repeat` out. Received: an endless Dataset")
        return side
    if not isinstance(side, list | tuple) or len(side) != 2:
        raise FirError(
            f"`{name}` must be (images, labels) or a tf.data.Dataset of such batches. Received: "
            f"{type(side).__name__}"
        )
    images, labels = side
    every = labels.values() if isinstance(labels, Mapping) else [labels]
    for values in every:
        if not hasattr(values, "__len__"):
            raise FirError(
                f"`{name}` must be (images, labels). Received: {type(values).__name__} as labels"
            )
        if len(values) != len(images):
            raise FirError(
                f"`{name}` must have a label for each image. Received: {len(images)} images and "
                f"{len(values)} labels"
            )
    return _Arrays(images, labels, batch_size)
