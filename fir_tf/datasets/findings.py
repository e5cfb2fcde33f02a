"""What can be wrong with a data set, as far as the labels and the file system tell.

`quick_check` is what train.py runs; `python -m fir_tf.datasets check` reads every image too.
"""

import dataclasses
import os
import time
import zlib

import numpy as np

from fir_tf.errors import FirError
from fir_tf.images.file import UnreadableImageError, read
from fir_tf.images.picture import claimed_size

SEVERITIES = ("error", "warning", "note")
HELD_OUT = ("val", "query", "gallery", "test")

# A data set with more unreadable images than this is broken, not blemished.
BAD_SHARE_MAX = 0.01
_FEW_IMAGES = 10
_HEADERS = 200


@dataclasses.dataclass(frozen=True)
class Example:
    """One case of a finding.

    Attributes:
        rows: tuple of int, the rows of the catalogue it is about; two are shown side by side.
        detail: str, what is particular about it.
    """

    rows: tuple
    detail: str = ""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One kind of thing found in a data set.

    Attributes:
        name: str, for scripts.
        severity: str, one of `SEVERITIES`. error: training or evaluation cannot use it, or the
            result would be wrong. warning: the result may be misleading. note: good to know.
        text: str, a sentence with the count.
        advice: str, what to do; may be empty.
        count: int, how many there are.
        examples: list of Example, one for each case.
    """

    name: str
    severity: str
    text: str
    advice: str
    count: int
    examples: list


def plural(count, one, many=None):
    """Returns "1 image", "2 images"; `many` where the plural is not made with an s."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def too_many_unreadable(bad, count):
    """Returns whether `bad` of `count` images are more than 1 %, and more than one."""
    return bad > max(1, BAD_SHARE_MAX * count)


def label_findings(catalogue):
    """Looks at the labels alone.

    Args:
        catalogue: Catalogue.

    Returns:
        list of Finding.
    """
    return [
        finding
        for look in (_shared_items, _queries_without_match, _single_images, _untrained, _sizes)
        for finding in look(catalogue)
    ]


def _shared_items(catalogue):
    known = np.flatnonzero(catalogue.item >= 0)
    train = known[catalogue.split[known] == "train"]
    held_out = known[np.isin(catalogue.split[known], HELD_OUT)]
    items, first = np.unique(catalogue.item[train], return_index=True)
    others, second = np.unique(catalogue.item[held_out], return_index=True)
    shared, left, right = np.intersect1d(items, others, return_indices=True)
    if not len(shared):
        return
    pairs = zip(shared, train[first[left]], held_out[second[right]], strict=True)
    yield Finding(
        "shared_items",
        "error",
        f"{plural(len(shared), 'item')} in train and in a held-out split",
        "Move all images of an item to one split; a result on items seen in training says "
        "nothing about unseen ones.",
        len(shared),
        [
            Example(
                (int(one), int(other)),
                f"item {catalogue.items[item]}: train and {catalogue.split[other]}",
            )
            for item, one, other in pairs
        ],
    )


def _queries_without_match(catalogue):
    queries = np.flatnonzero(catalogue.split == "query")
    gallery = np.unique(catalogue.item[(catalogue.split == "gallery") & (catalogue.item >= 0)])
    lost = queries[~np.isin(catalogue.item[queries], gallery)]
    if len(lost):
        yield Finding(
            "queries_without_match",
            "warning",
            f"{plural(len(lost), 'query', 'queries')} of {len(queries):,} without an image of the "
            "same item in the gallery",
            "They count as misses. Add the items to the gallery or take the queries out.",
            len(lost),
            [Example((int(row),)) for row in lost],
        )


def _single_images(catalogue):
    rows = np.flatnonzero((catalogue.split == "train") & (catalogue.item >= 0))
    _, first, count = np.unique(catalogue.item[rows], return_index=True, return_counts=True)
    alone = rows[first[count == 1]]
    if len(alone):
        yield Finding(
            "single_images",
            "note",
            f"{len(alone):,} of {plural(len(count), 'training item')} "
            f"{'has' if len(alone) == 1 else 'have'} one image",
            "They serve as negatives only: a triplet needs two images of its item.",
            len(alone),
            [Example((int(row),), f"item {catalogue.items[catalogue.item[row]]}") for row in alone],
        )


def _untrained(catalogue):
    known = catalogue.category >= 0
    train = catalogue.split == "train"
    trained = np.unique(catalogue.category[known & train])
    rows = np.flatnonzero(known & ~train & ~np.isin(catalogue.category, trained))
    names, first = np.unique(catalogue.category[rows], return_index=True)
    if len(names):
        yield Finding(
            "untrained_categories",
            "warning",
            f"{plural(len(names), 'category', 'categories')} without a training image",
            "Their images are classified wrong. Give them training images or another category.",
            len(names),
            [
                Example((int(rows[place]),), f"category {catalogue.categories[name]}")
                for name, place in zip(names, first, strict=True)
            ],
        )


def _sizes(catalogue):
    rows = np.flatnonzero((catalogue.split == "train") & (catalogue.category >= 0))
    names, first, count = np.unique(catalogue.category[rows], return_index=True, return_counts=True)
    small = np.flatnonzero(count < _FEW_IMAGES)
    if len(small):
        yield Finding(
            "small_categories",
            "note",
            f"{plural(len(small), 'category', 'categories')} of {len(names):,} with fewer than "
            f"{_FEW_IMAGES} training images (the largest has {count.max():,})",
            "Little can be learned about them; join them with others or add photos.",
            len(small),
            [
                Example(
                    (int(rows[first[place]]),),
                    f"category {catalogue.categories[names[place]]}: "
                    f"{plural(int(count[place]), 'training image')}",
                )
                for place in small[np.argsort(count[small], kind="stable")]
            ],
        )


def quick_check(catalogue, seconds=1.0):
    """Looks for what spoils a run, without reading the images.

    The labels are looked at in full; whether the files are there and not empty is looked up for
    as many as the time allows, in an order that depends on their names, and of some the header is
    read.

    Args:
        catalogue: Catalogue.
        seconds: float, what looking at files may take (50,000 local files take half of a second).

    Returns:
        list of str, a line for each finding.

    Raises:
        FirError: if more than 1 % of the files looked at are missing, empty or no images.
    """
    lines = [
        f"{'note' if finding.severity == 'note' else 'warning'}: {finding.text}. {finding.advice}"
        for finding in label_findings(catalogue)
    ]
    looked, bad = _look_at_files(catalogue, seconds)
    if bad:
        shown = "\n".join(
            f"  {catalogue.location(row)}: {catalogue.root / catalogue.path[row]}: {reason}"
            for row, reason in bad[:5]
        )
        text = f"{len(bad):,} of {plural(looked, 'image file')} looked at cannot be read:\n{shown}"
        if too_many_unreadable(len(bad), looked):
            raise FirError(
                f"{text}\n`python -m fir_tf.datasets check` lists them all; unpack the images "
                "again, or take the rows out"
            )
        lines.append(f"warning: {text}")
    return lines


def _look_at_files(catalogue, seconds):
    """Returns (files looked at, [(row, what is wrong with it)])."""
    order = np.argsort([zlib.crc32(path.encode()) for path in catalogue.path], kind="stable")
    files, bad = catalogue.files(), []
    end = time.monotonic() + seconds
    looked = 0
    for row in order:
        if looked % 100 == 0 and looked and time.monotonic() > end:
            break
        try:
            if looked < _HEADERS:
                claimed_size(read(files[row]))
            elif not os.path.getsize(files[row]):
                bad.append((int(row), "the file has no bytes"))
        except UnreadableImageError as error:
            bad.append((int(row), error.reason))
        except OSError:
            bad.append((int(row), "there is no such file"))
        looked += 1
    return looked, sorted(bad)
