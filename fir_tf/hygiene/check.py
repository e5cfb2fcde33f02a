"""`python -m fir_tf.datasets check`: reads every image of a data set and says what is wrong."""

import argparse
import contextlib
import dataclasses
import hashlib
import logging

import numpy as np
import pandas as pd

from fir_tf import parallel
from fir_tf.datasets.command_line import Parser, add_source, load_source
from fir_tf.hygiene import near_duplicates
from fir_tf.hygiene.findings import HELD_OUT, Example, Finding, label_findings, plural
from fir_tf.hygiene.report import Report, write_report
from fir_tf.images.file import UnreadableImageError, has_transparency, opened, read
from fir_tf.images.header import FORMATS, MAX_BYTES, MAX_PIXELS
from fir_tf.images.picture import see_or_convert

log = logging.getLogger(__package__)

EXIT_CLEAN, EXIT_FAILED, EXIT_FOUND = 0, 1, 2

_SMALL, _LARGE = 64, 4096
# Pixels a side that an image is unpacked to before it is hashed.
_LOOK = 128
_GRAY_STEPS = 8
_COMPARED = 64

# name: (severity, one, many, what it means and what to do). In the order of the report.
_KINDS = {
    "missing": (
        "error",
        "image file is missing",
        "image files are missing",
        "Unpack the images again, or take the rows out.",
    ),
    "empty": (
        "error",
        "image file has no bytes",
        "image files have no bytes",
        "Unpack or download them again.",
    ),
    "truncated": (
        "error",
        "image is cut off",
        "images are cut off",
        "Unpack or download them again; training skips them.",
    ),
    "unreadable": (
        "error",
        "file is no readable image",
        "files are no readable images",
        "Replace them or take the rows out; training skips them.",
    ),
    "too_large": (
        "error",
        "image is larger than training takes",
        "images are larger than training takes",
        f"The bounds are {MAX_PIXELS:,} pixels and {MAX_BYTES:,} bytes. "
        "`prepare` makes smaller copies.",
    ),
    "format": (
        "error",
        "image has a format that training cannot read",
        "images have a format that training cannot read",
        f"Training reads {', '.join(FORMATS)} (BMP of 24 or 32 bits). `prepare` makes JPEG copies.",
    ),
    "rotated": (
        "warning",
        "photo is stored turned and upright only by its EXIF orientation",
        "photos are stored turned and upright only by their EXIF orientation",
        "Training and search turn it; other programs differ. `prepare` turns the pixels.",
    ),
    "animated": (
        "warning",
        "image is animated",
        "images are animated",
        "Only the first frame is used. `prepare` keeps it alone.",
    ),
    "cmyk": (
        "warning",
        "image has CMYK colours",
        "images have CMYK colours",
        "Training and search convert the colours without their profile. Save them as sRGB if they "
        "look wrong here.",
    ),
    "small": (
        "warning",
        f"image has a side below {_SMALL} pixels",
        f"images have a side below {_SMALL} pixels",
        "Look whether they are thumbnails or icons.",
    ),
    "large": (
        "note",
        f"image has a side above {_LARGE} pixels",
        f"images have a side above {_LARGE} pixels",
        "Reading them slows training. `prepare` makes smaller copies.",
    ),
    "sixteen_bit": (
        "note",
        "image has 16 bits a channel",
        "images have 16 bits a channel",
        "Training uses the upper 8.",
    ),
    "transparent": (
        "note",
        "image has transparent parts",
        "images have transparent parts",
        "Training and search see them on white, as they are shown here.",
    ),
    "grayscale": ("note", "image has no colour", "images have no colour", ""),
}


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What reading one image file told.

    Attributes:
        kinds: tuple of str, keys of `_KINDS` that hold.
        detail: str, sizes or the decoder's words.
        digest: bytes [16] of the file's SHA-256, empty if the file could not be read.
        words: uint64 [4] and `cells`: uint8 [192], see `near_duplicates.fingerprint`; None if it
            could not be decoded or was not asked for.
    """

    kinds: tuple
    detail: str
    digest: bytes
    words: np.ndarray
    cells: np.ndarray


def inspect(task):
    """Reads one image file.

    Args:
        task: (str, the file; bool, whether to take the fingerprint).

    Returns:
        Inspection.
    """
    path, wanted = task
    digest = b""
    try:
        contents = read(path)
        digest = hashlib.sha256(contents).digest()[:16]
        picture, fault = see_or_convert(contents, _LOOK)
    except UnreadableImageError as error:
        return Inspection((error.kind,), error.reason, digest, None, None)
    hints, form = _hints(contents)
    holds = {fault, *_kinds(picture), *hints}
    kinds = tuple(name for name in _KINDS if name in holds)
    detail = f"{form} {picture.width} x {picture.height}".strip()
    found = near_duplicates.fingerprint(picture.image) if wanted else (None, None)
    return Inspection(kinds, detail, digest, *found)


def _kinds(picture):
    """What the pixels tell: a list of keys of `_KINDS`."""
    sides = (picture.width, picture.height)
    # By the channel: along an axis of three, numpy takes thirty times as long.
    red, green, blue = np.moveaxis(np.asarray(picture.image).astype(np.int16), 2, 0)
    highest = np.maximum(np.maximum(red, green), blue)
    spread = highest - np.minimum(np.minimum(red, green), blue)
    holds = {
        "rotated": picture.orientation != 1,
        "small": min(sides) < _SMALL,
        "large": max(sides) > _LARGE,
        "grayscale": int(spread.max()) <= _GRAY_STEPS,
    }
    return [name for name, value in holds.items() if value]


def _hints(contents):
    """What Pillow says of a file: (a list of keys of `_KINDS`, format and mode).

    Pillow stumbles over some files that training reads; of them only the pixels are known.
    """
    hints, form = [], ""
    with contextlib.suppress(UnreadableImageError), opened(contents) as (image, header):
        form = f"{header.format} {header.mode}"
        holds = {
            "animated": header.animated,
            "cmyk": header.mode == "CMYK",
            "sixteen_bit": header.sixteen_bit,
        }
        hints += [name for name, value in holds.items() if value]
        # Last, because it reads the pixels.
        if has_transparency(image):
            hints.append("transparent")
    return hints, form


def check(catalogue, near=True, workers=0):
    """Reads every image of a catalogue and looks for what is wrong with it.

    Args:
        catalogue: Catalogue; its files need not exist.
        near: bool, whether to look for near-duplicates (`near_duplicates.group`); exact copies
            are looked for anyway.
        workers: int, processes; 0 for one a core.

    Returns:
        list of Finding, the worst first.

    Raises:
        FirError: if a process dies.
    """
    count = len(catalogue)
    words = np.zeros((count, 4), np.uint64)
    cells = np.zeros((count, 192), np.uint8)
    digests = np.empty(count, object)
    cases = {name: [] for name in _KINDS}
    tasks = [(path, near) for path in catalogue.files()]
    for row, found in enumerate(parallel.run(inspect, tasks, workers, "check")):
        digests[row] = found.digest or None
        for name in found.kinds:
            cases[name].append(Example((row,), found.detail))
        if found.words is not None:
            words[row], cells[row] = found.words, found.cells
    findings = [
        Finding(
            name,
            severity,
            f"{len(cases[name]):,} {one if len(cases[name]) == 1 else many}",
            advice,
            len(cases[name]),
            cases[name],
        )
        for name, (severity, one, many, advice) in _KINDS.items()
        if cases[name]
    ]
    findings += label_findings(catalogue)
    findings += _copies(catalogue, digests, words, cells, near)
    order = {"error": 0, "warning": 1, "note": 2}
    return sorted(findings, key=lambda finding: order[finding.severity])


# name: (severity, what the groups lie across, what it means and what to do).
_COPIES = {
    "leakage": (
        "warning",
        "across train and a held-out split",
        "The result is better than it would be on unseen photos. Keep them on one side.",
    ),
    "item_duplicates": (
        "warning",
        "between different items",
        "One photo cannot be two items: a search cannot tell them apart. Join the items, or take "
        "the photos out.",
    ),
    "category_duplicates": (
        "warning",
        "between different categories",
        "One photo has two labels. Correct one.",
    ),
    "easy_queries": (
        "note",
        "of a query and the gallery",
        "The query's own photo is a match that any method finds.",
    ),
    "repeats": (
        "note",
        "with the same file more than once on one side",
        "They count as several photos.",
    ),
}


def _copies(catalogue, digests, words, cells, near):
    """Returns the findings about exact copies and near-duplicates."""
    readable = np.flatnonzero(pd.notna(digests))
    code, _ = pd.factorize(digests[readable])
    _, first = np.unique(code, return_index=True)
    rows = readable[first]
    labels = near_duplicates.group(words[rows], cells[rows])[code] if near else code
    split, item = catalogue.split[readable], catalogue.item[readable]
    table = pd.DataFrame(
        {
            "row": readable,
            "group": labels,
            "code": code,
            "item": pd.array(item, "Int32"),
            "loose": pd.array(np.where(item < 0, catalogue.category[readable], -1), "Int32"),
            "train": split == "train",
            "held_out": np.isin(split, HELD_OUT),
            "query": split == "query",
            "gallery": split == "gallery",
        }
    )
    for name in ("item", "loose"):
        table.loc[table[name] < 0, name] = pd.NA
    table = table[table.groupby("group")["row"].transform("size") > 1]
    groups = table.groupby("group")
    holds = groups[["train", "held_out", "query", "gallery"]].any()
    kinds = groups[["item", "loose", "code"]].nunique()
    leak = holds["train"] & holds["held_out"]
    hits = {
        "leakage": leak,
        # Across the splits the items are different by themselves: once is enough.
        "item_duplicates": ~leak & (kinds["item"] > 1),
        "category_duplicates": ~leak & (kinds["loose"] > 1),
        "easy_queries": holds["query"] & holds["gallery"] & (kinds["item"] <= 1),
    }
    said = leak | hits["item_duplicates"] | hits["category_duplicates"]
    hits["repeats"] = ~(said | hits["easy_queries"]) & (kinds["code"] < groups.size())

    # Which two of a group are shown: both of these, or two unlike values, or two alike.
    columns = {
        "leakage": ("train", "held_out"),
        "item_duplicates": ("item",),
        "category_duplicates": ("loose",),
        "easy_queries": ("query", "gallery"),
        "repeats": ("code", "code"),
    }
    findings = []
    for name, (severity, text, advice) in _COPIES.items():
        chosen = hits[name].index[hits[name]]
        if not len(chosen):
            continue
        parts = table[table["group"].isin(chosen)]
        pairs = [
            _pair(catalogue, words, cells, digests, part, columns[name])
            for _, part in parts.groupby("group", sort=False)
        ]
        pairs.sort(key=lambda pair: pair[0])
        what = f"{plural(len(pairs), 'group')} of {'near-duplicates' if near else 'copies'}"
        findings.append(
            Finding(
                name,
                severity,
                f"{what} {text} ({plural(len(parts), 'image')})",
                advice,
                len(pairs),
                [example for _, example in pairs],
            )
        )
    return findings


def _pair(catalogue, words, cells, digests, part, columns):
    """Returns (distance, Example) of the nearest two rows of a group that show why it is one.

    Args:
        catalogue: Catalogue.
        words: uint64 [n, 4].
        cells: uint8 [n, 192].
        digests: object array [n].
        part: pandas.DataFrame, the group's rows.
        columns: tuple of one name, whose values have to differ, or of two names: of bools, of
            which one has to hold for each row, or twice the same, whose values have to be alike.
    """
    size = len(part)
    if len(columns) == 1:
        # One row of every value first, so that a large group still has a pair.
        part = part[part[columns[0]].notna()]
        part = part.loc[part[columns[0]].duplicated().sort_values(kind="stable").index]
        part = part.head(_COMPARED)
        values = part[columns[0]].to_numpy(np.int64)
        fits = values[:, None] != values
    elif columns[0] == columns[1]:
        part = part[part[columns[0]].duplicated(keep=False)].sort_values(columns[0]).head(_COMPARED)
        values = part[columns[0]].to_numpy()
        fits = values[:, None] == values
    else:
        part = pd.concat([part[part[name]].head(_COMPARED // 2) for name in columns])
        left, right = (part[name].to_numpy() for name in columns)
        fits = left[:, None] & right
    rows = part["row"].to_numpy()
    best = None
    for one, other in np.argwhere(np.triu(fits | fits.T, 1)):
        pair = (int(rows[one]), int(rows[other]))
        same = digests[pair[0]] == digests[pair[1]]
        apart = (-1, 0) if same else near_duplicates.distance(words, cells, *pair)
        if best is None or (apart, pair) < best:
            best = (apart, pair)
    apart, pair = best
    names = [
        catalogue.split[row]
        + (f", item {catalogue.items[catalogue.item[row]]}" if catalogue.item[row] >= 0 else "")
        for row in pair
    ]
    how = "the same file" if apart[0] < 0 else f"{apart[0]} of 256 bits differ"
    more = f"; group of {size}" if size > 2 else ""
    return apart, Example(pair, f"{names[0]} / {names[1]}: {how}{more}")


def main(argv=None):
    """The command line of the check; `argv` is a list of str, by default that of the process.

    Returns:
        int, the exit status: 0 clean, 2 when something was found that counts.

    Raises:
        FirError: for bad usage or a data set that cannot be loaded.
    """
    parser = Parser(
        prog="python -m fir_tf.datasets check",
        description="Reads every image of a data set and says what is wrong with files and "
        "labels: on the screen, and in report.txt, report.html (with pictures) and report.json.",
        epilog="Exit status: 0 nothing wrong, 1 bad usage or a data set that cannot be loaded, "
        "2 errors were found (with --strict also warnings).",
    )
    add_source(parser)
    parser.add_argument("--out", default="runs/check", help="folder of the report (%(default)s)")
    parser.add_argument(
        "--near_duplicates",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="look for near-duplicates, not only for copies of a file (on)",
    )
    parser.add_argument(
        "--strict", action="store_true", help="exit with status 2 for warnings as well"
    )
    args = parser.parse_args(argv)
    catalogue = load_source(args.dataset, args.data_dir)
    findings = check(catalogue, args.near_duplicates, args.workers)
    report = Report(catalogue, args.dataset, findings, args.strict)
    log.info(report.text().removesuffix("\n"))
    log.info(f"\nreport: {write_report(report, args.out)}")
    return EXIT_FOUND if report.failed else EXIT_CLEAN
