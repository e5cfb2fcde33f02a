"""GIF: the first frame on its canvas, on white where nothing is drawn.

TensorFlow's decoder unpacks every frame before it returns the first, leaves black what is
transparent, and knows nothing of the canvas around a frame.
"""

import tensorflow as tf

from fir_tf.images.binary import cut, read_bytes

# A GIF of more blocks than this before the end of its first frame is not worth reading.
_BLOCKS_MAX = 2**18

_HEAD, _DESCRIPTOR = 13, 10
_EXTENSION, _CONTROL, _FRAME = 0x21, 0xF9, 0x2C


def first_frame(contents: tf.Tensor) -> tf.Tensor:
    """Cuts a GIF down to its first frame.

    Args:
        contents: string scalar, a GIF file.

    Returns:
        string scalar, a GIF without extensions and with one frame, whose transparent colour is
        white; "" if there is no frame.
    """
    head = read_bytes(contents, 0, _HEAD)
    shared = _table_bytes(head[10])
    start, clear = _skip_extensions(contents, _HEAD + shared)
    own = _table_bytes(read_bytes(contents, start, _DESCRIPTOR)[9])
    data = start + _DESCRIPTOR + own
    end = _skip_sub_blocks(contents, data + 1)

    def part(first: tf.Tensor, last: tf.Tensor) -> tf.Tensor:
        return cut(contents, first, last - first)

    tables = part(_HEAD, _HEAD + shared), part(start + _DESCRIPTOR, data)
    parts = [
        part(0, _HEAD),
        tf.where(own > 0, tables[0], _whitened(tables[0], clear)),
        part(start, start + _DESCRIPTOR),
        _whitened(tables[1], clear),
        part(data, end),
        b";",
    ]
    is_frame = tf.equal(read_bytes(contents, start, 1)[0], _FRAME)
    return tf.where(is_frame, tf.strings.join(parts), "")


def canvas(frame: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Says where a frame lies.

    Args:
        frame: string scalar, see `first_frame`.

    Returns:
        (int32 [2], top and left of the frame; int32 [2], height and width of the canvas, which is
        the screen, and more where the frame goes beyond it).
    """
    screen = read_bytes(frame, 6, 4)
    place = read_bytes(frame, _start(frame) + 1, 8)

    def pair(values: tf.Tensor) -> tf.Tensor:
        return tf.stack([values[2] + 256 * values[3], values[0] + 256 * values[1]])

    corner = pair(place[:4])
    return corner, tf.maximum(pair(screen), corner + pair(place[4:]))


def decode_frame(frame: tf.Tensor) -> tf.Tensor:
    """Decodes a GIF of one frame.

    Args:
        frame: string scalar, see `first_frame`.

    Returns:
        uint8 [height, width, 3], the whole canvas.
    """
    corner, size = canvas(frame)
    # The decoder would shift the frame and cut it off at its own size.
    start = _start(frame) + 1
    rest = cut(frame, start + 4, tf.strings.length(frame))
    moved = tf.strings.join([cut(frame, 0, start), b"\0\0\0\0", rest])
    pixels = tf.io.decode_gif(moved)[0]
    after = size - corner - tf.shape(pixels)[:2]
    margins = tf.concat([tf.stack([corner, after], axis=1), [[0, 0]]], axis=0)
    return tf.pad(pixels, margins, constant_values=255)


def _start(frame: tf.Tensor) -> tf.Tensor:
    return _HEAD + _table_bytes(read_bytes(frame, 10, 1)[0])


def _table_bytes(flags: tf.Tensor) -> tf.Tensor:
    """The bytes of the colour table that a GIF's flags announce."""
    size = 3 * tf.bitwise.left_shift(2, tf.bitwise.bitwise_and(flags, 7))
    return tf.where(flags >= 128, size, 0)


def _whitened(table: tf.Tensor, colour: tf.Tensor) -> tf.Tensor:
    """Makes one colour of a table white; a number that is not in the table changes nothing."""
    place = 3 * tf.maximum(colour, 0)
    is_there = (colour >= 0) & (place + 3 <= tf.strings.length(table))
    place = tf.where(is_there, place, 0)
    white = tf.strings.join([cut(table, 0, place), b"\xff\xff\xff", cut(table, place + 3, 768)])
    return tf.where(is_there, white, table)


def _skip_sub_blocks(contents: tf.Tensor, position: tf.Tensor) -> tf.Tensor:
    """The position behind a chain of sub-blocks, each led by its length, 0 at the end."""
    length = tf.strings.length(contents)

    def advance(position: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        size = read_bytes(contents, position, 1)[0]
        return position + 1 + size, (size > 0) & (position < length)

    position, _ = tf.while_loop(
        lambda _, more: more,
        advance,
        (position, tf.constant(True)),
        maximum_iterations=_BLOCKS_MAX,
    )
    return tf.minimum(position, length)


def _skip_extensions(contents: tf.Tensor, position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns int32 scalars: where the frame begins, and its transparent colour, -1 for none."""

    def advance(position: tf.Tensor, clear: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        block = read_bytes(contents, position, 7)
        own = tf.where(tf.equal(block[3] % 2, 1), block[6], -1)
        clear = tf.where(tf.equal(block[1], _CONTROL), own, clear)
        return _skip_sub_blocks(contents, position + 2), clear

    return tf.while_loop(
        lambda position, _: tf.equal(read_bytes(contents, position, 1)[0], _EXTENSION),
        advance,
        (position, tf.constant(-1)),
        maximum_iterations=_BLOCKS_MAX,
    )
