"""A catalogue of photos -> an index; of an existing index only what has changed."""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import logging
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from fir_tf.datasets.removal import check_removal
from fir_tf.datasets.walk import listed, printable
from fir_tf.errors import FirError
from fir_tf.files import open_file
from fir_tf.options import find_run
from fir_tf.search import encoder as encoders
from fir_tf.search.columns import described
from fir_tf.search.engines import Engine, Record, open_engine
from fir_tf.search.engines.base import in_pieces, shown
from fir_tf.search.listing import Listing, read_catalogue
from fir_tf.search_options import IndexOptions

log = logging.getLogger(__package__)

PIECE = 512
"""int, a catalogue is embedded and stored in pieces of this many images: what a kill loses."""


# Counts of `build` that say that the columns may hold something else than before.
_CHANGES = ("embedded", "relabelled", "removed")


def checksum(contents: bytes) -> str:
    """Returns what an index keeps of a file's contents, to tell whether they have changed."""
    return hashlib.blake2b(contents, digest_size=16).hexdigest()


def _file_checksum(path: Path) -> str:
    try:
        with open_file(path) as file:
            return checksum(file.read())
    # A path that no file can have is a ValueError.
    except (OSError, ValueError):
        return ""


def embedding_options(options: IndexOptions) -> dict[str, Any]:
    """Returns how photos are embedded: `Encoder`'s arguments behind the model, ready for JSON."""
    whitening = str(Path(options.whitening).resolve()) if options.whitening else ""
    return {"flip": options.flip, "scales": options.scales, "whitening": whitening}


@contextlib.contextmanager
def prepared(
    options: IndexOptions,
) -> Iterator[tuple[Engine, encoders.Encoder, Listing, dict[str, Record]]]:
    """Opens an index to be filled, new or of the same model, and says in it what fills it.

    Args:
        options: IndexOptions.

    Yields:
        (Engine, encoders.Encoder, Listing, dict of Record by path: what the index has).

    Raises:
        FirError: no photos, no model, an index of another model, or more of it to be removed than
            `options` allow. The index is then as it was.
    """
    listing = read_catalogue(options.images, options.dataset, options.split, options.columns)
    for note in listing.notes:
        log.info(note)
    how = embedding_options(options)
    encoder = encoders.Encoder(options.model or find_run(""), **how)
    with open_engine(options.index, create=True) as engine:
        info = engine.info()
        if info and not info.get("model"):
            raise FirError(
                f"the index {shown(options.index)} was made of vectors, not of photos and a model. "
                "Give another --index"
            )
        if info:
            encoder.check(info["model"], f"the index {shown(options.index)}")
        else:
            info = {"model": encoder.fingerprint(), "dimension": encoder.dimension}
        before = {record.path: record for part, _ in engine.scan() for record in part}
        most = 1.0 if options.remove else options.max_removed
        what = f"the index {shown(options.index)}"
        check_removal(listing.gone(before), len(before), most, what, options.images)
        info.update(
            root=str(listing.root.resolve()),
            how=how,
            model={**info["model"], "model": str(Path(encoder.model).resolve())},
        )
        engine.set_info(info)
        yield engine, encoder, listing, before


def changed(record: Record, before: Record | None) -> Record | None:
    """Compares a photo with what the index has of it.

    Args:
        record: Record, with its checksum.
        before: Record of the same path in the index, or None.

    Returns:
        Record to store: `record` itself where it is to be embedded, another one where labels
        alone have changed; None where nothing has.
    """
    if before is None or before.checksum != record.checksum:
        return record
    # Without a category of its own a photo keeps the one that was guessed.
    merged = dataclasses.replace(record, category=record.category or before.category)
    return None if merged == before else merged


def build(options: IndexOptions) -> dict[str, Any]:
    """Embeds a catalogue into an index; of an existing index only what has changed.

    What is listed no more is removed. What is listed but cannot be read now, or lies in a folder
    that cannot be, stays in the index as it was.

    Args:
        options: IndexOptions.

    Returns:
        dict: `images`, `embedded`, `kept`, `removed` and `relabelled` (ints), `unreadable` (list
        of listed paths), `unopened` (int, how many of them are missing or cannot be opened),
        `held` (list of paths that are in the index although they cannot be read now), `seconds`
        and `images_per_second` of the embedding.

    Raises:
        FirError: no photos, no model, an index of another model, more to be removed than is
            allowed; or, when all else is done, folders that cannot be listed or more photos that
            cannot be opened than might be removed.
    """
    with prepared(options) as (engine, encoder, listing, before):
        counts = _update(engine, encoder, listing, before, options.batch_size)
        engine.flush()
        info = engine.info()
        if "columns" not in info or any(counts[name] for name in _CHANGES):
            columns = described(part for part, _ in engine.scan())
            engine.set_info({**info, "columns": columns})
        counts["images"] = len(engine)
    return concluded(counts, listing, options)


def _update(
    engine: Engine,
    encoder: encoders.Encoder,
    listing: Listing,
    before: dict[str, Record],
    batch_size: int,
) -> dict[str, Any]:
    records = _with_checksums(listing)
    removed = listing.gone(before)
    engine.delete(removed)
    pending: list[Record] = []
    relabelled: list[Record] = []
    unreadable: list[str] = []
    for record in records:
        new = changed(record, before.get(record.path))
        if not record.checksum:
            unreadable.append(record.path)
        elif new is record:
            pending.append(record)
        elif new:
            relabelled.append(new)
    for part in in_pieces(relabelled, PIECE):
        engine.update(part)
    seconds, bad = _embed(engine, encoder, listing.root, pending, batch_size)
    # The share may have gone meanwhile.
    unopened = [path for path in bad if not _file_checksum(listing.root / path)]
    return {
        "embedded": len(pending) - len(bad),
        "kept": len(records) - len(unreadable) - len(pending) - len(relabelled),
        "relabelled": len(relabelled),
        "removed": len(removed),
        "unreadable": [*unreadable, *bad],
        "unopened": len(unreadable) + len(unopened),
        "held": held(listing, before, [*unreadable, *bad]),
        "seconds": seconds,
        "images_per_second": len(pending) / seconds if pending else 0.0,
    }


def _with_checksums(listing: Listing) -> list[Record]:
    """Returns the listing's records with their checksums, empty for what cannot be opened."""
    files = [listing.root / record.path for record in listing.records]
    bar = {"total": len(files), "desc": "checksums", "unit": "image", "disable": None}
    with concurrent.futures.ThreadPoolExecutor() as pool:
        sums = tqdm(pool.map(_file_checksum, files), leave=False, **bar)
        return [
            dataclasses.replace(record, checksum=total)
            for record, total in zip(listing.records, sums, strict=True)
        ]


def held(listing: Listing, before: Iterable[str], unreadable: Iterable[str]) -> list[str]:
    """Returns the paths of an index that stay in it although they cannot be read now."""
    lost = set(unreadable)
    return [path for path in before if path in lost or listing.out_of_reach(path)]


def _embed(
    engine: Engine,
    encoder: encoders.Encoder,
    root: Path,
    pending: list[Record],
    batch_size: int,
) -> tuple[float, list[str]]:
    """Embeds and stores records; returns (seconds, paths that could not be read)."""
    bad: list[str] = []
    waiting: list[tuple[Record, np.ndarray]] = []
    start, left = time.perf_counter(), iter(pending)
    with tqdm(total=len(pending), desc="embedding", unit="image", disable=None) as bar:
        files = [str(root / record.path) for record in pending]
        guess = any(not record.category for record in pending)
        for encoded in encoder.encode_files(files, batch_size, guess):
            for category, vector, valid in zip(
                encoded.category, encoded.embedding, encoded.valid, strict=True
            ):
                record = next(left)
                if valid:
                    category = record.category or category
                    waiting.append((dataclasses.replace(record, category=category), vector))
                else:
                    bad.append(record.path)
            if len(waiting) >= PIECE:
                _store(engine, waiting)
            bar.update(len(encoded.valid))
        _store(engine, waiting)
    return time.perf_counter() - start, bad


def _store(engine: Engine, waiting: list[tuple[Record, np.ndarray]]) -> None:
    if waiting:
        records, vectors = zip(*waiting, strict=True)
        engine.upsert(list(records), np.stack(vectors))
        waiting.clear()


def concluded(counts: dict[str, Any], listing: Listing, options: IndexOptions) -> dict[str, Any]:
    """Says what a finished `build` has done, and what it could not reach.

    Args:
        counts: dict, see `build`.
        listing: Listing.
        options: IndexOptions.

    Returns:
        `counts`.

    Raises:
        FirError: folders could not be looked at, or more of the listed photos could not be opened
            than would be removed without asking.
    """
    log.info(summary(counts, shown(options.index)))
    problems = []
    if listing.unreachable:
        where = listing.unreachable.values()
        problems.append(f"{listed(where, 'place', 'places')} cannot be looked at")
    if counts["unopened"] > options.max_removed * len(listing.records):
        problems.append(
            f"{counts['unopened']:,} of {len(listing.records):,} photos cannot be opened"
        )
    if problems:
        raise FirError(
            f"{' and '.join(problems)}; is a share offline? The index has {counts['images']:,} "
            f"images, {len(counts['held']):,} of them from before and not looked at. All else is "
            "done; give the command again when they can be read"
        )
    return counts


def summary(counts: dict[str, Any], address: str) -> str:
    """Returns what is said of a finished `build`, given its counts and the index's address."""
    lines = [
        f"index: {address}, {counts['images']} images: {counts['embedded']} embedded, "
        f"{counts['kept']} kept, {counts['relabelled']} relabelled, {counts['removed']} removed"
    ]
    if counts["embedded"]:
        lines.append(
            f"embedding: {counts['seconds']:.1f} s, {counts['images_per_second']:.1f} images/s"
        )
    if counts["held"]:
        lines.append(
            f"{listed(counts['held'], 'image', 'images')} cannot be read now and stay in the index "
            "as they were"
        )
    stay = set(counts["held"])
    left = [printable(path) for path in counts["unreadable"] if path not in stay]
    if left:
        lines.append(f"{len(left)} images cannot be read and were left out:")
        lines += [f"  {path}" for path in left]
    return "\n".join(lines)
