"""What the page's requests have done for them: photos embedded and kept, an index asked."""

import asyncio
import collections
import dataclasses
import functools
import io
import secrets
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, TypeVar

import anyio.to_thread
import numpy as np
from PIL import Image
from starlette.exceptions import HTTPException

from fir_tf.errors import FirError
from fir_tf.images.file import UnreadableImageError, read
from fir_tf.images.thumbnail import thumbnail
from fir_tf.locate import Garment, Locator
from fir_tf.search.asked_log import entry
from fir_tf.search.conditions import Condition
from fir_tf.search.engines import Engine, Hit
from fir_tf.search.generation import Generation
from fir_tf.search.index import Index
from fir_tf.search.opened import Encoded
from fir_tf.search.photo_files import PhotoFiles
from fir_tf.search.photos import formats, not_decoded, readable
from fir_tf.search.web import told
from fir_tf.search.web.batches import Batcher, Embedded
from fir_tf.search.web.garments import Finder, cut_out
from fir_tf.search.web.kept import KeptQueries, check_apart
from fir_tf.search.web.metrics import Metrics
from fir_tf.search.web.reasons import Reasons
from fir_tf.search_options import ServiceOptions

_T = TypeVar("_T")

# Links to uploaded photos keep working until this many later uploads, or a restart.
_LINKS = 1000
# Bytes of their contents, the newest ones', which a switch to another model needs.
_CONTENTS = 2**28
# Small pictures of the index's photos that are kept, of about 40 KB each.
_PICTURES = 1000
# Of the pictures that the page shows: the longest side in pixels, and the quality as JPEGs.
_SIDE, _QUALITY = 480, 85
# Decoding and searching use all cores: more at a time only wait longer and take more memory.
_AT_A_TIME = 2
# Pictures of photos at addresses wait for servers.
_PICTURES_AT_A_TIME = 8
_LABELS_FOR_SECONDS = 30
# The model is timed so often with one photo and with two. With oneDNN on processors without AVX-512
# two may take a quarter of the time that one takes: then one is embedded twice.
_WARMED, _FASTER = 3, 0.8
# Photos of an index that are drawn to judge scores by, among so many of its first ones.
_DRAWN, _DRAWN_FROM = 200, 100_000
_SAMPLES = 3


@dataclasses.dataclass(frozen=True)
class Upload:
    """A photo that was uploaded, or a garment in one.

    Attributes:
        generation: str, whose model embedded it.
        vector: float32 [d], its embedding.
        picture: bytes, a small JPEG of the photo.
        contents: bytes, to embed it again when the index has another model; empty where that was
            too long ago, and of a garment, which is cut from those of its photo.
        garment: Garment, None of a whole photo.
        garments: tuple of Upload, those that were found in it.
        whole: bool, whether the surest garment that was found is all of it.
    """

    generation: str
    vector: np.ndarray
    picture: bytes
    contents: bytes
    garment: Garment | None = None
    garments: tuple["Upload", ...] = ()
    whole: bool = False


class _Kept(Generic[_T]):
    """The values that were used last, by key; safe among threads.

    Args:
        most: int, how many.
        looked: callable of a bool, told of each look whether the value was there.
    """

    def __init__(self, most: int, looked: Callable[[bool], None]) -> None:
        self._most, self._looked = most, looked
        self._values: collections.OrderedDict[Hashable, _T] = collections.OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> _T | None:
        with self._lock:
            value = self._values.get(key)
            if value is not None:
                self._values.move_to_end(key)
        self._looked(value is not None)
        return value

    def put(self, key: Hashable, value: _T) -> None:
        with self._lock:
            self._values[key] = value
            self._values.move_to_end(key)
            while len(self._values) > self._most:
                self._values.popitem(last=False)


class _Uploads(_Kept[Upload]):
    """The uploads that were used last, the newest of them with their contents."""

    def put(self, key: Hashable, value: Upload) -> None:
        super().put(key, value)
        room = _CONTENTS
        with self._lock:
            for name, upload in reversed(self._values.items()):
                room -= len(upload.contents)
                if room < 0 and upload.contents:
                    self._values[name] = dataclasses.replace(upload, contents=b"")


class Service:
    """What the requests share. Its coroutines hand what blocks to threads.

    Args:
        index: Index, opened.
        options: ServiceOptions.
        files: PhotoFiles, where the index's photos are had from.
        metrics: Metrics.
        locate: Locator of the garments in uploaded photos; None finds none.

    Raises:
        FirError: uploaded photos are to be kept among those that are indexed.
    """

    def __init__(
        self,
        index: Index,
        options: ServiceOptions,
        files: PhotoFiles,
        metrics: Metrics,
        locate: Locator | None = None,
    ) -> None:
        self._finder, self._reasons = Finder(locate), Reasons(_SIDE, _QUALITY)
        self.index, self._files, self._metrics = index, files, metrics
        self.max_upload = options.max_upload_mb * 1_000_000
        self._most = options.max_batch
        self._uploads = _Uploads(_LINKS, functools.partial(metrics.cache, "uploads"))
        self._pictures: _Kept[bytes] = _Kept(
            _PICTURES, functools.partial(metrics.cache, "pictures")
        )
        self._turn = anyio.CapacityLimiter(_AT_A_TIME)
        self._picture_turn = anyio.CapacityLimiter(_PICTURES_AT_A_TIME)
        # Photos that the model of a generation is given at least.
        self._least: dict[str, int] = {}
        self._batches = Batcher(
            self._encode,
            options.max_batch,
            options.batch_wait_ms / 1e3,
            metrics.batch,
        )
        self._kept = _kept_queries(options.keep_queries, index) if options.keep_queries else None
        self._labels: dict[str, dict[str, int]] = {}
        self._labels_at = 0.0
        self._drawn: dict[str, dict[str, Any]] = {}

    @property
    def waiting(self) -> int:
        """How many photos wait for the model."""
        return self._batches.waiting

    def warm(self) -> None:
        """Embeds and searches once in each way, so that no request waits for what is made once.

        The same is done with each generation that the index comes to be switched to, beforehand.
        """
        with self.index.held() as generation:
            self._warm(generation)
        self.index.prepare_next(self._warm)

    def _warm(self, generation: Generation) -> None:
        try:
            encoder = generation.encoder
        except FirError:
            # It is asked with vectors alone.
            return
        photo = io.BytesIO()
        Image.new("RGB", (300, 200), "white").save(photo, "JPEG")
        contents, _ = _seen(photo.getvalue())
        seconds = {}
        for size in (1, 2):
            took = []
            for _ in range(_WARMED):
                begin = time.perf_counter()
                encoder.encode([contents] * size)
                took.append(time.perf_counter() - begin)
            seconds[size] = min(took)
        self._least[generation.name] = 2 if seconds[2] < _FASTER * seconds[1] else 1
        embedding = encoder.encode([contents] * self._most).embedding
        generation.search(embedding[:1], 1)
        self._finder.warm(contents)
        self._reasons.of(generation)

    def _encode(self, photos: Sequence[bytes]) -> tuple[Encoded, str]:
        """Embeds a batch with the model of this moment; returns whose it is."""
        with self.index.held() as generation:
            return self._encode_by(generation, photos), generation.name

    def _encode_by(self, generation: Generation, photos: Sequence[bytes]) -> Encoded:
        """Embeds photos; a photo given twice has two rows."""
        if len(photos) < self._least.get(generation.name, 1):
            photos = [*photos, *photos]
        return generation.encoder.encode(photos)

    def close(self) -> None:
        """Ends the thread that embeds."""
        self._batches.close()

    async def info(self) -> dict[str, Any]:
        """Returns what the index holds and what a photo may be, see `api.INFO`."""
        return await self._in_thread(self._info)

    def _info(self) -> dict[str, Any]:
        now = time.monotonic()
        with self.index.held() as index:
            same = index.name in self._drawn
            fresh = same and now - self._labels_at <= _LABELS_FOR_SECONDS
            self._metrics.cache("labels", fresh)
            if not fresh:
                self._labels, self._labels_at = index.engine.labels(), now
            if not same:
                self._drawn = {index.name: drawn(index.engine)}
            return {
                "images": len(index.engine),
                "categories": [name for name in self._labels["category"] if name],
                "domains": [name for name in self._labels["domain"] if name],
                "columns": index.engine.info().get("columns", {}),
                "explains": self._reasons.of(index) is not None,
                **self._drawn[index.name],
                "formats": formats(),
                "max_upload": self.max_upload,
            }

    async def upload(self, contents: bytes, garments: bool = False) -> str:
        """Embeds a photo, and its garments on request; returns the name it can be asked for by.

        Raises:
            HTTPException: 413 or 415, it cannot be read.
        """
        contents, picture = await self._in_thread(_seen, contents)
        found, all_of_it = await self._finder.find(contents) if garments else ([], False)
        whole, *others = await self._embedded([contents, *(part for _, part in found)])
        if self._kept:
            await self._in_thread(self._kept.keep, contents)
        parts = tuple(
            Upload(other.generation, other.vector, picture, b"", garment)
            for (garment, _), other in zip(found, others, strict=True)
        )
        name = secrets.token_urlsafe(12)
        upload = Upload(
            whole.generation, whole.vector, picture, contents, garments=parts, whole=all_of_it
        )
        self._uploads.put(name, upload)
        return name

    async def _embedded(self, photos: Sequence[bytes]) -> list[Embedded]:
        # Cancelled here, what has not begun is not embedded.
        found = await asyncio.gather(
            *(asyncio.wrap_future(self._batches.submit(photo)) for photo in photos)
        )
        last = max(found, key=lambda one: one.waited + one.took)
        told.current().add("queue", last.waited)
        told.current().add("embed", last.took)
        if not all(one.valid for one in found):
            raise _refusal(UnreadableImageError("unreadable", ""))
        return found

    def uploaded(self, name: str) -> Upload:
        """Returns an uploaded photo, or a garment of it: its name, a dot and its number from 1.

        Raises:
            HTTPException: 404, it is not kept any more.
        """
        whole, dot, number = name.partition(".")
        upload = self._uploads.get(whole)
        if upload and dot:
            parts = {str(place): part for place, part in enumerate(upload.garments, 1)}
            upload = parts.get(number)
        if upload is None:
            raise HTTPException(404, "This photo is no longer kept here. Upload it again.")
        return upload

    def garments(self, name: str) -> list[dict[str, Any]]:
        """Returns the garments that were found in an uploaded photo, see `api.GARMENTS`.

        Raises:
            HTTPException: 404, it is not kept any more.
        """
        return [
            {"photo": f"{name}.{number}", **dataclasses.asdict(part.garment)}
            for number, part in enumerate(self.uploaded(name).garments, 1)
            if part.garment
        ]

    async def search(
        self, photo: str, like: str, k: int, where: Condition | None, group: bool, least: float
    ) -> list[dict[str, Any]]:
        """Returns the results for an uploaded or an indexed photo, see `api.SEARCH`.

        Raises:
            HTTPException: 404, there is no such photo.
            FirError: `least`, a confidence, is asked of an index that knows of none.
        """
        upload = self.uploaded(photo) if photo else None
        return await self._in_thread(self._search, photo, upload, like, k, where, group, least)

    def _search(
        self,
        photo: str,
        upload: Upload | None,
        like: str,
        k: int,
        where: Condition | None,
        group: bool,
        least: float,
    ) -> list[dict[str, Any]]:
        with self.index.held() as generation:
            if upload and upload.generation != generation.name:
                upload = self._embedded_again(generation, photo, upload)
            with told.stage("search"):
                vector = upload.vector if upload else generation.engine.vector(like)
                if vector is None:
                    raise HTTPException(404, "This image is not in the index any more.")
                found = generation.search(vector[np.newaxis], k, group, where)[0]
                hits = generation.confident(found, least)
            note = told.current()
            if upload:
                note.query = entry(generation, vector, found, where is not None)
        note.k, note.results = k, len(hits)
        note.top_score = round(hits[0].score, 4) if hits else None
        return [_result(hit) for hit in hits]

    def _embedded_again(self, generation: Generation, name: str, upload: Upload) -> Upload:
        """Embeds an uploaded photo, or a garment of it, by the model of another generation."""
        contents = self._contents(name, upload)
        with told.stage("embed"):
            found = self._encode_by(generation, [contents])
        if not found.valid[0]:
            raise _refusal(UnreadableImageError("unreadable", ""))
        again = dataclasses.replace(upload, generation=generation.name, vector=found.embedding[0])
        if not upload.garment:
            self._uploads.put(name, again)
        return again

    def _contents(self, name: str, upload: Upload) -> bytes:
        """Returns what is embedded of an uploaded photo, or of a garment of it.

        Raises:
            HTTPException: 404, it is not kept any more.
        """
        contents = upload.contents
        if upload.garment:
            photo = self._uploads.get(name.partition(".")[0])
            contents = photo.contents if photo else b""
            contents = contents and cut_out(contents, upload.garment)
        if not contents:
            raise HTTPException(404, "This photo is no longer kept here. Upload it again.")
        return contents

    async def explain(self, photo: str, like: str, path: str) -> dict[str, Any]:
        """Returns what the score of an uploaded or an indexed photo and a result comes from.

        Raises:
            HTTPException: 404, see `api.EXPLAIN`.
        """
        upload = self.uploaded(photo) if photo else None
        return await self._in_thread(self._explained, photo, upload, like, path)

    def _explained(self, photo: str, upload: Upload | None, like: str, path: str) -> dict[str, Any]:
        paths = [path] if upload else [path, like]
        with self.index.held() as generation:
            explain = self._reasons.of(generation)
            if explain is None:
                raise HTTPException(404, "Scores of this index cannot be explained.")
            if len(generation.engine.fetch(paths)) < len(set(paths)):
                raise HTTPException(404, "This image is not in the index any more.")
            uploaded = [self._contents(photo, upload)] if upload else []
            try:
                with self._files.pictures(paths) as files, told.stage("decode"):
                    stored = [readable(read(files[name])) for name in paths]
                match, query = stored + uploaded
                with told.stage("explain"):
                    found = self._reasons.tell(explain, query, match)
            except UnreadableImageError:
                found = None
        if found is None:
            raise HTTPException(404, "This image's file cannot be read.")
        return found

    async def picture(self, path: str) -> bytes:
        """Returns a small JPEG of a photo of the index.

        Raises:
            HTTPException: 404, there is none, or its file cannot be read.
        """
        return await anyio.to_thread.run_sync(self._picture, path, limiter=self._picture_turn)

    def _picture(self, path: str) -> bytes:
        # Only what the index names, so a path cannot lead anywhere else.
        with self.index.held() as generation:
            found = generation.engine.fetch([path])
        if not found:
            raise HTTPException(404, "This image is not in the index.")
        record = found[0][0]
        key = (record.path, record.checksum)
        # Without a checksum nobody would know that the photo is another one by now.
        small = self._pictures.get(key) if record.checksum else None
        if small is None:
            try:
                with told.stage("picture"), self._files.pictures([record.path]) as files:
                    small = thumbnail(files[record.path], _SIDE).jpeg(quality=_QUALITY)
            except UnreadableImageError as error:
                raise HTTPException(404, "This image's file cannot be read.") from error
            if record.checksum:
                self._pictures.put(key, small)
        return small

    async def _in_thread(self, function: Callable[..., _T], *arguments: Any) -> _T:
        return await anyio.to_thread.run_sync(function, *arguments, limiter=self._turn)


def _kept_queries(place: str, index: Index) -> KeptQueries:
    with index.held() as generation:
        check_apart(place, generation.engine.info())
    return KeptQueries(place)


def _result(hit: Hit) -> dict[str, Any]:
    """Returns a result as `api.SEARCH` has it."""
    known = {} if hit.confidence is None else {"confidence": round(hit.confidence, 4)}
    return {
        "score": round(hit.score, 4),
        **known,
        "path": hit.record.path,
        "item": hit.record.item,
        "category": hit.record.category,
        "domain": hit.record.domain,
        "metadata": hit.record.metadata,
    }


def _seen(contents: bytes) -> tuple[bytes, bytes]:
    """Returns (a photo as the model reads it, a small JPEG of it).

    Raises:
        HTTPException: 413 or 415, it cannot be read.
    """
    try:
        with told.stage("decode"):
            contents = readable(contents)
        with told.stage("picture"):
            return contents, thumbnail(contents, _SIDE).jpeg(quality=_QUALITY)
    except UnreadableImageError as error:
        raise _refusal(error) from error


def _refusal(error: UnreadableImageError) -> HTTPException:
    """Returns the HTTPException of a photo that cannot be read, an UnreadableImageError."""
    if error.kind == "too_large":
        return HTTPException(413, f"The photo is too large: {error.reason}.")
    return HTTPException(415, f"This photo {not_decoded()}.")


def drawn(engine: Engine) -> dict[str, Any]:
    """Draws photos of an index at random: `samples` to try, `chance` to judge scores by.

    `chance` is the score that one in a hundred pairs of photos of different items reaches.
    """
    paths: list[str] = []
    for part, _ in engine.scan():
        paths += [record.path for record in part]
        if len(paths) >= _DRAWN_FROM:
            break
    order = np.random.default_rng(0).permutation(len(paths))[:_DRAWN]
    found = engine.fetch([paths[place] for place in order])
    by_category = {record.category: record.path for record, _ in found}
    samples = list(dict.fromkeys([*by_category.values(), *(record.path for record, _ in found)]))
    items = np.array([record.item or record.path for record, _ in found])
    vectors = np.array([vector for _, vector in found])
    other = np.triu(items[:, np.newaxis] != items, 1)
    scores = (vectors @ vectors.T)[other] if len(found) else np.empty(0)
    return {
        "samples": samples[:_SAMPLES],
        "chance": round(float(np.quantile(scores, 0.99)), 4) if len(scores) >= 100 else None,
    }
