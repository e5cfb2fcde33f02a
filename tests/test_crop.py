"""Cropping to boxes, against files that Pillow has cropped beforehand."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from fir_tf.config import InputSettings
from fir_tf.images.box import Crop, has_area, shares, stored_window
from fir_tf.images.decode import decode_and_fit, guarded_rows
from fir_tf.input.augment import DRAWS, training_view
from fir_tf.input.batches import ordered_batches

WIDTH, HEIGHT = 61, 84
NONE = np.full(4, np.nan, np.float32)


def picture(orientation=1, form="PNG", size=(WIDTH, HEIGHT), seed=0):
    """An image whose neighbours differ, as a file that is upright by its EXIF."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    image.save(
        file, form, exif=exif, **({"quality": 98, "subsampling": 0} if form == "JPEG" else {})
    )
    return file.getvalue()


def cropped(contents, box, margin=0.0):
    """What Pillow has in a box of the upright photo, as a PNG, which changes no pixel."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(contents))).convert("RGB")
    left, top, width, height = box
    edges = [left - margin * width, top - margin * height]
    edges += [left + (1 + margin) * width, top + (1 + margin) * height]
    sides = [*image.size, *image.size]
    edges = [round(min(max(edge, 0), side)) for edge, side in zip(edges, sides, strict=True)]
    file = io.BytesIO()
    image.crop(edges).save(file, "PNG")
    return file.getvalue()


def crop_of(box, in_shares=False, margin=0.0):
    return Crop(tf.constant(box, tf.float32), tf.constant(in_shares), margin)


def crop_of_tensor(box, in_shares, margin):
    return Crop(box, tf.constant(in_shares), margin)


def upright_size(orientation, size=(WIDTH, HEIGHT)):
    return size[::-1] if orientation >= 5 else size


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_window_is_that_of_the_upright_photo(orientation):
    contents = picture(orientation)
    stored = np.asarray(Image.open(io.BytesIO(contents)).convert("RGB"))
    for box, margin in (
        ((3, 5, 20, 30), 0.0),
        ((0, 0, 61, 61), 0.0),
        ((12.4, 7.6, 19.3, 22.2), 0.0),
        ((10, 12, 20, 24), 0.25),
        # Of what lies outside only the part inside counts.
        ((-5, -7, 20, 30), 0.0),
        ((50, 40, 500, 500), 0.1),
    ):
        window = stored_window(crop_of(box, margin=margin), tf.constant(orientation), HEIGHT, WIDTH)
        top, left, height, width = window.numpy()
        expected = np.asarray(Image.open(io.BytesIO(cropped(contents, box, margin))))
        cut = Image.fromarray(stored[top : top + height, left : left + width])
        cut.info = {}
        exif = Image.Exif()
        exif[0x0112] = orientation
        file = io.BytesIO()
        cut.save(file, "PNG", exif=exif)
        turned = ImageOps.exif_transpose(Image.open(io.BytesIO(file.getvalue())))
        np.testing.assert_array_equal(np.asarray(turned), expected, err_msg=f"{box} {margin}")


def fitted(files, size, resize, boxes=None, in_shares=False, margin=0.0):
    """Whole files, or what their boxes hold, float32 [n, size, size, 3]."""
    boxes = np.full((len(files), 4), np.nan) if boxes is None else boxes
    values, valid = guarded_rows(
        lambda file, box: decode_and_fit(
            file, size, resize, crop_of_tensor(box, in_shares, margin)
        ),
        (tf.constant(files), tf.constant(boxes, tf.float32)),
        (size, size, 3),
    )
    assert valid.numpy().all()
    return values.numpy()


@pytest.mark.parametrize(
    "resize", ["crop", *(pytest.param(how, marks=pytest.mark.nightly) for how in ("squash", "pad"))]
)
def test_a_crop_is_fitted_as_a_file_that_was_cropped_beforehand(resize):
    # With its margin 39 x 52 pixels, which are padded by as much on either side.
    files, box = [picture(orientation) for orientation in range(1, 9)], (7, 9, 33, 44)
    boxes = [box] * 8
    sides = [upright_size(orientation) * 2 for orientation in range(1, 9)]
    parts = np.divide(boxes, sides)
    expected = fitted([cropped(file, box, 0.1) for file in files], 32, resize)
    assert np.ptp(expected[0]) > 50
    found = fitted(files, 32, resize, boxes, margin=0.1)
    np.testing.assert_allclose(found, expected, atol=0.01)
    found = fitted(files, 32, resize, parts, True, 0.1)
    np.testing.assert_allclose(found, expected, atol=0.01)
    given, _ = guarded_rows(
        lambda file, box: shares(file, box, tf.constant(False)),
        (tf.constant(files), tf.constant(boxes, tf.float32)),
        (4,),
    )
    np.testing.assert_allclose(given, parts, 1e-6)


@pytest.mark.parametrize(
    "box", [(160, 80, 300, 400), pytest.param((333, 101, 57, 63), marks=pytest.mark.nightly)]
)
def test_windows_of_jpegs_are_where_pillow_has_them(box):
    """A JPEG is halved while it is decoded: edges then move by less than a pixel of the result."""
    files = [picture(orientation, "JPEG", (640, 900)) for orientation in range(1, 9)]
    beside = (box[0] - box[2] // 2, *box[1:])
    found = fitted(files, 48, "squash", [box] * 8)
    expected = fitted([cropped(file, box) for file in files], 48, "squash")
    other = fitted([cropped(file, beside) for file in files], 48, "squash")
    # Two decoders fill in colours between their samples differently.
    assert np.abs(found - expected).mean(axis=(1, 2, 3)).max() < 1.5
    # Such a difference tells it from a neighbour.
    assert np.abs(other - expected).mean(axis=(1, 2, 3)).min() > 3.0


def test_without_a_box_the_photo_is_whole_to_the_bit():
    contents = tf.constant(picture(6, "JPEG"))
    expected = decode_and_fit(contents, 32, "crop").numpy()
    found = decode_and_fit(contents, 32, "crop", crop_of(NONE, margin=0.5)).numpy()
    np.testing.assert_array_equal(found, expected)
    assert shares(contents, tf.constant(NONE), tf.constant(False)).numpy().tolist() == [0, 0, 1, 1]


BAD = [
    [3, 4, 0, 5],
    [3, 4, 5, -1],
    [3, np.nan, 5, 5],
    [3, 4, np.inf, 5],
    [WIDTH, 4, 5, 5],
    [3, HEIGHT, 5, 5],
    [-5, 4, 5, 5],
    [3, -9, 5, 9],
]


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_a_box_without_an_area_spoils_its_own_row(form):
    contents = picture(1, form)
    boxes = np.array([[3, 4, 20, 20], *BAD, NONE], np.float32)
    files, flags = [contents] * len(boxes), [False] * len(boxes)
    values, valid = guarded_rows(
        lambda file, box, flag: decode_and_fit(file, 32, "crop", Crop(box, flag, 0.5)),
        (tf.constant(files), tf.constant(boxes), tf.constant(flags)),
        (32, 32, 3),
    )
    assert valid.numpy().tolist() == [True] + [False] * len(BAD) + [True]
    assert values.numpy()[1:-1].max() == 0
    sides = tf.constant([WIDTH, HEIGHT], tf.float32)
    areas = [bool(has_area(crop_of(box), sides)) for box in boxes]
    assert areas == valid.numpy().tolist()


@pytest.mark.parametrize("form", [pytest.param("PNG", marks=pytest.mark.nightly), "JPEG"])
def test_training_views_are_those_of_a_cropped_file(form):
    """The same random numbers give the same window of the box and of the file."""
    contents, box = picture(1, form), (8, 10, 40, 50)
    settings = InputSettings(image_size=32, colour_jitter=0.2)
    draws = tf.constant(np.random.default_rng(0).random((6, DRAWS)), tf.float32)

    def views(file, crop):
        view = tf.function(lambda draw: training_view(tf.constant(file), draw, settings, crop))
        return np.stack([view(draw).numpy() for draw in draws])

    expected, found = views(cropped(contents, box), None), views(contents, crop_of(box))
    if form == "PNG":
        np.testing.assert_allclose(found, expected, atol=1e-3)
    other = views(contents, crop_of((box[0] + 5, *box[1:])))
    assert np.abs(found - expected).mean() < 2.0 < 6.0 < np.abs(other - expected).mean()
    assert np.abs(found[1:] - found[:-1]).mean() > 5


def test_ordered_batches_take_a_box_a_row(tmp_path):
    files, boxes = [], []
    for number in range(5):
        (tmp_path / f"{number}.png").write_bytes(picture(1 + number, seed=number))
        files.append(str(tmp_path / f"{number}.png"))
        boxes.append([3 + number, 4, 20, 25 + number])
    boxes = np.array(boxes, np.float32)
    boxes[3] = np.nan
    stream, count = ordered_batches(files, 32, "crop", 2, (boxes, np.zeros(5, bool)), 0.0)
    batches = list(stream)
    assert len(batches) == count == 3
    found = np.concatenate([batch["images"] for batch in batches])
    valid = np.concatenate([batch["valid"] for batch in batches])
    assert valid.tolist() == [True] * 5 + [False]
    whole = [(tmp_path / f"{number}.png").read_bytes() for number in range(5)]
    parts = [
        cropped(*pair) if n != 3 else pair[0]
        for n, pair in enumerate(zip(whole, boxes, strict=True))
    ]
    np.testing.assert_allclose(found[:5], fitted(parts, 32, "crop"), atol=0.01)
