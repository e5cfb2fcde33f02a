"""A score as a sum over the places of the query and over those of the match."""

import dataclasses

import keras
import numpy as np
import tensorflow as tf

from fir_tf.errors import FirError
from fir_tf.models.fir import for_any_size, search_model

# A head counts as exact where the parts differ from the whole by less than this share.
_ROUNDING = 1e-4


@dataclasses.dataclass(frozen=True)
class Explanation:
    """Where the score of two photos comes from.

    Attributes:
        score: float, the inner product of their embeddings.
        query: float32 [h, w], what each place of the query adds to the score. A place is a cell of
            the backbone's last feature map.
        match: float32 [h, w], the same for the match.
        exact: bool, whether the score is this sum and no other, see `Explainer`.
    """

    score: float
    query: np.ndarray
    match: np.ndarray
    exact: bool


class Explainer:
    """Splits the scores of a model into what each place of the photos adds.

    The embedding is `e = v / |v|` with `v = head(F)`, where F is the backbone's last feature map
    of N cells. With average pooling and a neck that is affine in inference, which a projection, a
    batch normalisation and both are, `head(F)` is the mean over the cells of `A F_i + b`. So with
    the match's embedding m::

        score = e . m = sum over i of (A F_i + b) . m / (N |v|),

    and likewise with the roles exchanged. The length `|v|` is a number here: it is the same for
    every cell. The summands are taken from a gradient, which knows no layer by name: for an affine
    head `A F_i / N . m / |v|` is F_i times the gradient of `head(F) . m / |v|` with `|v|` held, and
    what is left of the score, that of b, belongs to all cells alike.

    Other heads have no such split, since a cell's share depends on the other cells: `gem` and
    `max_average` pooling, a hidden layer. Then the maps are F_i times the gradient, and `exact` is
    False. Their sums are still the score where the head grows in proportion with the map, as both
    poolings do (Euler's theorem on homogeneous functions); otherwise they need not be. Which kind
    a head is, is found by trying it: an affine one makes of a map the sum of what it makes of its
    cells alone, and twice as much of twice the map.

    Args:
        model: keras.Model of `fir_tf.models.fir.build_fir`, trained.

    Attributes:
        exact: bool, whether the model's scores are sums over the places of a photo.

    Raises:
        FirError: for another model.
    """

    def __init__(self, model: keras.Model) -> None:
        names = {layer.name for layer in model.layers}
        if not {"relaxation", "embedding"} <= names:
            raise FirError(
                "`model` must be one that fir_tf.build_fir made, whose layers `relaxation` and "
                f"`embedding` say where the feature map is. Received: {model.name}"
            )
        model = search_model(model)
        # The relaxation module stands on the backbone's last feature map.
        maps = model.get_layer("relaxation").input
        vectors = model.get_layer("embedding").input
        body = keras.Model(model.input, maps)
        self._maps = tf.function(
            lambda pixels: tf.cast(body(pixels, training=False), tf.float32), autograph=False
        )
        self._head = for_any_size(keras.Model(maps, vectors))
        self._parts = tf.function(self._split, autograph=False, reduce_retracing=True)
        self.exact = self._is_affine(int(maps.shape[-1]))

    def __call__(self, query: np.ndarray, match: np.ndarray) -> Explanation:
        """Explains the score of a photo and its match.

        Args:
            query: float32 [side, side, 3], fitted pixels in [0, 255], see
                `fir_tf.images.decode.fit`.
            match: the same of the match.

        Returns:
            Explanation; where `exact`, both maps sum to the score, to rounding (1e-5).
        """
        pixels = tf.stack([tf.cast(query, tf.float32), tf.cast(match, tf.float32)])
        score, parts = self._parts(self._maps(pixels))
        first, second = parts.numpy()
        return Explanation(float(score), first, second, self.exact)

    def _split(self, maps: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """float32 [2, h, w, c] -> the score, and [2, h, w], what each cell adds to it."""
        with tf.GradientTape() as tape:
            tape.watch(maps)
            vectors = tf.cast(self._head(maps, training=False), tf.float32)
            lengths = tf.stop_gradient(tf.norm(vectors, axis=1, keepdims=True))
            scaled = tf.math.divide_no_nan(vectors, lengths)
            # Each photo's embedding seen by the other's, which is held.
            other = tf.stop_gradient(tf.reverse(scaled, [0]))
            scores = tf.reduce_sum(scaled * other, axis=1)
            total = tf.reduce_sum(scores)
        parts = tf.reduce_sum(maps * tape.gradient(total, maps), axis=3)
        if self.exact:
            rest = scores - tf.reduce_sum(parts, (1, 2))
            cells = tf.cast(tf.size(parts[0]), tf.float32)
            parts += (rest / cells)[:, None, None]
        return scores[0], parts

    def _is_affine(self, channels: int) -> bool:
        """Whether the head is affine: additive over cells and in proportion, but for a constant."""
        maps = np.random.default_rng(0).uniform(0, 1, (2, 2, channels)).astype(np.float32)
        tried = np.zeros((7, *maps.shape), np.float32)
        tried[1], tried[2] = maps, 2 * maps
        for place, (row, column) in enumerate(np.ndindex(2, 2), 3):
            tried[place, row, column] = maps[row, column]
        found = np.asarray(self._head(tried, training=False), np.float64)
        whole, double, *cells = found[1:] - found[0]
        difference = np.abs([whole - np.sum(cells, axis=0), double - 2 * whole]).max()
        return bool(difference < _ROUNDING * max(np.abs(whole).max(), 1e-12))
