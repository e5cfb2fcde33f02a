import csv
import hashlib
import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from feeds import write_json
from odd_images import (
    animated,
    bomb,
    encoded,
    picture,
    sixteen_bit,
    swapped_primaries,
    transparent,
    turned,
)
from PIL import Image
from small_sets import clean_set, write_jpeg, write_set

from fir_tf.datasets import load
from fir_tf.datasets.__main__ import main
from fir_tf.hygiene import prepare
from fir_tf.hygiene.copying import convert
from fir_tf.hygiene.prepare import copy_names
from fir_tf.images.file import UnreadableImageError
from fir_tf.registry import get
from fir_tf.search.listing import read_catalogue


def run_prepare(table, out, *options):
    return main(["prepare", "--dataset=table", f"--data_dir={table}", f"--out={out}", *options])


def read_rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def tree(folder):
    """Returns {path: checksum} of the files a run is for; the journal's order is its own."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "journal.jsonl"
    }


def converted(contents, max_side=512, quality=95):
    copy, width, height = convert(contents, max_side, quality)
    with Image.open(io.BytesIO(copy)) as image:
        image.load()
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (width, height))
        assert image.getexif().get(0x0112, 1) == 1
        return np.asarray(image).astype(int)


def assert_close(pixels, expected, mean=6):
    expected = np.asarray(expected).astype(int)
    assert pixels.shape == expected.shape
    assert np.abs(pixels - expected).mean() < mean


@pytest.mark.parametrize("orientation", range(2, 9))
def test_photos_are_turned_upright(orientation):
    assert_close(converted(turned(3, orientation=orientation)), picture(3))


def test_transparent_parts_become_white():
    pixels = converted(transparent(4))
    assert_close(pixels[:60], np.asarray(picture(4))[:60])
    assert (pixels[70:] > 245).all()


def test_sixteen_bits_are_scaled_not_cut():
    gray = np.asarray(picture(5).convert("L"))
    assert_close(converted(sixteen_bit(5)), np.repeat(gray[..., None], 3, axis=2), 3)


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP"])
def test_of_an_animation_the_first_frame_is_kept(form):
    with Image.open(io.BytesIO(animated(6, form))) as image:
        first = image.convert("RGB")
    assert_close(converted(animated(6, form)), first)
    assert_close(converted(animated(6, form)), picture(6), 25)


@pytest.mark.parametrize("form", ["PNG", "WEBP", "BMP", "TIFF", "AVIF", "MPO", "GIF"])
def test_formats_that_training_cannot_read_come_in(form):
    image = picture(7)
    assert_close(converted(encoded(image, form)), image, 16 if form == "GIF" else 6)


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "CMYK"])
def test_modes_become_rgb(mode):
    image = picture(8).convert(mode)
    form = "TIFF" if mode == "CMYK" else "PNG"
    # JPEG blurs dithered dots.
    assert_close(converted(encoded(image, form)), image.convert("RGB"), 30 if mode in "1P" else 6)


def test_colours_follow_the_embedded_profile_where_training_has_none():
    """A format that training reads keeps the colours it sees; others become sRGB."""
    photo = swapped_primaries(9)
    assert_close(converted(photo), picture(9))
    with Image.open(io.BytesIO(photo)) as image:
        other = encoded(image, "TIFF", icc_profile=image.info["icc_profile"])
    assert_close(converted(other), np.asarray(picture(9))[..., [1, 0, 2]])


def test_a_transparent_palette_is_put_on_white():
    image = picture(10).quantize(16)
    pixels = np.asarray(image)
    see_through = int(np.bincount(pixels.ravel()).argmax())
    found = converted(encoded(image, "PNG", transparency=see_through), quality=100)
    assert found[pixels == see_through].mean() > 235


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_the_longest_side_is_bounded_and_nothing_is_enlarged(form):
    large = encoded(picture(11, (1000, 1500)), form)
    pixels = converted(large, max_side=300)
    assert pixels.shape == (300, 200, 3)
    assert_close(pixels, picture(11, (1000, 1500)).resize((200, 300), Image.LANCZOS), 4)
    assert converted(encoded(picture(12, (40, 30)), form), max_side=300).shape == (30, 40, 3)
    assert converted(encoded(picture(13, (2000, 3)), form), max_side=100).shape == (1, 100, 3)


def test_a_good_jpeg_is_passed_on_as_it_is():
    good = encoded(picture(14), "JPEG", quality=70)
    assert convert(good, 128, 92)[0] == good
    assert convert(good, 127, 92)[0] != good
    for other in (
        turned(14),
        encoded(picture(14).convert("L"), "JPEG"),
        encoded(picture(14).convert("CMYK"), "JPEG"),
    ):
        copy, *_ = convert(other, 128, 92)
        assert copy != other
        # What was converted needs no second conversion.
        assert convert(copy, 128, 92)[0] == copy


@pytest.mark.parametrize(
    ("contents", "kind"),
    [
        (b"", "empty"),
        (b"GIF89a", "unreadable"),
        (encoded(picture(15), "JPEG")[:-500], "truncated"),
        (encoded(picture(15), "PNG")[:-500], "truncated"),
        (bomb(), "too_large"),
        (bomb(12_000), "too_large"),
        (encoded(Image.new("F", (80, 80), 0.5), "TIFF"), "unreadable"),
    ],
)
def test_what_cannot_be_read_is_refused(contents, kind):
    with pytest.raises(UnreadableImageError) as caught:
        convert(contents, 512, 92)
    assert caught.value.kind == kind and caught.value.reason


def test_names_never_collide():
    paths = [
        "a/b.jpg",
        "a/b.png",
        "a/b.png.jpg",
        "a/B.JPG",
        "a/b.jpeg",
        "a/\u00e9.jpg",
        "a/e\u0301.jpg",
        "c/b.jpg",
    ]
    names = copy_names(paths)
    assert len({name.casefold() for name in names}) == len(paths)
    assert all(name.lower().endswith((".jpg", ".jpeg")) for name in names)
    assert names[0] == "a/b.jpg" or names[3] == "a/B.JPG"
    assert names[-1] == "c/b.jpg"
    # A name depends on the set of paths, not on their order.
    assert dict(zip(reversed(paths), copy_names(paths[::-1]), strict=True)) == dict(
        zip(paths, names, strict=True)
    )


def test_the_table_describes_the_copy(tmp_path, capsys):
    images = clean_set(items=40, each=4)
    images["more/phone.jpg"] = (turned(1, (200, 300)), "item0", "dress", "train")
    images["more/same.png"] = (encoded(picture(2), "PNG"), "item1", "", "train")
    images["more/same.jpg"] = (encoded(picture(3), "JPEG"), "", "coat", "train")
    images["more/bad.jpg"] = (b"bad", "item1", "coat", "train")
    table = write_set(tmp_path / "data", images)
    assert run_prepare(table, tmp_path / "copy", "--max_side=128") == 0
    said = capsys.readouterr().out
    assert "163 images written, 0 were there, 1 cannot be read" in said
    assert f"{table}:165: more/bad.jpg: it is no image of a known format" in said

    before, after = get("dataset", "table")(table), load("table", tmp_path / "copy/catalogue.csv")
    rows = read_rows(tmp_path / "copy/catalogue.csv")
    assert len(before) - 1 == len(rows) == len(after) == 163
    labels = {}
    for row, path in enumerate(before.path):
        labels[path] = (
            before.items[before.item[row]] if before.item[row] >= 0 else None,
            before.categories[before.category[row]] if before.category[row] >= 0 else None,
            before.split[row],
        )
    for row, written in enumerate(rows):
        path = tmp_path / "copy" / written["path"]
        assert after.files()[row] == str(path)
        assert (
            after.items[after.item[row]] if after.item[row] >= 0 else None,
            after.categories[after.category[row]] if after.category[row] >= 0 else None,
            after.split[row],
        ) == labels[written["source"]]
        source = table.parent / written["source"]
        assert written["source_sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
        assert written["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        with Image.open(path) as image:
            assert (image.format, image.mode) == ("JPEG", "RGB")
            assert image.size == (int(written["width"]), int(written["height"]))
            assert max(image.size) <= 128
    assert {row["source"] for row in rows} == set(labels) - {"more/bad.jpg"}
    assert read_rows(tmp_path / "copy/unreadable.csv") == [
        {
            "path": "more/bad.jpg",
            "listed": f"{table}:165",
            "reason": "it is no image of a known format",
        }
    ]


def test_domains_and_folders_come_through(tmp_path):
    status = main(
        ["boutique", "--layout=consumer2shop", f"--out={tmp_path}/b", "--items=12", "--size=40"]
    )
    assert status == 0
    before = get("dataset", "consumer2shop")(tmp_path / "b")
    options = ["--dataset=consumer2shop", f"--data_dir={tmp_path}/b", f"--out={tmp_path}/copy"]
    assert main(["prepare", *options]) == 0
    after = load("table", tmp_path / "copy/catalogue.csv")
    assert after.domain.tolist() == before.domain.tolist()
    assert after.split.tolist() == before.split.tolist()
    assert after.items == before.items and after.categories == before.categories


def test_what_a_feed_says_of_its_products_comes_through(tmp_path, capsys):
    said = {
        "title": 'Shirt, "long"\nand; wide',
        "price": 1.234,
        "price_currency": "EUR",
        "stock": 12,
        "weight": 0.5,
        "sold_out": False,
        "colours": ["red", "a, b"],
        "size": "38",
        "width": 3,
    }
    rows = [
        {"id": "a", "image_link": "0.jpg", "additional_image_link": ["1.jpg"], **said},
        {"id": "b", "image_link": "2.jpg", "title": "Coat", "colours": ["blue"], "sold_out": True},
    ]
    for number in range(3):
        write_jpeg(tmp_path / f"shop/{number}.jpg", seed=number)
    feed = write_json(tmp_path / "shop/feed.jsonl", [row | {"split": "train"} for row in rows])
    options = ["--dataset=feed", f"--data_dir={feed}", f"--out={tmp_path}/copy"]
    assert main(["prepare", *options]) == 0
    assert "note: the columns width of" in capsys.readouterr().out
    found = {
        record.path: record for record in read_catalogue(tmp_path / "copy/catalogue.csv").records
    }
    copies = {row["path"]: row for row in read_rows(tmp_path / "copy/catalogue.csv")}
    for number, product in enumerate([rows[0], rows[0], rows[1]]):
        record = found.pop(f"images/{number}.jpg")
        expected = {name: cell for name, cell in product.items() if "image" not in name}
        own = {name: copies[record.path][name] for name in ("source", "source_sha256", "sha256")}
        size = {"width": 48.0, "height": 64.0}
        metadata = dict(record.metadata, colours=list(record.metadata["colours"]))
        assert metadata == expected | own | size
        assert record.item == product["id"]
    assert not found


def test_a_folder_of_webp_becomes_a_training_set(tmp_path):
    for item in range(20):
        for view, form in enumerate(("WEBP", "JPEG", "PNG")):
            path = tmp_path / f"photos/coat/{item}/{view}.{form.lower()}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(picture(10 * item + view), form))
    options = ["--dataset=folder", f"--data_dir={tmp_path}/photos", f"--out={tmp_path}/copy"]
    assert main(["prepare", *options]) == 0
    assert len(load("table", tmp_path / "copy/catalogue.csv")) == 60


def odd_ones():
    return {
        "x.png": (transparent(1), "item1", "coat", "train"),
        "y.gif": (animated(2), "item1", "coat", "train"),
    }


def test_a_second_run_makes_only_what_changed(tmp_path, capsys):
    images = clean_set()
    table = write_set(tmp_path / "data", images)
    copy = tmp_path / "copy"
    assert run_prepare(table, copy, "--max_side=100") == 0
    before = tree(copy)
    times = {path: path.stat().st_mtime_ns for path in (copy / "images").rglob("*.jpg")}
    names = sorted(times)
    names[0].write_bytes(names[0].read_bytes()[:-20])
    names[1].unlink()
    (copy / "images/good/.1234abcd.left.jpg").write_bytes(b"half")
    (copy / "images/gone.jpg").write_bytes(b"of a source that is gone")
    capsys.readouterr()
    assert run_prepare(table, copy, "--max_side=100") == 0
    assert "2 images written, 34 were there" in capsys.readouterr().out
    assert tree(copy) == before
    assert all(path.stat().st_mtime_ns == times[path] for path in names[2:])

    source = table.parent / sorted(images)[5]
    source.write_bytes(encoded(picture(999), "PNG"))
    assert run_prepare(table, copy, "--max_side=100") == 0
    assert "1 images written, 35 were there" in capsys.readouterr().out
    changed = {name for name, value in tree(copy).items() if before.get(name) != value}
    assert changed == {f"images/{sorted(images)[5]}", "catalogue.csv"}


# Prints its helper processes and kills itself in the middle of the images.
KILLED = """
import os, signal, sys
import psutil
from fir_tf.hygiene import prepare
from fir_tf.datasets.__main__ import main

run = prepare.parallel.run

def killed(*arguments):
    for number, entry in enumerate(run(*arguments)):
        if number == 30:
            helpers = psutil.Process().children(recursive=True)
            print("helpers", *(helper.pid for helper in helpers), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        yield entry

prepare.parallel.run = killed
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_killed_run_goes_on(tmp_path, capsys):
    """And the bytes depend neither on the number of processes nor on the time."""
    images = clean_set(items=60) | odd_ones()
    table = write_set(tmp_path / "data", images)
    copy = tmp_path / "copy"
    options = ["--dataset=table", f"--data_dir={table}", "--max_side=100", "--workers=2"]
    command = [sys.executable, "-c", KILLED, "prepare", *options, f"--out={copy}"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == -signal.SIGKILL, run.stderr
    helpers = [int(pid) for pid in run.stdout.split("helpers")[1].split()]
    assert len(helpers) >= 2
    end = time.monotonic() + 60
    while any(psutil.pid_exists(pid) for pid in helpers):
        assert time.monotonic() < end, "workers outlive the run"
        time.sleep(0.1)
    journal = copy / "journal.jsonl"
    assert not (copy / "catalogue.csv").exists()
    made = [path for path in (copy / "images").rglob("*.jpg") if not path.name.startswith(".")]
    noted = journal.read_text().count("\n")
    # The images are written by other processes than the journal, which may be far ahead.
    assert 30 <= noted < len(images) and noted <= len(made)
    for path in made:
        with Image.open(path) as image:
            image.load()
    # The last line may be half-written when the power goes.
    with open(journal, "a") as file:
        file.write('{"path": "good/1_1.jp')
    times = {path: path.stat().st_mtime_ns for path in made}

    assert run_prepare(table, copy, "--max_side=100", "--workers=1") == 0
    written = int(capsys.readouterr().out.split(" images written")[0].split("\n")[-1])
    assert written == len(images) - noted
    kept = [path for path, moment in times.items() if path.stat().st_mtime_ns == moment]
    assert len(kept) >= noted
    for line in journal.read_text().splitlines():
        json.loads(line)

    assert run_prepare(table, tmp_path / "whole", "--max_side=100", "--workers=1") == 0
    assert tree(copy) == tree(tmp_path / "whole")


def test_more_than_a_hundredth_unreadable_is_an_error_but_the_copy_stays(tmp_path, capsys):
    images = clean_set()
    images["bad.jpg"] = (bomb(), "item0", "dress", "train")
    images["gone.jpg"] = (None, "item0", "dress", "train")
    table = write_set(tmp_path / "data", images)
    assert run_prepare(table, tmp_path / "copy") == 1
    said = capsys.readouterr()
    assert "error: 2 of 38 images (5.3%) cannot be read" in said.err
    assert "gone.jpg: there is no such file" in said.out
    assert len(load("table", tmp_path / "copy/catalogue.csv")) == 36
    assert [row["path"] for row in read_rows(tmp_path / "copy/unreadable.csv")] == [
        "bad.jpg",
        "gone.jpg",
    ]
    (table.parent / "gone.jpg").write_bytes(encoded(picture(1), "JPEG"))
    (table.parent / "bad.jpg").write_bytes(encoded(picture(2), "JPEG"))
    assert run_prepare(table, tmp_path / "copy") == 0
    assert "2 images written, 36 were there" in capsys.readouterr().out
    assert not (tmp_path / "copy/unreadable.csv").exists()


def test_nothing_readable_leaves_no_table(tmp_path, capsys):
    images = {path: (b"no", *labels) for path, (_, *labels) in clean_set().items()}
    table = write_set(tmp_path / "data", images)
    assert run_prepare(table, tmp_path / "copy") == 1
    assert "none of the 36 images can be read" in capsys.readouterr().err
    assert not (tmp_path / "copy/catalogue.csv").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--max_side=31"], "`max_side` must be between 32 and 8192. Received: 31"),
        (["--quality=101"], "`quality` must be between 50 and 100. Received: 101"),
        (["--workers=-1"], "`workers` must be >= 0"),
        (["--max_side=big"], "big"),
    ],
)
def test_values_out_of_range(tmp_path, capsys, options, said):
    table = write_set(tmp_path / "data", clean_set(items=4))
    assert run_prepare(table, tmp_path / "copy", *options) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "copy/catalogue.csv").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path, capsys):
    table = write_set(tmp_path / "data", clean_set(items=4))
    before = tree(tmp_path / "data")
    for out in (tmp_path / "data", tmp_path / "data/copy", tmp_path):
        assert run_prepare(table, out) == 1
        assert "must be a folder apart from the images'" in capsys.readouterr().err
    other = tmp_path / "other"
    other.mkdir()
    (other / "images").write_text("mine")
    assert run_prepare(table, other) == 1
    assert "holds something else" in capsys.readouterr().err
    assert tree(tmp_path / "data") == before and (other / "images").read_text() == "mine"


def test_other_settings_are_refused_and_another_pillow_starts_afresh(tmp_path, capsys):
    table = write_set(tmp_path / "data", clean_set(items=4))
    copy = tmp_path / "copy"
    assert run_prepare(table, copy) == 0
    before = tree(copy)
    assert run_prepare(table, copy, "--max_side=100", "--quality=80") == 1
    assert "max_side 512 instead of 100, quality 92 instead of 80" in capsys.readouterr().err
    assert tree(copy) == before
    settings = json.loads((copy / "prepare.json").read_text())
    (copy / "prepare.json").write_text(json.dumps(settings | {"pillow": "1.0"}))
    assert run_prepare(table, copy) == 0
    assert "12 images written, 0 were there" in capsys.readouterr().out
    assert tree(copy) == before


def test_two_runs_do_not_write_one_copy(tmp_path, capsys):
    import fcntl

    table = write_set(tmp_path / "data", clean_set(items=4))
    assert run_prepare(table, tmp_path / "copy") == 0
    with open(tmp_path / "copy/journal.jsonl", "a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert run_prepare(table, tmp_path / "copy") == 1
    assert "is being written by another run" in capsys.readouterr().err


def test_a_copy_that_cannot_be_written_says_so(tmp_path, capsys):
    table = write_set(tmp_path / "data", clean_set(items=4))
    copy = tmp_path / "copy"
    assert run_prepare(table, copy) == 0
    Path(copy / "images/good/0_0.jpg").unlink()
    Path(copy / "images/good/0_0.jpg").mkdir()
    assert run_prepare(table, copy) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: the copy could not be written to {copy}: ")


def test_copies_that_go_meanwhile_are_not_promised(tmp_path, capsys, monkeypatch):
    table, copy = write_set(tmp_path / "data", clean_set(items=4)), tmp_path / "copy"
    real, made = prepare.convert_file, []

    def convert_and_lose(task):
        made.append(Path(task.target))
        if len(made) == 3:
            made[0].unlink()
        return real(task)

    monkeypatch.setattr(prepare, "convert_file", convert_and_lose)
    assert run_prepare(table, copy) == 1
    assert "1 copy (images/good/" in capsys.readouterr().err
    assert not (copy / "catalogue.csv").exists()
    assert run_prepare(table, copy) == 0
    assert "1 images written, 11 were there" in capsys.readouterr().out
    assert len(load("table", copy / "catalogue.csv")) == 12
