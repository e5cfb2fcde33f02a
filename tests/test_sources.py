"""Tables of one's own, and several sources in one run."""

import csv
import dataclasses
import gzip
import re
import sys
import unicodedata
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from objectives import make_objective
from reading import batches_of, cheap_view
from small_sets import inshop_rows, write_inshop, write_jpeg

from fir_tf.config import Config
from fir_tf.datasets import load, load_training
from fir_tf.datasets.catalogue import CONSUMER, SHOP, Catalogue, split_off_validation
from fir_tf.datasets.labels import known
from fir_tf.datasets.naming import parse_columns
from fir_tf.datasets.sources import merge_training, parse_sources
from fir_tf.errors import FirError
from fir_tf.input import batches
from fir_tf.input.batches import training_batches
from fir_tf.samplers.choose import Wish, describe_undrawn, drawn_rows, make_sampler

ROWS = [
    {"path": "a/1.jpg", "item": "7", "category": "Tee", "domain": "shop", "split": "train"},
    {"path": "a/2.jpg", "item": "7", "category": "", "domain": "consumer", "split": "train"},
    {"path": "b/1.jpg", "item": "", "category": "Dress, long", "domain": "", "split": "train"},
    {"path": "b/2.jpg", "item": "9", "category": "Tee", "domain": "consumer", "split": "query"},
    {"path": "b/3.jpg", "item": "9", "category": "Tee", "domain": "shop", "split": "gallery"},
    {"path": "c/1.jpg", "item": "", "category": "Tee", "domain": "", "split": "val"},
]


def write_table(path, rows, images=True, text=None, **options):
    """Writes rows (dicts) as CSV, or `text` as it is, and the images beside the table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if text is None:
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), **options)
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_bytes(text.encode() if isinstance(text, str) else text)
    for number, row in enumerate(rows if images else ()):
        write_jpeg(path.parent / row["path"], number)
    return path


def names_of(catalogue, noun):
    names = getattr(catalogue, {"item": "items", "category": "categories"}[noun])
    return [names[index] if index >= 0 else "" for index in getattr(catalogue, noun)]


def check_table(catalogue):
    """The six rows of `ROWS`, cell by cell."""
    assert catalogue.path.tolist() == [row["path"] for row in ROWS]
    for noun in ("item", "category"):
        assert names_of(catalogue, noun) == [row[noun] for row in ROWS]
    domain = {"shop": SHOP, "consumer": CONSUMER, "": -1}
    assert catalogue.domain.tolist() == [domain[row["domain"]] for row in ROWS]
    assert catalogue.split.tolist() == [row["split"] for row in ROWS]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_csv_is_read_cell_by_cell(tmp_path, delimiter):
    path = write_table(tmp_path / "shop.csv", ROWS, delimiter=delimiter)
    catalogue = load("table", path)
    check_table(catalogue)
    assert catalogue.line.tolist() == [2, 3, 4, 5, 6, 7]
    assert catalogue.notes == ()
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    check_table(load("table", path))


def test_other_columns_are_metadata_and_lines_count_quoted_line_ends(tmp_path):
    rows = [{"Price": "1,5", "Text": "two\nlines", **row} for row in ROWS]
    catalogue = load("table", write_table(tmp_path / "shop.csv", rows))
    check_table(catalogue)
    assert catalogue.line.tolist() == [2, 4, 6, 8, 10, 12]
    assert catalogue.notes == ()
    assert catalogue.metadata(3) == {"price": 1.5, "text": "two\nlines"}


@pytest.mark.parametrize("item", [str, int, float])
def test_a_parquet_table_is_the_same(tmp_path, item):
    pytest.importorskip("pyarrow")
    write_table(tmp_path / "x.csv", ROWS)
    table = pd.DataFrame(ROWS)
    table["item"] = [None if not row["item"] else item(row["item"]) for row in ROWS]
    if item is int:
        table["item"] = table["item"].astype("Int64")
    table["category"] = table["category"].replace("", None).astype("category")
    table.to_parquet(tmp_path / "shop.parquet")
    catalogue = load("table", tmp_path / "shop.parquet")
    check_table(catalogue)
    assert catalogue.location(2) == f"{tmp_path / 'shop.parquet'}:3"


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(FirError, match=r"needs pyarrow: pip install 'fir_tf\[parquet\]'"):
        load("table", tmp_path / "x.parquet")


def test_a_broken_parquet_file_is_said(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "x.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(FirError, match=r"x.parquet is no readable Parquet file"):
        load("table", tmp_path / "x.parquet")
    pd.DataFrame({"path": ["a.jpg"], "item": [0.5]}).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(FirError, match=r"`item` must be text or whole numbers. Received: double"):
        load("table", tmp_path / "x.parquet")


def test_without_a_split_it_is_that_of_the_folder_layout(tmp_path):
    for number in range(40):
        for view in range(3):
            write_jpeg(tmp_path / f"c/item {number}/{view}.jpg", number, size=(8, 8))
    folder = load("folder", tmp_path)
    rows = [
        {"path": path, "item": item}
        for path, item in zip(folder.path, names_of(folder, "item"), strict=True)
    ]
    without = load("table", write_table(tmp_path / "a.csv", rows, images=False))
    empty = [{**row, "split": ""} for row in rows]
    with_empty = load("table", write_table(tmp_path / "b.csv", empty, images=False))
    assert with_empty.split.tolist() == without.split.tolist() == folder.split.tolist()


def test_a_table_of_categories_alone_is_split_into_train_val_and_test(tmp_path):
    rows = [{"path": f"{number}.jpg", "category": "ab"[number % 2]} for number in range(200)]
    catalogue = load("table", write_table(tmp_path / "x.csv", rows))
    counts = Counter(catalogue.split.tolist())
    assert set(counts) == {"train", "val", "test"} and set(catalogue.item) == {-1}
    assert abs(counts["train"] - 120) < 35 and abs(counts["test"] - 60) < 30


def test_blank_lines_and_roundabout_paths_are_taken_in_stride(tmp_path):
    write_jpeg(tmp_path / "a/1.jpg")
    write_jpeg(tmp_path / "a/2.jpg")
    text = "path,split\n\n./a//1.jpg,train\n,\n a/2.jpg ,test\n\n"
    catalogue = load("table", write_table(tmp_path / "x.csv", (), text=text))
    assert catalogue.path.tolist() == ["a/1.jpg", "a/2.jpg"]
    assert catalogue.line.tolist() == [3, 5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,item\na.jpg,1\nb.jpg\n", "x.csv:3: a row must have 2 cells .*Received: 1"),
        ("path,item\na.jpg,1\nb.jpg,2,3\n", "x.csv:3: a row must have 2 cells .*Received: 3"),
        ("path,split\na.jpg,train\nb.jpg,tran\n", "x.csv:3: `split` must be one of .* 'tran'"),
        ("path,split\na.jpg,train\nb.jpg,\n", "x.csv:3: `split` must be one of .*Received: ''"),
        ("path,domain\na.jpg,Shop\n", "x.csv:2: `domain` must be one of empty, shop, consumer"),
        ("path,split\na.jpg,train\n./a.jpg,val\n", "x.csv:3: the image a.jpg is .* at .*x.csv:2"),
        ("path,split\n../a.jpg,train\n", r"x.csv:2: an image path must stay below .*'../a.jpg'"),
        ("path,split\na/.././../b.jpg,train\n", "x.csv:2: an image path must stay below"),
        ("path,split\n/a.jpg,train\n", "x.csv:2: an image path must stay below .*'/a.jpg'"),
        (
            "path,split\n,train\n",
            "x.csv has no row with a photo\nskipped .*: 1 of 1 rows.*: line 2",
        ),
        (
            "path,item,split\na.jpg,1,train\nb.jpg,1,gallery\n",
            "x.csv:3: the item 1 is in the split gallery, but at .*x.csv:2 in train",
        ),
        (
            "path,item,split\na.jpg,1,val\nb.jpg,1,query\n",
            "x.csv:3: the item 1 is in the split query, but at .*x.csv:2 in val",
        ),
        (
            "path,item,split\na.jpg,1,val\nb.jpg,1,train\n",
            "x.csv:3: the item 1 is in the split train, but at .*x.csv:2 in val",
        ),
        ("file,item\na.jpg,1\n", "x.csv:1: .* must have a column `path`.*Received: 'file, item'"),
        ("path,path\na.jpg,1\n", "x.csv:1: .* must have `path` once"),
        ("path,item\n", "x.csv has no rows"),
        ("", "x.csv is empty"),
        (b"path\na.jpg\n\xff.jpg\n", 'x.csv:3 must be text in UTF-8.*"CSV UTF-8"'),
        ('path,item\na.jpg,1\n"b.jpg,2\n', "x.csv:3: this is no CSV row"),
        ("path,split\na.jpg,train\n", r"1 of 1 image files do not exist:\n  .*x.csv:2: .*a.jpg"),
        ("path,item\na.jpg,1\nb.jpg,2\n", r"the split '\w+' is empty: .*has 2 images of 2 items"),
    ],
)
def test_bad_tables_name_file_and_line(tmp_path, text, message):
    path = write_table(tmp_path / "x.csv", (), text=text)
    with pytest.raises(FirError, match=message):
        load("table", path)


def test_tables_in_utf_16_and_packed_ones_are_read(tmp_path):
    write_table(tmp_path / "shop.csv", ROWS)
    text = (tmp_path / "shop.csv").read_text(encoding="utf-8")
    marked = b"\xfe\xff" + text.encode("utf-16-be")
    for contents in (text.encode("utf-16"), marked, gzip.compress(text.encode())):
        check_table(load("table", write_table(tmp_path / "x.csv", (), text=contents)))


def test_an_image_in_place_of_a_table_is_told(tmp_path):
    path = tmp_path / "x.csv"
    write_jpeg(path)
    with pytest.raises(FirError, match="x.csv is an image, no table. Give the folder it lies in"):
        load("table", path)


def test_paths_of_windows_are_refused_where_slashes_are_meant(tmp_path):
    text = "path,split\nb\\c.jpg,train\na\\1.jpg,train\n"
    path = write_table(tmp_path / "x.csv", (), text=text)
    write_jpeg(tmp_path / "b\\c.jpg")
    write_jpeg(tmp_path / "a/1.jpg")
    with pytest.raises(FirError, match=r"must have forward slashes. Received: 'a\\\\1.jpg'"):
        load("table", path)
    (tmp_path / "a/1.jpg").rename(tmp_path / "a\\1.jpg")
    assert list(load("table", path).path) == ["b\\c.jpg", "a\\1.jpg"]


def test_a_table_with_names_of_its_own(tmp_path):
    rows = [{"Photo file": row["path"], "SKU": row["item"], "split": row["split"]} for row in ROWS]
    path = write_table(tmp_path / "shop.csv", rows, images=False)
    write_table(path, ROWS, text=path.read_bytes())
    columns = "path=photo file, item = sku"
    catalogue = load("table", path, columns)
    assert list(catalogue.path) == [row["path"] for row in ROWS]
    assert names_of(catalogue, "item") == [row["item"] for row in ROWS]
    assert catalogue.metadata(0) == {"sku": 7.0} and catalogue.metadata(2) == {}
    pd.read_csv(path, dtype=str).to_parquet(tmp_path / "shop.parquet")
    assert names_of(load("table", tmp_path / "shop.parquet", columns), "item") == names_of(
        catalogue, "item"
    )
    config = config_of(
        tmp_path, dataset="table", data_dir=str(path), columns=columns, extra_data=""
    )
    assert set(names_of(load_training(config), "item")) == {"7", "", "9"}
    with pytest.raises(FirError, match="`columns` names those of a table or a feed.*inshop"):
        load("inshop", tmp_path, columns)
    with pytest.raises(FirError, match="shop.csv:1: .* must have a column `foto`"):
        load("table", path, "path=foto")
    with pytest.raises(FirError, match="shop.csv:2: a row must have a column `ean`, its item"):
        load("table", path, "path=photo file,item=ean")


@pytest.mark.parametrize("text", ["sku", "sku=item", "item=", "item=a,item=b", "item=a;path"])
def test_columns_that_say_nothing_are_refused(text):
    if text == "item=a;path":
        assert parse_columns(text) == {"item": "a;path"}
        return
    with pytest.raises(FirError, match="`columns` must be what=name.*Received: '"):
        parse_columns(text)


def test_a_parquet_table_keeps_its_types(tmp_path):
    frame = pd.DataFrame(
        {
            "path": ["a.jpg", "b.jpg", "c.jpg"],
            "item": ["1", "1", "2"],
            "split": ["train", "train", "query"],
            "price": [19.5, 12.495, None],
            "stock": pd.array([3, None, 0], "Int64"),
            "sale": pd.array([True, None, False], "boolean"),
            "code": ["007", "12", ""],
            "tags": [["red", "long"], [], None],
            "day": pd.to_datetime(["2026-01-02", None, None]),
        }
    )
    frame.to_parquet(tmp_path / "shop.parquet")
    for name in frame["path"]:
        write_jpeg(tmp_path / name)
    catalogue = load("table", tmp_path / "shop.parquet")
    types = {name: column.type for name, column in catalogue.columns.items()}
    assert types == {
        "price": "number",
        "stock": "number",
        "sale": "boolean",
        "code": "text",
        "tags": "list",
        "day": "text",
    }
    assert catalogue.metadata(0) == {
        "price": 19.5,
        "stock": 3.0,
        "sale": True,
        "code": "007",
        "tags": ("red", "long"),
        "day": "2026-01-02 00:00:00",
    }
    assert catalogue.metadata(1) == {"price": 12.495, "code": "12"}
    assert catalogue.metadata(2) == {"stock": 0.0, "sale": False}


def test_a_missing_table_is_said(tmp_path):
    for path in (tmp_path / "x.csv", tmp_path, ""):
        with pytest.raises(FirError, match="`data_dir` must be a table of images"):
            load("table", path)


@settings(max_examples=40, deadline=None)
@given(
    cells=st.lists(
        st.tuples(st.text(st.characters(exclude_categories=["C", "Z"]), max_size=6)),
        min_size=1,
        max_size=8,
    )
)
def test_any_item_name_comes_back(tmp_path_factory, cells):
    path = tmp_path_factory.mktemp("t") / "x.csv"
    rows = [
        {"path": f"{number}.jpg", "item": item, "split": "train"}
        for number, (item,) in enumerate(cells)
    ]
    assume(all(known(item) for (item,) in cells if item))
    # In a column of whole numbers 12.0 is 12: tests/test_labels.py.
    assume(not all(re.fullmatch(r"[+-]?\d+(\.0+)?", item) for (item,) in cells if item))
    catalogue = load("table", write_table(path, rows))
    composed = [unicodedata.normalize("NFC", row["item"]) for row in rows]
    assert names_of(catalogue, "item") == composed


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("inshop:a/b", [("inshop", "a/b", "")]),
        ("table:a,b.csv, folder:c:d", [("table", "a,b.csv", ""), ("folder", "c:d", "")]),
        (
            "table(item=sku (new),path=b):a(1):b.csv,feed(item=c):d,category:e",
            [
                ("table", "a(1):b.csv", "item=sku (new),path=b"),
                ("feed", "d", "item=c"),
                ("category", "e", ""),
            ],
        ),
    ],
)
def test_extra_data_is_parsed(text, expected):
    assert parse_sources(text) == expected


@pytest.mark.parametrize("text", ["inshop", "inshop:", "zalando:x", ",inshop:x", "table(item=a)"])
def test_extra_data_of_another_form_is_refused(text):
    with pytest.raises(FirError, match="`extra_data` must be dataset:path"):
        parse_sources(text)


@pytest.fixture
def sources(tmp_path):
    """In-Shop's layout with items, and a table elsewhere with categories only, one shared."""
    write_inshop(tmp_path / "main", inshop_rows(train_items=10))
    rows = [
        {
            "path": f"{number}.jpg",
            "category": ("WOMEN/Dresses", "Coat")[number % 2],
            "split": "test" if number >= 30 else "train",
        }
        for number in range(40)
    ]
    write_table(tmp_path / "elsewhere/extra/photos.csv", rows)
    return tmp_path


def config_of(sources, **values):
    return Config(
        **{
            "dataset": "inshop",
            "data_dir": str(sources / "main"),
            "extra_data": f"table:{sources / 'elsewhere/extra/photos.csv'}",
            "category_fraction": 0.5,
            "batch_size": 16,
            "images_per_item": 4,
            "image_size": 32,
            "weights": "none",
            "val_fraction": 0.2,
            **values,
        }
    )


def test_only_the_training_images_of_extra_sources_are_added(sources):
    main = split_off_validation(load("inshop", sources / "main"), 0.2)
    merged = load_training(config_of(sources))
    assert len(merged) == len(main) + 30
    own = merged.rows(np.arange(len(main)))
    assert [str(path) for path in own.files()] == [str(path) for path in main.files()]
    for noun in ("item", "category"):
        assert names_of(own, noun) == names_of(main, noun)
    assert own.split.tolist() == main.split.tolist(), "evaluation stays the main data set's"
    extra = merged.rows(np.arange(len(main), len(merged)))
    assert set(extra.split) == {"train"} and set(extra.item) == {-1}
    assert extra.files() == [str(sources / f"elsewhere/extra/{row}.jpg") for row in range(30)]
    assert names_of(extra, "category") == ["WOMEN/Dresses", "Coat"] * 15
    assert merged.categories == ("MEN/Denim", "WOMEN/Dresses", "Coat"), "main's come first"
    assert merged.location(len(main)) == f"{sources / 'elsewhere/extra/photos.csv'}:2"
    assert merged.location(0) == f"{sources / 'main/Eval/list_eval_partition.txt'}:3"
    assert any(
        "30 training images, 0 items, 2 categories (1 of them also" in note for note in merged.notes
    )


def test_an_extra_table_has_columns_of_its_own(sources, tmp_path):
    rows = [{"photo": f"{row}.jpg", "sku": f"{row // 2}", "split": "train"} for row in range(8)]
    write_table(tmp_path / "own.csv", rows, images=False)
    for row in range(8):
        write_jpeg(tmp_path / f"{row}.jpg", seed=row)
    extra = f"table(path=photo,item=sku):{tmp_path / 'own.csv'}"
    merged = load_training(config_of(sources, extra_data=extra))
    added = merged.rows(np.arange(len(merged) - 8, len(merged)))
    assert [path.rpartition("/")[2] for path in added.path] == [row["photo"] for row in rows]
    assert names_of(added, "item") == [f"table:{tmp_path / 'own.csv'}/{row['sku']}" for row in rows]
    with pytest.raises(FirError, match="`columns` names those of a table or a feed"):
        load_training(config_of(sources, extra_data=f"inshop(item=a):{sources / 'main'}"))


def test_items_of_the_same_name_in_two_sources_stay_apart(sources, tmp_path):
    write_inshop(tmp_path / "other", inshop_rows(train_items=3))
    merged = load_training(config_of(sources, extra_data=f"inshop:{tmp_path / 'other'}"))
    names = names_of(merged, "item")
    own = {name for name, row in zip(names, merged.origin, strict=True) if row == 0}
    extra = {name for name, row in zip(names, merged.origin, strict=True) if row == 1}
    assert extra == {f"inshop:{tmp_path / 'other'}/id_{item:08d}" for item in range(3)}
    assert own == {f"id_{item:08d}" for item in range(14)}
    for item in np.unique(merged.item):
        assert len(set(merged.origin[merged.item == item])) == 1
    assert Counter(merged.origin.tolist()) == {0: 56, 1: 12}


def test_an_extra_source_may_know_the_items_of_some_images_only(sources):
    rows = [
        {"path": f"{number}.jpg", "item": item, "split": "train"}
        for number, item in enumerate(["", "k", "id_00000001", "", "k"])
    ]
    path = write_table(sources / "some/x.csv", rows)
    merged = load_training(config_of(sources, extra_data=f"table:{path}"))
    assert names_of(merged, "item")[-5:] == [
        row["item"] and f"table:{path}/{row['item']}" for row in rows
    ]


def test_an_image_that_comes_from_two_sources_is_refused(sources):
    link = sources / "link"
    link.symlink_to(sources / "main")
    with pytest.raises(FirError, match="is listed already at .*List it once, with all its labels"):
        load_training(config_of(sources, extra_data=f"inshop:{link}"))


def test_a_source_without_training_images_is_refused(sources):
    main = load("inshop", sources / "main")
    with pytest.raises(FirError, match="table:x has no training image .*Take it out"):
        merge_training(main, [("table:x", main.part("query"))])


@pytest.mark.parametrize("triplets", ["all", "explicit"])
def test_a_mixed_batch_has_its_share_of_category_images(sources, triplets):
    """Half of every batch comes uniformly from all categorised images, the rest has items."""
    config = config_of(sources, triplets=triplets, batch_size=8, images_per_item=2)
    catalogue = load_training(config)
    sampler = make_sampler(catalogue, config)
    first = sampler.size - 4
    assert first == {"all": 4, "explicit": 12}[triplets]
    drawn, steps = Counter(), 900
    for rows in batches_of(sampler, steps):
        assert (catalogue.split[rows] == "train").all()
        assert (catalogue.item[rows[:first]] >= 0).all()
        assert (catalogue.category[rows[first:]] >= 0).all()
        assert sampler.classified[first:].all()
        drawn.update(rows[first:].tolist())
    able = np.flatnonzero((catalogue.split == "train") & (catalogue.category >= 0))
    assert set(drawn) == set(able.tolist())
    expected = steps * 4 / len(able)
    # Without replacement within a pass, so closer to even than independent draws.
    assert max(abs(count - expected) for count in drawn.values()) <= 4 * np.sqrt(expected)


def test_images_with_one_label_take_part_in_that_loss_only(sources, monkeypatch):
    """A category-only image moves OC and not IS; the labels reach the losses as they stand."""
    monkeypatch.setattr(batches, "training_view", cheap_view)
    config = config_of(sources)
    catalogue = load_training(config)
    sampler = make_sampler(catalogue, config)
    batch = next(iter(training_batches(catalogue, sampler, config)))
    item, category = batch["item"].numpy(), batch["category"].numpy()
    loose = item < 0
    assert loose.any() and (category[loose] >= 0).all() and batch["valid"].numpy().all()
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(sampler.size, 3)).astype(np.float32)
    embedding = rng.normal(size=(sampler.size, 8)).astype(np.float32)
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    objective = make_objective("OC+IS", sampler.classified)

    def parts(logits, embedding):
        values = objective(
            {"logits": logits, "embedding": embedding}, {"category": category, "item": item}
        )[1]
        return float(values["OC"]), float(values["IS"])

    before = parts(logits, embedding)
    other = np.where(loose[:, None], embedding[::-1], embedding)
    assert parts(logits, other) == before
    other = logits + np.where(loose[:, None], [[3, 0, 0]], 0).astype(np.float32)
    oc, similarity = parts(other, embedding)
    assert oc != before[0] and similarity == before[1]


def catalogue_of(item, category, origin=None):
    count = len(item)
    return Catalogue(
        root=".",
        path=np.array([f"{row}.jpg" for row in range(count)], object),
        category=np.array(category, np.int32),
        item=np.array(item, np.int32),
        domain=np.full(count, -1, np.int8),
        split=np.full(count, "train"),
        categories=("a", "b"),
        items=("x", "y", "z"),
        source="first, second",
        line=np.zeros(count, np.int32),
        sources=("first", "second"),
        origin=np.array(origin if origin is not None else [0] * count, np.int16),
    )


def test_a_source_that_would_never_be_drawn_is_an_error(sources):
    config = config_of(sources, category_fraction=0.0)
    catalogue = load_training(config)
    with pytest.raises(
        FirError, match=r"no image of \S+photos.csv would ever be drawn: .*by item.*--category_frac"
    ):
        make_sampler(catalogue, config)
    make_sampler(catalogue, config_of(sources, losses="OC", category_fraction=0.0))
    mixed = catalogue_of([0, 0, 1, 1, -1, 2], [0, 0, 1, -1, 0, 1], [0, 0, 0, 0, 1, 1])
    config = Config(batch_size=4, images_per_item=2)
    make_sampler(mixed, config)
    assert describe_undrawn(mixed, config).startswith("note: 1 of 6 training images are never")
    assert describe_undrawn(mixed, dataclasses.replace(config, losses="OC+OS")).startswith(
        "note: 1 of 6"
    )
    half = dataclasses.replace(config, batch_size=8, category_fraction=0.5)
    assert describe_undrawn(mixed, half) == ""


@pytest.mark.parametrize("losses", ["OC", "OS", "IS", "OC+OS", "OC+IS", "OS+IS", "OC+OS+IS"])
@pytest.mark.parametrize("triplets", ["all", "explicit"])
@pytest.mark.parametrize("fraction", [0.0, 0.5])
def test_the_rows_that_can_be_drawn_are_those_that_are(losses, triplets, fraction):
    catalogue = catalogue_of([0, 0, 1, 1, -1, 2, 2, -1], [0, 0, 1, -1, 0, 1, -1, -1])
    config = Config(
        losses=losses,
        triplets=triplets,
        batch_size=8,
        images_per_item=2,
        category_fraction=fraction,
    )
    if fraction and "OC" not in losses:
        with pytest.raises(FirError, match="`category_fraction` must bring "):
            make_sampler(catalogue, config)
        return
    sampler = make_sampler(catalogue, config)
    drawn = {row for step in range(25) for row in sampler(np.int64(step)).numpy().tolist()}
    assert drawn == set(drawn_rows(catalogue, Wish(config).nouns(config)).tolist())


def test_a_fraction_that_rounds_to_no_image_is_refused():
    catalogue = catalogue_of([0, 0, 1, 1], [0, 0, 1, 1])
    config = Config(batch_size=8, images_per_item=2, category_fraction=0.05)
    with pytest.raises(FirError, match="at least one image a batch .*0.05 of a batch of 8"):
        make_sampler(catalogue, config)
