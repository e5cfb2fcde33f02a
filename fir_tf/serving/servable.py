"""The exported graph: image bytes -> embedding, categories, item ids; no Python, no file read."""

import tensorflow as tf

from fir_tf.images.decode import decode_and_fit, fit, guarded_rows
from fir_tf.images.header import dimensions, is_known
from fir_tf.images.limits import MAX_BYTES, MAX_PIXELS
from fir_tf.keras_versions import tensor_of

# What stands in `error` of a row that is not valid.
EMPTY = "EMPTY"
UNSUPPORTED_FORMAT = "UNSUPPORTED_FORMAT"
TOO_LARGE = "TOO_LARGE"
CORRUPT = "CORRUPT"
UNKNOWN_CATEGORY = "UNKNOWN_CATEGORY"
NOT_FINITE = "NOT_FINITE"

_IMAGES = tf.TensorSpec([None], tf.string, name="image_bytes")
_K = tf.TensorSpec([None], tf.int32, name="k")
_CATEGORY = tf.TensorSpec([None], tf.string, name="category")


class Servable(tf.Module):
    """Preprocessing, network and gallery in one.

    Every input and output has one row an image, so TF Serving may batch requests together and
    its REST interface's row format works. A row that cannot be answered has valid False, the
    reason in `error`, zeros and empty strings elsewhere; other rows are unaffected to the bit.

    Args:
        network: keras.Model, see `fir_tf.models.fir.build_fir` and
            `fir_tf.serving.fold.inference_model`.
        config: Config; `image_size` and `resize` as in evaluation.
        categories: list of str, the names of the category output.
        top: int, categories returned for each image.
        gallery: fir_tf.serving.gallery.Gallery or None.
    """

    def __init__(self, network, config, categories, top, gallery=None):
        super().__init__(name="fir")
        # TensorFlow would save a Keras model's variables twice, and its C++ loader restore the
        # copies that no signature reads: the plain variables are tracked, the model is not.
        self.weights = [tensor_of(weight) for weight in network.weights]
        self._network = lambda pixels: network(pixels, training=False)
        self.gallery = gallery
        self.top = min(top, len(categories))
        self._size = config.image_size
        self._resize = config.resize
        self._names = tf.constant(categories)
        self._fitted = tf.TensorSpec([None, self._size, self._size, 3], tf.float32, name="pixels")
        # What the signatures share is traced, saved and loaded once.
        self._run, self._outputs = _traced(self._run, _IMAGES), _traced(self._outputs, self._fitted)

    def signatures(self):
        """Returns {name: tf.function with an input signature}, what the SavedModel offers."""
        decoded = tf.TensorSpec([None, None, None, 3], tf.uint8, name="pixels")
        embed = _traced(self.embed, _IMAGES)
        found = {
            "serving_default": embed,
            "embed": embed,
            "classify": _traced(self.classify, _IMAGES),
            "embed_pixels": _traced(self.embed_pixels, self._fitted),
            "embed_pixels_uint8": _traced(self.embed_pixels_uint8, decoded),
        }
        if self.gallery is not None:
            width = self.gallery.vectors.shape[1]
            vector = tf.TensorSpec([None, width], tf.float32, name="embedding")
            found["search"] = _traced(self.search, _IMAGES, _K, _CATEGORY)
            found["search_embedding"] = _traced(self.search_embedding, vector, _K, _CATEGORY)
        return found

    def embed(self, image_bytes):
        """Embeds images.

        Args:
            image_bytes: string [n], JPEG, PNG, GIF (first frame) or BMP (24 or 32 bits) files.
                The name ends in `_bytes`, so TF Serving's REST API takes `{"b64": ...}` for it.

        Returns:
            dict: `embedding` float32 [n, d], unit length; `valid` bool [n]; `error` string [n],
            "" or EMPTY, UNSUPPORTED_FORMAT, TOO_LARGE or CORRUPT.
        """
        outputs, valid, error = self._run(image_bytes)
        return {
            "embedding": outputs["embedding"] * _mask(valid),
            "valid": valid,
            "error": error,
        }

    def classify(self, image_bytes):
        """Classifies images.

        Args:
            image_bytes: string [n], see `embed`.

        Returns:
            dict: `category` string [n, top], names in descending order of `score` float32
            [n, top], softmax; `valid` and `error` as in `embed`.
        """
        outputs, valid, error = self._run(image_bytes)
        score, index = tf.math.top_k(outputs["category"], self.top)
        return {
            "category": tf.where(valid[:, None], tf.gather(self._names, index), ""),
            "score": score * _mask(valid),
            "valid": valid,
            "error": error,
        }

    def embed_pixels(self, pixels):
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
        return {
            "embedding": tf.where(valid[:, None], embedding, 0.0),
            "valid": valid,
            "error": tf.where(valid, "", NOT_FINITE),
        }

    def embed_pixels_uint8(self, pixels):
        """Embeds decoded images of one size, which are fitted as image files are.

        Args:
            pixels: uint8 [n, height, width, 3], RGB, height and width at least 1.

        Returns:
            dict as `embed_pixels`.
        """
        shape = (self._size, self._size, 3)
        fitted = tf.map_fn(
            lambda image: fit(image, self._size, self._resize),
            pixels,
            fn_output_signature=tf.TensorSpec(shape, tf.float32),
        )
        return self.embed_pixels(fitted)

    def search(self, image_bytes, k, category):
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
        outputs, valid, error = self._run(image_bytes)
        return self._search(outputs["embedding"], k, category, valid, error)

    def search_embedding(self, embedding, k, category):
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
        return self._search(embedding, k, category, valid, tf.where(valid, "", NOT_FINITE))

    def _run(self, image_bytes):
        pixels, valid = guarded_rows(
            lambda contents: decode_and_fit(contents, self._size, self._resize),
            image_bytes,
            (self._size, self._size, 3),
        )
        # Looked into only where decoding failed: good images do not pay for it.
        bad = tf.where(~valid)
        reasons = _reasons(tf.gather(image_bytes, bad[:, 0]))
        error = tf.scatter_nd(bad, reasons, tf.shape(valid, tf.int64))
        return self._outputs(pixels), valid, error

    def _outputs(self, pixels):
        """Runs the network, also on no image, which oneDNN's fused convolutions refuse."""
        count = tf.shape(pixels)[0]
        some = tf.cond(tf.equal(count, 0), lambda: tf.zeros([1, *pixels.shape[1:]]), lambda: pixels)
        some = tf.ensure_shape(some, pixels.shape)
        return {name: value[:count] for name, value in self._network(some).items()}

    def _search(self, embedding, k, category, valid, error):
        found, known = self.gallery.search(embedding, tf.where(valid, k, 0), category)
        error = tf.where(valid & ~known, UNKNOWN_CATEGORY, error)
        return {**found, "valid": valid & known, "error": error}


def _traced(method, *signature):
    return tf.function(method, input_signature=signature, autograph=False)


def _reasons(image_bytes):
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


def _mask(valid):
    return tf.cast(valid, tf.float32)[:, None]


def _finite(embedding):
    return tf.reduce_all(tf.math.is_finite(embedding), axis=1)
