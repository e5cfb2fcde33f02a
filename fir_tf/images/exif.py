"""Which way up a photo is: phones store the sensor's pixels and a note how to turn them.

Everything here is TensorFlow ops, so the served graph turns a photo as evaluation does.
"""

import tensorflow as tf

from fir_tf.images import png
from fir_tf.images.binary import read_bytes, traced_once, unsigned
from fir_tf.images.header import is_jpeg, is_png

# Two segments of the largest size.
_METADATA_BYTES = 2**17
_SEGMENTS_MAX = 64
_ENTRIES_MAX = 1024
_ORIENTATION_TAG = 0x0112
_SHORT, _LONG = 3, 4

# The two bytes of a segment that hold its length.
_ANY_LENGTH = (False, False, True, True) + (False,) * 6


@traced_once
def orientation(contents: tf.Tensor) -> tf.Tensor:
    """Reads the EXIF orientation of an image file.

    Args:
        contents: string scalar, any bytes. A JPEG's EXIF segment stands before the first segment
            of image data, as the EXIF standard wants it, and in the first 128 KiB. A PNG has it in
            its eXIf chunk.

    Returns:
        int32 scalar, 1 (upright) to 8 (EXIF 2.32, tag 0x0112); 1 where there is none or it
        cannot be read.
    """
    # Walking the segments costs as much as decoding a small photo, most of which have no EXIF:
    # a search without regard to segments comes first. `\C` is any byte.
    start = tf.strings.substr(contents, 0, _METADATA_BYTES)
    in_jpeg = is_jpeg(contents) & tf.strings.regex_full_match(start, r"\C*Exif\x00\x00\C*")
    return tf.switch_case(
        tf.where(in_jpeg, 1, tf.where(is_png(contents), 2, 0)),
        [
            lambda: tf.constant(1),
            lambda: _of_exif(_exif_segment(contents)),
            lambda: _of_exif(png.exif(contents)),
        ],
    )


def upright(pixels: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Turns an image the way it was seen.

    Args:
        pixels: [height, width, 3], any type.
        orientation: int32 scalar, see `orientation`.

    Returns:
        The turned image; height and width change places for orientations 5 to 8.
    """

    def turn() -> tf.Tensor:
        turned = tf.cond(
            orientation >= 5, lambda: tf.transpose(pixels, [1, 0, 2]), lambda: tf.identity(pixels)
        )
        up_down = tf.reduce_any(tf.equal(orientation, [3, 4, 7, 8]))
        left_right = tf.reduce_any(tf.equal(orientation, [2, 3, 6, 7]))
        rows, columns = tf.shape(turned)[0], tf.shape(turned)[1]
        turned = tf.gather(turned, _order(rows, up_down))
        return tf.gather(turned, _order(columns, left_right), axis=1)

    result = tf.cond(tf.equal(orientation, 1), lambda: tf.identity(pixels), turn)
    result.set_shape([None, None, pixels.shape[-1]])
    return result


def _order(count: tf.Tensor, backwards: tf.Tensor) -> tf.Tensor:
    forward = tf.range(count)
    return tf.where(backwards, count - 1 - forward, forward)


def _exif_segment(contents: tf.Tensor) -> tf.Tensor:
    """Returns the TIFF structure of the first EXIF segment, "" if there is none."""

    def is_metadata(segment: tf.Tensor) -> tf.Tensor:
        # APP0 to APP15 and comments.
        return (segment[0] == 0xFF) & ((segment[1] & 0xF0 == 0xE0) | (segment[1] == 0xFE))

    def advance(position: tf.Tensor, segment: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        position += 2 + segment[2] * 256 + segment[3]
        return position, read_bytes(contents, position, 10)

    position, segment = tf.while_loop(
        lambda _, segment: is_metadata(segment) & ~_is_exif(segment),
        advance,
        (tf.constant(2), read_bytes(contents, 2, 10)),
        maximum_iterations=_SEGMENTS_MAX,
    )
    length = tf.maximum(segment[2] * 256 + segment[3] - 8, 0)
    start = tf.minimum(position + 10, tf.strings.length(contents))
    return tf.where(_is_exif(segment), tf.strings.substr(contents, start, length), "")


def _is_exif(segment: tf.Tensor) -> tf.Tensor:
    same = tf.equal(segment, [0xFF, 0xE1, 0, 0, *b"Exif\0\0"])
    return tf.reduce_all(tf.logical_or(same, _ANY_LENGTH))


def _of_exif(tiff: tf.Tensor) -> tf.Tensor:
    """Returns the orientation that the first directory of a TIFF structure states."""
    head = read_bytes(tiff, 0, 8)
    little = tf.equal(head[0], ord("I"))
    first = tf.cast(tf.minimum(unsigned(head[4:], little), 2**16), tf.int32)
    count = tf.cast(unsigned(read_bytes(tiff, first, 2), little), tf.int32)
    count = tf.minimum(count, _ENTRIES_MAX)
    entries = tf.reshape(read_bytes(tiff, first + 2, 12 * count), [-1, 12])

    def pair(column: int) -> tf.Tensor:
        low, high = entries[:, column], entries[:, column + 1]
        return tf.where(little, low + 256 * high, 256 * low + high)

    tag, kind, upper, lower = pair(0), pair(2), pair(8), pair(10)
    # A LONG's low half is the first pair of little-endian bytes, the second of big-endian ones.
    long = tf.where(little, upper, lower)
    rest = tf.where(little, lower, upper)
    value = tf.where(tf.equal(kind, _SHORT), upper, tf.where(tf.equal(rest, 0), long, 0))
    known = (value >= 1) & (value <= 8) & ((kind == _SHORT) | (kind == _LONG))
    found = tf.boolean_mask(tf.where(known, value, 1), tf.equal(tag, _ORIENTATION_TAG))
    # The first entry counts; the appended 1 stands for none.
    return tf.concat([found, [1]], axis=0)[0]
