"""Garments where the relaxation module's category map says so: no detector, no boxes to learn from.

The head of the categories averages a map over its places and only then compares the categories, so
the map says of each place what speaks for which category (Zhou et al., *Learning Deep Features for
Discriminative Localization*, 2016). The softmax knows no more than differences between categories:
what speaks for one is how far it is above the mean of all at that place. Where there is no garment
they differ little. A photo is looked at larger than the model's images, for the head was trained on
photos of one garment, and there one garment of several is as large as it was there.

What hangs together above several shares of the strongest evidence is a candidate. Of those that
cover the same place, whatever category they speak for, one is left: that with the most evidence for
its size. By the evidence alone it would be the largest, which holds all the others. That one comes
before them where it is the whole photo: then this is most likely a photo of one garment.
"""

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from fir_tf.errors import FirError
from fir_tf.files import without_wildcards
from fir_tf.images.box import upright_sides
from fir_tf.images.decode import decode_and_fit, guarded_rows
from fir_tf.locate.garments import MOST, Garment, Locator
from fir_tf.locate.room import is_whole
from fir_tf.models.fir import for_any_size
from fir_tf.run import load_run

SCALES = (2.5,)
"""tuple of float, sizes of a photo that are looked at, as multiples of the model's. What others
cost and find stands in docs/garments.md."""

# Maps are read at this many places across; a place is 1/32 of the image at the largest scale, or
# more, and what lies between is interpolated.
_GRID = 24
# A garment is what hangs together above these shares of the strongest evidence of a map.
_LEVELS = (0.1, 0.2, 0.35, 0.5)
# Candidates are chosen by their evidence over a power of their area: between its sum (0), which the
# largest has most of, and its mean (1), which the smallest has. The sum of mere noise grows as .5.
# Of two that share more than `_SAME_PLACE` of the smaller one, one is left; what has less than
# `_LEAST` of the best one's is none. What these find was measured for docs/garments.md.
_POWER, _SAME_PLACE, _LEAST = 0.6, 0.4, 0.25
# How far a box reaches beyond the outermost places above the level, in places.
_EDGE = 0.25
_CANDIDATES = 256
# Categories that are looked at: those with the strongest evidence anywhere in the photo.
_MOST_CATEGORIES = 8
# The side of what is looked at is a multiple of the backbones' stride.
_STRIDE = 32
_MOST_SCALE = 8
# What `fir_tf.models.fir.build_fir` calls it.
_LAYER = "category_map"

Tensors = dict[str, tf.Tensor]


def has_map(network: keras.Model) -> bool:
    """Whether a network has a category map: models that `build_fir` did not build may have none."""
    return any(layer.name == _LAYER for layer in network.layers)


class CategoryMap(tf.Module):
    """Locates garments by the category map of a network.

    Args:
        network: keras.Model, see `fir_tf.models.fir.build_fir`.
        image_size: int, side of the network's images in pixels.
        scales: sequence of float, see `SCALES`; a size is the nearest multiple of 32 pixels.

    Raises:
        FirError: the network has no category map.
    """

    def __init__(
        self, network: keras.Model, image_size: int, scales: Sequence[float] = SCALES
    ) -> None:
        super().__init__(name="category_map")
        if not has_map(network):
            raise FirError(
                f"`locator` needs a network with a layer {_LAYER!r}, which shows where categories "
                f"are. Received: {network.name}, which has none"
            )
        layer = network.get_layer(_LAYER)
        # Not tracked: who saves this saves the network's variables already.
        mapped = for_any_size(keras.Model(network.input, layer.output))
        self._map = lambda pixels: tf.cast(mapped(pixels, training=False), tf.float32)
        self._sides = [
            image_size if scale == 1 else max(1, round(image_size * scale / _STRIDE)) * _STRIDE
            for scale in scales
        ]

    def locate(self, image_bytes: tf.Tensor) -> Tensors:
        """Locates the garments of photos.

        Args:
            image_bytes: string [n], image files.

        Returns:
            dict: `boxes` float32 [n, MOST, 4], left, top, width and height in shares of the
            upright photo; `category` int32 [n, MOST], -1 behind the last garment; `score` float32
            [n, MOST], the evidence for a garment as a share of that for the first one, which has
            1; `valid` bool [n], whether the photo could be decoded.
        """
        side = max(self._sides)
        pixels, valid = guarded_rows(
            lambda contents: decode_and_fit(contents, side, "pad"), image_bytes, (side, side, 3)
        )
        windows, _ = guarded_rows(_padded_window, image_bytes, (4,))
        maps = []
        for smaller in self._sides:
            seen = pixels
            if smaller != side:
                seen = tf.image.resize(pixels, (smaller, smaller), antialias=True)
            maps.append(tf.image.resize(self._map(seen), (_GRID, _GRID)))
        found = tf.map_fn(
            lambda one: garments_of_maps(one[0], one[1]),
            (tf.stack(maps, axis=1), windows),
            fn_output_signature=(
                tf.TensorSpec([MOST, 4], tf.float32),
                tf.TensorSpec([MOST], tf.int32),
                tf.TensorSpec([MOST], tf.float32),
            ),
        )
        boxes, category, score = found
        shown = tf.cast(valid, tf.float32)
        return {
            "boxes": boxes * shown[:, None, None],
            "category": tf.where(valid[:, None], category, -1),
            "score": score * shown[:, None],
            "valid": valid,
        }


def _padded_window(contents: tf.Tensor) -> tf.Tensor:
    """Returns where a photo lies in the square that it is padded to: float32 [4], a Box of it."""
    sides = upright_sides(contents)
    share = sides / tf.reduce_max(sides)
    return tf.concat([(1 - share) / 2, share], axis=0)


def garments_of_maps(maps: tf.Tensor, window: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Finds garments in the category maps of a photo.

    Args:
        maps: float32 [scales, g, g, categories], logits.
        window: float32 [4], left, top, width and height of the photo in the square that the maps
            are of; all zero for a photo that there is not.

    Returns:
        (float32 [MOST, 4], int32 [MOST], float32 [MOST]): boxes, categories and scores of the
        garments, the surest first, see `CategoryMap.locate`.
    """
    grid = maps.shape[1]
    evidence = maps - tf.reduce_mean(maps, axis=3, keepdims=True)
    evidence *= _inside(window, grid)[None, :, :, None]
    top = tf.reduce_max(evidence, axis=(1, 2, 3))
    # [g, g, scales * categories], of which the strongest are left.
    layers = tf.reshape(tf.transpose(evidence, [1, 2, 0, 3]), [grid, grid, -1])
    channels = maps.shape[0] * min(maps.shape[3], _MOST_CATEGORIES)
    _, chosen = tf.math.top_k(tf.reduce_max(layers, axis=(0, 1)), channels)
    layers = tf.gather(layers, chosen, axis=2)[..., None]
    # The levels of a map side by side, as shares of what its scale has.
    top = tf.gather(top, chosen // maps.shape[3])[:, None]
    above = (layers > top * tf.constant(_LEVELS)) & (layers > 0)
    channels *= len(_LEVELS)
    strength = tf.reshape(tf.repeat(layers, len(_LEVELS), axis=3), [grid, grid, channels])
    places = _pieces(tf.reshape(above, [grid, grid, channels]))
    boxes, scores, origin = _boxes_of(places, strength)
    scores, order = tf.math.top_k(scores, min(_CANDIDATES, boxes.shape[0]))
    boxes, origin = tf.gather(boxes, order), tf.gather(origin, order)
    whole = is_whole(_in_photo(boxes / grid, window), window[2:])
    kept = _apart(boxes, scores, whole)
    boxes, scores = tf.gather(boxes, kept), tf.gather(scores, kept)
    layer = tf.gather(chosen, tf.gather(origin, kept) // len(_LEVELS))
    category = _categories(tf.gather(maps, layer // maps.shape[3]), boxes)
    first = tf.reduce_max(tf.concat([scores, [1e-6]], axis=0))
    missing = [[0, MOST - tf.size(kept)]]
    boxes = tf.pad(_in_photo(boxes / grid, window), [*missing, [0, 0]])
    return (
        tf.ensure_shape(boxes, [MOST, 4]),
        tf.ensure_shape(tf.pad(category, missing, constant_values=-1), [MOST]),
        tf.ensure_shape(tf.pad(scores / first, missing), [MOST]),
    )


def _inside(window: tf.Tensor, grid: int) -> tf.Tensor:
    """Returns float32 [g, g], 1 where the middle of a place lies in the photo, 0 beside it."""
    middle = (tf.range(grid, dtype=tf.float32) + 0.5) / grid
    across, down = (
        (middle >= window[place]) & (middle <= window[place] + window[place + 2])
        for place in (0, 1)
    )
    return tf.cast(down[:, None] & across[None, :], tf.float32)


def _pieces(above: tf.Tensor) -> tf.Tensor:
    """Numbers what hangs together in masks, bool [g, g, k]: int32, 0 outside, from 1 inside.

    Each piece has the largest number among its places, which spreads from neighbour to neighbour.
    """
    grid = above.shape[0]
    own = tf.reshape(tf.range(1, grid * grid + 1, dtype=tf.float32), [1, grid, grid, 1])
    mask = tf.cast(above, tf.float32)[None]

    def spread(labels: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        rows, columns = (tf.nn.max_pool2d(labels, size, 1, "SAME") for size in ((3, 1), (1, 3)))
        new = tf.maximum(rows, columns) * mask
        return new, tf.reduce_any(new > labels)

    labels, _ = tf.while_loop(
        lambda _, changed: changed, spread, (own * mask, tf.reduce_any(above))
    )
    return tf.cast(labels[0], tf.int32)


def _boxes_of(places: tf.Tensor, strength: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns the boxes of all pieces that there may be, most of which there are not.

    Args:
        places: int32 [g, g, k], see `_pieces`.
        strength: float32 [g, g, k], the evidence.

    Returns:
        (float32 [m, 4]: top, left, bottom, right in places; float32 [m]: the mean over the photo
        of the evidence of the piece, 0 where there is none; int32 [m]: its mask, of the k).
    """
    grid, channels = places.shape[0], places.shape[2]
    most = grid * grid + 1
    segment = tf.reshape(places + most * tf.range(channels), [-1])
    total = most * channels
    score = tf.math.unsorted_segment_sum(tf.reshape(strength, [-1]), segment, total)
    steps = tf.range(grid, dtype=tf.float32)
    edges = []
    for axis in (0, 1):
        line = tf.reshape(steps, [-1, 1, 1] if axis == 0 else [1, -1, 1])
        line = tf.reshape(tf.broadcast_to(line, tf.shape(places)), [-1])
        edges.append(tf.math.unsorted_segment_min(line, segment, total) - _EDGE)
        edges.append(tf.math.unsorted_segment_max(line, segment, total) + 1 + _EDGE)
    top, bottom, left, right = edges
    # What lies in no piece has the number 0; two places are no garment.
    real = tf.range(total) % most > 0
    count = tf.math.unsorted_segment_sum(tf.ones_like(segment), segment, total)
    score = tf.where(real & (count > 2), score / (grid * grid), 0.0)
    boxes = tf.stack([top, left, bottom, right], axis=1)
    boxes = tf.where((score > 0)[:, None], tf.clip_by_value(boxes, 0.0, float(grid)), 0.0)
    return boxes, score, tf.range(total) // most


def _apart(boxes: tf.Tensor, scores: tf.Tensor, whole: tf.Tensor) -> tf.Tensor:
    """Returns which candidates are left where several cover the same place.

    The first one is always, and hides no other, if it is the whole photo.

    Args:
        boxes: float32 [m, 4], top, left, bottom, right in places.
        scores: float32 [m], their evidence in descending order, 0 where there is none.
        whole: bool [m], which of them are the whole photo.

    Returns:
        int32 [up to MOST], in ascending order.
    """
    start = tf.maximum(boxes[:, None, :2], boxes[None, :, :2])
    end = tf.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    area = tf.maximum(tf.reduce_prod(boxes[:, 2:] - boxes[:, :2], axis=1), 1e-6)
    smaller = tf.minimum(area[:, None], area[None, :])
    shared = tf.reduce_prod(tf.maximum(end - start, 0.0), axis=2) / smaller
    worth = scores / area**_POWER
    most = tf.reduce_max(worth)
    least = tf.maximum(_LEAST * most, 1e-6)
    first = (tf.range(tf.size(scores)) == 0) & whole
    beside = (first[:, None] & ~whole[None, :]) | (first[None, :] & ~whole[:, None])
    shared = tf.where(beside, 0.0, shared)
    worth = tf.where(first, most, worth)
    kept = tf.image.non_max_suppression_overlaps(shared, worth, MOST, _SAME_PLACE, least)
    return tf.sort(kept)


def _categories(maps: tf.Tensor, boxes: tf.Tensor) -> tf.Tensor:
    """Returns the category that the mean of the map over a box says, int32 [m].

    Args:
        maps: float32 [m, g, g, categories].
        boxes: float32 [m, 4], top, left, bottom, right in places.
    """
    middle = tf.range(maps.shape[1], dtype=tf.float32) + 0.5
    rows = (middle >= boxes[:, :1]) & (middle <= boxes[:, 2:3])
    columns = (middle >= boxes[:, 1:2]) & (middle <= boxes[:, 3:])
    inside = tf.cast(rows[:, :, None] & columns[:, None, :], tf.float32)
    return tf.argmax(tf.einsum("myx,myxc->mc", inside, maps), axis=1, output_type=tf.int32)


def _in_photo(boxes: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
    """Turns top, left, bottom, right of the square into left, top, width, height of the photo."""
    size = tf.maximum(window[2:], 1e-6)
    start = tf.clip_by_value((boxes[:, 1::-1] - window[:2]) / size, 0.0, 1.0)
    end = tf.clip_by_value((boxes[:, 3:1:-1] - window[:2]) / size, 0.0, 1.0)
    return tf.concat([start, end - start], axis=1)


def open_category_map(place: str, model: str) -> Locator:
    """Finds garments by the category map of the model that searches, or of another run or export.

    Args:
        place: str, the folder of a run, or of an export's version; empty for that of `model`. Of a
            run it may end in `@` and the scales, see `SCALES`, such as `runs/shop@2` or `@2,3`.
        model: str, the folder of the model that searches.

    Raises:
        FirError: the folder holds neither, or the model was not trained to tell categories, or the
            scales are no numbers.
    """
    place, scales = _scales_of(place)
    folder = Path(place or model)
    if not (place or model):
        raise FirError(
            "`locator` needs a model whose categories show where garments are. Received: a model "
            "in hand; give --locator=category_map:<a run's folder>"
        )
    versions = [path for path in folder.glob("*") if path.name.isdecimal()]
    for exported in [folder, *sorted(versions, key=lambda path: -int(path.name))]:
        if (exported / "saved_model.pb").is_file():
            if scales != SCALES:
                raise FirError(
                    f"`locator` has the scales of an export in its graph. Received: {folder} and "
                    f"other ones; give the run's folder"
                )
            return _Served(exported)
    network, config, categories = load_run(folder, shared=True)
    if not config.reads("logits"):
        raise FirError(
            f"`locator` needs a model that was trained to tell categories, such as with "
            f"--losses=OC+IS. Received: {folder}, trained with --losses={config.losses}"
        )
    return _Mapped(CategoryMap(network, config.eval_size, scales), categories)


def _scales_of(place: str) -> tuple[str, tuple[float, ...]]:
    """Splits `folder@scales`; a folder's name may have an @ of its own."""
    folder, mark, text = place.rpartition("@")
    if not mark or Path(place).exists():
        return place, SCALES
    try:
        scales = tuple(float(part) for part in text.split(","))
    except ValueError:
        scales = ()
    if not scales or not all(0 < scale <= _MOST_SCALE for scale in scales):
        raise FirError(
            f"`locator` takes scales above 0 and up to {_MOST_SCALE} behind an @, such as "
            f"category_map:@2. Received: {text!r}"
        )
    return folder, scales


class _Mapped:
    """A run's category map as a Locator."""

    def __init__(self, category_map: CategoryMap, categories: Sequence[str]) -> None:
        self._names = categories
        spec = tf.TensorSpec([None], tf.string)
        self._locate = tf.function(category_map.locate, input_signature=[spec], autograph=False)

    def __call__(self, photos: Sequence[bytes]) -> list[list[Garment]]:
        if not photos:
            return []
        found = self._locate(tf.constant(list(photos), tf.string))
        names = [[self._names[place] for place in row] for row in found["category"].numpy()]
        return _garments(found["boxes"].numpy(), names, found["score"].numpy())


class _Served:
    """The signature `locate` of an export as a Locator."""

    def __init__(self, folder: Path) -> None:
        with without_wildcards(folder) as where:
            # Its variables go with it.
            self._loaded = tf.saved_model.load(str(where))
        if "locate" not in self._loaded.signatures:
            raise FirError(
                f"`locator` needs an export with the signature `locate`. Received: {folder}; "
                "export the run again, or give --locator=category_map:<the run's folder>"
            )

    def __call__(self, photos: Sequence[bytes]) -> list[list[Garment]]:
        if not photos:
            return []
        contents = tf.constant(list(photos), tf.string)
        found = self._loaded.signatures["locate"](image_bytes=contents)
        names = [[name.decode() for name in row] for row in found["category"].numpy()]
        return _garments(found["boxes"].numpy(), names, found["score"].numpy())


def _garments(
    boxes: np.ndarray, names: Sequence[Sequence[str]], scores: np.ndarray
) -> list[list[Garment]]:
    return [
        [
            Garment(tuple(box), name, score)
            for box, name, score in zip(*row, strict=True)
            if score > 0
        ]
        for row in zip(boxes.tolist(), names, scores.tolist(), strict=True)
    ]
