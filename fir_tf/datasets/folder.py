"""A plain folder of product photos, `root/<category>/<item>/<view>.jpg`, as a Catalogue."""

from pathlib import Path

import numpy as np

from fir_tf.datasets.catalogue import UNKNOWN, Catalogue, encode, hash_split
from fir_tf.datasets.labels import known, read_labels
from fir_tf.datasets.walk import find_photos, place
from fir_tf.errors import FirError


def load_folder(data_dir: str | Path, with_others: bool = False) -> Catalogue:
    """Loads `root/<category>/<item>/<view>.jpg`, split by a hash of `<category>/<item>`.

    Which files are photos `fir_tf.datasets.walk` says. See `hash_split`: 60 % of the items train,
    10 % val, 30 % test (query and gallery). A category or item folder whose name means unknown
    (`fir_tf.datasets.labels`) is no category and no item.

    Args:
        data_dir: str or Path, the root folder.
        with_others: bool, whether to take images that training cannot read (WebP, TIFF, HEIC,
            AVIF, JPEG 2000).

    Returns:
        Catalogue with the splits train, val, query and gallery. Notes count what is left out.

    Raises:
        FirError: if the folder is missing, any folder in it cannot be listed, it holds no image
            in that layout or one elsewhere, or has no query.
    """
    photos = find_photos(data_dir)
    photos.check_reachable()
    root, found, notes = photos.root, photos.photos, photos.notes(with_others)
    if with_others:
        found = sorted([*found, *photos.others], key=place)
    stray = [path for path in found if path.count("/") != 2]
    if stray:
        raise FirError(
            f"{len(stray)} images are not at <category>/<item>/<view>, the first: "
            f"{root / stray[0]}. Move them there, or take them out"
        )
    if not found:
        raise FirError("\n".join([f"no image was found in {root}/<category>/<item>", *notes]))
    folders = [path.split("/") for path in found]
    labels, category_notes = read_labels("a category", [one for one, *_ in folders], numbers=False)
    category, categories = encode(labels)
    # Only what the folder itself is called can mean that its item is unknown.
    _, item_notes = read_labels("an item", [item for _, item, _ in folders], numbers=False)
    item, items = encode([f"{one}/{item}" if known(item) else "" for one, item, _ in folders])
    paths = np.array(found, object)
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
        notes=(*notes, *category_notes, *item_notes),
    )
