"""What an image file says of itself before it is decoded: its format and its size.

A small file can unpack to gigabytes. Everything here reads headers only, and is TensorFlow ops, so
the bound holds in evaluation, in the index and inside a C++ server alike.
"""

import tensorflow as tf

from fir_tf.images.file import TRAINING_MAX_BYTES as MAX_BYTES
from fir_tf.images.file import TRAINING_MAX_PIXELS as MAX_PIXELS

# Where GIF stands among the formats other than JPEG.
_GIF = 1

# A GIF of more blocks than this before the end of its first frame is not worth reading.
_GIF_BLOCKS_MAX = 2**18


def read_bytes(contents, position, count):
    """Reads bytes of a string as numbers.

    Args:
        contents: string scalar.
        position: int32 scalar >= 0.
        count: int32 scalar or int >= 0.

    Returns:
        int32 [count], zeros where the string has ended.
    """
    position = tf.minimum(position, tf.strings.length(contents))
    raw = tf.io.decode_raw(tf.strings.substr(contents, position, count), tf.uint8)
    values = tf.pad(tf.cast(raw, tf.int32), [[0, count - tf.size(raw)]])
    return tf.ensure_shape(values, [count]) if isinstance(count, int) else values


def unsigned(values, little_endian=False):
    """Joins bytes to a number.

    Args:
        values: int32 [count], bytes.
        little_endian: bool, or bool scalar tensor.

    Returns:
        int64 scalar.
    """
    values = tf.cast(values, tf.int64)
    values = tf.where(little_endian, values, tf.reverse(values, [0]))
    return tf.reduce_sum(tf.bitwise.left_shift(values, 8 * tf.range(tf.size(values, tf.int64))))


def is_jpeg(contents):
    """Returns a bool scalar, whether the string scalar `contents` begins as a JPEG does."""
    return tf.equal(tf.strings.substr(contents, 0, 3), b"\xff\xd8\xff")


def dimensions(contents):
    """Reads the size an image claims, without decoding it.

    Args:
        contents: string scalar, a JPEG, PNG, GIF or BMP file.

    Returns:
        int64 [2]: height and width in pixels; zeros for another format and for a BMP other than
        of 24 or 32 bits a pixel (TensorFlow decodes palette indices as brightness).

    Raises:
        tf.errors.InvalidArgumentError: when run, for a JPEG without a readable header.
    """
    return tf.cond(
        is_jpeg(contents),
        lambda: tf.image.extract_jpeg_shape(contents, tf.int64)[:2],
        lambda: _other_dimensions(contents),
    )


def is_known(contents):
    """Returns a bool scalar, whether the string scalar begins as JPEG, PNG, GIF or BMP do."""
    return is_jpeg(contents) | tf.reduce_any(_other_formats(contents))


def decodable(contents):
    """Passes a file on only if decoding it is bounded; to be used inside `guarded`.

    Args:
        contents: string scalar.

    Returns:
        string scalar: `contents`; of a GIF what is needed for its first frame, because the
        decoder unpacks every frame before it returns the first. Empty, which no decoder takes,
        if the format is unknown or there are more than MAX_PIXELS pixels or MAX_BYTES bytes.

    Raises:
        tf.errors.InvalidArgumentError: when run, for a JPEG without a readable header.
    """

    def other():
        kept = tf.cond(
            _other_formats(contents)[_GIF],
            lambda: tf.strings.substr(contents, 0, _gif_first_frame(contents)[0]) + b";",
            lambda: tf.identity(contents),
        )
        return tf.where(_is_bounded(_other_dimensions(contents)), kept, "")

    def jpeg():
        sides = tf.image.extract_jpeg_shape(contents, tf.int64)[:2]
        return tf.where(_is_bounded(sides), contents, "")

    # A condition costs as much as reading a header, so the most common format has one only.
    passed = tf.cond(is_jpeg(contents), jpeg, other)
    return tf.where(tf.strings.length(contents) <= MAX_BYTES, passed, "")


def _other_formats(contents):
    """Returns bool [3]: whether the file begins as PNG, GIF, BMP do."""
    starts = (b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM")
    return tf.stack(
        [tf.equal(tf.strings.substr(contents, 0, len(start)), start) for start in starts]
    )


def _is_bounded(sides):
    """Returns a bool scalar, whether an image of int64 [2] `sides` has 1 to MAX_PIXELS pixels."""
    # Sides come from 32 bits at most; beyond 2^31 their product could leave 64 bits.
    pixels = tf.reduce_prod(tf.minimum(sides, 2**31))
    return (pixels > 0) & (pixels <= MAX_PIXELS)


def _other_dimensions(contents):
    def png():
        head = read_bytes(contents, 16, 8)
        return tf.stack([unsigned(head[4:]), unsigned(head[:4])])

    def gif():
        # The decoder makes room for the frame or for the screen, whichever is larger.
        screen, frame = read_bytes(contents, 6, 4), _gif_first_frame(contents)[1]
        sides = [
            tf.maximum(unsigned(screen[a : a + 2], True), unsigned(frame[a : a + 2], True))
            for a in (2, 0)
        ]
        return tf.stack(sides)

    def bmp():
        head = read_bytes(contents, 18, 12)
        sides = tf.stack([unsigned(head[4:8], True), unsigned(head[:4], True)])
        # A negative height stands for rows from top to bottom.
        sides = tf.where(sides >= 2**31, 2**32 - sides, sides)
        bits = unsigned(head[10:12], True)
        return tf.where((bits == 24) | (bits == 32), sides, 0)

    none = tf.zeros([2], tf.int64)
    kind = tf.argmax(tf.concat([_other_formats(contents), [True]], 0), output_type=tf.int32)
    return tf.switch_case(kind, [png, gif, bmp, lambda: none])


def _gif_first_frame(contents):
    """Returns (int32 scalar, where the first frame's data ends; int32 [4], its size's bytes)."""
    flags = read_bytes(contents, 10, 1)[0]
    length = tf.strings.length(contents)
    start = 13 + _colour_table(flags)

    def skip_sub_blocks(position):
        """The position behind a chain of sub-blocks, each led by its length, 0 at the end."""

        def advance(position, _):
            size = read_bytes(contents, position, 1)[0]
            return position + 1 + size, (size > 0) & (position < length)

        return tf.while_loop(
            lambda _, more: more,
            advance,
            (position, tf.constant(True)),
            maximum_iterations=_GIF_BLOCKS_MAX,
        )[0]

    # Extensions (comments, delays) stand before the frame.
    start = tf.while_loop(
        lambda position: tf.equal(read_bytes(contents, position, 1)[0], 0x21),
        lambda position: (skip_sub_blocks(position + 2),),
        (start,),
        maximum_iterations=_GIF_BLOCKS_MAX,
    )[0]
    descriptor = read_bytes(contents, start, 10)
    data = start + 10 + _colour_table(descriptor[9]) + 1
    return tf.minimum(skip_sub_blocks(data), length), descriptor[5:9]


def _colour_table(flags):
    """The bytes of the colour table that a GIF's flags announce."""
    size = 3 * tf.bitwise.left_shift(2, tf.bitwise.bitwise_and(flags, 7))
    return tf.where(flags >= 128, size, 0)
