"""Training views of an image, as pure functions of a seed."""

import math

import tensorflow as tf

from fir_tf.input.images import decode

_TRIES = 10
_LOG_RATIO = math.log(4 / 3)


def window(height, width, seed, area_min):
    """Draws the window of a random resized crop.

    The law is torchvision's RandomResizedCrop: ten draws of a uniform area share in
    [area_min, 1] and a log-uniform aspect ratio in [3/4, 4/3]; the first that fits is taken,
    otherwise the largest centred window whose ratio is allowed. (TensorFlow's
    `sample_distorted_bounding_box` draws smaller windows.)

    Args:
        height, width: int32 scalars, the image's size in pixels.
        seed: int32 [2].
        area_min: float in (0, 1].

    Returns:
        int32 [4]: top, left, height, width in pixels.
    """
    seeds = tf.random.split(seed, 3)
    rows, columns = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
    area = rows * columns * tf.random.stateless_uniform([_TRIES], seeds[0], area_min, 1.0)
    ratio = tf.exp(tf.random.stateless_uniform([_TRIES], seeds[1], -_LOG_RATIO, _LOG_RATIO))
    widths = tf.cast(tf.round(tf.sqrt(area * ratio)), tf.int32)
    heights = tf.cast(tf.round(tf.sqrt(area / ratio)), tf.int32)
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = tf.argmax(fits, output_type=tf.int32)
    whole_ratio = tf.clip_by_value(columns / rows, 3 / 4, 4 / 3)
    fallback_width = tf.minimum(width, tf.cast(tf.round(rows * whole_ratio), tf.int32))
    fallback_height = tf.minimum(height, tf.cast(tf.round(columns / whole_ratio), tf.int32))
    found = tf.reduce_any(fits)
    box_height = tf.where(found, heights[first], tf.maximum(fallback_height, 1))
    box_width = tf.where(found, widths[first], tf.maximum(fallback_width, 1))
    place = tf.random.stateless_uniform([2], seeds[2])
    free_rows, free_columns = height - box_height, width - box_width
    top = tf.cast(place[0] * tf.cast(free_rows + 1, tf.float32), tf.int32)
    left = tf.cast(place[1] * tf.cast(free_columns + 1, tf.float32), tf.int32)
    top = tf.where(found, tf.minimum(top, free_rows), free_rows // 2)
    left = tf.where(found, tf.minimum(left, free_columns), free_columns // 2)
    return tf.stack([top, left, box_height, box_width])


def random_resized_crop(contents, image_size, seed, area_min):
    """Decodes a random window of an image and resizes it to the model's input size.

    Of a JPEG only the window is decoded.

    Args:
        contents: string scalar, an image file's bytes.
        image_size: int, side of the result in pixels.
        seed: int32 [2].
        area_min: float in (0, 1], the smallest share of the image's area.

    Returns:
        float32 [image_size, image_size, 3] in [0, 255].
    """

    def from_jpeg():
        shape = tf.io.extract_jpeg_shape(contents)
        box = window(shape[0], shape[1], seed, area_min)
        return tf.io.decode_and_crop_jpeg(contents, box, channels=3)

    def from_other():
        pixels = decode(contents)
        pixels.set_shape([None, None, 3])
        shape = tf.shape(pixels)
        box = window(shape[0], shape[1], seed, area_min)
        return pixels[box[0] : box[0] + box[2], box[1] : box[1] + box[3]]

    cut = tf.cond(tf.io.is_jpeg(contents), from_jpeg, from_other)
    cut.set_shape([None, None, 3])
    resized = tf.image.resize(cut, (image_size, image_size), antialias=True)
    return tf.clip_by_value(resized, 0.0, 255.0)


def flip(pixels, seed):
    """Mirrors the image left to right for half of the seeds."""
    return tf.cond(
        tf.random.stateless_uniform([], seed) < 0.5, lambda: pixels[:, ::-1], lambda: pixels
    )


def grayscale(pixels, seed, probability):
    """Takes the colour out of the image with the given probability (three equal channels).

    An item's colour variants carry one label (In-Shop), so some colour invariance is worth
    learning.
    """
    weights = tf.constant([0.299, 0.587, 0.114])
    gray = tf.reduce_sum(pixels * weights, axis=-1, keepdims=True)
    return tf.where(
        tf.random.stateless_uniform([], seed) < probability,
        tf.broadcast_to(gray, tf.shape(pixels)),
        pixels,
    )


def colour_jitter(pixels, seed, strength):
    """Scales brightness, contrast and saturation by factors in [1 - strength, 1 + strength]."""
    factor = tf.random.stateless_uniform([3], seed, 1.0 - strength, 1.0 + strength)
    pixels = pixels * factor[0]
    mean = tf.reduce_mean(pixels)
    pixels = mean + (pixels - mean) * factor[1]
    gray = tf.reduce_mean(pixels, axis=-1, keepdims=True)
    return tf.clip_by_value(gray + (pixels - gray) * factor[2], 0.0, 255.0)


def training_view(contents, seed, config):
    """Makes one training view of an image: a pure function of the bytes, the seed and config.

    Args:
        contents: string scalar, an image file's bytes.
        seed: int32 [2].
        config: Config; `image_size`, `crop_area_min`, `grayscale`, `colour_jitter`.

    Returns:
        float32 [image_size, image_size, 3] in [0, 255].
    """
    seeds = tf.random.split(seed, 4)
    pixels = random_resized_crop(contents, config.image_size, seeds[0], config.crop_area_min)
    pixels = flip(pixels, seeds[1])
    if config.colour_jitter:
        pixels = colour_jitter(pixels, seeds[2], config.colour_jitter)
    if config.grayscale:
        pixels = grayscale(pixels, seeds[3], config.grayscale)
    return tf.ensure_shape(pixels, (config.image_size, config.image_size, 3))
