"""`python -m fir_tf.datasets prepare`: one pass that makes a training copy of a data set.

The folder then holds the photos as upright RGB JPEGs of a bounded size below `images/`, and
`catalogue.csv`, which `--dataset=table` reads. `journal.jsonl` gathers what is done, an image a
line, so that a killed run goes on; the table is written last.
"""

import collections
import contextlib
import csv
import fcntl
import hashlib
import json
import logging
import os
import unicodedata
from pathlib import Path

import PIL
import tensorflow as tf

from fir_tf import parallel
from fir_tf.config import REMOVED_MAX
from fir_tf.datasets.catalogue import CONSUMER, SHOP
from fir_tf.datasets.command_line import Parser, add_source, load_source
from fir_tf.datasets.removal import check_removal
from fir_tf.datasets.walk import listed
from fir_tf.errors import FirError
from fir_tf.files import replacing, write_json, write_text
from fir_tf.hygiene.findings import BAD_SHARE_MAX, too_many_unreadable
from fir_tf.images.file import UnreadableImageError, opened, read
from fir_tf.images.picture import see_or_convert
from fir_tf.options import check_share

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


def copy_names(paths):
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
    seen = set()
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


def _hashed_name(path):
    folder, slash, name = path.rpartition("/")
    name = name.encode()[:_NAME_KEPT].decode(errors="ignore")
    return f"{folder}{slash}{name}-{_sha256(path.encode())[:16]}.jpg"


def convert(contents, max_side, quality):
    """Makes the training copy of one image: the picture that training sees in the original.

    A JPEG that is upright, of three colours and small enough already is passed on as it is:
    encoding it again would only lose detail.

    Args:
        contents: bytes, the image file.
        max_side: int, bound of the longest side in pixels; smaller images are not enlarged.
        quality: int, of JPEG, 1 to 100.

    Returns:
        (bytes of a JPEG, its width, its height).

    Raises:
        UnreadableImageError: if it cannot be decoded whole.
    """
    picture, fault = see_or_convert(contents, max_side)
    sides = (picture.width, picture.height)
    if not fault and picture.orientation == 1 and max(sides) <= max_side and _is_plain(contents):
        return contents, *sides
    copy = picture.jpeg(quality=quality, subsampling="4:2:0", optimize=True)
    return copy, *picture.image.size


def _is_plain(contents):
    """Returns whether a file is one RGB JPEG and nothing else."""
    with contextlib.suppress(UnreadableImageError), opened(contents) as (_, header):
        return header.single and header.mode == "RGB"
    return False


def _sha256(contents):
    return hashlib.sha256(contents).hexdigest()


def convert_file(task):
    """Makes one copy, unless it is there already.

    Args:
        task: (source, target, max_side, quality, known): two str, two int, and the journal's entry
            of the source or None.

    Returns:
        dict, the entry for the journal without the path: `source_sha256` with `sha256`, `width`
        and `height`, or with `error`; `done`, whether anything was written; and `held`, why the
        source cannot be read now, where an earlier copy stays for that reason.

    Raises:
        OSError: if the copy cannot be written.
    """
    source, target, max_side, quality, known = task
    try:
        contents = read(source)
    except UnreadableImageError as error:
        # The share may be offline: a copy is no reason to believe that its source is gone.
        if known and "error" not in known and _is_there(target, known):
            return known | {"done": False, "held": error.reason}
        return {"source_sha256": "", "error": error.reason, "done": False}
    digest = _sha256(contents)
    up_to_date = known and known["source_sha256"] == digest and not known.get("outdated")
    if up_to_date and _is_there(target, known):
        return known | {"done": False}
    try:
        copy, width, height = convert(contents, max_side, quality)
    except UnreadableImageError as error:
        return {"source_sha256": digest, "error": error.reason, "done": False}
    with replacing(target) as temporary:
        temporary.write_bytes(copy)
    return {
        "source_sha256": digest,
        "sha256": _sha256(copy),
        "width": width,
        "height": height,
        "done": True,
    }


def _is_there(target, known):
    if "error" in known:
        return True
    try:
        with open(target, "rb") as file:
            return _sha256(file.read()) == known["sha256"]
    except OSError:
        return False


def prepare(catalogue, out, *, max_side=512, quality=92, workers=0, max_removed=REMOVED_MAX):
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

    Returns:
        (converted, kept, unreadable): ints, how many images were written, were there already, and
        cannot be read.

    Raises:
        FirError: for a value out of range, a folder of something else, a full disk, more to be
            removed than is allowed, or if more than 1 % of the images cannot be read. In the last
            case the copy of the others is complete all the same, and earlier copies of images
            that cannot be opened now stay.
    """
    for name, value, low, high in (
        ("max_side", max_side, 32, 8192),
        ("quality", quality, 50, 100),
    ):
        if not low <= value <= high:
            raise FirError(f"`{name}` must be between {low} and {high}. Received: {value}")
    check_share("max_removed", max_removed)
    out = Path(out)
    _check_apart(catalogue.root, out)
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
            return _copy_all(catalogue, out, settings, workers, journal, max_removed)
    except OSError as error:
        raise FirError(
            f"the copy could not be written to {out}: {error}. The same command goes on when there "
            "is room"
        ) from error


def _check_apart(root, out):
    root, target = root.resolve(), out.resolve()
    if root == target or root in target.parents or target in root.parents:
        raise FirError(
            f"`out` must be a folder apart from the images' ({root}), so that the copy is not "
            f"taken for photos. Received: {out}"
        )


def _claim(out, settings):
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


def _mark_outdated(path):
    """Rewrites a journal so that no copy is up to date, but those that are there stay known."""
    if path.is_file():
        with open(path, "r+", encoding="utf-8") as journal:
            entries = _read_journal(journal)
        lines = (
            json.dumps({"path": source, **entry, "outdated": True}) + "\n"
            for source, entry in entries.items()
        )
        write_text(path, "".join(lines))


def _lock(journal, out):
    try:
        fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise FirError(f"{out} is being written by another run. Wait for it") from error


def _read_journal(journal):
    """Returns {source path: entry}; a line that a killed run left half-written does not count."""
    journal.seek(0)
    lines = journal.read().split("\n")
    if lines[-1]:
        # Everything in it is ASCII: letters are bytes.
        journal.truncate(sum(len(line) + 1 for line in lines[:-1]))
    entries = {}
    for line in lines[:-1]:
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            entry = json.loads(line)
            entries[entry.pop("path")] = entry
    return entries


def _table_sources(out):
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


def _copy_all(catalogue, out, settings, workers, journal, max_removed):
    known = _read_journal(journal)
    names = [f"{IMAGES}/{name}" for name in copy_names(catalogue.path)]
    tasks = [
        (source, str(out / name), settings["max_side"], settings["quality"], known.get(path))
        for source, name, path in zip(catalogue.files(), names, catalogue.path, strict=True)
    ]
    before = _table_sources(out)
    gone = sorted(before.difference(catalogue.path))
    check_removal(gone, len(before), max_removed, f"the copy {out}", str(catalogue.source))
    entries, converted, held = [], 0, []
    for path, entry in zip(
        catalogue.path, parallel.run(convert_file, tasks, workers, "prepare"), strict=True
    ):
        converted += entry.pop("done")
        if "held" in entry:
            held.append(f"{path}: {entry.pop('held')}")
        entries.append(entry)
        if known.get(path) != entry:
            journal.write(json.dumps({"path": path, **entry}) + "\n")
            journal.flush()
    bad = [row for row, entry in enumerate(entries) if "error" in entry]
    _write_unreadable(catalogue, out, entries, bad)
    if len(bad) == len(entries):
        raise FirError(f"none of the {len(bad):,} images can be read, see {out / UNREADABLE}")
    copies = [name for name, entry in zip(names, entries, strict=True) if "error" not in entry]
    _check_there(out, copies)
    _write_table(catalogue, out, names, entries)
    _sweep(out, set(copies))
    if held:
        told = listed(held, "image", "images")
        log.info(f"{told} cannot be read now; their earlier copies were kept")
    if too_many_unreadable(len(held), len(entries)):
        raise FirError(
            f"{len(held):,} of {len(entries):,} images cannot be read now; is a share offline? "
            f"Their earlier copies were kept, and the copy of the others is complete: {out / TABLE}"
        )
    if too_many_unreadable(len(bad), len(entries)):
        raise FirError(
            f"{len(bad):,} of {len(entries):,} images ({len(bad) / len(entries):.1%}) cannot be "
            f"read, more than {BAD_SHARE_MAX:.0%}: {out / UNREADABLE} lists them. The copy of the "
            f"others is complete: {out / TABLE}"
        )
    return converted, len(entries) - len(bad) - converted, len(bad)


def _check_there(out, copies):
    """Raises FirError if copies went while others were made: the table must not promise them."""
    gone = [name for name in copies if not (out / name).is_file()]
    if gone:
        raise FirError(
            f"{listed(gone, 'copy', 'copies')} went from {out} while others were made. Is "
            "something else at work there? The same command makes them again"
        )


def _write_unreadable(catalogue, out, entries, bad):
    if not bad:
        (out / UNREADABLE).unlink(missing_ok=True)
        return
    log.info(f"{len(bad):,} images cannot be read:")
    for row in bad[:_SHOWN]:
        log.info(f"  {catalogue.location(row)}: {catalogue.path[row]}: {entries[row]['error']}")
    if len(bad) > _SHOWN:
        log.info(f"  ... and {len(bad) - _SHOWN:,} more, see {out / UNREADABLE}")
    rows = [(catalogue.path[row], catalogue.location(row), entries[row]["error"]) for row in bad]
    _write_csv(out / UNREADABLE, ("path", "listed", "reason"), rows)


def _sweep(out, names):
    """Removes copies whose source is gone and what a killed run left half-written."""
    for folder, _, files in os.walk(out / IMAGES):
        for name in files:
            path = Path(folder, name)
            if path.relative_to(out).as_posix() not in names:
                path.unlink()


def _write_table(catalogue, out, names, entries):
    domains = {SHOP: "shop", CONSUMER: "consumer"}
    rows = []
    for row, (name, entry) in enumerate(zip(names, entries, strict=True)):
        if "error" in entry:
            continue
        item, category = catalogue.item[row], catalogue.category[row]
        rows.append(
            (
                name,
                catalogue.items[item] if item >= 0 else "",
                catalogue.categories[category] if category >= 0 else "",
                domains.get(int(catalogue.domain[row]), ""),
                catalogue.split[row],
                catalogue.path[row],
                entry["source_sha256"],
                entry["sha256"],
                entry["width"],
                entry["height"],
            )
        )
    _write_csv(out / TABLE, COLUMNS, rows)


def _write_csv(path, header, rows):
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        # Readers take a carriage return for a row's end, which the writer by itself does not quote.
        quoting = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
        writer.writerow(header)
        for row in rows:
            (quoting if any("\r" in str(cell) for cell in row) else writer).writerow(row)


def main(argv=None):
    """The command line of the preparation; `argv` is a list of str, by default the process's.

    Returns:
        int, 0 when the copy is complete.

    Raises:
        FirError: for bad usage, a data set that cannot be loaded, and as `prepare`.
    """
    parser = Parser(
        prog="python -m fir_tf.datasets prepare",
        description="Makes a training copy of a data set: upright RGB JPEGs of a bounded size "
        "and a table with checksums. JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF and, with the extra "
        "`heic`, HEIC come in. A killed run goes on when its command is given again.",
        epilog="Exit status: 0 the copy is complete; 1 bad usage, no room, or more than 1 % of "
        "the images cannot be read. JPEGs that need no change are copied as they are, with their "
        "metadata.",
    )
    add_source(parser)
    parser.add_argument("--out", required=True, help="folder of the copy")
    parser.add_argument(
        "--max_side",
        type=int,
        default=512,
        help="bound of the longest side in pixels; smaller images stay as they are (%(default)s)",
    )
    parser.add_argument(
        "--quality", type=int, default=92, help="quality of the JPEGs (%(default)s)"
    )
    parser.add_argument(
        "--remove",
        action="store_true",
        help="remove what is not listed any more, however much of the copy it is",
    )
    parser.add_argument(
        "--max_removed",
        type=float,
        default=REMOVED_MAX,
        help="largest share of the copy that is removed without --remove (%(default)s)",
    )
    args = parser.parse_args(argv)
    catalogue = load_source(args.dataset, args.data_dir)
    log.info(catalogue.describe())
    converted, kept, bad = prepare(
        catalogue,
        args.out,
        max_side=args.max_side,
        quality=args.quality,
        workers=args.workers,
        max_removed=1.0 if args.remove else args.max_removed,
    )
    log.info(f"{converted:,} images written, {kept:,} were there, {bad:,} cannot be read")
    log.info(f"train on the copy with --dataset=table --data_dir={Path(args.out) / TABLE}")
    return 0
