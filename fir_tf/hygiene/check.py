"""Reads every image of a data set and says what is wrong with it: `fir_tf.datasets check`."""

import contextlib
import dataclasses
import hashlib

import numpy as np

from fir_tf import parallel
from fir_tf.datasets.catalogue import Catalogue
from fir_tf.hygiene import near_duplicates
from fir_tf.hygiene.boxes import area_fault
from fir_tf.hygiene.copies import Prints, copy_findings
from fir_tf.hygiene.findings import SEVERITIES, Example, Finding, label_findings, plural
from fir_tf.images.claimed import FORMATS
from fir_tf.images.file import UnreadableImageError, has_transparency, opened, read
from fir_tf.images.limits import MAX_BYTES, MAX_PIXELS
from fir_tf.images.picture import Picture, see_or_convert

_SMALL, _LARGE = 64, 4096
# Pixels a side that an image is unpacked to before it is hashed.
_LOOK = 128
_GRAY_STEPS = 8

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
    "box": (
        "error",
        "box has no area in its photo",
        "boxes have no area in their photos",
        "Correct them, or leave them empty. With --crop=box such photos are skipped.",
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
        print: (uint64 [4], uint8 [192]), see `near_duplicates.fingerprint`; None if it could not
            be decoded or was not asked for.
    """

    kinds: tuple[str, ...]
    detail: str
    digest: bytes
    print: tuple[np.ndarray, np.ndarray] | None = None


def inspect(task: tuple[str, bool, tuple[np.ndarray, bool] | None]) -> Inspection:
    """Reads one image file.

    Args:
        task: (str, the file; bool, whether to take the fingerprint; its box, float32 [4], and
            whether in shares, or None).

    Returns:
        Inspection.
    """
    path, wanted, box = task
    digest = b""
    try:
        contents = read(path)
        digest = hashlib.sha256(contents).digest()[:16]
        picture, fault = see_or_convert(contents, _LOOK)
    except UnreadableImageError as error:
        return Inspection((error.kind,), error.reason, digest)
    hints, form = _hints(contents)
    holds = {fault, *_kinds(picture), *hints}
    kinds = tuple(name for name in _KINDS if name in holds)
    detail = f"{form} {picture.width} x {picture.height}".strip()
    sides = (picture.width, picture.height)
    outside = area_fault(*box, sides[::-1] if picture.orientation >= 5 else sides) if box else ""
    if outside:
        kinds, detail = ("box", *kinds), f"{detail}; {outside}"
    found = near_duplicates.fingerprint(picture.image) if wanted else None
    return Inspection(kinds, detail, digest, found)


def _kinds(picture: Picture) -> list[str]:
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


def _hints(contents: bytes) -> tuple[list[str], str]:
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


def check(catalogue: Catalogue, near: bool = True, workers: int = 0) -> list[Finding]:
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
    prints = Prints(
        np.empty(count, object), np.zeros((count, 4), np.uint64), np.zeros((count, 192), np.uint8)
    )
    cases: dict[str, list[Example]] = {name: [] for name in _KINDS}
    boxes = [
        (box, bool(shares)) if there else None
        for there, box, shares in zip(
            catalogue.has_box(), catalogue.box, catalogue.box_in_shares, strict=True
        )
    ]
    tasks = [(path, near, box) for path, box in zip(catalogue.files(), boxes, strict=True)]
    for row, found in enumerate(parallel.run(inspect, tasks, workers, "check")):
        prints.digests[row] = found.digest or None
        for name in found.kinds:
            cases[name].append(Example((row,), found.detail))
        if found.print is not None:
            prints.words[row], prints.cells[row] = found.print
    findings = [
        Finding(name, severity, plural(len(cases[name]), one, many), advice, cases[name])
        for name, (severity, one, many, advice) in _KINDS.items()
        if cases[name]
    ]
    findings += [*label_findings(catalogue), *copy_findings(catalogue, prints, near)]
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))
