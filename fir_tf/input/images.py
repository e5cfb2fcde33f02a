"""Image bytes -> pixels: one function for evaluation, the index and the exported graph.

Everything here is TensorFlow ops, so it runs on a TPU host and inside a C++ server.
"""

import tensorflow as tf

# Evaluation resizes the short side to 256 for a centre crop of 224 (PAPER: images).
CROP_FRACTION = 224 / 256


def decode(contents):
    """Decodes one image.

    Args:
        contents: string scalar, a JPEG, PNG, GIF (first frame) or BMP file.

    Returns:
        uint8 [height, width, 3], RGB.
    """
    return tf.io.decode_image(contents, channels=3, expand_animations=False)


def fit(pixels, image_size, resize):
    """Brings a decoded image to the model's input size, as evaluation and serving do.

    Args:
        pixels: uint8 [height, width, 3].
        image_size: int, side of the square result in pixels.
        resize: "crop" resizes the short side to 8/7 of `image_size` and takes the centre;
            "squash" resizes the whole image to the square, whatever its proportions; "pad"
            resizes the long side and fills the square up with white, the ground of most
            catalogue photos.

    Returns:
        float32 [image_size, image_size, 3] in [0, 255], antialiased.
    """
    pixels.set_shape([None, None, 3])
    if resize == "squash":
        return _resize(pixels, image_size, image_size)
    if resize == "pad":
        return _pad(pixels, image_size)
    # The centre is cut out before resizing: the same window, without the work for the rest.
    shape = tf.shape(pixels)
    side = tf.cast(
        tf.round(tf.cast(tf.minimum(shape[0], shape[1]), tf.float32) * CROP_FRACTION), tf.int32
    )
    side = tf.maximum(side, 1)
    top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
    return _resize(pixels[top : top + side, left : left + side], image_size, image_size)


def _resize(pixels, height, width):
    resized = tf.image.resize(pixels, (height, width), method="bilinear", antialias=True)
    return tf.ensure_shape(tf.clip_by_value(resized, 0.0, 255.0), (height, width, 3))


def _pad(pixels, image_size):
    shape = tf.cast(tf.shape(pixels)[:2], tf.float32)
    sides = tf.cast(tf.round(shape * image_size / tf.reduce_max(shape)), tf.int32)
    sides = tf.maximum(sides, 1)
    resized = tf.image.resize(pixels, sides, method="bilinear", antialias=True)
    before = (image_size - sides) // 2
    after = image_size - sides - before
    margins = [[before[0], after[0]], [before[1], after[1]], [0, 0]]
    padded = tf.pad(tf.clip_by_value(resized, 0.0, 255.0), margins, constant_values=255.0)
    return tf.ensure_shape(padded, (image_size, image_size, 3))


def preprocess(contents, image_size, resize):
    """Decodes and fits one image; a bad one is marked and harms nothing else.

    Args:
        contents: string scalar, an image file's bytes.
        image_size: int, side of the result in pixels.
        resize: "crop", "squash" or "pad", see `fit`.

    Returns:
        pixels: float32 [image_size, image_size, 3] in [0, 255]; zeros where not valid.
        valid: bool scalar, whether the image could be decoded.
    """
    return guarded(
        lambda value: fit(decode(value), image_size, resize), contents, (image_size, image_size, 3)
    )


def guarded(function, argument, shape):
    """Runs `function` on one example so that its failure stays its own.

    A graph has no try: the example goes through a tf.data pipeline of one element, whose
    `ignore_errors` drops it on failure, and zeros take its place.

    Args:
        function: callable, `argument` -> float32 tensor of `shape`.
        argument: tensor or structure of tensors, one example.
        shape: tuple of int, the static shape of the result.

    Returns:
        (float32 tensor of `shape`, bool scalar: whether `function` succeeded).
    """
    good = tf.data.Dataset.from_tensors(argument).map(lambda *values: (function(*values), True))
    bad = tf.data.Dataset.from_tensors((tf.zeros(shape), False))
    value, valid = good.ignore_errors().concatenate(bad).take(1).get_single_element()
    return tf.ensure_shape(value, shape), tf.ensure_shape(valid, ())


def read_and_preprocess(path, image_size, resize):
    """Like `preprocess`, from a file's path (string scalar); a missing file is not valid."""
    return guarded(
        lambda value: fit(decode(tf.io.read_file(value)), image_size, resize),
        path,
        (image_size, image_size, 3),
    )
