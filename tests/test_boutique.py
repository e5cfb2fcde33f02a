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
from fir_tf import boutique
from fir_tf.boutique import layouts, writing
from fir_tf.datasets import load
from fir_tf.datasets.__main__ import main
from fir_tf.errors import FirError

ITEMS, VIEWS, SIZE = 24, 6, 36
PARTITION = "Eval/list_eval_partition.txt"


def written(root, workers=1, **wanted):
    return boutique.write(root, boutique.Order(**wanted), workers)


def _written(tmp_path_factory, layout):
    root = tmp_path_factory.mktemp("boutique") / layout
    return written(root, items=ITEMS, views=VIEWS, size=SIZE, seed=0, layout=layout)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return _written(tmp_path_factory, "inshop")


@pytest.fixture(scope="module")
def category(tmp_path_factory):
    return _written(tmp_path_factory, "category")


@pytest.fixture(scope="module")
def consumer2shop(tmp_path_factory):
    return _written(tmp_path_factory, "consumer2shop")


def _rows(root, name=PARTITION):
    lines = (root / name).read_text(encoding="utf-8").split("\n")
    assert lines[-1] == ""
    return lines[0], lines[1], lines[2:-1]


def _columns(root, name=PARTITION):
    """The columns of an annotation file whose count line has been checked."""
    count, _, rows = _rows(root, name)
    assert int(count) == len(rows)
    return list(zip(*(row.split() for row in rows), strict=True))


def _check_photos(root, names):
    """The photos of `names` are JPEG files of the size, and no other is there."""
    for name in names:
        with Image.open(root / "Img" / name) as picture:
            picture.load()
            assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (SIZE, SIZE))
    assert set(names) == {p.relative_to(root / "Img").as_posix() for p in root.rglob("*.jpg")}


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
    names, _, _ = _columns(root)
    _check_photos(root, names)


def test_splits(root):
    split = {"train": set(), "query": set(), "gallery": set()}
    for _, item, status in zip(*_columns(root), strict=True):
        split[status].add(item)
    assert split["query"] <= split["gallery"]
    assert not split["train"] & (split["query"] | split["gallery"])
    assert len(split["train"]) == len(split["query"]) == ITEMS // 2


@pytest.mark.slow
def test_category_files_are_laid_out_as_in_the_release(category):
    names, types = _columns(category, "Anno/list_category_cloth.txt")
    assert len(set(names)) == 50 and names.index("Blouse") == 2 and names.index("Tee") == 17
    assert list(types) == sorted(types) and set(types) == {"1", "2", "3"}
    images, labels = _columns(category, "Anno/list_category_img.txt")
    assert len(set(images)) == len(images) == ITEMS * VIEWS
    same, splits = _columns(category)
    assert same == images and set(splits) == {"train", "val", "test"}
    _check_photos(category, images)
    used = {names[int(label) - 1] for label in labels}
    assert 12 <= len(used) < 50
    numbers = {}
    for image, label in zip(images, labels, strict=True):
        top, folder, file = image.split("/")
        assert top == "img" and folder.split("_")[-1] == names[int(label) - 1]
        numbers.setdefault(folder, []).append(file)
    for files in numbers.values():
        assert files == [f"img_{number:08d}.jpg" for number in range(1, len(files) + 1)]
    assert any("&eacute;" in folder for folder in numbers) and any("'" in f for f in numbers)
    for name, values in (("Anno/list_category_img.txt", labels), (PARTITION, splits)):
        for row, image, value in zip(_rows(category, name)[2], images, values, strict=True):
            assert row.startswith(f"{image:<71}{value} ") and row.endswith(" ")


def test_category_boutique_has_the_photos_of_the_in_shop_boutique(root, category):
    """The files' bytes tell which garment of In-Shop a photo of Category shows.

    As long as a category has one training item at most, there are no siblings in either.
    """
    fits = {
        "WOMEN/Dresses": {"Dress"},
        "MEN/Tees_Tanks": {"Tee", "Tank"},
        "WOMEN/Skirts": {"Skirt"},
        "MEN/Jackets_Vests": {"Jacket"},
        "WOMEN/Blouses_Shirts": {"Blouse"},
        "MEN/Pants": {"Chinos", "Joggers"},
        "WOMEN/Cardigans": {"Cardigan"},
        "MEN/Shirts_Polos": {"Button-Down"},
        "WOMEN/Rompers_Jumpsuits": {"Romper", "Jumpsuit"},
        "MEN/Shorts": {"Shorts"},
        "WOMEN/Sweaters": {"Sweater", "Turtleneck"},
        "MEN/Sweatshirts_Hoodies": {"Hoodie", "Sweater"},
    }
    known = {digest: name for name, digest in _digests(root / "Img").items()}
    digests = _digests(category / "Img")
    split_of, name_of = {}, {}
    for image, split in zip(*_columns(category), strict=True):
        _, sex, kind, item, _ = known[digests[image]].split("/")
        name = image.split("/")[1].split("_")[-1]
        assert name in fits[f"{sex}/{kind}"]
        assert split_of.setdefault(item, split) == split
        assert name_of.setdefault(item, name) == name
    assert len(split_of) == ITEMS
    trained = {item for _, item, status in zip(*_columns(root), strict=True) if status == "train"}
    assert trained == {item for item, split in split_of.items() if split == "train"}


@pytest.mark.slow
def test_consumer2shop_file_is_laid_out_as_in_the_release(consumer2shop):
    count, header, rows = _rows(consumer2shop)
    assert header == "image_pair_name_1 image_pair_name_2 item_id evaluation_status"
    folders, pairs = {}, []
    for row in rows:
        consumer, shop, item, status = row.split()
        assert row.startswith(f"{consumer:<71}{shop:<71}{item} {status} ")
        top, group, _, folder, file = consumer.split("/")
        assert (top, folder) == ("img", item) and group in (
            "CLOTHING",
            "DRESSES",
            "TOPS",
            "TROUSERS",
        )
        assert shop.rpartition("/")[0] == consumer.rpartition("/")[0]
        pairs.append((file, shop.rpartition("/")[2]))
        folders.setdefault((consumer.rpartition("/")[0], item, status), []).append(pairs[-1])
    assert len(folders) == ITEMS == len({item for _, item, _ in folders})
    assert {status for *_, status in folders} == {"train", "val", "test"}
    for found in folders.values():
        consumers, shops = zip(*found, strict=True)
        # A third of six photos, and each consumer photo in one pair.
        assert sorted(consumers) == [f"comsumer_{n:02d}.jpg" for n in (1, 2, 3, 4)]
        assert sorted(set(shops)) == ["shop_01.jpg", "shop_02.jpg"]
    assert int(count) == len(pairs) == ITEMS * 4
    numbers = sorted(int(item.removeprefix("id_")) for _, item, _ in folders)
    assert numbers[0] == 1 and numbers[-1] > ITEMS and len(set(np.diff(numbers))) > 1
    consumers, shops, _, _ = _columns(consumer2shop)
    _check_photos(consumer2shop, [*consumers, *set(shops)])


def test_a_pair_shows_one_colour_and_every_colour_has_a_shop_photo():
    garments, photos = boutique.plan(60, 9, seed=4, layout="consumer2shop")
    paths = layouts.arrange("consumer2shop", garments, photos).paths
    by_path = dict(zip(paths, photos, strict=True))
    text = layouts.arrange("consumer2shop", garments, photos).annotations[PARTITION]
    several = 0
    for row in text.splitlines()[2:]:
        consumer, shop = (by_path[path] for path in row.split()[:2])
        assert (consumer.domain, shop.domain) == ("consumer", "shop")
        assert (consumer.item, consumer.variant) == (shop.item, shop.variant)
        several += consumer.variant > 0
    assert several > 20


@pytest.mark.parametrize("layout", boutique.LAYOUTS)
def test_the_loader_of_the_layout_reads_it(layout, request):
    data = request.getfixturevalue({"inshop": "root"}.get(layout, layout))
    catalogue = load(layout, data)
    assert len(catalogue) == ITEMS * VIEWS
    # Nobody is warned that these are not the benchmark's photos.
    assert catalogue.notes[-1].startswith("rendered garments in the layout of ")
    assert not any("published" in note for note in catalogue.notes)
    images = {split: images for split, (images, *_) in catalogue.counts().items()}
    half = ITEMS * VIEWS // 2
    assert images["train"] == half and sum(images.values()) == 2 * half
    if layout == "category":
        assert images["val"] == images["test"] == half / 2 and len(catalogue.categories) == 50
    elif layout == "consumer2shop":
        assert images["val"] == half / 2 and images["query"] == 2 * images["gallery"]


@pytest.mark.parametrize("layout", boutique.LAYOUTS)
@pytest.mark.parametrize(("items", "views"), [(4, 2), (7, 3), (13, 5), (50, 6), (31, 13), (5, 40)])
def test_plan_gives_every_query_a_match(items, views, layout):
    garments, photos = boutique.plan(items, views, seed=3, layout=layout)
    assert len(garments) == items and len(photos) == items * views
    paths = layouts.arrange(layout, garments, photos).paths
    assert len(set(paths)) == len(photos)
    split = {}
    for photo in photos:
        split.setdefault(photo.split, set()).add(photo.item)
    if layout == "inshop":
        assert split["query"] == split.pop("gallery")
    else:
        domains = {(photo.item, photo.domain) for photo in photos}
        assert len(domains) == 2 * items
    assert len(split) == (2 if layout == "inshop" else 3)
    assert sum(len(part) for part in split.values()) == items


def test_siblings_are_for_retrieval_only():
    """In Category a pattern must not give the category away; retrieval has the same items."""
    shown = {layout: boutique.plan(180, 2, seed=2, layout=layout)[0] for layout in boutique.LAYOUTS}
    assert shown["consumer2shop"] == shown["inshop"]
    kinds = {
        layout: np.mean(
            [
                len({item.pattern["kind"] for item in items if item.category == category})
                for category in boutique.CATEGORIES
            ]
        )
        for layout, items in shown.items()
    }
    assert kinds["category"] > 1.5 * kinds["inshop"]


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
    one = written(tmp_path / "one", workers=1, **arguments)
    two = written(tmp_path / "two", workers=2, **arguments)
    assert _digests(one) == _digests(two)
    other = written(tmp_path / "other", workers=1, **(arguments | {"seed": 6}))
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


def _noise(picture):
    """Immerkaer's estimate: a mask that is blind to edges, on the flattest quarter of 64 x 64."""
    grey = np.asarray(picture, float).mean(-1)
    second = grey[:-2] - 2 * grey[1:-1] + grey[2:]
    both = np.abs(second[:, :-2] - 2 * second[:, 1:-1] + second[:, 2:])
    blocks = both[:60, :60].reshape(10, 6, 10, 6).mean((1, 3)).ravel()
    return np.sort(blocks)[:25].mean() * np.sqrt(np.pi / 2) / 6


def test_consumer_photos_are_noisier():
    garments, photos = boutique.plan(12, 6, seed=0)
    noise = {"shop": [], "consumer": []}
    for photo in photos:
        picture = boutique.render(garments[photo.item - 1], photo, 64)
        noise[photo.domain].append(_noise(picture))
    assert np.median(noise["consumer"]) > 2 * np.median(noise["shop"])
    assert np.percentile(noise["consumer"], 10) > np.percentile(noise["shop"], 90)


def test_the_files_called_comsumer_are_the_consumer_photos(consumer2shop):
    """A file is the photo of the plan that it resembles most."""
    garments, photos = boutique.plan(ITEMS, VIEWS, seed=0, layout="consumer2shop")
    photos = photos[: 5 * VIEWS]
    rendered = [
        boutique.render(garments[photo.item - 1], photo, SIZE).astype(float) for photo in photos
    ]
    shown = {}
    for row in _rows(consumer2shop)[2][: 5 * 4]:
        for name in row.split()[:2]:
            with Image.open(consumer2shop / "Img" / name) as picture:
                pixels = np.asarray(picture, float)
            nearest = np.argmin([np.abs(pixels - other).mean() for other in rendered])
            assert (photos[nearest].domain == "consumer") == ("comsumer" in name)
            assert shown.setdefault(nearest, name) == name
            assert f"/id_{photos[nearest].item:08d}/" in name
    assert len(shown) == len(photos)


def test_contact_picture_and_manifest(root):
    manifest = json.loads((root / "boutique.json").read_text(encoding="utf-8"))
    assert manifest["items"] == ITEMS and manifest["size"] == SIZE and manifest["seed"] == 0
    assert manifest["layout"] == "inshop" and manifest["photos"] == ITEMS * VIEWS
    with Image.open(root / "boutique.png") as sheet:
        rows, columns = 12, VIEWS
        assert sheet.size == (112 * columns, 112 * rows)
        # No tile is left white.
        tiles = np.asarray(sheet.convert("L"), float).reshape(rows, 112, columns, 112)
        assert tiles.std((1, 3)).min() > 5


def test_second_call_does_nothing(root, capsys, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    monkeypatch.setattr(writing, "render", lambda *_: pytest.fail("rendered again"))
    assert written(root, items=ITEMS, views=VIEWS, size=SIZE) == root
    assert "nothing to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_a_folder_with_something_else_is_left_alone(root, tmp_path):
    with pytest.raises(FirError, match=r"another boutique.*Remove it or choose another folder"):
        written(root, items=ITEMS, views=VIEWS, size=SIZE, seed=1)
    with pytest.raises(FirError, match="another boutique: layout inshop instead of category"):
        written(root, items=ITEMS, views=VIEWS, size=SIZE, layout="category")
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(FirError, match="something else than a boutique"):
        written(tmp_path, items=4, views=2, size=32)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(FirError, match="something else than a boutique"):
        written(tmp_path / "mine.txt", items=4, views=2, size=32)


@pytest.mark.parametrize("layout", boutique.LAYOUTS[1:])
def test_shop_photos_come_first_on_the_contact_picture(layout, request):
    data = request.getfixturevalue(layout)
    garments, photos = boutique.plan(ITEMS, VIEWS, seed=0, layout=layout)
    with Image.open(data / "boutique.png") as sheet:
        assert sheet.size == (112 * VIEWS, 112 * 12)
        tile = np.asarray(sheet.crop((2, 2, 110, 110)), float)
    first = boutique.render(garments[0], photos[0], SIZE)
    expected = np.asarray(Image.fromarray(first).resize((108, 108), Image.LANCZOS), float)
    assert photos[0].domain == "shop" and np.abs(tile - expected).mean() < 8


def test_a_manifest_without_a_layout_is_that_of_in_shop(tmp_path, capsys):
    arguments = {"items": 4, "views": 2, "size": 32, "workers": 1}
    root = written(tmp_path / "a", **arguments)
    manifest = json.loads((root / "boutique.json").read_text(encoding="utf-8"))
    del manifest["layout"]
    (root / "boutique.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert written(root, **arguments) == root
    assert "nothing to do" in capsys.readouterr().out


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    calls = []

    def render(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return np.zeros((32, 32, 3), np.uint8)

    monkeypatch.setattr(writing, "render", render)
    with pytest.raises(KeyboardInterrupt):
        written(tmp_path / "a", items=4, views=2, size=32, workers=1)
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
        (
            {"layout": "shop"},
            "`layout` must be one of inshop, category, consumer2shop. Received: 'shop'",
        ),
    ],
)
def test_bad_arguments(tmp_path, arguments, message):
    with pytest.raises(FirError) as caught:
        written(tmp_path / "a", **arguments)
    assert str(caught.value) == message
    assert list(tmp_path.iterdir()) == []


def test_command_line(tmp_path, capsys):
    out = tmp_path / "a"
    command = [f"--out={out}", "--items=4", "--views=2", "--size=32", "--seed=7", "--workers=1"]
    assert boutique.main(command) == 0
    printed = capsys.readouterr().out
    assert str(out / "boutique.png") in printed and "4 items, 8 photos" in printed
    assert len(list(out.rglob("*.jpg"))) == 8
    assert (out / PARTITION).read_text().splitlines()[1].startswith("image_name item_id")
    assert main(["boutique", *command, "--layout=category"]) == 1
    assert "error: `root` must not exist" in capsys.readouterr().err
    other = [f"--out={tmp_path / 'b'}", *command[1:], "--layout=consumer2shop"]
    assert boutique.main(other) == 0
    assert (tmp_path / "b" / PARTITION).read_text().splitlines()[1].startswith("image_pair_name_1")
    assert main(["boutique", f"--out={out}", "--items=2"]) == 1
    assert "error: `items` must be >= 4. Received: 2" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        boutique.main(["--help"])
    assert caught.value.code == 0
    assert "python -m fir_tf.datasets boutique" in capsys.readouterr().out


def test_an_unguarded_script_is_told_what_to_do(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from fir_tf import boutique\n"
        "wanted = boutique.Order(items=4, views=2, size=32)\n"
        f"boutique.write({str(tmp_path / 'a')!r}, wanted, workers=2)\n"
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
    code = "import sys, fir_tf.boutique; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
