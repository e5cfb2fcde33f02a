"""Training views of an image, as pure functions of a few random numbers."""

import math

import tensorflow as tf

from fir_tf.config import InputSettings
from fir_tf.images.box import Crop, within
from fir_tf.images.decode import decode, halvings
from fir_tf.images.exif import orientation, upright

_LOG_RATIO = math.log(4 / 3)
# Random erasing: shares of the area, ratios of height to width, and how often a place is drawn.
_ERASED_AREA, _ERASED_RATIO, _ERASED_TRIES = (0.02, 0.4), (0.3, 1 / 0.3), 40

# A view's random numbers and what they are for.
_AREA, _RATIO, _PLACE = slice(0, 10), slice(10, 20), slice(20, 22)
_WINDOW = slice(0, 22)
_FLIP, _GRAYSCALE, _JITTER = 22, 23, slice(24, 27)
DRAWS = 27


def window(height: tf.Tensor, width: tf.Tensor, draws: tf.Tensor, area_min: float) -> tf.Tensor:
    """Draws the window of a random resized crop.

    The law is torchvision's RandomResizedCrop: ten draws of a uniform area share in
    [area_min, 1] and a log-uniform aspect ratio in [3/4, 4/3]; the first that fits is taken,
    otherwise the largest centred window whose ratio is allowed. (TensorFlow's
    `sample_distorted_bounding_box` draws smaller windows.)

    Args:
        height, width: int32 scalars, the image's size in pixels.
        draws: float32 [22], uniform in [0, 1).
        area_min: float in (0, 1].

    Returns:
        int32 [4]: top, left, height, width in pixels.
    """
    rows, columns = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
    area = rows * columns * (area_min + (1.0 - area_min) * draws[_AREA])
    ratio = tf.exp(_LOG_RATIO * (2.0 * draws[_RATIO] - 1.0))
    widths, heights = tf.round(tf.sqrt(area * ratio)), tf.round(tf.sqrt(area / ratio))
    fits = (widths > 0) & (widths <= columns) & (heights > 0) & (heights <= rows)
    size = tf.stack([rows, columns])

    def drawn() -> tuple[tf.Tensor, tf.Tensor]:
        first = tf.argmax(fits)
        box = tf.stack([heights[first], widths[first]])
        # Rounding may reach the number of places itself.
        return tf.minimum(tf.floor(draws[_PLACE] * (size - box + 1.0)), size - box), box

    def centred() -> tuple[tf.Tensor, tf.Tensor]:
        whole_ratio = tf.clip_by_value(columns / rows, 3 / 4, 4 / 3)
        box = tf.round(tf.stack([columns / whole_ratio, rows * whole_ratio]))
        box = tf.maximum(tf.minimum(box, size), 1.0)
        return (size - box) // 2.0, box

    corner, box = tf.cond(tf.reduce_any(fits), drawn, centred)
    return tf.cast(tf.concat([corner, box], axis=0), tf.int32)


def random_crop(
    contents: tf.Tensor,
    image_size: int,
    draws: tf.Tensor,
    area_min: float,
    crop: Crop | None = None,
) -> tf.Tensor:
    """Decodes a random window of an image, or of a crop of it.

    A JPEG is decoded from the window's top down and in the window's columns alone, and at reduced
    size while both sides stay at least `image_size`; the window's edges then move by less than
    one pixel of the result. What would refuse the whole image refuses every window of it.

    Args:
        contents: string scalar, an image file's bytes.
        image_size: int, the side that the window will be resized to.
        draws: float32 [22], see `window`.
        area_min: float in (0, 1], the smallest share of the image's area, or of the crop's.
        crop: Crop, None for the whole image.

    Returns:
        uint8 [height, width, 3], as stored: the EXIF orientation is left to the caller.
    """

    def choose(height: tf.Tensor, width: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        box = window(height, width, draws, area_min)
        return box, halvings(box[2:], image_size)

    return decode(contents, within(crop, orientation(contents), choose) if crop else choose)[0]


def shrink_or_grow(pixels: tf.Tensor, image_size: int) -> tf.Tensor:
    """Resizes a window to the model's input size without aliasing.

    A window that shrinks in both directions is averaged over areas, at a third of the cost of
    `tf.image.resize` with antialiasing; one that grows is interpolated, which needs none.

    Args:
        pixels: uint8 [height, width, 3].
        image_size: int, side of the result in pixels.

    Returns:
        float32 [image_size, image_size, 3] in [0, 255].
    """
    size = (image_size, image_size)
    smaller = tf.shape(pixels)[:2] < image_size
    case = tf.reduce_sum(tf.cast(smaller, tf.int32))
    resized = tf.switch_case(
        case,
        [
            lambda: tf.image.resize(pixels, size, method="area"),
            lambda: tf.image.resize(pixels, size, antialias=True),
            lambda: tf.image.resize(pixels, size),
        ],
    )
    # Weights that do not add up to 1 exactly leave white a trace above 255.
    return tf.minimum(tf.ensure_shape(resized, (*size, 3)), 255.0)


def flip(pixels: tf.Tensor, draw: tf.Tensor) -> tf.Tensor:
    """Mirrors the image left to right where `draw`, uniform in [0, 1), is below 1/2."""
    # A stride of -1 does the same and takes thirty times as long.
    return tf.cond(draw < 0.5, lambda: tf.reverse(pixels, [1]), lambda: tf.identity(pixels))


def grayscale(pixels: tf.Tensor, draw: tf.Tensor, probability: float) -> tf.Tensor:
    """Takes the colour out of the image (three equal channels) where `draw` < `probability`.

    An item's colour variants carry one label (In-Shop), so some colour invariance is worth
    learning.
    """

    def gray() -> tf.Tensor:
        mean = tf.reduce_sum(pixels * tf.constant([0.299, 0.587, 0.114]), axis=-1, keepdims=True)
        return tf.broadcast_to(mean, tf.shape(pixels))

    return tf.cond(draw < probability, gray, lambda: tf.identity(pixels))


def colour_jitter(pixels: tf.Tensor, draws: tf.Tensor, strength: float) -> tf.Tensor:
    """Scales brightness, contrast and saturation by factors in [1 - strength, 1 + strength].

    Args:
        pixels: float32 [height, width, 3] in [0, 255].
        draws: float32 [3], uniform in [0, 1).
        strength: float in [0, 1].

    Returns:
        float32 [height, width, 3] in [0, 255].
    """
    factor = 1.0 + strength * (2.0 * draws - 1.0)
    pixels = pixels * factor[0]
    mean = tf.reduce_mean(pixels)
    pixels = mean + (pixels - mean) * factor[1]
    gray = tf.reduce_mean(pixels, axis=-1, keepdims=True)
    return tf.clip_by_value(gray + (pixels - gray) * factor[2], 0.0, 255.0)


def random_erasing(pixels: tf.Tensor, seed: tf.Tensor, probability: float) -> tf.Tensor:
    """Fills a random rectangle with random pixels, with a probability (Zhong et al. 2017).

    Algorithm 1 with the paper's numbers: the rectangle has a uniform share of 0.02 to 0.4 of the
    area, a uniform ratio of height to width of 0.3 to 1 / 0.3 and a uniform corner; the first of
    40 that lies within the image is taken (each does with a probability of about 0.27; the paper
    draws on without end).

    Args:
        pixels: float32 [height, width, 3] in [0, 255].
        seed: int32 [2], all that the result depends on beside the pixels.
        probability: float in [0, 1].

    Returns:
        float32 [height, width, 3] in [0, 255].
    """
    seeds = tf.random.split(seed, 3)
    size = tf.shape(pixels)[:2]

    def erased() -> tf.Tensor:
        draws = tf.random.stateless_uniform([4, _ERASED_TRIES], seeds[1])
        sides = tf.cast(size, tf.float32)[:, None]
        (least, most), (low, high) = _ERASED_AREA, _ERASED_RATIO
        area = sides[0] * sides[1] * (least + (most - least) * draws[0])
        ratio = low + (high - low) * draws[1]
        box = tf.round(tf.sqrt(tf.stack([area * ratio, area / ratio])))
        corner = tf.floor(draws[2:] * sides)
        fits = tf.reduce_all((box > 0) & (corner + box <= sides), axis=0)
        first = tf.argmax(fits)
        start, end = corner[:, first], corner[:, first] + box[:, first]
        rows, columns = (tf.range(tf.cast(size[axis], tf.float32)) for axis in (0, 1))
        inside = ((rows >= start[0]) & (rows < end[0]))[:, None]
        inside &= (columns >= start[1]) & (columns < end[1])
        noise = tf.random.stateless_uniform(tf.shape(pixels), seeds[2], maxval=255.0)
        return tf.where((inside & tf.reduce_any(fits))[..., None], noise, pixels)

    chosen = tf.random.stateless_uniform([], seeds[0]) < probability
    return tf.cond(chosen, erased, lambda: tf.identity(pixels))


def training_view(
    contents: tf.Tensor, draws: tf.Tensor, settings: InputSettings, crop: Crop | None = None
) -> tf.Tensor:
    """Makes one training view of an image: a pure function of the bytes, the draws and settings.

    Args:
        contents: string scalar, an image file's bytes.
        draws: float32 [DRAWS], uniform in [0, 1).
        settings: InputSettings; `image_size`, `crop_area_min`, `grayscale`, `colour_jitter`,
            `random_erasing`.
        crop: Crop that takes the place of the image; None for the whole of it.

    Returns:
        float32 [image_size, image_size, 3] in [0, 255].
    """
    size, area_min = settings.image_size, settings.crop_area_min
    cut = random_crop(contents, size, draws[_WINDOW], area_min, crop)
    # Turned at its final size: there is less to move, and oneDNN has no transpose of bytes.
    pixels = upright(shrink_or_grow(cut, size), orientation(contents))
    pixels = flip(pixels, draws[_FLIP])
    if settings.colour_jitter:
        pixels = colour_jitter(pixels, draws[_JITTER], settings.colour_jitter)
    if settings.grayscale:
        pixels = grayscale(pixels, draws[_GRAYSCALE], settings.grayscale)
    if settings.random_erasing:
        # A generator of its own: one draw more would change all the others.
        seed = tf.bitcast(draws[_PLACE], tf.int32)
        pixels = random_erasing(pixels, seed, settings.random_erasing)
    return tf.ensure_shape(pixels, (size, size, 3))
