"""search.py index --dask: the index is the one that is made without it."""

import contextlib
import shutil
import signal
import subprocess
import sys

import distributed
import numpy as np
import pytest
from commands import done
from photo_server import PhotoServer, jpeg
from stub_encoder import StubEncoder
from test_index import make_photos, make_run, options, stored

from fir_tf.errors import FirError
from fir_tf.search import cluster, indexing
from fir_tf.search import encoder as encoder_module
from fir_tf.search.engines import open_engine
from fir_tf.search.indexing import build

BAD = ["Dresses/item2/empty.jpg", "Tops/item1/broken.jpg"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """(run, photos, the index without a cluster): 60 photos and two that cannot be read."""
    base = tmp_path_factory.mktemp("shop")
    run, photos = make_run(base / "run"), make_photos(base / "photos", items=30)
    for path, contents in zip(BAD, (b"", b"no image"), strict=True):
        (photos / path).write_bytes(contents)
    assert build(options(run, photos, base / "index"))["unreadable"] == BAD
    return run, photos, base / "index"


@pytest.fixture(scope="module")
def threads():
    """The address of a cluster in this process: its two workers share the imported TensorFlow."""
    settings = {"processes": False, "protocol": "tcp", "dashboard_address": "127.0.0.1:0"}
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", **settings
    ) as found:
        yield found.scheduler_address


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(indexing, "PIECE", 4)
    cluster._opened.cache_clear()


def assert_equal(address, expected):
    got, expected = stored(address), stored(expected)
    assert {path: record for path, (record, _) in got.items()} == {
        path: record for path, (record, _) in expected.items()
    }
    for path, (_, vector) in got.items():
        np.testing.assert_allclose(vector, expected[path][1], atol=1e-5)


def test_the_same_index_as_without_a_cluster(shop, threads, tmp_path, capsys):
    run, photos, expected = shop
    counts = cluster.build(options(run, photos, tmp_path / "index", dask=threads))
    assert_equal(tmp_path / "index", expected)
    assert (counts["embedded"], counts["kept"], counts["images"]) == (60, 0, 60)
    said = capsys.readouterr().out
    assert counts["unreadable"] == BAD and all(path in said for path in BAD)
    before = stored(tmp_path / "index")
    given = (f"--model={run}", f"--images={photos}", f"--index={tmp_path / 'index'}")
    said, _ = done("search.py", "index", *given, f"--dask={threads}")
    assert "0 embedded, 60 kept" in said
    assert all(
        (before[path][1] == row[1]).all() for path, row in stored(tmp_path / "index").items()
    )


def test_only_what_has_changed_is_embedded(shop, threads, tmp_path):
    """Photos that changed, broke, vanished or were labelled anew, as without a cluster."""
    run, photos = shop[0], make_photos(tmp_path / "photos")
    table = photos / "shop.csv"

    def write(category, views):
        rows = [f"Tops/item1/{view}.jpg,A,{category},{views}" for view in range(views)]
        rows += [f"Dresses/item{item}/{view}.jpg,B,,1" for item in (0, 2, 4) for view in range(2)]
        table.write_text("\n".join(["path,item,category,price", *rows]) + "\n")

    places = {tmp_path / "a": build, tmp_path / "b": cluster.build}
    write("Tops", 2)
    for address, call in places.items():
        call(options(run, table, address, dask=threads))
    write("Skirts", 1)
    shutil.copy(photos / "Tops/item3/0.jpg", photos / "Dresses/item0/0.jpg")
    (photos / "Dresses/item2/0.jpg").write_bytes(b"no image")
    (photos / "Dresses/item2/1.jpg").unlink()
    ours, theirs = (
        call(options(run, table, address, dask=threads, max_removed=0.2))
        for address, call in places.items()
    )
    names = ("embedded", "kept", "relabelled", "removed", "images", "unopened")
    assert [theirs[name] for name in names] == [ours[name] for name in names] == [1, 3, 1, 1, 7, 1]
    for name in ("held", "unreadable"):
        assert sorted(theirs[name]) == sorted(ours[name])
        assert sorted(ours[name]) == ["Dresses/item2/0.jpg", "Dresses/item2/1.jpg"]
    assert_equal(tmp_path / "b", tmp_path / "a")
    columns = [open_engine(address).info()["columns"] for address in places]
    assert columns[0] == columns[1] and "price" in columns[0]


def test_workers_fetch_photos_at_addresses(threads, tmp_path, monkeypatch):
    monkeypatch.setattr(encoder_module, "Encoder", StubEncoder)
    monkeypatch.setattr(cluster, "Encoder", StubEncoder)
    server = PhotoServer({f"/{number}.jpg": jpeg(number) for number in range(12)})
    server.faults["/5.jpg"] = 404
    table = tmp_path / "feed.csv"
    rows = [f"{server.url}/{number}.jpg,{number}" for number in range(12)]
    table.write_text("\n".join(["path,item", *rows]) + "\n")
    fetching = {"photo_cache": str(tmp_path / "cache"), "allow_private": True}
    for address, call in ((tmp_path / "a", build), (tmp_path / "b", cluster.build)):
        counts = call(options("stub", table, address, dask=threads, **fetching))
        assert counts["embedded"] == 11 and counts["unopened"] == 1
        assert "7,http" in (address / "errors.csv").read_text()
    server.stop()
    assert_equal(tmp_path / "b", tmp_path / "a")


@contextlib.contextmanager
def started(part, *arguments):
    """Yields a process of Dask's command line."""
    command = [sys.executable, "-m", "dask", part, *arguments, "--no-dashboard"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def killing(monkeypatch, when):
    """Calls `when(client)` after each answer until it returns a process; kills that."""
    answers, killed = cluster._answers, []

    def some(client, *rest):
        for answer in answers(client, *rest):
            yield answer
            if not killed and (victim := when(client)):
                victim.send_signal(signal.SIGKILL)
                killed.append(victim)

    with monkeypatch.context() as patch:
        patch.setattr(cluster, "_answers", some)
        yield
    assert killed


@pytest.mark.nightly
@pytest.mark.slow
def test_a_worker_that_is_killed_loses_nothing(shop, tmp_path, monkeypatch):
    """kill -9 of one of two workers that has work to do; then of the scheduler itself."""
    run, photos, expected = shop
    file = tmp_path / "scheduler.json"
    own = ["--host=127.0.0.1", "--no-nanny", "--nthreads=1"]
    own += [f"--scheduler-file={file}", f"--local-directory={tmp_path}"]
    with (
        started("scheduler", "--host=127.0.0.1", "--port=0", f"--scheduler-file={file}") as head,
        started("worker", *own, "--name=kept"),
        started("worker", *own, "--name=killed") as victim,
    ):
        with distributed.Client(
            scheduler_file=str(file), timeout=60, set_as_default=False
        ) as client:
            client.wait_for_workers(2, timeout=120)
            address = client.scheduler.address
            (name,) = (
                place
                for place, worker in client.scheduler_info(n_workers=-1)["workers"].items()
                if worker["name"] == "killed"
            )

        def at_work(client):
            return victim if client.processing().get(name) else None

        def begun(client):
            return head

        with killing(monkeypatch, at_work):
            counts = cluster.build(options(run, photos, tmp_path / "index", dask=address))
        assert victim.wait(10) == -signal.SIGKILL
        assert counts["embedded"] == 60 and counts["unreadable"] == BAD
        assert_equal(tmp_path / "index", expected)
        monkeypatch.setattr(cluster, "_PATIENCE", 5.0)
        lost = pytest.raises(FirError, match="did not embed all photos: .*\n.*same command goes on")
        with lost, killing(monkeypatch, begun):
            cluster.build(options(run, photos, tmp_path / "other", dask=address))
    there = len(stored(tmp_path / "other"))
    assert 0 < there < 60
    counts = build(options(run, photos, tmp_path / "other"))
    assert (counts["kept"], counts["embedded"]) == (there, 60 - there)
    assert_equal(tmp_path / "other", expected)


def test_what_a_worker_runs_into_is_a_message(shop, threads, tmp_path, monkeypatch):
    def fails(*_):
        raise ValueError("this worker has no TensorFlow")

    monkeypatch.setattr(cluster, "fill", fails)
    with pytest.raises(
        FirError, match=f"{threads} did not embed .*: this worker has no TensorFlow"
    ):
        cluster.build(options(shop[0], shop[1], tmp_path / "index", dask=threads))


def test_a_worker_without_the_photos_says_so(shop, tmp_path):
    task = cluster.Task(options(shop[0], shop[1], tmp_path), f'{{"root": "{tmp_path}/no"}}', "")
    with pytest.raises(FirError, match="must be there on every worker. Received: .*/no"):
        cluster.work(task, [], {})


def test_a_cluster_that_is_not_there(shop, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "_PATIENCE", 0.5)
    for address in ("tcp://127.0.0.1:1", "nowhere://x"):
        with pytest.raises(FirError, match=f"`dask` must be the address .* Received: {address}"):
            cluster.build(options(shop[0], shop[1], tmp_path / "index", dask=address))
    settings = {"processes": False, "protocol": "tcp", "dashboard_address": "127.0.0.1:0"}
    with distributed.LocalCluster(n_workers=0, host="127.0.0.1", **settings) as empty:
        given = options(shop[0], shop[1], tmp_path / "index", dask=empty.scheduler_address)
        with pytest.raises(FirError, match="no worker has come in 0 s"):
            cluster.build(given)
