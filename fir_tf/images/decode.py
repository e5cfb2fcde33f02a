"""Image bytes -> pixels: one function for evaluation, the index and the exported graph.

Everything here is TensorFlow ops, so it runs on a TPU host and inside a C++ server.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from fir_tf.images import gif, png
from fir_tf.images.binary import traced_once
from fir_tf.images.box import Crop, within
from fir_tf.images.exif import orientation, upright
from fir_tf.images.header import bmp_has_alpha, decodable, other_format
from fir_tf.images.rules import BLOCK, CROP_FRACTION, HALVINGS_MAX, OVERSAMPLING


def halvings(available: tf.Tensor, wanted: float) -> tf.Tensor:
    """Says how often a JPEG may be halved while it is decoded.

    Args:
        available: int32 or float32 [...], sides of the window in the file, in pixels.
        wanted: int or float, what each of the sides must keep at least.

    Returns:
        int32 scalar, 0 to 3.
    """
    available = tf.reduce_min(tf.cast(available, tf.float32))
    enough = [available >= wanted * 2.0**count for count in range(1, HALVINGS_MAX + 1)]
    return tf.reduce_sum(tf.cast(enough, tf.int32))


def _everything(height: tf.Tensor, width: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return tf.stack([0, 0, height, width]), tf.constant(0)


def decode(
    contents: tf.Tensor, choose: Callable[..., tuple[tf.Tensor, tf.Tensor]] = _everything
) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes one image, or a window of it.

    Args:
        contents: string scalar, a JPEG, PNG, GIF (first frame) or BMP file.
        choose: callable from (height, width), the image's size as int32 scalars, to (window,
            halvings), where window is int32 [4], top, left, height and width in pixels, and
            halvings int32 scalar, how often the window's sides are halved, 0 to 3. Only a JPEG is
            halved, and of a JPEG only the window and what lies below it is decoded.

    Returns:
        (pixels, extent): uint8 [height, width, 3], RGB, and float32 [2], height and width of the
        window measured in these pixels. Where the window's sides cannot be halved evenly, `extent`
        is up to half a pixel more or less than the shape of `pixels`.

    What is transparent is seen on white, the ground of most catalogue photos. Colour profiles and
    gamma are not applied. The EXIF orientation is left to the caller (`fir_tf.images.exif`):
    turning the fitted image is cheaper than turning the decoded one.
    """
    contents = decodable(contents)

    def from_jpeg() -> tuple[tf.Tensor, tf.Tensor]:
        shape = tf.io.extract_jpeg_shape(contents)
        window, count = choose(shape[0], shape[1])
        # Whatever is wanted, a side keeps a block of 8: what fills up a smaller one is no picture.
        count = tf.minimum(count, halvings(window[2:], BLOCK))
        pixels = tf.switch_case(
            count,
            [
                lambda ratio=2**step: _jpeg_window(contents, window, ratio, shape[0])
                for step in range(HALVINGS_MAX + 1)
            ],
        )
        return pixels, tf.cast(window[2:], tf.float32) / tf.cast(2**count, tf.float32)

    def from_other() -> tuple[tf.Tensor, tf.Tensor]:
        pixels = _other_pixels(contents)
        shape = tf.shape(pixels)
        window, _ = choose(shape[0], shape[1])
        top, left, height, width = tf.unstack(window)
        cut = pixels[top : top + height, left : left + width]
        return _on_white(cut), tf.cast(window[2:], tf.float32)

    pixels, extent = tf.cond(tf.io.is_jpeg(contents), from_jpeg, from_other)
    return tf.ensure_shape(pixels, [None, None, 3]), extent


def _jpeg_window(
    contents: tf.Tensor, window: tf.Tensor, ratio: int, height: tf.Tensor
) -> tf.Tensor:
    # Edges go to the nearest pixel of the smaller image.
    edges = (tf.stack([window[:2], window[:2] + window[2:]]) + ratio // 2) // ratio
    # A long and thin photo keeps a pixel of its short side.
    sides = tf.maximum(edges[1] - edges[0], 1)
    # Down to the last row: the decoder notices no damage below the last that it is asked for.
    rows = -(-height // ratio) - edges[0, 0]
    pixels = tf.io.decode_and_crop_jpeg(
        contents,
        tf.stack([edges[0, 0], edges[0, 1], rows, sides[1]]),
        channels=3,
        ratio=ratio,
        # TensorFlow's own choice is no faster, and off by a level on average; Pillow, by which
        # `fir_tf.images.plain` decodes, has this one alone.
        dct_method="INTEGER_ACCURATE",
    )
    return pixels[: sides[0]]


@traced_once
def _other_pixels(contents: tf.Tensor) -> tf.Tensor:
    """Decodes what is no JPEG to uint8 [height, width, 3 or 4]."""

    def decoded(has_alpha: tf.Tensor, decoder: Callable[..., tf.Tensor]) -> tf.Tensor:
        return tf.cond(
            has_alpha,
            lambda: decoder(contents, channels=4),
            lambda: decoder(contents, channels=3),
        )

    pixels = tf.switch_case(
        other_format(contents),
        [
            lambda: decoded(png.has_alpha(contents), tf.io.decode_png),
            lambda: gif.decode_frame(contents),
            lambda: decoded(bmp_has_alpha(contents), tf.io.decode_bmp),
            # Refused, with the decoder's words.
            lambda: tf.io.decode_png(contents, channels=3),
        ],
    )
    return tf.ensure_shape(pixels, [None, None, None])


def _on_white(pixels: tf.Tensor) -> tf.Tensor:
    """uint8 [height, width, 3 or 4] -> [height, width, 3]."""

    def blended() -> tf.Tensor:
        alpha = tf.cast(pixels[..., 3:], tf.float32) * (1 / 255)
        colour = tf.cast(pixels[..., :3], tf.float32)
        return tf.cast(255.5 + (colour - 255.0) * alpha, tf.uint8)

    return tf.cond(
        tf.reduce_any(pixels[..., 3:] < 255), blended, lambda: tf.identity(pixels[..., :3])
    )


def fit(
    pixels: tf.Tensor, image_size: int, resize: str, extent: tf.Tensor | None = None
) -> tf.Tensor:
    """Brings a decoded image to the model's input size, as evaluation and serving do.

    Args:
        pixels: uint8 [height, width, 3].
        image_size: int, side of the square result in pixels.
        resize: "crop" resizes the short side to 8/7 of `image_size` and takes the centre;
            "squash" resizes the whole image to the square, whatever its proportions; "pad"
            resizes the long side and fills the square up with white, the ground of most
            catalogue photos.
        extent: float32 [2], see `decode`; None for the shape of `pixels`.

    Returns:
        float32 [image_size, image_size, 3] in [0, 255], antialiased.
    """
    pixels.set_shape([None, None, 3])
    if extent is None:
        extent = tf.cast(tf.shape(pixels)[:2], tf.float32)
    origin = tf.zeros([2])
    if resize == "squash":
        return _resample(pixels, origin, extent, (image_size, image_size))
    if resize == "pad":
        return _pad(pixels, extent, image_size)
    # The centre is cut out before resizing: the same window, without the work for the rest.
    side = tf.reduce_min(extent) * CROP_FRACTION
    corner = (extent - side) / 2.0
    return _resample(pixels, corner, tf.stack([side, side]), (image_size, image_size))


def _resample(
    pixels: tf.Tensor, corner: tf.Tensor, sides: tf.Tensor, size: tf.Tensor | tuple[int, int]
) -> tf.Tensor:
    """Resizes a window whose edges may lie between pixels, antialiased (triangle filter).

    Args:
        pixels: uint8 [height, width, 3].
        corner, sides: float32 [2], top and left, height and width of the window in pixels.
        size: height and width of the result: tuple of int, or int32 [2].

    Returns:
        float32 [*size, 3] in [0, 255].
    """
    first = tf.cast(tf.floor(corner), tf.int32)
    last = tf.cast(tf.math.ceil(corner + sides), tf.int32)
    cut = pixels[first[0] : last[0], first[1] : last[1]]
    scale = tf.cast(size, tf.float32) / sides
    resized = tf.raw_ops.ScaleAndTranslate(
        images=cut[None],
        size=size,
        scale=scale,
        translation=(tf.cast(first, tf.float32) - corner) * scale,
        kernel_type="triangle",
        antialias=True,
    )[0]
    if isinstance(size, tuple):
        resized = tf.ensure_shape(resized, (*size, 3))
    return tf.clip_by_value(resized, 0.0, 255.0)


def _pad(pixels: tf.Tensor, extent: tf.Tensor, image_size: int) -> tf.Tensor:
    sides = tf.cast(tf.round(extent * image_size / tf.reduce_max(extent)), tf.int32)
    sides = tf.maximum(sides, 1)
    resized = _resample(pixels, tf.zeros([2]), extent, sides)
    before = (image_size - sides) // 2
    after = image_size - sides - before
    margins = [[before[0], after[0]], [before[1], after[1]], [0, 0]]
    padded = tf.pad(resized, margins, constant_values=255.0)
    return tf.ensure_shape(padded, (image_size, image_size, 3))


def decode_and_fit(
    contents: tf.Tensor, image_size: int, resize: str, crop: Crop | None = None
) -> tf.Tensor:
    """Decodes a file (string scalar), fits it or a crop of it, see `fit`, and turns it upright.

    A file that cannot be decoded, or is too large (`fir_tf.images.header`), is an error, and so is
    a crop without an area in it. A JPEG much larger than `image_size` is decoded at reduced size,
    and of a crop of it only its columns and what lies below its top.
    """

    def choose(height: tf.Tensor, width: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        sides = tf.stack([height, width])
        kept = tf.reduce_max(sides) if resize == "pad" else tf.reduce_min(sides)
        wanted = image_size / CROP_FRACTION if resize == "crop" else image_size
        return tf.stack([0, 0, height, width]), halvings(kept, OVERSAMPLING * wanted)

    turn = orientation(contents)
    pixels, extent = decode(contents, within(crop, turn, choose) if crop else choose)
    fitted = upright(fit(pixels, image_size, resize, extent), turn)
    return tf.ensure_shape(fitted, (image_size, image_size, 3))


def guarded_rows(
    function: Callable[..., tf.Tensor], arguments: Any, shape: tuple[int, ...]
) -> tuple[tf.Tensor, tf.Tensor]:
    """Runs `function` on each of some examples so that a failure stays the example's own.

    A graph has no try: the examples go through a tf.data pipeline of their own, whose
    `ignore_errors` drops those that fail, and zeros take their places. One pipeline for many
    examples costs hardly more than one for one.

    Args:
        function: callable, one example of `arguments` -> float32 tensor of `shape`.
        arguments: tensor or structure of tensors [n, ...].
        shape: tuple of int, the static shape of a result.

    Returns:
        (float32 `[n, *shape]`, bool [n]: for which examples `function` succeeded).
    """
    leader = tf.nest.flatten(arguments)[0]
    count = tf.shape(leader)[0]
    nested = tf.nest.is_nested(arguments)

    @tf.autograph.experimental.do_not_convert
    def apply(place: tf.Tensor, argument: Any) -> tuple[tf.Tensor, tf.Tensor]:
        return place, function(*argument) if nested else function(argument)

    examples = tf.data.Dataset.from_tensor_slices((tf.range(count), arguments)).map(apply)
    good = examples.ignore_errors().batch(tf.maximum(tf.cast(count, tf.int64), 1))
    none = tf.data.Dataset.from_tensors((tf.zeros([0], tf.int32), tf.zeros([0, *shape])))
    places, values = good.concatenate(none).take(1).get_single_element()
    places = places[:, None]

    def with_gaps() -> tf.Tensor:
        return tf.scatter_nd(places, values, tf.concat([[count], shape], axis=0))

    complete = tf.equal(tf.size(places), count)
    values = tf.cond(complete, lambda: tf.identity(values), with_gaps)
    valid = tf.scatter_nd(places, tf.ones_like(places[:, 0], tf.bool), [count])
    return tf.ensure_shape(values, (leader.shape[0], *shape)), tf.ensure_shape(
        valid, leader.shape[:1]
    )
