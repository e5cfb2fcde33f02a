"""The page's server as a service: batches, limits, probes, metrics, access log, and its end."""

import concurrent.futures
import contextlib
import importlib
import io
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from fir_tf.errors import FirError
from fir_tf.search.index import Index
from fir_tf.search.opened import Encoded
from fir_tf.search_options import ServiceOptions, WebOptions

yaml = pytest.importorskip("yaml")
uvicorn = pytest.importorskip("uvicorn")
parser = pytest.importorskip("prometheus_client.parser")
App = importlib.import_module("fir_tf.search.web.app").App
AccessLog = importlib.import_module("fir_tf.search.web.access").AccessLog
Batcher = importlib.import_module("fir_tf.search.web.batches").Batcher
service_module = importlib.import_module("fir_tf.search.web.service")
metrics_module = importlib.import_module("fir_tf.search.web.metrics")
ROOT = Path(__file__).parent.parent
# A server that hangs is a failure and no wait for ever.
PATIENCE = 120


def until(true, what):
    """Waits for what happens in another thread or process."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.01)


class Model:
    """Embeds bytes as their length and sum, when it is let; keeps the sizes of its batches."""

    model = ""

    def __init__(self, slow_alone=0.0):
        self.slow_alone = slow_alone
        self.sizes, self.free, self.entered = [], threading.Event(), threading.Semaphore(0)
        self.free.set()

    def encode(self, photos, guess=False):
        self.sizes.append(len(photos))
        self.entered.release()
        assert self.free.wait(PATIENCE)
        # So that one photo is never slower than two by chance.
        time.sleep(self.slow_alone if len(photos) == 1 else 0.01 * len(photos))
        if b"poison" in photos:
            raise ValueError("poison")
        vectors = np.array([vector_of(photo) for photo in photos], np.float32)
        valid = np.array([photo != b"bad" for photo in photos])
        return Encoded(vectors * valid[:, np.newaxis], [""] * len(photos), valid)

    def fingerprint(self):
        return {"name": "0123abcd", "probes": "", "model": ""}


def vector_of(photo):
    vector = np.array([len(photo), sum(photo) % 97, 1.0, 5.0])
    return vector / np.linalg.norm(vector)


@contextlib.contextmanager
def batcher(model, most=8, wait=0.0):
    seen = []
    batches = Batcher(lambda photos: (model.encode(photos), "gen7"), most, wait, seen.append)
    try:
        yield batches, seen
    finally:
        model.free.set()
        batches.close()


def test_what_waits_while_the_model_works_is_the_next_batch():
    model = Model()
    with batcher(model, most=4) as (batches, seen):
        model.free.clear()
        first = batches.submit(b"first")
        assert model.entered.acquire(timeout=PATIENCE)
        photos = [bytes([n]) * (n + 1) for n in range(9)]
        others = [batches.submit(photo) for photo in photos]
        assert batches.waiting == 9 and not first.done()
        model.free.set()
        for photo, future in zip([b"first", *photos], [first, *others], strict=True):
            found = future.result(PATIENCE)
            assert found.valid and np.allclose(found.vector, vector_of(photo))
            assert found.generation == "gen7"
        assert model.sizes == seen == [1, 4, 4, 1]
        assert others[-1].result().waited >= others[0].result().waited > 0


def test_a_photo_waits_for_others_until_its_time_is_over():
    model = Model()
    with batcher(model, most=3, wait=0.2) as (batches, _):
        begin = time.monotonic()
        assert batches.submit(b"alone").result(PATIENCE).valid
        assert time.monotonic() - begin >= 0.2
    with batcher(model, most=3, wait=10 * PATIENCE) as (batches, _):
        # A full batch waits for nothing.
        futures = [batches.submit(bytes(n)) for n in (1, 2, 3)]
        assert all(future.result(PATIENCE).valid for future in futures)
    assert model.sizes == [1, 3]


def test_neighbours_in_a_batch_are_left_alone():
    """Of a photo that cannot be read, of one that the model fails at, of one nobody waits for."""
    model = Model()
    with batcher(model) as (batches, _):
        model.free.clear()
        batches.submit(b"first")
        assert model.entered.acquire(timeout=PATIENCE)
        photos = [b"a", b"bad", b"gone", b"poison", b"bb"]
        futures = dict(zip(photos, map(batches.submit, photos), strict=True))
        assert futures[b"gone"].cancel()
        model.free.set()
        for photo in (b"a", b"bb"):
            found = futures[photo].result(PATIENCE)
            assert found.valid and np.allclose(found.vector, vector_of(photo))
        assert not futures[b"bad"].result(PATIENCE).valid
        with pytest.raises(ValueError, match="poison"):
            futures[b"poison"].result(PATIENCE)
    # The batch, and then each of it alone.
    assert model.sizes == [1, 4, 1, 1, 1, 1]


def test_what_waits_at_the_end_is_embedded():
    model = Model()
    with batcher(model, wait=10 * PATIENCE) as (batches, _):
        future = batches.submit(b"late")
    assert future.result(0).valid


def test_the_contents_of_the_newest_uploads_are_kept(monkeypatch):
    monkeypatch.setattr(service_module, "_CONTENTS", 10)
    uploads = service_module._Uploads(3, lambda hit: None)
    for number, size in enumerate((4, 5, 5, 4, 20)):
        uploads.put(number, service_module.Upload("", np.zeros(2), b"small", bytes(size)))
        kept = {key: len(uploads.get(key).contents) for key in range(5) if uploads.get(key)}
        assert (
            kept
            == [{0: 4}, {0: 4, 1: 5}, {0: 0, 1: 5, 2: 5}, {1: 0, 2: 5, 3: 4}, {2: 0, 3: 0, 4: 0}][
                number
            ]
        )


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("max_batch", 0, "between 1 and 1024"),
        ("batch_wait_ms", -1, "between 0 and 10000"),
        ("max_queue", 0, "between 1 and 100000"),
        ("max_per_client", -1, "between 0 and 100000"),
        ("stop_seconds", -0.5, "between 0 and 3600"),
        ("max_upload_mb", 0, "between 1 and 1000"),
    ],
)
def test_limits_are_checked(name, value, message):
    with pytest.raises(FirError, match=f"`{name}` must be {message}. Received: {value}"):
        WebOptions(index="x", **{name: value})


def jpeg(seed):
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@contextlib.contextmanager
def running(opened=True, slow_alone=0.0, **options):
    """Yields (app, model, client) of a server on loopback whose model is let go by the test."""
    model, app = Model(slow_alone), App(ServiceOptions(**options))
    vectors = np.array([vector_of(jpeg(n)) for n in range(5)], np.float32)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    with Index.from_arrays(vectors, {"item": list("abcde")}) as index:
        index._following.last._encoder = model
        thread.start()
        if opened:
            app.open(index, None)
            model.sizes.clear()
            # What warming has entered.
            while model.entered.acquire(blocking=False):
                pass
        try:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            with httpx.Client(base_url=url, timeout=PATIENCE) as client:
                app.index = index
                yield app, model, client
        finally:
            model.free.set()
            server.should_exit = True
            thread.join(PATIENCE)
            app.close()


def upload(client, contents):
    return client.post("/api/photo", content=contents)


def counted(client):
    """Returns {(name, labels): value} of what the server counts."""
    answer = client.get("/metrics")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parser.text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_the_doors_are_closed_before_and_after():
    with running(opened=False) as (app, model, client):
        for path in ("/readyz", "/api/info", "/api/search?like=0", "/image?path=0"):
            answer = client.get(path)
            assert answer.status_code == 503 and "opened" in answer.json()["error"], path
            assert int(answer.headers["retry-after"]) >= 1
        assert client.get("/healthz").json() == {"status": "alive"}
        assert counted(client)["fir_ready", ()] == 0
        app.open(app.index, None)
        assert set(model.sizes) == {1, 2, 8}
        assert client.get("/readyz").status_code == client.get("/api/info").status_code == 200
        assert counted(client)["fir_ready", ()] == 1
        app.doors.close()
        assert client.get("/readyz").status_code == client.get("/api/info").status_code == 503
        assert client.get("/healthz").status_code == client.get("/").status_code == 200
        # Who stops does not open again.
        app.doors.open()
        assert client.get("/readyz").status_code == 503


@pytest.mark.parametrize(
    ("limit", "status"), [({"max_queue": 2}, 503), ({"max_per_client": 2}, 429)]
)
def test_who_is_too_many_is_told_at_once(limit, status):
    with (
        running(**limit) as (app, model, client),
        concurrent.futures.ThreadPoolExecutor(2) as pool,
    ):
        model.free.clear()
        asked = [pool.submit(upload, client, jpeg(n)) for n in range(2)]
        until(lambda: app.doors.under_way == 2, "both uploads")
        for answer in (upload(client, jpeg(3)), client.get("/api/search", params={"like": "0"})):
            assert answer.status_code == status and "Too many" in answer.json()["error"]
            assert int(answer.headers["retry-after"]) >= 1
        # Probes and the page have no place among them.
        assert client.get("/readyz").status_code == client.get("/").status_code == 200
        assert counted(client)["fir_requests_under_way", ()] == 2
        model.free.set()
        assert [future.result().status_code for future in asked] == [200, 200]
        assert upload(client, jpeg(3)).status_code == 200
        labels = (("route", "/api/photo"), ("status", str(status)))
        assert counted(client)["fir_requests_total", labels] == 1


def test_concurrent_photos_are_one_batch_and_a_client_that_leaves_is_left_out():
    photos = [jpeg(n) for n in range(6)]
    with (
        running() as (app, model, client),
        concurrent.futures.ThreadPoolExecutor(7) as pool,
    ):
        model.free.clear()
        first = pool.submit(upload, client, photos[0])
        assert model.entered.acquire(timeout=PATIENCE)
        others = [pool.submit(upload, client, photo) for photo in photos[1:]]
        address = client.base_url.host, client.base_url.port
        head = f"POST /api/photo HTTP/1.1\r\nHost: x\r\nContent-Length: {len(photos[0])}\r\n\r\n"
        with socket.create_connection(address) as leaving:
            leaving.sendall(head.encode() + photos[0])
            until(lambda: app.service.waiting == 6, "all photos")
        until(lambda: app.doors.under_way == 6, "the one that left")
        model.free.set()
        names = [future.result().json()["photo"] for future in (first, *others)]
        assert model.sizes == [1, 5]
        # What one would get alone.
        for number, name in enumerate(names[:5]):
            best = client.get("/api/search", params={"photo": name, "k": 5}).json()["results"]
            assert best[0]["path"] == str(number) and best[0]["score"] == 1
            expected = sorted(vector_of(photos[number]) @ vector_of(p) for p in photos[:5])
            assert [hit["score"] for hit in best] == pytest.approx(expected[::-1], abs=1e-4)
        numbers = counted(client)
        assert (
            numbers["fir_batch_photos_sum", ()] == 6 and numbers["fir_batch_photos_count", ()] == 2
        )
        assert numbers["fir_batch_photos_bucket", (("le", "1.0"),)] == 1
        assert numbers["fir_queue_length", ()] == numbers["fir_requests_under_way", ()] == 0
        left = (("route", "/api/photo"), ("status", "499"))
        assert numbers["fir_requests_total", left] == 1


def test_a_model_that_is_slow_with_one_photo_gets_it_twice():
    with running(slow_alone=0.2) as (_, model, client):
        name = upload(client, jpeg(3)).json()["photo"]
        best = client.get("/api/search", params={"photo": name, "k": 1}).json()["results"][0]
        assert model.sizes == [2] and (best["path"], best["score"]) == ("3", 1)
        assert counted(client)["fir_batch_photos_sum", ()] == 1


def test_what_is_counted_is_what_was_asked():
    with running() as (app, _, client):
        name = upload(client, jpeg(0)).json()["photo"]
        assert upload(client, b"no photo").status_code == 415
        for photo in (name, name, "gone"):
            client.get("/api/search", params={"photo": photo})
        for path in ("/nothing", "/api/../etc/passwd", "/readyz"):
            client.get(path)
        client.get("/api/info")
        client.get("/api/info")
        numbers = counted(client)

        def requests(route, status):
            return numbers.get(("fir_requests_total", (("route", route), ("status", status))), 0)

        def stage(name, what="count"):
            return numbers[f"fir_stage_seconds_{what}", (("stage", name),)]

        assert (requests("/api/photo", "200"), requests("/api/photo", "415")) == (1, 1)
        assert (requests("/api/search", "200"), requests("/api/search", "404")) == (2, 1)
        assert requests("other", "404") == 2 and requests("/readyz", "200") == 1
        assert numbers["fir_request_seconds_count", (("route", "/api/photo"),)] == 2
        # One photo was refused before the model had it.
        assert [stage(name) for name in ("decode", "picture", "queue", "embed")] == [2, 1, 1, 1]
        assert stage("search") == stage("answer") == 2
        whole = numbers["fir_request_seconds_sum", (("route", "/api/search"),)]
        assert 0 < stage("search", "sum") + stage("answer", "sum") <= whole
        for cache, hits, misses in (("uploads", 2, 1), ("labels", 1, 1)):
            assert numbers["fir_cache_hits_total", (("cache", cache),)] == hits
            assert numbers["fir_cache_misses_total", (("cache", cache),)] == misses
        assert numbers["fir_index_records", ()] == 5
        assert numbers["fir_model_info", (("fingerprint", "0123abcd"),)] == 1
        assert numbers["fir_index_info", (("generation", "first"),)] == 1


def test_a_database_that_is_away_leaves_the_other_numbers(monkeypatch):
    with running() as (app, _, client):
        monkeypatch.setattr(
            type(app.index.engine), "__len__", lambda _: (_ for _ in ()).throw(OSError("away"))
        )
        numbers = counted(client)
        assert np.isnan(numbers["fir_index_records", ()]) and numbers["fir_ready", ()] == 1


def test_without_prometheus_all_else_works(monkeypatch):
    monkeypatch.setattr(metrics_module, "prometheus_client", None)
    with running() as (_, _, client):
        answer = client.get("/metrics")
        assert answer.status_code == 404 and "fir_tf[metrics]" in answer.json()["error"]
        assert upload(client, jpeg(0)).status_code == 200
        assert client.get("/readyz").status_code == 200


def test_the_access_log_says_nothing_of_what_was_asked(tmp_path):
    place = tmp_path / "logs" / "access.jsonl"
    with running(access_log=str(place)) as (_, _, client):
        name = upload(client, jpeg(0)).json()["photo"]
        asked = {"photo": name, "k": 3, "category": "Jane Doe"}
        found = client.get("/api/search", params=asked).json()["results"]
        client.get("/api/search", params={"photo": name, "k": 3})
        client.get("/Jane Doe", headers={"user-agent": "Jane Doe"})
    text = place.read_text()
    first, filtered, second, other = map(json.loads, text.splitlines())
    assert not found and filtered["results"] == 0 and "top_score" not in filtered
    assert "Jane" not in text and name not in text and "127.0.0.1" not in text
    assert (first["route"], first["status"]) == ("/api/photo", 200)
    assert set(first) == {"time", "route", "status", "milliseconds"}
    stages = {"decode", "picture", "queue", "embed", "total"}
    assert set(first["milliseconds"]) == stages
    assert (second["k"], second["results"], second["top_score"]) == (3, 3, 1.0)
    assert set(second["milliseconds"]) == {"search", "answer", "total"}
    assert (other["route"], other["status"]) == ("other", 404)
    for line in (first, filtered, second, other):
        times = line["milliseconds"]
        assert sum(times.values()) - times["total"] <= times["total"] + 1
        assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line["time"])


def test_a_log_that_cannot_be_written_is_said_once(capsys):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    told = importlib.import_module("fir_tf.search.web.told").Told()
    log = AccessLog("/dev/full")
    for _ in range(3):
        log.write("/", 200, 0.1, told)
    assert capsys.readouterr().out.count("`access_log` /dev/full cannot be written to") == 1


def test_what_the_dashboard_shows_is_counted():
    """Every metric named in the files of serving/ for Prometheus and Grafana exists."""
    board = json.loads((ROOT / "serving/grafana.json").read_text())
    shown = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    config = yaml.safe_load((ROOT / "serving/prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    (rules,) = config["rule_files"]
    (group,) = yaml.safe_load((ROOT / "serving" / rules).read_text())["groups"]
    shown += [rule["expr"] for rule in group["rules"]]
    assert job["static_configs"][0]["targets"][0].endswith(f":{WebOptions(index='x').port}")
    named = {name for line in shown for name in re.findall(r"\b(?:fir|process)_\w+", line)}
    assert len(shown) >= 8 and len(named) >= 10
    with running() as (_, _, client):
        name = upload(client, jpeg(0)).json()["photo"]
        client.get("/api/search", params={"photo": name})
        client.get("/api/info")
        assert job["metrics_path"] == "/metrics"
        known = {name for name, _ in counted(client)}
    assert named <= known, named - known
    # What labels are named, too.
    matched = {name for line in shown for name in re.findall(r"(\w+)(?:=~|!~|!=|=)\"", line)}
    grouped = {
        n for line in shown for ns in re.findall(r"by \(([^)]*)\)", line) for n in ns.split(", ")
    }
    labels = {"route", "status", "stage", "cache", "le", "fingerprint"}
    assert {"route", "status"} <= matched | grouped <= labels


def test_the_comparison_of_batches_sees_other_answers(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    differing = importlib.import_module("load_batches").differing
    right = {f"{n}.jpg": 1 - n / 100 for n in range(10)}
    assert not differing(right, right)
    # The last two may change places, and rounding may do its part.
    last = {path: score for path, score in right.items() if path != "9.jpg"} | {"10.jpg": 0.91}
    assert not differing(right, last) and not differing(right, right | {"3.jpg": 0.9701})
    assert differing(right, right | {"3.jpg": 0.971}) and differing(right, {})
    assert differing(right, {path: right[path] for path in list(right)[:8]})


CODE = """
import functools, sys, time
from pathlib import Path
from fir_tf.search.encoder import Encoder
from fir_tf.search.web import serve, server
from fir_tf.search_options import WebOptions
from fir_tf.shell import run_command

here, index, port, seconds = sys.argv[1:]
encode, opened = Encoder.encode, server.Index


def wait(name):
    while not Path(here, name).exists():
        time.sleep(0.01)


def slow(self, photos, guess=False, boxes=None):
    if Path(here, "opened").exists():
        Path(here, "begun").touch()
        wait("go on")
    return encode(self, photos, guess, boxes)


def late(*arguments):
    wait("open")
    return opened(*arguments)


Encoder.encode, server.Index = slow, late
options = WebOptions(
    index=index, port=int(port), stop_seconds=float(seconds), locator="none"
)
sys.exit(run_command(functools.partial(serve, options)))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "seconds", "status"),
    [(signal.SIGTERM, 60, 0), pytest.param(signal.SIGINT, 0.2, 1, marks=pytest.mark.nightly)],
)
def test_a_signal_lets_what_is_under_way_be_finished(shop, tmp_path, number, seconds, status):
    """As long as it may; meanwhile the server says that it is not ready, as before its start."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    contents = (shop[0] / "Tops/item3/1.jpg").read_bytes()
    arguments = [sys.executable, "-c", CODE, str(tmp_path), str(shop[1]), str(port), str(seconds)]
    with (
        subprocess.Popen(
            arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE) as client,
        concurrent.futures.ThreadPoolExecutor(1) as pool,
    ):
        try:

            def status_of(path):
                with contextlib.suppress(httpx.TransportError):
                    return client.get(path).status_code

            until(lambda: status_of("/healthz") == 200, "a living server")
            assert status_of("/readyz") == 503
            (tmp_path / "open").touch()
            assert process.stdout.readline().startswith(f"http://127.0.0.1:{port}/")
            assert status_of("/readyz") == 200
            (tmp_path / "opened").touch()
            asked = pool.submit(upload, client, contents)
            until((tmp_path / "begun").exists, "a batch")
            process.send_signal(number)
            if not status:
                until(lambda: status_of("/readyz") == 503, "closed doors")
                assert client.get("/api/info").status_code == 503
                assert process.poll() is None and not asked.done()
                (tmp_path / "go on").touch()
                assert asked.result().status_code == 200
            assert process.wait(PATIENCE) == status
            said = process.stderr.read()
        finally:
            (tmp_path / "go on").touch()
            process.kill()
        if status:
            assert asked.result().status_code == 503
            assert "under way were cut off" in said and "stop_seconds" in said
        assert "Traceback" not in said


@pytest.mark.slow
def test_batches_of_a_trained_model_answer_as_one_by_one(server, shop):
    """Within rounding, beside files that are none; and the counters add up."""
    paths = sorted(shop[0].rglob("*.jpg"))
    with httpx.Client(base_url=server, timeout=PATIENCE) as client:
        before = counted(client)

        def ask(number):
            if number % 4 == 3:
                cut = paths[0].read_bytes()[:-200]
                return None, upload(client, cut[: len(cut) // 2]).status_code
            path = paths[number % len(paths)]
            name = upload(client, path.read_bytes()).json()["photo"]
            values = {"photo": name, "k": 12, "group": 0}
            return path, client.get("/api/search", params=values).json()["results"]

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(ask, range(32)))
        after = counted(client)
    with Index(shop[1]) as index:
        for path, answer in answers:
            if path is None:
                assert answer == 415
                continue
            vector = index.encoder.encode([path.read_bytes()]).embedding
            alone = index.search(vector, 12, group=False)[0]
            assert answer[0]["path"] == path.relative_to(shop[0]).as_posix()
            scores = {hit.record.path: hit.score for hit in alone}
            assert {hit["path"]: hit["score"] for hit in answer} == pytest.approx(scores, abs=2e-4)
        fingerprint = index.encoder.fingerprint()["name"]

    def grown(name):
        return after[name, ()] - before[name, ()]

    good = sum(path is not None for path, _ in answers)
    assert grown("fir_batch_photos_sum") >= good
    # They wait up to 20 ms for each other.
    assert grown("fir_batch_photos_count") < grown("fir_batch_photos_sum")
    assert after["fir_model_info", (("fingerprint", fingerprint),)] == 1
    assert after["fir_index_records", ()] == 12
