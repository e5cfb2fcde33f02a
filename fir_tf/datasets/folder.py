"""A plain folder of product photos, `root/<category>/<item>/<view>.jpg`, as a Catalogue."""

import os
from pathlib import Path

import numpy as np

from fir_tf.datasets.annotations import existing_folder
from fir_tf.datasets.catalogue import UNKNOWN, Catalogue, encode, hash_split
from fir_tf.errors import FirError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp")
# Images too, which training cannot read; `python -m fir_tf.datasets prepare` converts them.
OTHER_SUFFIXES = (".webp", ".tif", ".tiff", ".heic", ".avif", ".jp2")


def load_folder(data_dir: str | Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> Catalogue:
    """Loads `root/<category>/<item>/<view>.jpg`, split by a hash of `<category>/<item>`.

    See `hash_split`: 60 % of the items train, 10 % val, 30 % test (query and gallery).

    Args:
        data_dir: str or Path, the root folder.
        suffixes: tuple of str, the endings of files that are images, in lower case.

    Returns:
        Catalogue with the splits train, val, query and gallery. A note counts the images with
        other endings, which are left out.

    Raises:
        FirError: if the folder is missing, holds no image in that layout, or has no training
            item or no query.
    """
    root = existing_folder(data_dir)
    found: list[str] = []
    stray: list[str] = []
    other: list[str] = []
    for folder, folders, names in os.walk(root, followlinks=True):
        folders.sort()
        relative = Path(folder).relative_to(root).as_posix()
        for name in sorted(names):
            if name.startswith("."):
                continue
            if name.lower().endswith(suffixes):
                (found if relative.count("/") == 1 else stray).append(f"{relative}/{name}")
            elif name.lower().endswith(OTHER_SUFFIXES):
                other.append(f"{relative}/{name}")
    try:
        "\n".join([*found, *stray, *other]).encode()
    except UnicodeEncodeError as error:
        path = error.object.split("\n")[error.object.count("\n", 0, error.start)]
        raise FirError(
            f"{root}: file names must be UTF-8. Received: {path!r}. Rename the file"
        ) from error
    if stray:
        raise FirError(
            f"{len(stray)} images are not at <category>/<item>/<view>, the first: "
            f"{root / stray[0]}. Move them there, or take them out"
        )
    if not found:
        raise FirError(
            f"no image was found. Looked for {root}/<category>/<item>/<view> ending in "
            f"{', '.join(suffixes)}"
        )
    item, items = encode([path.rsplit("/", 1)[0] for path in found])
    category, categories = encode([path.split("/", 1)[0] for path in found])
    paths = np.array(found, object)
    notes: tuple[str, ...] = ()
    if other:
        notes = (
            f"warning: {len(other):,} images that training cannot read are left out, the first: "
            f"{root / other[0]}. `python -m fir_tf.datasets prepare` converts them",
        )
    return Catalogue(
        root=root,
        path=paths,
        category=category,
        item=item,
        domain=np.full(len(paths), UNKNOWN, np.int8),
        split=hash_split(paths, item, items, str(root)),
        categories=categories,
        items=items,
        source=str(root),
        line=np.zeros(len(paths), np.int32),
        notes=notes,
    )
