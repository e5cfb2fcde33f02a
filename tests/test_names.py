"""Names that a file system allows, all the way: tables, copies, files and every engine."""

import csv
import os
import unicodedata

import numpy as np
import pytest
from databases import place_of
from small_sets import write_jpeg
from stub_encoder import StubEncoder, index_options, stored
from test_engines import ENGINES

from fir_tf.datasets import load
from fir_tf.datasets.__main__ import main
from fir_tf.datasets.table import load_table
from fir_tf.errors import FirError
from fir_tf.files import replacing, write_text
from fir_tf.hygiene.prepare import copy_names
from fir_tf.search import encoder as encoder_module
from fir_tf.search.engines import Filter, Record, open_engine
from fir_tf.search.engines.milvus import _SIZES
from fir_tf.search.indexing import build

LONG = "é" * 125 + "x.jpg"
NAMES = (
    "it's.jpg",
    'a "quote".jpg',
    "a', 'b.jpg",
    "back\\slash.jpg",
    "\\n.jpg",
    "new\nline.jpg",
    "return\r.jpg",
    "tab\t.jpg",
    "bell\x07.jpg",
    "100%.jpg",
    "%41.jpg",
    "A.jpg",
    "comma, semicolon; and #.jpg",
    " blank before.jpg",
    "[a-z]*?{x}$HOME~.jpg",
    "emoji \U0001f457.jpg",
    "-flag.jpg",
    unicodedata.normalize("NFC", "é.jpg"),
    unicodedata.normalize("NFD", "é.jpg"),
    LONG,
)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_takes_any_key_item_and_category(engine, tmp_path, request):
    vectors = np.random.default_rng(0).standard_normal((len(NAMES), 4)).astype(np.float32)
    with open_engine(place_of(engine, tmp_path, request), create=True) as index:
        index.set_info({"dimension": 4})
        index.upsert([Record(name, name, name, "shop", "sum") for name in NAMES], vectors)
        assert sorted(r.path for part, _ in index.scan() for r in part) == sorted(NAMES)
        for number, name in enumerate(NAMES):
            ((record, vector),) = index.fetch([name])
            assert (record.path, record.item, record.category) == (name, name, name)
            np.testing.assert_array_equal(vector, vectors[number])
            for where in (Filter((name,)), Filter((name,), ("shop",))):
                hits = index.search(vectors[number : number + 1], len(NAMES), where)[0]
                assert [hit.record.path for hit in hits] == [name]
        assert len(index.fetch(NAMES)) == len(NAMES)
        for number, name in enumerate(NAMES, 1):
            index.delete([name])
            assert len(index) == len(NAMES) - number and not index.fetch([name])


def test_a_field_without_room_in_milvus_is_a_message(tmp_path):
    pytest.importorskip("milvus_lite")
    with open_engine(f"milvus:{tmp_path}/x.db", create=True) as index:
        index.set_info({"dimension": 2})
        for field in ("path", "item", "category"):
            values = {"path": "a.jpg", "item": "", "category": "", field: "é" * _SIZES[field]}
            with pytest.raises(FirError, match=f"`{field}` must be at most 4,096 bytes in Milvus"):
                index.upsert([Record(**values, domain="", checksum="")], np.ones((1, 2)))


def make_photos(root):
    """Every name as a category's, an item's and a photo's."""
    for number, name in enumerate(NAMES):
        folder = name.removesuffix(".jpg")
        write_jpeg(root / folder / "item" / name, 3 * number, size=(16, 16))
        write_jpeg(root / "c" / folder / name, 3 * number + 1, size=(16, 16))
    return root


def test_an_index_of_any_names_is_whole_and_a_second_run_changes_nothing(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(encoder_module, "Encoder", StubEncoder)
    photos = make_photos(tmp_path / "photos")
    counts = build(index_options(photos, tmp_path / "index"))
    on_disk = {
        os.path.relpath(os.path.join(folder, name), photos)
        for folder, _, names in os.walk(photos)
        for name in names
    }
    before = stored(tmp_path / "index")
    assert set(before) == on_disk and counts["embedded"] == 2 * len(NAMES)
    counts = build(index_options(photos, tmp_path / "index"))
    assert (counts["kept"], counts["removed"]) == (2 * len(NAMES), 0)
    assert stored(tmp_path / "index") == before
    # A name with a line's end is one line on the screen.
    capsys.readouterr()
    (photos / "c/new\nline/new\nline.jpg").write_bytes(b"no image")
    build(index_options(photos, tmp_path / "index"))
    assert r"'c/new\nline/new\nline.jpg'" in capsys.readouterr().out


def test_prepare_and_the_table_it_writes_keep_any_name(tmp_path, capsys):
    photos = make_photos(tmp_path / "photos")
    arguments = ["prepare", "--dataset=folder", f"--data_dir={photos}", f"--out={tmp_path}/copy"]
    assert main(arguments) == 0
    source, copy = load("folder", photos), load("table", tmp_path / "copy/catalogue.csv")
    assert len(copy) == len(source) == 2 * len(NAMES)
    assert all(os.path.isfile(path) for path in copy.files())
    with open(tmp_path / "copy/catalogue.csv", encoding="utf-8", newline="") as file:
        assert [row["source"] for row in csv.DictReader(file)] == source.path.tolist()
    assert main(arguments) == 0
    assert f"0 images written, {2 * len(NAMES)} were there" in capsys.readouterr().out


def test_copies_of_long_names_have_names_that_fit():
    paths = ["a/" + "é" * 125 + f".{end}" for end in ("pnga", "pngb", "gif")]
    paths += ["a/" + "x" * 251 + ".jpg", "b/" + "x" * 251 + ".bmp", "c/short.png"]
    names = copy_names(paths)
    assert len({name.casefold() for name in names}) == len(paths)
    assert all(len(name.split("/")[1].encode()) <= 255 for name in names)
    assert all(name.endswith(".jpg") for name in names)
    assert names[3] == paths[3] and names[5] == "c/short.png.jpg"


@pytest.mark.parametrize(
    "name", [LONG, "x" * 255, "a." + "x" * 253, "." + "x" * 254, ".hidden", "a.json", "é" * 127]
)
def test_a_file_of_any_name_is_replaced(tmp_path, name):
    write_text(tmp_path / name, "one")
    write_text(tmp_path / name, "two")
    assert (tmp_path / name).read_text() == "two" and os.listdir(tmp_path) == [name]
    with replacing(tmp_path / name) as temporary:
        assert temporary.parent == tmp_path and len(os.fsencode(temporary.name)) <= 255
        if len(os.path.splitext(name)[1]) < 16:
            assert temporary.suffix == os.path.splitext(name)[1] or name.startswith(".")
        temporary.write_text("three")
    assert (tmp_path / name).read_text() == "three"


def test_blanks_around_a_path_belong_to_it_where_there_is_such_a_file(tmp_path):
    for name in ("a.jpg ", " b.jpg", "c.jpg", "d.jpg", "d.jpg "):
        write_jpeg(tmp_path / name, size=(8, 8))
    table = tmp_path / "x.csv"
    table.write_text(
        "path,item,split\na.jpg ,1,train\n b.jpg,2,train\n c.jpg ,3,train\n"
        "d.jpg,4,train\nd.jpg ,5,train\n"
    )
    catalogue = load("table", table)
    assert catalogue.path.tolist() == ["a.jpg ", " b.jpg", "c.jpg", "d.jpg", "d.jpg "]
    table.write_text("path,split\n none.jpg ,train\n")
    with pytest.raises(FirError, match="1 of 1 image files do not exist:\n.*none.jpg"):
        load("table", table)


@pytest.mark.parametrize(("disk", "cell"), [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
def test_a_path_is_found_in_either_unicode_form(tmp_path, disk, cell):
    names = {form: unicodedata.normalize(form, "pâté/é.jpg") for form in ("NFC", "NFD")}
    write_jpeg(tmp_path / names[disk], size=(8, 8))
    (tmp_path / "x.csv").write_text(f"path,split\n{names[cell]},train\n", encoding="utf-8")
    assert load("table", tmp_path / "x.csv").path.tolist() == [names[disk]]


def test_a_path_that_no_file_can_have_is_refused(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(
        pa.table({"path": ["a\0b.jpg"], "split": ["train"]}), tmp_path / "x.parquet"
    )
    with pytest.raises(FirError, match="an image path must .*Received: 'a.x00b.jpg'"):
        load_table(tmp_path / "x.parquet")


def test_names_that_are_not_utf8_are_refused_by_all(tmp_path, monkeypatch):
    monkeypatch.setattr(encoder_module, "Encoder", StubEncoder)
    write_jpeg(tmp_path / "photos/c/1/a.jpg", size=(8, 8))
    bad = os.fsencode(tmp_path / "photos/c/1") + b"/\xff"
    for end in (b".jpg", b"2.jpg"):
        with open(bad + end, "wb") as file:
            file.write(b"x")
    for call in (
        lambda: load("folder", tmp_path / "photos"),
        lambda: build(index_options(tmp_path / "photos", tmp_path / "index")),
    ):
        with pytest.raises(FirError, match=r"must be UTF-8. Received: .*udcff.* and 1 more"):
            call()
    assert not (tmp_path / "index").exists()
    for end in (b".jpg", b"2.jpg"):
        os.rename(bad + end, bad + end + b".txt")
    # What is no photo may be called anything.
    counts = build(index_options(tmp_path / "photos", tmp_path / "index"))
    assert counts["images"] == 1
