"""Feeds with something wrong: a message with file and line, and nothing left out unsaid."""

import gzip
import http.server
import io
import re
import threading
import tracemalloc
import zipfile

import pytest
from feeds import RSS, products, write_json, write_text, write_xml, xml_item
from hypothesis import given, settings
from hypothesis import strategies as st

from fir_tf.datasets.feed import load_feed
from fir_tf.datasets.loading import layout_of, load_unchecked
from fir_tf.errors import FirError
from fir_tf.search.listing import read_catalogue

WRITERS = {"tsv": write_text, "xml": write_xml, "jsonl": write_json}


def gallery(path):
    return load_feed(path, split_by_hash=False)


def refused(path, message):
    """Every way to read a file ends in the same message, without a traceback."""
    for read in (gallery, lambda path: read_catalogue(path, "feed")):
        with pytest.raises(FirError, match=message):
            read(path)


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("column", ["image_link", "id"])
def test_a_missing_column(tmp_path, form, column):
    rows = products(4)
    for row in rows:
        del row[column], row["item_group_id"]
    path = WRITERS[form](tmp_path / "feed", rows)
    if (form, column) == ("jsonl", "id"):
        # As in a table, photos need no item.
        assert set(gallery(path).item) == {-1}
        return
    what = {"image_link": "`image_link` or `path`, its path", "id": "`id`, its item"}[column]
    refused(path, rf"feed:\d+: a row must have a column .*{what}.*Received: .*availability")


def test_a_missing_column_is_told_before_a_long_feed_is_read(tmp_path):
    rows = [{"id": str(number), "title": "x", "link": "y"} for number in range(5000)]
    path = write_text(tmp_path / "feed.tsv", rows)
    with open(path, "ab") as file:
        file.write(b"\xff is read no more\n" * 100_000)
    refused(path, r"feed.tsv:4097: a row must have a column `image_link`")


@pytest.mark.parametrize("form", WRITERS)
def test_two_rows_of_one_id(tmp_path, form):
    rows = products(6)
    rows[4]["id"] = rows[1]["id"]
    path = WRITERS[form](tmp_path / "feed", rows)
    with pytest.raises(FirError) as found:
        gallery(path)
    text = path.read_bytes().decode().split("\n")
    places = [number for number, line in enumerate(text, 1) if "SKU-001" in line]
    # In XML a product begins a line above what is in it.
    places = [place - (form == "xml") for place in places]
    assert f"feed:{places[1]}: two rows have one `id`" in str(found.value)
    assert f"'SKU-001', which is that of line {places[0]} too" in str(found.value)


@pytest.mark.parametrize("form", WRITERS)
def test_a_row_without_a_photo_is_skipped_and_listed(tmp_path, form):
    rows = products(10)
    for number in (1, 4, 5, 6, 7, 8):
        rows[number]["image_link"] = " " if number == 4 else ""
    path = WRITERS[form](tmp_path / "feed", rows)
    catalogue = gallery(path)
    assert len(catalogue) == 8
    assert {catalogue.metadata(row)["id"] for row in range(8)} == {
        f"SKU-{number:03d}" for number in (0, 2, 3, 9)
    }
    (note,) = catalogue.notes
    text = path.read_bytes().decode().split("\n")
    places = [
        number - (form == "xml")
        for number, line in enumerate(text, 1)
        if re.search("SKU-00[145678]", line)
    ]
    listed = ", ".join(map(str, places[:5]))
    assert note.startswith(f"skipped in {path}: 6 of 10 rows, which have no `image_link` or `path`")
    assert note.endswith(f": lines {listed}, ...")
    for row in rows:
        row["image_link"] = ""
    refused(WRITERS[form](path, rows), "has no row with a photo\nskipped in .*10 of 10 rows")


def test_prices_that_cannot_be_read_are_found_and_kept(tmp_path):
    rows = products(6)
    rows[1]["price"], rows[3]["price"], rows[4]["price"] = "ask us", "1.234,50 EUR", "1.299 EUR"
    catalogue = gallery(write_text(tmp_path / "feed.tsv", rows))
    known = [catalogue.metadata(2 * row) for row in range(6)]
    assert [one.get("price") for one in known] == [10.5, None, 12.5, 1234.5, None, 15.5]
    assert [one.get("price_text") for one in known] == [
        None,
        "ask us",
        *[None] * 2,
        "1.299 EUR",
        None,
    ]
    (note,) = catalogue.notes
    assert "`price` of 2 rows cannot be read" in note
    assert "feed.tsv:3 'ask us'" in note and "feed.tsv:6 '1.299 EUR'" in note


def test_more_photos_than_ten_are_counted(tmp_path):
    rows = products(4, each=13)
    rows[2]["additional_image_link"] = rows[2]["additional_image_link"][:10]
    catalogue = gallery(write_xml(tmp_path / "feed.xml", rows))
    assert len(catalogue) == 4 * 11
    (note,) = catalogue.notes
    assert "of 3 rows" in note and "the first 10 of `additional_image_link` are read" in note


def test_a_product_without_an_id_keeps_its_photos_and_is_said(tmp_path):
    rows = products(4)
    rows[2]["id"] = rows[2]["item_group_id"] = ""
    catalogue = gallery(write_text(tmp_path / "feed.tsv", rows))
    assert catalogue.item[4] == catalogue.item[5] == -1
    assert "the item is unknown in 1 rows" in catalogue.notes[0] and "line 4" in catalogue.notes[0]


@pytest.mark.parametrize(
    "places", [("../x.jpg", "below"), ("/etc/x.jpg", "below"), ("a\0b", "zero")]
)
def test_photos_outside_the_feeds_folder_are_refused(tmp_path, places):
    rows = products(4)
    rows[1]["image_link"] = places[0]
    path = write_text(tmp_path / "feed.tsv", rows)
    refused(path, rf"feed.tsv:3: .*(must stay {places[1]}|there is a {places[1]} byte)")


def test_rows_of_another_width_and_open_quotes(tmp_path):
    path = write_text(tmp_path / "feed.tsv", products(4), end="\n")
    text = path.read_text()
    path.write_text(text.replace("Fjord", "Fjord\tmore", 1))
    refused(path, r"feed.tsv:2: a row must have 14 cells \(id, .*by '\\t'.*Received: 15")
    path.write_text(text.replace("SKU-002", '"SKU-002'))
    refused(path, r"feed.tsv:4: this is no CSV row: .*doubled")
    path.write_text(text + "x" * (1 << 20))
    refused(path, r"feed.tsv:6: a line must be shorter than 1,048,576")


def test_a_byte_that_is_no_utf_8_is_found_where_it_is(tmp_path):
    path = write_text(tmp_path / "feed.tsv", products(4))
    path.write_bytes(path.read_bytes().replace(b"Kimonos \xc3\xa9", b"Kimonos \xe9", 1))
    refused(path, 'feed.tsv:4 must be text in UTF-8.*0xe9.*"CSV UTF-8"')


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "feed.xml is empty"),
        (b"\xef\xbb\xbf \n", "feed.xml is empty"),
        (b"PK\x03\x04rest", "is a ZIP file or an Excel workbook, .*Unpack it.*.gz is read"),
        (b"BZh91AY&SY", "packed by bzip2.*pack it by gzip"),
        (b"\xfd7zXZ\0\0", "packed by xz"),
        (b"\x28\xb5\x2f\xfdx", "packed by zstd"),
        (b"%PDF-1.7", "is a PDF"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "is an image, no table"),
        (b"<!DOCTYPE html><html><body>Log in</body></html>", "feed.xml:1: this is a web page"),
        (b"\n <HTML lang=en>", "feed.xml:1: this is a web page"),
        (gzip.compress(b"<html>", mtime=0), "feed.xml:1: this is a web page"),
        (gzip.compress(b"id\timage_link\n", mtime=0)[:20], "is gzip and damaged or cut off"),
        (
            gzip.compress(b"a,b\n1,2\n", mtime=0),
            "must be a feed: .*JSON Lines.*Received: 'a,b.*--dataset=table",
        ),
        (b"just words", "must be a feed"),
        (b"<catalog><product/></catalog>", "feed.xml has no rows .*no products"),
        (b"id\ttitle\timage_link\n", "feed.xml has no rows"),
        (b"[1, 2]", r"feed.xml:1: a line must be a JSON object, such as .*Received: \[1, 2\]"),
        (b"{" * 100_000, "feed.xml:1: a line must be a JSON object"),
    ],
)
def test_what_is_no_feed_is_told(tmp_path, contents, message):
    path = tmp_path / "feed.xml"
    path.write_bytes(contents)
    refused(path, message)


def test_a_real_zip_is_named_without_naming_its_layout(tmp_path):
    path = tmp_path / "feed.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("feed.tsv", "id\timage_link\n1\ta.jpg\n")
    with pytest.raises(FirError, match="feed.zip is a ZIP file"):
        read_catalogue(path)


def test_a_json_line_broken_in_the_middle(tmp_path):
    path = write_json(tmp_path / "feed.jsonl", products(6))
    lines = path.read_text().split("\n")
    for broken, message in (
        (lines[2][:40], r"feed.jsonl:3: a line must be a JSON object. Received: Unterm"),
        ("[1]", r"feed.jsonl:3: a line must be a JSON object, such as"),
        ('{"id": "9", "image_link": "\\u0000.jpg"}', "feed.jsonl:3: an image path must stay below"),
    ):
        path.write_text("\n".join([*lines[:2], broken, *lines[3:]]))
        refused(path, message)
    path.write_text("\n".join([*lines[:2], "", *lines[2:]]))
    assert gallery(path).line.tolist() == [1, 1, 2, 2, 4, 4, 5, 5, 6, 6, 7, 7]


@pytest.mark.parametrize("share", [0.3, 0.6, 0.99])
def test_xml_that_is_cut_off(tmp_path, share):
    path = write_xml(tmp_path / "feed.xml", products(12))
    contents = path.read_bytes()
    path.write_bytes(contents[: int(share * len(contents))])
    lines = path.read_bytes().count(b"\n") + 1
    refused(path, rf"feed.xml:({lines}|{lines - 1}): the feed is no XML, or cut off here")
    path.write_bytes(gzip.compress(contents)[:-300])
    refused(path, "feed.xml is gzip and damaged or cut off")


def test_xml_with_an_error_in_it(tmp_path):
    path = write_xml(tmp_path / "feed.xml", products(4))
    text = path.read_text(encoding="utf-8")
    for old, new, message in (
        ("&amp;b=2", "&b=2", r"feed.xml:\d+: the feed is no XML.*EntityRef"),
        ("</g:id>", "</g:sku>", r"feed.xml:\d+: .*mismatch"),
        (' xmlns:g="http://base.google.com/ns/1.0"', "", r"feed.xml:\d+: .*g .*not defined"),
        ("&amp;b=2", "&bomb;", r"feed.xml:\d+: .*'bomb' not defined"),
    ):
        path.write_text(text.replace(old, new, 1), encoding="utf-8")
        refused(path, message)


BOMB = "<!DOCTYPE rss [<!ENTITY a0 'ha'>{}]>".format(
    "".join(f"<!ENTITY a{n} '{f'&a{n - 1};' * 10}'>" for n in range(1, 12))
)


@pytest.mark.parametrize(
    ("kind", "reference"),
    [
        (BOMB, "&a11;"),
        ('<!DOCTYPE rss [<!ENTITY x SYSTEM "file://{secret}">]>', "&x;"),
        ('<!DOCTYPE rss [<!ENTITY x SYSTEM "http://127.0.0.1:{port}/x">]>', "&x;"),
        ('<!DOCTYPE rss SYSTEM "http://127.0.0.1:{port}/rss.dtd">', ""),
        ('<!DOCTYPE rss [<!ENTITY % x SYSTEM "http://127.0.0.1:{port}/x"> %x;]>', ""),
    ],
)
@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("attribute", [False, True])
def test_entities_are_refused_and_nothing_is_fetched(tmp_path, kind, reference, hidden, attribute):
    """Also behind a comment longer than what is looked at first, and in an attribute."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

    (tmp_path / "secret").write_text("the secret")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        kind = kind.replace("{port}", str(server.server_port))
        kind = kind.replace("{secret}", str(tmp_path / "secret"))
        row = products(1)[0]
        item = xml_item(row).replace("Fjord", reference)
        text = RSS.format(items=item).split("\n", 1)[1]
        if attribute:
            text = text.replace('version="2.0"', f'version="{reference}"')
        comment = f"<!--{'x' * 70_000}-->" if hidden else ""
        path = tmp_path / "feed.xml"
        path.write_text(f"{comment}\n{kind}\n{text}")
        tracemalloc.start()
        with pytest.raises(FirError, match=r"feed.xml.*(no document type|no XML)") as found:
            gallery(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        server.shutdown()
    assert not asked and "the secret" not in str(found.value) and peak < 20e6


@pytest.fixture(scope="module")
def feeds_of_all_kinds(tmp_path_factory):
    """Their bytes by format, and a path to write others to."""
    root = tmp_path_factory.mktemp("damaged")
    whole = {form: write(root / form, products(4)).read_bytes() for form, write in WRITERS.items()}
    whole["bulk"] = b'a.jpg,1,s,p,c,"n, m",k=v,"0.1,0.2,0.3,0.4"\nb.jpg,2,s,q,c,,,\n'
    whole["gz"] = gzip.compress(whole["tsv"])
    return whole, root / "feed"


@settings(max_examples=300, deadline=None)
@given(data=st.data())
@pytest.mark.slow
def test_a_damaged_feed_is_a_message_or_a_catalogue(feeds_of_all_kinds, data):
    whole, path = feeds_of_all_kinds
    contents = bytearray(whole[data.draw(st.sampled_from(sorted(whole)))])
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(contents)))
        length = data.draw(st.sampled_from([0, 1, 1, 3, 50]))
        contents[start : start + length] = data.draw(
            st.one_of(
                st.binary(max_size=6),
                st.sampled_from(
                    [b"\n", b"\t", b'"', b"<", b"&x;", b"</item>", b"\xff\xfe", b"{", b"\\"]
                ),
            )
        )
    path.write_bytes(contents)
    try:
        catalogue = gallery(path)
    except FirError as error:
        assert str(path) in str(error)
        return
    assert len(catalogue) and all(catalogue.metadata(row) for row in range(len(catalogue)))


def test_a_gzip_bomb_without_a_line_end_is_stopped(tmp_path):
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb") as file:
        file.write(b"id\timage_link\n1\t")
        for _ in range(200):
            file.write(b"x" * (1 << 20))
    path = tmp_path / "feed.tsv.gz"
    path.write_bytes(buffer.getvalue())
    tracemalloc.start()
    refused(path, "feed.tsv.gz:2: a line must be shorter than")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30e6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a.jpg,1,s,p,c,,style,",
            r"bulk.csv:1: `labels` must be key=value pairs. Received: 'style'",
        ),
        (
            'a.jpg,1,s,p,c,,,"0.1,2,0.5,0.5"',
            r"bulk.csv:1: `bounding-poly` must be .*'0.1,2,0.5,0.5'",
        ),
        ('a.jpg,1,s,p,c,,,"0.1,0.2,0.5"', r"bulk.csv:1: `bounding-poly` must be"),
        ('a.jpg,1,s,p,c,,,"0.1,b"', r"bulk.csv:1: `bounding-poly` must be"),
        ("a.jpg,1,s,p,c,,,\nb.jpg,1,s,p,c,,,", r"bulk.csv:2: two rows have one `image_id`"),
        ("a.jpg,1,s,p,c,,,\nb.jpg,2,s,p,c,,", r"bulk.csv:2: a row must have 8 cells.*Received: 7"),
    ],
)
def test_faults_of_product_search(tmp_path, text, message):
    path = tmp_path / "bulk.csv"
    path.write_text(text + "\n")
    assert layout_of(path) == "feed"
    refused(path, message)


def test_without_columns_of_its_own_a_dataset_takes_none(tmp_path):
    path = write_text(tmp_path / "feed.tsv", products(4))
    with pytest.raises(FirError, match="`columns` must be what=name"):
        load_unchecked("feed", path, "sku")
    with pytest.raises(FirError, match="feed.tsv:1: a row must have a column `foto`, its path"):
        load_unchecked("feed", path, "path=foto")
    with pytest.raises(
        FirError, match=r"`columns` names those of a table.*--dataset=folder has none"
    ):
        load_unchecked("folder", tmp_path, "path=foto")
    with pytest.raises(FirError, match=r"`columns` needs --dataset, a table or a feed"):
        read_catalogue(tmp_path, columns="path=foto")
