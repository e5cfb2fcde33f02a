"""Pixels: one preprocessing, training views, batches by step."""

import hashlib
import io
import math
import random

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from fir_tf.config import Config
from fir_tf.datasets import load
from fir_tf.input.augment import (
    colour_jitter,
    flip,
    grayscale,
    random_resized_crop,
    training_view,
    window,
)
from fir_tf.input.batches import ordered_batches, training_batches
from fir_tf.input.images import decode, preprocess
from fir_tf.input.plans import make_plan


def picture(width, height, seed=0):
    small = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.BICUBIC)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("size", [(300, 400), (401, 299), (90, 61)])
def test_squash_equals_pillow(size):
    image = picture(*size)
    pixels, valid = preprocess(tf.constant(encoded(image)), 64, "squash")
    expected = np.asarray(image.resize((64, 64), Image.BILINEAR), np.float32)
    assert bool(valid)
    np.testing.assert_allclose(pixels, expected, atol=1.01)


@pytest.mark.parametrize("size", [(300, 400), (400, 200), (64, 64), (30, 40)])
def test_pad_equals_pillow(size):
    image = picture(*size)
    pixels, valid = preprocess(tf.constant(encoded(image)), 64, "pad")
    expected = ImageOps.pad(image, (64, 64), Image.BILINEAR, color="white")
    assert bool(valid)
    np.testing.assert_allclose(pixels, np.asarray(expected, np.float32), atol=1.01)


@pytest.mark.parametrize("size", [(320, 448), (448, 320), (128, 128)])
def test_crop_equals_pillows_window(size):
    """The centre 7/8 of the short side, resized: what resize 256 + centre crop 224 shows."""
    image = picture(*size)
    pixels, _ = preprocess(tf.constant(encoded(image)), 56, "crop")
    side = min(size) * 7 // 8
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    cut = image.crop((left, top, left + side, top + side))
    expected = np.asarray(cut.resize((56, 56), Image.BILINEAR), np.float32)
    np.testing.assert_allclose(pixels, expected, atol=1.01)


@pytest.mark.parametrize(
    "image",
    [
        encoded(picture(50, 70), "JPEG"),
        encoded(picture(50, 70), "GIF"),
        encoded(picture(50, 70), "BMP"),
        encoded(picture(50, 70).convert("L")),
        encoded(picture(50, 70).convert("RGBA")),
        encoded(picture(1, 1)),
        encoded(picture(500, 1)),
    ],
    ids=["jpeg", "gif", "bmp", "gray", "alpha", "1x1", "500x1"],
)
@pytest.mark.parametrize("resize", ["crop", "squash", "pad"])
def test_other_formats_are_read(image, resize):
    pixels, valid = preprocess(tf.constant(image), 32, resize)
    assert bool(valid) and pixels.shape == (32, 32, 3)
    assert float(tf.reduce_min(pixels)) >= 0 and float(tf.reduce_max(pixels)) <= 255


def test_a_bad_image_is_marked_and_harms_no_neighbour():
    good = encoded(picture(60, 80), "JPEG")
    bad = [b"", b"not an image", good[: len(good) // 3], encoded(picture(9, 9))[:-30]]
    alone = preprocess(tf.constant(good), 32, "crop")[0].numpy()

    @tf.function
    def together(contents):
        return tf.map_fn(
            lambda value: preprocess(value, 32, "crop"),
            contents,
            fn_output_signature=(tf.float32, tf.bool),
        )

    pixels, valid = together(tf.constant([good, bad[0], bad[1], good, bad[2], bad[3], good]))
    assert valid.numpy().tolist() == [True, False, False, True, False, False, True]
    for row in (0, 3, 6):
        assert (pixels[row].numpy() == alone).all()
    assert float(tf.reduce_max(pixels[1])) == 0.0


def python_window(height, width, area_min, rng):
    """torchvision's RandomResizedCrop.get_params, retold as a plain loop."""
    for _ in range(10):
        area = height * width * rng.uniform(area_min, 1)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return rng.randint(0, height - h), rng.randint(0, width - w), h, w
    ratio = width / height
    w, h = width, height
    if ratio < 3 / 4:
        h = round(width / (3 / 4))
    elif ratio > 4 / 3:
        w = round(height * 4 / 3)
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize("size", [(100, 100), (120, 90), (400, 60)])
def test_windows_follow_torchvisions_law(size):
    height, width = size
    draws = 3000
    seeds = tf.stack([tf.range(draws), tf.range(draws) * 7 + 1], axis=1)
    draw = tf.function(lambda seed: window(height, width, seed, 0.2))
    ours = tf.function(tf.map_fn)(draw, seeds, fn_output_signature=tf.int32).numpy()
    top, left, h, w = ours.T
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + h <= height).all() and (left + w <= width).all()
    rng = random.Random(0)
    theirs = np.array([python_window(height, width, 0.2, rng) for _ in range(draws)])
    for column in range(4):
        a, b = ours[:, column], theirs[:, column]
        error = math.sqrt((a.var() + b.var()) / draws)
        assert abs(a.mean() - b.mean()) <= 4.5 * error + 1e-9
    area, their_area = h * w, theirs[:, 2] * theirs[:, 3]
    error = math.sqrt((area.var() + their_area.var()) / draws)
    assert abs(area.mean() - their_area.mean()) <= 4.5 * error + 1e-9


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_random_crop_is_that_window_of_the_image(kind):
    contents = encoded(picture(97, 71), kind)
    seed = tf.constant([3, 4])
    top, left, h, w = window(71, 97, seed, 0.3).numpy()
    whole = decode(tf.constant(contents))[top : top + h, left : left + w]
    expected = tf.image.resize(whole, (40, 40), antialias=True)
    np.testing.assert_allclose(
        random_resized_crop(tf.constant(contents), 40, seed, 0.3), expected, atol=4.0
    )


def test_flip_and_grayscale_happen_as_often_as_asked():
    pixels = tf.constant(np.asarray(picture(8, 8), np.float32))
    mirrored = gray = 0
    for number in range(400):
        seed = tf.constant([number, 1])
        flipped = flip(pixels, seed).numpy()
        if (flipped == pixels.numpy()[:, ::-1]).all():
            mirrored += 1
        else:
            assert (flipped == pixels.numpy()).all()
        result = grayscale(pixels, seed, 0.25).numpy()
        if (result != pixels.numpy()).any():
            gray += 1
            expected = np.asarray(pixels) @ [0.299, 0.587, 0.114]
            np.testing.assert_allclose(result, np.stack([expected] * 3, -1), rtol=1e-4)
    assert abs(mirrored - 200) < 50 and abs(gray - 100) < 45


def test_colour_jitter_keeps_range_and_does_nothing_at_zero():
    pixels = tf.constant(np.asarray(picture(8, 8), np.float32))
    np.testing.assert_allclose(colour_jitter(pixels, tf.constant([1, 2]), 0.0), pixels, atol=1e-3)
    strong = colour_jitter(pixels, tf.constant([1, 2]), 1.0).numpy()
    assert strong.min() >= 0 and strong.max() <= 255 and abs(strong - pixels.numpy()).max() > 5


def small_config(**values):
    return Config(
        **{"image_size": 32, "batch_size": 8, "images_per_item": 2, "colour_jitter": 0.2, **values}
    )


def digests(batches, count):
    return [
        hashlib.sha256(
            b"".join(batch[name].numpy().tobytes() for name in sorted(batch))
        ).hexdigest()
        for batch in batches.take(count)
    ]


@pytest.mark.parametrize("triplets", ["all", "explicit"])
def test_a_batch_is_a_function_of_seed_and_step(inshop, triplets):
    catalogue = load("inshop", inshop)
    config = small_config(triplets=triplets)
    plan = make_plan(catalogue, config)
    whole = digests(training_batches(catalogue, plan, config), 7)
    assert digests(training_batches(catalogue, plan, config, start_step=4), 3) == whole[4:]
    assert len(set(whole)) == 7
    other = small_config(triplets=triplets, seed=1)
    assert digests(training_batches(catalogue, make_plan(catalogue, other), other), 1) != whole[:1]


def test_batches_carry_the_rows_labels_and_views(inshop):
    catalogue = load("inshop", inshop)
    config = small_config()
    plan = make_plan(catalogue, config)
    batch = next(iter(training_batches(catalogue, plan, config)))
    rows = batch["row"].numpy()
    assert rows.tolist() == plan(np.int64(0)).numpy().tolist()
    assert (batch["item"].numpy() == catalogue.item[rows]).all()
    assert (batch["category"].numpy() == catalogue.category[rows]).all()
    assert (catalogue.split[rows] == "train").all()
    assert batch["valid"].numpy().all()
    assert batch["images"].shape == (8, 32, 32, 3)
    # Each view stems from its row's file: closer to it than the other rows' are, on average.
    own = [
        np.abs(
            np.asarray(Image.open(catalogue.files()[row]).resize((32, 32)), np.float32) - image
        ).mean()
        for row, image in zip(rows, batch["images"].numpy(), strict=True)
    ]
    wrong = [
        np.abs(
            np.asarray(Image.open(catalogue.files()[row]).resize((32, 32)), np.float32) - image
        ).mean()
        for row, image in zip(np.roll(rows, 2), batch["images"].numpy(), strict=True)
    ]
    assert np.mean(own) < np.mean(wrong)


def test_unreadable_training_images_lose_their_labels(inshop):
    catalogue = load("inshop", inshop)
    for path in catalogue.files()[:8]:
        with open(path, "wb") as file:
            file.write(b"broken")
    config = small_config(batch_size=16)
    batch = next(iter(training_batches(catalogue, make_plan(catalogue, config), config)))
    bad = batch["row"].numpy() < 8
    assert bad.any()
    assert (batch["valid"].numpy() == ~bad).all()
    assert (batch["item"].numpy()[bad] == -1).all() and (batch["category"].numpy()[bad] == -1).all()
    assert (batch["item"].numpy()[~bad] >= 0).all()


def test_ordered_batches_are_the_preprocessed_files_in_order(inshop):
    catalogue = load("inshop", inshop)
    batches, count = ordered_batches(catalogue, 32, "crop", 20)
    found = list(batches)
    assert len(found) == count == 3
    pixels = np.concatenate([batch["images"] for batch in found])
    valid = np.concatenate([batch["valid"] for batch in found])
    assert valid.tolist() == [True] * 48 + [False] * 12
    for row, path in enumerate(catalogue.files()):
        with open(path, "rb") as file:
            expected, _ = preprocess(tf.constant(file.read()), 32, "crop")
        assert (pixels[row] == expected.numpy()).all()


def test_training_view_has_a_static_shape(inshop):
    config = small_config(crop_area_min=1.0)
    function = tf.function(lambda value, seed: training_view(value, seed, config))
    shape = function.get_concrete_function(
        tf.TensorSpec((), tf.string), tf.TensorSpec((2,), tf.int32)
    ).output_shapes
    assert shape.as_list() == [32, 32, 3]


@pytest.mark.slow
def test_rand_augment_changes_the_views_and_keeps_their_range(inshop):
    catalogue = load("inshop", inshop)
    plain, config = small_config(), small_config(rand_augment=True)
    plan = make_plan(catalogue, config)
    before = next(iter(training_batches(catalogue, plan, plain)))["images"].numpy()
    after = next(iter(training_batches(catalogue, plan, config)))
    images = after["images"].numpy()
    assert images.shape == before.shape and images.dtype == np.float32
    assert images.min() >= 0 and images.max() <= 255
    assert np.abs(images - before).mean() > 3
    assert (after["item"].numpy() == catalogue.item[after["row"].numpy()]).all()
