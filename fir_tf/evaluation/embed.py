"""A catalogue's images -> embeddings and category scores, in order."""

import dataclasses
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from fir_tf.datasets.catalogue import Catalogue
from fir_tf.errors import FirError
from fir_tf.hygiene.findings import too_many_unreadable
from fir_tf.input.batches import ordered_batches


@dataclasses.dataclass(frozen=True)
class Embedded:
    """What a model makes of the images of a catalogue, row by row.

    Attributes:
        embedding: float32 [n, d], unit length; zeros where not valid.
        category: float32 [n, categories], softmax scores; zeros where not valid.
        valid: bool [n], whether the image could be read.
    """

    embedding: np.ndarray
    category: np.ndarray
    valid: np.ndarray


def make_embedder(model: keras.Model) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    """Returns the compiled forward pass of `model`, to be used for several catalogues."""
    return tf.function(
        lambda images: model(images, training=False), reduce_retracing=True, autograph=False
    )


def embed(
    embedder: Callable[[tf.Tensor], dict[str, tf.Tensor]],
    catalogue: Catalogue,
    image_size: int,
    resize: str,
    batch_size: int = 64,
    label: str = "embedding",
) -> Embedded:
    """Embeds every image of a catalogue.

    Args:
        embedder: see `make_embedder`.
        catalogue: Catalogue, of at least one row.
        image_size: int, side of the images in pixels.
        resize: str, how they are fitted, see `fir_tf.images.decode.fit`.
        batch_size: int.
        label: str, what the progress bar says.

    Returns:
        Embedded.
    """
    batches, count = ordered_batches(catalogue.files(), image_size, resize, batch_size)
    parts: dict[str, list] = {"embedding": [], "category": [], "valid": []}
    for batch in tqdm(batches, total=count, desc=label, unit="batch", disable=None, leave=False):
        outputs = embedder(batch["images"])
        mask = tf.cast(batch["valid"], tf.float32)[:, None]
        for name in ("embedding", "category"):
            parts[name].append((outputs[name] * mask).numpy())
        parts["valid"].append(batch["valid"].numpy())
    whole = {name: np.concatenate(values)[: len(catalogue)] for name, values in parts.items()}
    return Embedded(**whole)


def check_readable(catalogue: Catalogue, valid: np.ndarray) -> list[str]:
    """Returns the paths of unreadable images; more than 1 % of them is an error.

    Args:
        catalogue: Catalogue.
        valid: bool [n], one per row of the catalogue.

    Returns:
        list of str.

    Raises:
        FirError: if more than 1 % of the images (and more than one) cannot be read.
    """
    bad = [str(catalogue.root / catalogue.path[row]) for row in np.flatnonzero(~valid)]
    if too_many_unreadable(len(bad), len(catalogue)):
        raise FirError(unreadable_message(bad, len(catalogue)))
    return bad


def unreadable_message(bad: Sequence[str], count: int) -> str:
    """Returns what is said when too many of `count` images cannot be decoded."""
    shown = "\n".join(f"  {path}" for path in bad[:5])
    more = f"\n  ... and {len(bad) - 5} more" if len(bad) > 5 else ""
    return (
        f"{len(bad)} of {count} images cannot be decoded, more than the 1 % that is skipped:\n"
        f"{shown}{more}\nUnpack or convert them again (JPEG, PNG, GIF and BMP are read)"
    )
