"""What can be wrong with a data set, as far as the labels and the file system tell.

`quick_check` is what train.py runs; `python -m fir_tf.datasets check` reads every image too.
"""

import collections
import dataclasses
import os
import re
import time
import zlib

import numpy as np

from fir_tf.datasets.catalogue import Catalogue
from fir_tf.datasets.labels import plain
from fir_tf.datasets.walk import printable
from fir_tf.errors import FirError
from fir_tf.images.claimed import claimed_size
from fir_tf.images.file import UnreadableImageError, read

SEVERITIES = ("error", "warning", "note")
HELD_OUT = ("val", "query", "gallery", "test")

# A data set with more unreadable images than this is broken, not blemished.
BAD_SHARE_MAX = 0.01
_FEW_IMAGES = 10
# An item of as many images, and of so many times more than nine of ten items have, is hardly one
# garment.
_CROWD, _CROWDED = 20, 5
_SCIENTIFIC = re.compile(r"\d([.,]\d+)?[eE]\+\d+")
_NUMBER = re.compile(r"0*(\d+?)(\.0+)?")
_HEADERS = 200


@dataclasses.dataclass(frozen=True)
class Example:
    """One case of a finding.

    Attributes:
        rows: tuple of int, the rows of the catalogue it is about; two are shown side by side.
        detail: str, what is particular about it.
    """

    rows: tuple[int, ...]
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
        examples: list of Example, one for each case.
    """

    name: str
    severity: str
    text: str
    advice: str
    examples: list[Example]

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.examples)


def plural(count: int, one: str, many: str = "") -> str:
    """Returns "1 image", "2 images"; `many` where the plural is not made with an s."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def too_many_unreadable(bad: int, count: int) -> bool:
    """Returns whether `bad` of `count` images are more than 1 %, and more than one."""
    return bad > max(1, BAD_SHARE_MAX * count)


def label_findings(catalogue: Catalogue) -> list[Finding]:
    """Looks at the labels alone.

    Args:
        catalogue: Catalogue.

    Returns:
        list of Finding.
    """
    labels = (
        _Label("item", "items", catalogue.item, catalogue.items),
        _Label("category", "categories", catalogue.category, catalogue.categories),
    )
    findings = (
        _shared_items(catalogue),
        _queries_without_match(catalogue),
        *map(_spellings, labels),
        *map(_rounded_numbers, labels),
        _two_categories(catalogue),
        _crowded_items(catalogue),
        _single_images(catalogue),
        _untrained(catalogue),
        _sizes(catalogue),
    )
    return [finding for finding in findings if finding.examples]


def _shared_items(catalogue: Catalogue) -> Finding:
    known = np.flatnonzero(catalogue.item >= 0)
    train = known[catalogue.split[known] == "train"]
    held_out = known[np.isin(catalogue.split[known], HELD_OUT)]
    items, first = np.unique(catalogue.item[train], return_index=True)
    others, second = np.unique(catalogue.item[held_out], return_index=True)
    shared, left, right = np.intersect1d(items, others, return_indices=True)
    pairs = zip(shared, train[first[left]], held_out[second[right]], strict=True)
    return Finding(
        "shared_items",
        "error",
        f"{plural(len(shared), 'item')} in train and in a held-out split",
        "Move all images of an item to one split; a result on items seen in training says "
        "nothing about unseen ones.",
        [
            Example(
                (int(one), int(other)),
                f"item {catalogue.items[item]}: train and {catalogue.split[other]}",
            )
            for item, one, other in pairs
        ],
    )


def _queries_without_match(catalogue: Catalogue) -> Finding:
    queries = np.flatnonzero(catalogue.split == "query")
    gallery = np.unique(catalogue.item[(catalogue.split == "gallery") & (catalogue.item >= 0)])
    lost = queries[~np.isin(catalogue.item[queries], gallery)]
    return Finding(
        "queries_without_match",
        "warning",
        f"{plural(len(lost), 'query', 'queries')} of {len(queries):,} without an image of the "
        "same item in the gallery",
        "They count as misses. Add the items to the gallery or take the queries out.",
        [Example((int(row),)) for row in lost],
    )


@dataclasses.dataclass(frozen=True)
class _Label:
    """A column of labels.

    Attributes:
        noun, many: str, what a label is, one and several.
        column: int array [n], index into `names`, -1 where unknown.
        names: tuple of str.
    """

    noun: str
    many: str
    column: np.ndarray
    names: tuple[str, ...]

    def used(self) -> list[tuple[str, int]]:
        """Returns (name, the first row that has it) of the labels that occur, by their numbers."""
        values, first = np.unique(self.column, return_index=True)
        return [
            (self.names[value], int(row))
            for value, row in zip(values, first, strict=True)
            if value >= 0
        ]


def _spellings(label: _Label) -> Finding:
    """One label written in several ways: case, blanks, invisible letters, 12 and 012 and 12.0."""
    alike = collections.defaultdict(list)
    for name, row in label.used():
        alike[_alike(name)].append((name, row))
    groups = [group for group in alike.values() if len(group) > 1]
    return Finding(
        f"{label.noun}_spellings",
        "warning",
        f"{plural(len(groups), label.noun, label.many)} written in more than one way, as by case, "
        "blanks or look-alike letters",
        "Each way counts as another label. Write it in one.",
        [
            Example(
                tuple(row for _, row in group[:2]),
                f"{label.noun} " + ", ".join(ascii(name) for name, _ in group),
            )
            for group in groups
        ],
    )


def _alike(name: str) -> str:
    name = plain(name)
    number = _NUMBER.fullmatch(name)
    return number[1] if number else name


def _rounded_numbers(label: _Label) -> Finding:
    rounded = [(name, row) for name, row in label.used() if _SCIENTIFIC.fullmatch(name)]
    return Finding(
        f"rounded_{label.many}",
        "warning",
        f"{plural(len(rounded), label.noun, label.many)} with a number in scientific notation",
        "A spreadsheet has rounded long numbers, so that different ones became the same. "
        "Export the column as text.",
        [Example((row,), f"{label.noun} {name}") for name, row in rounded],
    )


def _two_categories(catalogue: Catalogue) -> Finding:
    rows = np.flatnonzero((catalogue.item >= 0) & (catalogue.category >= 0))
    items, first, group = np.unique(catalogue.item[rows], return_index=True, return_inverse=True)
    differs = catalogue.category[rows] != catalogue.category[rows[first[group]]]
    split, other = np.unique(group[differs], return_index=True)
    return Finding(
        "two_categories",
        "warning",
        f"{plural(len(split), 'item')} of {len(items):,} with images in two categories",
        "An item is one garment. Correct its category, or give the garments items of their own.",
        [
            Example(
                (int(one), int(two)),
                f"item {catalogue.items[catalogue.item[one]]}: "
                f"{catalogue.categories[catalogue.category[one]]} and "
                f"{catalogue.categories[catalogue.category[two]]}",
            )
            for one, two in zip(rows[first[split]], rows[differs][other], strict=True)
        ],
    )


def _crowded_items(catalogue: Catalogue) -> Finding:
    rows = np.flatnonzero(catalogue.item >= 0)
    items, first, count = np.unique(catalogue.item[rows], return_index=True, return_counts=True)
    usual = int(np.percentile(count, 90, method="lower")) if len(items) else 0
    crowded = np.flatnonzero((count >= _CROWD) & (count > _CROWDED * usual))
    return Finding(
        "crowded_items",
        "warning",
        f"{plural(len(crowded), 'item')} of suspiciously many images (nine of ten items have "
        f"at most {usual})",
        "Is the name one that stands for unknown? Then leave it empty: all its images count "
        "as one garment.",
        [
            Example(
                (int(rows[first[place]]),),
                f"item {catalogue.items[items[place]]}: {plural(int(count[place]), 'image')}",
            )
            for place in crowded[np.argsort(-count[crowded], kind="stable")]
        ],
    )


def _single_images(catalogue: Catalogue) -> Finding:
    rows = np.flatnonzero((catalogue.split == "train") & (catalogue.item >= 0))
    _, first, count = np.unique(catalogue.item[rows], return_index=True, return_counts=True)
    alone = rows[first[count == 1]]
    return Finding(
        "single_images",
        "note",
        f"{len(alone):,} of {plural(len(count), 'training item')} "
        f"{'has' if len(alone) == 1 else 'have'} one image",
        "They serve as negatives only: a triplet needs two images of its item.",
        [Example((int(row),), f"item {catalogue.items[catalogue.item[row]]}") for row in alone],
    )


def _untrained(catalogue: Catalogue) -> Finding:
    known = catalogue.category >= 0
    train = catalogue.split == "train"
    trained = np.unique(catalogue.category[known & train])
    rows = np.flatnonzero(known & ~train & ~np.isin(catalogue.category, trained))
    names, first = np.unique(catalogue.category[rows], return_index=True)
    return Finding(
        "untrained_categories",
        "warning",
        f"{plural(len(names), 'category', 'categories')} without a training image",
        "Their images are classified wrong. Give them training images or another category.",
        [
            Example((int(row),), f"category {catalogue.categories[name]}")
            for name, row in zip(names, rows[first], strict=True)
        ],
    )


def _sizes(catalogue: Catalogue) -> Finding:
    rows = np.flatnonzero((catalogue.split == "train") & (catalogue.category >= 0))
    names, first, count = np.unique(catalogue.category[rows], return_index=True, return_counts=True)
    small = np.flatnonzero(count < _FEW_IMAGES)
    return Finding(
        "small_categories",
        "note",
        f"{plural(len(small), 'category', 'categories')} of {len(names):,} with fewer than "
        f"{_FEW_IMAGES} training images (the largest has {count.max(initial=0):,})",
        "Little can be learned about them; join them with others or add photos.",
        [
            Example(
                (int(rows[first[place]]),),
                f"category {catalogue.categories[names[place]]}: "
                f"{plural(int(count[place]), 'training image')}",
            )
            for place in small[np.argsort(count[small], kind="stable")]
        ],
    )


def quick_check(catalogue: Catalogue, seconds: float = 1.0) -> list[str]:
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
            f"  {catalogue.location(row)}: "
            f"{printable(str(catalogue.root / catalogue.path[row]))}: {reason}"
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


def _look_at_files(catalogue: Catalogue, seconds: float) -> tuple[int, list[tuple[int, str]]]:
    """Returns (files looked at, [(row, what is wrong with it)])."""
    order = np.argsort([zlib.crc32(path.encode()) for path in catalogue.path], kind="stable")
    files, bad, looked = catalogue.files(), [], 0
    end = time.monotonic() + seconds
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
        except OSError as error:
            bad.append((int(row), error.strerror or "there is no such file"))
        looked += 1
    return looked, sorted(bad)
