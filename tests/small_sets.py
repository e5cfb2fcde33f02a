"""Small data sets, written as files."""

import csv

import numpy as np
from odd_images import encoded, picture
from PIL import Image


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


def write_set(root, images, header="path,item,category,split"):
    """Writes a table data set from {path: (bytes or None for no file, item, category, split)}."""
    root.mkdir(parents=True, exist_ok=True)
    for path, (contents, *_) in images.items():
        if contents is not None:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(contents)
    with open(root / "photos.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header.split(","))
        writer.writerows([path, *labels] for path, (_, *labels) in images.items())
    return root / "photos.csv"


def clean_set(items=12, first_seed=1000, each=3):
    """A data set without fault: 12 training photos of 4 items a category, and tested items."""
    images = {}
    for item in range(items):
        for view in range(each):
            seed = first_seed + 10 * item + view
            split = "train" if item < items - 2 else ("query", "gallery")[view % 2]
            labels = (f"item{item}", ("dress", "coat")[item % 2], split)
            images[f"good/{item}_{view}.jpg"] = (encoded(picture(seed), "JPEG"), *labels)
    return images
