"""Photos -> answers of an index: a table on the screen, JSON, a contact sheet."""

import dataclasses
import functools
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from tqdm import tqdm

from fir_tf.datasets.boxes import Box, read_box
from fir_tf.datasets.catalogue import is_address, no_boxes
from fir_tf.datasets.walk import printable
from fir_tf.errors import FirError
from fir_tf.files import json_text, write_json
from fir_tf.images.file import UnreadableImageError, read
from fir_tf.images.picture import see
from fir_tf.images.window import Boxes
from fir_tf.locate import Garment, Locator, cut, open_locator, png
from fir_tf.search.calibrated import calibration_of, check_calibrated
from fir_tf.search.columns import SHOWN, kinds_of
from fir_tf.search.conditions import Condition, Filter, check_columns, combined
from fir_tf.search.cropped import as_shares
from fir_tf.search.early import check_photos
from fir_tf.search.encoder import Encoder
from fir_tf.search.engines import Engine, Hit, is_default, open_engine
from fir_tf.search.engines.base import shown
from fir_tf.search.filling import at_hand
from fir_tf.search.generation import Generation
from fir_tf.search.index import Index
from fir_tf.search.photo_files import PhotoFiles
from fir_tf.search.photos import not_decoded, readable
from fir_tf.search.where import parse
from fir_tf.search_options import QueryOptions
from fir_tf.shell import draw_or_note, quiet_tensorflow

# What is drawn and explained takes as long to import as an answer.
if TYPE_CHECKING:
    from fir_tf.evaluation.pictures import SheetRow
    from fir_tf.explain import PhotoExplainer

log = logging.getLogger(__package__)

_CHUNK = 32
"""int, query photos that are read and embedded at a time: about 3 MB each."""

_PICTURED = 50
"""int, the contact sheet shows the first queries, for a picture of thousands cannot be opened."""


class _Asked(NamedTuple):
    """Queries that are answered together.

    Attributes:
        groups: the photos of each.
        vectors: float32 [n, d].
        bad: (photo that cannot be read, reason).
        garments: which garment of its photo each is; empty where each is a whole photo.
    """

    groups: list[list[str]]
    vectors: np.ndarray
    bad: list[tuple[str, str]]
    garments: Sequence[Garment | None] = ()


# A query's photos, its Hits, and which garment of its photo it is.
_Pictured = tuple[Sequence[str], list[Hit], Garment | None]


def query(options: QueryOptions, photos: Sequence[str]) -> list[dict[str, Any]]:
    """Answers photos: a table on the screen, a contact sheet, JSON on request.

    The photos are read, embedded and answered a few at a time, and answers are printed as they
    come. A sheet that cannot be drawn is a note.

    Args:
        options: QueryOptions.
        photos: list of str, image files or their addresses (`https://...`).

    Returns:
        list of a dict for each query: `photos`, and `results`, dicts of `rank`, `score`, `item`,
        `category`, `domain`, `path` and `metadata`, and `confidence` where it is known; that of a
        photo which cannot be read says so as `error`. With a locator, `garment` has `box` (left,
        top, width and height in shares of the photo), `category` and `score`; it is None where none
        was found and the whole photo asks.

    Raises:
        FirError: no photo is given, the index does not fit the model, or, after the answers to
            the others, a photo cannot be read.
    """
    check_photos(photos, options.allow_private)
    options.check_fetching()
    box = read_box("--box", options.box)
    if box and len(photos) > 1:
        raise FirError(f"`box` is that of one photo. Received: {options.box} and {len(photos)}")
    _check_question(options)
    if options.sheet or options.explain or options.locator:
        quiet_tensorflow()
    answers: list[dict[str, Any]] = []
    pictured: list[_Pictured] = []
    bad: list[tuple[str, str]] = []
    with (
        Index(options.index, options.model, options.images, options.effort) as index,
        index.held() as generation,
        PhotoFiles(Path(), options) as files,
        tqdm(total=len(photos), desc="queries", unit="photo", disable=None, leave=False) as bar,
    ):
        # A refusal comes before the photos are read.
        generation.confident([], options.min_confidence)
        explainer = _explainer(generation) if options.explain else None
        where = _allowed(options, generation.engine)
        ask = functools.partial(_read_and_embed, generation.encoder, files, box=box)
        locate = None
        if options.locator:
            locator = open_locator(options.locator, generation.encoder.model)
            locate = functools.partial(_located, generation.encoder, files, locator)
        for asked in _asked(ask, photos, options.together, locate, bar):
            found = generation.search(asked.vectors, options.k, options.group, where, options)
            bad += asked.bad
            garments = asked.garments or [None] * len(asked.groups)
            for group, nearest, garment in zip(asked.groups, found, garments, strict=True):
                hits = generation.confident(nearest, options.min_confidence)
                results = [_result(rank, hit) for rank, hit in enumerate(hits, 1)]
                answers.append({"photos": group, "results": results})
                if locate:
                    answers[-1]["garment"] = garment and dataclasses.asdict(garment)
                if len(pictured) < _PICTURED:
                    pictured.append((group, hits, garment))
                if options.json != "-":
                    bar.write(_table(answers[-1], nearest))
            answers += [
                {"photos": [photo], "results": [], "error": reason} for photo, reason in asked.bad
            ]
            sys.stdout.flush()
        root = generation.root
    _write_json(answers, options)
    if options.sheet and pictured:
        _write_sheet(answers, pictured, root, options, explainer)
    if bad:
        lines = "\n".join(f"  {photo}: {reason}" for photo, reason in bad)
        raise FirError(f"{len(bad)} of {len(photos)} photos cannot be read:\n{lines}")
    return answers


def _asked(
    embed: Callable[[Sequence[str]], tuple[np.ndarray, dict[str, str]]],
    photos: Sequence[str],
    together: bool,
    locate: Callable[[Sequence[str]], _Asked] | None,
    bar: tqdm,
) -> Iterator[_Asked]:
    """Yields queries a few photos at a time."""
    vectors: list[np.ndarray] = []
    bad: dict[str, str] = {}
    for start in range(0, len(photos), _CHUNK):
        part = photos[start : start + _CHUNK]
        if locate:
            yield locate(part)
            bar.update(len(part))
            continue
        embedding, unread = embed(part)
        bar.update(len(part))
        if together:
            vectors.append(embedding)
            bad |= unread
        else:
            kept = [number for number, photo in enumerate(part) if photo not in unread]
            # A photo that is given twice is answered twice, a bad one too.
            lost = [(photo, unread[photo]) for photo in part if photo in unread]
            yield _Asked([[part[number]] for number in kept], embedding[kept], lost)
    if together and bad:
        lines = "; ".join(f"{photo}: {reason}" for photo, reason in bad.items())
        raise FirError(f"with --together every photo must be readable. Received: {lines}")
    if together:
        yield _Asked([list(photos)], mean_embedding(np.concatenate(vectors))[np.newaxis], [])


def _located(encoder: Encoder, files: PhotoFiles, locate: Locator, photos: Sequence[str]) -> _Asked:
    """Returns a query for each garment that is found in photos, or for a photo without any."""
    contents, _, unread = _contents(files, photos)
    groups: list[list[str]] = []
    garments: list[Garment | None] = []
    parts: list[bytes] = []
    for photo, content, found in zip(photos, contents, locate(contents), strict=True):
        try:
            picture = see(content).image if content else None
        except UnreadableImageError:
            picture = None
        if picture is None:
            unread.setdefault(photo, not_decoded())
            continue
        chosen: Sequence[Garment | None] = found or [None]
        for garment in chosen:
            groups.append([photo])
            garments.append(garment)
            parts.append(png(cut(picture, garment.box)) if garment else content)
    # As many at a time as there are photos otherwise.
    vectors = [
        encoder.encode(parts[start : start + _CHUNK]).embedding
        for start in range(0, len(parts), _CHUNK)
    ]
    embedding = np.concatenate([np.zeros((0, encoder.dimension), np.float32), *vectors])
    bad = [(photo, unread[photo]) for photo in photos if photo in unread]
    return _Asked(groups, embedding, bad, garments)


def _contents(
    files: PhotoFiles, photos: Sequence[str], box: Box | None = None
) -> tuple[list[bytes], Boxes | None, dict[str, str]]:
    """Returns the photos' contents, empty of what cannot be read, their boxes, and why that is."""
    contents, boxes, unread = [b""] * len(photos), no_boxes(len(photos)), dict[str, str]()
    with at_hand(files, photos, unread) as here:
        for row, (photo, file) in enumerate(zip(photos, here, strict=True)):
            if photo in unread:
                continue
            try:
                found = read(file)
                contents[row] = readable(found)
                if box:
                    boxes[row] = as_shares(found, box)
            except UnreadableImageError as error:
                unread[photo] = str(error)
    cut_to = (boxes, np.ones(len(photos), bool)) if box else None
    return contents, cut_to, unread


def _read_and_embed(
    encoder: Encoder, files: PhotoFiles, photos: Sequence[str], box: Box | None
) -> tuple[np.ndarray, dict[str, str]]:
    contents, boxes, unread = _contents(files, photos, box)
    encoded = encoder.encode(contents, boxes=boxes)
    for photo, valid in zip(photos, encoded.valid, strict=True):
        if not valid:
            unread.setdefault(photo, not_decoded())
    return encoded.embedding, unread


def _check_question(options: QueryOptions) -> None:
    """Refuses what the index by itself refuses, before its model is opened, which takes seconds.

    Other engines may take as long to open.
    """
    if not is_default(options.index):
        return
    with open_engine(options.index) as engine:
        info, where = engine.info(), _allowed(options, engine)
        if where is not None:
            check_columns(where, kinds_of(info))
        if options.min_confidence:
            address = shown(options.index)
            check_calibrated(calibration_of(info, address), address)


def _allowed(options: QueryOptions, engine: Engine) -> Condition | None:
    """Returns what may be found."""
    return combined(
        Filter(
            _categories(options.category, engine),
            (options.domain,) if options.domain else (),
        ),
        parse(options.where) if options.where.strip() else None,
    )


def _categories(text: str, engine: Engine) -> tuple[str, ...]:
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


def _result(rank: int, hit: Hit) -> dict[str, Any]:
    fields = ("item", "category", "domain", "path", "metadata")
    known = {} if hit.confidence is None else {"confidence": hit.confidence}
    return {
        "rank": rank,
        "score": hit.score,
        **known,
        **{name: getattr(hit.record, name) for name in fields},
    }


def _explainer(generation: Generation) -> "PhotoExplainer":
    from fir_tf.search.explained import explainer_of

    return explainer_of(generation)


def _draw_sheet(
    pictured: Sequence[_Pictured],
    root: Path,
    options: QueryOptions,
    explainer: "PhotoExplainer | None" = None,
) -> None:
    from fir_tf.evaluation.pictures import contact_sheet
    from fir_tf.search.explained import explained

    paths = [hit.record.path for _, hits, *_ in pictured for hit in hits]
    paths += [group[0] for group, *_ in pictured if is_address(group[0])]
    with PhotoFiles(root, options) as files, files.pictures(paths) as found:
        rows = [_sheet_row(*query, files=found) for query in pictured]
        if explainer:
            rows = explained(rows, explainer)
        contact_sheet(rows, options.sheet, f"Nearest in {shown(options.index)}")


def _sheet_row(
    group: Sequence[str],
    hits: list[Hit],
    garment: Garment | None = None,
    *,
    files: Mapping[str, Path],
) -> "SheetRow":
    from fir_tf.evaluation.pictures import SheetMatch, SheetRow

    matches = [
        SheetMatch(files[hit.record.path], hit.score, None, hit.record.item or hit.record.path)
        for hit in hits
    ]
    more = f" and {len(group) - 1} more" if len(group) > 1 else ""
    box = garment.box if garment else None
    photo = files[group[0]] if is_address(group[0]) else Path(group[0])
    return SheetRow(photo, Path(group[0]).name + more, matches, box)


def _table(answer: dict[str, Any], nearest: Sequence[Hit]) -> str:
    """Returns a query's answer as text; `nearest` is what was found, however sure it is."""
    lines = [", ".join(map(printable, answer["photos"]))]
    if answer.get("garment"):
        left, top, width, height = answer["garment"]["box"]
        lines[0] += (
            f": {printable(answer['garment']['category'] or 'a garment')} at "
            f"{left:.2f}, {top:.2f}, {width:.2f} x {height:.2f}"
        )
    if not nearest:
        lines.append("  nothing was found; is the filter too narrow?")
    elif not answer["results"]:
        lines.append(
            f"  nothing alike: the confidence of the nearest is {nearest[0].confidence:.2f}, "
            f"{printable(nearest[0].record.path)}"
        )
    for row in answer["results"]:
        sure = f"{100 * row['confidence']:3.0f} %  " if "confidence" in row else ""
        lines.append(
            f"{row['rank']:4d}  {row['score']:.4f}  {sure}{printable(row['item'] or '-'):30s}  "
            f"{printable(row['category'] or '-'):20s}  {printable(row['path'])}"
        )
        told = [str(row["metadata"][name]) for name in SHOWN if name in row["metadata"]]
        if told:
            lines.append(f"{'':14s}{printable('  '.join(told))}")
    return "\n".join(lines)


def _write_json(answers: list[dict[str, Any]], options: QueryOptions) -> None:
    if options.json == "-":
        print(json_text(answers), flush=True)
    elif options.json:
        write_json(options.json, answers)
        log.info(f"wrote {options.json}")


def _write_sheet(
    answers: list[dict[str, Any]],
    pictured: list[_Pictured],
    root: Path,
    options: QueryOptions,
    explainer: "PhotoExplainer | None",
) -> None:
    """Draws the sheet, which is only there to look at: what keeps it from it is a note."""
    if not root.is_dir():
        log.info(f"note: the photos are not in {root}: give their folder as --images")
    if sum("error" not in answer for answer in answers) > len(pictured):
        log.info(f"note: the sheet shows the first {len(pictured)} queries")
    if explainer and not explainer.exact:
        from fir_tf.explain import NOT_EXACT

        log.info(f"note: {NOT_EXACT}")
    written = draw_or_note(options.sheet, lambda: _draw_sheet(pictured, root, options, explainer))
    if written:
        log.info(f"wrote {options.sheet}")
