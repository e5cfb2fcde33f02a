"""Several sources at once: their training images in one Catalogue."""

import dataclasses
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fir_tf import registry
from fir_tf.datasets.catalogue import UNKNOWN, Catalogue, check_paths
from fir_tf.errors import FirError


def parse_sources(text: str) -> list[tuple[str, str]]:
    """Reads the value of --extra_data.

    Args:
        text: str, `dataset:path[,dataset:path...]`, possibly empty.

    Returns:
        list of (data set, path), str each.

    Raises:
        FirError: for a part that is not `dataset:path` with a known data set.
    """
    if not text.strip():
        return []
    known = registry.names("dataset")
    sources = []
    # A comma that begins another source; a path may contain commas.
    for part in re.split(rf",(?=\s*(?:{'|'.join(known)}):)", text):
        found = re.fullmatch(rf"({'|'.join(known)}):(.+)", part.strip())
        if not found:
            raise FirError(
                "`extra_data` must be dataset:path[,dataset:path...] with a data set of "
                f"{', '.join(known)}. Received: {part.strip()!r}"
            )
        sources.append((found[1], found[2].strip()))
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
    parts, names = [main], [""]
    for name, extra in extras:
        part = extra.part("train")
        if not len(part):
            raise FirError(
                f"{name} has no training image (split 'train'), so it adds nothing. Take it out "
                "of --extra_data"
            )
        parts.append(part)
        names.append(name)
    categories = tuple(dict.fromkeys(name for part in parts for name in part.categories))
    roots = [os.path.realpath(part.root) for part in parts]
    root = os.path.commonpath(roots)
    columns: dict[str, list] = {name: [] for name in ("path", "category", "item", "origin")}
    items: list[str] = []
    sources: list[str] = []
    notes = list(main.notes)
    for part, folder, name in zip(parts, roots, names, strict=True):
        below = os.path.relpath(folder, root)
        prefix = "" if below == "." else f"{below}/"
        columns["path"].append(np.array([prefix + path for path in part.path], object))
        columns["category"].append(part.with_categories(categories).category)
        if name:
            used, item = np.unique(part.item, return_inverse=True)
            item = (item + len(items) - (used[0] == UNKNOWN)).astype(np.int32)
            columns["item"].append(np.where(part.item >= 0, item, UNKNOWN).astype(np.int32))
            items += [f"{name}/{part.items[index]}" for index in used if index >= 0]
            notes += [f"{name}: {note}" for note in part.notes]
            notes.append(_describe_extra(name, part, main))
        else:
            columns["item"].append(part.item)
            items += part.items
        columns["origin"].append((part.origin + len(sources)).astype(np.int16))
        sources += part.sources
    merged = dataclasses.replace(
        main,
        root=Path(root),
        **{name: np.concatenate(values) for name, values in columns.items()},
        **{
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in ("domain", "split", "line")
        },
        categories=categories,
        items=tuple(items),
        source=", ".join(dict.fromkeys(part.source for part in parts)),
        notes=tuple(notes),
        sources=tuple(sources),
    )
    check_paths(merged)
    return merged


def _describe_extra(name, part, main):
    labelled = part.category[part.category >= 0]
    present = {part.categories[index] for index in np.unique(labelled)}
    items = len(np.unique(part.item[part.item >= 0]))
    return (
        f"extra data: {name}: {len(part):,} training images, {items:,} items, {len(present)} "
        f"categories ({len(present & set(main.categories))} of them also in the main data set)"
    )
