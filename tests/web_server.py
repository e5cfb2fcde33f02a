"""A pytest plugin: a shop's index and a running `search.py web` of it."""

import subprocess
import sys
from pathlib import Path

import pytest
from feeds import write_json
from PIL import Image

ROOT = Path(__file__).parent.parent
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
    run = make_run(base / "run", pooling="Average")
    photos = make_photos(base / "photos", items=6, views=2)
    feed = write_json(photos / "feed.jsonl", [row(item) for item in range(6)])
    build(options(run, feed, base / "index"))
    return photos, base / "index", run


@pytest.fixture(scope="session")
def shelf(shop, tmp_path_factory):
    """A photo of two items side by side, 900 x 600 pixels, in which `shelf_locator` finds three."""
    photo = Image.new("RGB", (900, 600))
    for place, name in enumerate(("Tops/item1/0.jpg", "Tops/item5/0.jpg")):
        photo.paste(Image.open(shop[0] / name).resize((450, 600)), (450 * place, 0))
    path = tmp_path_factory.mktemp("shelf") / "shelf.png"
    photo.save(path)
    return path


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
            "--batch_wait_ms=20",
            f"--plugins={ROOT / 'tests' / 'shelf_locator.py'}",
            "--locator=shelf",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    line = process.stdout.readline()
    assert line.startswith("http://127.0.0.1:"), line
    yield line.split()[0]
    process.terminate()
    assert process.wait(60) == 0
