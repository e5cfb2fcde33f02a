"""PNG: what its chunks say beside the pixels."""

import tensorflow as tf

from fir_tf.images.binary import cut, read_bytes, unsigned

# An image of more chunks than this is not searched to its end.
_CHUNKS_MAX = 2**14
_FIRST = 8
# What follows the image data is only searched through if the end of the file names it.
_END_BYTES = 2**17

_HAS_ALPHA = 4


def has_alpha(contents: tf.Tensor) -> tf.Tensor:
    """Returns a bool scalar: whether the PNG `contents` (string scalar) may be transparent."""
    kind = read_bytes(contents, 25, 1)[0]
    return tf.cond(
        tf.bitwise.bitwise_and(kind, _HAS_ALPHA) > 0,
        lambda: tf.constant(True),
        lambda: tf.equal(_walk(contents, _FIRST, b"tRNS", b"IDAT")[1], b"tRNS"),
    )


def exif(contents: tf.Tensor) -> tf.Tensor:
    """Returns the TIFF structure of the eXIf chunk, before or behind the image data.

    Args:
        contents: string scalar, a PNG file.

    Returns:
        string scalar, "" if there is none.
    """
    place, name = _walk(contents, _FIRST, b"eXIf", b"IDAT")
    left = tf.maximum(tf.strings.length(contents) - _END_BYTES, 0)
    end = cut(contents, left, _END_BYTES)
    place, name = tf.cond(
        tf.equal(name, b"IDAT") & tf.strings.regex_full_match(end, r"\C*eXIf\C*"),
        lambda: _walk(contents, place, b"eXIf", b"IEND"),
        lambda: (place, name),
    )
    body = cut(contents, place + 8, _length(contents, place))
    # Some programs write the name that leads the structure in a JPEG.
    body = tf.strings.regex_replace(body, r"\AExif\x00\x00", "")
    return tf.where(tf.equal(name, b"eXIf"), body, "")


def _length(contents: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
    """The bytes of a chunk's body, at most those there are."""
    claimed = unsigned(read_bytes(contents, place, 4))
    left = tf.cast(tf.strings.length(contents) - place, tf.int64)
    return tf.cast(tf.minimum(claimed, left), tf.int32)


def _walk(
    contents: tf.Tensor, place: tf.Tensor | int, wanted: bytes, last: bytes
) -> tuple[tf.Tensor, tf.Tensor]:
    """Steps from chunk to chunk to the first of one of two names.

    Args:
        contents: string scalar.
        place: int32 scalar, where a chunk begins.
        wanted, last: bytes [4], names.

    Returns:
        (int32 scalar, where the chunk begins; string scalar, its name, another one or "" if
        there is none of these).
    """

    def name_at(place: tf.Tensor | int) -> tf.Tensor:
        return cut(contents, place + 4, 4)

    def advance(place: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # Beside its body a chunk has its length, its name and its checksum.
        place = tf.minimum(place + _length(contents, place) + 12, tf.strings.length(contents))
        return place, name_at(place)

    return tf.while_loop(
        lambda _, name: (name != wanted) & (name != last) & (name != b""),
        advance,
        (place, name_at(place)),
        maximum_iterations=_CHUNKS_MAX,
    )
