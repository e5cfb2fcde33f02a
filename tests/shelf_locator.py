"""A plugin: a locator that finds three garments in photos of 900 pixels across, in others none."""

from fir_tf.errors import FirError
from fir_tf.images.claimed import claimed_size
from fir_tf.locate import Garment
from fir_tf.registry import register

WIDTH = 900
GARMENTS = [
    Garment((0.1, 0.2, 0.3, 0.4), "Tops", 1.0),
    Garment((0.6, 0.1, 0.3, 0.8), "Dresses", 0.75),
    # Within the first one.
    Garment((0.2, 0.35, 0.1, 0.15), "", 0.5),
]


@register("locator", "shelf")
def open_shelf(place, model):
    """Returns the Locator."""
    if place or not model:
        raise FirError(
            f"`locator` shelf needs a model and no place. Received: {place!r}, {model!r}"
        )
    return lambda photos: [GARMENTS if claimed_size(p)[1] == WIDTH else [] for p in photos]
