"""Pixels without TensorFlow, against the graph's."""

import io

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from odd_images import encoded, picture, turned
from PIL import Image
from test_pixels import REFUSED, SEEN

from fir_tf.images import box, exif, plain, window
from fir_tf.images.claimed import claimed_size
from fir_tf.images.decode import decode_and_fit, guarded_rows
from fir_tf.images.file import UnreadableImageError

SIDE = 32
# Of 256 levels; both compute in float32, in another order.
TOLERANCE = 0.01
NONE = np.full(4, np.nan, np.float32)

# As phones and shops have them: larger than what is fitted, halved up to three times.
LARGE = {
    f"{size} {options}": encoded(picture(3, size), "JPEG", quality=90, **options)
    for size in ((1999, 1501), (333, 250), (1025, 1024), (64, 700))
    for options in ({"subsampling": 0}, {"subsampling": 2}, {"progressive": True})
}
LARGE |= {f"turned {number}": turned(4, (801, 603), number) for number in (3, 6)}
LARGE["gray"] = encoded(picture(5, (801, 603)).convert("L"), "JPEG")
LARGE["ink"] = encoded(picture(5, (801, 603)).convert("CMYK"), "JPEG")
FILES = {name: contents for name, (contents, _) in SEEN.items()} | LARGE


def plainly(contents, resize, part=None):
    """Returns (float32 [SIDE, SIDE, 3], whether it can be read)."""
    try:
        return plain.decode_and_fit(contents, SIDE, resize, part), True
    except UnreadableImageError:
        return np.zeros((SIDE, SIDE, 3), np.float32), False


def in_graph(files, resize, boxes=None, margin=0.0):
    """Returns the same of many files, by the graph."""

    def fitted(photo, *own):
        crop = box.Crop(own[0], own[1], margin) if own else None
        return decode_and_fit(photo, SIDE, resize, crop)

    @tf.function(autograph=False)
    def run(*columns):
        return guarded_rows(fitted, columns, (SIDE, SIDE, 3))

    columns = (tf.constant(files, tf.string), *(boxes or ()))
    return [value.numpy() for value in run(*columns)]


@pytest.mark.parametrize("resize", ["crop", "squash", "pad"])
def test_every_kind_has_the_pixels_of_the_graph(resize):
    files = FILES | REFUSED
    expected, valid = in_graph(list(files.values()), resize)
    for name, pixels, good in zip(files, expected, valid, strict=True):
        found, read = plainly(files[name], resize)
        assert read == good == (name in FILES), name
        assert found.dtype == np.float32 and found.shape == pixels.shape
        np.testing.assert_allclose(found, pixels, atol=TOLERANCE, err_msg=name)


@pytest.mark.parametrize("resize", ["crop", "pad"])
def test_a_part_has_the_pixels_of_the_graph(resize):
    rng = np.random.default_rng(0)
    names = list(FILES)
    boxes = rng.uniform([-0.2, -0.2, 0.1, 0.1], [0.7, 0.7, 1, 1], (len(names), 4))
    boxes = boxes.astype(np.float32)
    shares = np.ones(len(names), bool)
    boxes[::9], boxes[1::9] = NONE, [2, 2, 1, 1]
    expected, valid = in_graph(list(FILES.values()), resize, (boxes, shares), 0.1)
    assert 0 < (~valid).sum() < len(names) / 4
    for row, name in enumerate(names):
        found, read = plainly(FILES[name], resize, window.Part(boxes[row], True, 0.1))
        assert read == valid[row], name
        # A JPEG is smoothed where the graph's decoder, which reads the window alone, is not.
        close = np.abs(found - expected[row]) <= TOLERANCE
        assert close.all() or (name in LARGE or name.startswith("JPEG")), name
        assert np.abs(found - expected[row]).mean() < 1, name


@given(
    corner=st.tuples(st.floats(-50, 99), st.floats(-50, 99)),
    size=st.tuples(st.floats(-1, 150), st.floats(0.01, 150)),
    margin=st.sampled_from([0.0, 0.1, -0.2, 0.37]),
    turn=st.integers(1, 8),
    sides=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    in_shares=st.booleans(),
)
def test_a_window_is_that_of_the_graph(corner, size, margin, turn, sides, in_shares):
    found = np.array([*corner, *size], np.float32) / (100 if in_shares else 1)
    part = window.Part(found, in_shares, margin)
    crop = box.Crop(tf.constant(found), tf.constant(in_shares), margin)
    upright = sides[::-1] if turn < 5 else sides
    good = bool(box.has_area(crop, tf.constant(upright, tf.float32)))
    assert window.has_area(part, upright) == good
    expected = None
    if good:
        expected = tuple(box.stored_window(crop, tf.constant(turn), *sides).numpy().tolist())
    assert window.stored_window(part, turn, *sides) == expected


def test_the_orientation_is_that_of_the_graph():
    for name, contents in FILES.items():
        assert plain.orientation(contents) == exif.orientation(tf.constant(contents)), name


def test_a_large_png_is_decoded_whole_and_a_bomb_is_not():
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (900, 700, 3), np.uint8))
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    expected, _ = in_graph([file.getvalue()], "squash")
    found, _ = plainly(file.getvalue(), "squash")
    np.testing.assert_allclose(found, expected[0], atol=TOLERANCE)
    assert claimed_size(file.getvalue()) == (900, 700)
    with pytest.raises(UnreadableImageError, match="pixels"):
        plain.decode_and_fit(REFUSED["PNG too large"], SIDE, "crop")
