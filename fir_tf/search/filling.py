"""Embeddings or photos in hand -> records and vectors of an engine."""

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from fir_tf.checks import check_positive
from fir_tf.datasets.catalogue import is_address
from fir_tf.datasets.labels import read_labels
from fir_tf.datasets.walk import listed
from fir_tf.errors import FirError
from fir_tf.options import FetchOptions
from fir_tf.search.calibrated import kept
from fir_tf.search.columns import check_names, plain_metadata, told_of
from fir_tf.search.conditions import FIELDS
from fir_tf.search.encoder import Encoder
from fir_tf.search.engines import Engine, Record
from fir_tf.search.engines.base import DOMAIN_NAMES
from fir_tf.search.listing import read_catalogue
from fir_tf.search.opened import Encoded
from fir_tf.search.photo_files import PhotoFiles
from fir_tf.search.photos import all_paths, contents_or_empty
from fir_tf.search_options import IndexOptions

log = logging.getLogger(__package__)

_PIECE = 4096
# Photos at addresses that are fetched before they are embedded, and held.
_AHEAD = 512


def records_of(metadata: Mapping[str, Sequence[Any]] | None, count: int) -> list[Record]:
    """Returns a Record for each row; see `fir_tf.search.index.Index.from_arrays`.

    Raises:
        FirError: columns of another length or of values that are no metadata, a path twice, an
            unknown domain.
    """
    import pandas as pd

    given = {} if metadata is None else {str(name): metadata[name] for name in metadata}
    others = {name: _listed(name, given[name], count) for name in given if name not in FIELDS}
    check_names(others)
    columns = {name: _cells(name, given.get(name), count) for name in FIELDS}
    for name in ("item", "category"):
        column, notes = read_labels(name, columns[name], numbers=True)
        columns[name] = column.tolist()
        for note in notes:
            log.info(note)
    paths = [path or str(number) for number, path in enumerate(columns["path"])]
    twice = pd.Series(paths, dtype=object).duplicated()
    if twice.any():
        raise FirError(
            f"`path` must name each row once. Received: {paths[int(twice.argmax())]!r} twice"
        )
    domains = set(columns["domain"]) - set(DOMAIN_NAMES)
    if domains:
        raise FirError(f"`domain` must be shop or consumer, or nothing. Received: {min(domains)!r}")
    labels = zip(paths, columns["item"], columns["category"], columns["domain"], strict=True)
    rows = [
        plain_metadata({name: cells[row] for name, cells in others.items()}) for row in range(count)
    ]
    return [Record(*values, "", row) for values, row in zip(labels, rows, strict=True)]


def _cells(name: str, values: Any, count: int) -> list[str]:
    """Returns a column as text, empty where unknown."""
    if values is None:
        return [""] * count
    import pandas as pd

    return ["" if pd.isna(cell) else str(cell) for cell in _listed(name, values, count)]


def _listed(name: str, values: Any, count: int) -> list[Any]:
    """Returns a column's cells."""
    alone = isinstance(values, str | bytes) or not hasattr(values, "__iter__")
    found = [values] if alone else list(values)
    if len(found) != count:
        raise FirError(
            f"`metadata` must have {count} rows, one for each vector or photo. Received: "
            f"{len(found)} in `{name}`"
        )
    return found


def write_arrays(engine: Engine, vectors: np.ndarray, records: Sequence[Record]) -> None:
    """Fills a new engine with vectors, float [n, d].

    Raises:
        FirError: they are no such array, or not finite.
    """
    if vectors.ndim != 2 or vectors.dtype.kind != "f" or not vectors.size:
        raise FirError(
            "`vectors` must be a float array [n, d] of at least one row. Received: "
            f"{vectors.dtype} {vectors.shape}"
        )
    info = {"dimension": vectors.shape[1], "root": "", "how": {}, "model": None}
    engine.set_info({**info, **told_of([records])})
    for start in range(0, len(vectors), _PIECE):
        part = slice(start, start + _PIECE)
        engine.upsert(list(records[part]), vectors[part].astype(np.float32))


def write_photos(
    engine: Engine,
    encoder: Encoder,
    photos: str | Path | Sequence[Any],
    metadata: Mapping[str, Sequence[Any]] | None,
    batch_size: int,
    fetch: FetchOptions,
) -> None:
    """Fills a new engine with photos; see `fir_tf.search.index.Index.from_model`.

    Raises:
        FirError: no photo can be read, or columns or options that do not fit.
    """
    fetch.check_fetching()
    batch_size = check_positive("batch_size", batch_size)
    if isinstance(photos, str | Path):
        if metadata is not None:
            raise FirError("`metadata` is for a list of photos. Received: it, and a folder")
        listing = read_catalogue(photos)
        records, root = listing.records, listing.root.resolve()
        paths = [record.path for record in records]
        photos = [path if is_address(path) else root / path for path in paths]
    else:
        photos = list(photos)
        # Relative paths are those of the current folder.
        records, root = _with_paths(metadata, photos), Path.cwd()
    info = {"dimension": encoder.dimension, "root": str(root), "how": {}, **kept(encoder, {})}
    engine.set_info({**info, "model": encoder.fingerprint(), **told_of([records])})
    bad = dict[str, str]()
    with (
        PhotoFiles(root, fetch) as files,
        tqdm(total=len(records), desc="embedding", unit="image", disable=None) as bar,
    ):
        for start in range(0, len(records), _AHEAD):
            part = slice(start, start + _AHEAD)
            left = iter(records[part])
            with at_hand(files, photos[part], bad) as here:
                for encoded in _encoded(encoder, here, batch_size):
                    pairs = [(next(left), valid) for valid in encoded.valid]
                    good = [record for record, valid in pairs if valid]
                    for record, valid in pairs:
                        if not valid:
                            bad.setdefault(record.path, "")
                    if good:
                        engine.upsert(good, encoded.embedding[encoded.valid])
                    bar.update(len(pairs))
    paths = [f"{path}: {reason}" if reason else path for path, reason in bad.items()]
    if len(bad) == len(records):
        raise FirError(
            "`photos` must have a photo that can be read. Received: "
            f"{listed(paths, 'photo', 'photos')}"
        )
    if bad:
        log.warning("\n  ".join([f"{len(bad)} images cannot be read and were left out:", *paths]))


@contextlib.contextmanager
def at_hand(
    files: PhotoFiles, photos: Sequence[Any], bad: dict[str, str]
) -> Iterator[Sequence[Any]]:
    """Yields photos with files in place of addresses, which are fetched.

    Args:
        files: PhotoFiles.
        photos: sequence of photos; a str that is an address is one.
        bad: dict of str by address, to note in why one cannot be had.
    """
    texts = dict.fromkeys(photo for photo in photos if isinstance(photo, str))
    addresses = [Record(text, "", "", "", "") for text in texts if is_address(text)]
    if not addresses:
        yield photos
        return
    max_age = IndexOptions.photo_max_age * 3600
    seen = [each for part in files.look(addresses, {}, max_age, False) for each in part]
    bad.update((each.failure.path, str(each.failure)) for each in seen if each.failure)
    fetched = {each.record.path: each.file for each in seen}
    try:
        yield [fetched.get(photo, photo) if isinstance(photo, str) else photo for photo in photos]
    finally:
        files.let_go(seen)


def _with_paths(
    metadata: Mapping[str, Sequence[Any]] | None, photos: Sequence[Any]
) -> list[Record]:
    if metadata is None or "path" not in metadata:
        paths = [str(photo) if all_paths([photo]) else "" for photo in photos]
        metadata = {**({} if metadata is None else dict(metadata)), "path": paths}
    return records_of(metadata, len(photos))


def _encoded(encoder: Encoder, photos: Sequence[Any], batch_size: int) -> Iterator[Encoded]:
    if all_paths(photos):
        yield from encoder.encode_files([str(photo) for photo in photos], batch_size)
        return
    for start in range(0, len(photos), batch_size):
        yield encoder.encode(
            [contents_or_empty(photo) for photo in photos[start : start + batch_size]]
        )
