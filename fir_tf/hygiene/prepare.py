"""`python -m fir_tf.datasets prepare`: one pass that makes a training copy of a data set.

The folder then holds the photos as upright RGB JPEGs of a bounded size below `images/`, and
`catalogue.csv`, which `--dataset=table` reads: labels, checksums, and all other columns of the
source. `journal.jsonl` gathers what is done, an image a line, so that a killed run goes on; the
table is written last.
"""

import collections
import contextlib
import csv
import fcntl
import json
import logging
import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np
import PIL
import tensorflow as tf

from fir_tf import parallel
from fir_tf.config import REMOVED_MAX
from fir_tf.datasets.catalogue import CONSUMER, SHOP, Catalogue, is_address
from fir_tf.datasets.metadata import Column
from fir_tf.datasets.removal import check_removal
from fir_tf.datasets.walk import listed
from fir_tf.errors import FirError
from fir_tf.files import replacing, write_json, write_text
from fir_tf.hygiene.copying import Entry, Task, convert_file, sha256, upright_sides
from fir_tf.hygiene.fetching import FetchedTasks
from fir_tf.hygiene.findings import BAD_SHARE_MAX, too_many_unreadable
from fir_tf.images.file import UnreadableImageError, read
from fir_tf.options import RefreshOptions, check_share

log = logging.getLogger(__package__)

TABLE, UNREADABLE, SETTINGS, JOURNAL, IMAGES = (
    "catalogue.csv",
    "unreadable.csv",
    "prepare.json",
    "journal.jsonl",
    "images",
)
COLUMNS = (
    "path",
    "item",
    "category",
    "domain",
    "split",
    "source",
    "source_sha256",
    "sha256",
    "width",
    "height",
)

# Raised whenever the pixels or the names change, so that an old copy is not gone on with.
VERSION = 2
_SHOWN = 10
# Bytes that a file's name may have, and what a name with a hash keeps of its source's.
_NAME_MAX, _NAME_KEPT = 255, 200


def copy_names(paths: Sequence[str]) -> list[str]:
    """Names the copies: the source's path, with `.jpg` behind any other ending.

    Where two names would be the same file, on a disk that does not tell upper from lower case too,
    all but those that end in `.jpg` already get a hash of the source's path; so do names that would
    be longer than a file's may be.

    Args:
        paths: sequence of str, relative with forward slashes, all different.

    Returns:
        list of str.
    """
    names = [path if path.lower().endswith((".jpg", ".jpeg")) else f"{path}.jpg" for path in paths]
    keys = [unicodedata.normalize("NFC", name).casefold() for name in names]
    count = collections.Counter(keys)
    seen: set[str] = set()
    order = sorted(
        range(len(names)), key=lambda number: (names[number] != paths[number], names[number])
    )
    for number in order:
        if count[keys[number]] > 1 and keys[number] in seen:
            names[number] = _hashed_name(paths[number])
        seen.add(keys[number])
    return [
        _hashed_name(path) if len(os.path.basename(name).encode()) > _NAME_MAX else name
        for name, path in zip(names, paths, strict=True)
    ]


def place_of(address: str) -> str:
    """Returns what an image at an address is called in the copy, whatever letters that has."""
    digest = sha256(address.encode())
    return f"addresses/{digest[:2]}/{digest[:32]}"


def _hashed_name(path: str) -> str:
    folder, slash, name = path.rpartition("/")
    name = name.encode()[:_NAME_KEPT].decode(errors="ignore")
    return f"{folder}{slash}{name}-{sha256(path.encode())[:16]}.jpg"


def prepare(
    catalogue: Catalogue,
    out: str | Path,
    *,
    max_side: int = 512,
    quality: int = 92,
    workers: int = 0,
    max_removed: float = REMOVED_MAX,
    fetch: RefreshOptions | None = None,
) -> tuple[int, int, int]:
    """Makes a training copy of a catalogue's images and the table that describes it.

    A run that was killed goes on: images whose source and copy have the recorded checksums are
    passed over. The bytes of the copy depend on the sources, `max_side`, `quality` and the versions
    of TensorFlow and Pillow alone. Files below `<out>/images` that are not in the table are
    removed.

    Args:
        catalogue: Catalogue.
        out: str or Path, the folder; it must be missing, empty, or an earlier copy made with the
            same settings, and apart from the catalogue's.
        max_side: int in [32, 8192], bound of the longest side in pixels.
        quality: int in [50, 100], of JPEG.
        workers: int, processes; 0 for one a core.
        max_removed: float in [0, 1], the largest share of an earlier copy that may be removed
            because the catalogue lists it no more.
        fetch: RefreshOptions, how photos at addresses are fetched; its defaults when not given.

    Returns:
        (converted, kept, unreadable): ints, how many images were written, were there already, and
        cannot be read.

    Raises:
        FirError: for a value out of range, a folder of something else, a full disk, more to be
            removed than is allowed, or if more than 1 % of the images cannot be read. In the last
            case the copy of the others is complete all the same, and earlier copies of images
            that cannot be opened or fetched now stay.
    """
    for name, value, low, high in (
        ("max_side", max_side, 32, 8192),
        ("quality", quality, 50, 100),
    ):
        if not low <= value <= high:
            raise FirError(f"`{name}` must be between {low} and {high}. Received: {value}")
    check_share("max_removed", max_removed)
    fetch = fetch or RefreshOptions()
    fetch.check_fetching()
    out = Path(out)
    _check_apart(catalogue, out)
    settings = {
        "version": VERSION,
        "max_side": max_side,
        "quality": quality,
        "pillow": PIL.__version__,
        "tensorflow": tf.__version__,
    }
    try:
        _claim(out, settings)
        with open(out / JOURNAL, "a+", encoding="utf-8") as journal:
            _lock(journal, out)
            copy = _Copy(catalogue, out)
            copy.check_removal(max_removed)
            known = _read_journal(journal)
            with FetchedTasks(copy.tasks(max_side, quality, known), fetch) as tasks:
                copy.make(tasks, workers, journal)
            return copy.finish()
    except OSError as error:
        raise FirError(
            f"the copy could not be written to {out}: {error}. The same command goes on when there "
            "is room"
        ) from error


def _check_apart(catalogue: Catalogue, out: Path) -> None:
    root, target = catalogue.root.resolve(), out.resolve()
    # A feed of addresses has no photos in its folder that a copy could be taken for.
    below = root in target.parents and not all(map(is_address, catalogue.path))
    if root == target or below or target in root.parents:
        raise FirError(
            f"`out` must be a folder apart from the images' ({root}), so that the copy is not "
            f"taken for photos. Received: {out}"
        )


def _claim(out: Path, settings: Entry) -> None:
    """Makes sure that a folder is ours and its copy was made with the same settings."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        write_json(out / SETTINGS, settings)
        return
    try:
        found = json.loads((out / SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FirError(
            f"`out` must be missing, empty or an earlier copy. Received: {out}, which holds "
            "something else. Choose another folder"
        ) from error
    changed = [name for name in settings if found.get(name) != settings[name]]
    if changed and set(changed) <= {"pillow", "tensorflow"}:
        # Another version may give other bytes: everything is made again that can be read.
        _mark_outdated(out / JOURNAL)
        write_json(out / SETTINGS, settings)
    elif changed:
        raise FirError(
            f"{out} holds a copy made with other settings: "
            + ", ".join(f"{name} {found.get(name)} instead of {settings[name]}" for name in changed)
            + ". Choose another folder, or remove it"
        )


def _mark_outdated(path: Path) -> None:
    """Rewrites a journal so that no copy is up to date, but those that are there stay known."""
    if path.is_file():
        with open(path, "r+", encoding="utf-8") as journal:
            entries = _read_journal(journal)
        lines = (
            json.dumps({"path": source, **entry, "outdated": True}) + "\n"
            for source, entry in entries.items()
        )
        write_text(path, "".join(lines))


def _lock(journal: TextIO, out: Path) -> None:
    try:
        fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise FirError(f"{out} is being written by another run. Wait for it") from error


def _read_journal(journal: TextIO) -> dict[str, Entry]:
    """Returns {source path: entry}; a line that a killed run left half-written does not count."""
    journal.seek(0)
    lines = journal.read().split("\n")
    if lines[-1]:
        # Everything in it is ASCII: letters are bytes.
        journal.truncate(sum(len(line) + 1 for line in lines[:-1]))
    entries: dict[str, Entry] = {}
    for line in lines[:-1]:
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            entry = json.loads(line)
            entries[entry.pop("path")] = entry
    return entries


def _table_sources(out: Path) -> set[str]:
    """Returns the sources' paths of an earlier copy, a set of str; empty where it has no table."""
    try:
        with open(out / TABLE, encoding="utf-8", newline="") as file:
            return {row["source"] for row in csv.DictReader(file)}
    except FileNotFoundError:
        return set()
    except (KeyError, UnicodeDecodeError, csv.Error) as error:
        raise FirError(
            f"{out / TABLE} must be the table that `prepare` wrote, which says what the copy has. "
            f"Received: {error!r}. Put it back, or choose another folder"
        ) from error


class _Copy:
    """A copy that is being made.

    Args:
        catalogue: Catalogue, of the sources.
        out: Path, the folder.
    """

    def __init__(self, catalogue: Catalogue, out: Path) -> None:
        self.catalogue, self.out = catalogue, out
        places = [place_of(path) if is_address(path) else path for path in catalogue.path]
        self.names = [f"{IMAGES}/{name}" for name in copy_names(places)]
        self.entries: list[Entry] = []
        self.held: list[str] = []
        self.converted = 0

    def check_removal(self, max_removed: float) -> None:
        """Raises FirError if too much of an earlier copy is listed no more."""
        before = _table_sources(self.out)
        gone = sorted(before.difference(self.catalogue.path))
        what = f"the copy {self.out}"
        check_removal(gone, len(before), max_removed, what, str(self.catalogue.source))

    def tasks(self, max_side: int, quality: int, known: Mapping[str, Entry]) -> list[Task]:
        """Returns what is to be done, by what the journal knows."""
        return [
            Task(
                source,
                str(self.out / name),
                max_side,
                quality,
                known.get(path),
                address=path if is_address(path) else "",
            )
            for source, name, path in zip(
                self.catalogue.files(), self.names, self.catalogue.path, strict=True
            )
        ]

    def make(self, tasks: FetchedTasks, workers: int, journal: TextIO) -> None:
        """Converts what is not there yet and notes it in the journal."""
        found = parallel.run(convert_file, iter(tasks), workers, "prepare", len(tasks))
        for path, entry in zip(self.catalogue.path, found, strict=True):
            task = tasks.done()
            self.converted += entry.pop("done")
            if "held" in entry:
                self.held.append(f"{path}: {entry.pop('held')}")
            self.entries.append(entry)
            if task.known != entry:
                journal.write(json.dumps({"path": path, **entry}) + "\n")
                journal.flush()

    def finish(self) -> tuple[int, int, int]:
        """Writes the tables and tidies up; returns what `prepare` does, or raises its errors."""
        out, count = self.out, len(self.entries)
        bad = [row for row, entry in enumerate(self.entries) if "error" in entry]
        self._write_unreadable(bad)
        if len(bad) == count:
            raise FirError(f"none of the {len(bad):,} images can be read, see {out / UNREADABLE}")
        good = [row for row, entry in enumerate(self.entries) if "error" not in entry]
        copies = [self.names[row] for row in good]
        self._check_there(copies)
        _write_csv(out / TABLE, *self._table(good))
        self._sweep(set(copies))
        if self.held:
            told = listed(self.held, "image", "images")
            log.info(f"{told} cannot be read now; their earlier copies were kept")
        if too_many_unreadable(len(self.held), count):
            raise FirError(
                f"{len(self.held):,} of {count:,} images cannot be read now; is a share or a "
                f"server offline? Their earlier copies were kept, and the copy of the others is "
                f"complete: {out / TABLE}"
            )
        if too_many_unreadable(len(bad), count):
            raise FirError(
                f"{len(bad):,} of {count:,} images ({len(bad) / count:.1%}) cannot be read, more "
                f"than {BAD_SHARE_MAX:.0%}: {out / UNREADABLE} lists them. The copy of the others "
                f"is complete: {out / TABLE}"
            )
        return self.converted, len(good) - self.converted, len(bad)

    def _write_unreadable(self, bad: Sequence[int]) -> None:
        path = self.out / UNREADABLE
        if not bad:
            path.unlink(missing_ok=True)
            return
        listing = self.catalogue
        rows = [
            (listing.path[row], listing.location(row), self.entries[row]["error"]) for row in bad
        ]
        log.info(f"{len(bad):,} images cannot be read:")
        for name, place, error in rows[:_SHOWN]:
            log.info(f"  {place}: {name}: {error}")
        if len(bad) > _SHOWN:
            log.info(f"  ... and {len(bad) - _SHOWN:,} more, see {path}")
        _write_csv(path, ("path", "listed", "reason"), rows)

    def _check_there(self, copies: Iterable[str]) -> None:
        """Raises FirError if copies went meanwhile: the table must not promise them."""
        gone = [name for name in copies if not (self.out / name).is_file()]
        if gone:
            raise FirError(
                f"{listed(gone, 'copy', 'copies')} went from {self.out} while others were made. Is "
                "something else at work there? The same command makes them again"
            )

    def _sweep(self, names: set[str]) -> None:
        """Removes copies whose source is gone and what a killed run left half-written."""
        for folder, _, files in os.walk(self.out / IMAGES):
            for name in files:
                path = Path(folder, name)
                if path.relative_to(self.out).as_posix() not in names:
                    path.unlink()

    def _table(self, rows: Sequence[int]) -> tuple[Sequence[str], Iterable[Sequence[object]]]:
        """Returns the header and the rows of the table of copies, with boxes if there are any."""
        metadata = _Metadata(self.catalogue)
        header = (*COLUMNS, *metadata.header)
        if not self.catalogue.has_box()[rows].any():
            return header, ((*self._row(row), *metadata.cells(row)) for row in rows)
        cells = [(*self._row(row), *metadata.cells(row), self._box(row)) for row in rows]
        lost = [
            self.catalogue.path[row]
            for row, (*_, box) in zip(rows, cells, strict=True)
            if self.catalogue.has_box()[row] and not box
        ]
        if lost:
            told = listed(lost, "image", "images")
            log.info(f"warning: the boxes of {told}, which cannot be read now, are left out")
        return (*header, "box"), cells

    def _box(self, row: int) -> str:
        """Returns an image's box in the pixels of its copy; empty without one, or if unknown."""
        catalogue, entry = self.catalogue, self.entries[row]
        if not catalogue.has_box()[row]:
            return ""
        sides: Sequence[float] = (1.0, 1.0)
        if not catalogue.box_in_shares[row]:
            known = self._source_sides(row)
            if not known:
                return ""
            sides = known
        scale = [entry["width"] / sides[0], entry["height"] / sides[1]] * 2
        return ",".join(f"{number:.6g}" for number in catalogue.box[row] * scale)

    def _source_sides(self, row: int) -> Sequence[float] | None:
        """Returns an upright image's width and height, None where they are unknown."""
        catalogue = self.catalogue
        if is_address(catalogue.path[row]):
            return self.entries[row]["source_sides"]
        try:
            return upright_sides(read(catalogue.root / catalogue.path[row]))
        except UnreadableImageError:
            return None

    def _row(self, row: int) -> tuple[object, ...]:
        """Returns the cells of a copy, see `COLUMNS`."""
        catalogue, entry = self.catalogue, self.entries[row]
        item, category = catalogue.item[row], catalogue.category[row]
        return (
            self.names[row],
            catalogue.items[item] if item >= 0 else "",
            catalogue.categories[category] if category >= 0 else "",
            {SHOP: "shop", CONSUMER: "consumer"}.get(int(catalogue.domain[row]), ""),
            catalogue.split[row],
            catalogue.path[row],
            *(entry[name] for name in COLUMNS[-4:]),
        )


class _Metadata:
    """The columns of a catalogue's metadata as cells of CSV, which are read as the same again.

    Args:
        catalogue: Catalogue. Of its columns those named as the copy's own are left out, with a
            note.

    Attributes:
        header: list of str. A list has several columns of its name, as many as its elements.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        taken = sorted(set(COLUMNS) & set(catalogue.columns))
        if taken:
            log.info(
                f"note: the columns {', '.join(taken)} of {catalogue.source} are left out of the "
                "copy's table, which says under these names what the copy is"
            )
        self._widths = {
            name: _width(column) for name, column in catalogue.columns.items() if name not in taken
        }
        self.header = [name for name, width in self._widths.items() for _ in range(width)]

    def cells(self, row: int) -> list[str]:
        """Returns an image's cells, below `header`."""
        known = self._catalogue.metadata(row)
        cells: list[str] = []
        for name, width in self._widths.items():
            value = known.get(name, ())
            parts = value if isinstance(value, tuple) else (_cell(value),)
            cells += [*parts, *[""] * (width - len(parts))]
        return cells


def _width(column: Column) -> int:
    """Returns how many columns of CSV a column takes; one list is more, or it would be a text."""
    if column.type != "list":
        return 1
    values = (column[row] for row in range(len(column)))
    return max([2, *(len(value) for value in values if isinstance(value, tuple))])


def _cell(value: str | float | bool) -> str:
    """Returns what a value of a column is read from."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    text = np.format_float_positional(value, trim="-")
    # Three digits behind the point might be thousands of a price.
    return f"{text}0" if text[-4:-3] == "." else text


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        # Readers take a carriage return for a row's end, which the writer by itself does not quote.
        quoting = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
        writer.writerow(header)
        for row in rows:
            (quoting if any("\r" in str(cell) for cell in row) else writer).writerow(row)
