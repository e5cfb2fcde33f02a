"""The search page: its server's answers, and the page in a real browser."""

import concurrent.futures
import importlib
import io
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import httpx
import numpy as np
import pytest
from commands import done
from PIL import Image
from test_index import make_photos, make_run, options

from fir_tf.search.index import Index
from fir_tf.search.indexing import build

# A server, and for most of them a browser.
pytestmark = pytest.mark.slow

pytest.importorskip("starlette")
ROOT = Path(__file__).parent.parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """(photos, index's folder, run) of six items with two views each."""
    base = tmp_path_factory.mktemp("shop")
    run = make_run(base / "run")
    photos = make_photos(base / "photos", items=6, views=2)
    build(options(run, photos, base / "index"))
    return photos, base / "index", run


@pytest.fixture(scope="module")
def server(shop):
    """The address of a running `search.py web`."""
    process = subprocess.Popen(
        [
            sys.executable,
            str(ROOT / "search.py"),
            "web",
            f"--index={shop[1]}",
            "--port=0",
            "--max_upload_mb=1",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    line = process.stdout.readline()
    assert line.startswith("http://127.0.0.1:"), line
    yield line.split()[0]
    process.terminate()
    assert process.wait(30) is not None


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


def test_like_filter_and_group(client):
    path = "Dresses/item0/0.jpg"
    found = client.get("/api/search", params={"like": path, "category": "Tops"}).json()["results"]
    assert {hit["category"] for hit in found} == {"Tops"} and len(found) == 3
    found = client.get("/api/search", params={"like": path, "group": 0, "k": 200}).json()["results"]
    assert len(found) == 12 and found[0]["path"] == path
    info = client.get("/api/info").json()
    assert info["images"] == 12 and info["categories"] == ["Dresses", "Tops"]


def test_pictures_come_from_the_index_only(client, shop):
    answer = client.get("/image", params={"path": "Dresses/item0/0.jpg"})
    assert Image.open(io.BytesIO(answer.content)).size == (48, 64)
    (shop[0].parent / "secret.jpg").write_bytes((shop[0] / "Tops/item1/0.jpg").read_bytes())
    for path in ("../secret.jpg", str(shop[0] / "Dresses/item0/0.jpg"), "", "/etc/passwd"):
        assert client.get("/image", params={"path": path}).status_code == 404


@pytest.mark.parametrize(
    ("contents", "status", "message"),
    [
        (b"no image at all", 415, "no photo that can be read"),
        (b"", 400, "empty"),
        (b"x" * 1_000_001, 413, "larger than 1 MB"),
        (picture((10_000, 7_000)), 413, "10000 x 7000 pixels"),
        (picture((300, 300))[:60], 415, "no photo that can be read"),
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
    ],
)
def test_bad_questions_are_told(client, values, status):
    answer = client.get("/api/search", params=values)
    assert answer.status_code == status and answer.json()["error"]


def test_the_page_asks_nobody_else(client):
    answer = client.get("/")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "http" not in answer.text.replace("http-equiv", "")
    assert client.get("/nothing").status_code == 404


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


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM:
        pytest.skip("no chromium here: apt-get install chromium")
    with playwright.sync_playwright() as started:
        # Beside the flags of Playwright, which keep it from asking the network by itself.
        flags = ["--no-sandbox", "--disable-gpu", "--disable-quic"]
        browser = started.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, server):
    context = browser.new_context(viewport={"width": 1200, "height": 800})
    page = context.new_page()
    page.outside, page.errors = [], []
    page.on("request", lambda request: page.outside.append(request.url))
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.goto(server)
    yield page
    assert page.errors == []
    local = (server, "blob:", "data:")
    assert [url for url in page.outside if not url.startswith(local)] == []
    context.close()


def has_results(page, count=6):
    from playwright.sync_api import expect

    expect(page.locator("#results:not([aria-busy]) li")).to_have_count(count, timeout=30_000)


def says(page, text):
    from playwright.sync_api import expect

    expect(page.locator("#message")).to_contain_text(text, timeout=30_000)


def labels(page, count=6):
    has_results(page, count)
    return [entry.text_content() for entry in page.query_selector_all("#results .item")]


def test_upload_click_filter_share_in_a_browser(page, server, shop, browser):
    page.set_input_files("#file", shop[0] / "Tops/item3/1.jpg")
    first = labels(page)
    assert first[0] == "Tops/item3" and len(first) == 6
    assert "6 items" in page.text_content("#message")
    shared = page.url
    assert "photo=" in shared

    page.click("#results li:nth-child(2) button")
    page.wait_for_url("**like=**")
    assert labels(page)[0] == first[1]

    page.select_option("#category", "Dresses")
    assert all(name.startswith("Dresses") for name in labels(page, 3))
    page.go_back()
    has_results(page)

    other = browser.new_page()
    other.goto(shared)
    assert labels(other) == first
    # A category with a long name does not push its choice over the next one.
    other.evaluate("document.querySelector('#category').add(new Option('x'.repeat(60)))")
    left, right = (other.locator(name).bounding_box() for name in ("#category", "#group"))
    assert left["x"] + left["width"] <= right["x"] or left["y"] + left["height"] <= right["y"]
    # Kept to be looked at.
    pictures = ROOT / "build" / "test-pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    other.screenshot(path=pictures / "search_page.png")
    other.close()


def test_a_bad_file_shows_a_message(page, tmp_path, shop):
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    page.set_input_files("#file", tmp_path / "bad.jpg")
    says(page, "no photo that can be read")
    assert page.get_attribute("#message", "class") == "bad"
    large = tmp_path / "large.jpg"
    large.write_bytes((shop[0] / "Tops/item3/1.jpg").read_bytes() + b"x" * 1_000_000)
    page.set_input_files("#file", large)
    says(page, "1 MB")
    page.set_input_files("#file", shop[0] / "Tops/item3/1.jpg")
    assert labels(page)[0] == "Tops/item3"


def test_the_garment_is_cropped_with_the_mouse(page, shop, tmp_path):
    """A photo of two items side by side: the part that is marked is searched for."""
    left, right = (Image.open(shop[0] / name) for name in ("Tops/item1/0.jpg", "Tops/item5/0.jpg"))
    both = Image.new("RGB", (96, 64))
    both.paste(left.resize((48, 64)), (0, 0))
    both.paste(right.resize((48, 64)), (48, 0))
    both.resize((960, 640)).save(tmp_path / "both.png")
    page.set_input_files("#file", tmp_path / "both.png")
    labels(page)
    frame = page.query_selector("#photo").bounding_box()

    def drag(start, end):
        with page.expect_response("**/api/search**"):
            page.mouse.move(frame["x"] + start * frame["width"], frame["y"] + 2)
            page.mouse.down()
            page.mouse.move(
                frame["x"] + end * frame["width"], frame["y"] + frame["height"] - 2, steps=4
            )
            page.mouse.up()
        page.wait_for_timeout(100)
        return labels(page)[0]

    assert drag(0.01, 0.49) == "Tops/item1"
    assert drag(0.51, 0.99) == "Tops/item5"
    # The same by keyboard alone.
    page.focus("#whole")
    page.keyboard.press("Enter")
    page.focus("#right")
    for _ in range(50):
        page.keyboard.press("ArrowLeft")
    page.focus("#go")
    with page.expect_response("**/api/search**"):
        page.keyboard.press("Enter")
    page.wait_for_timeout(100)
    assert labels(page)[0] == "Tops/item1"


def test_a_photo_is_pasted(page, shop):
    contents = np.frombuffer((shop[0] / "Dresses/item4/1.jpg").read_bytes(), np.uint8).tolist()
    page.evaluate(
        """bytes => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "p.jpg", {type: "image/jpeg"}));
            document.dispatchEvent(new ClipboardEvent("paste", {clipboardData: data}));
        }""",
        contents,
    )
    assert labels(page)[0] == "Dresses/item4"


def test_a_photo_chosen_before_the_page_knows_its_index(browser, server, shop):
    """The answer about the index comes between photo and results: the search goes on."""
    page = browser.new_page()
    held = {}
    page.route("**/api/*", lambda route: held.update({route.request.url.split("/")[-1]: route}))
    with page.expect_request("**/api/info"):
        page.goto(server)
    with page.expect_request("**/api/photo"):
        page.set_input_files("#file", shop[0] / "Tops/item3/1.jpg")
    with page.expect_response("**/api/info"):
        held["info"].continue_()
    page.wait_for_function("document.querySelectorAll('#category option').length > 1")
    held["photo"].continue_()
    page.unroute("**/api/*")
    assert labels(page)[0] == "Tops/item3"
    page.close()


def test_the_page_fits_a_phone(browser, server, shop):
    page = browser.new_page(viewport={"width": 360, "height": 740})
    page.goto(server)
    page.set_input_files("#file", shop[0] / "Tops/item3/1.jpg")
    labels(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    # Everything that can be pressed has a name for a screen reader.
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll('button, select, input, img')].filter(
            e => !(e.textContent.trim() || e.getAttribute('aria-label') || e.labels?.length
                   || e.hasAttribute('alt'))).length"""
    )
    assert unnamed == 0
    page.close()


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
