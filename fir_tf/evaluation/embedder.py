"""Photos -> embeddings and category scores, in order: a network with its preprocessing."""

import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from fir_tf.datasets.catalogue import Catalogue
from fir_tf.errors import FirError
from fir_tf.evaluation.embedded import OUTPUTS, Embedded, PlainEmbedder
from fir_tf.hygiene.boxes import box_fault, described
from fir_tf.hygiene.findings import too_many_unreadable
from fir_tf.images.window import Boxes
from fir_tf.input.batches import ordered_batches

Network = Callable[[tf.Tensor], Mapping[str, tf.Tensor]]
"""Fitted pixels float32 [n, side, side, 3] in [0, 255] -> its `OUTPUTS`, float32."""


class Embedder(PlainEmbedder):
    """Embeds photos, files and catalogues with the preprocessing a network was trained for.

    A few photos are decoded by themselves: that takes less than building a graph for it.

    Args:
        network: Network; a keras.Model is run in one compiled graph for all that is embedded.
        image_size, resize, crop, margin: see `PlainEmbedder`.

    Attributes:
        network: Network.
        crop, margin: as given.
    """

    def __init__(
        self,
        network: Network | keras.Model,
        image_size: int,
        resize: str,
        crop: str = "image",
        margin: float = 0.0,
    ) -> None:
        if isinstance(network, keras.Model):
            network = compiled(functools.partial(network, training=False), image_size)
        super().__init__(network, image_size, resize, crop, margin)

    def files(
        self, files: Sequence[str], batch_size: int = 64, boxes: Boxes | None = None
    ) -> Iterator[Embedded]:
        """Does as `PlainEmbedder.files`, in the graph that training decodes with."""
        batches, _ = ordered_batches(files, *self._fit, batch_size, boxes, self.margin)
        for start, batch in zip(range(0, len(files), batch_size), batches, strict=True):
            # The last batch is filled up, so that the shape is always the same.
            found = self._embedded(batch["images"], batch["valid"].numpy())
            left = len(files) - start
            yield Embedded(found.embedding[:left], found.category[:left], found.valid[:left])

    def catalogue(
        self, catalogue: Catalogue, label: str = "embedding", batch_size: int = 64
    ) -> Embedded:
        """Embeds every image of a catalogue of at least one row; the progress bar says `label`."""
        total, boxes = -(-len(catalogue) // batch_size), catalogue.boxes(self.crop)
        bar = {"total": total, "desc": label, "unit": "batch", "disable": None, "leave": False}
        parts = list(tqdm(self.files(catalogue.files(), batch_size, boxes), **bar))
        return Embedded(
            np.concatenate([part.embedding for part in parts]),
            np.concatenate([part.category for part in parts]),
            np.concatenate([part.valid for part in parts]),
        )


def compiled(network: Network, image_size: int) -> Network:
    """Returns a network as one graph for batches of any length."""
    spec = tf.TensorSpec([None, image_size, image_size, 3], tf.float32)
    return tf.function(lambda pixels: network(pixels), input_signature=[spec], autograph=False)


def as_network(run: Callable[[np.ndarray], Mapping[str, np.ndarray]]) -> Network:
    """Returns a Network of what another runtime makes of float32 [n, side, side, 3]."""

    def forward(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        found = run(np.asarray(pixels))
        return {name: tf.constant(found[name]) for name in OUTPUTS}

    return forward


def check_readable(catalogue: Catalogue, valid: np.ndarray) -> list[str]:
    """Returns the paths of unreadable images; more than 1 % of them is an error.

    Args:
        catalogue: Catalogue.
        valid: bool [n], one per row of the catalogue.

    Returns:
        list of str; of an image whose box has no area in it that, with file and line.

    Raises:
        FirError: if more than 1 % of the images (and more than one) cannot be read.
    """
    bad = np.flatnonzero(~valid).tolist()
    if too_many_unreadable(len(bad), len(catalogue)):
        raise FirError(unreadable_message(catalogue, bad, len(catalogue)))
    return described(catalogue, bad)


def unreadable_message(catalogue: Catalogue, bad: Sequence[int], count: int) -> str:
    """Returns what is said when too many of `count` images cannot be decoded, or are gone.

    Args:
        catalogue: Catalogue.
        bad: sequence of int, their rows.
        count: int.
    """
    told = described(catalogue, bad[:5])
    shown = "\n".join(f"  {text}" for text in told)
    more = f"\n  ... and {len(bad) - 5} more" if len(bad) > 5 else ""
    what, advice = "be decoded", "Unpack or convert them again (JPEG, PNG, GIF and BMP are read)"
    if not any(os.path.exists(catalogue.root / catalogue.path[row]) for row in bad[:100]):
        what, advice = (
            "be found any more",
            "Is a share offline? Give the command again when it is there",
        )
    elif any(box_fault(catalogue, row) for row in bad[:5]):
        what, advice = "be cropped or decoded", "Correct the boxes, or take them out of the rows"
    return (
        f"{len(bad)} of {count} images cannot {what}, more than the 1 % that is skipped:\n"
        f"{shown}{more}\n{advice}"
    )
