import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fir_tf
from fir_tf.datasets import boutique
from fir_tf.errors import FirError

ITEMS, VIEWS, SIZE = 24, 4, 36


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return boutique.write(
        tmp_path_factory.mktemp("boutique") / "a", items=ITEMS, views=VIEWS, size=SIZE, workers=1
    )


def _rows(root):
    lines = (root / "Eval/list_eval_partition.txt").read_text(encoding="utf-8").split("\n")
    assert lines[-1] == ""
    return lines[0], lines[1], lines[2:-1]


def _digests(root):
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_annotation_file_is_laid_out_as_in_shop(root):
    count, header, rows = _rows(root)
    assert header == "image_name item_id evaluation_status"
    assert int(count) == len(rows) == ITEMS * VIEWS
    for row in rows:
        name, item, status = row.split()
        assert row.startswith(f"{name:<71}{item} {status} ")
        assert row.endswith(" ")
        top, sex, category, folder, file = name.split("/")
        assert top == "img" and sex in ("MEN", "WOMEN") and folder == item
        assert f"{sex}/{category}" in boutique.CATEGORIES
        assert item.startswith("id_") and len(item) == 11
        variant, number, view = file.removesuffix(".jpg").split("_")
        assert len(variant) == 2 and int(variant) >= 1 and int(number) >= 1
        assert view in ("front", "side", "back", "full", "additional")
        assert status in ("train", "query", "gallery")
    assert len({row.split()[0] for row in rows}) == len(rows)


def test_every_photo_is_a_jpeg_of_the_size_and_no_other_is_there(root):
    names = {row.split()[0] for row in _rows(root)[2]}
    for name in names:
        with Image.open(root / "Img" / name) as picture:
            picture.load()
            assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (SIZE, SIZE))
    assert names == {p.relative_to(root / "Img").as_posix() for p in root.rglob("*.jpg")}


def test_splits(root):
    split = {"train": set(), "query": set(), "gallery": set()}
    for row in _rows(root)[2]:
        _, item, status = row.split()
        split[status].add(item)
    assert split["query"] <= split["gallery"]
    assert not split["train"] & (split["query"] | split["gallery"])
    assert len(split["train"]) == len(split["query"]) == ITEMS // 2


@pytest.mark.parametrize(("items", "views"), [(4, 2), (7, 3), (13, 5), (50, 6), (31, 13)])
def test_plan_gives_every_query_a_match(items, views):
    garments, photos = boutique.plan(items, views, seed=3)
    assert len(garments) == items and len(photos) == items * views
    names = [(photo.item, photo.name) for photo in photos]
    assert len(set(names)) == len(names)
    by_split = {s: {p.item for p in photos if p.split == s} for s in ("train", "query", "gallery")}
    assert by_split["train"] and by_split["query"]
    assert by_split["query"] == by_split["gallery"]
    assert not by_split["train"] & by_split["query"]


def test_queries_lean_to_consumers_and_the_gallery_to_the_shop():
    _, photos = boutique.plan(60, 6, seed=0)
    share = {
        split: np.mean([p.domain == "consumer" for p in photos if p.split == split])
        for split in ("train", "query", "gallery")
    }
    assert share["query"] > 0.6 > 0.4 > share["gallery"]
    assert share["train"] == 0.5


def test_categories_of_training_and_test_are_the_same():
    garments, photos = boutique.plan(ITEMS, VIEWS, seed=0)
    train = {photo.item for photo in photos if photo.split == "train"}
    known = {item.category for item in garments if item.number in train}
    asked = {item.category for item in garments if item.number not in train}
    assert known == asked == set(boutique.CATEGORIES)
    assert len(known) >= 8


def test_items_of_a_category_share_colours_but_no_two_are_the_same():
    garments, _ = boutique.plan(240, 6, seed=0)
    looks = {json.dumps([item.category, item.cut, item.pattern]) for item in garments}
    assert len(looks) == 240
    siblings = [
        (item, other)
        for item in garments
        for other in garments
        if other is not item
        and other.category == item.category
        and other.pattern["kind"] == item.pattern["kind"]
        and {frozenset(p) for p in other.palettes} & {frozenset(p) for p in item.palettes}
    ]
    assert len({item.number for item, _ in siblings}) > 0.8 * 240
    repeats = [
        (item.number, other.number)
        for item, other in siblings
        if item.pattern["kind"] != "plain"
        and item.pattern | {"phase": 0} == other.pattern | {"phase": 0}
    ]
    assert len(repeats) < 0.05 * len(siblings)


def test_siblings_differ_in_what_a_person_sees():
    garments, _ = boutique.plan(48, 6, seed=1)
    front = boutique.Photo(1, 0, "shop", "front", 1, "gallery", [9, 9])
    for category in boutique.CATEGORIES:
        pictures = [
            # In the same colours and the same photo, only the design is left to differ.
            boutique.render(
                dataclasses.replace(item, palettes=[("b5651d", "fbe8d3", "14342b")]),
                front,
                48,
            ).astype(float)
            for item in garments
            if item.category == category
        ]
        for i, a in enumerate(pictures):
            for b in pictures[i + 1 :]:
                assert np.mean(np.abs(a - b).max(-1) > 30) > 0.02, category


def test_same_arguments_same_bytes_whatever_the_number_of_workers(tmp_path):
    arguments = {"items": 4, "views": 4, "size": 32, "seed": 5}
    one = boutique.write(tmp_path / "one", workers=1, **arguments)
    two = boutique.write(tmp_path / "two", workers=2, **arguments)
    assert _digests(one) == _digests(two)
    other = boutique.write(tmp_path / "other", workers=1, **(arguments | {"seed": 6}))
    shared = set(_digests(one).values()) & set(_digests(other).values())
    assert not shared


def test_photos_do_not_depend_on_how_many_items_there_are():
    few, photos = boutique.plan(8, 4, seed=2)
    many, more = boutique.plan(80, 4, seed=2)
    assert few == many[:8] and photos == more[: len(photos)]


def test_render_is_a_function_of_item_and_photo():
    garments, photos = boutique.plan(12, 4, seed=0)
    first = boutique.render(garments[0], photos[0], 40)
    boutique.render(garments[5], photos[20], 40)
    np.testing.assert_array_equal(first, boutique.render(garments[0], photos[0], 40))
    assert first.shape == (40, 40, 3) and first.dtype == np.uint8
    assert np.any(first != boutique.render(garments[0], photos[1], 40))


def test_consumer_photos_are_noisier():
    """Immerkaer's estimate of noise: a mask that is blind to edges, on the flattest quarter."""
    garments, photos = boutique.plan(12, 6, seed=0)
    noise = {"shop": [], "consumer": []}
    for photo in photos:
        grey = boutique.render(garments[photo.item - 1], photo, 64).astype(float).mean(-1)
        second = grey[:-2] - 2 * grey[1:-1] + grey[2:]
        both = np.abs(second[:, :-2] - 2 * second[:, 1:-1] + second[:, 2:])
        blocks = both[:60, :60].reshape(10, 6, 10, 6).mean((1, 3)).ravel()
        noise[photo.domain].append(np.sort(blocks)[:25].mean() * np.sqrt(np.pi / 2) / 6)
    assert np.median(noise["consumer"]) > 2 * np.median(noise["shop"])
    assert np.percentile(noise["consumer"], 10) > np.percentile(noise["shop"], 90)


def test_contact_picture_and_manifest(root):
    manifest = json.loads((root / "boutique.json").read_text(encoding="utf-8"))
    assert manifest["items"] == ITEMS and manifest["size"] == SIZE and manifest["seed"] == 0
    with Image.open(root / "boutique.png") as sheet:
        rows, columns = 12, VIEWS
        assert sheet.size == (112 * columns, 112 * rows)
        # No tile is left white.
        tiles = np.asarray(sheet.convert("L"), float).reshape(rows, 112, columns, 112)
        assert tiles.std((1, 3)).min() > 5


def test_second_call_does_nothing(root, capsys, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    monkeypatch.setattr(boutique, "render", lambda *_: pytest.fail("rendered again"))
    assert boutique.write(root, items=ITEMS, views=VIEWS, size=SIZE) == root
    assert "nothing to do" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_a_folder_with_something_else_is_left_alone(root, tmp_path):
    with pytest.raises(FirError, match=r"another boutique.*Remove it or choose another folder"):
        boutique.write(root, items=ITEMS, views=VIEWS, size=SIZE, seed=1)
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(FirError, match="something else than a boutique"):
        boutique.write(tmp_path, items=4, views=2, size=32)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(FirError, match="something else than a boutique"):
        boutique.write(tmp_path / "mine.txt", items=4, views=2, size=32)


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    calls = []

    def render(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return np.zeros((32, 32, 3), np.uint8)

    monkeypatch.setattr(boutique, "render", render)
    with pytest.raises(KeyboardInterrupt):
        boutique.write(tmp_path / "a", items=4, views=2, size=32, workers=1)
    assert len(calls) == 3 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"items": -1}, "`items` must be >= 4. Received: -1"),
        ({"items": 3}, "`items` must be >= 4. Received: 3"),
        ({"items": 4.5}, "`items` must be an integer. Received: 4.5"),
        ({"items": True}, "`items` must be an integer. Received: True"),
        ({"views": 1}, "`views` must be >= 2. Received: 1"),
        ({"views": 41}, "`views` must be <= 40. Received: 41"),
        ({"size": 31}, "`size` must be >= 32. Received: 31"),
        ({"size": "160"}, "`size` must be an integer. Received: '160'"),
        ({"seed": -1}, "`seed` must be >= 0. Received: -1"),
        ({"workers": 0}, "`workers` must be >= 1. Received: 0"),
    ],
)
def test_bad_arguments(tmp_path, arguments, message):
    with pytest.raises(FirError) as caught:
        boutique.write(tmp_path / "a", **arguments)
    assert str(caught.value) == message
    assert list(tmp_path.iterdir()) == []


def test_command_line(tmp_path, capsys):
    out = tmp_path / "a"
    command = [f"--out={out}", "--items=4", "--views=2", "--size=32", "--seed=7", "--workers=1"]
    assert boutique.main(command) == 0
    printed = capsys.readouterr().out
    assert str(out / "boutique.png") in printed and "4 items, 8 photos" in printed
    assert len(list(out.rglob("*.jpg"))) == 8
    assert boutique.main([f"--out={out}", "--items=2"]) == 1
    assert "`items` must be >= 4. Received: 2" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        boutique.main(["--help"])
    assert caught.value.code == 0
    assert "python -m fir_tf.datasets boutique" in capsys.readouterr().out


def test_an_unguarded_script_is_told_what_to_do(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from fir_tf.datasets import boutique\n"
        f"boutique.write({str(tmp_path / 'a')!r}, items=4, views=2, size=32, workers=2)\n"
    )
    ran = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(fir_tf.__file__).parents[1])},
    )
    assert ran.returncode != 0 and "`workers` must be 1 in a script" in ran.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["script.py"]


def test_tensorflow_is_not_imported():
    code = "import sys, fir_tf.datasets.boutique; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
