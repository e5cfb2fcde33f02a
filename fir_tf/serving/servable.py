"""The exported graph: image bytes -> embedding, categories, item ids; no Python, no file read."""

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from fir_tf.errors import FirError
from fir_tf.images.box import Crop, upright_sides
from fir_tf.images.decode import decode_and_fit, fit, guarded_rows
from fir_tf.images.header import dimensions, is_known
from fir_tf.images.limits import MAX_BYTES, MAX_PIXELS
from fir_tf.keras_versions import tensor_of
from fir_tf.locate import MOST
from fir_tf.locate.category_map import CategoryMap
from fir_tf.locate.room import with_room
from fir_tf.serving.gallery import Gallery

# What stands in `error` of a row that is not valid.
EMPTY = "EMPTY"
UNSUPPORTED_FORMAT = "UNSUPPORTED_FORMAT"
TOO_LARGE = "TOO_LARGE"
CORRUPT = "CORRUPT"
UNKNOWN_CATEGORY = "UNKNOWN_CATEGORY"
NOT_FINITE = "NOT_FINITE"
BAD_BOX = "BAD_BOX"

_IMAGES = tf.TensorSpec([None], tf.string, name="image_bytes")
_BOX = tf.TensorSpec([None, 4], tf.float32, name="box")
_K = tf.TensorSpec([None], tf.int32, name="k")
_CATEGORY = tf.TensorSpec([None], tf.string, name="category")

Tensors = dict[str, tf.Tensor]
"""Tensors by the names that they have in a signature, a row an image."""


class Servable(tf.Module):
    """Preprocessing, network and gallery in one.

    Every input and output has one row an image, so TF Serving may batch requests together and
    its REST interface's row format works. A row that cannot be answered has valid False, the
    reason in `error`, zeros and empty strings elsewhere; other rows are unaffected to the bit.

    Args:
        network: keras.Model, see `fir_tf.models.fir.build_fir` and
            `fir_tf.serving.fold.inference_model`.
        image_size: int, side of the network's images in pixels.
        resize: str, how photos are fitted, as in evaluation, see `fir_tf.images.decode.fit`.
        categories: list of str, the names of the category output.
        top: int, categories returned for each image.
        gallery: fir_tf.serving.gallery.Gallery or None.
        margin: float, what is added to a box on each side, as a share of its width and height.
        locates: bool, whether the network tells categories, whose map shows where garments are.
    """

    def __init__(
        self,
        network: keras.Model,
        image_size: int,
        resize: str,
        categories: Sequence[str],
        top: int,
        gallery: Gallery | None = None,
        margin: float = 0.0,
        locates: bool = False,
    ) -> None:
        super().__init__(name="fir")
        # TensorFlow would save a Keras model's variables twice, and its C++ loader restore the
        # copies that no signature reads: the plain variables are tracked, the model is not.
        self.weights = [tensor_of(weight) for weight in network.weights]
        self._network = lambda pixels: network(pixels, training=False)
        self.gallery = gallery
        self.top = min(top, len(categories))
        self._size, self._resize, self._margin = image_size, resize, margin
        self._names = tf.constant(categories)
        self._fitted = tf.TensorSpec([None, image_size, image_size, 3], tf.float32, name="pixels")
        # What the signatures share is traced, saved and loaded once.
        self._run = _traced(self._of_files, _IMAGES)
        self._run_boxes = _traced(self._of_boxes, _IMAGES, _BOX)
        self._run_cuts = _traced(self._of_cuts, _IMAGES, _BOX)
        self._outputs = _traced(self._of_pixels, self._fitted)
        self._category_map = CategoryMap(network, image_size) if locates else None

    def signatures(self) -> dict[str, tf.types.experimental.GenericFunction]:
        """Returns {name: tf.function with an input signature}, what the SavedModel offers."""
        decoded = tf.TensorSpec([None, None, None, 3], tf.uint8, name="pixels")
        embed = _traced(self.embed, _IMAGES)
        found = {
            "serving_default": embed,
            "embed": embed,
            "embed_boxes": _traced(self.embed_boxes, _IMAGES, _BOX),
            "classify": _traced(self.classify, _IMAGES),
            "classify_boxes": _traced(self.classify_boxes, _IMAGES, _BOX),
            "embed_pixels": _traced(self.embed_pixels, self._fitted),
            "embed_pixels_uint8": _traced(self.embed_pixels_uint8, decoded),
        }
        if self._category_map is not None:
            found["locate"] = _traced(self.locate, _IMAGES)
        if self._category_map is not None and self.gallery is not None:
            found["search_garments"] = _traced(self.search_garments, _IMAGES, _K, _CATEGORY)
        if self.gallery is not None:
            width = self.gallery.vectors.shape[1]
            vector = tf.TensorSpec([None, width], tf.float32, name="embedding")
            found["search"] = _traced(self.search, _IMAGES, _K, _CATEGORY)
            found["search_boxes"] = _traced(self.search_boxes, _IMAGES, _BOX, _K, _CATEGORY)
            found["search_embedding"] = _traced(self.search_embedding, vector, _K, _CATEGORY)
        return found

    def embed(self, image_bytes: tf.Tensor) -> Tensors:
        """Embeds images.

        Args:
            image_bytes: string [n], JPEG, PNG, GIF (first frame) or BMP (24 or 32 bits) files.
                The name ends in `_bytes`, so TF Serving's REST API takes `{"b64": ...}` for it.

        Returns:
            dict: `embedding` float32 [n, d], unit length; `valid` bool [n]; `error` string [n],
            "" or EMPTY, UNSUPPORTED_FORMAT, TOO_LARGE or CORRUPT.
        """
        return _embedding(*self._run(image_bytes))

    def embed_boxes(self, image_bytes: tf.Tensor, box: tf.Tensor) -> Tensors:
        """Embeds what images have in their boxes, with the margin that the model was trained with.

        Args:
            image_bytes: string [n], see `embed`.
            box: float32 [n, 4], left, top, width and height, in shares of the width and height of
                the image as it is seen upright. What lies outside of it is left out; 0, 0, 1, 1 is
                the whole image.

        Returns:
            dict as `embed`; `error` is BAD_BOX where a box is not finite or has no area in the
            image.
        """
        return _embedding(*self._run_boxes(image_bytes, box))

    def classify(self, image_bytes: tf.Tensor) -> Tensors:
        """Classifies images.

        Args:
            image_bytes: string [n], see `embed`.

        Returns:
            dict: `category` string [n, top], names in descending order of `score` float32
            [n, top], softmax; `valid` and `error` as in `embed`.
        """
        return self._classes(*self._run(image_bytes))

    def classify_boxes(self, image_bytes: tf.Tensor, box: tf.Tensor) -> Tensors:
        """Classifies what images have in their boxes; see `embed_boxes` and `classify`."""
        return self._classes(*self._run_boxes(image_bytes, box))

    def locate(self, image_bytes: tf.Tensor) -> Tensors:
        """Says where garments are, see `fir_tf.locate.category_map.CategoryMap`.

        Args:
            image_bytes: string [n], see `embed`.

        Returns:
            dict: `boxes` float32 [n, m, 4], left, top, width and height in shares of the upright
            photo, the surest garment first; `category` string [n, m]; `score` float32 [n, m], the
            first has 1. Places behind a row's garments are 0 and "". `valid` and `error` as in
            `embed`.
        """
        if self._category_map is None:
            raise FirError("nothing can be located: the network tells no categories")
        found = self._category_map.locate(image_bytes)
        known = found["category"] >= 0
        names = tf.gather(self._names, tf.maximum(found["category"], 0))
        return {
            "boxes": found["boxes"],
            "category": tf.where(known, names, ""),
            "score": found["score"],
            **_file_state(found["valid"], image_bytes),
        }

    def embed_pixels(self, pixels: tf.Tensor) -> Tensors:
        """Embeds images that are fitted already (`fir_tf.images.decode.fit`).

        Args:
            pixels: float32 [n, image_size, image_size, 3], RGB in [0, 255].

        Returns:
            dict: `embedding` float32 [n, d]; `valid` bool [n]; `error` string [n], "" or
            NOT_FINITE.
        """
        embedding = self._outputs(pixels)["embedding"]
        # A ReLU can turn NaN into a number.
        valid = tf.reduce_all(tf.math.is_finite(pixels), axis=[1, 2, 3]) & _finite(embedding)
        return {"embedding": tf.where(valid[:, None], embedding, 0.0), **_finite_state(valid)}

    def embed_pixels_uint8(self, pixels: tf.Tensor) -> Tensors:
        """Embeds decoded images of one size, which are fitted as image files are.

        Args:
            pixels: uint8 [n, height, width, 3], RGB, height and width at least 1.

        Returns:
            dict as `embed_pixels`.
        """
        fitted = tf.map_fn(
            lambda image: fit(image, self._size, self._resize),
            pixels,
            fn_output_signature=tf.TensorSpec(self._fitted.shape[1:], tf.float32),
        )
        return self.embed_pixels(fitted)

    def search(self, image_bytes: tf.Tensor, k: tf.Tensor, category: tf.Tensor) -> Tensors:
        """Finds the gallery's nearest images.

        Args:
            image_bytes: string [n], see `embed`.
            k: int32 [n], results wanted for each image, at most `gallery.K_MAX`.
            category: string [n], the only category to search for each image; "" for all.

        Returns:
            dict: `item_id` and `image_path` string [n, w], `score` float32 [n, w] (inner
            product), by falling score, equal ones in the gallery's order; w is the largest k,
            at most the size of the gallery. Places behind a row's results are "" and 0. `valid`
            bool [n]; `error` string [n], as in `embed` or UNKNOWN_CATEGORY.
        """
        outputs, state = self._run(image_bytes)
        return self._search(outputs["embedding"], k, category, state)

    def search_boxes(
        self, image_bytes: tf.Tensor, box: tf.Tensor, k: tf.Tensor, category: tf.Tensor
    ) -> Tensors:
        """Finds what is nearest to what images have in their boxes; see `embed_boxes`, `search`."""
        outputs, state = self._run_boxes(image_bytes, box)
        return self._search(outputs["embedding"], k, category, state)

    def search_garments(self, image_bytes: tf.Tensor, k: tf.Tensor, category: tf.Tensor) -> Tensors:
        """Finds what is nearest to each garment of images, cut out with some room around it.

        Args:
            image_bytes: string [n], see `embed`.
            k: int32 [n], results wanted for each garment, see `search`.
            category: string [n], see `search`.

        Returns:
            dict: `boxes` float32 [n, m, 4], `garment_category` string [n, m] and `garment_score`
            float32 [n, m] as `locate` has them; where it finds none, the first is the whole image
            with the category "" and the score 0. `item_id` and `image_path` string [n, m, w],
            `score` float32 [n, m, w], each garment's results as in `search`. `valid` and `error` as
            in `search`. A place without a garment has boxes of 0.
        """
        found = self.locate(image_bytes)
        whole = found["valid"] & (found["score"][:, 0] <= 0)
        first = tf.range(MOST) == 0
        instead = whole[:, None] & first[None]
        boxes = tf.where(instead[..., None], tf.constant([0.0, 0.0, 1.0, 1.0]), found["boxes"])
        places = tf.where(instead | (found["score"] > 0))
        photo = places[:, 0]
        outputs, state = self._run_cuts(tf.gather(image_bytes, photo), tf.gather_nd(boxes, places))
        rows = tf.gather(k, photo), tf.gather(category, photo)
        answer = self._search(outputs["embedding"], *rows, state)
        shape = tf.shape(found["score"], tf.int64)

        def placed(values: tf.Tensor) -> tf.Tensor:
            size = tf.concat([shape, tf.shape(values, tf.int64)[1:]], axis=0)
            scattered = tf.scatter_nd(places, values, size)
            return tf.ensure_shape(scattered, [None, MOST, *values.shape[1:]])

        good = placed(answer["valid"])[:, 0]
        shown = tf.cast(good, tf.float32)[:, None]
        return {
            "boxes": boxes * shown[..., None],
            "garment_category": tf.where(good[:, None], found["category"], ""),
            "garment_score": found["score"] * shown,
            **{name: placed(answer[name]) for name in ("item_id", "image_path", "score")},
            "valid": good,
            "error": tf.where(found["valid"], placed(answer["error"])[:, 0], found["error"]),
        }

    def search_embedding(self, embedding: tf.Tensor, k: tf.Tensor, category: tf.Tensor) -> Tensors:
        """Finds the gallery images nearest to embeddings that `embed` gave.

        Args:
            embedding: float32 [n, d].
            k: int32 [n], see `search`.
            category: string [n], see `search`.

        Returns:
            dict as `search`; `error` is "", NOT_FINITE or UNKNOWN_CATEGORY.
        """
        valid = _finite(embedding)
        embedding = tf.where(valid[:, None], embedding, 0.0)
        return self._search(embedding, k, category, _finite_state(valid))

    def _of_files(self, image_bytes: tf.Tensor) -> tuple[Tensors, Tensors]:
        """Returns the network's outputs, and which rows are valid and why others are not."""
        pixels, valid = guarded_rows(
            lambda contents: decode_and_fit(contents, self._size, self._resize),
            image_bytes,
            (self._size, self._size, 3),
        )
        return self._outputs(pixels), _file_state(valid, image_bytes)

    def _of_boxes(self, image_bytes: tf.Tensor, box: tf.Tensor) -> tuple[Tensors, Tensors]:
        """`_of_files` of what the images have in their boxes."""
        corner, size = box[:, :2], box[:, 2:]
        inside = tf.concat([size > 0, corner < 1, corner + size > 0], axis=1)
        good = tf.reduce_all(tf.math.is_finite(box), axis=1) & tf.reduce_all(inside, axis=1)
        # A bad one is NaN, which is the whole image: whether that can be read is told first.
        box = tf.where(good[:, None], box, float("nan"))
        pixels, valid = guarded_rows(
            lambda contents, box: decode_and_fit(
                contents, self._size, self._resize, Crop(box, tf.constant(True), self._margin)
            ),
            (image_bytes, box),
            (self._size, self._size, 3),
        )
        state = _file_state(valid, image_bytes)
        error = tf.where(valid & ~good, BAD_BOX, state["error"])
        pixels = tf.where(good[:, None, None, None], pixels, 0.0)
        return self._outputs(pixels), {"valid": valid & good, "error": error}

    def _of_cuts(self, image_bytes: tf.Tensor, box: tf.Tensor) -> tuple[Tensors, Tensors]:
        """`_of_files` of garments that are cut out, see `fir_tf.locate.cut`."""

        def fitted(contents: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
            square = with_room(box, upright_sides(contents))
            crop = Crop(square, tf.constant(False), 0.0)
            return decode_and_fit(contents, self._size, self._resize, crop)

        shape = (self._size, self._size, 3)
        pixels, valid = guarded_rows(fitted, (image_bytes, box), shape)
        return self._outputs(pixels), _file_state(valid, image_bytes)

    def _classes(self, outputs: Tensors, state: Tensors) -> Tensors:
        score, index = tf.math.top_k(outputs["category"], self.top)
        names = tf.where(state["valid"][:, None], tf.gather(self._names, index), "")
        return {"category": names, "score": score * _mask(state), **state}

    def _of_pixels(self, pixels: tf.Tensor) -> Tensors:
        """Runs the network, also on no image, which oneDNN's fused convolutions refuse."""
        count = tf.shape(pixels)[0]
        some = tf.cond(tf.equal(count, 0), lambda: tf.zeros([1, *pixels.shape[1:]]), lambda: pixels)
        some = tf.ensure_shape(some, pixels.shape)
        return {name: value[:count] for name, value in self._network(some).items()}

    def _search(
        self, embedding: tf.Tensor, k: tf.Tensor, category: tf.Tensor, state: Tensors
    ) -> Tensors:
        if self.gallery is None:
            raise FirError("there is nothing to search: the model was exported without a gallery")
        valid = state["valid"]
        found, known = self.gallery.search(embedding, tf.where(valid, k, 0), category)
        error = tf.where(valid & ~known, UNKNOWN_CATEGORY, state["error"])
        return {**found, "valid": valid & known, "error": error}


def _traced(
    method: Callable[..., tf.Tensor], *signature: tf.TensorSpec
) -> tf.types.experimental.GenericFunction:
    return tf.function(method, input_signature=signature, autograph=False)


@tf.function(input_signature=[_IMAGES], autograph=False)
def _reasons(image_bytes: tf.Tensor) -> tf.Tensor:
    """Says why images (string [n]) that failed to decode did: string [n], a code each."""
    # A JPEG without a readable header has no size and is corrupt.
    sides, _ = guarded_rows(
        lambda value: tf.cast(tf.minimum(dimensions(value), 2**31), tf.float32), image_bytes, (2,)
    )
    known = tf.map_fn(is_known, image_bytes, fn_output_signature=tf.bool)
    lengths = tf.strings.length(image_bytes)
    large = (tf.reduce_prod(sides, axis=1) > MAX_PIXELS) | (lengths > MAX_BYTES)
    reasons = tf.where(large, TOO_LARGE, CORRUPT)
    reasons = tf.where(known, reasons, UNSUPPORTED_FORMAT)
    return tf.where(lengths > 0, reasons, EMPTY)


def _file_state(valid: tf.Tensor, image_bytes: tf.Tensor) -> Tensors:
    """Returns `valid`, and as `error` why the other images could not be decoded."""
    # Looked into only where decoding failed: good images do not pay for it.
    bad = tf.where(~valid)
    reasons = _reasons(tf.gather(image_bytes, bad[:, 0]))
    return {"valid": valid, "error": tf.scatter_nd(bad, reasons, tf.shape(valid, tf.int64))}


def _embedding(outputs: Tensors, state: Tensors) -> Tensors:
    return {"embedding": outputs["embedding"] * _mask(state), **state}


def _mask(state: Tensors) -> tf.Tensor:
    return tf.cast(state["valid"], tf.float32)[:, None]


def _finite_state(valid: tf.Tensor) -> Tensors:
    return {"valid": valid, "error": tf.where(valid, "", NOT_FINITE)}


def _finite(embedding: tf.Tensor) -> tf.Tensor:
    return tf.reduce_all(tf.math.is_finite(embedding), axis=1)
