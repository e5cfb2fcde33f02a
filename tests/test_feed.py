"""Product feeds as data sets."""

import contextlib
import csv
import dataclasses
import functools
import gzip
import io
import json
import subprocess
import sys
import threading
import tracemalloc
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pandas as pd
import pytest
import tqdm
from commands import done
from feeds import ATOM, products, write_json, write_text, write_xml
from hypothesis import given
from hypothesis import strategies as st

from fir_tf import boutique
from fir_tf.datasets import load
from fir_tf.datasets.__main__ import main
from fir_tf.datasets.feed import load_feed
from fir_tf.datasets.loading import layout_of, load_unchecked
from fir_tf.datasets.metadata import MetadataBuilder, Texts
from fir_tf.datasets.photos import local_photos
from fir_tf.datasets.prices import read_price
from fir_tf.errors import FirError
from fir_tf.search.listing import read_catalogue

ROOT = Path(__file__).parent.parent
WRITERS = {
    "tsv": write_text,
    "csv": lambda path, rows: write_text(path, rows, ","),
    "rss": write_xml,
    "atom": lambda path, rows: write_xml(path, rows, ATOM),
    "jsonl": write_json,
}


def expected(rows):
    """(path, item, category, id) of each photo, by a plain loop."""
    return [
        (photo, row["item_group_id"], row["product_type"], row["id"])
        for row in rows
        for photo in [row["image_link"], *row["additional_image_link"]]
    ]


def found(catalogue):
    return [
        (
            path,
            catalogue.items[catalogue.item[row]],
            catalogue.categories[catalogue.category[row]],
            catalogue.metadata(row)["id"],
        )
        for row, path in enumerate(catalogue.path)
    ]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("form", WRITERS)
def test_a_feed_says_the_same_in_every_format(tmp_path, form, packed):
    """Found by its contents: every file is called feed.data."""
    rows = products()
    path = WRITERS[form](tmp_path / "feed.data", rows)
    if packed:
        path.write_bytes(gzip.compress(path.read_bytes()))
    assert layout_of(path) == "feed"
    catalogue = load_feed(path)
    assert found(catalogue) == expected(rows)
    assert catalogue.root == tmp_path and not catalogue.notes
    columns = catalogue.columns
    types = {name: columns[name].type for name in ("title", "gtin", "price", "price_currency")}
    assert types == {"title": "text", "gtin": "text", "price": "number", "price_currency": "text"}
    for number, row in enumerate(rows):
        known = catalogue.metadata(2 * number)
        assert known == catalogue.metadata(2 * number + 1)
        assert known["title"] == row["title"] and known["link"] == row["link"]
        assert known["price"] == 10.5 + number and known["price_currency"] == "EUR"
        assert known.get("sale_price") == (number + 1.0 if number % 3 == 0 else None)
        assert known["availability"] == ("in stock", "out of stock")[number % 2]
        assert "image_link" not in known and "additional_image_link" not in known
        if form == "jsonl":
            # There types are as they come.
            assert known["stock"] == str(number) and known["adult"] == row["adult"]
        else:
            assert known["stock"] == number and known["adult"] == (number == 3)


def test_cells_of_text_are_those_that_pandas_reads(tmp_path):
    """Quotes, tabs and line ends inside cells, CRLF, a byte-order mark, UTF-16."""
    rows = products(6)
    rows[2]["title"] = 'two\r\nlines, a\ttab and a "quote"'
    rows[4]["title"] = "Übergröße ☂"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        for end in ("\r\n", "\n"):
            path = write_text(tmp_path / "feed.tsv", rows, end=end, encoding=encoding)
            frame = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False, encoding=encoding)
            catalogue = load_feed(path)
            for row, record in enumerate(frame.to_dict("records")):
                known = catalogue.metadata(2 * row)
                for name in ("id", "title", "link", "brand", "gtin", "item_group_id"):
                    assert known[name] == record[name]
    assert catalogue.line.tolist() == [2, 2, 3, 3, 4, 4, 6, 6, 7, 7, 8, 8]


def test_xml_in_other_encodings_and_with_names_of_both_kinds(tmp_path):
    rows = products(6)
    rows[0]["title"] = "Größe"
    for encoding in ("utf-16", "iso-8859-1"):
        catalogue = load_feed(write_xml(tmp_path / "feed.xml", rows, encoding=encoding))
        assert catalogue.metadata(0)["title"] == "Größe"
    path = write_xml(tmp_path / "feed.xml", rows)
    shipping = (
        "<g:title>Better</g:title><g:shipping><g:country>US</g:country><g:price>5 USD</g:price>"
        "</g:shipping><g:note>soft <b>and</b>\nwarm<?x y?><!-- z --></g:note><g:product_detail>a</g:product_detail><g:product_detail>b</g:product_detail>"
    )
    text = path.read_text(encoding="utf-8").replace("<g:id>", f"{shipping}<g:id>")
    path.write_text(text, encoding="utf-8")
    catalogue = load_feed(path)
    known = catalogue.metadata(0)
    assert known["title"] == "Better" and known["shipping"] == "US:5 USD"
    assert known["product_detail"] == ("a", "b") and known["note"] == "soft and warm"
    assert catalogue.columns["product_detail"].type == "list"
    starts = [number for number, line in enumerate(text.split("\n"), 1) if line == "<item>"]
    assert sorted(set(catalogue.line.tolist())) == starts


PRODUCT_SEARCH = """\
photos/1a.jpg,img1,summer,dress-1,apparel-v2,"A dress, red","color=red,style=boho,style=long",\
"0.1,0.1,0.9,0.1,0.9,0.9,0.1,0.9"
photos/1b.jpg,,summer,dress-1,apparel-v2,"A dress, red",color=red|style=boho,
photos/2a.jpg,img3,summer,coat-2,apparel-v2,,,
"""


def test_product_search_needs_no_header(tmp_path):
    path = tmp_path / "bulk.csv"
    path.write_text(PRODUCT_SEARCH)
    assert layout_of(path) == "feed"
    catalogue = load_unchecked("feed", path, split_by_hash=False)
    assert catalogue.path.tolist() == ["photos/1a.jpg", "photos/1b.jpg", "photos/2a.jpg"]
    assert [catalogue.items[item] for item in catalogue.item] == ["dress-1", "dress-1", "coat-2"]
    assert catalogue.categories == ("apparel-v2",)
    assert catalogue.metadata(0) == {
        "image_id": "img1",
        "product_set_id": "summer",
        "product_id": "dress-1",
        "product_category": "apparel-v2",
        "product_display_name": "A dress, red",
        "color": "red",
        "style": ("boho", "long"),
        "bounding_poly": ("0.1", "0.1", "0.9", "0.1", "0.9", "0.9", "0.1", "0.9"),
    }
    assert catalogue.metadata(1)["style"] == ("boho",)
    assert "product_display_name" not in catalogue.metadata(2)


def test_one_photo_with_two_regions_is_taken_once(tmp_path):
    path = tmp_path / "bulk.csv"
    path.write_text(PRODUCT_SEARCH + "photos/2a.jpg,img4,summer,hat-3,apparel-v2,,,\n")
    catalogue = load_unchecked("feed", path, split_by_hash=False)
    assert len(catalogue) == 3 and catalogue.metadata(2)["product_id"] == "coat-2"
    assert "1 photos stand in" in catalogue.notes[0]
    assert "line 4 shows photos/2a.jpg of line 3" in catalogue.notes[0]


def test_json_keeps_its_types(tmp_path):
    rows = [
        {"path": "a.jpg", "item": 7, "price": 12.495, "new": True, "tags": ["x", "y"], "n": None},
        {"path": "b.jpg", "item": 7, "price": 3, "new": False, "size": "36", "at": {"shop": [1]}},
        {"path": "c.jpg", "item": 8, "late": 1.5, "title": "\ud800 half"},
    ]
    catalogue = load_unchecked("feed", write_json(tmp_path / "x", rows), split_by_hash=False)
    assert [catalogue.items[item] for item in catalogue.item] == ["7", "7", "8"]
    assert catalogue.metadata(0) == {"price": 12.495, "new": True, "tags": ("x", "y")}
    assert catalogue.metadata(1) == {
        "price": 3.0,
        "new": False,
        "size": "36",
        "at": '{"shop": [1]}',
    }
    assert catalogue.metadata(2) == {"late": 1.5, "title": "\\ud800 half"}
    assert "n" not in catalogue.metadata(0)


def test_columns_of_ones_own_in_a_feed(tmp_path):
    rows = products(8)
    for row in rows:
        row["model"] = row["id"][:-1]
    path = write_text(tmp_path / "feed.tsv", rows)
    assert load_feed(path, split_by_hash=False, columns="item=model").items == ("SKU-00",)
    # An item's id may stand in many rows.
    for row in rows:
        row["id"] = "same"
    path = write_text(tmp_path / "feed.tsv", rows)
    assert load_feed(path, split_by_hash=False, columns="item=id").items == ("same",)
    with pytest.raises(FirError, match="feed.tsv:3: two rows have one `id`"):
        load_feed(path)


def test_the_feed_of_the_page_about_feeds(tmp_path):
    page = (ROOT / "docs" / "feed.md").read_text(encoding="utf-8")
    path = tmp_path / "feed.csv"
    path.write_text(page.partition("```text\n")[2].partition("```")[0], encoding="utf-8")
    catalogue = load_feed(path, split_by_hash=False)
    assert list(catalogue.path) == ["photos/17.jpg", "https://img.shop.example/18.jpg"]
    rows = [catalogue.metadata(row) for row in range(2)]
    assert [(row["price"], row["price_currency"]) for row in rows] == [(39.9, "EUR"), (59, "EUR")]
    assert rows[0]["link"] == "https://shop.example/17" and not catalogue.notes


def test_an_item_is_the_group_or_else_the_id(tmp_path):
    rows = products(4)
    rows[1]["item_group_id"] = ""
    rows[2]["product_type"], rows[2]["google_product_category"] = "", "212"
    for row in rows:
        row.setdefault("google_product_category", "1")
    catalogue = load_feed(write_text(tmp_path / "feed.tsv", rows), split_by_hash=False)
    names = [catalogue.items[item] for item in catalogue.item[::2]]
    assert names == ["G0", "SKU-001", "G1", "G1"]
    assert [catalogue.categories[one] for one in catalogue.category[::2]][2] == "212"
    assert catalogue.metadata(0)["google_product_category"] == "1"


@pytest.mark.parametrize("name", ["Image Link", "g:image_link", " IMAGE_LINK "])
def test_names_of_columns_may_be_written_as_people_do(tmp_path, name):
    rows = [{name if own == "image_link" else own: row[own] for own in row} for row in products(4)]
    assert len(load_feed(write_text(tmp_path / "x.tsv", rows), split_by_hash=False)) == 8


def test_metadata_follows_its_rows(tmp_path):
    catalogue = load_feed(write_text(tmp_path / "feed.tsv", products(20)))
    part = catalogue.part("train")
    assert 0 < len(part) < len(catalogue)
    for row, path in enumerate(part.path):
        assert part.metadata(row)["id"] == f"SKU-{int(path[7:-6]):03d}"
    loose = dataclasses.replace(catalogue, columns={})
    assert loose.metadata(0) == {} and len(loose.rows([1, 2])) == 2
    with pytest.raises(FirError, match="`product` must have one value per image"):
        dataclasses.replace(catalogue, product=catalogue.product[:3])


def test_addresses_wait_for_what_fetches_them(tmp_path):
    rows = products(4)
    rows[2]["image_link"] = "https://shop.example//2/../2.jpg"
    path = write_xml(tmp_path / "feed.xml", rows)
    catalogue = load_feed(path, split_by_hash=False)
    assert catalogue.path[4] == "https://shop.example//2/../2.jpg"
    line = catalogue.line[4]
    with pytest.raises(
        FirError, match=rf"feed.xml:{line}: the photo is an address.*2.jpg \(1 of 8"
    ):
        local_photos(catalogue, {})
    with pytest.raises(FirError, match="the photo is an address") as refused:
        load("feed", path, "item=id")
    told = f"prepare --dataset=feed --data_dir={path} --columns=item=id --out=copy\n"
    assert told in str(refused.value)
    assert read_catalogue(path).records[4].path == "https://shop.example//2/../2.jpg"


PRICES = {
    "19.99 USD": (19.99, "USD"),
    "USD 19.99": (19.99, "USD"),
    "1.234,50 EUR": (1234.5, "EUR"),
    "1,234.50": (1234.5, ""),
    "1 234,50 €": (1234.5, "EUR"),
    "1\u202f234,50\u00a0EUR": (1234.5, "EUR"),
    "1'234.50 CHF": (1234.5, "CHF"),
    "£5": (5.0, "GBP"),
    "$1,299": (1299.0, "$"),
    "1,234,567 usd": (1234567.0, "USD"),
    "1.234.567 EUR": (1234567.0, "EUR"),
    "12.800 JPY": (12800.0, "JPY"),
    "1.250 KWD": (1.25, "KWD"),
    "0.125 EUR": (0.125, "EUR"),
    "15": (15.0, ""),
    "15.0 EUR": (15.0, "EUR"),
    "1.299 EUR": None,
    "12,34,56 USD": None,
    "1,23.45 USD": None,
    "19.99-29.99 USD": None,
    "from 5 EUR": None,
    "-5 EUR": None,
    "EUR 5 USD": None,
    "ask": None,
    "1..5 EUR": None,
    "5. EUR": (5.0, "EUR"),
    "": None,
    "EUR": None,
}


@pytest.mark.parametrize("text", PRICES)
def test_prices_as_shops_write_them(text):
    assert read_price(text) == PRICES[text]


@given(
    cents=st.integers(0, 10**11),
    grouped=st.sampled_from([",", ".", "'", " ", "\u00a0", ""]),
    point=st.sampled_from([",", "."]),
    before=st.booleans(),
)
def test_every_price_with_cents_is_read(cents, grouped, point, before):
    if grouped == point:
        grouped = ""
    amount = f"{cents // 100:,}".replace(",", grouped) + f"{point}{cents % 100:02d}"
    assert read_price(f"SEK {amount}" if before else f"{amount} SEK") == (cents / 100, "SEK")


def test_texts_in_a_block_are_a_list_of_texts():
    words = ["", "a", "é☂", "", "long " * 50]
    builder = MetadataBuilder(typed=True)
    for word in words:
        builder.add({"word": word})
    columns, _ = builder.build(str)
    texts = columns["word"].cells
    assert isinstance(texts, Texts) and list(texts) == words == texts[:]
    assert texts[1:4] == words[1:4] and len(texts) == 5
    with pytest.raises(IndexError):
        texts[5]


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from("abcd"),
            st.one_of(
                st.booleans(),
                st.integers(-(10**14), 10**14),
                st.floats(allow_nan=False, allow_infinity=False),
                st.text(st.characters(exclude_characters="\x1f", codec="utf-8"), min_size=1),
                st.lists(
                    st.text(st.characters(exclude_characters="\x1f", codec="utf-8"), min_size=1),
                    min_size=1,
                ),
            ),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_a_column_of_one_type_gives_its_cells_back(rows):
    builder = MetadataBuilder(typed=True)
    for row in rows:
        builder.add(row)
    columns, _ = builder.build(str)
    for name in {name for row in rows for name in row}:
        cells = [row.get(name) for row in rows]
        kinds = {bool: "boolean", int: "number", float: "number", str: "text", list: "list"}
        types = {kinds[type(cell)] for cell in cells if cell is not None}
        if len(types) > 1:
            assert columns[name].type == ("list" if "list" in types else "text")
            continue
        assert {columns[name].type} == types
        for row, cell in enumerate(cells):
            given_back = columns[name][row]
            assert given_back == (tuple(cell) if isinstance(cell, list) else cell)


def write_many(path, form, count):
    """Writes a feed of `count` rows without holding it in memory."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        names = ("id", "title", "image_link", "item_group_id", "product_type", "price", "link")
        if form == "xml":
            file.write('<rss xmlns:g="http://base.google.com/ns/1.0"><channel>\n')
        else:
            writer = csv.writer(file, delimiter="\t")
            writer.writerow(names)
        for number in range(count):
            cells = (
                f"{number:07d}",
                f"A shirt of cotton, number {number}",
                f"p/{number:07d}.jpg",
                f"g{number // 3}",
                f"Tops > Kind {number % 50}",
                f"{number % 90}.99 EUR",
                f"https://shop.example/products/{number}",
            )
            if form == "xml":
                parts = zip(names, cells, strict=True)
                inside = "".join(
                    f"<g:{name}>{cell.replace('>', '&gt;')}</g:{name}>" for name, cell in parts
                )
                file.write(f"<item>{inside}</item>\n")
            else:
                writer.writerow(cells)
        if form == "xml":
            file.write("</channel></rss>\n")
    return path


@pytest.mark.parametrize("packed", [False, True])
def test_a_progress_bar_counts_the_bytes_of_the_file(tmp_path, monkeypatch, packed):
    bars = []

    class Bar(tqdm.tqdm):
        def __init__(self, **options):
            super().__init__(**options | {"disable": False, "file": io.StringIO()})
            bars.append((self, options))

    monkeypatch.setattr("fir_tf.datasets.feeds.source.tqdm", Bar)
    path = write_text(tmp_path / "feed.tsv", products(40))
    if packed:
        path.write_bytes(gzip.compress(path.read_bytes()))
    load_feed(path)
    ((bar, options),) = bars
    assert bar.n == bar.total == path.stat().st_size
    # On a screen alone, and only where it takes long.
    assert options["disable"] is None and options["delay"] == 3


@pytest.mark.slow
@pytest.mark.parametrize("form", ["tsv", "xml"])
def test_memory_grows_by_what_is_kept_alone(tmp_path, form):
    """Peak bytes a row beyond a small feed; Python's share, and the process's for libxml2's."""
    peaks = {}
    for count in (2_000, 20_000):
        path = write_many(tmp_path / f"feed{count}", form, count)
        tracemalloc.start()
        catalogue = load_feed(path)
        peaks[count] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(catalogue) == count
        assert catalogue.metadata(count - 1)["price"] == (count - 1) % 90 + 0.99
    growth = (peaks[20_000] - peaks[2_000]) / 18_000
    assert growth < 1200, peaks
    if form == "xml":
        assert catalogue.line[-1] == 20_001


@pytest.mark.slow
def test_xml_is_never_wholly_in_memory(tmp_path):
    """libxml2's memory is none of Python's: a process's peak for 20,000 rows of padding."""
    path = write_many(tmp_path / "feed.xml", "xml", 20_000)
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("</item>", f"<!--{'x' * 8000}--></item>"), encoding="utf-8")
    code = (
        "import resource, sys; from fir_tf.datasets.feed import load_feed; import lxml.etree\n"
        "load_feed(sys.argv[2])\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "assert len(load_feed(sys.argv[1])) == 20_000\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    small = write_many(tmp_path / "small.xml", "xml", 2_000)
    ran = subprocess.run(
        [sys.executable, "-c", code, path, small], capture_output=True, text=True, check=True
    )
    assert path.stat().st_size > 160e6 and int(ran.stdout) * 1024 < 60e6


@pytest.fixture(scope="module")
def boutique_feed(tmp_path_factory):
    """The boutique's photos as a shop's feed names them."""
    root = tmp_path_factory.mktemp("boutique") / "shop"
    boutique.write(root, boutique.Order(items=24, views=4, size=64), workers=1)
    photos = load("inshop", root)
    rows = []
    for item, name in enumerate(photos.items):
        own = np.flatnonzero(photos.item == item)
        rows.append(
            {
                "id": name,
                "title": f"Garment {name}",
                "image_link": photos.path[own[0]],
                "additional_image_link": photos.path[own[1:]].tolist(),
                "product_type": photos.categories[photos.category[own[0]]],
                "price": f"{20 + item},90 EUR",
                "availability": "in_stock",
            }
        )
    return write_xml(photos.root / "feed.xml", rows), rows


@contextlib.contextmanager
def served(folder):
    """Serves a folder on this machine; yields its URL."""
    handler = functools.partial(SimpleHTTPRequestHandler, directory=folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.nightly
@pytest.mark.slow
def test_every_script_reads_a_feed(boutique_feed, tmp_path, shallow):
    path, rows = boutique_feed
    images = sum(1 + len(row["additional_image_link"]) for row in rows)
    data = ["--dataset=feed", f"--data_dir={path}"]
    assert main(["check", *data, f"--out={tmp_path / 'check'}", "--workers=1"]) == 0
    report = json.loads((tmp_path / "check/report.json").read_text(encoding="utf-8"))
    assert report["images"] == images
    assert main(["prepare", *data, f"--out={tmp_path / 'copy'}", "--workers=1"]) == 0
    assert len(load("table", tmp_path / "copy/catalogue.csv")) == images
    run = tmp_path / "run"
    done(
        "train.py",
        *data,
        "--columns=category=product_type",
        f"--run={run}",
        "--backbone=efficientnet_lite0",
        "--weights=none",
        "--image_size=32",
        "--batch_size=16",
        "--epochs=1",
        "--eval_every=1",
    )
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    assert config["columns"] == "category=product_type" and config["dataset"] == "feed"
    out, _ = done("evaluate.py", f"--run={run}", "--sheet_rows=1")
    assert "recall@1" in out
    out, _ = done(
        "search.py", "index", f"--model={run}", f"--images={path}", f"--index={tmp_path}/i"
    )
    assert f"{images} images: {images} embedded" in out
    out, _ = done(
        "search.py",
        "query",
        "--sheet=",
        path.parent / rows[0]["image_link"],
        f"--index={tmp_path}/i",
    )
    assert rows[0]["id"] in out
    # A new price changes the records and embeds nothing; an answer carries it, and filters by it.
    cheap = [{**rows[0], "price": "3,50 EUR"}, *rows[1:]]
    write_xml(path, cheap)
    index = [f"--index={tmp_path}/i"]
    out, _ = done("search.py", "index", f"--model={run}", f"--images={path}", *index)
    changed = 1 + len(rows[0]["additional_image_link"])
    assert f"0 embedded, {images - changed} kept, {changed} relabelled, 0 removed" in out
    photo = path.parent / rows[5]["image_link"]
    where = "--where=price < 23 and availability = 'in stock' or title = 'none'"
    out, _ = done("search.py", "query", photo, *index, "--sheet=", "--json", where)
    (answer,) = json.loads(out)
    told = {row["metadata"]["title"]: row["metadata"]["price"] for row in answer["results"]}
    assert told == {cheap[0]["title"]: 3.5, rows[1]["title"]: 21.9, rows[2]["title"]: 22.9}
    out, _ = done("search.py", "query", photo, *index, "--sheet=", where)
    assert f"{rows[1]['title']}  21.9  EUR  in stock" in out
    with served(path.parent) as url:
        away = [
            {
                **row,
                "image_link": f"{url}/{quote(row['image_link'])}",
                "additional_image_link": [
                    f"{url}/{quote(link)}" for link in row["additional_image_link"]
                ],
            }
            for row in cheap
        ]
        out, _ = done(
            "search.py",
            "index",
            f"--model={run}",
            f"--images={write_xml(tmp_path / 'away.xml', away)}",
            f"--index={tmp_path}/away",
            "--allow_private",
            f"--photo_cache={tmp_path}/cache",
        )
    assert f"{images} images: {images} embedded" in out
    out, _ = done("search.py", "query", photo, f"--index={tmp_path}/away", "--json", where)
    (same,) = json.loads(out)
    assert [row["metadata"] | {"image_link": 0} for row in same["results"]] == [
        row["metadata"] | {"image_link": 0} for row in answer["results"]
    ]
    _, err = done("search.py", "query", photo, *index, "--where=prize < 23", ok=False)
    assert "the index has no column 'prize'. It has: availability" in err
