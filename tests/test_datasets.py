"""Data sources: what they read, and what they say about what they cannot read."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_sets import inshop_rows, write_inshop, write_jpeg

from fir_tf import registry
from fir_tf.datasets import load
from fir_tf.datasets.catalogue import (
    CONSUMER,
    SHOP,
    hash_split,
    retrieval_sides,
    split_off_validation,
    unit_hash,
)
from fir_tf.datasets.loading import load_unchecked
from fir_tf.datasets.published import PUBLISHED, Published
from fir_tf.errors import FirError
from fir_tf.registry import get
from fir_tf.search.listing import read_catalogue


def edit(root, change, name="Eval/list_eval_partition.txt"):
    path = root / name
    path.write_text(change(path.read_text()))
    return path


def test_inshop_is_read_row_by_row(inshop):
    catalogue = load("inshop", inshop)
    rows = inshop_rows()
    assert [str(path) for path in catalogue.path] == [row[0] for row in rows]
    assert [catalogue.items[item] for item in catalogue.item] == [row[1] for row in rows]
    assert catalogue.split.tolist() == [row[2] for row in rows]
    assert [catalogue.categories[index] for index in catalogue.category] == [
        "/".join(row[0].split("/")[1:3]) for row in rows
    ]
    assert set(catalogue.domain) == {SHOP}
    assert catalogue.counts() == {"train": (32, 8, 2), "query": (8, 4, 2), "gallery": (8, 4, 2)}


def test_an_item_under_two_category_folders_is_one_item(tmp_path):
    rows = inshop_rows()
    rows[1] = ("img/MEN/Denim/id_00000000/07_1_front.jpg", "id_00000000", "train")
    catalogue = load("inshop", write_inshop(tmp_path / "x", rows))
    assert catalogue.item[0] == catalogue.item[1]
    assert catalogue.category[0] != catalogue.category[1]


def test_bom_crlf_and_tabs_are_read(inshop):
    path = inshop / "Eval" / "list_eval_partition.txt"
    text = path.read_text().replace("\n", "\r\n").replace(" id_", "\tid_")
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert len(load("inshop", inshop)) == 48


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.replace("id_00000001 train", "train", 1),
            r"list_eval_partition.txt:7: a row must have 3 columns .*Received: .*01/00_1_front.jpg train",
        ),
        (
            lambda t: t.replace("id_00000001 train", "id_00000001 train more", 1),
            r"list_eval_partition.txt:7: a row must have 3 columns",
        ),
        (
            lambda t: t.replace("id_00000001 train", "id_00000001 train a b c", 1),
            r"list_eval_partition.txt:7: a row must have 3 columns .*Received: 6 columns",
        ),
        (
            lambda t: t.replace("00000002 train", "00000002 tain", 1),
            r"list_eval_partition.txt:11: `evaluation_status` must be one of train, query, gallery. "
            r"Received: 'tain'",
        ),
        (lambda t: "50" + t[2:], r"partition.txt:1: the first line says 50 rows, the file has 48"),
        (lambda t: "many" + t[2:], r"partition.txt:1: the first line must be the number of rows"),
        (lambda t: "", r"partition.txt:1: the first line must be the number of rows. Received: ''"),
        (
            lambda t: t.replace("img/WOMEN/Dresses/id_00000000/00", "00", 1),
            r"partition.txt:3: the image path must be img/<group>/<category>/<item>/<view>.jpg",
        ),
    ],
)
def test_malformed_rows_name_file_and_line(inshop, change, message):
    edit(inshop, change)
    with pytest.raises(FirError, match=message):
        load("inshop", inshop)


def test_missing_images_name_the_row(inshop):
    (inshop / "Img/img/WOMEN/Dresses/id_00000002/01_1_front.jpg").unlink()
    with pytest.raises(
        FirError, match=r"1 of 48 image files do not exist:\n.*partition.txt:12: .*id_00000002/01_1"
    ):
        load("inshop", inshop)


@pytest.mark.parametrize(
    ("dataset", "where", "message"),
    [
        ("inshop", "nowhere", r"must be an existing folder. Received: .*nowhere"),
        ("folder", "nowhere", r"must be an existing folder. Received: .*nowhere"),
        ("inshop", "", r"must name the folder"),
        ("inshop", ".", r"list_eval_partition.txt was not found. Looked for .*Eval"),
        ("folder", ".", r"no image was found"),
        ("zalando", ".", r"`dataset` must be one of .*Received: 'zalando'"),
    ],
)
def test_missing_data_is_said(tmp_path, dataset, where, message):
    with pytest.raises(FirError, match=message):
        load(dataset, tmp_path / where if where else "")


def folder_of(tmp_path, items, views=3):
    root = tmp_path / "shop"
    for number in range(items):
        for view in range(views):
            write_jpeg(root / f"c{number % 3}" / f"item {number}" / f"{view}.jpg", number)
    return root


def test_folder_split_never_moves_old_items(tmp_path):
    def splits(catalogue):
        return dict(zip(catalogue.path.tolist(), catalogue.split.tolist(), strict=True))

    before = splits(load("folder", folder_of(tmp_path, 30)))
    after = splits(load("folder", folder_of(tmp_path, 60)))
    assert before.items() <= after.items()
    assert {"train", "val", "query", "gallery"} <= set(after.values())


def test_folder_split_is_by_item_with_both_sides(tmp_path):
    catalogue = load("folder", folder_of(tmp_path, 60))
    for item in range(60):
        parts = set(catalogue.split[catalogue.item == item])
        assert parts in ({"train"}, {"val"}, {"query", "gallery"})
    assert catalogue.categories == ("c0", "c1", "c2")
    shares = np.array(
        [
            np.mean([set(catalogue.split[catalogue.item == item]) == part for item in range(60)])
            for part in ({"train"}, {"query", "gallery"})
        ]
    )
    assert abs(shares[0] - 0.6) < 0.2 and abs(shares[1] - 0.3) < 0.2


def test_folders_of_any_depth_are_read_by_one_rule(tmp_path):
    root = folder_of(tmp_path, 30)
    told = {
        "loose.jpg": ("", ""),
        "c0/no item.jpg": ("c0", ""),
        "women/tops/item 7/1.jpg": ("women/tops", "women/tops/item 7"),
        "women/unknown/item 8/1.jpg": ("", "women/unknown/item 8"),
        "women/tops/N.A./1.jpg": ("women/tops", ""),
        "unknown/1.jpg": ("", ""),
    }
    for number, path in enumerate(told):
        write_jpeg(root / path, number)
    catalogue = load("folder", root)
    names = (*catalogue.items, ""), (*catalogue.categories, "")
    for path, (category, item) in told.items():
        (row,) = np.flatnonzero(catalogue.path == path)
        assert names[0][catalogue.item[row]] == item, path
        assert names[1][catalogue.category[row]] == category, path
    (note,) = (note for note in catalogue.notes if "<category>/<item>/" in note)
    assert note.startswith(f"note: 3 of {len(catalogue)} images") and "loose.jpg" in note
    # The index follows the same rule.
    for record in read_catalogue(root).records:
        (row,) = np.flatnonzero(catalogue.path == record.path)
        assert record.item == names[0][catalogue.item[row]], record.path
        assert record.category == names[1][catalogue.category[row]], record.path


def test_validation_items_are_stable_and_only_from_training(inshop):
    catalogue = load("inshop", inshop)
    split = split_off_validation(catalogue, 0.5)
    moved = split.split == "val"
    assert moved.any() and (catalogue.split[moved] == "train").all()
    assert (split.split[~moved] == catalogue.split[~moved]).all()
    for item in range(len(catalogue.items)):
        rows = catalogue.item == item
        expected = (
            unit_hash(catalogue.items[item], "val") < 0.5 and catalogue.split[rows][0] == "train"
        )
        assert moved[rows].all() == expected and moved[rows].any() == expected
    assert split_off_validation(catalogue, 0.0) is catalogue
    with pytest.raises(FirError, match="`val_fraction` must be between 0 and 0.9. Received: 1.5"):
        split_off_validation(catalogue, 1.5)


def test_validation_is_never_empty_and_never_everything(tmp_path):
    rows = inshop_rows(train_items=2)
    catalogue = load("inshop", write_inshop(tmp_path / "x", rows))
    split = split_off_validation(catalogue, 0.001).split
    assert (split == "val").sum() == 4 and (split == "train").sum() == 4
    single = dataclasses.replace(catalogue, split=np.where(catalogue.item == 0, "train", "gallery"))
    with pytest.raises(FirError, match="no training image is left"):
        split_off_validation(single, 0.9)


def test_retrieval_sides(inshop):
    catalogue = split_off_validation(load("inshop", inshop), 0.5)
    query, gallery = retrieval_sides(catalogue)
    assert set(catalogue.split[query]) == {"query"} and set(catalogue.split[gallery]) == {"gallery"}
    query, gallery = retrieval_sides(catalogue, "val")
    assert query.tolist() == gallery.tolist() == np.flatnonzero(catalogue.split == "val").tolist()


def test_categories_are_renumbered_by_name(inshop):
    catalogue = load("inshop", inshop).with_categories(["Other", "WOMEN/Dresses"])
    names = [row[0].split("/")[1] for row in inshop_rows()]
    assert catalogue.category.tolist() == [1 if name == "WOMEN" else -1 for name in names]


CATEGORY_ROWS = [("a", 1, "train"), ("b", 3, "train"), ("c", 3, "val"), ("d", 1, "test")]
# Folder names as in the release: an entity, an ampersand, an apostrophe.
CATEGORY_FOLDER = "img/Macram&eacute;_Sweater_&_Women's"


def write_category(root, images=True):
    """Writes the Category benchmark's layout: four images, the two files in different orders."""
    (root / "Anno").mkdir(parents=True)
    (root / "Eval").mkdir()
    (root / "Anno/list_category_cloth.txt").write_text(
        "3\ncategory_name  category_type\nBlouse 1\nTee   1\nJeans 2\n"
    )
    (root / "Anno/list_category_img.txt").write_text(
        "4\nimage_name category_label\n"
        + "".join(f"{CATEGORY_FOLDER}/{name}.jpg    {label}\n" for name, label, _ in CATEGORY_ROWS)
    )
    (root / "Eval/list_eval_partition.txt").write_text(
        "4\nimage_name evaluation_status\n"
        + "".join(
            f"{CATEGORY_FOLDER}/{name}.jpg {split}\n" for name, _, split in CATEGORY_ROWS[::-1]
        )
    )
    for name, _, _ in CATEGORY_ROWS if images else ():
        write_jpeg(root / "Img" / CATEGORY_FOLDER / f"{name}.jpg")
    return root


FINE = (("train", "ba", "32"), ("val", "c", "1"), ("test", "d", "3"))


def write_fine(root, splits=FINE):
    """Writes `Anno_fine` beside the rest: images by name, and labels row by row."""
    (root / "Anno_fine").mkdir(exist_ok=True)
    for split, names, labels in splits:
        (root / f"Anno_fine/{split}.txt").write_text(
            "".join(f"{CATEGORY_FOLDER}/{name}.jpg\n" for name in names)
        )
        (root / f"Anno_fine/{split}_cate.txt").write_text("\n".join(labels) + "\n")
    return root


def write_consumer2shop(root, change=lambda text: text):
    """Writes the Consumer-to-Shop layout: four items, each of two consumer photos and a shop's."""
    (root / "Eval").mkdir(parents=True)
    lines = []
    for item, split in ((1, "train"), (2, "val"), (3, "test"), (5, "test")):
        folder = f"img/TOPS/T_Shirt/id_{item:08d}"
        for name in ("comsumer_01.jpg", "comsumer_02.jpg", "shop_01.jpg"):
            write_jpeg(root / "Img" / folder / name)
        lines += [
            f"{folder}/comsumer_0{view}.jpg   {folder}/shop_01.jpg   id_{item:08d}  {split}"
            for view in (1, 2)
        ]
    text = "image_pair_name_1 image_pair_name_2 item_id evaluation_status\n" + "\n".join(lines)
    (root / "Eval/list_eval_partition.txt").write_text(f"{len(lines)}\n{change(text)}\n")
    return root


WRITERS = {
    "inshop": lambda root: write_inshop(root, inshop_rows()),
    "category": write_category,
    "consumer2shop": write_consumer2shop,
}


def table_of(catalogue):
    """The rows without their places: what every layout of a benchmark has to agree in."""
    return [
        (
            Path(path).name,
            catalogue.categories[category],
            catalogue.items[item] if item >= 0 else None,
            domain,
            split,
        )
        for path, category, item, domain, split in zip(
            catalogue.path,
            catalogue.category,
            catalogue.item,
            catalogue.domain,
            catalogue.split,
            strict=True,
        )
    ]


def into(root, name):
    (root / name).mkdir()
    for path in list(root.iterdir()):
        if path.name != name:
            path.rename(root / name / path.name)


MOVES = {
    "as unpacked": lambda root: None,
    "Eval in Anno": lambda root: [
        (root / "Anno").mkdir(exist_ok=True),
        (root / "Eval/list_eval_partition.txt").rename(root / "Anno/list_eval_partition.txt"),
    ],
    "labels in Anno_coarse": lambda root: (
        (root / "Anno").is_dir() and (root / "Anno").rename(root / "Anno_coarse")
    ),
    "img beside Eval": lambda root: (root / "Img" / "img").rename(root / "img"),
    "high resolution only": lambda root: (root / "Img/img").rename(root / "Img/img_highres"),
    "high resolution beside Eval": lambda root: (root / "Img/img").rename(root / "img_highres"),
    "the folder above": lambda root: into(root, "Clothes Retrieval Benchmark"),
    "BOM, CRLF and padding": lambda root: [
        path.write_bytes(
            b"\xef\xbb\xbf" + path.read_text().replace("\n", "   \r\n").encode().rstrip(b" ")
        )
        for path in root.glob("*/*.txt")
    ],
}


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("dataset", WRITERS)
def test_a_benchmark_is_the_same_in_every_layout_of_its_releases(tmp_path, dataset, move):
    root = WRITERS[dataset](tmp_path / "x")
    before = table_of(load(dataset, root))
    MOVES[move](root)
    catalogue = load(dataset, root)
    assert table_of(catalogue) == before
    assert all(Path(path).is_file() for path in catalogue.files())


@pytest.mark.parametrize("dataset", WRITERS)
def test_the_resolution_is_chosen_by_the_folder_that_is_named(tmp_path, dataset):
    root = WRITERS[dataset](tmp_path / "x")
    assert not any(note.startswith("images:") for note in load(dataset, root).notes)
    for path in list((root / "Img/img").rglob("*.jpg")):
        write_jpeg(root / "Img/img_highres" / path.relative_to(root / "Img/img"), size=(96, 128))
    plain = load(dataset, root)
    assert all("/Img/img/" in path for path in plain.files())
    assert f"images: {root / 'Img/img'} (for {root / 'Img/img_highres'} " in plain.notes[0]
    high = load(dataset, root / "Img" / "img_highres")
    assert all("/Img/img_highres/" in path for path in high.files())
    assert "img_highres (for " in high.notes[0]
    assert table_of(plain) == table_of(high)
    assert table_of(load(dataset, root / "Img" / "img")) == table_of(plain)


def test_category_benchmark(tmp_path):
    root = write_category(tmp_path / "category")
    catalogue = load("category", root)
    assert catalogue.categories == ("Blouse", "Tee", "Jeans")
    assert catalogue.category.tolist() == [0, 2, 2, 0]
    assert catalogue.split.tolist() == ["test", "val", "train", "train"]
    assert set(catalogue.item) == {-1}


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("Anno/list_category_img", "b.jpg    3", "b.jpg    4", "img.txt:4: `category_label` must"),
        ("Anno/list_category_img", "b.jpg    3", "b.jpg    0", "img.txt:4: `category_label` must"),
        ("Anno/list_category_img", "b.jpg    3", "b.jpg    x", "img.txt:4: `category_label` must"),
        ("Anno/list_category_img", "/b.jpg", "/a.jpg", r"img.txt:4: .*a.jpg is listed already on"),
        ("Anno/list_category_img", "/b.jpg", "/e.jpg", r"partition.txt:5: .*b.jpg has no category"),
        ("Anno/list_category_cloth", "Tee ", "Blouse ", "cloth.txt:4: Blouse is listed already on"),
        ("Eval/list_eval_partition", "c.jpg val", "c.jpg query", "txt:4: `evaluation_status` must"),
        ("Eval/list_eval_partition", "/c.jpg", "/d.jpg", r"txt:4: the image .*d.jpg is .*txt:3"),
        ("Eval/list_eval_partition", "4\n", "5\n", "txt:1: the first line says 5 rows"),
    ],
)
def test_category_names_file_and_line(tmp_path, name, old, new, message):
    root = write_category(tmp_path / "category")
    edit(root, lambda text: text.replace(old, new, 1), f"{name}.txt")
    with pytest.raises(FirError, match=message):
        load("category", root)


def test_images_that_are_in_no_split_are_counted(tmp_path):
    root = write_category(tmp_path / "category")
    edit(root, lambda text: f"3{text[1:]}".rsplit("\n", 2)[0] + "\n")
    catalogue = load("category", root)
    assert len(catalogue) == 3
    assert any("note: 1 images of" in note for note in catalogue.notes)


def test_the_fine_annotations_are_aligned_by_row(tmp_path):
    root = write_fine(write_category(tmp_path / "x"))
    coarse = load("category", root)
    assert len(coarse) == 4 and coarse.category.tolist() == [0, 2, 2, 0]
    assert any(f"for {root / 'Anno_fine'} give" in note for note in coarse.notes)
    fine = load("category", root / "Anno_fine")
    assert [Path(path).stem for path in fine.path] == ["b", "a", "c", "d"]
    assert fine.category.tolist() == [2, 1, 0, 2]
    assert fine.split.tolist() == ["train", "train", "val", "test"]
    assert fine.location(3) == f"{root / 'Anno_fine/test.txt'}:1"
    (root / "Anno/list_category_img.txt").unlink()
    assert table_of(load("category", root)) == table_of(fine)


def test_the_fine_annotations_have_boxes_of_their_own(tmp_path):
    root = write_fine(write_category(tmp_path / "x"))
    folder = root / "Anno_fine"
    assert not load("category", folder).has_box().any()
    lists = {"train": "010 2 30 40\n5 6 7 8\n", "val": "0 0 9 9\n", "test": "1 2 3 5\n"}
    for split, text in lists.items():
        (folder / f"{split}_bbox.txt").write_text(text)
    # That of all images is not asked.
    (root / "Anno" / "list_bbox.txt").write_text("nothing that can be read")
    expected = [[10, 2, 20, 38], [5, 6, 2, 2], [0, 0, 9, 9], [1, 2, 2, 3]]
    assert load("category", folder).box.tolist() == expected
    for text, message in (
        ("1 2 3\n5 6 7 8\n", r"train_bbox.txt:1: a row must have 4 columns .*: '1 2 3'"),
        ("1 2 3 4\n", r"train.txt and .*train_bbox.txt belong together row by row.*: 2 and 1 rows"),
        ("1 2 3 4\n5 6 5 8\n", r"train_bbox.txt:2: x_1 y_1 x_2 y_2 must be two corners"),
    ):
        (folder / "train_bbox.txt").write_text(text)
        with pytest.raises(FirError, match=message):
            load("category", folder)


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ([("train", "ba", "3"), *FINE[1:]], r"train.txt and .*_cate.txt belong .*: 2 and 1 rows"),
        ([("train", "ba", ["3", "51"]), *FINE[1:]], r"train_cate.txt:2: `category_label` must be"),
        ([("train", "ba", ["3", "", "1"]), *FINE[1:]], r"train_cate.txt:2: a line must hold one"),
        ([*FINE[:2], ("test", "a", "3")], r"test.txt:1: the image .*a.jpg is listed .*train.txt:2"),
        (FINE[:2], r"test.txt was not found"),
    ],
)
def test_bad_fine_annotations_name_file_and_line(tmp_path, splits, message):
    root = write_fine(write_category(tmp_path / "x"), splits)
    with pytest.raises(FirError, match=message):
        load("category", root / "Anno_fine")


def test_consumer2shop(tmp_path):
    catalogue = load("consumer2shop", write_consumer2shop(tmp_path / "c2s"))
    assert len(catalogue) == 12, "a shop photo in two pairs is one row"
    for row in range(12):
        consumer = "comsumer" in catalogue.path[row]
        assert catalogue.domain[row] == (CONSUMER if consumer else SHOP)
    query, gallery = retrieval_sides(catalogue)
    assert len(query) == 4 and len(gallery) == 2
    assert all("comsumer" in path for path in catalogue.path[query])
    assert all("shop" in path for path in catalogue.path[gallery])
    query, gallery = retrieval_sides(catalogue, "val")
    assert len(query) == 2 and len(gallery) == 1


def test_the_gallery_scope_adds_the_shop_photos_of_val(tmp_path):
    catalogue = load("consumer2shop", write_consumer2shop(tmp_path / "c2s"))
    query, narrow = retrieval_sides(catalogue)
    same, wide = retrieval_sides(catalogue, gallery_scope="val+test")
    assert same.tolist() == query.tolist()
    added = sorted(set(wide) - set(narrow))
    assert set(narrow) < set(wide)
    assert catalogue.path[added].tolist() == ["img/TOPS/T_Shirt/id_00000002/shop_01.jpg"]
    for side, other in zip(
        retrieval_sides(catalogue, "val"),
        retrieval_sides(catalogue, "val", "val+test"),
        strict=True,
    ):
        assert side.tolist() == other.tolist(), "the checkpoint is chosen on the same images"
    with pytest.raises(FirError, match="must be one of test, val.test. Received: 'all'"):
        retrieval_sides(catalogue, gallery_scope="all")
    with pytest.raises(FirError, match="needs shop photos in the split 'val'"):
        retrieval_sides(catalogue.part("query", "gallery"), gallery_scope="val+test")


PAIRS = {
    "two items": (
        lambda t: t.replace("id_00000001  train", "id_00000002  train", 1),
        r"txt:4: \S*01/shop_01.jpg has the item id_00000001, on line 3 it has id_00000002",
    ),
    "two splits": (
        lambda t: t.replace("id_00000003  test", "id_00000003  train", 1),
        r"txt:8: \S*03/shop_01.jpg has the split test, on line 7 it has train",
    ),
    "both sides": (
        lambda t: t.replace("1/comsumer_02", "1/shop_01", 1),
        r"txt:3: \S*01/shop_01.jpg has the side shop, on line 4 it has consumer",
    ),
    "an item in two splits": (
        lambda t: t.replace(
            "5/shop_01.jpg   id_00000005  test", "5/new.jpg   id_00000005  train", 1
        ),
        r"the item id_00000005 is in the split query, but at \S+txt:9 in train",
    ),
}


@pytest.mark.parametrize("case", PAIRS)
def test_contradictory_pairs_are_refused_but_for_the_release_itself(tmp_path, monkeypatch, case):
    change, message = PAIRS[case]
    root = write_consumer2shop(tmp_path / "c2s", change)
    with pytest.raises(FirError, match=message):
        get("dataset", "consumer2shop")(root)
    monkeypatch.setitem(PUBLISHED, "consumer2shop", Published("C2S", {"pairs": 8}))
    notes = get("dataset", "consumer2shop")(root).notes
    assert any(note.startswith("warning: ") and "has" in note or "is in" in note for note in notes)
    assert "counts equal the published ones of C2S: 8 pairs" in notes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.replace("img/WOMEN/Dresses/id_00000000/01", "img/WOMEN/../../../x/01"),
            r"partition.txt:4: an image path must stay below \S+: .*Received: 'img/WOMEN/\.\./",
        ),
        (
            lambda t: t.replace("img/WOMEN/Dresses/id_00000000/01", "/img/WOMEN/Dresses/x/01"),
            r"partition.txt:4: an image path must stay below",
        ),
        (
            lambda t: t.replace("id_00000000/01_", "id_00000000/00_"),
            r"partition.txt:4: the image \S+/00_1_front.jpg is listed already at \S+.txt:3",
        ),
        (
            lambda t: t.replace("id_00000000 train", "id_00000000 gallery", 1),
            r"txt:4: the item id_00000000 is in the split train, but at \S+.txt:3 in gallery",
        ),
        (lambda t: "0\nimage_name item_id evaluation_status\n", "has no rows"),
    ],
)
def test_rows_that_contradict_each_other_are_refused(inshop, change, message):
    edit(inshop, change)
    with pytest.raises(FirError, match=message):
        load("inshop", inshop)


def test_a_subset_goes_on_with_a_warning_of_both_numbers(inshop):
    # One test item has photos in the gallery only, another in the query only: both count.
    edit(inshop, lambda t: t.replace("08 query", "08 gallery").replace("09 gallery", "09 query"))
    (note,) = load("inshop", inshop).notes
    assert note.startswith("warning: counts differ from In-Shop Clothes Retrieval as published")
    assert "48 of 52,712 images" in note and "4 of 3,985 test items" in note
    assert "8 of 14,218 query images" in note and "8 of 12,612 gallery images" in note
    assert note in load("inshop", inshop).describe()


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(0, 5), min_size=30, max_size=40), loose=st.integers(0, 20))
def test_the_split_by_hash_is_that_of_a_plain_loop(sizes, loose):
    paths, item = [], []
    for number, size in enumerate(sizes):
        paths += [f"{number}/{view}.jpg" for view in range(size)]
        item += [number] * size
    paths += [f"loose/{number}.jpg" for number in range(loose)]
    item += [-1] * loose
    order = np.random.default_rng(len(paths)).permutation(len(paths))
    items = [f"item {number}" for number in range(len(sizes))]
    expected = {}
    for number in range(len(sizes)):
        own = [path for path, owner in zip(paths, item, strict=True) if owner == number]
        score = unit_hash(f"item {number}", "split")
        if score < 0.1 or score >= 0.4:
            expected |= dict.fromkeys(own, "val" if score < 0.1 else "train")
            continue
        own.sort(key=lambda path: unit_hash(path, "view"))
        low = sum(unit_hash(path, "view") < 0.5 for path in own)
        queries = min(max(low, 1), len(own) - 1) if len(own) > 1 else 0
        expected |= {path: "query" for path in own[:queries]}
        expected |= {path: "gallery" for path in own[queries:]}
    for path in paths[len(paths) - loose :]:
        score = unit_hash(path, "split")
        expected[path] = "val" if score < 0.1 else "test" if score < 0.4 else "train"
    shuffled = np.array(paths, object)[order], np.array(item, np.int32)[order]
    if not {"query", "test"} & set(expected.values()):
        with pytest.raises(FirError, match="the split 'query' is empty: x has"):
            hash_split(*shuffled, items, "x")
    else:
        found = hash_split(*shuffled, items, "x")
        assert dict(zip(shuffled[0].tolist(), found.tolist(), strict=True)) == expected


def test_folder_says_which_images_it_leaves_out(tmp_path):
    root = folder_of(tmp_path, 30)
    (root / "c0/item 0/3.webp").write_bytes(b"x")
    (note,) = load("folder", root).notes
    assert f"skipped in {root}: 1 .webp" in note and "prepare" in note and "3.webp" in note
    (root / os.fsdecode(b"c0/item 0/\xff.jpg")).write_bytes(b"x")
    with pytest.raises(FirError, match=r"file names must be UTF-8. Received: '.*\\udcff.jpg'"):
        load("folder", root)


def annotation(path, header, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{len(rows)}\n{header}\n" + "\n".join(rows) + "\n")


def test_a_loader_that_can_list_what_training_cannot_read_is_asked_to(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})
    monkeypatch.setattr("fir_tf.datasets.loading.local_photos", lambda catalogue, _: catalogue)

    @registry.register("dataset", "photos")
    def load_photos(data_dir, with_others=False):
        return data_dir, with_others

    registry.register("dataset", "lines")(lambda data_dir: data_dir)
    assert load_unchecked("photos", "shop", with_others=True) == ("shop", True)
    assert load_unchecked("lines", "shop", with_others=True) == "shop"


def test_the_help_of_the_commands_takes_no_heavy_import():
    code = (
        "import sys\nfrom fir_tf.datasets.__main__ import COMMANDS, main\n"
        "status = [main([name, '--help']) for name in COMMANDS]\n"
        "print(status, sorted({'tensorflow', 'keras', 'pandas'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.count("usage: python -m fir_tf.datasets ") == 3
    assert ran.stdout.splitlines()[-1] == "[0, 0, 0] []"


def full_inshop(root):
    """In-Shop's annotation file in its real size: 25,882 images of 3,997 training items ..."""
    rows = []
    for start, items, splits in (
        (0, 3997, ["train"] * 25882),
        (3997, 3985, ["query", "gallery"] * 12612 + ["query"] * 1606),
    ):
        for number, split in enumerate(splits):
            item = f"id_{start + number % items + 1:08d}"
            path = f"img/WOMEN/Blouses_Shirts/{item}/{number // items:02d}_1_additional.jpg"
            rows.append(f"{path:<70s} {item} {split:<10s}")
    annotation(root / "Eval/list_eval_partition.txt", "image_name item_id evaluation_status", rows)


def full_category(root):
    """The Category benchmark's files in their real size, 5,620 folders with long names."""
    splits = np.repeat(["train", "val", "test"], [209222, 40000, 40000])
    splits = np.random.default_rng(0).permutation(splits)
    words = "Abstract_Sheer_Pleated-Front_Print_Chiffon_Blouse"
    paths = [
        f"img/{words[: 20 + row % 30]}_{row // 52}/img_{row % 52 + 1:08d}.jpg"
        for row in range(len(splits))
    ]
    annotation(
        root / "Anno/list_category_cloth.txt",
        "category_name  category_type",
        [f"Category_{number} {number % 3 + 1}" for number in range(50)],
    )
    annotation(
        root / "Anno/list_category_img.txt",
        "image_name  category_label",
        [f"{path:<70s} {row % 46 + 1:>2d}" for row, path in enumerate(paths)],
    )
    annotation(
        root / "Eval/list_eval_partition.txt",
        "image_name  evaluation_status",
        [f"{path:<70s} {split}" for path, split in zip(paths, splits, strict=True)],
    )


def full_consumer2shop(root):
    """Consumer-to-Shop's file in its real size: each consumer photo once, 44,017 shop photos."""
    rows = []
    for number in range(195540):
        shop = number % 44017
        item = f"id_{shop % 33881 + 1:08d}"
        folder = f"img/CLOTHING/Summer_Wear/{item}"
        split = ("train", "val", "test")[shop % 33881 % 3]
        rows.append(
            f"{folder}/comsumer_{number // 33881:02d}{shop // 33881}.jpg "
            f"{folder}/shop_{shop // 33881:02d}.jpg {item} {split}"
        )
    annotation(
        root / "Eval/list_eval_partition.txt",
        "image_pair_name_1 image_pair_name_2 item_id evaluation_status",
        rows,
    )


_MEASURE = """
import io, json, re, sys, time
import pandas
from fir_tf.registry import get
from fir_tf.search.listing import read_catalogue
pandas.read_csv(io.StringIO("a b"), sep=r"\\s+", dtype=object)
# Not ru_maxrss: a child starts with its parent's.
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1024
before, start = peak(), time.process_time()
catalogue = get("dataset", sys.argv[1])(sys.argv[2])
seconds = time.process_time() - start
print(json.dumps([len(catalogue), seconds, peak() - before, catalogue.notes[-1]]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize(
    ("dataset", "write", "images"),
    [
        ("inshop", full_inshop, 52712),
        ("category", full_category, 289222),
        ("consumer2shop", full_consumer2shop, 239557),
    ],
)
def test_full_size_annotations_load_fast_and_match_the_published_counts(
    tmp_path, dataset, write, images
):
    """Under 2 seconds of processor time, under 300 MB, and the published counts."""
    write(tmp_path)
    (tmp_path / "Img" / "img").mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, dataset, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    count, seconds, megabytes, note = json.loads(done.stdout)
    assert count == images
    assert note.startswith("counts equal the published ones")
    assert seconds < 2 and 5 < megabytes < 300, (seconds, megabytes)


@pytest.mark.skipif(
    "FIR_TF_PHOTOS" not in os.environ, reason="FIR_TF_PHOTOS names no folder of photos"
)
@pytest.mark.parametrize(
    ("dataset", "name", "images"), [("inshop", "luma", 447), ("category", "clothing", 3409)]
)
def test_real_photo_sets_load(dataset, name, images):
    assert len(load(dataset, Path(os.environ["FIR_TF_PHOTOS"]) / name)) == images
