"""What an image file says of itself before it is decoded: its format and its size.

A small file can unpack to gigabytes. Everything here reads headers only, and is TensorFlow ops, so
the bound holds in evaluation, in the index and inside a C++ server alike.
"""

import tensorflow as tf

from fir_tf.images import gif
from fir_tf.images.binary import read_bytes, traced_once, unsigned
from fir_tf.images.limits import MAX_BYTES, MAX_PIXELS

# The formats other than JPEG, in the order of `other_format`.
_PNG, _GIF, _BMP = 0, 1, 2
_STARTS = (b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM")

# A BMP's fields are red, green, blue and, where it has one, alpha, a byte each in this order.
_BMP_MASKS = (0x00FF0000, 0x0000FF00, 0x000000FF)
_BMP_ALPHA = 0xFF000000
_BMP_PLAIN, _BMP_FIELDS = 0, 3


def is_jpeg(contents: tf.Tensor) -> tf.Tensor:
    """Returns a bool scalar, whether the string scalar `contents` begins as a JPEG does."""
    return tf.equal(tf.strings.substr(contents, 0, 3), b"\xff\xd8\xff")


def is_png(contents: tf.Tensor) -> tf.Tensor:
    """Returns a bool scalar, whether the string scalar `contents` begins as a PNG does."""
    return tf.equal(tf.strings.substr(contents, 0, 8), _STARTS[_PNG])


def is_known(contents: tf.Tensor) -> tf.Tensor:
    """Returns a bool scalar, whether the string scalar begins as JPEG, PNG, GIF or BMP do."""
    return is_jpeg(contents) | (other_format(contents) < len(_STARTS))


def other_format(contents: tf.Tensor) -> tf.Tensor:
    """Returns an int32 scalar: 0 if the file is a PNG, 1 GIF, 2 BMP, 3 none of these."""
    found = [tf.equal(tf.strings.substr(contents, 0, len(start)), start) for start in _STARTS]
    return tf.argmax(tf.stack([*found, True]), output_type=tf.int32)


@traced_once
def dimensions(contents: tf.Tensor) -> tf.Tensor:
    """Reads the size an image claims, without decoding it.

    Args:
        contents: string scalar, a JPEG, PNG, GIF or BMP file.

    Returns:
        int64 [2]: height and width in pixels; zeros for another format, for a GIF without a frame
        and for a BMP that TensorFlow would misread: other than 24 or 32 bits a pixel (palette
        indices become brightness), compressed, with fields in another order, or of OS/2's kind.

    Raises:
        tf.errors.InvalidArgumentError: when run, for a JPEG without a readable header.
    """
    return tf.cond(
        is_jpeg(contents),
        lambda: tf.image.extract_jpeg_shape(contents, tf.int64)[:2],
        lambda: _other_dimensions(_without_animation(contents)),
    )


@traced_once
def decodable(contents: tf.Tensor) -> tf.Tensor:
    """Passes a file on only if decoding it is bounded; to be used inside `guarded_rows`.

    Args:
        contents: string scalar.

    Returns:
        string scalar: `contents`; of a GIF its first frame alone, see `gif.first_frame`. Empty,
        which no decoder takes, if the format is unknown or there are more than MAX_PIXELS pixels
        or MAX_BYTES bytes.

    Raises:
        tf.errors.InvalidArgumentError: when run, for a JPEG without a readable header.
    """

    def other() -> tf.Tensor:
        kept = _without_animation(contents)
        return tf.where(_is_bounded(_other_dimensions(kept)), kept, "")

    def jpeg() -> tf.Tensor:
        sides = tf.image.extract_jpeg_shape(contents, tf.int64)[:2]
        return tf.where(_is_bounded(sides), contents, "")

    # A condition costs as much as reading a header, so the most common format has one only.
    passed = tf.cond(is_jpeg(contents), jpeg, other)
    return tf.where(tf.strings.length(contents) <= MAX_BYTES, passed, "")


def bmp_has_alpha(contents: tf.Tensor) -> tf.Tensor:
    """Returns a bool scalar: whether the BMP `contents` (string scalar) says what is transparent.

    Without fields the fourth byte of a pixel means nothing and is 0 more often than not.
    """
    return (
        (_number(contents, 14) >= 56)
        & (_number(contents, 30) == _BMP_FIELDS)
        & (_number(contents, 66) == _BMP_ALPHA)
    )


def _without_animation(contents: tf.Tensor) -> tf.Tensor:
    return tf.cond(
        tf.equal(other_format(contents), _GIF),
        lambda: gif.first_frame(contents),
        lambda: tf.identity(contents),
    )


def _is_bounded(sides: tf.Tensor) -> tf.Tensor:
    """Returns a bool scalar, whether an image of int64 [2] `sides` has 1 to MAX_PIXELS pixels."""
    # Sides come from 32 bits at most; beyond 2^31 their product could leave 64 bits.
    pixels = tf.reduce_prod(tf.minimum(sides, 2**31))
    return (pixels > 0) & (pixels <= MAX_PIXELS)


def _number(contents: tf.Tensor, position: int) -> tf.Tensor:
    """The 4 bytes from int `position` on, the lowest first, as an int64 scalar."""
    return unsigned(read_bytes(contents, position, 4), True)


def _other_dimensions(contents: tf.Tensor) -> tf.Tensor:
    """`dimensions` of what is no JPEG; of a GIF the first frame alone is given."""

    def png() -> tf.Tensor:
        head = read_bytes(contents, 16, 8)
        return tf.stack([unsigned(head[4:]), unsigned(head[:4])])

    def bmp() -> tf.Tensor:
        sides = tf.stack([_number(contents, 22), _number(contents, 18)])
        # A negative height stands for rows from top to bottom.
        sides = tf.where(sides >= 2**31, 2**32 - sides, sides)
        return tf.where(_is_plain_bmp(contents), sides, 0)

    none = tf.zeros([2], tf.int64)
    return tf.switch_case(
        other_format(contents),
        [png, lambda: tf.cast(gif.canvas(contents)[1], tf.int64), bmp, lambda: none],
    )


def _is_plain_bmp(contents: tf.Tensor) -> tf.Tensor:
    bits = unsigned(read_bytes(contents, 28, 2), True)
    packing = _number(contents, 30)
    masks = [
        tf.equal(_number(contents, 54 + 4 * place), mask) for place, mask in enumerate(_BMP_MASKS)
    ]
    in_fields = tf.equal(bits, 32) & tf.equal(packing, _BMP_FIELDS) & tf.reduce_all(masks)
    in_bytes = (tf.equal(bits, 24) | tf.equal(bits, 32)) & tf.equal(packing, _BMP_PLAIN)
    return (_number(contents, 14) >= 40) & (in_bytes | in_fields)
