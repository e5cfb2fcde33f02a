"""Where the score of two image files comes from."""

import dataclasses

import keras
import numpy as np
import tensorflow as tf

from fir_tf.explain.heat import Heat
from fir_tf.explain.split import Explainer
from fir_tf.images.decode import decode_and_fit

NOT_EXACT = (
    "with this model's pooling or neck no place has a share of its own in the score; the heat is "
    "the gradient's"
)
"""str, what a person has to know of maps that are not exact."""


@dataclasses.dataclass(frozen=True)
class Explained:
    """Where the score of two photos comes from.

    Attributes:
        score: float, the inner product of their embeddings.
        query: Heat, what the places of the query add to it.
        match: Heat, the same of the match.
    """

    score: float
    query: Heat
    match: Heat


class PhotoExplainer:
    """Explains the scores of photos that are embedded as they are.

    Args:
        model: keras.Model, see `fir_tf.explain.split.Explainer`.
        image_size: int, side of the network's images in pixels.
        resize: str, how photos are fitted, see `fir_tf.images.decode.fit`.

    Attributes:
        exact: bool, whether the maps sum to the score.

    Raises:
        FirError: for a model that `fir_tf.build_fir` did not make.
    """

    def __init__(self, model: keras.Model, image_size: int, resize: str) -> None:
        self._explain = Explainer(model)
        self._size, self._resize = image_size, resize
        self.exact = self._explain.exact

    def __call__(self, query: bytes, match: bytes) -> Explained | None:
        """Explains the score of two image files' contents; None where one cannot be decoded."""
        pixels = [self._pixels(contents) for contents in (query, match)]
        if pixels[0] is None or pixels[1] is None:
            return None
        found = self._explain(pixels[0], pixels[1])
        return Explained(
            found.score, Heat(found.query, self._resize), Heat(found.match, self._resize)
        )

    def _pixels(self, contents: bytes) -> np.ndarray | None:
        try:
            return decode_and_fit(tf.constant(contents), self._size, self._resize).numpy()
        except tf.errors.OpError:
            return None
