"""Where garments are: maps made by hand, the exported signature, detectors of others."""

import asyncio
import gc
import io
import json
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf
from commands import done
from PIL import Image
from scipy import ndimage
from small_sets import write_jpeg, write_set

from fir_tf import registry
from fir_tf.config import Config
from fir_tf.errors import FirError
from fir_tf.files import write_json
from fir_tf.images.picture import see
from fir_tf.locate import MOST, Garment, cut, open_locator, png
from fir_tf.locate.category_map import CategoryMap, _apart, _pieces, garments_of_maps
from fir_tf.models import saving
from fir_tf.models.fir import build_fir
from fir_tf.options import ExportOptions
from fir_tf.run import load_run
from fir_tf.search.encoder import Encoder
from fir_tf.search.index import Index
from fir_tf.search.indexing import build
from fir_tf.search.query import query
from fir_tf.search_options import IndexOptions, QueryOptions, WebOptions
from fir_tf.serving.export import export

GRID = 24
WHOLE = tf.constant([0.0, 0.0, 1.0, 1.0])
CATEGORIES = ["coats", "dresses", "shirts"]
SIZE = 64


def map_of(blobs, scales=1, background=0.0):
    """Logits [scales, g, g, 3] of blobs (scale, category, (top, left, bottom, right), strength)."""
    maps = np.full((scales, GRID, GRID, 3), background, np.float32)
    for scale, category, (top, left, bottom, right), strength in blobs:
        maps[scale, top:bottom, left:right, category] += strength
    return tf.constant(maps)


def found_in(maps, window=WHOLE):
    boxes, category, score = (value.numpy() for value in garments_of_maps(maps, window))
    assert boxes.shape == (MOST, 4) and category.shape == score.shape == (MOST,)
    count = int((category >= 0).sum())
    assert (category[count:] == -1).all() and not score[count:].any() and not boxes[count:].any()
    return boxes[:count], category[:count], score[:count]


def in_places(box, tolerance=0.3):
    """A tolerance is the edge that is added to what lies above the level."""
    left, top, right, bottom = GRID * np.array([*box[:2], *(box[:2] + box[2:])])
    edges = np.array([top, left, bottom, right])
    assert np.abs(edges - np.rint(edges)).max() <= tolerance
    return np.rint(edges).astype(int).tolist()


def test_blobs_of_a_map_become_boxes_the_strongest_first():
    blobs = [
        (0, 0, (2, 3, 8, 10), 4.0),
        (0, 1, (10, 3, 20, 10), 9.0),
        (0, 1, (4, 14, 12, 22), 5.0),
    ]
    # The mean of the categories is subtracted, so a constant says nothing.
    for background in (0.0, 7.0):
        boxes, category, score = found_in(map_of(blobs, background=background))
        assert category.tolist() == [1, 1, 0]
        assert [in_places(box) for box in boxes] == [list(blobs[place][2]) for place in (1, 2, 0)]
        weights = np.array([70 * 9.0, 64 * 5.0, 42 * 4.0])
        np.testing.assert_allclose(score, weights / weights[0], rtol=1e-5)


def test_two_categories_beside_each_other_are_two_garments():
    """A shirt and trousers that touch."""
    boxes, category, _ = found_in(
        map_of([(0, 2, (4, 6, 12, 16), 5.0), (0, 0, (12, 6, 22, 16), 5.0)])
    )
    assert category.tolist() == [0, 2]
    assert [in_places(box) for box in boxes] == [[12, 6, 22, 16], [4, 6, 12, 16]]


def test_a_garment_that_two_scales_show_is_one():
    one = (0, 1, (5, 5, 15, 15), 5.0)
    two = (1, 1, (5, 6, 15, 16), 4.0)
    boxes, category, score = found_in(map_of([one, two, (1, 0, (18, 18, 22, 23), 4.0)], scales=2))
    assert category.tolist() == [1, 0] and score[0] == 1
    assert [in_places(box) for box in boxes] == [[5, 5, 15, 15], [18, 18, 22, 23]]


def test_weak_evidence_and_single_places_are_no_garments():
    blobs = [(0, 1, (5, 5, 15, 15), 5.0), (0, 0, (20, 20, 22, 22), 1.0), (0, 2, (2, 2, 3, 4), 4.9)]
    boxes, _, _ = found_in(map_of(blobs))
    assert [in_places(box) for box in boxes] == [[5, 5, 15, 15]]
    assert len(found_in(map_of([]))[0]) == 0


def test_a_garment_of_several_strengths_is_one():
    """A jacket: what is weak around it, a pocket that is strong, a sleeve like another category."""
    jacket = [
        (0, 1, (3, 4, 20, 20), 1.2),
        (0, 1, (5, 6, 19, 18), 5.0),
        (0, 1, (8, 8, 11, 11), 5.0),
        (0, 2, (6, 13, 18, 18), 4.0),
    ]
    boxes, category, score = found_in(map_of(jacket))
    assert [in_places(box) for box in boxes] == [[5, 6, 19, 18]]
    assert category.tolist() == [1] and score.tolist() == [1]


def test_two_garments_on_a_ground_that_holds_both_are_two():
    """The weak evidence between them has more in all than either, and would hide them."""
    one, other = (0, 1, (4, 4, 13, 10), 5.0), (0, 1, (9, 12, 19, 19), 4.0)
    boxes, _, score = found_in(map_of([(0, 1, (3, 3, 20, 20), 0.65), one, other]))
    assert [in_places(box) for box in boxes] == [[9, 12, 19, 19], [4, 4, 13, 10]]
    assert score[0] == 1 and 0.5 < score[1] < 1
    # The whole photo hides none either, and comes first.
    boxes, _, score = found_in(map_of([(0, 1, (1, 1, 23, 23), 0.65), one, other]))
    assert [in_places(box) for box in boxes] == [[1, 1, 23, 23], [9, 12, 19, 19], [4, 4, 13, 10]]
    assert score[0] == 1 > score[1] > score[2]


def test_of_any_candidates_those_that_are_left_cover_no_place_twice():
    """By a plain loop: the one with the most evidence for its size is left of each two."""
    rng = np.random.default_rng(3)
    corner, size = rng.uniform(0, 16, (40, 2)), rng.uniform(1, 8, (40, 2))
    boxes = np.concatenate([corner, corner + size], axis=1).astype(np.float32)
    scores = np.sort(rng.uniform(0.1, 1, 40).astype(np.float32))[::-1]
    worth = scores / np.prod(size, axis=1) ** 0.6
    left = []
    for place in np.argsort(-worth):
        shared = [
            np.prod(np.maximum(np.minimum(*ends) - np.maximum(*starts), 0))
            / min(np.prod(size[place]), np.prod(size[other]))
            for other in left
            for starts, ends in [
                ((boxes[place, :2], boxes[other, :2]), (boxes[place, 2:], boxes[other, 2:]))
            ]
        ]
        if worth[place] > 0.25 * worth.max() and all(share <= 0.4 for share in shared):
            left.append(place)
    assert len(left) > 3
    kept = _apart(tf.constant(boxes), tf.constant(scores), tf.fill([40], False)).numpy()
    assert kept.tolist() == sorted(left[:MOST])


def test_boxes_are_those_of_the_photo_in_its_padding():
    """A portrait of half the width: what lies beside it is no garment."""
    window = tf.constant([0.25, 0.0, 0.5, 1.0])
    blobs = [(0, 1, (6, 9, 18, 15), 5.0), (0, 0, (0, 0, 24, 5), 9.0)]
    boxes, category, _ = found_in(map_of(blobs), window)
    assert category.tolist() == [1]
    np.testing.assert_allclose(boxes[0], [0.25, 0.25, 0.5, 0.5], atol=1.01 / GRID)


def test_pieces_are_those_of_another_library():
    rng = np.random.default_rng(0)
    masks = ndimage.gaussian_filter(rng.standard_normal((GRID, GRID, 5)), (1.5, 1.5, 0)) > 0
    masks[..., 4] = False
    # A spiral, whose number has to go a long way.
    masks[..., 3] = True
    masks[1::2, :, 3] = False
    masks[1::4, -1, 3] = masks[3::4, 0, 3] = True
    pieces = _pieces(tf.constant(masks)).numpy()
    for channel in range(5):
        expected, count = ndimage.label(masks[..., channel])
        pairs = set(
            zip(expected.ravel().tolist(), pieces[..., channel].ravel().tolist(), strict=True)
        )
        # One number for each piece, and 0 for what lies in none.
        assert len(pairs) == len(np.unique(expected)) == len({one for _, one in pairs})
        assert count == 0 or (0, 0) in pairs


def photo_of(path, seed, size):
    write_jpeg(path, seed, size)
    return path.read_bytes()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose map tells red, green and blue: 8 cells across at the model's own size."""
    folder = tmp_path_factory.mktemp("located") / "run"
    config = Config(
        run=str(folder),
        backbone="efficientnet_lite0",
        weights="none",
        image_size=SIZE,
        resize="squash",
    )
    config.save(folder / "config.json")
    write_json(folder / "labels.json", {"categories": CATEGORIES})
    images = keras.Input((SIZE, SIZE, 3), name="images")
    cells = keras.layers.AveragePooling2D(8, name="cells")(images)
    hidden = keras.layers.Conv2D(3, 1, activation="relu", name="relaxation")
    mapped = keras.layers.Conv2D(3, 1, name="category_map")
    logits = keras.layers.GlobalAveragePooling2D(name="category_logits")(mapped(hidden(cells)))
    features = keras.layers.GlobalAveragePooling2D(name="features")(cells)
    outputs = {
        "category": keras.layers.Softmax(name="category")(logits),
        "embedding": keras.layers.UnitNormalization(name="embedding")(features),
    }
    model = keras.Model(images, outputs)
    hidden.set_weights([np.eye(3, dtype=np.float32)[None, None] / 25, np.zeros(3)])
    mapped.set_weights([np.eye(3, dtype=np.float32)[None, None], np.zeros(3)])
    model.save(folder / "model.keras")
    return folder


def scene(size, *patches):
    """A grey photo with patches (colour, (left, top, right, bottom)), as a PNG."""
    image = Image.new("RGB", size, (90, 90, 90))
    for colour, box in patches:
        image.paste(colour, box)
    return png(image)


RED, BLUE = (220, 40, 40), (40, 40, 220)
PORTRAIT = scene((96, 192), (RED, (24, 24, 72, 72)), (BLUE, (24, 108, 84, 180)))


# Those of its garments, the larger first.
BOXES = [(0.25, 0.5625, 0.625, 0.375), (0.25, 0.125, 0.5, 0.25)]


def overlap(one, other):
    """The share that the intersection of two boxes has of their union."""
    shared = 1.0
    for start, size in ((0, 2), (1, 3)):
        end = min(one[start] + one[size], other[start] + other[size])
        shared *= max(0.0, end - max(one[start], other[start]))
    return shared / (one[2] * one[3] + other[2] * other[3] - shared)


def test_a_photo_of_two_garments(run):
    locate = open_locator("category_map", str(run))
    landscape = scene((160, 80), (RED, (100, 20, 140, 60)))
    portrait, other, broken = locate([PORTRAIT, landscape, b"no photo"])
    assert [garment.category for garment in portrait] == ["shirts", "coats"]
    assert portrait[0].score == 1 and 0.3 < portrait[1].score < 1
    for garment, box in zip(portrait, BOXES, strict=True):
        assert overlap(garment.box, box) > 0.45
    assert [garment.category for garment in other] == ["coats"]
    assert overlap(other[0].box, (0.625, 0.25, 0.25, 0.5)) > 0.4
    assert broken == [] and locate([]) == []


def test_only_the_strongest_categories_are_looked_at():
    """Of many categories; those of a garment are among them, and numbered as before."""
    maps = np.zeros((2, GRID, GRID, 40), np.float32)
    maps[0, 2:8, 3:10, 37] = 5.0
    maps[1, 12:20, 12:22, 11] = 4.0
    maps[:, ::3, ::3, :30] += np.linspace(0, 0.3, 30)
    boxes, category, _ = found_in(tf.constant(maps))
    assert category[:2].tolist() == [11, 37]
    assert [in_places(box) for box in boxes[:2]] == [[12, 12, 20, 22], [2, 3, 8, 10]]


@pytest.mark.parametrize("scales", ["1", "2", "1.5,3"])
def test_a_photo_is_looked_at_in_other_sizes(run, scales):
    (found,) = open_locator(f"category_map:{run}@{scales}")([PORTRAIT])
    assert [garment.category for garment in found[:2]] == ["shirts", "coats"]
    assert found == open_locator(f"category_map:@{scales}", str(run))([PORTRAIT])[0]
    for garment, box in zip(found[:2], BOXES, strict=True):
        # At its own size the map has 8 cells across.
        assert overlap(garment.box, box) > (0.3 if scales == "1" else 0.45)


def test_the_network_is_loaded_once(run, monkeypatch, tmp_path):
    """By what embeds, what locates and what explains; anew when the file has changed."""
    loads = []
    # A folder of its own: another test may still hold the model of the shared one.
    run = shutil.copytree(run, tmp_path / "run")
    load = saving.load_model
    monkeypatch.setattr(saving, "load_model", lambda path: loads.append(path) or load(path))
    encoder = Encoder(run)
    locate = open_locator("category_map", encoder.model)
    assert len(loads) == 1 and len(locate([PORTRAIT])[0]) == 2
    assert load_run(run, shared=True)[0] is load_run(run, shared=True)[0] and len(loads) == 1
    assert load_run(run)[0] is not load_run(run, shared=True)[0] and len(loads) == 2
    os.utime(run / "model.keras", (1, 1))
    kept, _, _ = load_run(run, shared=True)
    assert len(loads) == 3
    # Nobody holds it any more.
    del kept
    gc.collect()
    load_run(run, shared=True)
    assert len(loads) == 4


@pytest.mark.nightly
@pytest.mark.slow
def test_the_exported_signature_is_the_library(run, tmp_path):
    folder = export(ExportOptions(run=str(run), output=str(tmp_path / "fir")))
    signature = tf.saved_model.load(str(folder)).signatures["locate"]
    photos = [PORTRAIT, b"no photo", photo_of(tmp_path / "a.jpg", 3, (90, 70)), b""]
    served = signature(image_bytes=tf.constant(photos))
    assert served["valid"].numpy().tolist() == [True, False, True, False]
    assert served["error"].numpy().tolist() == [b"", b"UNSUPPORTED_FORMAT", b"", b"EMPTY"]
    expected = open_locator("category_map", str(run))(photos)
    assert len(expected[0]) == 2 and expected[1] == expected[3] == []
    for row, garments in enumerate(expected):
        count = len(garments)
        boxes, category, score = (
            served[name].numpy()[row] for name in ("boxes", "category", "score")
        )
        assert boxes.shape == (MOST, 4)
        np.testing.assert_allclose(
            boxes[:count], np.reshape([garment.box for garment in garments], (-1, 4)), atol=1e-5
        )
        assert category[:count].tolist() == [garment.category.encode() for garment in garments]
        np.testing.assert_allclose(score[:count], [one.score for one in garments], atol=1e-5)
        assert not boxes[count:].any() and set(category[count:].tolist()) <= {b""}
    with pytest.raises(FirError, match="has the scales of an export in its graph"):
        open_locator(f"category_map:{folder}@2")
    # The export takes the run's place.
    again = open_locator(f"category_map:{folder.parent}")(photos)
    assert [[one.category for one in row] for row in again] == [
        [one.category for one in row] for row in expected
    ]


def test_the_map_is_that_of_the_model(shallow):
    """Of a real network: the mean of the map over the places is its logits."""
    settings = Config(backbone="efficientnet_lite0", weights="none", relaxation_width=8)
    model = build_fir(settings, SIZE, 3)
    pixels = np.random.default_rng(0).uniform(0, 255, (2, SIZE, SIZE, 3)).astype(np.float32)
    logits = keras.Model(model.input, model.get_layer("category_logits").output)
    found = CategoryMap(model, SIZE)
    np.testing.assert_allclose(
        found._map(pixels).numpy().mean((1, 2)), logits(pixels, training=False), atol=1e-5
    )
    larger = found._map(tf.image.resize(pixels, (2 * SIZE, 2 * SIZE)))
    assert larger.shape == (2, 4, 4, 3)


class Detector(tf.Module):
    """TensorFlow's detection signature: what is red, by its outermost pixels, and the whole."""

    @tf.function(input_signature=[tf.TensorSpec([1, None, None, 3], tf.uint8, "input_tensor")])
    def __call__(self, image):
        values = tf.cast(image[0], tf.float32)
        red = tf.cast(values[..., 0] - values[..., 2] > 100, tf.float32)
        shape = tf.cast(tf.shape(red), tf.float32)
        rows, columns = (tf.where(tf.reduce_max(red, axis=axis) > 0)[:, 0] for axis in (1, 0))
        rows, columns = tf.cast(rows, tf.float32), tf.cast(columns, tf.float32)
        box = tf.stack(
            [
                tf.reduce_min(rows) / shape[0],
                tf.reduce_min(columns) / shape[1],
                (tf.reduce_max(rows) + 1) / shape[0],
                (tf.reduce_max(columns) + 1) / shape[1],
            ]
        )
        boxes = tf.stack([tf.constant([0.0, 0.0, 1.0, 1.0]), box, box + 0.01, tf.zeros(4)])
        return {
            "detection_boxes": boxes[None],
            "detection_scores": tf.constant([[0.4, 0.9, 0.8, 0.95]]),
            "detection_classes": tf.constant([[3.0, 1.0, 1.0, 1.0]]),
            "num_detections": tf.constant([4.0]),
        }


def check_detected(locate):
    found, broken = locate([PORTRAIT, b"no photo"])
    assert broken == []
    # That of the same place and that of nothing are left out.
    assert [(garment.category, round(garment.score, 3)) for garment in found] == [
        ("red thing", 0.9),
        ("", 0.4),
    ]
    np.testing.assert_allclose(found[0].box, (0.25, 0.125, 0.5, 0.25), atol=1e-5)
    np.testing.assert_allclose(found[1].box, (0, 0, 1, 1), atol=1e-5)


def test_a_saved_model_of_another_takes_its_place(tmp_path):
    module = Detector()
    tf.saved_model.save(module, str(tmp_path / "detector"), signatures=module.__call__)
    (tmp_path / "detector" / "labels.txt").write_text("red thing\nother thing\n")
    check_detected(open_locator(f"saved_model:{tmp_path / 'detector'}"))
    other = tf.Module()
    other.f = tf.function(lambda x: {"y": x}, input_signature=[tf.TensorSpec([1], name="x")])
    tf.saved_model.save(other, str(tmp_path / "other"), signatures=other.f)
    with pytest.raises(FirError, match=r"must have TensorFlow's detection .*Received: x in, y out"):
        open_locator(f"saved_model:{tmp_path / 'other'}")


@pytest.mark.parametrize("form", ["tensorflow", "torchvision"])
def test_an_onnx_file_of_another_takes_its_place(tmp_path, form):
    (tmp_path / "labels.txt").write_text("red thing\n")
    constant = onnx.numpy_helper.from_array
    if form == "tensorflow":
        names = ("detection_boxes", "detection_scores", "detection_classes")
        image = onnx.helper.make_tensor_value_info(
            "input_tensor", onnx.TensorProto.UINT8, [1, None, None, 3]
        )
        boxes = [[[0, 0, 1, 1], [0.125, 0.25, 0.375, 0.75], [0.13, 0.26, 0.38, 0.76]]]
        values = [boxes, [[0.4, 0.9, 0.8]], [[3.0, 1.0, 1.0]]]
    else:
        names = ("boxes", "scores", "labels")
        image = onnx.helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, [3, 192, 96])
        boxes = [[0, 0, 96, 192], [24, 24, 72, 72], [25, 25, 73, 73]]
        values = [boxes, [0.4, 0.9, 0.8], [3.0, 1.0, 1.0]]
    nodes = [
        onnx.helper.make_node(
            "Constant", [], [name], value=constant(np.array(value, np.float32), name)
        )
        for name, value in zip(names, values, strict=True)
    ]
    outputs = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, np.shape(value))
        for name, value in zip(names, values, strict=True)
    ]
    graph = onnx.helper.make_graph(nodes, "detector", [image], outputs)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, str(tmp_path / "detector.onnx"))
    check_detected(open_locator(f"onnx:{tmp_path / 'detector.onnx'}"))


def test_a_locator_of_a_plugin(monkeypatch):
    told = []

    def mine(place, model):
        told.append((place, model))
        return lambda photos: [[Garment((0, 0, 1, 1), "", 1.0)] for _ in photos]

    monkeypatch.setitem(registry._registered, ("locator", "mine"), mine)
    assert open_locator("mine:a:b", "run")([b""])[0][0].score == 1.0
    assert told == [("a:b", "run")]


@pytest.mark.nightly
def test_what_the_page_finds_garments_with(run, caplog):
    """The model's own map where nothing is named, and none where it has none."""
    opened_locator = pytest.importorskip("fir_tf.search.web.garments").opened_locator

    def of(model):
        return SimpleNamespace(encoder=SimpleNamespace(model=str(model)))

    for text in ("", "category_map"):
        assert opened_locator(text, of(run))([PORTRAIT]) == open_locator("category_map", str(run))(
            [PORTRAIT]
        )
    assert opened_locator("none", of(run)) is None and "offers" not in caplog.text
    assert opened_locator("", of("")) is None
    assert "offers no garments of a photo: `locator` needs a model" in caplog.text
    with pytest.raises(FirError, match="`locator` needs a model whose categories"):
        opened_locator("category_map", of(""))
    assert WebOptions(index="x", locator="none").locator == "none"
    with pytest.raises(FirError, match="`locator` must be one of category_map.*Received: 'left'"):
        WebOptions(index="x", locator="left:0.5")


def test_wrong_locators_are_messages(tmp_path, run):
    (tmp_path / "x.onnx").write_bytes(b"no model")
    cases = {
        "yolo": "`locator` must be one of category_map, saved_model, onnx, .*Received: 'yolo'",
        "saved_model": "must name the folder of a SavedModel.*Received: none",
        f"saved_model:{tmp_path}": "must name the folder of a SavedModel",
        "onnx:nowhere.onnx": "must name an ONNX file.*nowhere.onnx",
        f"onnx:{tmp_path / 'x.onnx'}": "x.onnx must be an ONNX model",
        "category_map": "a model in hand; give --locator=category_map:",
        f"category_map:{run}@two": "`locator` takes scales above 0 and up to 8 .*Received: 'two'",
        "category_map:@0": "`locator` takes scales above 0 and up to 8 .*Received: '0'",
    }
    for text, message in cases.items():
        with pytest.raises(FirError, match=message):
            open_locator(text)
    config = Config.load(run / "config.json")
    Config(**{**vars(config), "losses": "IS", "run": str(tmp_path / "is")}).save(
        tmp_path / "is" / "config.json"
    )
    for name in ("labels.json", "model.keras"):
        (tmp_path / "is" / name).write_bytes((run / name).read_bytes())
    with pytest.raises(FirError, match="trained to tell categories.*--losses=IS"):
        open_locator("category_map", str(tmp_path / "is"))


@pytest.mark.parametrize(
    ("box", "size"),
    [
        ((0.4, 0.4, 0.2, 0.1), (25, 25)),
        # Moved into the photo at its edge.
        ((0.9, 0.0, 0.1, 0.2), (25, 25)),
        # No larger than the photo.
        ((0.0, 0.0, 1.0, 1.0), (100, 100)),
    ],
)
def test_a_garment_is_cut_out_with_room_around_it(box, size):
    photo = Image.new("RGB", (100, 100))
    edges = tuple(round(100 * value) for value in (*box[:2], box[0] + box[2], box[1] + box[3]))
    photo.paste((255, 0, 0), edges)
    part = cut(photo, box)
    assert np.abs(np.subtract(part.size, size)).max() <= 1
    red = (np.asarray(part)[..., 0] > 0).sum()
    assert red == (edges[2] - edges[0]) * (edges[3] - edges[1])
    for bad in ((1.2, 0, 0.1, 0.1), (0, 0, 0, 1), (float("nan"), 0, 1, 1)):
        with pytest.raises(FirError, match="`box` must have an area in the photo"):
            cut(photo, bad)


@pytest.mark.parametrize(
    ("boxes", "offered", "whole"),
    [
        # With its room the first one reaches all edges of a portrait.
        ([(0.1, 0.02, 0.77, 0.97)], [], True),
        ([(0.2, 0.1, 0.5, 0.4), (0.0, 0.0, 1.0, 1.0)], [0], False),
        # That and a part of it are one garment; two parts may be two.
        ([(0.1, 0.02, 0.77, 0.97), (0.2, 0.1, 0.2, 0.1)], [], True),
        ([(0.0, 0.0, 1.0, 1.0), (0.2, 0.1, 0.2, 0.1), (0.2, 0.5, 0.5, 0.4)], [1, 2], True),
        ([(0.1, 0.1, 0.6, 0.3), (0.2, 0.5, 0.5, 0.4)], [0, 1], False),
        ([], [], False),
    ],
)
def test_the_whole_photo_is_no_garment_to_choose(boxes, offered, whole):
    finder = pytest.importorskip("fir_tf.search.web.garments").Finder
    garments = [Garment(box, "", 1.0) for box in boxes]
    photo = scene((96, 128), (RED, (20, 20, 70, 100)))
    found, first = asyncio.run(finder(lambda photos: [garments for _ in photos]).find(photo))
    assert [garment for garment, _ in found] == [garments[place] for place in offered]
    assert first == whole
    for garment, contents in found:
        expected = cut(Image.open(io.BytesIO(photo)), garment.box)
        assert contents == png(expected)


def test_pieces_with_little_evidence_are_not_offered():
    finder = pytest.importorskip("fir_tf.search.web.garments").Finder
    boxes = [(0.1 + 0.2 * place, 0.2, 0.15, 0.3) for place in range(4)]
    scores = (0.8, 0.25, 0.23, 0.1)
    garments = [Garment(box, "", score) for box, score in zip(boxes, scores, strict=True)]
    photo = scene((96, 128), (RED, (20, 20, 70, 100)))
    found, _ = asyncio.run(finder(lambda photos: [garments for _ in photos]).find(photo))
    # Down to .3 of the surest one's.
    assert [garment.score for garment, _ in found] == [0.8, 0.25]


@pytest.fixture(scope="module")
def index(run, tmp_path_factory):
    """An index of one red and one blue garment, by the mean colours that the run embeds."""
    root = tmp_path_factory.mktemp("shop")
    for name, colour in (("red", RED), ("blue", BLUE), ("grey", (120, 120, 120))):
        (root / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (70, 70), colour).save(root / "photos" / name / "1.png")
    images, address = str(root / "photos"), str(root / "index")
    build(IndexOptions(model=str(run), images=images, index=address))
    return address


@pytest.fixture(scope="module")
def portrait(tmp_path_factory):
    path = tmp_path_factory.mktemp("asked") / "portrait.png"
    path.write_bytes(PORTRAIT)
    return str(path)


@pytest.mark.slow
def test_the_export_asks_with_each_garment(run, index, tmp_path):
    """Locating, cutting, embedding and searching one after the other, in Python."""
    rows = {
        name: (Path(index).parent / "photos" / name).read_bytes()
        for name in ("red/1.png", "blue/1.png", "grey/1.png")
    }
    table = {
        path: (contents, path[:-6], path[:-6], "gallery") for path, contents in rows.items()
    } | {"query.png": (rows["red/1.png"], "red", "red", "query")}
    gallery = f"table:{write_set(tmp_path / 'gallery', table)}"
    options = ExportOptions(run=str(run), output=str(tmp_path / "fir"), gallery=gallery)
    signature = tf.saved_model.load(str(export(options))).signatures["search_garments"]
    turned = tmp_path / "turned.jpg"
    exif = Image.Exif()
    # Stored lying on its side.
    exif[274] = 6
    Image.open(io.BytesIO(PORTRAIT)).rotate(90, expand=True).save(turned, exif=exif, quality=95)
    plain = scene((80, 60))
    photos = [PORTRAIT, b"no photo", plain, turned.read_bytes(), b""]
    asked = {"image_bytes": tf.constant(photos), "k": tf.constant([2, 2, 3, 1, 1])}
    served = signature(**asked, category=tf.constant([""] * 5))
    served = {name: value.numpy() for name, value in served.items()}
    assert served["valid"].tolist() == [True, False, True, True, False]
    assert served["error"].tolist() == [b"", b"UNSUPPORTED_FORMAT", b"", b"", b"EMPTY"]
    assert served["item_id"].shape == (5, MOST, 3)
    locate = open_locator("category_map", str(run))
    with Index(index) as opened:
        for row, count in ((0, 2), (2, 3), (3, 1)):
            (found,) = locate([photos[row]])
            garments = found or [Garment((0, 0, 1, 1), "", 0.0)]
            assert len(found) == (0 if row == 2 else 2)
            picture = see(photos[row]).image
            for place, garment in enumerate(garments):
                np.testing.assert_allclose(served["boxes"][row, place], garment.box, atol=1e-5)
                assert served["garment_category"][row, place].decode() == garment.category
                assert served["garment_score"][row, place] == pytest.approx(garment.score, abs=1e-5)
                vector = opened.encoder.encode([png(cut(picture, garment.box))]).embedding[0]
                hits = opened.search(vector, count, group=False)
                told = [name.decode() for name in served["image_path"][row, place]]
                assert told == [hit.record.path for hit in hits] + [""] * (3 - count)
                np.testing.assert_allclose(
                    served["score"][row, place, :count],
                    [hit.score for hit in hits],
                    # A JPEG's window is halved while it is decoded.
                    atol=2e-3 if row == 3 else 1e-5,
                )
            behind = len(garments)
            assert not served["boxes"][row, behind:].any()
            assert set(served["item_id"][row, behind:].ravel().tolist()) == {b""}
    for row in (1, 4):
        assert not any(served[name][row].any() for name in ("boxes", "garment_score", "score"))
    # Of one category only; one that there is not; no valid photo.
    asked = {"image_bytes": tf.constant([PORTRAIT] * 2), "k": tf.constant([2, 2])}
    limited = signature(**asked, category=tf.constant(["blue", "hats"]))
    assert limited["error"].numpy().tolist() == [b"", b"UNKNOWN_CATEGORY"]
    assert limited["image_path"].numpy()[0, :2, 0].tolist() == [b"blue/1.png"] * 2
    asked = {"image_bytes": tf.constant([b"no photo"]), "k": tf.constant([2])}
    assert not signature(**asked, category=tf.constant([""]))["valid"].numpy().any()


def test_each_garment_of_a_photo_asks(index, portrait, tmp_path, capsys):
    (tmp_path / "grey.png").write_bytes(scene((80, 80)))
    (tmp_path / "broken.png").write_bytes(b"broken")
    photos = [portrait, str(tmp_path / "grey.png")]
    sheet = tmp_path / "sheet.png"
    # At three times its size each cell is a place of the map: the cuts are of one colour.
    options = QueryOptions(index=index, locator="category_map:@3", k=1, sheet=str(sheet))
    blue, red, grey = query(options, photos)
    for answer, item, category in ((blue, "blue", "shirts"), (red, "red", "coats")):
        assert answer["photos"] == [portrait]
        assert [row["path"] for row in answer["results"]] == [f"{item}/1.png"]
        assert answer["garment"]["category"] == category
    np.testing.assert_allclose(red["garment"]["box"], (0.25, 0.125, 0.5, 0.25), atol=0.09)
    # Where nothing is found the whole photo asks.
    assert grey["garment"] is None and grey["results"][0]["path"] == "grey/1.png"
    assert "portrait.png: shirts at 0.2" in capsys.readouterr().out
    with Image.open(sheet) as drawn:
        assert drawn.height > 3 * 224
    with pytest.raises(FirError, match=r"1 of 2 photos cannot be read:\n.*broken\.png"):
        query(options, [portrait, str(tmp_path / "broken.png")])


def test_the_sheet_shows_what_the_scores_come_from(index, portrait, tmp_path):
    plain, explained = tmp_path / "plain.png", tmp_path / "explained.png"
    query(QueryOptions(index=index, k=2, sheet=str(plain)), [portrait])
    query(QueryOptions(index=index, k=2, sheet=str(explained), explain=True), [portrait])
    with Image.open(plain) as before, Image.open(explained) as after:
        assert after.width == before.width and after.height == before.height + 224 + 42
        before, after = (np.asarray(image.convert("RGB"), int) for image in (before, after))
    # The first match is grey all over, and every place of it speaks for the score: orange.
    match = np.s_[80:280, 220:380]
    warmth = [(image[match][..., 0] - image[match][..., 2]).mean() for image in (before, after)]
    assert warmth[0] == 0 and warmth[1] > 20
    # Below it stands the query as this match sees it.
    row = 224 + 42
    seen = after[80 + row : 280 + row, 220:380]
    assert np.abs(seen - after[match]).mean() > 5
    assert (np.ptp(seen, axis=2) > 60).any()


def test_what_cannot_be_explained_is_said(run, index, portrait, tmp_path):
    with pytest.raises(FirError, match="`explain` is drawn onto the sheet. Give --sheet"):
        QueryOptions(index=index, explain=True)
    for name, value in (("together", True), ("rerank", 5), ("locator", "category_map")):
        with pytest.raises(FirError, match=f"`explain` needs the score .*Received: --{name}"):
            QueryOptions(index=index, explain=True, sheet="x.png", **{name: value})
    with pytest.raises(FirError, match="`locator` asks with each garment.*Received: --together"):
        QueryOptions(index=index, locator="category_map", together=True)
    with pytest.raises(FirError, match="`locator` must be one of category_map"):
        QueryOptions(index=index, locator="nosuch")
    flipped = str(tmp_path / "flipped")
    images = str(Path(index).parent / "photos")
    build(IndexOptions(model=str(run), images=images, index=flipped, flip=True))
    with pytest.raises(FirError, match="`explain` needs an index of photos as they.*--flip"):
        query(QueryOptions(index=flipped, explain=True, sheet="x.png"), [portrait])


@pytest.mark.slow
def test_the_commands_of_the_page(index, portrait, tmp_path, monkeypatch):
    """docs/garments.md, with this index and this photo."""
    text = (Path(__file__).parent.parent / "docs/garments.md").read_text(encoding="utf-8")
    told = re.findall(r"^python (search\.py query .+)$", text, re.MULTILINE)
    assert len(told) == 4
    monkeypatch.chdir(tmp_path)
    for line in told:
        if "detector" in line:
            # Without one it is said which is missing.
            words = line.replace("photo.jpg", portrait).replace("=catalogue", f"={index}").split()
            _, error = done(*words, ok=False)
            assert "`locator` must name" in error
            continue
        words = line.replace("photo.jpg", portrait).replace("=catalogue", f"={index}").split()
        done(*words, "--json=answer.json", f"--sheet={tmp_path / 'drawn.png'}")
        answers = json.loads((tmp_path / "answer.json").read_text())
        assert len(answers) == (2 if "--locator" in line else 1)
        assert (tmp_path / "drawn.png").is_file()
        (tmp_path / "drawn.png").unlink()


def test_a_network_without_a_map_is_told():
    inputs = keras.Input((8, 8, 3))
    network = keras.Model(inputs, keras.layers.Conv2D(2, 1, name="other")(inputs))
    with pytest.raises(FirError, match="`locator` needs a network with a layer 'category_map'"):
        CategoryMap(network, 8)
