"""The page's server: a photo or an indexed image in, the nearest items out, as JSON."""

import collections
import contextlib
import dataclasses
import logging
import secrets
import socket
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from fir_tf.errors import FirError
from fir_tf.images.file import UnreadableImageError
from fir_tf.images.thumbnail import thumbnail
from fir_tf.options import FetchOptions
from fir_tf.search.conditions import Condition, Filter, combined
from fir_tf.search.engines import Engine
from fir_tf.search.index import Index
from fir_tf.search.photo_files import PhotoFiles
from fir_tf.search.photos import formats, not_decoded, readable
from fir_tf.search.where import parse
from fir_tf.search_options import WebOptions

log = logging.getLogger(__package__)

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.datastructures import MutableHeaders
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import FileResponse, JSONResponse, Response
    from starlette.routing import Route
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from fir_tf.search.web import api
except ImportError as missing:
    raise FirError("the page needs pip install 'fir_tf[web]'") from missing

# Links to uploaded photos keep working until this many later uploads, or a restart.
_LINKS = 1000
# Of the pictures that the page shows: the longest side in pixels, and the quality as JPEGs.
_SIDE, _QUALITY = 480, 85
# Embedding uses all cores: more requests at a time only wait longer and take more memory.
_AT_A_TIME = 2
_LABELS_FOR_SECONDS = 30
# Photos of an index that are drawn to judge scores by, among so many of its first ones.
_DRAWN, _DRAWN_FROM = 200, 100_000
_SAMPLES = 3
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self' blob: data:; "
    "style-src 'self'; script-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_FILES = {"/": "page.html", "/page.css": "page.css", "/page.js": "page.js"}


@dataclasses.dataclass(frozen=True)
class _Upload:
    vector: np.ndarray
    picture: bytes


class _Service:
    """What the requests share. Its methods block and run in threads."""

    def __init__(self, index: Index, max_upload: int, files: PhotoFiles) -> None:
        self.index, self.max_upload, self._files = index, max_upload, files
        self._uploads: collections.OrderedDict[str, _Upload] = collections.OrderedDict()
        self._lock = threading.Lock()
        self._turn = threading.BoundedSemaphore(_AT_A_TIME)
        self._labels: dict[str, dict[str, int]] = {}
        self._labels_at = 0.0
        self._drawn: dict[str, Any] = {}

    def info(self) -> dict[str, Any]:
        now = time.monotonic()
        if not self._labels or now - self._labels_at > _LABELS_FOR_SECONDS:
            self._labels, self._labels_at = self.index.engine.labels(), now
            self._drawn = self._drawn or _drawn(self.index.engine)
        return {
            "images": len(self.index.engine),
            "categories": [name for name in self._labels["category"] if name],
            "domains": [name for name in self._labels["domain"] if name],
            "columns": self.index.engine.info().get("columns", {}),
            **self._drawn,
            "formats": formats(),
            "max_upload": self.max_upload,
        }

    def upload(self, contents: bytes) -> str:
        """Embeds a photo; returns the name it can be asked for by."""
        with self._turn:
            try:
                contents = readable(contents)
                picture = thumbnail(contents, _SIDE).jpeg(quality=_QUALITY)
            except UnreadableImageError as error:
                raise _refusal(error) from error
            encoded = self.index.encoder.encode([contents])
        if not encoded.valid[0]:
            raise _refusal(UnreadableImageError("unreadable", ""))
        name = secrets.token_urlsafe(12)
        with self._lock:
            self._uploads[name] = _Upload(encoded.embedding[0], picture)
            while len(self._uploads) > _LINKS:
                self._uploads.popitem(last=False)
        return name

    def uploaded(self, name: str) -> _Upload:
        with self._lock:
            upload = self._uploads.get(name)
        if upload is None:
            raise HTTPException(404, "This photo is no longer kept here. Upload it again.")
        return upload

    def search(
        self, photo: str, like: str, k: int, where: Condition | None, group: bool
    ) -> list[dict[str, Any]]:
        vector = self.uploaded(photo).vector if photo else self.index.engine.vector(like)
        if vector is None:
            raise HTTPException(404, "This image is not in the index any more.")
        with self._turn:
            hits = self.index.search(vector[np.newaxis], k, group, where)[0]
        return [
            {
                "score": round(hit.score, 4),
                "path": hit.record.path,
                "item": hit.record.item,
                "category": hit.record.category,
                "domain": hit.record.domain,
                "metadata": hit.record.metadata,
            }
            for hit in hits
        ]

    def picture(self, path: str) -> bytes:
        # Only what the index names, so a path cannot lead anywhere else.
        found = self.index.engine.fetch([path])
        if not found:
            raise HTTPException(404, "This image is not in the index.")
        stored = found[0][0].path
        try:
            with self._files.pictures([stored]) as files:
                return thumbnail(files[stored], _SIDE).jpeg(quality=_QUALITY)
        except UnreadableImageError as error:
            raise HTTPException(404, "This image's file cannot be read.") from error


def _refusal(error: UnreadableImageError) -> HTTPException:
    """Returns the HTTPException of a photo that cannot be read, an UnreadableImageError."""
    if error.kind == "too_large":
        return HTTPException(413, f"The photo is too large: {error.reason}.")
    return HTTPException(415, f"This photo {not_decoded()}.")


def _drawn(engine: Engine) -> dict[str, Any]:
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


class _Endpoints:
    """What the page asks for; requests are checked by their `api.Operation`."""

    def __init__(self, service: _Service) -> None:
        self._service = service

    async def file(self, request: Request) -> Response:
        return FileResponse(Path(__file__).parent / _FILES[request.url.path])

    async def openapi(self, request: Request) -> Response:
        return JSONResponse(api.openapi())

    async def info(self, request: Request) -> Response:
        api.INFO.read(request.query_params)
        return JSONResponse(await run_in_threadpool(self._service.info))

    async def photo(self, request: Request) -> Response:
        api.PHOTO.read(request.query_params)
        contents = await _body(request, self._service.max_upload)
        return JSONResponse({"photo": await run_in_threadpool(self._service.upload, contents)})

    async def search(self, request: Request) -> Response:
        values = api.SEARCH.read(request.query_params)
        photo, like = values["photo"], values["like"]
        if bool(photo) == bool(like):
            raise HTTPException(400, "Give one of photo and like.")
        where = combined(
            Filter(tuple(values["category"]), tuple(values["domain"])),
            parse(values["where"]) if values["where"].strip() else None,
        )
        found = await run_in_threadpool(
            self._service.search, photo, like, values["k"], where, values["group"]
        )
        return JSONResponse({"results": found})

    async def image(self, request: Request) -> Response:
        values = api.IMAGE.read(request.query_params)
        if values["photo"]:
            contents = self._service.uploaded(values["photo"]).picture
        else:
            contents = await run_in_threadpool(self._service.picture, values["path"])
        headers = {"Cache-Control": "private, max-age=300"}
        return Response(contents, media_type=api.IMAGE.media, headers=headers)


def _refused(request: Request, error: Exception) -> Response:
    """Says what was wrong, as JSON."""
    status, text, headers = 400, str(error), None
    if isinstance(error, HTTPException):
        status, text, headers = error.status_code, error.detail, error.headers
    return JSONResponse({"error": text}, status, headers=headers)


def _left(request: Request, error: Exception) -> Response:
    return Response(status_code=499)


def make_app(index: Index, max_upload_mb: int = 20, files: PhotoFiles | None = None) -> ASGIApp:
    """Returns the page's ASGI application.

    Args:
        index: Index, opened.
        max_upload_mb: int, largest photo that is taken, in megabytes.
        files: PhotoFiles, where the index's photos are had from; made where none is given.
    """
    files = files or PhotoFiles(index.root, FetchOptions())
    endpoints = _Endpoints(_Service(index, max_upload_mb * 1_000_000, files))
    app = Starlette(
        routes=[
            *(Route(path, endpoints.file) for path in _FILES),
            Route("/api/openapi.json", endpoints.openapi),
            *(
                Route(operation.path, getattr(endpoints, name), methods=[operation.method])
                for name, operation in api.OPERATIONS.items()
            ),
        ],
        exception_handlers={HTTPException: _refused, FirError: _refused, ClientDisconnect: _left},
    )
    return _WithHeaders(app)


class _WithHeaders:
    """Adds the headers that keep the page to itself to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, with_headers)


async def _body(request: Request, largest: int) -> bytes:
    """Reads a request's body, but no more of it than is allowed."""
    message = f"The photo is larger than {largest // 1_000_000} MB."
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > largest:
        raise HTTPException(413, message)
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > largest:
            raise HTTPException(413, message)
        parts.append(part)
    if not size:
        raise HTTPException(400, "The photo is empty.")
    return b"".join(parts)


def serve(options: WebOptions) -> None:
    """Serves the page until it is stopped.

    Args:
        options: WebOptions.

    Raises:
        FirError: the index cannot be opened, or the port is taken.
    """
    with (
        Index(options.index, options.model, options.images, options.effort) as index,
        PhotoFiles(index.root, options) as files,
        contextlib.closing(socket.socket()) as listener,
    ):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((options.host, options.port))
        except OSError as error:
            raise FirError(
                f"`port` must be free at {options.host}. Received: {options.port} ({error})"
            ) from error
        host = "127.0.0.1" if options.host == "0.0.0.0" else options.host
        log.info(f"http://{host}:{listener.getsockname()[1]}/  (Ctrl+C stops it)")
        config = uvicorn.Config(
            make_app(index, options.max_upload_mb, files),
            log_level="warning",
            limit_concurrency=256,
        )
        uvicorn.Server(config).run(sockets=[listener])
