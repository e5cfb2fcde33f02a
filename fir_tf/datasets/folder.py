"""Folders of product photos, such as `root/<category>/<item>/<view>.jpg`, as a Catalogue."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fir_tf.datasets.catalogue import UNKNOWN, Catalogue, encode, hash_split
from fir_tf.datasets.labels import composed, known, read_labels
from fir_tf.datasets.walk import find_photos, place, printable
from fir_tf.errors import FirError


def labels_of(path: str) -> tuple[str, str]:
    """Returns (category, item) of a photo by its folders, of any depth.

    The last folder is the item, those above it are the category; one level of folders are
    categories. What has no folder, or one whose name means unknown, is empty.

    Args:
        path: str, relative to the root, with `/` between folders.
    """
    folders = path.split("/")[:-1]
    category = folders[:-1] or folders
    return _label(category), _label(folders) if len(folders) > 1 else ""


def _label(folders: Sequence[str]) -> str:
    return composed("/".join(folders)) if folders and known(folders[-1]) else ""


def load_folder(data_dir: str | Path, with_others: bool = False) -> Catalogue:
    """Loads folders of any depth, see `labels_of`; split by a hash of the items' names.

    Which files are photos `fir_tf.datasets.walk` says. See `hash_split`: 60 % of the items train,
    10 % val, 30 % test (query and gallery). A category or item folder whose name means unknown
    (`fir_tf.datasets.labels`) is no category and no item.

    Args:
        data_dir: str or Path, the root folder.
        with_others: bool, whether to take images that training cannot read (WebP, TIFF, HEIC,
            AVIF, JPEG 2000).

    Returns:
        Catalogue with the splits train, val, query and gallery. Notes count what is left out, and
        what is in no folder of an item.

    Raises:
        FirError: if the folder is missing, any folder in it cannot be listed, it holds no image,
            or has no query.
    """
    photos = find_photos(data_dir)
    photos.check_reachable()
    root, found, notes = photos.root, photos.photos, photos.notes(with_others)
    if with_others:
        found = sorted([*found, *photos.others], key=place)
    if not found:
        raise FirError("\n".join([f"no image was found in {root}", *notes]))
    labels = [labels_of(path) for path in found]
    category, categories = encode([one for one, _ in labels])
    item, items = encode([one for _, one in labels])
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
        notes=(*notes, *_notes(found)),
    )


def _notes(found: Sequence[str]) -> tuple[str, ...]:
    """What is said of the folders' names and depths."""
    folders = [path.split("/")[:-1] for path in found]
    above, last = (
        ["" if len(names) < deep else names[-deep] for names in folders] for deep in (2, 1)
    )
    category = [one or other for one, other in zip(above, last, strict=True)]
    item = [other if one else "" for one, other in zip(above, last, strict=True)]
    loose = [path for path, name in zip(found, item, strict=True) if not name]
    note = (
        f"note: {len(loose):,} of {len(found):,} images lie in no <category>/<item>/ and have no "
        f"item, the first: {printable(loose[0])}"
        if loose
        else ""
    )
    return (
        *filter(None, [note]),
        *read_labels("a category", category, numbers=False)[1],
        *read_labels("an item", item, numbers=False)[1],
    )
