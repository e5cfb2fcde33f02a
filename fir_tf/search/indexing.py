"""A catalogue of photos -> an index; of an existing index only what has changed."""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from fir_tf.datasets.removal import check_removal
from fir_tf.datasets.walk import listed, printable
from fir_tf.errors import FirError
from fir_tf.options import find_run
from fir_tf.search import encoder as encoders
from fir_tf.search.calibrated import kept
from fir_tf.search.columns import told_of
from fir_tf.search.cropped import boxes_of, cropped_alike, cropping_of, why_not_cropped
from fir_tf.search.engines import Engine, Record, folder_of, writing_to
from fir_tf.search.engines.base import in_pieces, shown
from fir_tf.search.failures import UNCROPPED, UNDECODED, UNOPENED, Failure, by_kind, write_errors
from fir_tf.search.listing import Listing, read_catalogue
from fir_tf.search.photo_files import PhotoFiles, Seen, why_unopened
from fir_tf.search.reference import referenced
from fir_tf.search_options import IndexOptions, NewModelOptions

log = logging.getLogger(__package__)

PIECE = 512
"""int, a catalogue is embedded and stored in pieces of this many images: what a kill loses."""


_ERRORS = "errors.csv"
# Images without a place in the index that a summary names.
_LISTED = 20


def embedding_options(options: IndexOptions | NewModelOptions) -> dict[str, Any]:
    """Returns how photos are embedded: `Encoder`'s arguments behind the model, ready for JSON."""
    whitening = str(Path(options.whitening).resolve()) if options.whitening else ""
    views = ("flip", "scales", "crop", "crop_margin")
    return {"whitening": whitening, **{name: getattr(options, name) for name in views}}


def how_embedded(
    encoder: encoders.Encoder, options: IndexOptions | NewModelOptions
) -> dict[str, Any]:
    """Returns `embedding_options` with what the model was trained with where nothing is told."""
    crop = {"crop": encoder.crop, "crop_margin": encoder.margin}
    return {**embedding_options(options), **crop}


@contextlib.contextmanager
def _prepared(
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
    encoder = encoders.Encoder(options.model or find_run(""), **embedding_options(options))
    how = how_embedded(encoder, options)
    if encoder.crop == "box":
        listing = listing.cropped()
    for note in listing.notes:
        log.info(note)
    with writing_to(options.index) as engine:
        info = engine.info()
        if info and not info.get("model"):
            raise FirError(
                f"the index {shown(options.index)} was made of vectors, not of photos and a model. "
                "Give another --index"
            )
        if info:
            encoder.check(info["model"], f"the index {shown(options.index)}")
            _check_crop(info["how"], how, shown(options.index))
        else:
            info = {"model": encoder.fingerprint(), "dimension": encoder.dimension}
        before = {record.path: record for part, _ in engine.scan() for record in part}
        most = 1.0 if options.remove else options.max_removed
        what = f"the index {shown(options.index)}"
        check_removal(listing.gone(before), len(before), most, what, options.images)
        info.pop("calibration", None)
        info.update(
            **kept(encoder, how),
            root=str(listing.root.resolve()),
            walked=listing.walked,
            how=how,
            model={**info["model"], "model": str(Path(encoder.model).resolve())},
        )
        engine.set_info(info)
        yield engine, encoder, listing, before


def _check_crop(before: Mapping[str, Any], now: Mapping[str, Any], index: str) -> None:
    """Raises FirError if photos are cropped otherwise than those that an index has already."""
    own = cropping_of(before)
    if not cropped_alike(before, now):
        raise FirError(
            f"`crop` must be that of the index {index}: --crop={own['crop']} "
            f"--crop_margin={own['crop_margin']:g}. Received: --crop={now['crop']} "
            f"--crop_margin={now['crop_margin']:g}. Give that, or a new --index"
        )


def _changed(record: Record, before: Record | None) -> Record | None:
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


@dataclasses.dataclass
class Done:
    """What has been done with photos.

    Attributes:
        embedded, relabelled, kept: int, photos that were stored, whose labels alone were, and that
            were left as they are.
        unopened: int, photos that are missing or cannot be opened or fetched.
        failures: list of Failure, of all that cannot be read.
        seconds: float, what embedding and storing took.
    """

    embedded: int = 0
    relabelled: int = 0
    kept: int = 0
    unopened: int = 0
    failures: list[Failure] = dataclasses.field(default_factory=list)
    seconds: float = 0.0

    def add(self, other: "Done") -> None:
        """Adds what has been done with other photos."""
        for field in dataclasses.fields(self):
            total = getattr(self, field.name) + getattr(other, field.name)
            setattr(self, field.name, total)


class Store(Protocol):
    """What takes embedded photos: an Engine, or what has them in its place for a while."""

    def upsert(self, records: Sequence[Record], vectors: np.ndarray) -> None:
        """See `Engine.upsert`."""

    def update(self, records: Sequence[Record]) -> None:
        """See `Engine.update`."""


Fill = Callable[[Engine, encoders.Encoder, Listing, dict[str, Record], IndexOptions], Done]
"""Brings an index up to date with a listing, see `build`."""


def fill(
    store: Store,
    encoder: encoders.Encoder,
    listing: Listing,
    before: Mapping[str, Record],
    options: IndexOptions,
) -> Done:
    """Embeds and stores what has changed of a listing; what is listed no more stays.

    Args:
        store: Store.
        encoder: encoders.Encoder.
        listing: Listing.
        before: dict of Record by path, what is stored.
        options: IndexOptions.

    Returns:
        Done.
    """
    with PhotoFiles(listing.root, options) as files:
        update = Update(store, encoder, files, before, options.batch_size)
        max_age = options.photo_max_age * 3600
        for part in files.look(listing.records, before, max_age, options.reread):
            update.add(part)
        return update.finish()


def build(options: IndexOptions, fill: Fill = fill) -> dict[str, Any]:
    """Embeds a catalogue into an index; of an existing index only what has changed.

    What is listed no more is removed. What is listed but cannot be read now, or lies in a folder
    that cannot be, stays in the index as it was.

    Args:
        options: IndexOptions.
        fill: Fill; by default this process embeds.

    Returns:
        dict: `images`, `embedded`, `kept`, `removed` and `relabelled` (ints), `unreadable` (list
        of listed paths), `failures` (list of Failure, why), `unopened` (int, how many of them are
        missing or cannot be opened or fetched), `held` (list of paths that are in the index
        although they cannot be read now), `seconds` and `images_per_second` of the embedding.

    Raises:
        FirError: no photos, no model, an index of another model, more to be removed than is
            allowed; or, when all else is done, folders that cannot be listed or more photos that
            cannot be opened than might be removed.
    """
    with _prepared(options) as (engine, encoder, listing, before):
        removed = listing.gone(before)
        engine.delete(removed)
        done = fill(engine, encoder, listing, before, options)
        engine.flush()
        info = engine.info()
        whole = {**info, **referenced(engine, info)}
        if "items" not in info or done.embedded or done.relabelled or removed:
            whole |= told_of(part for part, _ in engine.scan())
        if whole != info:
            engine.set_info(whole)
        images = len(engine)
    unreadable = [failure.path for failure in done.failures]
    counts = {
        **vars(done),
        "images": images,
        "removed": len(removed),
        "unreadable": unreadable,
        "held": _held(listing, before, unreadable),
        "images_per_second": done.embedded / done.seconds if done.seconds else 0.0,
    }
    return _concluded(counts, listing, options)


class Update:
    """Brings what is stored up to date, a piece of the catalogue at a time.

    Args:
        store: Store.
        encoder: encoders.Encoder.
        files: PhotoFiles, where the photos come from.
        before: dict of Record by path, what is stored.
        batch_size: int, photos embedded at a time.
    """

    def __init__(
        self,
        store: Store,
        encoder: encoders.Encoder,
        files: PhotoFiles,
        before: Mapping[str, Record],
        batch_size: int,
    ) -> None:
        self._stored, self._encoder, self._files = store, encoder, files
        self._before, self._batch_size = before, batch_size
        self._pending: list[Seen] = []
        self._relabelled: list[Record] = []
        self._done = Done()

    def add(self, part: Sequence[Seen]) -> None:
        """Compares photos with what is stored of them; embeds when there is enough to do."""
        for seen in part:
            new = _changed(seen.record, self._before.get(seen.record.path))
            if seen.failure:
                self._done.failures.append(seen.failure)
                self._done.unopened += 1
            elif new is seen.record:
                self._pending.append(seen)
            elif new:
                self._relabelled.append(new)
            else:
                self._done.kept += 1
        if len(self._pending) >= PIECE:
            self._embed()
        if len(self._relabelled) >= PIECE:
            self._relabel()

    def finish(self) -> Done:
        """Does what is left."""
        self._embed()
        self._relabel()
        return self._done

    def _relabel(self) -> None:
        for part in in_pieces(self._relabelled, PIECE):
            self._stored.update(part)
        self._done.relabelled += len(self._relabelled)
        self._relabelled.clear()

    def _embed(self) -> None:
        """Embeds and stores what is pending."""
        start = time.perf_counter()
        good = _embedded(self._stored, self._encoder, self._pending, self._batch_size)
        for seen, valid in zip(self._pending, good, strict=True):
            if not valid:
                # The share may have gone meanwhile.
                reason = "" if seen.found else why_unopened(seen.file)
                kind = UNOPENED if reason else UNDECODED
                if not reason and (reason := why_not_cropped(seen.file, seen.record)):
                    kind = UNCROPPED
                self._done.failures.append(Failure(seen.record.path, kind, reason))
                self._done.unopened += kind == UNOPENED
        self._done.embedded += sum(good)
        self._done.seconds += time.perf_counter() - start
        self._files.let_go(self._pending)
        self._pending.clear()


def _held(listing: Listing, before: Iterable[str], unreadable: Iterable[str]) -> list[str]:
    """Returns the paths of an index that stay in it although they cannot be read now."""
    lost = set(unreadable)
    return [path for path in before if path in lost or listing.out_of_reach(path)]


def _embedded(
    store: Store, encoder: encoders.Encoder, pending: Sequence[Seen], batch_size: int
) -> list[bool]:
    """Embeds and stores photos; returns which of them could be read."""
    good: list[bool] = []
    waiting: list[tuple[Record, np.ndarray]] = []
    left = iter(pending)
    files = [str(seen.file) for seen in pending]
    guess = any(not seen.record.category for seen in pending)
    found = boxes_of([seen.record for seen in pending])
    boxes = [found] if found else []
    # One of many pieces, below the bar of the fetched photos, leaves none behind.
    bar_options = {"desc": "embedding", "unit": "image", "disable": None, "leave": None}
    with tqdm(total=len(pending), **bar_options) as bar:
        for encoded in encoder.encode_files(files, batch_size, guess, *boxes):
            for category, vector, valid in zip(
                encoded.category, encoded.embedding, encoded.valid, strict=True
            ):
                record = next(left).record
                good.append(bool(valid))
                if valid:
                    category = record.category or category
                    waiting.append((dataclasses.replace(record, category=category), vector))
            if len(waiting) >= PIECE:
                _flush(store, waiting)
            bar.update(len(encoded.valid))
        _flush(store, waiting)
    return good


def _flush(store: Store, waiting: list[tuple[Record, np.ndarray]]) -> None:
    if waiting:
        records, vectors = zip(*waiting, strict=True)
        store.upsert(list(records), np.stack(vectors))
        waiting.clear()


def _concluded(counts: dict[str, Any], listing: Listing, options: IndexOptions) -> dict[str, Any]:
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
    place = _written_errors(counts["failures"], listing, options)
    log.info(summary(counts, shown(options.index), place))
    problems = []
    if listing.unreachable:
        where = listing.unreachable.values()
        problems.append(f"{listed(where, 'place', 'places')} cannot be looked at")
    if counts["unopened"] > options.max_removed * len(listing.records):
        what = "opened or fetched" if listing.addresses else "opened"
        problems.append(
            f"{counts['unopened']:,} of {len(listing.records):,} photos cannot be {what}"
        )
    if problems:
        raise FirError(
            f"{' and '.join(problems)}; is a share offline? The index has {counts['images']:,} "
            f"images, {len(counts['held']):,} of them from before and not looked at. All else is "
            "done; give the command again when they can be read"
        )
    return counts


def _written_errors(
    failures: Sequence[Failure], listing: Listing, options: IndexOptions
) -> Path | None:
    """Writes what failed to --errors, or into the index's folder; returns where, None if nowhere.

    A folder gets no file of no failures, but one from before is brought up to date.
    """
    folder = folder_of(options.index)
    if options.errors:
        path = Path(options.errors)
    elif folder and (failures or (folder / _ERRORS).exists()):
        path = folder / _ERRORS
    else:
        return None
    write_errors(path, failures, listing.lines)
    return path


def summary(counts: dict[str, Any], address: str, errors: Path | None = None) -> str:
    """Returns what is said of a finished `build`.

    Args:
        counts: dict, see `build`.
        address: str, the index's.
        errors: Path of the file that lists all failures, None for none.
    """
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
        lines += [f"  {path}" for path in left[:_LISTED]]
    if len(left) > _LISTED:
        lines.append("  ...")
    if counts["failures"]:
        where = f"; all of them are in {errors}" if errors else ", --errors=FILE lists all"
        lines.append(f"why: {by_kind(counts['failures'])}{where}")
    return "\n".join(lines)
