"""Queries to compare two models by: photos of a folder, feed or log, or the index's own."""

import collections
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from fir_tf.datasets.catalogue import is_address
from fir_tf.datasets.walk import listed
from fir_tf.errors import FirError
from fir_tf.images.file import UnreadableImageError, read
from fir_tf.images.window import Boxes
from fir_tf.search.answers import Asked
from fir_tf.search.cropped import as_shares, boxes_of, why_not_cropped
from fir_tf.search.encoder import Encoder
from fir_tf.search.engines import Engine, Record
from fir_tf.search.generation import Generation
from fir_tf.search.listing import read_catalogue
from fir_tf.search.photos import readable

# Photos that are embedded one at a time, to tell how long that takes.
_TIMED = 20
_BATCH = 32


def items_of(engine: Engine) -> Mapping[str, int]:
    """Returns how many photos of each item an engine has, those of no item left out."""
    counts: collections.Counter[str] = collections.Counter()
    for part, _ in engine.scan():
        counts.update(record.item for record in part if record.item)
    return counts


def asked_of_index(
    engines: tuple[Engine, Engine], root: Path, count: int, seed: int = 0
) -> list[Asked]:
    """Draws photos of the index as queries: their vectors are there, no model is needed.

    Args:
        engines: (Engine, Engine), old and new.
        root: Path, the photos' folder.
        count: int, how many at most.
        seed: int.

    Returns:
        list of Asked, of photos that both engines have.
    """
    paths = sorted(record.path for part, _ in engines[0].scan() for record in part)
    drawn = np.random.default_rng(seed).permutation(len(paths))[:count]
    chosen = [paths[row] for row in np.sort(drawn)]
    old, new = ({r.path: (r, vector) for r, vector in e.fetch(chosen)} for e in engines)
    return [
        Asked(path, old[path][0].item, path, root / path, old[path][1], new[path][1])
        for path in chosen
        if path in old and path in new
    ]


def asked_of_photos(
    source: str, generations: tuple[Generation, Generation]
) -> tuple[list[Asked], tuple[float, float]]:
    """Embeds photos by both models.

    Args:
        source: str, a folder of photos, a table or feed of them, or a log: JSON that
            `search.py query --json` wrote, or a text file with the path of a photo a line.
        generations: (Generation, Generation), old and new.

    Returns:
        (list of Asked, median seconds in which either model embeds one photo).

    Raises:
        FirError: there is no photo that can be read.
    """
    root, records = _photos(source, any(each.encoder.crop == "box" for each in generations))
    contents, kept, boxes = _contents(root, records)
    old, new = (
        _embedded(each.encoder, contents, boxes if each.encoder.crop == "box" else None)
        for each in generations
    )
    inside = generations[0].root.resolve()
    own = [_path_in(inside, root / record.path) for record in kept]
    there = {
        record.path for record, _ in generations[0].engine.fetch([path for path in own if path])
    }
    asked = [
        Asked(r.path, r.item, path if path in there else "", root / r.path, one, other)
        for r, path, one, other in zip(kept, own, old[0], new[0], strict=True)
        # Zeros are those of a photo that could not be decoded.
        if one.any() and other.any()
    ]
    if not asked:
        raise FirError(f"`queries` must have a photo that can be read. Received: {source}")
    return asked, (old[1], new[1])


def _photos(source: str, cropped: bool) -> tuple[Path, list[Record]]:
    """Returns (folder, Records of the photos in it, with their boxes where they are cropped)."""
    path = Path(source)
    if path.is_file() and path.suffix in (".json", ".log", ".txt"):
        names = list(dict.fromkeys(_logged(path)))
        if not names:
            raise FirError(f"`queries` must name photos. Received: {path}, which names none")
        return Path(), [Record(name, "", "", "", "") for name in names]
    listing = read_catalogue(source)
    listing = listing.cropped() if cropped and listing.boxes else listing
    return listing.root, [r for r in listing.records if not is_address(r.path)]


def _logged(path: Path) -> Iterator[str]:
    text = path.read_text(encoding="utf-8", errors="surrogateescape")
    if path.suffix != ".json":
        yield from filter(None, map(str.strip, text.splitlines()))
        return
    try:
        for answer in json.loads(text):
            yield from map(str, answer["photos"])
    except (ValueError, TypeError, KeyError) as error:
        raise FirError(
            f"{path} must be what search.py query --json={path} writes. Received: {error!r}"
        ) from error


def _contents(
    root: Path, records: Sequence[Record]
) -> tuple[list[bytes], list[Record], Boxes | None]:
    """Reads the photos that can be read; returns (contents, their Records, their boxes)."""
    contents, kept, lost = [], [], []
    boxes, rows = boxes_of(records), []
    for row, record in enumerate(records):
        try:
            found = read(root / record.path)
            photo = readable(found)
            if why_not_cropped(root / record.path, record):
                lost.append(record.path)
                continue
            if boxes and not boxes[1][row] and not np.isnan(boxes[0][row]).any():
                boxes[0][row] = as_shares(found, boxes[0][row])
            contents.append(photo)
            kept.append(record)
            rows.append(row)
        except UnreadableImageError:
            lost.append(record.path)
    if not kept:
        raise FirError(
            "`queries` must have a photo that can be read. Received: "
            f"{listed(lost, 'photo', 'photos') if lost else 'none'}"
        )
    return contents, kept, (boxes[0][rows], np.ones(len(rows), bool)) if boxes else None


def _embedded(
    encoder: Encoder, contents: Sequence[bytes], boxes: Boxes | None
) -> tuple[np.ndarray, float]:
    """Returns (embeddings float32 [n, d], median seconds of one photo)."""

    def embed(start: int, count: int) -> np.ndarray:
        part = slice(start, start + count)
        own = (boxes[0][part], boxes[1][part]) if boxes else None
        return encoder.encode(contents[part], boxes=own).embedding

    embed(0, 1)
    seconds = []
    for row in range(min(_TIMED, len(contents))):
        start = time.perf_counter()
        embed(row, 1)
        seconds.append(time.perf_counter() - start)
    starts = tqdm(range(0, len(contents), _BATCH), desc="embedding", disable=None, leave=False)
    found = [embed(begin, _BATCH) for begin in starts]
    return np.concatenate(found), float(np.median(seconds))


def _path_in(root: Path, file: Path) -> str:
    """Returns how an index of a folder calls a file, empty where it lies elsewhere."""
    found = file.resolve()
    return found.relative_to(root).as_posix() if found.is_relative_to(root) else ""
