"""search.py index --beam on Beam's direct runner."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from test_index import ROOT, make_photos, make_run, options, script, stored

from fir_tf.errors import FirError
from fir_tf.search.engines import Record, open_engine
from fir_tf.search.indexing import build

pytest.importorskip(
    "apache_beam",
    reason="Beam has an environment of its own: make test-beam",
)
from fir_tf.search import beam

THREADS = "--runner=DirectRunner --direct_num_workers=2 --direct_running_mode=multi_threading"
PROCESSES = THREADS.replace("threading", "processing")
BAD = ["Tops/item1/broken.jpg", "Tops/item1/empty.jpg"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """(run, photos, what `search.py index` makes of them): 400 photos and two that cannot be read."""
    base = tmp_path_factory.mktemp("shop")
    run, photos = make_run(base / "run"), make_photos(base / "photos", items=200)
    for path, contents in zip(BAD, (b"no image", b""), strict=True):
        (photos / path).write_bytes(contents)
    counts = build(options(run, photos, base / "index"))
    assert counts["unreadable"] == BAD
    return run, photos, stored(base / "index")


def assert_equal(address, expected):
    got = stored(address)
    assert {path: record for path, (record, _) in got.items()} == {
        path: record for path, (record, _) in expected.items()
    }
    for path, (_, vector) in got.items():
        np.testing.assert_allclose(vector, expected[path][1], atol=1e-5)


def size(address):
    return sum(path.stat().st_size for path in address.glob("vectors-*.f32"))


@pytest.mark.slow
def test_the_same_index_as_without_beam(shop, tmp_path, capsys):
    run, photos, expected = shop
    address = tmp_path / "index"
    counts = beam.build(options(run, photos, address, beam=THREADS))
    assert_equal(address, expected)
    assert (counts["embedded"], counts["kept"], counts["images"]) == (400, 0, 400)
    out = capsys.readouterr().out
    assert counts["unreadable"] == BAD and all(path in out for path in BAD)
    before, bytes_before = stored(address), size(address)
    counts = beam.build(options(run, photos, address, beam=THREADS))
    assert (counts["embedded"], counts["kept"], counts["images"]) == (0, 400, 400)
    assert size(address) == bytes_before
    for path, (record, vector) in stored(address).items():
        assert before[path][0] == record
        np.testing.assert_array_equal(before[path][1], vector)


@pytest.mark.slow
def test_only_what_has_changed_is_embedded(shop, tmp_path):
    """Photos that changed, broke, vanished or were labelled anew, as without Beam."""
    run, photos = shop[0], make_photos(tmp_path / "photos")
    table = photos / "shop.csv"

    def write(category, views):
        rows = [f"Tops/item1/{view}.jpg,A,{category}" for view in range(views)]
        rows += [f"Dresses/item{item}/{view}.jpg,B," for item in (0, 2, 4) for view in range(2)]
        table.write_text("\n".join(["path,item,category", *rows]) + "\n")

    write("Tops", 2)
    for address, call in ((tmp_path / "a", build), (tmp_path / "b", beam.build)):
        call(options(run, table, address, beam=THREADS))
    write("Skirts", 1)
    shutil.copy(photos / "Tops/item3/0.jpg", photos / "Dresses/item0/0.jpg")
    (photos / "Dresses/item2/0.jpg").write_bytes(b"no image")
    (photos / "Dresses/item2/1.jpg").unlink()
    ours, theirs = (
        call(options(run, table, address, beam=THREADS, max_removed=0.2))
        for address, call in ((tmp_path / "a", build), (tmp_path / "b", beam.build))
    )
    names = ("embedded", "kept", "relabelled", "removed", "images", "unopened")
    assert [theirs[name] for name in names] == [ours[name] for name in names] == [1, 3, 1, 1, 7, 1]
    assert sorted(theirs["held"]) == sorted(ours["held"]) == sorted(theirs["unreadable"])
    assert sorted(theirs["unreadable"]) == ["Dresses/item2/0.jpg", "Dresses/item2/1.jpg"]
    assert_equal(tmp_path / "b", stored(tmp_path / "a"))


_KILLED = """
import sys
from fir_tf.search import beam
from fir_tf.search_options import IndexOptions
# Small pieces: something is stored long before the end.
beam.PIECE = 4
beam.build(IndexOptions(*sys.argv[1:4], batch_size=4, beam=sys.argv[4]))
"""


@pytest.mark.slow
def test_killed_and_restarted(shop, tmp_path):
    """kill -9 of the command and its two worker processes in the middle, then the command again."""
    run, photos, expected = shop
    address = tmp_path / "index"
    with open_engine(address, create=True) as engine:
        process = subprocess.Popen(
            [sys.executable, "-c", _KILLED, run, photos, address, PROCESSES],
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd=ROOT,
        )
        while not len(engine) and process.poll() is None:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        there = len(engine)
    assert 0 < there < len(expected)
    out, _ = script(
        "index",
        f"--model={run}",
        f"--images={photos}",
        f"--index={address}",
        "--batch_size=4",
        f"--beam={PROCESSES}",
    )
    assert f"{len(expected) - there} embedded, {there} kept" in out
    assert "2 images cannot be read" in out and all(path in out for path in BAD)
    assert_equal(address, expected)


def test_a_bundle_that_is_tried_again_changes_nothing(tmp_path):
    """Even beside the first attempt, which has not ended."""
    address = tmp_path / "index"
    with open_engine(address, create=True) as engine:
        engine.set_info({"dimension": 2})
    record = Record("a.jpg", "A", "", "", "sum")
    batch = [
        (record, (np.array([0, 1], np.float32), "Tops", True)),
        (Record("b.jpg", "", "", "", "sum"), (np.zeros(2, np.float32), "", False)),
    ]
    attempts = [beam.Store(str(address)) for _ in range(2)]
    for attempt in attempts:
        attempt.setup()
    for attempt in attempts * 2:
        assert list(attempt.process(batch)) == [("b.jpg", False)]
        ((kept, vector),) = stored(address).values()
        assert kept == Record("a.jpg", "A", "Tops", "", "sum") and vector.tolist() == [0, 1]
    for attempt in attempts:
        attempt.teardown()


def test_a_worker_without_the_photos_deletes_nothing(tmp_path):
    with pytest.raises(FirError, match="must be there on every worker. Received: .*nowhere"):
        beam.Compare(str(tmp_path / "index"), str(tmp_path / "nowhere")).setup()


@pytest.mark.slow
def test_an_error_in_a_worker_is_a_message(shop, tmp_path, monkeypatch):
    def fails(self, batch):
        raise FirError("`vectors` must be good. Received: bad ones")

    monkeypatch.setattr(beam.Store, "process", fails)
    with pytest.raises(FirError, match="^the pipeline failed: .*Received: bad ones"):
        beam.build(options(shop[0], shop[1], tmp_path / "index", beam=THREADS))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("--direct_num_wokers=2", "Received: --direct_num_wokers"),
        ("DirectRunner", "Received: DirectRunner"),
        ("--direct_num_workers=two", "invalid int value: 'two'"),
        ("--runner='", "No closing quotation"),
        ("--runner=NoRunner", "Received: --runner=NoRunner"),
    ],
)
def test_wrong_options_are_told(text, message):
    with pytest.raises(FirError, match="`beam` must be options of Apache Beam.*" + message):
        beam.pipeline_options(text)


def test_options_reach_the_runner():
    given = "--runner=FlinkRunner --flink_master=host:8081 --parallelism=3"
    everything = beam.pipeline_options(given).get_all_options(retain_unknown_options=True)
    assert everything["runner"] == "FlinkRunner" and everything["flink_master"] == "host:8081"
    # Flink's own, which Beam itself does not know.
    assert everything["parallelism"] in (3, "3")


def test_what_one_process_alone_can_write_is_refused(tmp_path):
    with pytest.raises(FirError, match=re.escape("a folder on one machine, milvus+http://")):
        beam.build(options("run", tmp_path, f"milvus:{tmp_path}/index.db", beam=THREADS))
    with pytest.raises(FirError, match="--temp_location of `beam` must be a folder"):
        (tmp_path / "file").write_text("")
        settings = beam.pipeline_options(f"--temp_location={tmp_path / 'file'}")
        with beam._listed([], settings):
            pass
