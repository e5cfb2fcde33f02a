"""Labels as people and programs write them: unknown, the same, and suspicious ones."""

import json
import unicodedata
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from pandas._libs.parsers import STR_NA_VALUES
from small_sets import write_jpeg
from stub_encoder import StubEncoder, index_options, stored

from fir_tf.datasets import load
from fir_tf.datasets.__main__ import main
from fir_tf.datasets.catalogue import encode, hash_split
from fir_tf.datasets.labels import known, read_labels
from fir_tf.datasets.table import load_table
from fir_tf.hygiene.findings import label_findings
from fir_tf.search import encoder as encoder_module
from fir_tf.search.indexing import build

NFC, NFD = (unicodedata.normalize(form, "Café") for form in ("NFC", "NFD"))
PEOPLE = (
    "-",
    "--",
    "\u2013",
    "?",
    "unknown",
    "Unknown",
    "n.a.",
    "None",
    "NIL",
    "(null)",
    "#REF!",
    "...",
    "__",
    "[]",
    "''",
    "\u2212",
    "n.a",
)
INVISIBLE = ("\u200b", "\ufeff", "\u00a0", "n/a\u200b", "\uff0d", "\uff2e\uff21\uff2e")


def table_of(tmp_path, rows, header="path,item,category,split"):
    table = tmp_path / "shop.csv"
    table.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return load_table(table)


def findings_of(catalogue):
    return {finding.name: finding for finding in label_findings(catalogue)}


@pytest.mark.parametrize("text", sorted({*STR_NA_VALUES, *PEOPLE, *INVISIBLE}))
def test_what_pandas_and_people_write_for_unknown_is_unknown(text):
    for form in (text, text.upper(), text.lower(), text.title()):
        assert known(form) == ""


@pytest.mark.parametrize(
    "text",
    [
        "Nan Dress",
        "0",
        "Nana",
        "Nonna",
        "A-",
        "N",
        "nope",
        "- 1",
        "Naiv",
        "nulls",
        "x",
        "_1",
        "+",
        "\U0001f457",
    ],
)
def test_a_name_that_only_begins_so_is_a_name(text):
    assert known(text) == text


def test_unknown_is_unknown_in_a_table_and_counted(tmp_path):
    spellings = ["nan", "NaN", "None", "null", "N/A", "NA", "-", "unknown", ""]
    rows = [f"{n}.jpg,{name},{name},train" for n, name in enumerate(spellings)]
    rows += [f"k{n}.jpg,{n},Tops,gallery" for n in range(3)]
    catalogue = table_of(tmp_path, rows)
    assert catalogue.items == ("0", "1", "2") and catalogue.categories == ("Tops",)
    assert catalogue.item.tolist() == [-1] * 9 + [0, 1, 2]
    assert catalogue.category.tolist() == [-1] * 9 + [0] * 3
    for noun in ("item", "category"):
        (note,) = [note for note in catalogue.notes if f"the {noun} is unknown" in note]
        assert "1 nan, 1 NaN, 1 None" in note


def test_unknown_domains_and_splits_are_read_like_empty_ones(tmp_path):
    rows = [f"{n}.jpg,{n // 2},{name}" for n, name in enumerate(["shop", "nan", "-", ""] * 10)]
    catalogue = table_of(tmp_path, rows, "path,item,domain")
    assert Counter(catalogue.domain.tolist()) == {0: 10, -1: 30}
    rows = [f"{n}.jpg,{n // 2},nan" for n in range(40)]
    assert table_of(tmp_path, rows, "path,item,split").counts().keys() > {"train", "val"}


def test_a_parquet_table_with_gaps_of_every_kind_is_the_same(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {
        "path": [f"{n}.jpg" for n in range(4)],
        "item": pa.array([1.0, None, float("nan"), 12.0]),
        "category": ["Tops", None, "nan", "NULL"],
        "split": ["train"] * 4,
    }
    parquet.write_table(pa.table(columns), tmp_path / "shop.parquet")
    catalogue = load_table(tmp_path / "shop.parquet")
    assert catalogue.items == ("1", "12") and catalogue.item.tolist() == [0, -1, -1, 1]
    assert catalogue.categories == ("Tops",) and catalogue.category.tolist() == [0, -1, -1, -1]


def test_whole_numbers_with_a_fraction_of_zero_are_whole(tmp_path):
    frame = pd.DataFrame({"path": list("abcd"), "item": [12, np.nan, 7, 12], "split": "train"})
    # What pandas makes of a column with a gap.
    frame.to_csv(tmp_path / "x.csv", index=False)
    assert "12.0" in (tmp_path / "x.csv").read_text()
    (tmp_path / "x.csv").write_text((tmp_path / "x.csv").read_text() + "e,12,train\nf,0012,train\n")
    catalogue = load_table(tmp_path / "x.csv")
    names = [catalogue.items[item] if item >= 0 else "" for item in catalogue.item]
    assert names == ["12", "", "7", "12", "12", "0012"]
    assert any("numbers are read without .0: 12.0 as 12" in note for note in catalogue.notes)
    # A version is no number where other labels are none.
    labels, notes = read_labels("the item", ["1.0", "1.1", "1"])
    assert labels.tolist() == ["1.0", "1.1", "1"] and not notes
    labels, _ = read_labels("the item", ["12.0", "12", "red"])
    assert labels.tolist() == ["12.0", "12", "red"]


def test_two_forms_of_the_same_letters_are_one_label(tmp_path):
    assert NFC != NFD
    rows = [f"{n}.jpg,{name} {n % 2},{name},train" for n, name in enumerate([NFC, NFC, NFD, NFD])]
    catalogue = table_of(tmp_path, rows)
    assert catalogue.categories == (NFC,) and catalogue.items == (f"{NFC} 0", f"{NFC} 1")
    assert catalogue.item.tolist() == [0, 1, 0, 1]
    assert sum("more than one Unicode form" in note for note in catalogue.notes) == 2
    codes, names = encode([NFD, "", "b", NFC, "a"])
    assert names == ("Café", "a", "b") and codes.tolist() == [0, -1, 2, 0, 1]
    assert catalogue.with_categories([NFD]).category.tolist() == [0] * 4


def test_a_split_is_the_same_on_a_system_that_writes_another_form():
    splits = []
    for form in ("NFC", "NFD"):
        paths = [unicodedata.normalize(form, f"é{n // 3}/ü{n}.jpg") for n in range(120)]
        item, items = encode([path.split("/")[0] for path in paths])
        splits.append(hash_split(np.array(paths, object), item, items, "here").tolist())
    assert splits[0] == splits[1]


def test_folders_whose_names_mean_unknown(tmp_path, monkeypatch):
    for item in range(30):
        write_jpeg(tmp_path / f"{NFD}/{item}/0.jpg", item, size=(8, 8))
    for path in ("unknown/7/a.jpg", "None/nan/b.jpg", f"{NFD}/-/c.jpg"):
        write_jpeg(tmp_path / path, size=(8, 8))
    catalogue = load("folder", tmp_path)
    labels = {
        path: (
            catalogue.items[item] if item >= 0 else "",
            catalogue.categories[category] if category >= 0 else "",
        )
        for path, item, category in zip(
            catalogue.path, catalogue.item, catalogue.category, strict=True
        )
    }
    expected = {
        "unknown/7/a.jpg": ("unknown/7", ""),
        "None/nan/b.jpg": ("", ""),
        f"{NFD}/-/c.jpg": ("", NFC),
        f"{NFD}/3/0.jpg": (f"{NFC}/3", NFC),
    }
    assert expected.items() <= labels.items()
    assert any("a category is unknown" in note and "1 None" in note for note in catalogue.notes)
    # The index reads the same names alike.
    monkeypatch.setattr(encoder_module, "Encoder", StubEncoder)
    build(index_options(tmp_path, tmp_path.parent / "index"))
    records = {path: record for path, (record, _) in stored(tmp_path.parent / "index").items()}
    assert {path: (records[path].item, records[path].category) for path in labels} == labels


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Dresses", "dresses"),
        ("Dresses", "\uff24resses"),
        ("Red Dress", "Red\u00a0Dress"),
        ("Red Dress", "Red  Dress"),
        ("Dresses", "Dresses\u200b"),
        ("Dress\u00ades", "Dresses"),
        ("STRASSE", "Straße"),
        ("of\ufb01ce", "office"),
        ("12", "012"),
        ("12", "12.0"),
    ],
)
@pytest.mark.parametrize("noun", ["item", "category"])
def test_one_label_in_two_spellings_is_a_finding(tmp_path, noun, one, other):
    cells = [one, other, "alone"] if noun == "item" else ["", "", ""]
    kinds = [one, other, "alone"] if noun == "category" else ["", "", ""]
    rows = [f"{n}.jpg,{cells[n]},{kinds[n]},train" for n in range(3)]
    catalogue = table_of(tmp_path, rows)
    finding = findings_of(catalogue)[f"{noun}_spellings"]
    assert finding.severity == "warning" and finding.count == 1
    assert sorted(finding.examples[0].rows) == [0, 1]


def test_labels_that_differ_are_no_finding(tmp_path):
    names = ["Dress", "Dresses", "Cafe", NFC, "12", "120", "1.2", "12a", "10", "1"]
    rows = [f"{n}{view}.jpg,{n},{name},train" for n, name in enumerate(names) for view in "ab"]
    assert set(findings_of(table_of(tmp_path, rows))) == {"small_categories"}


def test_an_item_with_two_categories_is_a_finding(tmp_path):
    rows = ["a.jpg,7,Tops,train", "b.jpg,7,,train", "c.jpg,7,Coats,train", "d.jpg,8,Coats,train"]
    finding = findings_of(table_of(tmp_path, rows))["two_categories"]
    assert (finding.severity, finding.count) == ("warning", 1)
    assert finding.examples[0].rows == (0, 2)
    assert finding.examples[0].detail == "item 7: Tops and Coats"


@pytest.mark.parametrize(
    ("count", "views", "crowd", "found"),
    [
        (24, 3, 24, True),
        (12, 1, 20, True),
        (30, 3, 19, False),
        (30, 8, 39, False),
        (5, 4, 21, True),
    ],
)
def test_an_item_of_suspiciously_many_images_is_a_finding(tmp_path, count, views, crowd, found):
    rows = [f"{n}_{view}.jpg,{n},Tops,train" for n in range(count) for view in range(views)]
    rows += [f"x{view}.jpg,TBD,Tops,train" for view in range(crowd)]
    findings = findings_of(table_of(tmp_path, rows))
    assert ("crowded_items" in findings) == found
    if found:
        assert findings["crowded_items"].examples[0].detail == f"item TBD: {crowd} images"


def test_rounded_article_numbers_are_a_finding(tmp_path):
    rows = [f'{n}.jpg,"8,90123E+12",Tops,train' for n in range(3)] + ["x.jpg,1e5,Tops,train"]
    finding = findings_of(table_of(tmp_path, rows))["rounded_items"]
    assert finding.count == 1 and "8,90123E+12" in finding.examples[0].detail


def test_check_does_not_call_such_a_table_clean(tmp_path, capsys):
    """24 garments of three views, the names of eight of them lost in four spellings."""
    rows = []
    for item in range(24):
        for view in range(3):
            path = f"{item}/{view}.jpg"
            write_jpeg(tmp_path / "shop" / path, 100 * item + view, size=(80, 96))
            name = ("nan", "None", "TBD", "tbd")[item % 4] if item < 8 else f"sku {item}"
            category = ("Dresses", "dresses")[item % 2]
            rows.append(f"{path},{name},{category},{'train' if item % 3 else 'test'}")
    (tmp_path / "shop/shop.csv").write_text("\n".join(["path,item,category,split", *rows]))
    # TBD is on both sides of the split otherwise.
    text = (tmp_path / "shop/shop.csv").read_text().replace(",test", ",train")
    (tmp_path / "shop/shop.csv").write_text(text)
    arguments = ["check", "--dataset=table", f"--data_dir={tmp_path}/shop/shop.csv"]
    arguments += [f"--out={tmp_path}/out", "--no-near_duplicates", "--strict"]
    assert main(arguments) == 2
    report = json.loads((tmp_path / "out/report.json").read_text())
    names = {finding["name"] for finding in report["findings"]}
    assert {"item_spellings", "category_spellings"} <= names
    assert "the item is unknown where it is written so: 6 nan, 6 None" in capsys.readouterr().out
