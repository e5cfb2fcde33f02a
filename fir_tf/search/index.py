"""A catalogue of photos -> an index -> answers to a photo."""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from fir_tf import registry
from fir_tf.datasets.catalogue import SPLITS
from fir_tf.datasets.labels import composed, known
from fir_tf.datasets.removal import check_removal
from fir_tf.datasets.table import load_table
from fir_tf.datasets.walk import NO_IMAGE, SPECIAL, find_photos, listed, printable
from fir_tf.errors import FirError
from fir_tf.evaluation.pictures import Match, SheetRow, contact_sheet
from fir_tf.evaluation.rerank import expand_query, k_reciprocal
from fir_tf.files import json_text, open_file, write_json
from fir_tf.neighbours import top_k
from fir_tf.options import find_run
from fir_tf.search.encoder import Encoder
from fir_tf.search.engines import Engine, Filter, Hit, Record, open_engine
from fir_tf.search.engines.base import DOMAIN_NAMES
from fir_tf.search_options import IndexOptions, MeasureOptions, QueryOptions
from fir_tf.shell import draw_or_note

log = logging.getLogger(__package__)

PIECE = 512
"""int, a catalogue is embedded and stored in pieces of this many images: what a kill loses."""

_CHUNK = 32
"""int, query photos that are read and embedded at a time: about 3 MB each."""

_PICTURED = 50
"""int, the contact sheet shows the first queries, for a picture of thousands cannot be opened."""


@dataclasses.dataclass(frozen=True)
class Listing:
    """The photos to index.

    Attributes:
        root: Path, the folder their paths are relative to.
        records: list of Record; the checksums are empty, labels as far as known.
        notes: tuple of str, what a person should know of the catalogue, a line each.
        unreachable: dict of str by path, folders and files that cannot be looked at, and why.
            What lies there is unknown: it is not gone.
        unread: frozenset of str, files that are there, but are no photos that can be read.
    """

    root: Path
    records: list[Record]
    notes: tuple[str, ...] = ()
    unreachable: dict[str, str] = dataclasses.field(default_factory=dict)
    unread: frozenset[str] = frozenset()

    def gone(self, paths: Iterable[str]) -> list[str]:
        """Returns those of an index's paths that are not listed, where they could be looked up."""
        own = {record.path for record in self.records}
        paths = [path for path in paths if path not in own and not self.out_of_reach(path)]
        if not paths:
            return []
        # Which blanks and Unicode form a table's path means, its file tells while it is there.
        forms = {composed(path).strip(): path for path in own}
        same = [forms.get(composed(path).strip()) for path in paths]
        return [
            path
            for path, other in zip(paths, same, strict=True)
            if other is None or os.path.lexists(self.root / other)
        ]

    def out_of_reach(self, path: str) -> bool:
        """Whether a path may be there, although it cannot be read, or looked at in its folder."""
        if path in self.unread:
            return True
        while path and path not in self.unreachable:
            path = path.rpartition("/")[0]
        return path in self.unreachable


def read_catalogue(images: str | Path, dataset: str = "", split: str = "") -> Listing:
    """Lists the photos to index.

    Args:
        images: str or Path, a folder or a table.
        dataset: str, a benchmark's layout (a registered data set's name); empty for a table
            or for photos in folders of any depth (see `fir_tf.datasets.walk`): the last folder is
            the item, those above it are the category; one level of folders are categories.
        split: str, parts to take, separated by commas; empty for all.

    Returns:
        Listing.

    Raises:
        FirError: there is no photo, or an unknown split.
    """
    if not dataset and os.path.isfile(images):
        dataset = "table"
    if dataset:
        load = registry.get("dataset", dataset)
        # Files that are missing are listed with those that cannot be read.
        if dataset == "table":
            catalogue = load_table(images, split_by_hash=False)
        else:
            catalogue = load(images)
        listing = Listing(catalogue.root, _labelled(catalogue, _splits(split)), catalogue.notes)
    else:
        if split:
            raise FirError(f"`split` needs --dataset or a table. Received: {split!r}")
        found = find_photos(images)
        records = [_from_path(path) for path in found.photos]
        skipped = [path for why in (NO_IMAGE, SPECIAL) for path in found.skipped.get(why, ())]
        unread = frozenset([*found.others, *skipped])
        listing = Listing(found.root, records, found.notes(), found.unreachable, unread)
    if not listing.records:
        more = [*listing.notes, *listing.unreachable.values()]
        raise FirError("\n".join([f"no photo was found in {images}", *more]))
    return listing


def _splits(text):
    names = tuple(name.strip() for name in text.split(",") if name.strip()) or SPLITS
    for name in names:
        if name not in SPLITS:
            raise FirError(f"`split` must be among {', '.join(SPLITS)}. Received: {name!r}")
    return names


def _labelled(catalogue, splits):
    part = catalogue.part(*splits)
    # In Consumer-to-Shop a photo can stand in several rows.
    rows = {}
    for path, item, category, domain in zip(
        part.path, part.item, part.category, part.domain, strict=True
    ):
        rows[str(path)] = Record(
            str(path),
            part.items[item] if item >= 0 else "",
            part.categories[category] if category >= 0 else "",
            DOMAIN_NAMES[domain + 1],
            "",
        )
    return list(rows.values())


def _from_path(path):
    folders = path.split("/")[:-1]
    if len(folders) < 2:
        return Record(path, "", _name(folders), "", "")
    return Record(path, _name(folders), _name(folders[:-1]), "", "")


def _name(folders):
    """Returns folders as a label, unless the last one's name means that it is unknown."""
    return composed("/".join(folders)) if folders and known(folders[-1]) else ""


def checksum(contents: bytes) -> str:
    """Returns what an index keeps of a file's contents, to tell whether they have changed."""
    return hashlib.blake2b(contents, digest_size=16).hexdigest()


def _file_checksum(path):
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
def prepared(options: IndexOptions) -> Iterator[tuple[Engine, Encoder, Listing, dict[str, Record]]]:
    """Opens an index to be filled, new or of the same model, and says in it what fills it.

    Args:
        options: IndexOptions.

    Yields:
        (Engine, Encoder, Listing, dict of Record by path: what the index has).

    Raises:
        FirError: no photos, no model, an index of another model, or more of it to be removed than
            `options` allow. The index is then as it was.
    """
    listing = read_catalogue(options.images, options.dataset, options.split)
    for note in listing.notes:
        log.info(note)
    how = embedding_options(options)
    encoder = Encoder(options.model or find_run(""), **how)
    with open_engine(options.index, create=True) as engine:
        info = engine.info()
        if info:
            encoder.check(info["model"], f"the index {options.index}")
        else:
            info = {"model": encoder.fingerprint(), "dimension": encoder.dimension}
        before = {record.path: record for part, _ in engine.scan() for record in part}
        most = 1.0 if options.remove else options.max_removed
        what = f"the index {options.index}"
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
        counts["images"] = len(engine)
    return concluded(counts, listing, options)


def _update(engine, encoder, listing, before, batch_size):
    records = _with_checksums(listing)
    removed = listing.gone(before)
    engine.delete(removed)
    pending, relabelled, unreadable = [], [], []
    for record in records:
        new = changed(record, before.get(record.path))
        if not record.checksum:
            unreadable.append(record.path)
        elif new is record:
            pending.append(record)
        elif new:
            relabelled.append(new)
    for start in range(0, len(relabelled), PIECE):
        part = relabelled[start : start + PIECE]
        vectors = [vector for _, vector in engine.fetch([record.path for record in part])]
        engine.upsert(part, np.stack(vectors))
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


def _with_checksums(listing):
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


def _embed(engine, encoder, root, pending, batch_size):
    """Embeds and stores records; returns (seconds, paths that could not be read)."""
    bad, waiting, vectors, place = [], [], [], 0
    start = time.perf_counter()
    with tqdm(total=len(pending), desc="embedding", unit="image", disable=None) as bar:
        files = [str(root / record.path) for record in pending]
        guess = any(not record.category for record in pending)
        batches = encoder.encode_files(files, batch_size, guess)
        for encoded in batches:
            part = pending[place : place + len(encoded.valid)]
            place += len(part)
            for record, category, vector, valid in zip(
                part, encoded.category, encoded.embedding, encoded.valid, strict=True
            ):
                if valid:
                    waiting.append(
                        dataclasses.replace(record, category=record.category or category)
                    )
                    vectors.append(vector)
                else:
                    bad.append(record.path)
            if len(waiting) >= PIECE or place == len(pending):
                if waiting:
                    engine.upsert(waiting, np.stack(vectors))
                waiting, vectors = [], []
            bar.update(len(part))
    return time.perf_counter() - start, bad


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
    log.info(summary(counts, options.index))
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


class Index:
    """An index opened with its model, ready to be asked.

    Args:
        address: str, see `fir_tf.search.engines.addresses`.
        model: str or Path; empty for the model the index was made with.
        images: str or Path, the photos' folder; empty for the one it was made from.
        effort: float, see `open_engine`.

    Raises:
        FirError: there is no index, or `model` is another one than it was made with.
    """

    def __init__(
        self,
        address: str | Path,
        model: str | Path = "",
        images: str | Path = "",
        effort: float = 1.0,
    ) -> None:
        self.engine = open_engine(address, effort=effort)
        try:
            info = self.engine.info()
            if not info:
                raise FirError(f"the index {address} is empty. Fill it with search.py index")
            self.encoder = _encoder(info, model, address)
            self.encoder.check(info["model"], f"the index {address}")
        except BaseException:
            self.engine.close()
            raise
        self.root = Path(images or info["root"])

    def search(
        self,
        vectors: np.ndarray,
        k: int,
        group: bool = True,
        where: Filter | None = None,
        expand: int = 0,
        expand_alpha: float = 3.0,
        rerank: int = 0,
    ) -> list[list[Hit]]:
        """Finds the nearest items or images.

        Args:
            vectors: float32 [q, d], unit length.
            k: int, results for each query.
            group: bool, one result for each item, its best view. An image of no item stands for
                itself.
            where: Filter or None.
            expand: int, neighbours averaged into the query, see
                `fir_tf.evaluation.rerank.expand_query`; 0 is off.
            expand_alpha: float, their weight: similarity to this power.
            rerank: int, results that are ranked anew, see `fir_tf.evaluation.rerank.k_reciprocal`;
                0 is off.

        Returns:
            list of q lists of Hit.
        """
        if expand:
            vectors = self._expanded(vectors, expand, expand_alpha, where)
        wanted = 4 * k if group else k
        while True:
            found = self.engine.search(vectors, max(wanted, rerank), where)
            if rerank:
                found = [
                    self._reranked(q, hits, rerank) for q, hits in zip(vectors, found, strict=True)
                ]
            rows = [(best_views(hits) if group else hits)[:k] for hits in found]
            complete = all(
                len(row) == k or len(hits) < wanted for row, hits in zip(rows, found, strict=True)
            )
            if complete or wanted >= len(self.engine):
                return rows
            wanted *= 4

    def _expanded(self, vectors, count, alpha, where):
        found = self.engine.search(vectors, count, where)
        expanded = []
        for vector, hits in zip(vectors, found, strict=True):
            near = self.engine.fetch([hit.record.path for hit in hits])
            near = np.array([neighbour for _, neighbour in near]).reshape(-1, vectors.shape[1])
            expanded.append(expand_query(vector, near, alpha))
        return np.stack(expanded)

    def _reranked(self, vector, hits, count):
        head = hits[:count]
        near = self.engine.fetch([hit.record.path for hit in head])
        if len(near) < 2:
            return hits
        order = k_reciprocal(vector, np.stack([neighbour for _, neighbour in near]))
        return [head[number] for number in order] + hits[count:]

    def close(self) -> None:
        """Closes the engine."""
        self.engine.close()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


def _encoder(info, model, address):
    """Opens the model an index was made with, or the one that is given in its place."""
    stored, how = Path(info["model"]["model"]), dict(info["how"])
    if not model and not stored.exists():
        raise FirError(
            f"the index {address} was made with the model {stored}, which is no longer there. "
            "Give its folder as --model"
        )
    whitening = Path(how["whitening"])
    if how["whitening"] and not whitening.is_file():
        beside = Path(model or stored) / whitening.name
        if not beside.is_file():
            raise FirError(
                f"the index {address} was made with --whitening={whitening}, which is no longer "
                f"there. Put the file back, or into the model's folder as {beside}"
            )
        how["whitening"] = str(beside)
    return Encoder(model or stored, **how)


def best_views(hits: Iterable[Hit]) -> list[Hit]:
    """Returns the first hit of each item, in order; one of no item stands for itself."""
    seen, kept = set(), []
    for hit in hits:
        key = ("item", hit.record.item) if hit.record.item else ("image", hit.record.path)
        if key not in seen:
            seen.add(key)
            kept.append(hit)
    return kept


def query(options: QueryOptions, photos: Sequence[str]) -> list[dict[str, Any]]:
    """Answers photos: a table on the screen, a contact sheet, JSON on request.

    The photos are read, embedded and answered a few at a time, and answers are printed as they
    come. A sheet that cannot be drawn is a note.

    Args:
        options: QueryOptions.
        photos: list of str, image files.

    Returns:
        list of a dict for each query: `photos`, and `results`, dicts of `rank`, `score`, `item`,
        `category`, `domain` and `path`; that of a photo which cannot be read says so as `error`.

    Raises:
        FirError: no photo is given, the index does not fit the model, or, after the answers to
            the others, a photo cannot be read.
    """
    _check_photos(photos)
    answers: list[dict[str, Any]] = []
    pictured: list[SheetRow] = []
    bad: list[tuple[str, str]] = []
    with (
        Index(options.index, options.model, options.images, options.effort) as index,
        tqdm(total=len(photos), desc="queries", unit="photo", disable=None, leave=False) as bar,
    ):
        where = Filter(
            _categories(options.category, index.engine), (options.domain,) if options.domain else ()
        )
        for groups, vectors, unread in _asked(index.encoder, photos, options.together, bar):
            found = index.search(
                vectors,
                options.k,
                options.group,
                where,
                options.expand,
                options.expand_alpha,
                options.rerank,
            )
            bad += unread
            for group, hits in zip(groups, found, strict=True):
                results = [_result(rank, hit) for rank, hit in enumerate(hits, 1)]
                answers.append({"photos": group, "results": results})
                if len(pictured) < _PICTURED:
                    pictured.append(_sheet_row(group, hits, index.root))
                if options.json != "-":
                    bar.write(_table(answers[-1]))
            answers += [
                {"photos": [photo], "results": [], "error": reason} for photo, reason in unread
            ]
            sys.stdout.flush()
        root = index.root
    _tell(answers, pictured, root, options)
    if bad:
        lines = "\n".join(f"  {photo}: {reason}" for photo, reason in bad)
        raise FirError(f"{len(bad)} of {len(photos)} photos cannot be read:\n{lines}")
    return answers


def _check_photos(photos):
    if not photos:
        raise FirError("no photo was given: python search.py query photo.jpg --index=...")
    for photo in photos:
        if not Path(photo).is_file():
            raise FirError(f"{photo} is no file. Give the photo to search with")


def _asked(encoder, photos, together, bar):
    """Yields queries a few at a time: (lists of photos, float32 [n, d], [(bad photo, reason)])."""
    vectors, bad = [], {}
    for start in range(0, len(photos), _CHUNK):
        part = photos[start : start + _CHUNK]
        embedding, unread = _read_and_embed(encoder, part)
        bar.update(len(part))
        if together:
            vectors.append(embedding)
            bad |= unread
        else:
            kept = [number for number, photo in enumerate(part) if photo not in unread]
            # A photo that is given twice is answered twice, a bad one too.
            lost = [(photo, unread[photo]) for photo in part if photo in unread]
            yield [[part[number]] for number in kept], embedding[kept], lost
    if together and bad:
        lines = "; ".join(f"{photo}: {reason}" for photo, reason in bad.items())
        raise FirError(f"with --together every photo must be readable. Received: {lines}")
    if together:
        yield [list(photos)], mean_embedding(np.concatenate(vectors))[np.newaxis], []


def _read_and_embed(encoder, photos):
    contents, unread = [], {}
    for photo in photos:
        try:
            contents.append(Path(photo).read_bytes())
        except OSError as error:
            contents.append(b"")
            unread[photo] = error.strerror or str(error)
    encoded = encoder.encode(contents)
    for photo, valid in zip(photos, encoded.valid, strict=True):
        if not valid:
            unread.setdefault(photo, "cannot be decoded. JPEG, PNG, GIF and BMP are read")
    return encoded.embedding, unread


def _categories(text, engine):
    """Returns the categories that --category names, a tuple of str; their names may have commas."""
    parts = [part.strip() for part in text.split(",")]
    if not any(parts):
        return ()
    names = []
    # As they stand between the commas, for a name with one in it.
    plain = {
        ",".join(part.strip() for part in name.split(",")): name
        for name in engine.labels()["category"]
        if name
    }
    while parts:
        lengths = range(len(parts), 0, -1)
        length = next((n for n in lengths if ",".join(parts[:n]) in plain), 1)
        name = ",".join(parts[:length])
        if name and name not in plain:
            shown = ", ".join(repr(name) for name in [*plain.values()][:20])
            raise FirError(
                f"`category` must name categories of the index: {shown or 'it has none'}"
                f"{', ...' if len(plain) > 20 else ''}. Received: {name!r}"
            )
        names += [plain[name]] if name else []
        parts = parts[length:]
    return tuple(names)


def mean_embedding(vectors: np.ndarray) -> np.ndarray:
    """Returns the normalised mean of several photos' embeddings [n, d], float32 [d]."""
    mean = np.asarray(vectors, np.float32).mean(axis=0)
    length = float(np.linalg.norm(mean))
    if length < 1e-6:
        raise FirError("the photos' embeddings cancel out: they cannot show one garment")
    return mean / length


def _result(rank, hit):
    fields = ("item", "category", "domain", "path")
    return {
        "rank": rank,
        "score": hit.score,
        **{name: getattr(hit.record, name) for name in fields},
    }


def _sheet_row(group, hits, root):
    matches = [
        Match(root / hit.record.path, hit.score, None, hit.record.item or hit.record.path)
        for hit in hits
    ]
    more = f" and {len(group) - 1} more" if len(group) > 1 else ""
    return SheetRow(group[0], Path(group[0]).name + more, matches)


def _table(answer):
    """Returns a query's answer as text."""
    lines = [", ".join(map(printable, answer["photos"]))]
    if not answer["results"]:
        lines.append("  nothing was found; is the filter too narrow?")
    lines += [
        f"{row['rank']:4d}  {row['score']:.4f}  {printable(row['item'] or '-'):30s}  "
        f"{printable(row['category'] or '-'):20s}  {printable(row['path'])}"
        for row in answer["results"]
    ]
    return "\n".join(lines)


def _tell(answers, pictured, root, options):
    """Writes the answers, and then the sheet, which is only there to look at."""
    written = []
    if options.json == "-":
        print(json_text(answers), flush=True)
    elif options.json:
        write_json(options.json, answers)
        written.append(options.json)
    if options.sheet and pictured:
        if not root.is_dir():
            log.info(f"note: the photos are not in {root}: give their folder as --images")
        if sum("error" not in answer for answer in answers) > len(pictured):
            log.info(f"note: the sheet shows the first {len(pictured)} queries")
        title = f"Nearest in {options.index}"
        written += draw_or_note(
            options.sheet, lambda: contact_sheet(pictured, options.sheet, title)
        )
    if written:
        log.info("wrote " + ", ".join(map(str, written)))


def measure(options: MeasureOptions) -> dict[str, Any]:
    """Compares an engine with exact search over the same vectors.

    The queries are vectors of the index itself with noise added, so that none is its own answer
    to the bit.

    Args:
        options: MeasureOptions.

    Returns:
        dict: `recall@k` (share of the exact k nearest that the engine found), `recall@1`,
        `queries_per_second` in one batch, `seconds_per_query` one at a time (median), `vectors`,
        `queries`, `k`.

    Raises:
        FirError: the index is empty.
    """
    with open_engine(options.index, effort=options.effort) as engine:
        count = len(engine)
        if not count:
            raise FirError(f"the index {options.index} is empty. Fill it with search.py index")
        rng = np.random.default_rng(0)
        chosen = rng.choice(count, min(options.queries, count), replace=False)
        vectors = _vectors_at(engine, chosen)
        size = vectors.shape[1]
        noise = rng.standard_normal(vectors.shape).astype(np.float32) * 0.3 / np.sqrt(size)
        queries = vectors + noise
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
        k = min(options.k, count)
        start = time.perf_counter()
        found = engine.search(queries, k)
        batch = time.perf_counter() - start
        times = []
        for vector in tqdm(queries[:20], desc="one at a time", disable=None, leave=False):
            start = time.perf_counter()
            engine.search(vector[np.newaxis], k)
            times.append(time.perf_counter() - start)
        values = {
            "engine": options.index,
            "vectors": count,
            "queries": len(queries),
            "k": k,
            **_recall(found, _exact_scores(engine, queries, k), k),
            "queries_per_second": len(queries) / batch,
            "seconds_per_query": float(np.median(times)),
        }
    if options.json == "-":
        print(json_text(values))
        return values
    for name, value in values.items():
        log.info(f"{name:20s} {value:.4f}" if isinstance(value, float) else f"{name:20s} {value}")
    if options.json:
        write_json(options.json, values)
        log.info(f"wrote {options.json}")
    return values


def _vectors_at(engine, places):
    """Returns the vectors that `scan` comes upon at these places, float32 [len(places), d]."""
    order, found, start = np.argsort(places), [], 0
    for _, part in engine.scan(vectors=True):
        inside = places[(places >= start) & (places < start + len(part))]
        found.append(part[np.sort(inside) - start])
        start += len(part)
    vectors = np.concatenate(found)
    return vectors[np.argsort(order)]


def _exact_scores(engine, queries, k):
    """Returns the k largest scores of each query among all vectors, float32 [q, k], in order.

    The index is read in pieces: it may be larger than memory.
    """
    best = np.empty([len(queries), 0], np.float32)
    for _, part in engine.scan(vectors=True):
        scores = top_k(queries, part, min(k, len(part)))[0]
        best = -np.sort(-np.concatenate([best, scores], axis=1), axis=1)[:, :k]
    return best


def _recall(found, exact, k):
    """Recall by scores: a result counts if it is as near as the exact k-th, whichever of equals."""
    # Engines add up in other orders.
    tolerance = 1e-5
    shares = {1: [], k: []}
    for hits, best in zip(found, exact, strict=True):
        scores = np.array([hit.score for hit in hits])
        for rank, values in shares.items():
            values.append(float((scores[:rank] >= best[rank - 1] - tolerance).sum() / rank))
    return {f"recall@{rank}": float(np.mean(values)) for rank, values in shares.items()}
