"""Where the garments of a photo are."""

from fir_tf.locate.garments import (
    MOST,
    Box,
    Garment,
    Locator,
    cut,
    open_locator,
    own_locator,
    png,
)

__all__ = ["MOST", "Box", "Garment", "Locator", "cut", "open_locator", "own_locator", "png"]
