"""Photos at addresses become a training copy, from servers on loopback that do everything wrong."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from feeds import products, write_xml
from odd_images import encoded, picture, transparent, turned
from photo_server import PhotoServer, jpeg
from small_sets import write_set
from test_docs import commands
from test_prepare import read_rows, tree

from fir_tf.config import Config
from fir_tf.datasets import load
from fir_tf.datasets.__main__ import main
from fir_tf.datasets.loading import load_training, load_unchecked
from fir_tf.errors import FirError
from fir_tf.hygiene import prepare
from fir_tf.remote import http

PHOTOS = {
    "/big.png": encoded(picture(1).resize((300, 200)), "PNG"),
    "/turned.jpg?size=large": turned(3, orientation=6),
    "/clear": transparent(4),
    "/small.jpg": jpeg(5),
}


@pytest.fixture(autouse=True)
def without_patience(monkeypatch):
    monkeypatch.setattr(http, "BACKOFF_SECONDS", 0.01)


@pytest.fixture
def server():
    server = PhotoServer({f"/{n}.jpg": jpeg(n) for n in range(40)} | PHOTOS)
    yield server
    server.stop()


def write_table(folder, paths):
    """Writes a table of photos, each of an item and with a price and a box; returns its path."""
    folder.mkdir(exist_ok=True)
    lines = ["path,item,split,price,box"]
    for number, path in enumerate(paths):
        lines.append(f'{path},item{number // 2},train,{number}.50 EUR,"2,3,10,12"')
    (folder / "shop.csv").write_text("\n".join(lines) + "\n")
    return folder / "shop.csv"


def run(table, out, *options, private=True):
    return main(
        [
            *("prepare", "--dataset=table", f"--data_dir={table}", f"--out={out}"),
            *("--max_side=100", f"--photo_cache={table.parent / 'cache'}"),
            *(["--allow_private"] if private else []),
            *options,
        ]
    )


def urls(server, count=40):
    return [f"{server.url}/{n}.jpg" for n in range(count)]


def test_addresses_give_the_copy_that_files_give(server, tmp_path, capsys):
    """Also beside files, in a folder below the feed's, and with boxes of turned photos."""
    names = [*PHOTOS, "/0.jpg"]
    files = {f"{number}": (server.photos[name],) for number, name in enumerate(names)}
    write_set(tmp_path / "files", files)
    local = write_table(tmp_path / "files", files)
    assert run(local, tmp_path / "expected") == 0
    expected = read_rows(tmp_path / "expected/catalogue.csv")

    table = write_table(tmp_path / "feed", [f"{server.url}{name}" for name in names])
    copy = tmp_path / "feed/copy"
    assert run(table, copy) == 0
    rows = read_rows(copy / "catalogue.csv")
    assert [row["source"] for row in rows] == [f"{server.url}{name}" for name in names]
    places = {"path", "source"}
    assert [{name: row[name] for name in row if name not in places} for row in rows] == [
        {name: row[name] for name in row if name not in places} for row in expected
    ]
    for row, like in zip(rows, expected, strict=True):
        made, known = copy / row["path"], tmp_path / "expected" / like["path"]
        assert made.read_bytes() == known.read_bytes()
    assert len({row["box"] for row in rows}) > 2 and rows[0]["price"] == "0.5"
    assert len(load("table", copy / "catalogue.csv")) == 5

    mixed = write_table(tmp_path / "files", [f"{server.url}/0.jpg", "0", f"{server.url}/clear"])
    assert run(mixed, tmp_path / "mixed") == 0
    sums = [row["sha256"] for row in read_rows(tmp_path / "mixed/catalogue.csv")]
    assert sums == [expected[row]["sha256"] for row in (4, 0, 2)]
    capsys.readouterr()
    assert run(mixed, tmp_path / "files/copy") == 1
    assert "must be a folder apart from the images'" in capsys.readouterr().err


def test_the_commands_of_the_page(server, tmp_path, monkeypatch, capsys):
    """Training names the first of them, and takes what it has made."""
    shown = [words[2:] for words in commands("docs/feed.md") if "fir_tf.datasets" in words]
    (fetch,), (look,) = (
        [words[1:] for words in shown if words[1] == name and told in words]
        for name, told in (("prepare", "--out=copy"), ("check", "--data_dir=copy/catalogue.csv"))
    )
    monkeypatch.chdir(tmp_path)
    rows = products(40, 1, server.url)
    write_xml(Path("shop/feed.xml"), rows)
    server.photos = {f"/{n}-0.jpg": jpeg(n) for n in range(40)}
    feed = Config(dataset="feed", data_dir="shop/feed.xml", backbone="efficientnet_lite0")
    with pytest.raises(FirError, match="the photo is an address") as refused:
        load_training(feed)
    assert f"python -m fir_tf.datasets {' '.join(fetch)}\n" in str(refused.value)
    assert main([*fetch, "--allow_private", "--photo_cache=cache"]) == 0
    copy = dataclasses.replace(feed, dataset="table", data_dir="copy/catalogue.csv")
    assert f"--dataset={copy.dataset} --data_dir={copy.data_dir}\n" in str(refused.value)
    found, expected = load_training(copy), load_unchecked("feed", "shop/feed.xml", "", True)
    assert len(found) == 40 and found.items == expected.items
    prices = [float(row["price"].removesuffix(" EUR")) for row in rows]
    assert [found.metadata(row)["price"] for row in range(40)] == prices
    capsys.readouterr()
    # One colour each: many are near-duplicates.
    assert main(look) in (0, 2)
    assert "Check of table: copy/catalogue.csv" in capsys.readouterr().out


def test_what_is_here_is_not_fetched_again(server, tmp_path, capsys):
    table, copy = write_table(tmp_path, urls(server, 10)), tmp_path / "copy"
    assert run(table, copy) == 0
    before = tree(copy)
    copies = sorted((copy / "images").rglob("*.jpg"))
    copies[0].unlink()
    copies[1].write_bytes(b"damaged")
    assert run(table, copy) == 0
    assert "2 images written, 8 were there, 0 cannot" in capsys.readouterr().out
    assert tree(copy) == before and len(server.requests) == 10

    server.photos["/3.jpg"] = jpeg(99)
    assert run(table, copy) == 0 and len(server.requests) == 10
    assert run(table, copy, "--photo_max_age=0") == 0
    assert "1 images written, 9 were there" in capsys.readouterr().out
    assert all("If-None-Match" in headers for _, headers in server.requests[10:])
    changed = {name for name, total in tree(copy).items() if before[name] != total}
    (row,) = [row for row in read_rows(copy / "catalogue.csv") if row["source"].endswith("/3.jpg")]
    assert changed == {row["path"], "catalogue.csv"}
    assert (copy / row["path"]).read_bytes() == jpeg(99)


def test_rows_that_fail_are_listed_and_tried_again(server, tmp_path, capsys):
    server.faults = {"/0.jpg": 404, "/1.jpg": "html", "/2.jpg": "cut_off"}
    server.photos["/broken.jpg"] = jpeg(1)[:200]
    bad = [f"{server.url}/broken.jpg", "ftp://shop.example/b.jpg"]
    table, copy = write_table(tmp_path, [*urls(server), *bad]), tmp_path / "copy"
    assert run(table, copy) == 1
    said = capsys.readouterr()
    assert "5 of 42 images (11.9%) cannot be read, more than 1%" in said.err
    assert f"{table}:2: {server.url}/0.jpg: 404 Not Found" in said.out
    found = read_rows(copy / "unreadable.csv")
    assert [row["path"] for row in found] == [*urls(server, 3), *bad]
    assert [row["listed"] for row in found] == [f"{table}:{line}" for line in (2, 3, 4, 42, 43)]
    reasons = ["404 Not Found", "not a photo", "broken off", "", "scheme not allowed"]
    for row, reason in zip(found, reasons, strict=True):
        assert row["reason"].startswith(reason) and row["reason"]
    assert len(load("table", copy / "catalogue.csv")) == 37

    server.faults.clear()
    before = len(server.requests)
    assert run(write_table(tmp_path, urls(server)), copy) == 0
    assert "3 images written, 37 were there, 0 cannot" in capsys.readouterr().out
    assert sorted(server.asked()[before:]) == ["/0.jpg", "/1.jpg", "/2.jpg"]
    assert not (copy / "unreadable.csv").exists()


def test_of_a_server_that_is_down_the_earlier_copy_stays(server, tmp_path, capsys):
    table, copy = write_table(tmp_path, urls(server)), tmp_path / "copy"
    assert run(table, copy) == 0
    before, known = tree(copy), (copy / "journal.jsonl").read_bytes()
    server.photos["/0.jpg"] = jpeg(1)[:200]
    assert run(table, copy, "--photo_max_age=0") == 0
    assert f"1 image ({server.url}/0.jpg: " in capsys.readouterr().out
    assert tree(copy) == before
    server.faults = dict.fromkeys(server.photos, 404)
    assert run(table, copy, "--photo_max_age=0") == 1
    assert "40 of 40 images cannot be read now; is a share or a server" in capsys.readouterr().err
    server.stop()
    assert run(table, copy, "--photo_max_age=0") == 1
    assert tree(copy) == before and (copy / "journal.jsonl").read_bytes() == known


def test_a_feed_from_others_does_not_reach_inside(server, tmp_path, capsys):
    table = write_table(tmp_path, urls(server, 2))
    assert run(table, tmp_path / "copy", private=False) == 1
    said = capsys.readouterr()
    assert "none of the 2 images can be read" in said.err
    assert "private address" in said.out and not server.requests
    assert run(table, tmp_path / "copy", "--connections=0") == 1
    assert "`connections` must be" in capsys.readouterr().err


def test_a_failing_run_goes_on_and_fetches_nothing_twice(server, tmp_path, monkeypatch):
    """Even when the cache holds no more than what is being worked on."""
    table, copy = write_table(tmp_path, urls(server)), tmp_path / "copy"
    convert_file, count = prepare.convert_file, iter(range(100))

    def failing(task):
        if next(count) == 25:
            raise FirError("that is enough")
        return convert_file(task)

    monkeypatch.setattr(prepare, "convert_file", failing)
    assert run(table, copy, "--photo_cache_gb=0") == 1
    monkeypatch.undo()
    assert not (copy / "catalogue.csv").exists()
    lines = (copy / "journal.jsonl").read_text().splitlines()
    noted = {json.loads(line)["path"].removeprefix(server.url) for line in lines}
    assert len(noted) == 25
    before = len(server.requests)
    assert run(table, copy, "--photo_cache_gb=0") == 0
    assert not noted & set(server.asked()[before:])
    assert len(load("table", copy / "catalogue.csv")) == 40


@pytest.mark.nightly
@pytest.mark.slow
def test_a_killed_run_goes_on_with_workers(server, tmp_path):
    server.photos, server.delay = {f"/{n}.jpg": jpeg(n) for n in range(120)}, 0.05
    table, copy = write_table(tmp_path, urls(server, 120)), tmp_path / "copy"
    command = [
        *(sys.executable, "-m", "fir_tf.datasets", "prepare", "--dataset=table", "--max_side=100"),
        *(f"--data_dir={table}", f"--out={copy}", f"--photo_cache={tmp_path / 'cache'}"),
        *("--allow_private", "--connections=4", "--workers=2"),
    ]
    root = Path(prepare.__file__).parents[2]
    with subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE) as process:
        while len(server.requests) < 60 and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL and not (copy / "catalogue.csv").exists()
    server.delay = 0.0
    assert len(server.requests) < 120
    assert subprocess.run(command, cwd=root, env=os.environ).returncode == 0
    # Twice only what was under way.
    assert len(server.requests) <= 120 + 4
    assert run(table, tmp_path / "whole") == 0
    assert tree(copy) == tree(tmp_path / "whole")
