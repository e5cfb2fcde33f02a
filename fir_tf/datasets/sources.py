"""Several sources at once: their training images in one Catalogue."""

import dataclasses
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from fir_tf import registry
from fir_tf.datasets.catalogue import UNKNOWN, Catalogue, check_paths
from fir_tf.errors import FirError


def parse_sources(text: str) -> list[tuple[str, str, str]]:
    """Reads the value of --extra_data.

    Args:
        text: str, `dataset:path[,dataset:path...]`, possibly empty; `dataset(columns):path` names
            the columns of a table or a feed as --columns does those of the main one.

    Returns:
        list of (data set, path, columns), str each.

    Raises:
        FirError: for a part that is not of this form, with a known data set.
    """
    if not text.strip():
        return []
    known = registry.names("dataset")
    name = f"(?:{'|'.join(known)})"
    sources = []
    # A comma that begins another source; a path may contain commas.
    for part in re.split(rf",(?=\s*{name}(?:\(.*?\))?:)", text):
        found = re.fullmatch(rf"({name})(?:\((.*?)\))?:(.+)", part.strip())
        if not found:
            raise FirError(
                "`extra_data` must be dataset:path[,dataset:path...] with a data set of "
                f"{', '.join(known)}, or with columns of its own as table(item=sku):path. "
                f"Received: {part.strip()!r}"
            )
        sources.append((found[1], found[3].strip(), found[2] or ""))
    return sources


def merge_training(main: Catalogue, extras: Sequence[tuple[str, Catalogue]]) -> Catalogue:
    """Adds the training images of other catalogues to one.

    The validation, query, gallery and test images are those of `main` alone. Categories of the
    same name are one category: those of `main` come first, in its order. Items never are the same
    across catalogues, whatever their names: each extra item is called `<source>/<item>`.

    Args:
        main: Catalogue, complete, its validation part split off already.
        extras: sequence of (str, Catalogue): a name for the source, and its rows, of which the
            split `train` is taken.

    Returns:
        Catalogue whose root is the innermost folder that holds all the roots.

    Raises:
        FirError: if an extra catalogue has no training image, or an image comes from two sources.
    """
    parts = [main, *(_as_extra(name, extra, main) for name, extra in extras)]
    categories = tuple(dict.fromkeys(name for part in parts for name in part.categories))
    parts = [part.with_categories(categories) for part in parts]
    roots = [os.path.realpath(part.root) for part in parts]
    root = os.path.commonpath(roots)
    paths = [
        path if below == "." else f"{below}/{path}"
        for part, below in zip(parts, (os.path.relpath(one, root) for one in roots), strict=True)
        for path in part.path
    ]
    columns = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("category", "domain", "split", "line", "box", "box_in_shares")
    }
    merged = dataclasses.replace(
        main,
        root=Path(root),
        path=np.array(paths, object),
        item=_renumbered([(part.item, len(part.items)) for part in parts], np.int32),
        origin=_renumbered([(part.origin, len(part.sources)) for part in parts], np.int16),
        **columns,
        categories=categories,
        items=tuple(name for part in parts for name in part.items),
        source=", ".join(dict.fromkeys(part.source for part in parts)),
        notes=tuple(note for part in parts for note in part.notes),
        sources=tuple(name for part in parts for name in part.sources),
        # Nothing is trained on it.
        columns={},
    )
    check_paths(merged)
    return merged


def _as_extra(name: str, extra: Catalogue, main: Catalogue) -> Catalogue:
    """Returns the training images of a catalogue, its items and notes called after `name`."""
    part = extra.part("train")
    if not len(part):
        raise FirError(
            f"{name} has no training image (split 'train'), so it adds nothing. Take it out "
            "of --extra_data"
        )
    used = np.unique(part.item[part.item >= 0])
    item = np.where(part.item >= 0, np.searchsorted(used, part.item), UNKNOWN).astype(np.int32)
    present = {part.categories[index] for index in np.unique(part.category[part.category >= 0])}
    note = (
        f"extra data: {name}: {len(part):,} training images, {len(used):,} items, {len(present)} "
        f"categories ({len(present & set(main.categories))} of them also in the main data set)"
    )
    return dataclasses.replace(
        part,
        item=item,
        items=tuple(f"{name}/{part.items[index]}" for index in used),
        notes=(*(f"{name}: {text}" for text in part.notes), note),
    )


def _renumbered(columns: Sequence[tuple[np.ndarray, int]], dtype: DTypeLike) -> np.ndarray:
    """Joins columns of (numbers, how many values there are) so that no two share a value."""
    before = np.cumsum([0, *(count for _, count in columns)])
    shifted = [
        np.where(column >= 0, column + start, UNKNOWN)
        for (column, _), start in zip(columns, before, strict=False)
    ]
    return np.concatenate(shifted).astype(dtype)
