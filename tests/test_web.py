"""The search page's server: its answers, its API's description, and what it withstands."""

import base64
import concurrent.futures
import importlib
import io
import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import httpx
import jsonschema
import numpy as np
import pytest
from commands import done
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fir_tf.explain import PhotoExplainer
from fir_tf.run import load_run
from fir_tf.search.index import Index

# A server.
pytestmark = pytest.mark.slow

pytest.importorskip("starlette")
openapi = importlib.import_module("fir_tf.search.web.api").openapi
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def client(server):
    with httpx.Client(base_url=server, timeout=60) as client:
        yield client


def upload(client, contents):
    return client.post("/api/photo", content=contents)


def picture(size, kind="PNG"):
    file = io.BytesIO()
    Image.new("1", size).save(file, kind)
    return file.getvalue()


def test_a_photo_finds_itself(client, shop):
    contents = (shop[0] / "Tops/item3/1.jpg").read_bytes()
    answer = upload(client, contents)
    assert answer.status_code == 200
    found = client.get("/api/search", params={"photo": answer.json()["photo"]}).json()["results"]
    assert found[0]["path"] == "Tops/item3/1.jpg" and found[0]["score"] == 1
    assert len({hit["item"] for hit in found}) == len(found) == 6
    scores = [hit["score"] for hit in found]
    assert scores == sorted(scores, reverse=True)
    # As the library says it, without the server.
    with Index(shop[1]) as index:
        hits = index.search(index.encoder.encode([contents]).embedding, 24)[0]
    assert [hit.record.path for hit in hits] == [hit["path"] for hit in found]


def test_a_garment_is_answered_as_its_cut(client, shelf):
    contents = shelf.read_bytes()
    told = judged(client, "POST", "/api/photo", params={"garments": 1}, content=contents).json()
    name, garments = told["photo"], told["garments"]
    # As tests/shelf_locator.py has it.
    assert [(one["box"], one["category"], one["score"]) for one in garments] == [
        ([0.1, 0.2, 0.3, 0.4], "Tops", 1.0),
        ([0.6, 0.1, 0.3, 0.8], "Dresses", 0.75),
        ([0.2, 0.35, 0.1, 0.15], "", 0.5),
    ]
    again = judged(client, "GET", "/api/garments", params={"photo": name})
    assert again.json() == {"garments": garments}

    def found(name):
        values = {"photo": name, "group": 0}
        return client.get("/api/search", params=values).json()["results"]

    # With 12% of the longer side on each side, squares where the photo has room for them.
    cuts = [(58, 73, 392, 407), (305, 2, 900, 598), (169, 199, 281, 311)]
    answers = []
    with Image.open(shelf) as photo:
        for garment, edges in zip(garments, cuts, strict=True):
            file = io.BytesIO()
            photo.crop(edges).save(file, "PNG")
            answers.append(found(garment["photo"]))
            assert answers[-1] == found(upload(client, file.getvalue()).json()["photo"])
    whole = upload(client, contents).json()
    assert whole["garments"] == [] and found(whole["photo"]) == found(name)
    assert len({json.dumps(answer) for answer in [*answers, found(name)]}) == 4
    picture = client.get("/image", params={"photo": name})
    assert client.get("/image", params={"photo": f"{name}.2"}).content == picture.content
    for wrong in (f"{name}.0", f"{name}.4", f"{name}.", f"{name}.1.1", "gone.1"):
        for path in ("/api/search", "/api/garments"):
            assert judged(client, "GET", path, params={"photo": wrong}).status_code == 404


def test_a_score_is_explained_by_both_photos(client, shop, shelf):
    """As the library has it; the maps sum to the score that the search gives."""
    assert client.get("/api/info").json()["explains"]
    told = client.post("/api/photo", params={"garments": 1}, content=shelf.read_bytes()).json()
    cut = {"photo": told["garments"][1]["photo"]}
    model, config, _ = load_run(shop[2])
    for asked in ({"photo": told["photo"]}, cut, {"like": "Dresses/item4/1.jpg"}):
        hit = client.get("/api/search", params=asked).json()["results"][2]
        answer = judged(client, "GET", "/api/explain", params={**asked, "path": hit["path"]})
        found = answer.json()
        assert found["exact"] and found["score"] == pytest.approx(hit["score"], abs=2e-4)
        for name in ("query", "match"):
            assert np.sum(found[name]["map"]) == pytest.approx(hit["score"], abs=1e-3)
            kind, contents = found[name]["picture"].split(",")
            picture = Image.open(io.BytesIO(base64.b64decode(contents)))
            assert kind == "data:image/jpeg;base64" and picture.format == "JPEG"
            assert found[name]["window"] == [0, 0, 1, 1] and max(picture.size) <= 480
        assert found["query"]["map"] != found["match"]["map"]
        if asked != cut:
            path = shelf if "photo" in asked else shop[0] / asked["like"]
            explain = PhotoExplainer(model, config.eval_size, config.resize)
            mine = explain(path.read_bytes(), (shop[0] / hit["path"]).read_bytes())
            np.testing.assert_allclose(mine.query.values, found["query"]["map"], atol=1e-4)
            np.testing.assert_allclose(mine.match.values, found["match"]["map"], atol=1e-4)
    path = "Tops/item3/1.jpg"
    for wrong, status in (
        ({"path": path}, 400),
        ({"photo": told["photo"], "like": path, "path": path}, 400),
        ({"photo": "gone", "path": path}, 404),
        ({"like": path, "path": "../secret.jpg"}, 404),
        ({"like": "gone.jpg", "path": path}, 404),
    ):
        assert judged(client, "GET", "/api/explain", params=wrong).status_code == status
    same = judged(client, "GET", "/api/explain", params={"like": path, "path": path}).json()
    assert same["score"] == 1 and same["query"] == same["match"]


def test_what_has_no_run_is_not_explained(shop):
    """An index of vectors alone says so, and offers nothing."""
    make = importlib.import_module("fir_tf.search.web.reasons").Reasons
    vectors = np.eye(3, 8, dtype=np.float32)
    with Index.from_arrays(vectors) as index, index.held() as generation:
        assert make(480, 85).of(generation) is None
    reasons = make(480, 85)
    with Index(shop[1]) as index, index.held() as generation:
        explain = reasons.of(generation)
        assert explain is reasons.of(generation) and explain is not None
        assert reasons.tell(explain, b"broken", b"broken") is None


def test_like_filter_and_group(client):
    path = "Dresses/item0/0.jpg"
    found = client.get("/api/search", params={"like": path, "category": "Tops"}).json()["results"]
    assert {hit["category"] for hit in found} == {"Tops"} and len(found) == 3
    found = client.get("/api/search", params={"like": path, "group": 0, "k": 200}).json()["results"]
    assert len(found) == 12 and found[0]["path"] == path
    info = client.get("/api/info").json()
    assert info["images"] == 12 and info["categories"] == ["Dresses", "Tops"]


@pytest.mark.parametrize(
    ("address", "values", "missing"),
    [
        ("/api/explain", {"like": "Tops/item3/1.jpg"}, "path"),
        ("/api/explain", {"like": "Tops/item3/1.jpg", "path": ""}, "path"),
        ("/api/garments", {}, "photo"),
    ],
)
def test_what_is_missing_is_named(client, address, values, missing):
    answer = judged(client, "GET", address, params=values)
    assert answer.status_code == 400 and f"{missing} is missing" in answer.json()["error"]
    told = openapi()["paths"][address]["get"]["parameters"]
    assert [each["name"] for each in told if each["required"]] == [missing]


def test_pictures_come_from_the_index_only(client, shop):
    answer = client.get("/image", params={"path": "Dresses/item0/0.jpg"})
    assert Image.open(io.BytesIO(answer.content)).size == (48, 64)
    (shop[0].parent / "secret.jpg").write_bytes((shop[0] / "Tops/item1/0.jpg").read_bytes())
    for path in ("../secret.jpg", str(shop[0] / "Dresses/item0/0.jpg"), "", "/etc/passwd"):
        assert client.get("/image", params={"path": path}).status_code == 404


@pytest.mark.parametrize(
    ("contents", "status", "message"),
    [
        (b"no image at all", 415, "cannot be decoded"),
        (b"", 400, "empty"),
        (b"x" * 1_000_001, 413, "larger than 1 MB"),
        (picture((10_000, 7_000)), 413, "10000 x 7000 pixels"),
        (picture((300, 300))[:60], 415, "cannot be decoded"),
    ],
)
def test_bad_uploads_are_told(client, contents, status, message):
    answer = upload(client, contents)
    assert answer.status_code == status and message in answer.json()["error"]


def test_an_upload_without_a_length_is_limited(client):
    answer = upload(client, (b"x" * 100_000 for _ in range(30)))
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ({}, 400),
        ({"photo": "a", "like": "b"}, 400),
        ({"photo": "gone"}, 404),
        ({"like": "gone.jpg"}, 404),
        ({"like": "Dresses/item0/0.jpg", "k": 0}, 400),
        ({"like": "Dresses/item0/0.jpg", "k": "many"}, 400),
        ({"like": "Dresses/item0/0.jpg", "k": 201}, 400),
        ({"like": "Dresses/item0/0.jpg", "group": "many"}, 400),
        ({"like": "Dresses/item0/0.jpg", "categories": "Tops"}, 400),
        ({"like": "Dresses/item0/0.jpg", "where": "price <"}, 400),
    ],
)
def test_bad_questions_are_told(client, values, status):
    answer = client.get("/api/search", params=values)
    assert answer.status_code == status and answer.json()["error"]


def test_the_page_asks_nobody_else_and_is_small(client):
    policy = client.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    size = 0
    for name, kind in (("", "html"), ("page.css", "css"), ("page.js", "javascript")):
        answer = client.get(f"/{name}")
        assert answer.status_code == 200 and kind in answer.headers["content-type"]
        assert "://" not in answer.text
        size += len(answer.content)
    assert size < 60_000
    assert client.get("/nothing").status_code == 404


def test_photos_of_other_formats_are_converted(client, shop):
    """A phone's and a browser's formats find what the same pixels find as a PNG."""
    with Image.open(shop[0] / "Tops/item3/1.jpg") as image:
        for kind in ("WEBP", "TIFF", "AVIF"):
            file = io.BytesIO()
            image.save(file, kind, **({"lossless": True} if kind == "WEBP" else {}))
            name = upload(client, file.getvalue()).json()["photo"]
            found = client.get("/api/search", params={"photo": name}).json()["results"]
            assert found[0]["path"] == "Tops/item3/1.jpg", kind


def test_samples_of_an_index_and_what_chance_reaches(client):
    samples = client.get("/api/info").json()["samples"]
    assert len(set(samples)) == 3
    assert {path.split("/")[0] for path in samples} == {"Dresses", "Tops"}
    drawn = importlib.import_module("fir_tf.search.web.service").drawn
    vectors = np.random.default_rng(3).standard_normal((60, 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    names = [str(number // 3) for number in range(60)]
    with Index.from_arrays(vectors.astype(np.float32), {"item": names}) as index:
        chance = drawn(index.engine)["chance"]
    pairs = [
        float(vectors[one] @ vectors[other])
        for one in range(60)
        for other in range(one)
        if names[one] != names[other]
    ]
    assert sum(score >= chance for score in pairs) == pytest.approx(len(pairs) / 100, abs=1)
    with Index.from_arrays(vectors[:9].astype(np.float32)) as index:
        assert drawn(index.engine)["chance"] is None


def test_the_description_is_that_of_openapi(client):
    """Every operation is described, and none that there is not."""
    told = client.get("/api/openapi.json").json()
    assert told == openapi() and {"/api/info", "/api/photo", "/api/search"} <= set(told["paths"])
    for path, methods in told["paths"].items():
        allowed = client.options(path).headers["allow"].split(", ")
        assert set(allowed) - {"HEAD"} == {method.upper() for method in methods}
        for operation in methods.values():
            for answer in operation["responses"].values():
                for content in answer["content"].values():
                    jsonschema.Draft202012Validator.check_schema(content["schema"])


def judged(client, method, path, **request):
    """Asks; returns the answer, which must be one that the description tells of."""
    told = openapi()["paths"][path][method.lower()]["responses"]
    answer = client.request(method, path, **request)
    assert str(answer.status_code) in told, answer.text
    ((media, content),) = told[str(answer.status_code)]["content"].items()
    assert answer.headers["content-type"].startswith(media)
    if media == "application/json":
        jsonschema.validate(answer.json(), content["schema"])
    return answer


WORDS = (
    "price",
    "<",
    "=",
    "50",
    "'Fjord'",
    "and",
    "not",
    "in",
    "(",
    ")",
    ",",
    '"brand"',
    "is null",
)


@pytest.fixture(scope="module")
def values(client, shop):
    """A strategy of a request's values for /api/search, /api/explain and /image, good and bad."""
    photo = upload(client, (shop[0] / "Tops/item3/1.jpg").read_bytes()).json()["photo"]
    some = {
        "photo": st.sampled_from([photo, "", "gone"]) | st.text(max_size=9),
        "like": st.sampled_from(["Tops/item3/1.jpg", "", "../x"]) | st.text(max_size=9),
        "path": st.sampled_from(["Tops/item3/1.jpg", "/", "../x"]) | st.text(max_size=9),
        "k": st.integers(-9, 300).map(str) | st.text(max_size=9),
        "group": st.sampled_from(["0", "1", "true", "False", "2"]),
        "category": st.lists(st.sampled_from(["Tops", "none"]) | st.text(max_size=3), max_size=3),
        "domain": st.lists(st.sampled_from(["shop", "consumer", "x"]), max_size=2),
        "where": st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join) | st.text(max_size=20),
        "other": st.just("1"),
    }
    return st.lists(st.sampled_from(sorted(some)), max_size=5, unique=True).flatmap(
        lambda names: st.fixed_dictionaries({name: some[name] for name in names})
    )


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_every_request_is_answered_as_described(client, values, data):
    """A wrong one too: with 400 or 404 and a message, never with a fault of the server."""
    for path in ("/api/search", "/api/explain", "/image"):
        request = data.draw(values)
        answer = judged(client, "GET", path, params=request)
        if set(request) - {"photo", "like", "k", "group", "category", "domain", "where", "path"}:
            assert answer.status_code == 400 and "no parameter" in answer.json()["error"]


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_upload_is_answered_as_described(client, shop, data):
    whole = (shop[0] / "Tops/item3/1.jpg").read_bytes()
    cut = st.integers(0, len(whole)).map(lambda end: whole[:end])
    judged(client, "POST", "/api/photo", content=data.draw(cut | st.binary(max_size=99)))
    judged(client, "GET", "/api/info")


def test_the_page_on_the_api_shows_what_works(client, server, shop, tmp_path):
    """The commands of docs/page.md, against this server."""
    if not shutil.which("curl"):
        pytest.skip("no curl here: apt-get install curl")
    shutil.copy(shop[0] / "Tops/item3/1.jpg", tmp_path / "photo.jpg")
    text = (ROOT / "docs/page.md").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = re.findall(r"^curl .*$", text, re.MULTILINE)
    assert len(lines) >= 5
    name, answers = "", []
    for line in lines:
        command = shlex.split(
            line.replace("http://127.0.0.1:8000/", server).replace("<name>", name)
        )
        ran = subprocess.run([*command, "-sS", "--fail"], capture_output=True, cwd=tmp_path)
        assert ran.returncode == 0, (line, ran.stderr)
        if "-o" not in command:
            answers.append(json.loads(ran.stdout))
            name = answers[-1].get("photo", name)
    found = [answer["results"] for answer in answers if "results" in answer]
    assert all(found) and found[0][0]["path"] == "Tops/item3/1.jpg"
    assert {hit["metadata"]["brand"] for hit in found[0]} <= {"O'Neil", "Fjord"}
    assert Image.open(tmp_path / "picture.jpg").size == (48, 64)


def test_many_at_once_get_their_own_answers(client, shop):
    paths = sorted(shop[0].rglob("*.jpg"))

    def ask(number):
        path = paths[number % len(paths)]
        if number % 5 == 4:
            return upload(client, b"bad").status_code == 415
        name = upload(client, path.read_bytes()).json()["photo"]
        found = client.get("/api/search", params={"photo": name, "k": 1}).json()["results"]
        return found[0]["path"] == path.relative_to(shop[0]).as_posix()

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(40)))


def test_an_upload_that_is_cancelled_harms_nobody(server, client):
    host, port = server.removeprefix("http://").rstrip("/").split(":")
    for _ in range(5):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(
                b"POST /api/photo HTTP/1.1\r\nHost: x\r\nContent-Length: 90000\r\n\r\nhalf"
            )
    assert client.get("/api/info").status_code == 200


def test_a_taken_port_is_told(server, shop):
    port = server.rstrip("/").rpartition(":")[2]
    _, err = done("search.py", "web", f"--index={shop[1]}", f"--port={port}", ok=False)
    assert "`port` must be free" in err


@pytest.mark.nightly
def test_a_few_seconds_of_load(shop, tmp_path):
    """benchmarks/load.py in short: right answers and bounded memory under everything at once."""
    load = subprocess.run(
        [
            sys.executable,
            str(ROOT / "benchmarks" / "load.py"),
            f"--run={shop[2]}",
            "--seconds=8",
            "--photos=8",
            f"--results={tmp_path / 'load.json'}",
        ],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert load.returncode == 0, load.stdout + load.stderr
    values = json.loads((tmp_path / "load.json").read_text())
    assert values["wrong"] == [] and values["memory_mib"]["growth"] < 64
    assert values["writer"]["killed"] and values["writer"]["finished"]
    assert all(
        values["requests"][kind] for kind in ("upload", "search", "image", "bad file", "broken off")
    )


def test_a_wrong_answer_would_be_seen(monkeypatch):
    """The load's own judgement, on answers that are spoilt in one place."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    load = importlib.import_module("load")
    paths = [f"Tops/item{item}/{view}.jpg" for item in range(4) for view in range(2)]
    vectors = np.random.default_rng(0).standard_normal((8, 1, 16))
    catalogue = types.SimpleNamespace(
        vectors=dict(zip(paths, vectors, strict=True)),
        query_vectors=np.random.default_rng(1).standard_normal((1, 16)),
    )
    exact = sorted(
        (float(vector[0] @ catalogue.query_vectors[0]), path)
        for path, vector in catalogue.vectors.items()
    )[::-1]
    hits = [{"score": round(score, 4), "path": path, "category": "Tops"} for score, path in exact]

    def judged(answer, where="", group=False, k=4):
        return load.wrong_in(answer, 0, catalogue, paths, where, group, k)

    best = {hit["path"].rsplit("/", 1)[0]: hit for hit in hits[::-1]}
    grouped = sorted(best.values(), key=lambda hit: -hit["score"])
    assert judged(hits[:4]) == judged(grouped, group=True) == judged(hits, k=9) == ""
    assert judged(hits[:1] + hits[2:5]) == f"{hits[1]['path']} is missing"
    assert judged(hits[:3]) and judged(hits[:4][::-1]) and judged(hits[:5])
    assert judged(hits[:2] + hits[1:3]) and judged(hits[:4], where="Dresses")
    assert judged([{**hits[0], "score": hits[0]["score"] + 1e-3}, *hits[1:4]])
    assert judged(grouped[:1] + grouped[2:], group=True)


def test_a_killed_writer_loses_nothing_that_is_served(client, shop, tmp_path):
    """While an index is being written and its writer killed, answers stay right."""
    photos = sorted(shop[0].rglob("*.jpg"))
    code = (
        "import sys, numpy as np\n"
        "from fir_tf.search.engines import Record, open_engine\n"
        "engine = open_engine(sys.argv[1])\n"
        "rng = np.random.default_rng(0)\n"
        "size = engine.info()['dimension']\n"
        "while True:\n"
        "    names = [f'new{n}' for n in rng.integers(0, 500, 20)]\n"
        "    names = sorted(set(names))\n"
        "    rows = 1e-3 * rng.standard_normal((len(names), size)).astype(np.float32)\n"
        "    engine.upsert([Record(n, n, 'New', '', '') for n in names], rows)\n"
        "    engine.delete(names[:10])\n"
        "    engine.flush()\n"
        "    print('.', flush=True)\n"
    )
    wrong = []

    def ask():
        for path in photos * 2:
            name = upload(client, path.read_bytes()).json()["photo"]
            found = client.get("/api/search", params={"photo": name, "k": 1}).json()["results"]
            if found[0]["path"] != path.relative_to(shop[0]).as_posix():
                wrong.append(path)

    asking = threading.Thread(target=ask)
    asking.start()
    for _ in range(2):
        writer = subprocess.Popen(
            [sys.executable, "-c", code, str(shop[1])], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        writer.stdout.readline()
        time.sleep(0.3)
        writer.kill()
        writer.wait()
    asking.join()
    assert wrong == []
    with Index(shop[1]) as index:
        kept = [r.path for part, _ in index.engine.scan() for r in part if r.category != "New"]
        assert len(kept) == len(photos)
        index.engine.delete(
            [r.path for part, _ in index.engine.scan() for r in part if r.category == "New"]
        )
