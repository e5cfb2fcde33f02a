"""Data sources: what they read, and what they say about what they cannot read."""

import dataclasses

import numpy as np
import pytest
from conftest import inshop_rows, write_inshop, write_jpeg

from fir_tf.datasets import load
from fir_tf.datasets.catalogue import (
    CONSUMER,
    SHOP,
    retrieval_sides,
    split_off_validation,
    unit_hash,
)
from fir_tf.errors import FirError


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


@pytest.mark.parametrize(
    "move",
    [
        lambda root: (root / "Eval").rename(root / "Anno"),
        lambda root: (root / "Img" / "img").rename(root / "img"),
        lambda root: [
            path.rename(root / "In-shop Clothes Retrieval Benchmark" / path.name)
            for path in list(root.iterdir())
            if (root / "In-shop Clothes Retrieval Benchmark").mkdir(exist_ok=True) is None
        ],
    ],
)
def test_inshop_is_found_in_other_layouts(inshop, move):
    move(inshop)
    assert len(load("inshop", inshop)) == 48


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
        (lambda t: t.replace("query", "gallery"), r"'query'; the split is empty"),
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


def test_folder_names_an_image_in_the_wrong_place(tmp_path):
    root = folder_of(tmp_path, 30)
    write_jpeg(root / "c0" / "loose.jpg")
    with pytest.raises(FirError, match="1 images are not at <category>/<item>/<view>.*loose.jpg"):
        load("folder", root)


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


def test_category_benchmark(tmp_path):
    root = tmp_path / "category"
    (root / "Anno").mkdir(parents=True)
    (root / "Eval").mkdir()
    (root / "Anno/list_category_cloth.txt").write_text(
        "3\ncategory_name  category_type\nBlouse 1\nTee   1\nJeans 2\n"
    )
    rows = [("a", 1, "train"), ("b", 3, "train"), ("c", 3, "val"), ("d", 1, "test")]
    (root / "Anno/list_category_img.txt").write_text(
        "4\nimage_name category_label\n"
        + "".join(f"img/x/{name}.jpg    {label}\n" for name, label, _ in rows)
    )
    (root / "Eval/list_eval_partition.txt").write_text(
        "4\nimage_name evaluation_status\n"
        + "".join(f"img/x/{name}.jpg {split}\n" for name, _, split in reversed(rows))
    )
    for name, _, _ in rows:
        write_jpeg(root / "Img/img/x" / f"{name}.jpg")
    catalogue = load("category", root)
    assert catalogue.categories == ("Blouse", "Tee", "Jeans")
    assert catalogue.category.tolist() == [0, 2, 2, 0]
    assert catalogue.split.tolist() == ["test", "val", "train", "train"]
    assert set(catalogue.item) == {-1}
    edit(root, lambda t: t.replace("b.jpg    3", "b.jpg    4"), "Anno/list_category_img.txt")
    with pytest.raises(
        FirError, match=r"list_category_img.txt:4: `category_label` must be .*Received: '4'"
    ):
        load("category", root)


def test_consumer2shop(tmp_path):
    root = tmp_path / "c2s"
    (root / "Eval").mkdir(parents=True)
    pairs = []
    for item, split in ((1, "train"), (2, "val"), (3, "test"), (5, "test")):
        folder = f"img/TOPS/T_Shirt/id_{item:08d}"
        pairs += [
            (f"{folder}/comsumer_01.jpg", f"{folder}/shop_01.jpg", item, split),
            (f"{folder}/comsumer_02.jpg", f"{folder}/shop_01.jpg", item, split),
        ]
    (root / "Eval/list_eval_partition.txt").write_text(
        f"{len(pairs)}\nimage_pair_name_1 image_pair_name_2 item_id evaluation_status\n"
        + "".join(f"{a}   {b}   id_{item:08d}  {split}\n" for a, b, item, split in pairs)
    )
    for a, b, _, _ in pairs:
        write_jpeg(root / "Img" / a)
        write_jpeg(root / "Img" / b)
    catalogue = load("consumer2shop", root)
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
