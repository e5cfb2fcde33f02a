"""A plain folder of product photos, `root/<category>/<item>/<view>.jpg`, as a Catalogue."""

import os
from pathlib import Path

import numpy as np

from fir_tf.datasets.annotations import existing_folder
from fir_tf.datasets.catalogue import UNKNOWN, Catalogue, encode, unit_hash
from fir_tf.errors import FirError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp")
_VAL, _TEST = 0.1, 0.3


def load_folder(data_dir):
    """Loads `root/<category>/<item>/<view>.jpg`.

    The split is by item and by a hash of `<category>/<item>` alone, so adding items never moves
    old ones: 60 % of the items train, 10 % val, 30 % test. The images of a test item are
    divided into query and gallery by a hash of their names, at least one on each side; a test
    item with one image goes to the gallery.

    Args:
        data_dir: str or Path, the root folder.

    Returns:
        Catalogue with the splits train, val, query and gallery.

    Raises:
        FirError: if the folder is missing, holds no image in that layout, or has no training
            item or no query.
    """
    root = existing_folder(data_dir)
    paths, stray = [], []
    for folder, folders, names in os.walk(root, followlinks=True):
        folders.sort()
        relative = Path(folder).relative_to(root).as_posix()
        for name in sorted(names):
            if not name.startswith(".") and name.lower().endswith(IMAGE_SUFFIXES):
                (paths if relative.count("/") == 1 else stray).append(f"{relative}/{name}")
    if stray:
        raise FirError(
            f"{len(stray)} images are not at <category>/<item>/<view>, the first: "
            f"{root / stray[0]}. Move them there, or take them out"
        )
    if not paths:
        raise FirError(
            f"no image was found. Looked for {root}/<category>/<item>/<view> ending in "
            f"{', '.join(IMAGE_SUFFIXES)}"
        )
    item_names = [path.rsplit("/", 1)[0] for path in paths]
    item, items = encode(item_names)
    category, categories = encode([path.split("/", 1)[0] for path in paths])
    score = np.array([unit_hash(name, "split") for name in items])
    part = np.where(score < _VAL, "val", np.where(score < _VAL + _TEST, "test", "train"))
    split = part[item].astype(object)
    view = np.array([unit_hash(path, "view") for path in paths])
    for index in np.flatnonzero(part == "test"):
        rows = np.flatnonzero(item == index)
        order = rows[np.argsort(view[rows])]
        queries = int(np.clip((view[rows] < 0.5).sum(), 1, len(rows) - 1)) if len(rows) > 1 else 0
        split[order[:queries]] = "query"
        split[order[queries:]] = "gallery"
    for name in ("train", "query"):
        if not (split == name).any():
            raise FirError(
                f"the split {name!r} is empty: {root} has {len(items)} items, and the split by "
                "hash left none for it. Give more items (about 20 are enough)"
            )
    return Catalogue(
        root=root,
        path=np.array(paths, object),
        category=category,
        item=item,
        domain=np.full(len(paths), UNKNOWN, np.int8),
        split=split.astype(str),
        categories=categories,
        items=items,
        source=str(root),
        line=np.zeros(len(paths), np.int32),
    )
