"""Photos that the ranges of a network's numbers are read off, for whole numbers in their place."""

from collections.abc import Iterator

import numpy as np

from fir_tf.datasets.catalogue import Catalogue, unit_hash
from fir_tf.input.batches import ordered_batches
from fir_tf.serving.formats import Export

PHOTOS = 200


def representative_photos(export: Export, catalogue: Catalogue) -> Iterator[np.ndarray]:
    """Yields photos from all over a catalogue, the same ones in every export.

    Args:
        export: Export; its config says how they are fitted.
        catalogue: Catalogue, which they are chosen from.

    Yields:
        float32 [1, s, s, 3], RGB in [0, 255], of at most `PHOTOS` photos; those that cannot be
        read are left out.
    """
    config = export.config
    order = np.argsort([unit_hash(str(path), "representative") for path in catalogue.path])
    chosen = catalogue.rows(order[:PHOTOS])
    how = config.eval_size, config.resize, 1, chosen.boxes(config.crop), config.crop_margin
    batches, _ = ordered_batches(chosen.files(), *how)
    for batch in batches:
        if batch["valid"].numpy().all():
            yield batch["images"].numpy()
