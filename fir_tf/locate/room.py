"""Room around a garment's box: catalogue photos have some around theirs.

TensorFlow ops, so that the served graph cuts garments out as the library does.
"""

import tensorflow as tf

# As a share of the box's longer side, on each side.
_ROOM = 0.12
# A garment that is this share of the photo with its room is the whole photo.
_WHOLE = 0.9


def with_room(box: tf.Tensor, sides: tf.Tensor) -> tf.Tensor:
    """Returns squares around garments with some room, moved into their photo as far as they fit.

    Args:
        box: float32 [..., 4], left, top, width and height in shares of the upright photo.
        sides: float32 [..., 2], its width and height in pixels.

    Returns:
        float32 [..., 4]: left, top, width and height in pixels, within the photo.
    """
    corner, size = box[..., :2] * sides, box[..., 2:] * sides
    longest = tf.reduce_max(size, axis=-1, keepdims=True)
    square = tf.minimum((1 + 2 * _ROOM) * longest, sides)
    start = tf.clip_by_value(corner + (size - square) / 2, 0.0, sides - square)
    return tf.concat([start, square], axis=-1)


def is_whole(box: tf.Tensor, sides: tf.Tensor) -> tf.Tensor:
    """Returns which garments are, with their room, as good as all of their photo.

    Args:
        box: float32 [..., 4], left, top, width and height in shares of the upright photo.
        sides: float32 [..., 2], its width and height in pixels, or in any other unit.

    Returns:
        bool [...].
    """
    shares = with_room(box, sides)[..., 2:] / tf.maximum(sides, 1e-6)
    return tf.reduce_prod(shares, axis=-1) >= _WHOLE
