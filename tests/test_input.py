"""Pixels: one preprocessing, training views, batches by step."""

import dataclasses
import functools
import hashlib
import io
import math
import random

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps
from reading import cheap_view, preprocess, preprocessed

from fir_tf.config import Config
from fir_tf.datasets import load
from fir_tf.errors import FirError
from fir_tf.images.decode import decode, fit, guarded_rows, halvings
from fir_tf.input import batches
from fir_tf.input.augment import (
    DRAWS,
    colour_jitter,
    flip,
    grayscale,
    random_crop,
    random_erasing,
    shrink_or_grow,
    training_view,
    window,
)
from fir_tf.input.batches import ordered_batches, training_batches
from fir_tf.samplers.choose import make_sampler


def picture(width, height, seed=0):
    small = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.BICUBIC)


@functools.cache
def detailed_picture(width, height, seed=0):
    """Random colours with as much fine detail as photos have (amplitude 1 / frequency)."""
    rng = np.random.default_rng(seed)
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None]
    amplitude = 1 / np.maximum(np.hypot(rows, columns), 1 / max(width, height))
    channels = [
        np.fft.ifft2(np.fft.fft2(rng.standard_normal((height, width))) * amplitude).real
        for _ in range(3)
    ]
    pixels = np.stack([channel / channel.std() for channel in channels], axis=-1)
    return Image.fromarray(np.clip(128 + 50 * pixels, 0, 255).astype(np.uint8))


def psnr(one, other):
    return 10 * np.log10(255**2 / np.mean(np.square(np.asarray(one) - np.asarray(other))))


def draws_of(number):
    return tf.random.stateless_uniform([DRAWS], [number, 1])


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("size", [(300, 400), (401, 299), (90, 61)])
def test_squash_equals_pillow(size):
    image = picture(*size)
    pixels, valid = preprocessed(encoded(image), 64, "squash")
    expected = np.asarray(image.resize((64, 64), Image.BILINEAR), np.float32)
    assert bool(valid)
    np.testing.assert_allclose(pixels, expected, atol=1.01)


@pytest.mark.parametrize("size", [(300, 400), (400, 200), (64, 64), (30, 40)])
def test_pad_equals_pillow(size):
    image = picture(*size)
    pixels, valid = preprocessed(encoded(image), 64, "pad")
    expected = ImageOps.pad(image, (64, 64), Image.BILINEAR, color="white")
    assert bool(valid)
    np.testing.assert_allclose(pixels, np.asarray(expected, np.float32), atol=1.01)


@pytest.mark.parametrize("size", [(320, 448), (448, 320), (128, 128)])
def test_crop_equals_pillows_window(size):
    """The centre 7/8 of the short side, resized: what resize 256 + centre crop 224 shows."""
    image = picture(*size)
    pixels, _ = preprocessed(encoded(image), 64, "crop")
    side = min(size) * 7 // 8
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    cut = image.crop((left, top, left + side, top + side))
    expected = np.asarray(cut.resize((64, 64), Image.BILINEAR), np.float32)
    np.testing.assert_allclose(pixels, expected, atol=1.01)


@pytest.mark.parametrize("wanted", [1, 30, 224.0])
def test_halvings_keep_what_is_wanted(wanted):
    for sides in [(1, 1), (30, 60), (60, 59), (447, 5000), (448, 448), (900, 1791), (4000, 3000)]:
        count = 0
        while count < 3 and min(sides) / 2 ** (count + 1) >= wanted:
            count += 1
        assert int(halvings(tf.constant(sides), wanted)) == count


@pytest.mark.parametrize("resize", ["crop", "squash", "pad"])
@pytest.mark.parametrize("size", [(512, 640), (531, 397), (1003, 1205)])
def test_reduced_decoding_loses_nothing(size, resize):
    """Compared with Pillow's full decode, at sizes that cannot be halved evenly too."""
    image = detailed_picture(*size)
    contents = encoded(image, "JPEG", quality=92)
    whole = tf.constant(np.asarray(Image.open(io.BytesIO(contents))))
    pixels, valid = preprocessed(contents, 64, resize)
    assert bool(valid)
    assert psnr(pixels, fit(whole, 64, resize)) > 43


def test_large_jpegs_are_decoded_at_reduced_size_and_others_in_full():
    image = detailed_picture(403, 301)
    for kind, ratio, shape in (("JPEG", 4, (75, 101, 3)), ("PNG", 1, (301, 403, 3))):
        pixels, extent = decode(
            tf.constant(encoded(image, kind)),
            lambda height, width: (tf.stack([0, 0, height, width]), tf.constant(2)),
        )
        assert pixels.shape == shape
        assert extent.numpy().tolist() == [301 / ratio, 403 / ratio]


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
    pixels, valid = preprocessed(image, 64, resize)
    assert bool(valid) and pixels.shape == (64, 64, 3)
    assert float(tf.reduce_min(pixels)) >= 0 and float(tf.reduce_max(pixels)) <= 255


def test_a_bad_image_is_marked_and_harms_no_neighbour():
    good = encoded(picture(60, 80), "JPEG")
    bad = [b"", b"not an image", good[: len(good) // 3], encoded(picture(9, 9))[:-30]]
    alone = preprocessed(good, 64, "crop")[0].numpy()

    @tf.function
    def together(contents):
        return tf.map_fn(
            lambda value: preprocess(value, 64, "crop"),
            contents,
            fn_output_signature=(tf.float32, tf.bool),
        )

    pixels, valid = together(tf.constant([good, bad[0], bad[1], good, bad[2], bad[3], good]))
    assert valid.numpy().tolist() == [True, False, False, True, False, False, True]
    for row in (0, 3, 6):
        assert (pixels[row].numpy() == alone).all()
    assert float(tf.reduce_max(pixels[1])) == 0.0


def test_bad_rows_are_marked_in_their_places():
    def half(value):
        with tf.control_dependencies([tf.debugging.assert_greater(value, 0.0)]):
            return tf.fill([2], value / 2)

    run = tf.function(lambda values: guarded_rows(half, values, (2,)))
    for values in ([4.0, 6.0], [-1.0, 4.0, -1.0, -1.0, 6.0], [-1.0], []):
        result, valid = run(tf.constant(values, tf.float32))
        assert valid.numpy().tolist() == [value > 0 for value in values]
        assert result.numpy().tolist() == [[max(value, 0) / 2] * 2 for value in values]


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
    numbers = tf.random.stateless_uniform([draws, DRAWS], [1, 2])
    draw = tf.function(lambda row: window(height, width, row, 0.2))
    ours = tf.function(tf.map_fn)(draw, numbers, fn_output_signature=tf.int32).numpy()
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
    contents = tf.constant(encoded(picture(97, 71), kind))
    draws = draws_of(3)
    top, left, h, w = window(71, 97, draws, 0.3).numpy()
    whole = decode(contents)[0].numpy()
    cut = random_crop(contents, 90, draws, 0.3).numpy()
    assert cut.shape == (h, w, 3)
    difference = np.abs(cut - whole[top : top + h, left : left + w].astype(int))
    # The decoder smooths colours between pixels, at the window's edge without the pixels outside.
    assert difference.max() <= 12 and difference[2:-2, 2:-2].max() <= 2


def test_random_crop_of_a_large_jpeg_is_the_window_at_reduced_size():
    image = detailed_picture(611, 803)
    contents = tf.constant(encoded(image, "JPEG", quality=92, subsampling=0))
    reduced = 0
    for number in range(12):
        draws = draws_of(number)
        top, left, h, w = window(803, 611, draws, 0.3).numpy()
        cut = random_crop(contents, 80, draws, 0.3)
        ratio = round(h / cut.shape[0])
        reduced += ratio > 1
        assert min(cut.shape[:2]) >= 79 and min(h, w) < 160 * ratio
        top, left, bottom, right = (
            math.floor(value / ratio + 0.5) * ratio for value in (top, left, top + h, left + w)
        )
        expected = area_means(np.asarray(image)[top:bottom, left:right], 80)
        assert psnr(shrink_or_grow(cut, 80), expected) > 31
    assert reduced == 12


def area_means(pixels, size):
    """Resizes to a square whose every pixel is the mean over the area it covers."""
    for axis in (0, 1):
        # On a grid that both sizes divide, areas are whole numbers of cells.
        count = pixels.shape[axis]
        fine = np.repeat(np.asarray(pixels, np.float32), size, axis)
        shape = (*fine.shape[:axis], size, count, *fine.shape[axis + 1 :])
        pixels = fine.reshape(shape).mean(axis + 1)
    return pixels


def test_windows_shrink_by_areas():
    pixels = np.asarray(detailed_picture(50, 37), np.float32)
    result = shrink_or_grow(tf.constant(pixels.astype(np.uint8)), 24)
    np.testing.assert_allclose(result, area_means(pixels, 24), atol=0.01)
    white = tf.fill([231, 317, 3], tf.constant(255, tf.uint8))
    assert float(tf.reduce_max(shrink_or_grow(white, 224))) == 255.0


@pytest.mark.parametrize("size", [(20, 31), (90, 30)])
def test_windows_that_grow_equal_pillow(size):
    image = picture(*size)
    result = shrink_or_grow(tf.constant(np.asarray(image)), 40)
    expected = np.asarray(image.resize((40, 40), Image.BILINEAR), np.float32)
    np.testing.assert_allclose(result, expected, atol=1.01)


def test_flip_and_grayscale_follow_their_draw():
    pixels = tf.constant(np.asarray(picture(8, 8), np.float32))
    gray = np.stack([np.asarray(pixels) @ [0.299, 0.587, 0.114]] * 3, -1)
    for draw in (0.0, 0.2, 0.49, 0.5, 0.51, 0.99):
        expected = pixels.numpy()[:, ::-1] if draw < 0.5 else pixels.numpy()
        assert (flip(pixels, tf.constant(draw)).numpy() == expected).all()
        expected = gray if draw < 0.2 else pixels.numpy()
        np.testing.assert_allclose(grayscale(pixels, tf.constant(draw), 0.2), expected, rtol=1e-4)


def test_colour_jitter_keeps_range_and_does_nothing_at_zero():
    pixels = tf.constant(np.asarray(picture(8, 8), np.float32))
    np.testing.assert_allclose(
        colour_jitter(pixels, tf.constant([0.1, 0.9, 0.7]), 0.0), pixels, atol=1e-3
    )
    strong = colour_jitter(pixels, tf.constant([0.1, 0.9, 0.7]), 1.0).numpy()
    assert strong.min() >= 0 and strong.max() <= 255 and abs(strong - pixels.numpy()).max() > 5


def python_erasing(side, rng):
    """Zhong et al. 2017, algorithm 1, as a plain loop: (top, left, height, width)."""
    while True:
        area = rng.uniform(0.02, 0.4) * side * side
        ratio = rng.uniform(0.3, 1 / 0.3)
        h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        top, left = rng.randrange(side), rng.randrange(side)
        if top + h <= side and left + w <= side:
            return top, left, h, w


@pytest.fixture(scope="module")
def erased():
    """2,000 gray images of 40 x 40 pixels, half of them meant to be erased."""
    seeds = tf.random.stateless_uniform([2000, 2], [3, 4], None, None, tf.int32)
    pixels = tf.fill([40, 40, 3], 300.0)
    erase = tf.function(lambda seed: random_erasing(pixels, seed, 0.5))
    return tf.function(tf.map_fn)(erase, seeds, fn_output_signature=tf.float32).numpy()


def test_erasing_fills_one_rectangle_with_noise(erased):
    changed = erased != 300
    assert (changed.all(-1) == changed.any(-1)).all()
    for mask in changed[..., 0]:
        rows, columns = mask.any(1), mask.any(0)
        assert (mask == rows[:, None] & columns[None]).all()
        for line in (rows, columns):
            assert not line.any() or np.ptp(np.flatnonzero(line)) + 1 == line.sum()
    noise = erased[changed]
    assert noise.min() >= 0 and noise.max() <= 255
    np.testing.assert_allclose(np.histogram(noise, 10, (0, 255))[0] / len(noise), 0.1, atol=2e-3)


def test_erasing_follows_the_papers_law(erased):
    masks = (erased != 300).all(-1)
    share = masks.any((1, 2))
    assert abs(share.mean() - 0.5) < 4.5 * math.sqrt(0.25 / len(masks))
    ours = np.array(
        [
            (mask.any(1).argmax(), mask.any(0).argmax(), mask.any(1).sum(), mask.any(0).sum())
            for mask in masks[share]
        ]
    )
    rng = random.Random(0)
    theirs = np.array([python_erasing(40, rng) for _ in range(5000)])
    for law in (lambda v: v.T, lambda v: v[:, 2:].prod(1)[None], lambda v: np.log(v[:, 2:]).T):
        for a, b in zip(law(ours), law(theirs), strict=True):
            error = math.sqrt(a.var() / len(a) + b.var() / len(b))
            assert abs(a.mean() - b.mean()) < 4.5 * error
            assert abs(a.std() / b.std() - 1) < 0.1


@pytest.mark.slow
def test_erasing_leaves_the_rest_of_a_view_alone():
    """The other draws are what they were; with a probability of 0 nothing is ever erased."""
    contents = tf.constant(encoded(picture(60, 80), "JPEG"))
    plain, config = small_config(), small_config(random_erasing=1.0)
    view = tf.function(lambda draws: training_view(contents, draws, plain))
    erasing = tf.function(lambda draws: training_view(contents, draws, config))
    for number in range(5):
        expected, found = view(draws_of(number)).numpy(), erasing(draws_of(number)).numpy()
        same = (expected == found).all(-1)
        assert 0.5 < same.mean() < 0.99
        assert (erasing(draws_of(number)).numpy() == found).all()
        assert (random_erasing(expected, [number, 0], 0.0).numpy() == expected).all()


def small_config(**values):
    return Config(
        **{"image_size": 32, "batch_size": 8, "images_per_item": 2, "colour_jitter": 0.2, **values}
    )


def digests(stream, count):
    return [
        hashlib.sha256(
            b"".join(batch[name].numpy().tobytes() for name in sorted(batch))
        ).hexdigest()
        for batch in stream.take(count)
    ]


@pytest.fixture
def cheap_views(monkeypatch):
    monkeypatch.setattr(batches, "training_view", cheap_view)


@pytest.mark.addons
@pytest.mark.slow
@pytest.mark.parametrize("triplets", ["all", pytest.param("explicit", marks=pytest.mark.nightly)])
def test_a_batch_is_a_function_of_seed_and_step(inshop, triplets):
    """Resumed, by one reader or two, the views are the same bytes."""
    catalogue = load("inshop", inshop)
    config = small_config(triplets=triplets, random_erasing=0.5)
    sampler = make_sampler(catalogue, config)
    whole = digests(training_batches(catalogue, sampler, config), 7)
    assert len(set(whole)) == 7
    readers = [
        training_batches(catalogue, sampler, config, start_step=4, shard=(index, 2))
        for index in (0, 1)
    ]
    assert joined_digests(zip(*readers, strict=True), 3) == whole[4:]


@pytest.mark.slow
@pytest.mark.parametrize("triplets", ["all", "explicit"])
def test_shares_make_up_the_batch(inshop, triplets, cheap_views):
    """On 1, 2 or 3 readers, from step 0 or resumed, the global batch is the same bytes."""
    catalogue = load("inshop", inshop)
    with open(catalogue.files()[3], "wb") as file:
        file.write(b"broken")
    config = small_config(triplets=triplets, batch_size=48, category_fraction=0.25)
    sampler = make_sampler(catalogue, config)
    whole = digests(training_batches(catalogue, sampler, config), 5)
    assert digests(training_batches(catalogue, sampler, config, start_step=3), 2) == whole[3:]
    readers = [
        training_batches(catalogue, sampler, config, 2, shard=(index, 3)) for index in range(3)
    ]
    assert joined_digests(zip(*readers, strict=True), 3) == whole[2:]
    # Two readers that feed two replicas each.
    quarter = sampler.size // 4
    readers = [
        training_batches(catalogue, sampler, config, shard=(index, 2), batch_size=quarter)
        for index in range(2)
    ]
    steps = zip(*(reader.batch(2) for reader in readers), strict=True)
    flat = (
        [tf.nest.map_structure(lambda v, n=n: v[n], r) for r in s for n in (0, 1)] for s in steps
    )
    assert joined_digests(flat, 5) == whole
    other = dataclasses.replace(config, seed=1)
    assert digests(training_batches(catalogue, sampler, other), 1) != whole[:1]
    assert (
        digests(training_batches(catalogue, make_sampler(catalogue, other), other), 1) != whole[:1]
    )


def joined_digests(steps, count):
    """`digests` of batches whose parts come from several readers."""
    parts = [part for part, _ in zip(steps, range(count), strict=False)]
    names = sorted(parts[0][0])
    return [
        hashlib.sha256(
            b"".join(np.concatenate([batch[n] for batch in step]).tobytes() for n in names)
        ).hexdigest()
        for step in parts
    ]


@pytest.mark.parametrize(
    ("shard", "batch_size", "message"),
    [
        ((0, 3), None, r"divides the batch of 8 images. Received: \(0, 3\)"),
        ((2, 2), None, r"index below count .* Received: \(2, 2\)"),
        ((-1, 2), None, r"Received: \(-1, 2\)"),
        ((0, 2), 3, "share of 4 of 8 images. Received: 3"),
        ((0, 1), 0, "Received: 0"),
    ],
)
def test_uneven_shares_are_refused(inshop, shard, batch_size, message):
    catalogue = load("inshop", inshop)
    config = small_config()
    sampler = make_sampler(catalogue, config)
    with pytest.raises(FirError, match=message):
        training_batches(catalogue, sampler, config, shard=shard, batch_size=batch_size)


@pytest.mark.slow
def test_batches_carry_the_rows_labels_and_views(inshop):
    catalogue = load("inshop", inshop)
    config = small_config()
    sampler = make_sampler(catalogue, config)
    batch = next(iter(training_batches(catalogue, sampler, config)))
    rows = batch["row"].numpy()
    assert rows.tolist() == sampler(np.int64(0)).numpy().tolist()
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


def test_unreadable_training_images_lose_their_labels(inshop, cheap_views):
    catalogue = load("inshop", inshop)
    for path in catalogue.files()[:8]:
        with open(path, "wb") as file:
            file.write(b"broken")
    config = small_config(batch_size=16)
    batch = next(iter(training_batches(catalogue, make_sampler(catalogue, config), config)))
    bad = batch["row"].numpy() < 8
    assert bad.any()
    assert (batch["valid"].numpy() == ~bad).all()
    assert (batch["item"].numpy()[bad] == -1).all() and (batch["category"].numpy()[bad] == -1).all()
    assert (batch["item"].numpy()[~bad] >= 0).all()


@pytest.mark.slow
def test_ordered_batches_are_the_preprocessed_files_in_order(inshop):
    catalogue = load("inshop", inshop)
    stream, count = ordered_batches(catalogue.files(), 64, "crop", 20)
    found = list(stream)
    assert len(found) == count == 3
    pixels = np.concatenate([batch["images"] for batch in found])
    valid = np.concatenate([batch["valid"] for batch in found])
    assert valid.tolist() == [True] * 48 + [False] * 12
    for row, path in enumerate(catalogue.files()):
        with open(path, "rb") as file:
            expected, _ = preprocessed(file.read(), 64, "crop")
        assert (pixels[row] == expected.numpy()).all()


@pytest.mark.slow
def test_training_view_has_a_static_shape(inshop):
    config = small_config(crop_area_min=1.0)
    function = tf.function(lambda value, draws: training_view(value, draws, config))
    shape = function.get_concrete_function(
        tf.TensorSpec((), tf.string), tf.TensorSpec((DRAWS,), tf.float32)
    ).output_shapes
    assert shape.as_list() == [32, 32, 3]


@pytest.mark.slow
def test_rand_augment_changes_the_views_and_keeps_their_range(inshop, cheap_views):
    catalogue = load("inshop", inshop)
    plain, config = small_config(), small_config(rand_augment=True)
    sampler = make_sampler(catalogue, config)
    before = next(iter(training_batches(catalogue, sampler, plain)))["images"].numpy()
    after = next(iter(training_batches(catalogue, sampler, config)))
    images = after["images"].numpy()
    assert images.shape == before.shape and images.dtype == np.float32
    assert images.min() >= 0 and images.max() <= 255
    assert np.abs(images - before).mean() > 3
    assert (after["item"].numpy() == catalogue.item[after["row"].numpy()]).all()


@pytest.mark.slow
def test_no_bytes_are_transposed():
    """oneDNN has no transpose of bytes, and says so on the screen of whoever asks for one."""
    config = Config(image_size=32, grayscale=0.5, colour_jitter=0.5)
    contents = tf.TensorSpec([], tf.string)
    graphs = [
        tf.function(lambda file: training_view(file, tf.zeros(DRAWS), config)),
        *(tf.function(lambda file, how=how: preprocess(file, 32, how)) for how in ("crop", "pad")),
    ]
    for graph in graphs:
        definition = graph.get_concrete_function(contents).graph.as_graph_def()
        nodes = [*definition.node, *(n for f in definition.library.function for n in f.node_def)]
        types = [node.attr["T"].type for node in nodes if node.op == "Transpose"]
        assert types and tf.uint8.as_datatype_enum not in types
