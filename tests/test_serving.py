"""The exported SavedModel: names, faults, folding, the gallery, other loaders and clients."""

import contextlib
import email.utils
import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps
from shallow import shallow_backbones
from small_sets import inshop_rows, write_inshop

from fir_tf import datasets, onednn, registry
from fir_tf.config import Config, ModelSettings
from fir_tf.errors import FirError
from fir_tf.evaluation.embedder import Embedder
from fir_tf.files import write_json
from fir_tf.models.batch_norm import FusedBatchNormalization
from fir_tf.models.fir import build_fir, search_model
from fir_tf.options import ExportOptions
from fir_tf.registry import names
from fir_tf.run import load_run
from fir_tf.search.encoder import Encoder
from fir_tf.serving import gallery as gallery_module
from fir_tf.serving.client import Client
from fir_tf.serving.export import export
from fir_tf.serving.fold import inference_model
from fir_tf.serving.formats import Format, get_format
from fir_tf.serving.formats.saved_model import check_operations
from fir_tf.serving.gallery import Gallery, GalleryTable, quantise

# The exports that they share take long to write.
pytestmark = pytest.mark.slow

SIZE = 64
CATEGORIES = ["MEN/Denim", "WOMEN/Dresses"]


def small_model(backbone, **options):
    return ModelSettings(backbone=backbone, weights="none", relaxation_width=8, **options)


def shake_statistics(model):
    """Gives every batch norm weights that a wrong folding cannot survive."""
    rng = np.random.default_rng(0)
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            size = layer.gamma.shape
            beta = [rng.normal(0, 0.3, size)] * layer.center
            statistics = [rng.normal(0, 0.3, size), rng.uniform(0.5, 1.5, size)]
            layer.set_weights([rng.uniform(0.5, 1.5, size), *beta, *statistics])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run with an untrained network, on a small In-Shop set."""
    root = tmp_path_factory.mktemp("serving")
    data = write_inshop(root / "inshop", inshop_rows())
    folder = root / "run"
    config = Config(
        run=str(folder),
        data_dir=str(data),
        backbone="efficientnet_lite0",
        weights="none",
        image_size=SIZE,
        relaxation_width=8,
        pooling="gem",
        neck="bnneck",
    )
    keras.utils.set_random_seed(1)
    with shallow_backbones():
        model = build_fir(config, SIZE, len(CATEGORIES))
    shake_statistics(model)
    folder.mkdir()
    config.save(folder / "config.json")
    write_json(folder / "labels.json", {"categories": CATEGORIES})
    write_json(folder / "versions.json", {"tensorflow": tf.__version__})
    write_json(folder / "metrics.json", {"recall@1": 0.4321, "protocol": {"queries": 8}})
    model.save(folder / "model.keras")
    return folder


def data_dir_of(run):
    return Config.load(run / "config.json").data_dir


def inshop_of(run):
    return datasets.load("inshop", data_dir_of(run))


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    return export(
        ExportOptions(
            run=str(run),
            output=str(tmp_path_factory.mktemp("exported") / "fir"),
            gallery=f"inshop:{data_dir_of(run)}",
        )
    )


@pytest.fixture(scope="module")
def loaded(exported):
    return tf.saved_model.load(str(exported))


@pytest.fixture(scope="module")
def signatures(loaded):
    return loaded.signatures


@pytest.fixture(scope="module")
def evaluated(run):
    """(paths, embeddings, categories) of the gallery as evaluate.py computes them."""
    model, config, _ = load_run(run)
    part = inshop_of(run).part("gallery")
    found = Embedder(model, config.image_size, config.resize).catalogue(part)
    return part, found


def contents_of(part):
    return [Path(path).read_bytes() for path in part.files()]


def encoded(kind, mode="RGB", size=(80, 60), seed=0, **options):
    noise = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize(size, Image.BICUBIC).convert(mode)
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def test_names_types_and_shapes_are_fixed(signatures):
    def side(tensors):
        return {
            name: (spec.dtype.name, spec.shape.as_list() if spec.shape.rank else [])
            for name, spec in tensors.items()
        }

    image, checks = (
        {"image_bytes": ("string", [None])},
        {
            "valid": ("bool", [None]),
            "error": ("string", [None]),
        },
    )
    embedding = {"embedding": ("float32", [None, 1280]), **checks}
    choice = {"k": ("int32", [None]), "category": ("string", [None])}
    found = {
        "item_id": ("string", [None, None]),
        "image_path": ("string", [None, None]),
        "score": ("float32", [None, None]),
        **checks,
    }
    classes = {"category": ("string", [None, 2]), "score": ("float32", [None, 2]), **checks}
    box = {"box": ("float32", [None, 4])}
    expected = {
        "serving_default": (image, embedding),
        "embed": (image, embedding),
        "embed_boxes": ({**image, **box}, embedding),
        "classify": (image, classes),
        "classify_boxes": ({**image, **box}, classes),
        "locate": (
            image,
            {
                "boxes": ("float32", [None, 8, 4]),
                "category": ("string", [None, 8]),
                "score": ("float32", [None, 8]),
                **checks,
            },
        ),
        "search_garments": (
            {**image, **choice},
            {
                "boxes": ("float32", [None, 8, 4]),
                "garment_category": ("string", [None, 8]),
                "garment_score": ("float32", [None, 8]),
                "item_id": ("string", [None, 8, None]),
                "image_path": ("string", [None, 8, None]),
                "score": ("float32", [None, 8, None]),
                **checks,
            },
        ),
        "embed_pixels": ({"pixels": ("float32", [None, SIZE, SIZE, 3])}, embedding),
        "embed_pixels_uint8": ({"pixels": ("uint8", [None, None, None, 3])}, embedding),
        "search": ({**image, **choice}, found),
        "search_boxes": ({**image, **box, **choice}, found),
        "search_embedding": ({"embedding": ("float32", [None, 1280]), **choice}, found),
    }
    actual = {
        name: (
            side(function.structured_input_signature[1]),
            side(function.structured_outputs),
        )
        for name, function in signatures.items()
    }
    assert actual == expected


def test_served_embeddings_are_the_evaluated_ones(signatures, evaluated):
    part, found = evaluated
    served = signatures["serving_default"](image_bytes=tf.constant(contents_of(part)))
    assert served["valid"].numpy().all() and set(served["error"].numpy()) == {b""}
    np.testing.assert_allclose(served["embedding"].numpy(), found.embedding, atol=1e-5)
    classified = signatures["classify"](image_bytes=tf.constant(contents_of(part)))
    best = np.array(CATEGORIES)[found.category.argmax(axis=1)]
    assert [name.decode() for name in classified["category"].numpy()[:, 0]] == best.tolist()
    np.testing.assert_allclose(
        classified["score"].numpy(), -np.sort(-found.category, axis=1), atol=1e-5
    )


@pytest.mark.nightly
@pytest.mark.slow
def test_without_folding_they_are_equal_but_for_rounding(run, tmp_path, evaluated):
    part, found = evaluated
    target = export(ExportOptions(run=str(run), output=str(tmp_path / "fir"), fold=False))
    served = tf.saved_model.load(str(target)).signatures["embed"](
        image_bytes=tf.constant(contents_of(part))
    )
    # Two graphs of one network: where oneDNN is off, their kernels add up in other orders.
    np.testing.assert_allclose(served["embedding"].numpy(), found.embedding, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_pixels_give_what_their_file_gives(signatures, run):
    png = encoded("PNG")
    pixels = tf.io.decode_png(png)
    from_bytes = signatures["embed"](image_bytes=tf.constant([png]))["embedding"].numpy()
    from_uint8 = signatures["embed_pixels_uint8"](pixels=pixels[None])["embedding"].numpy()
    np.testing.assert_array_equal(from_uint8, from_bytes)
    from fir_tf.images.decode import fit

    fitted = fit(pixels, SIZE, Config.load(run / "config.json").resize)
    from_float = signatures["embed_pixels"](pixels=tf.stack([fitted, fitted * float("nan")]))
    assert from_float["valid"].numpy().tolist() == [True, False]
    assert from_float["error"].numpy().tolist() == [b"", b"NOT_FINITE"]
    np.testing.assert_allclose(from_float["embedding"].numpy()[0], from_bytes[0], atol=1e-6)
    assert not from_float["embedding"].numpy()[1].any()


def claiming(width, height):
    """A small PNG file that says it is large."""
    png = bytearray(encoded("PNG"))
    png[16:24] = struct.pack(">II", width, height)
    return bytes(png)


GOOD = {
    "gray": encoded("JPEG", "L"),
    "cmyk": encoded("JPEG", "CMYK"),
    "png": encoded("PNG"),
    "transparent": encoded("PNG", "RGBA"),
    "palette": encoded("PNG", "P"),
    "gif": encoded("GIF"),
    "animated": encoded(
        "GIF",
        save_all=True,
        append_images=[Image.new("RGB", (80, 60), colour) for colour in ("red", "blue")],
    ),
    "bmp": encoded("BMP"),
    "progressive": encoded("JPEG", progressive=True),
    "tiny": encoded("PNG", size=(1, 1)),
    "thin": encoded("JPEG", size=(2, 900)),
}
BAD = {
    "empty": (b"", b"EMPTY"),
    "text": (b"this is no image", b"UNSUPPORTED_FORMAT"),
    "tiff": (encoded("TIFF"), b"UNSUPPORTED_FORMAT"),
    "head of a jpeg": (b"\xff\xd8\xff\xe0", b"CORRUPT"),
    "truncated jpeg": (encoded("JPEG", size=(400, 300))[:900], b"CORRUPT"),
    "truncated png": (encoded("PNG")[:60], b"CORRUPT"),
    "bomb": (claiming(9000, 9000), b"TOO_LARGE"),
    "largest bomb": (claiming(2**31 - 1, 2**31 - 1), b"TOO_LARGE"),
    "palette bmp": (encoded("BMP", "P"), b"CORRUPT"),
    "lying png": (claiming(8000, 8000), b"CORRUPT"),
}


def test_a_bad_image_is_marked_and_harms_nobody(signatures):
    """Every kind of fault stands between good images, whose answers stay the same to the bit."""
    good = list(GOOD.values())
    fillers = [encoded("JPEG", seed=9)] * len(BAD)
    mixed = good + [contents for contents, _ in BAD.values()]
    for name, outputs in (("embed", ["embedding"]), ("classify", ["category", "score"])):
        alone = signatures[name](image_bytes=tf.constant(good + fillers))
        found = signatures[name](image_bytes=tf.constant(mixed))
        errors = dict(zip([*GOOD, *BAD], found["error"].numpy().tolist(), strict=True))
        expected = {**dict.fromkeys(GOOD, b""), **{kind: code for kind, (_, code) in BAD.items()}}
        assert errors == expected
        assert found["valid"].numpy().tolist() == [True] * len(GOOD) + [False] * len(BAD)
        for output in outputs:
            values = found[output].numpy()
            np.testing.assert_array_equal(values[: len(GOOD)], alone[output].numpy()[: len(GOOD)])
            assert not any(bool(value) for value in values[len(GOOD) :].ravel())


def test_odd_images_are_decoded_as_pillow_decodes_them(signatures, run):
    """Not only accepted: the same picture as a plain RGB PNG gives the same embedding."""
    names = ["gray", "cmyk", "transparent", "palette", "animated", "bmp"]
    plain = []
    for name in names:
        with Image.open(io.BytesIO(GOOD[name])) as image:
            stream = io.BytesIO()
            image.convert("RGB").save(stream, "PNG")
            plain.append(stream.getvalue())
    sixteen = io.BytesIO()
    values = np.add.outer(np.arange(60), np.arange(80)).astype(np.uint16) * 400
    Image.fromarray(values).save(sixteen, "PNG")
    eight = io.BytesIO()
    Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB").save(eight, "PNG")
    odd = [GOOD[name] for name in names] + [sixteen.getvalue()]
    served, expected = (
        signatures["embed"](image_bytes=tf.constant(side))["embedding"].numpy()
        for side in (odd, [*plain, eight.getvalue()])
    )
    assert ((served * expected).sum(axis=1) > 0.999).all()
    others = served @ expected.T
    np.fill_diagonal(others, 0)
    assert others.min() < 0.999


def test_photos_are_turned_upright(signatures):
    """A phone's turned photo with its EXIF note gives what the upright photo gives."""
    with Image.open(io.BytesIO(encoded("PNG", size=(90, 60)))) as image:
        upright = image.copy()
    stored = upright.transpose(Image.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    with_note, without = io.BytesIO(), io.BytesIO()
    stored.save(with_note, "JPEG", quality=100, subsampling=0, exif=exif)
    stored.save(without, "JPEG", quality=100, subsampling=0)
    right = io.BytesIO()
    upright.save(right, "PNG")
    found = signatures["embed"](
        image_bytes=tf.constant([with_note.getvalue(), without.getvalue(), right.getvalue()])
    )["embedding"].numpy()
    assert found[0] @ found[2] > 0.999 > found[1] @ found[2]


@pytest.mark.slow
def cut_of(contents, share):
    """What Pillow has of the upright photo in a box of shares, as PNG."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(contents))).convert("RGB")
    left, top, width, height = np.multiply(share, [*image.size, *image.size])
    stream = io.BytesIO()
    image.crop([round(edge) for edge in (left, top, left + width, top + height)]).save(
        stream, "PNG"
    )
    return stream.getvalue()


def test_boxes_are_as_files_that_were_cropped_beforehand(signatures):
    exif = Image.Exif()
    photos, boxes = [], []
    for turn in range(1, 9):
        exif[0x0112] = turn
        photos.append(encoded("PNG", seed=turn, exif=exif))
        boxes.append([0.1 + turn / 100, 0.25, 0.5, 0.6])
    # One that reaches out of the photo, and one of all of it.
    photos += photos[:2]
    boxes += [[0.5, -0.25, 2, 1], [0, 0, 1, 1]]
    inside = [*boxes[:8], [0.5, 0, 0.5, 0.75], [0, 0, 1, 1]]
    cut = [cut_of(photo, box) for photo, box in zip(photos, inside, strict=True)]
    images, box = tf.constant(photos), tf.constant(boxes, tf.float32)
    for name, field in (("embed", "embedding"), ("classify", "score")):
        expected = signatures[name](image_bytes=tf.constant(cut))
        found = signatures[f"{name}_boxes"](image_bytes=images, box=box)
        assert found["valid"].numpy().all() and set(found["error"].numpy()) == {b""}
        np.testing.assert_allclose(found[field], expected[field], atol=1e-5)
    whole = signatures["embed"](image_bytes=images)["embedding"]
    assert np.abs(whole[0] - expected_of(signatures, cut)[0]).max() > 1e-3
    choice = {"k": tf.fill([10], 3), "category": tf.fill([10], "")}
    expected = signatures["search"](image_bytes=tf.constant(cut), **choice)
    found = signatures["search_boxes"](image_bytes=images, box=box, **choice)
    np.testing.assert_array_equal(found["image_path"], expected["image_path"])


def expected_of(signatures, photos):
    return signatures["embed"](image_bytes=tf.constant(photos))["embedding"].numpy()


def test_a_bad_box_is_an_error_of_its_own_row(signatures):
    good, nan = encoded("JPEG"), float("nan")
    bad = [[nan] * 4, [0, 0, nan, 1], [0, 0, 0, 1], [0.2, 0.2, 0.5, -1], [1, 0, 1, 1]]
    bad += [[0, 1, 1, 1], [-1, 0, 1, 1], [0, -2, 1, 1], [0, 0, float("inf"), 1]]
    boxes = [[0, 0, 1, 1], *bad, [0, 0, 1, 1], bad[0], [0, 0, 1, 1]]
    photos = [good] * (1 + len(bad)) + [b"", b"no image", good[: len(good) // 2]]
    found = signatures["embed_boxes"](
        image_bytes=tf.constant(photos), box=tf.constant(boxes, tf.float32)
    )
    errors = ["", *["BAD_BOX"] * len(bad), "EMPTY", "UNSUPPORTED_FORMAT", "CORRUPT"]
    assert [error.decode() for error in found["error"].numpy()] == errors
    assert found["valid"].numpy().tolist() == [not error for error in errors]
    assert not found["embedding"].numpy()[1:].any()
    alone = signatures["embed"](image_bytes=tf.constant([good]))["embedding"]
    np.testing.assert_allclose(found["embedding"][:1], alone, atol=1e-6)
    none = {"image_bytes": tf.constant([], tf.string), "box": tf.zeros([0, 4])}
    assert signatures["embed_boxes"](**none)["embedding"].shape == (0, 1280)


def test_batches_of_none_and_of_one(signatures):
    png = encoded("PNG")
    none = tf.zeros([0], tf.string)
    assert signatures["embed"](image_bytes=none)["embedding"].shape == (0, 1280)
    assert signatures["classify"](image_bytes=none)["category"].shape == (0, 2)
    found = signatures["search"](image_bytes=none, k=tf.zeros([0], tf.int32), category=none)
    assert found["item_id"].shape == (0, 0)
    assert signatures["embed"](image_bytes=tf.constant([png]))["valid"].numpy().tolist() == [True]
    bad = signatures["embed"](image_bytes=tf.constant([b""]))
    assert bad["valid"].numpy().tolist() == [False] and not bad["embedding"].numpy().any()


def fuzz(signatures, count, seed=0):
    """Sends mutated images in batches of 50 beside one good image, whose answer must not move."""
    rng = np.random.default_rng(seed)
    sources = [*GOOD.values(), encoded("JPEG", size=(300, 200)), encoded("PNG", "LA")]
    witness = encoded("JPEG", seed=5)
    embed_images = signatures["embed"]
    filler = tf.constant([witness] * 51)
    expected = embed_images(image_bytes=filler)["embedding"].numpy()
    refused = 0
    for _ in range(count // 50):
        batch = []
        for _ in range(50):
            contents = bytearray(sources[rng.integers(len(sources))])
            for place in rng.integers(0, len(contents), rng.integers(1, 12)):
                contents[place] = rng.integers(256)
            if rng.random() < 0.3:
                del contents[rng.integers(len(contents)) :]
            if rng.random() < 0.1:
                place = rng.integers(len(contents) + 1)
                contents[place:place] = rng.bytes(rng.integers(1, 2000))
            batch.append(bytes(contents))
        place = rng.integers(51)
        batch.insert(place, witness)
        found = {name: value.numpy() for name, value in embed_images(tf.constant(batch)).items()}
        np.testing.assert_array_equal(found["embedding"][place], expected[place])
        assert np.isfinite(found["embedding"]).all()
        assert (found["valid"] == (found["error"] == b"")).all()
        lengths = np.linalg.norm(found["embedding"], axis=1)
        np.testing.assert_allclose(lengths, found["valid"], atol=1e-5)
        refused += int((~found["valid"]).sum())
    assert 0.05 * count < refused < count


def test_mutated_images(signatures):
    fuzz(signatures, 500)


@pytest.mark.nightly
@pytest.mark.slow
def test_ten_thousand_mutated_images(signatures):
    fuzz(signatures, 10_000, seed=1)


@pytest.mark.parametrize(
    ("backbone", "kept"),
    [
        ("efficientnet_lite0", 0),
        pytest.param("resnet50", 0, marks=pytest.mark.slow),
        pytest.param("densenet121", 8, marks=pytest.mark.slow),
        pytest.param("seresnext50", 0, marks=pytest.mark.slow),
    ],
)
def test_folding_keeps_the_outputs(backbone, kept, shallow):
    model = build_fir(small_model(backbone), SIZE, 3)
    shake_statistics(model)
    before = [value.copy() for value in model.get_weights()]
    folded = inference_model(model)
    pixels = np.random.default_rng(0).uniform(0, 255, (2, SIZE, SIZE, 3)).astype(np.float32)
    for name, value in model(pixels, training=False).items():
        np.testing.assert_allclose(folded(pixels)[name].numpy(), value.numpy(), atol=1e-5)
    norms = [
        layer for layer in folded._flatten_layers() if isinstance(layer, FusedBatchNormalization)
    ]
    assert len(norms) == kept
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("width", [0, 16])
@pytest.mark.parametrize("neck", names("neck"))
def test_folding_keeps_the_outputs_of_necks(neck, width, shallow):
    """A batch norm goes into the projection where that is there and nothing else reads it."""
    options = {"neck": neck, "pooling": "gem_channels", "embedding_size": width}
    model = build_fir(small_model("efficientnet_lite0", **options), SIZE, 3)
    shake_statistics(model)
    folded = inference_model(search_model(model))
    pixels = np.random.default_rng(0).uniform(0, 255, (2, SIZE, SIZE, 3)).astype(np.float32)
    outputs = model(pixels, training=False)
    assert set(folded.output) == {"category", "embedding"}
    for name, value in folded(pixels).items():
        np.testing.assert_allclose(value.numpy(), outputs[name].numpy(), atol=1e-5)
    kept = {type(layer) for layer in folded._flatten_layers()}
    stays = neck in ("linear_bn", "bnneck") and not width
    assert (FusedBatchNormalization in kept) == stays


def test_folding_leaves_what_it_must():
    """A convolution read twice, one with an activation, one whose output is an output."""
    images = keras.Input((8, 8, 3))
    shared = keras.layers.Conv2D(4, 3, padding="same")(images)
    curved = keras.layers.Conv2D(4, 3, padding="same", activation="relu")(images)
    shown = keras.layers.Conv2D(4, 3, padding="same")(images)
    plain = keras.layers.Conv2D(4, 3, padding="same")(images)
    norms = [FusedBatchNormalization()(value) for value in (shared, curved, shown, plain)]
    model = keras.Model(images, [keras.layers.Add()([*norms, shared]), shown])
    shake_statistics(model)
    folded = inference_model(model)
    pixels = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    for old, new in zip(model(pixels), folded(pixels), strict=True):
        np.testing.assert_allclose(new, old, atol=1e-5)
    found = [type(layer).__name__ for layer in folded.layers]
    assert found.count("FusedBatchNormalization") == 3


@pytest.mark.bfloat16
def test_bfloat16_is_held_and_computed(shallow):
    model = build_fir(small_model("efficientnet_lite0"), SIZE, 3)
    cheap = inference_model(model, precision="bfloat16")
    held = {tf.as_dtype(weight.dtype) for weight in cheap.get_layer("efficientnet_lite0").weights}
    assert held == {tf.bfloat16}
    pixels = np.random.default_rng(0).uniform(0, 255, (2, SIZE, SIZE, 3)).astype(np.float32)
    found, exact = cheap(pixels)["embedding"].numpy(), model(pixels)["embedding"].numpy()
    assert found.dtype == np.float32
    assert (found * exact).sum(axis=1).min() > 0.98 and not np.allclose(found, exact, atol=1e-6)


def unit(rng, rows, size=16):
    vectors = rng.normal(size=(rows, size)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("block_numbers", [64, 2**24])
def test_search_is_that_of_a_plain_loop(monkeypatch, block_numbers):
    """Small blocks, equal scores, categories, several k in a batch."""
    monkeypatch.setattr(gallery_module, "_BLOCK_NUMBERS", block_numbers)
    rng = np.random.default_rng(0)
    vectors = unit(rng, 37)
    vectors[30] = vectors[3]
    names = [["a", "b", ""][row % 3] for row in range(37)]
    table = GalleryTable(
        vectors, [f"i{row}" for row in range(37)], [f"{row}.jpg" for row in range(37)], names, ""
    )
    queries = np.concatenate([unit(rng, 5), vectors[3:4]])
    k = np.array([3, 0, 50, 5, 7, 4], np.int32)
    wanted = ["", "a", "b", "nothing", "", "a"]
    search = tf.function(Gallery(table).search)
    found, known = search(tf.constant(queries), tf.constant(k), tf.constant(wanted))
    assert known.numpy().tolist() == [True, True, True, False, True, True]
    assert found["item_id"].shape == (6, 37)
    for row, (count, category) in enumerate(zip(k, wanted, strict=True)):
        allowed = [place for place in range(37) if category in ("", names[place])]
        scores = {place: float(queries[row] @ vectors[place]) for place in allowed}
        order = sorted(allowed, key=lambda place: (-round(scores[place], 5), place))[:count]
        padding = 37 - len(order)
        ids = [value.decode() for value in found["item_id"].numpy()[row]]
        assert ids == [f"i{place}" for place in order] + [""] * padding
        paths = [value.decode() for value in found["image_path"].numpy()[row]]
        assert paths == [f"{place}.jpg" for place in order] + [""] * padding
        np.testing.assert_allclose(
            found["score"].numpy()[row], [scores[p] for p in order] + [0] * padding, atol=1e-6
        )


@pytest.mark.parametrize(("dtype", "size", "error"), [("bfloat16", 2, 0.004), ("int8", 1, 0.02)])
def test_quantised_vectors_take_less_and_score_the_same(dtype, size, error):
    rng = np.random.default_rng(0)
    vectors = unit(rng, 50, 64)
    vectors[7] = 0
    stored, scale = quantise(vectors, dtype)
    assert stored.dtype.itemsize == size
    table = GalleryTable(vectors, [str(row) for row in range(50)], [""] * 50, [""] * 50, "")
    queries = unit(rng, 8, 64)
    found, _ = Gallery(table, dtype).search(
        tf.constant(queries), tf.fill([8], 50), tf.fill([8], "")
    )
    scores = np.zeros((8, 50), np.float32)
    for row in range(8):
        for name, value in zip(
            found["item_id"].numpy()[row], found["score"].numpy()[row], strict=True
        ):
            scores[row, int(name)] = value
    np.testing.assert_allclose(scores, queries @ vectors.T, atol=error)
    assert np.abs(scores - queries @ vectors.T).max() > 1e-6


def test_search_from_bytes_finds_the_photo_itself(signatures, evaluated):
    part, _ = evaluated
    contents = [*contents_of(part), b"no image"]
    count = len(contents)
    found = signatures["search"](
        image_bytes=tf.constant(contents), k=tf.fill([count], 2), category=tf.fill([count], "")
    )
    items = [part.items[item] for item in part.item]
    assert [value.decode() for value in found["item_id"].numpy()[:-1, 0]] == items
    assert found["image_path"].numpy()[-1].tolist() == [b"", b""]
    assert found["error"].numpy()[-1] == b"UNSUPPORTED_FORMAT"
    vectors = signatures["embed"](image_bytes=tf.constant(contents[:-1]))["embedding"]
    again = signatures["search_embedding"](
        embedding=tf.concat([vectors, vectors[:1] * float("nan")], axis=0),
        k=tf.fill([count], 2),
        category=tf.fill([count], ""),
    )
    np.testing.assert_array_equal(again["item_id"].numpy()[:-1], found["item_id"].numpy()[:-1])
    assert again["error"].numpy()[-1] == b"NOT_FINITE"
    unknown = signatures["search"](
        image_bytes=tf.constant(contents[:1]), k=tf.constant([2]), category=tf.constant(["hats"])
    )
    assert unknown["error"].numpy().tolist() == [b"UNKNOWN_CATEGORY"]
    assert unknown["valid"].numpy().tolist() == [False]


def test_the_graph_touches_no_file_and_no_python(exported, tmp_path):
    used = check_operations(exported)
    decoders = {"DecodeAndCropJpeg", "DecodePng", "DecodeGif", "DecodeBmp"}
    assert decoders | {"Conv2D", "MatMul"} <= used

    module = tf.Module()
    module.read = tf.function(tf.io.read_file, input_signature=[tf.TensorSpec([], tf.string)])
    tf.saved_model.save(module, str(tmp_path / "file"), signatures=module.read)
    with pytest.raises(FirError, match="ReadFile"):
        check_operations(tmp_path / "file")


def test_a_lambda_layer_is_refused(run, tmp_path):
    """A run's folder is data: code in it does not run."""
    evil = tmp_path / "run"
    shutil.copytree(run, evil)
    images = keras.Input((SIZE, SIZE, 3))
    keras.Model(images, keras.layers.Lambda(lambda x: x)(images)).save(evil / "model.keras")
    with pytest.raises(Exception, match="(?i)lambda|unsafe|safe_mode"):
        export(ExportOptions(run=str(evil), output=str(tmp_path / "out")))
    assert not list((tmp_path / "out").glob("*"))


def test_model_card_is_of_the_run(run, exported):
    card = (exported / "MODEL_CARD.md").read_text()
    for text in ("0.4321", "| queries | 8 |", "efficientnet_lite0", "OC+IS", tf.__version__):
        assert text in card
    assert "WOMEN/Dresses" in card and "licence" in card
    facts = json.loads((exported / "assets.extra" / "export.json").read_text())
    assert facts["options"]["fold"] is True
    with pytest.raises(FirError, match="`version` must be a new one"):
        export(ExportOptions(run=str(run), output=str(exported.parent), version=1))


def test_warm_up_requests_are_what_tf_serving_replays(exported, signatures):
    from tensorflow_serving.apis import prediction_log_pb2

    path = exported / "assets.extra" / "tf_serving_warmup_requests"
    seen = set()
    for record in tf.data.TFRecordDataset(str(path)):
        log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
        request = log.predict_log.request
        assert request.model_spec.name == "fir"
        name = request.model_spec.signature_name
        inputs = {key: tf.constant(tf.make_ndarray(v)) for key, v in request.inputs.items()}
        answer = signatures[name](**inputs)
        assert answer["valid"].numpy().all()
        seen.add((name, len(answer["valid"])))
    assert seen == {(name, count) for name in signatures for count in (1, 8)}


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_client_over_real_sockets(loaded, evaluated, protocol):
    from serving_stand_in import serving

    part, found = evaluated
    contents = contents_of(part)
    with serving(loaded) as (server, *addresses):
        address = next(place for place in addresses if place.startswith(protocol))
        with Client(address, batch_size=3, timeout=60) as client:
            assert client.ready()
            embedded = client.embed([*part.files()[:4], b"no image"])
            assert server.batches == [3, 2]
            for row, result in enumerate(embedded[:4]):
                assert result.valid and result.embedding.dtype == np.float32
                np.testing.assert_allclose(result.embedding, found.embedding[row], atol=1e-5)
            assert (embedded[4].valid, embedded[4].error) == (False, "UNSUPPORTED_FORMAT")

            named = client.classify([contents[0], b""])
            assert named[0].categories[0][0] == CATEGORIES[found.category[0].argmax()]
            assert (named[1].categories, named[1].error) == ((), "EMPTY")

            results = client.search(contents[:2], k=3, category="MEN/Denim")
            assert all(len(result.matches) == 3 for result in results)
            assert {"Denim" in m.image_path for r in results for m in r.matches} == {True}
            (nearest,) = client.search_embedding([embedded[0].embedding], k=1)
            assert nearest.matches[0].item_id == part.items[part.item[0]]
            assert nearest.matches[0].score == pytest.approx(1, abs=1e-4)
            assert client.search([], k=3) == []

            server.fail = 2
            assert client.embed(contents[:1])[0].valid
        with Client(address, retries=0, timeout=60) as client:
            server.fail = 1
            with pytest.raises(FirError, match="did not answer in 1 attempts"):
                client.embed(contents[:1])
        with Client(address, model="other", timeout=60) as client:
            server.fail = 0
            with pytest.raises(FirError, match="refused the request"):
                client.embed(contents[:1])
    with Client(address, retries=1, timeout=5) as client, pytest.raises(FirError, match="2 attem"):
        client.embed(contents[:1])


READY = (200, {}, b'{"model_version_status": [{"state": "AVAILABLE"}]}')
BUSY = (429, {}, b"later")
BROKEN = (200, {"Content-Length": "100"}, b"{")
STALLED = (200, {"Content-Length": "100", "X-Stall": "yes"}, b"{")


@contextlib.contextmanager
def answering(*answers):
    """Yields (address, the requests' times) of a server that gives these, then the last again."""
    times, over = [], threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, headers, body = answers[min(len(times), len(answers) - 1)]
            times.append(time.monotonic())
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
            if "X-Stall" in headers:
                over.wait()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("localhost", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://localhost:{server.server_port}", times
        finally:
            over.set()
            server.shutdown()


@pytest.mark.parametrize("bad", [BROKEN, STALLED])
def test_client_repeats_a_request_whose_answer_breaks_off_or_stalls(bad):
    with answering(bad, BUSY, bad, READY) as (address, times):
        with Client(address, timeout=1, retries=3) as client:
            assert client.ready()
        assert len(times) == 4
    with answering(BUSY, bad) as (address, times):
        gave_up = pytest.raises(FirError, match="did not answer in 3 attempts")
        with Client(address, timeout=1, retries=2) as client, gave_up:
            client.ready()
        assert len(times) == 3


def test_client_doubles_its_pauses():
    with answering(BUSY, BUSY, BUSY, READY) as (address, times), Client(address) as client:
        assert client.ready()
    assert (np.diff(times) >= [0.2, 0.4, 0.8]).all()


@pytest.mark.parametrize(
    "retry_after", ["1", lambda: email.utils.formatdate(time.time() + 3, usegmt=True)]
)
def test_client_waits_as_long_as_a_busy_server_asks(retry_after):
    asked = retry_after if isinstance(retry_after, str) else retry_after()
    with answering((503, {"Retry-After": asked}, b""), READY) as (address, times):
        with Client(address) as client:
            assert client.ready()
        assert times[1] - times[0] >= 1


@pytest.mark.parametrize("retry_after", ["3600", "9" * 400])
def test_client_does_not_wait_longer_than_its_timeout(retry_after):
    with answering((503, {"Retry-After": retry_after}, b"busy"), READY) as (address, times):
        beyond = pytest.raises(
            FirError,
            match="pause of (3600|inf) s, longer than the timeout of 7 s: status 503: busy",
        )
        with Client(address, timeout=7) as client, beyond:
            client.ready()
        assert len(times) == 1


@pytest.mark.parametrize("retry_after", ["soon", "-5", "Thu, 01 Jan 1970 00:00:00 GMT"])
def test_client_pauses_as_usual_where_a_server_asks_for_no_pause(retry_after):
    with answering((503, {"Retry-After": retry_after}, b""), READY) as (address, times):
        with Client(address) as client:
            assert client.ready()
        assert times[1] - times[0] >= 0.2


@pytest.mark.parametrize("page", ["<html>Please log in</html>", '{"status": "ok"}', "[]", ""])
def test_client_shows_what_came_instead_of_an_answer(page):
    with answering((200, {}, page.encode())) as (address, times):
        instead = pytest.raises(
            FirError, match=f"must be JSON .* Received: {re.escape(repr(page))}"
        )
        with Client(address) as client, instead:
            client.ready()
        assert len(times) == 1


@pytest.mark.parametrize("server", ["localhost:8500", "ftp://localhost", "grpc://"])
def test_client_says_which_addresses_it_takes(server):
    with pytest.raises(FirError, match="`server` must be grpc://"):
        Client(server)


def without_fir_tf(tmp_path):
    """An environment for a process in which fir_tf cannot be imported."""
    (tmp_path / "fir_tf.py").write_text("raise ImportError('not installed here')\n")
    return {**os.environ, "PYTHONPATH": str(tmp_path), "TF_CPP_MIN_LOG_LEVEL": "3"}


@pytest.mark.slow
def test_saved_model_cli_runs_it_without_fir_tf(exported, evaluated, tmp_path):
    part, found = evaluated
    environment = without_fir_tf(tmp_path)
    missing = subprocess.run(
        [sys.executable, "-c", "import fir_tf"], env=environment, cwd=tmp_path, capture_output=True
    )
    assert missing.returncode != 0
    np.save(tmp_path / "images.npy", np.array(contents_of(part)[:2]))
    done = subprocess.run(
        [
            *[sys.executable, "-m", "tensorflow.python.tools.saved_model_cli", "run"],
            *["--dir", str(exported), "--tag_set", "serve", "--signature_def", "embed"],
            *["--inputs", f"image_bytes={tmp_path / 'images.npy'}", "--outdir", str(tmp_path)],
        ],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "embedding.npy"), found.embedding[:2], atol=1e-5)


@pytest.mark.slow
def test_the_loader_of_tf_serving_gives_the_same_numbers(exported, evaluated, tmp_path):
    """A C++ program over TensorFlow's LoadSavedModel answers as evaluation does, without Python."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    part, found = evaluated
    program = tmp_path / "load_saved_model"
    library = tf.sysconfig.get_lib()
    subprocess.run(
        [
            *["g++", "-std=c++17", "-O1", f"-I{tf.sysconfig.get_include()}"],
            *[str(Path(__file__).with_name("load_saved_model.cc")), "-o", str(program)],
            *[f"-L{library}", f"-Wl,-rpath,{library}", "-Wl,--no-as-needed"],
            *["-l:libtensorflow_cc.so.2", "-l:libtensorflow_framework.so.2"],
        ],
        check=True,
    )
    text = tmp_path / "text.jpg"
    text.write_bytes(b"no image")
    paths = [*part.files(), str(text)]
    done = subprocess.run(
        [str(program), str(exported), *paths],
        env={
            **{name: os.environ[name] for name in ("PATH", onednn.VARIABLE) if name in os.environ},
            "TF_CPP_MIN_LOG_LEVEL": "2",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split(" ") for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == ["1"] * len(part) + ["0"]
    assert [row[1] for row in rows] == [part.items[item] for item in part.item] + [""]
    numbers = np.array([row[2:] for row in rows], np.float32)
    np.testing.assert_allclose(numbers[:-1], found.embedding, atol=1e-5)
    assert not numbers[-1].any()


@pytest.mark.parametrize(
    "name", ["models.config", "models_canary.config", "monitoring.config", "platform.config"]
)
def test_the_kit_is_what_tf_serving_parses(name):
    from google.protobuf import text_format
    from tensorflow_serving.config import model_server_config_pb2

    text = (Path(__file__).parent.parent / "serving" / name).read_text()
    if name.startswith("models"):
        config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
        (model,) = config.model_config_list.config
        assert model.name == "fir" and model.base_path == "/models/fir"
        # A label of a version that is not loaded is refused.
        assert set(model.version_labels.values()) == set(
            model.model_version_policy.specific.versions
        )
        assert set(model.version_labels) == ({"stable", "canary"} if "canary" in name else set())
    elif name == "monitoring.config":
        assert "prometheus_config" in text and "enable: true" in text
    else:
        # Its message is in no Python package: the option's name alone can be looked for.
        assert "tensorflow" in text and "auto_mixed_precision_onednn_bfloat16: ON" in text


def write_nothing(export, folder):
    """Nothing at all."""
    folder.mkdir()
    return {"nothing": {"text": "not measured"}}


@pytest.fixture
def own_formats(monkeypatch):
    """A format that is a function, and one that takes an option."""
    cheap = Format("Cheap", write_nothing, takes=["bfloat16"], folder="low")
    for name, part in {"plain": write_nothing, "cheap": cheap}.items():
        monkeypatch.setitem(registry._registered, ("format", name), part)


@pytest.mark.parametrize(
    ("name", "asked", "told", "able"),
    [
        ("tflite", {"gallery": "shop"}, "--gallery", "saved_model"),
        ("plain", {"precision": "bfloat16"}, "--precision=bfloat16", "saved_model, cheap"),
        ("saved_model", {"precision": "int8"}, "--precision=int8", "openvino, onnx"),
        (
            "cheap",
            {"gallery": "shop", "precision": "bfloat16"},
            "--gallery with --precision=bfloat16",
            "saved_model",
        ),
    ],
)
def test_a_format_refuses_what_it_does_not_take(own_formats, name, asked, told, able):
    with pytest.raises(FirError) as error:
        ExportOptions(format=name, **asked)
    assert str(error.value) == f"{told} is for --format={able}. Received: --format={name}"
    ExportOptions(format=name)
    ExportOptions(format=able.split(", ")[-1], **asked)


def test_no_format_has_a_gallery_in_int8():
    with pytest.raises(FirError, match="is for no format: give one of them. Received: --format=o"):
        ExportOptions(format="openvino", gallery="shop", precision="int8")


def test_a_format_has_a_folder_of_its_own(own_formats, run):
    for name, folder in (("plain", "fir_plain"), ("cheap", "low")):
        target = export(ExportOptions(run=str(run), format=name))
        assert target == run / "export" / folder / "1"
        assert "| measured: nothing | not measured |" in (target / "MODEL_CARD.md").read_text()
    assert get_format("saved_model").folder == "fir"


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [pytest.param("openvino", marks=pytest.mark.bfloat16), "tflite", "onnx"]
)
def test_other_formats_give_the_same_embeddings(run, tmp_path, kind, capsys):
    pytest.importorskip(
        {"openvino": "openvino", "tflite": "ai_edge_litert", "onnx": "tf2onnx"}[kind]
    )
    target = export(ExportOptions(run=str(run), output=str(tmp_path / "fir"), format=kind))
    names = {
        "openvino": {"model.xml", "model.bin"},
        "tflite": {"fir_float16.tflite", "fir_int8.tflite"},
        "onnx": {"model.onnx"},
    }[kind]
    assert names <= {path.name for path in target.iterdir()}
    measured = json.loads((target / "assets.extra" / "export.json").read_text())["measured"]
    floats = {
        "openvino": "model.xml",
        "tflite": "fir_float16.tflite",
        "onnx": "model.onnx",
    }[kind]
    assert measured[floats]["cosine_min"] > (0.9999 if kind == "onnx" else 0.99)
    assert measured[floats]["recall@1"][0] == pytest.approx(
        measured[floats]["recall@1"][1], abs=0.2
    )
    assert "recall@1" in capsys.readouterr().out
    if kind != "tflite":
        ours, theirs = Encoder(run), Encoder(target.parent)
        theirs.check(ours.fingerprint(), "the run")
        photos = [encoded("PNG", seed=20), b"no image"]
        expected, found = (each.encode(photos) for each in (ours, theirs))
        assert found.valid.tolist() == [True, False] and found.category == expected.category
        np.testing.assert_allclose(found.embedding, expected.embedding, atol=1e-4)
