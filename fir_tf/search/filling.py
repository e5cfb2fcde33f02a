"""Embeddings or photos in hand -> records and vectors of an engine."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from fir_tf.errors import FirError
from fir_tf.search.encoder import Encoder
from fir_tf.search.engines import Engine, Record
from fir_tf.search.engines.base import DOMAIN_NAMES
from fir_tf.search.listing import read_catalogue
from fir_tf.search.opened import Encoded
from fir_tf.search.photos import all_paths, contents_of

log = logging.getLogger(__package__)

COLUMNS = ("path", "item", "category", "domain")
_PIECE = 4096


def records_of(metadata: Mapping[str, Sequence[Any]] | None, count: int) -> list[Record]:
    """Returns a Record for each row; see `fir_tf.search.index.Index.from_arrays`.

    Raises:
        FirError: unknown columns, columns of another length, a path twice, an unknown domain.
    """
    table = pd.DataFrame({} if metadata is None else dict(metadata))
    unknown = [str(name) for name in table.columns if name not in COLUMNS]
    if unknown:
        raise FirError(
            f"`metadata` must have columns among {', '.join(COLUMNS)}. Received: "
            f"{', '.join(unknown)}"
        )
    if len(table.columns) and len(table) != count:
        raise FirError(
            f"`metadata` must have {count} rows, one for each vector or photo. Received: "
            f"{len(table)}"
        )
    columns = {
        name: table[name].astype(object).where(table[name].notna(), "").map(str).tolist()
        if name in table
        else [""] * count
        for name in COLUMNS
    }
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
    return [Record(*values, "") for values in labels]


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
    engine.set_info({"dimension": vectors.shape[1], "root": "", "how": {}, "model": None})
    for start in range(0, len(vectors), _PIECE):
        part = slice(start, start + _PIECE)
        engine.upsert(list(records[part]), vectors[part].astype(np.float32))


def write_photos(
    engine: Engine,
    encoder: Encoder,
    photos: str | Path | Sequence[Any],
    metadata: Mapping[str, Sequence[Any]] | None,
    batch_size: int,
) -> None:
    """Fills a new engine with photos; see `fir_tf.search.index.Index.from_model`.

    Raises:
        FirError: no photo can be read, or columns that do not fit.
    """
    if isinstance(photos, str | Path):
        if metadata is not None:
            raise FirError("`metadata` is for a list of photos. Received: it, and a folder")
        listing = read_catalogue(photos)
        records, root = listing.records, str(listing.root.resolve())
        photos = [listing.root / record.path for record in records]
    else:
        records, root = _listed(metadata, photos), ""
    info = {"dimension": encoder.dimension, "root": root, "how": {}}
    engine.set_info({**info, "model": encoder.fingerprint()})
    left, bad = iter(records), list[str]()
    with tqdm(total=len(records), desc="embedding", unit="image", disable=None) as bar:
        for encoded in _encoded(encoder, photos, batch_size):
            part = [next(left) for _ in encoded.valid]
            pairs = list(zip(part, encoded.valid, strict=True))
            bad += [record.path for record, valid in pairs if not valid]
            good = [record for record, valid in pairs if valid]
            if good:
                engine.upsert(good, encoded.embedding[encoded.valid])
            bar.update(len(part))
    if len(bad) == len(records):
        raise FirError(f"`photos` must have a photo that can be read. Received: {len(records)}")
    if bad:
        paths = "".join(f"\n  {path}" for path in bad)
        log.warning(f"{len(bad)} images cannot be read and were left out:{paths}")


def _listed(metadata: Mapping[str, Sequence[Any]] | None, photos: Sequence[Any]) -> list[Record]:
    if all_paths(photos) and (metadata is None or "path" not in metadata):
        metadata = {**dict(metadata or {}), "path": [str(photo) for photo in photos]}
    return records_of(metadata, len(photos))


def _encoded(encoder: Encoder, photos: Sequence[Any], batch_size: int) -> Iterator[Encoded]:
    if all_paths(photos):
        yield from encoder.encode_files([str(photo) for photo in photos], batch_size)
        return
    for start in range(0, len(photos), batch_size):
        yield encoder.encode([contents_of(photo) for photo in photos[start : start + batch_size]])
