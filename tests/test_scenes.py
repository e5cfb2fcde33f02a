"""Scenes of the boutique: who is in them, where, and what is written of it."""

import collections
import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from fir_tf import boutique
from fir_tf.boutique.planning import plan
from fir_tf.boutique.scenes import plan_scenes, render_scene
from fir_tf.boutique.writing import Order, write
from fir_tf.datasets import load
from fir_tf.errors import FirError


@pytest.fixture(scope="module")
def shop():
    return plan(48, 4, seed=3)


@pytest.fixture(scope="module")
def scenes(shop):
    return plan_scenes(*shop, 60, seed=3)


def test_garments_of_a_scene_are_of_its_split_and_can_be_found(shop, scenes):
    garments, photos = shop
    trained = {photo.item for photo in photos if photo.split == "train"}
    shown = {(photo.item, photo.variant) for photo in photos if photo.domain == "shop"}
    counts = collections.Counter((scene.split, len(scene.pieces)) for scene in scenes)
    assert counts == {(split, count): 10 for split in ("train", "query") for count in (1, 2, 3)}
    bodies = {item.number: item.cut["body"] for item in garments}
    worn_together = 0
    for scene in scenes:
        numbers = [piece.item for piece in scene.pieces]
        assert len(set(numbers)) == len(numbers)
        for piece in scene.pieces:
            assert (piece.item in trained) == (scene.split == "train")
            assert (piece.item, piece.variant) in shown
        for figure in scene.figures:
            assert len(figure) <= 2
            if len(figure) == 2:
                worn_together += 1
                lower, upper = (bodies[piece.item] for piece in figure)
                assert lower in ("pants", "skirt") and upper == "top"
    assert worn_together >= 12


def test_a_box_is_around_what_changes_with_the_garment(shop, scenes):
    """In the picture drawn again, the garment in other colours and nothing else."""
    items = {item.number: item for item in shop[0]}
    for scene in [scenes[place] for place in (0, 3, 5)]:
        size = 96
        pixels, boxes = render_scene(scene, items, size)
        assert pixels.shape == (size, size, 3) and pixels.dtype == np.uint8
        for piece, box in zip(scene.pieces, boxes, strict=True):
            item = items[piece.item]
            palettes = [
                tuple(f"{0xFFFFFF - int(colour, 16):06x}" for colour in palette)
                for palette in item.palettes
            ]
            other = items | {piece.item: dataclasses.replace(item, palettes=palettes)}
            again, same = render_scene(scene, other, size)
            assert same == boxes
            # A thing in front hides a part of it.
            changed = np.abs(again.astype(int) - pixels).max(axis=2) > 40
            rows, columns = np.nonzero(changed)
            found = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
            assert np.all(np.abs(np.array(found) - size * np.array(box)) < 0.05 * size), box


def test_what_is_written_of_scenes(tmp_path):
    order = Order(items=12, views=2, size=32, scenes=6)
    root = write(tmp_path / "a", order, workers=1)
    found = json.loads((root / boutique.SCENES).read_text(encoding="utf-8"))
    assert [image["split"] for image in found["images"]] == ["train", "query"] * 3
    assert {image["domain"] for image in found["images"]} == {"consumer"}
    catalogue = load("inshop", root)
    category_of = {
        catalogue.items[item]: catalogue.categories[category]
        for item, category in zip(catalogue.item, catalogue.category, strict=True)
    }
    names = {row["id"]: row["name"] for row in found["categories"]}
    assert len(found["annotations"]) == 12
    for row in found["annotations"]:
        image = found["images"][row["image_id"] - 1]
        with Image.open(root / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"]) == (64, 64)
        assert names[row["category_id"]] == category_of[row["item"]]
        left, top, width, height = row["bbox"]
        assert 0 <= left <= left + width <= 64 and 0 <= top <= top + height <= 64
        assert width > 4 and height > 4 and row["area"] == pytest.approx(width * height, abs=0.1)
    assert json.loads((root / "boutique.json").read_text())["scenes"] == 6
    # Everything else is that of a boutique without them.
    without = write(tmp_path / "b", dataclasses.replace(order, scenes=0), workers=1)
    for path in without.rglob("*"):
        if path.is_file() and path.name != "boutique.json":
            assert path.read_bytes() == (root / path.relative_to(without)).read_bytes()
    assert "scenes" not in json.loads((without / "boutique.json").read_text())
    with pytest.raises(FirError, match="another boutique: scenes 6 instead of 7"):
        write(root, dataclasses.replace(order, scenes=7), workers=1)


def test_bad_numbers_of_scenes(tmp_path):
    with pytest.raises(FirError, match="`scenes` must be >= 0. Received: -1"):
        write(tmp_path / "a", Order(items=4, views=2, size=32, scenes=-1))
    with pytest.raises(FirError, match="which has no items. Received: 3"):
        write(tmp_path / "a", Order(layout="category", scenes=3))
    assert list(tmp_path.iterdir()) == []
