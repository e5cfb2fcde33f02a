"""A pytest plugin: a shop's index, a running `search.py web` of it, and a browser on its page."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from feeds import write_json

ROOT = Path(__file__).parent.parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
CATEGORIES = ("Dresses", "Tops")
BRANDS = ("Fjord", "O'Neil")


def row(item):
    """A product of the feed: the fifth has a link that is none, of the sixth nothing is known."""
    name = f"{CATEGORIES[item % 2]}/item{item}"
    photos = {"image_link": f"{name}/0.jpg", "additional_image_link": [f"{name}/1.jpg"]}
    known = {"id": name, "item_group_id": name, "product_type": CATEGORIES[item % 2], **photos}
    if item == 5:
        return known
    return known | {
        "title": f"Garment <b>{item}</b>",
        "price": f"{10 * item + 10}.50 EUR",
        "sale_price": "9.00 EUR" if item == 2 else "",
        "availability": ("in stock", "out of stock")[item % 2],
        "link": f"https://shop.example/{item}" if item < 4 else "javascript:alert(1)",
        "brand": BRANDS[item % 2],
        "organic": item < 2,
    }


@pytest.fixture(scope="session")
def shop(tmp_path_factory):
    """(photos, index's folder, run) of six items with two views each."""
    from test_index import make_photos, make_run, options

    from fir_tf.search.indexing import build

    base = tmp_path_factory.mktemp("shop")
    run = make_run(base / "run")
    photos = make_photos(base / "photos", items=6, views=2)
    feed = write_json(photos / "feed.jsonl", [row(item) for item in range(6)])
    build(options(run, feed, base / "index"))
    return photos, base / "index", run


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
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
def opened(browser, server):
    """A function that opens the page as a context of Playwright's options sees it."""
    pages = []

    def open_page(address="", **options):
        page = browser.new_context(**options).new_page()
        page.outside, page.errors = [], []
        page.on("request", lambda request: page.outside.append(request.url))
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        pages.append(page)
        page.goto(address or server)
        return page

    yield open_page
    local = (server, "blob:", "data:")
    for page in pages:
        assert page.errors == []
        assert [url for url in page.outside if not url.startswith(local)] == []
        page.context.close()


@pytest.fixture
def page(opened):
    return opened(viewport={"width": 1200, "height": 800})


@pytest.fixture
def phone(opened):
    return opened(viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True)
