"""Shared by the tests: quiet TensorFlow, small data sets written as files."""

import os
import signal

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import pytest
from PIL import Image
from shallow import shallow_backbones

# Before a test imports TensorFlow: it sets TensorFlow's environment.
from fir_tf import messages

pytest_plugins = ["listed_skips"]

# As the commands do.
messages.show()

# A job in the background of a shell ignores Ctrl-C, and so would all processes that tests start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """Leaves out what oneDNN refuses when it is kept from instructions that TensorFlow sees."""
    if not os.environ.get("ONEDNN_MAX_CPU_ISA"):
        return
    skip = pytest.mark.skip(reason="ONEDNN_MAX_CPU_ISA hides bfloat16 from oneDNN alone")
    for item in items:
        if item.get_closest_marker("bfloat16"):
            item.add_marker(skip)


def write_jpeg(path, seed=0, size=(48, 64), channel=None, **options):
    """Writes a JPEG of smooth random colours, (width, height) in pixels, one channel full."""
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    if channel is not None:
        small[..., channel] = 255
    Image.fromarray(small).resize(size, Image.BICUBIC).save(path, "JPEG", quality=92, **options)


def write_inshop(root, rows, images=True):
    """Writes In-Shop's layout: rows of (image path, item id, status).

    The photos of an item are one pattern in several sizes; a category has a colour of its own.
    """
    (root / "Eval").mkdir(parents=True, exist_ok=True)
    lines = [str(len(rows)), "image_name item_id evaluation_status"]
    lines += [f"{path:<70s} {item} {status} " for path, item, status in rows]
    (root / "Eval" / "list_eval_partition.txt").write_text("\n".join(lines) + "\n")
    for number, (path, item, _) in enumerate(rows):
        if images:
            size = (48 + number % 3, 64 - number % 5)
            write_jpeg(root / "Img" / path, int(item[3:]), size, channel=2 * ("WOMEN" in path))
    return root


def inshop_rows(train_items=8, test_items=4, views=4):
    """Rows of a small In-Shop set: items in two categories."""
    rows = []
    for item in range(train_items + test_items):
        group = ("WOMEN/Dresses", "MEN/Denim")[item % 2]
        for view in range(views):
            status = "train" if item < train_items else ("query", "gallery")[view % 2]
            rows.append(
                (f"img/{group}/id_{item:08d}/{view:02d}_1_front.jpg", f"id_{item:08d}", status)
            )
    return rows


@pytest.fixture
def inshop(tmp_path):
    """A folder in In-Shop's layout with 12 items of 4 photos."""
    return write_inshop(tmp_path / "inshop", inshop_rows())


@pytest.fixture
def shallow():
    """Backbones with one block in each stage for the length of a test."""
    with shallow_backbones():
        yield
