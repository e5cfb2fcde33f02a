import base64
import io
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from odd_images import encoded, odd_images, picture, turned
from PIL import Image, ImageEnhance
from reading import preprocessed
from small_sets import clean_set, write_set

from fir_tf.datasets.__main__ import main
from fir_tf.datasets.table import load_table
from fir_tf.errors import FirError
from fir_tf.hygiene import near_duplicates as near
from fir_tf.hygiene.findings import quick_check

ERRORS = {"missing", "empty", "truncated", "unreadable", "too_large", "format"}
KINDS = ERRORS | {
    "rotated",
    "animated",
    "cmyk",
    "transparent",
    "small",
    "large",
    "sixteen_bit",
    "grayscale",
}


def run_check(table, out, *options):
    status = main(["check", "--dataset=table", f"--data_dir={table}", f"--out={out}", *options])
    return status, json.loads((out / "report.json").read_text())


def cases(report, name):
    return [
        tuple(case["paths"])
        for finding in report["findings"]
        if finding["name"] == name
        for case in finding["cases"]
    ]


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """A data set with one image of each kind, and its report."""
    root = tmp_path_factory.mktemp("odd")
    images = clean_set()
    for name, (contents, _) in odd_images().items():
        images[f"odd/{name}"] = (contents, f"of {name}", "dress", "train")
    images["odd/gone.jpg"] = (None, "of gone.jpg", "dress", "train")
    table = write_set(root / "data", images)
    status, report = run_check(table, root / "report")
    return table, root / "report", status, report


def test_every_kind_of_image_is_found_and_no_other(odd):
    _, _, status, report = odd
    expected = {name: set() for name in KINDS}
    for name, (_, kinds) in odd_images().items():
        for kind in kinds:
            expected[kind].add((f"odd/{name}",))
    expected["missing"].add(("odd/gone.jpg",))
    assert {kind: set(cases(report, kind)) for kind in KINDS} == expected
    assert status == 2 and report["failed"]


def test_training_reads_what_is_no_error_and_nothing_that_is_broken(odd):
    table, _, _, report = odd
    wrong = {paths[0] for kind in ERRORS for paths in cases(report, kind)}
    broken = {
        paths[0] for kind in ("empty", "truncated", "unreadable") for paths in cases(report, kind)
    }
    for name in odd_images():
        path = f"odd/{name}"
        # Formats and sizes are bounded by policy, not by what a version of TensorFlow can do.
        if path in broken or path not in wrong:
            _, valid = preprocessed((table.parent / path).read_bytes(), 64, "crop")
            assert bool(valid) == (path not in broken), name


def test_a_finding_names_file_and_line(odd):
    table, out, _, report = odd
    lines = table.read_text().splitlines()
    for finding in report["findings"]:
        assert finding["count"] == len(finding["cases"])
        for case in finding["cases"]:
            for path, listed in zip(case["paths"], case["listed"], strict=True):
                source, _, line = listed.rpartition(":")
                assert source == str(table)
                assert lines[int(line) - 1].startswith(f"{path},")
    text = (out / "report.txt").read_text()
    row = 1 + next(number for number, line in enumerate(lines) if "odd/gone.jpg" in line)
    assert f"{table}:{row}: {table.parent}/odd/gone.jpg" in text
    assert "1 image file is missing" in text


def test_what_a_category_has_is_told_in_columns(odd):
    table, out, *_ = odd
    rows = [line.split(",") for line in table.read_text().splitlines()]
    lines = (out / "report.txt").read_text().splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("images by category"))
    assert lines[start + 1].split() == ["training", "other", "splits"]
    ends = [lines[start + 1].index(word) + len(word) for word in ("training", "splits")]
    place = {name: number for number, name in enumerate(rows[0])}
    category, train, rest = lines[start + 2][: ends[1]].split()
    # Right-aligned below their names.
    assert [lines[start + 2].index(text) for text in (train,)] == [ends[0] - len(train)]
    assert lines[start + 2][: ends[1]].endswith(rest)
    splits = [row[place["split"]] for row in rows[1:] if row[place["category"]] == category]
    assert [int(train), int(rest)] == [splits.count("train"), len(splits) - splits.count("train")]


def test_a_clean_set_is_clean(tmp_path, capsys):
    status, report = run_check(write_set(tmp_path / "a", clean_set()), tmp_path / "out", "--strict")
    assert status == 0 and not report["failed"]
    assert [finding["name"] for finding in report["findings"]] == []
    printed = capsys.readouterr().out
    assert printed.startswith((tmp_path / "out/report.txt").read_text())
    assert "Found: 0 errors, 0 warnings, 0 notes" in printed


def test_labels_are_looked_at(tmp_path):
    images = clean_set()
    images["more/alone.jpg"] = (encoded(picture(1), "JPEG"), "alone", "coat", "train")
    images["more/lost.jpg"] = (encoded(picture(2), "JPEG"), "lost", "coat", "query")
    images["more/hat.jpg"] = (encoded(picture(3), "JPEG"), "lost2", "hat", "gallery")
    images["more/scarf1.jpg"] = (encoded(picture(4), "JPEG"), "two", "scarf", "train")
    images["more/scarf2.jpg"] = (encoded(picture(5), "JPEG"), "two", "scarf", "train")
    table = write_set(tmp_path / "a", images)
    status, report = run_check(table, tmp_path / "out")
    assert status == 0
    assert run_check(table, tmp_path / "out", "--strict")[0] == 2
    found = {finding["name"]: finding for finding in report["findings"]}
    assert set(found) == {
        "single_images",
        "queries_without_match",
        "untrained_categories",
        "small_categories",
    }
    assert cases(report, "single_images") == [("more/alone.jpg",)]
    assert found["single_images"]["text"] == "1 of 12 training items has one image"
    assert cases(report, "queries_without_match") == [("more/lost.jpg",)]
    assert cases(report, "untrained_categories") == [("more/hat.jpg",)]
    assert cases(report, "small_categories") == [("more/scarf1.jpg",)]
    assert {row["name"]: (row["train"], row["other"]) for row in report["categories"]} == {
        "dress": (15, 3),
        "coat": (16, 4),
        "scarf": (2, 0),
        "hat": (0, 1),
    }
    assert report["items_by_images"] == {"1": 3, "2": 1, "3-4": 12}


def tinted(red, green, blue):
    """A garment's picture in one colour, which is scaled to the brightness of the others."""
    gray = np.asarray(picture(70).convert("L")).astype(float)
    colour = np.array([red, green, blue]) / np.dot([0.299, 0.587, 0.114], [red, green, blue])
    return Image.fromarray(np.clip(0.5 * gray[..., None] * colour, 0, 255).astype(np.uint8))


def test_copies_are_found_across_splits_and_items(tmp_path):
    images = clean_set()
    base = picture(50, (240, 320))

    def add(name, contents, item, split):
        images[name] = (contents, item, "coat", split)

    add("x/train.jpg", encoded(base, "JPEG"), "a", "train")
    add("x/train2.jpg", encoded(picture(51), "JPEG"), "a", "train")
    add("x/query.jpg", encoded(base.resize((120, 160)), "JPEG", quality=40), "b", "query")
    add(
        "x/gallery.png", encoded(ImageEnhance.Brightness(base).enhance(1.05), "PNG"), "b", "gallery"
    )
    exact = encoded(picture(60), "JPEG")
    add("y/one.jpg", exact, "c", "train")
    add("y/two.jpg", exact, "d", "train")
    add("z/one.jpg", encoded(tinted(3, 2, 2), "PNG"), "e", "train")
    add("z/other_colour.jpg", encoded(tinted(2, 2, 3), "PNG"), "f", "train")
    add("t/upright.jpg", encoded(picture(80), "JPEG", quality=95), "g", "train")
    add("t/turned.jpg", turned(80), "h", "train")
    repeated = encoded(picture(90), "JPEG")
    add("r/one.jpg", repeated, "i", "train")
    add("r/two.jpg", repeated, "i", "train")
    _, report = run_check(write_set(tmp_path / "a", images), tmp_path / "out")
    (leak,) = cases(report, "leakage")
    assert leak[0] == "x/train.jpg" and leak[1] in ("x/query.jpg", "x/gallery.png")
    between = {frozenset(pair) for pair in cases(report, "item_duplicates")}
    assert between == {
        frozenset(("y/one.jpg", "y/two.jpg")),
        frozenset(("t/upright.jpg", "t/turned.jpg")),
    }
    one, other = (near.fingerprint(tinted(*colour))[0] for colour in ((3, 2, 2), (2, 2, 3)))
    assert np.bitwise_count(one ^ other).sum() <= near.HASH_BITS
    assert cases(report, "repeats") == [("r/one.jpg", "r/two.jpg")]
    group = next(f for f in report["findings"] if f["name"] == "leakage")
    assert "1 group of near-duplicates" in group["text"] and "(3 images)" in group["text"]

    _, report = run_check(tmp_path / "a/photos.csv", tmp_path / "out", "--no-near_duplicates")
    assert cases(report, "leakage") == []
    assert cases(report, "item_duplicates") == [("y/one.jpg", "y/two.jpg")]


def test_a_query_that_stands_in_the_gallery_and_two_labels_for_one_photo(tmp_path):
    images = clean_set()
    same = encoded(picture(50), "JPEG")
    images["q.jpg"] = (same, "q", "coat", "query")
    images["g.jpg"] = (same, "q", "coat", "gallery")
    twin = encoded(picture(51), "JPEG")
    images["coat.jpg"] = (twin, "", "coat", "train")
    images["dress.jpg"] = (twin, "", "dress", "train")
    images["any.jpg"] = (twin, "", "", "train")
    _, report = run_check(write_set(tmp_path / "a", images), tmp_path / "out")
    assert cases(report, "easy_queries") == [("q.jpg", "g.jpg")]
    assert cases(report, "category_duplicates") == [("coat.jpg", "dress.jpg")]
    assert cases(report, "repeats") == []
    assert cases(report, "leakage") == []


def test_groups_of_near_duplicates_are_those_of_a_plain_search():
    rng = np.random.default_rng(0)
    words = rng.integers(0, 2**63, (40, 4), dtype=np.uint64)
    cells = rng.integers(0, 256, (40, 192), dtype=np.uint8)
    copies = rng.integers(0, 40, 500)
    words, cells = words[copies], cells[copies].astype(int)
    for row in range(len(words)):
        for bit in rng.integers(0, 256, rng.integers(0, 30)):
            words[row, bit // 64] ^= np.uint64(1) << np.uint64(bit % 64)
    cells = np.clip(cells + rng.integers(-18, 19, cells.shape), 0, 255).astype(np.uint8)

    labels = list(range(len(words)))

    def root(row):
        while labels[row] != row:
            row = labels[row]
        return row

    linked = 0
    values = [[int(word) for word in row] for row in words]
    for one in range(len(words)):
        for other in range(one):
            bits = [bin(a ^ b).count("1") for a, b in zip(values[one], values[other], strict=True)]
            if sum(bits) <= 40 and bits[0] <= 10:
                steps = max(abs(cells[one].astype(int) - cells[other].astype(int)))
                if steps <= 32:
                    linked += 1
                    labels[root(one)] = root(other)
    assert linked > 100
    expected = np.array([root(row) for row in range(len(words))])
    found = near.group(words, cells)
    assert len(set(found)) == len(set(expected)) < 499
    assert len(set(zip(found, expected, strict=True))) == len(set(expected))


def test_groups_stay_right_when_the_pairs_are_gathered_up(monkeypatch):
    rng = np.random.default_rng(1)
    copies = np.sort(rng.integers(0, 5, 700))
    words = rng.integers(0, 2**63, (5, 4), dtype=np.uint64)[copies]
    cells = rng.integers(0, 256, (5, 192), dtype=np.uint8)[copies]
    monkeypatch.setattr(near, "_PAIRS_KEPT", 50)
    found = near.group(words, cells)
    assert len(set(zip(found, copies, strict=True))) == len(set(found)) == len(set(copies))


def test_plain_pictures_are_no_near_duplicates():
    white = near.fingerprint(Image.new("RGB", (100, 100), "white"))
    gray = near.fingerprint(Image.new("RGB", (100, 100), (250, 250, 250)))
    labels = near.group(np.stack([white[0], gray[0]]), np.stack([white[1], gray[1]]))
    assert len(set(labels)) == 2


class Page(HTMLParser):
    """Reads a page: its tags have to be closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.sources, self.seen, self.text = [], [], [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "br", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.text += data


def test_the_page_stands_alone_and_shows_pictures(odd):
    _, out, _, report = odd
    page = Page((out / "report.html").read_text(encoding="utf-8"))
    assert page.open == []
    for tag, attributes in page.seen:
        assert tag not in ("script", "link", "iframe", "base")
        assert not {"onerror", "onload", "srcset"} & set(attributes)
    sections = {a["id"] for tag, a in page.seen if tag == "section"} - {"strip"}
    links = [a["href"] for tag, a in page.seen if "href" in a]
    headings = [f"#{a['id']}" for tag, a in page.seen if tag == "h2" and "id" in a]
    assert headings == ["#images-by-category", "#items-by-images"]
    assert links == [*headings, *(f"#{finding['name']}" for finding in report["findings"])]
    pictures = [attributes["src"] for tag, attributes in page.seen if tag == "img"]
    assert len(pictures) > 10
    for source in pictures:
        kind, _, data = source.partition(",")
        assert kind == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as image:
            image.load()
            assert max(image.size) <= 144
    assert sections == {finding["name"] for finding in report["findings"]}
    assert "no picture" in page.text
    for paths in cases(report, "rotated"):
        assert paths[0] in page.text


def test_names_cannot_change_the_page_or_the_screen(tmp_path, capsys):
    images = clean_set()
    evil = '"><script>alert(1)</script>&amp;\x1b[2J'
    images[f"{evil.replace('/', '')}.jpg"] = (b"", evil, evil, "train")
    status, report = run_check(write_set(tmp_path / "a", images), tmp_path / "out")
    assert status == 2 and report["findings"][0]["name"] == "empty"
    page = Page((tmp_path / "out/report.html").read_text(encoding="utf-8"))
    assert page.open == []
    assert "script" not in {tag for tag, _ in page.seen}
    assert '"><script>alert(1)</script>&amp;' in page.text
    assert "\x1b" not in capsys.readouterr().out
    assert "\x1b" not in (tmp_path / "out/report.txt").read_text()


def test_folder_layout_shows_what_training_leaves_out(tmp_path):
    for item in range(20):
        for view in range(3):
            path = tmp_path / f"photos/coat/{item}/{view}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(picture(10 * item + view), "JPEG"))
    (tmp_path / "photos/coat/3/9.webp").write_bytes(encoded(picture(999), "WEBP"))
    status = main(
        ["check", "--dataset=folder", f"--data_dir={tmp_path}/photos", f"--out={tmp_path}/out"]
    )
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert status == 2 and cases(report, "format") == [("coat/3/9.webp",)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--data_dir=/nowhere"], "/nowhere"),
        ([], "--data_dir"),
        (["--data_dir=x", "--dataset=nothing"], "nothing"),
        (["--data_dir=x", "--workers=two"], "two"),
    ],
)
def test_bad_usage_is_status_1(options, said, capsys):
    assert main(["check", *options]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and "Traceback" not in error


@pytest.mark.nightly
@pytest.mark.slow
def test_in_two_processes(tmp_path, capsys):
    images = clean_set()
    images["bad.jpg"] = (b"no image", "item0", "dress", "train")
    table = write_set(tmp_path / "a", images)
    status, report = run_check(table, tmp_path / "two", "--workers=2")
    assert status == 2 and "1 file is no readable image" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "two").iterdir()} == {
        "report.txt",
        "report.html",
        "report.json",
    }
    assert (status, report) == run_check(table, tmp_path / "one", "--workers=1")


def test_quick_check_says_what_check_says_of_the_labels(tmp_path):
    images = clean_set(items=60)
    images["alone.jpg"] = (encoded(picture(1), "JPEG"), "alone", "coat", "train")
    images["lost.jpg"] = (encoded(picture(2), "JPEG"), "lost", "coat", "query")
    table = write_set(tmp_path / "a", images)
    lines = quick_check(load_table(table), seconds=60)
    assert [line.split(":")[0] for line in lines] == ["warning", "note"]
    assert "1 query of 5 without an image of the same item" in lines[0]
    assert "1 of 59 training items has one image" in lines[1]

    (table.parent / "alone.jpg").write_bytes(b"")
    lines = quick_check(load_table(table), seconds=60)
    assert lines[-1].startswith("warning: 1 of 182 image files looked at cannot be read:")
    assert f"{table}:182" in lines[-1] and "no bytes" in lines[-1]


def test_quick_check_refuses_a_broken_download(tmp_path):
    images = clean_set(items=120)
    table = write_set(tmp_path / "a", images)
    catalogue = load_table(table)
    paths = [Path(path) for path in catalogue.files()]
    for path in paths[::50]:
        path.write_bytes(b"")
    with pytest.raises(FirError, match=r"8 of 360 image files looked at[\s\S]*datasets check"):
        quick_check(catalogue, seconds=60)
    for path in paths[::50]:
        path.unlink()
    with pytest.raises(FirError, match="there is no such file"):
        quick_check(catalogue, seconds=60)


def test_quick_check_keeps_to_its_time(tmp_path, monkeypatch):
    table = write_set(tmp_path / "a", clean_set(items=120))
    catalogue = load_table(table)
    asked = []
    monkeypatch.setattr("fir_tf.hygiene.findings.read", lambda path: asked.append(path) or b"")
    with pytest.raises(FirError, match="100 of 100 image files looked at"):
        quick_check(catalogue, seconds=0)
    assert len(asked) == 100
