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
from fir_tf.search.index import Index
from fir_tf.search.photo_files import PhotoFiles
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
except ImportError as missing:
    raise FirError("the page needs pip install 'fir_tf[web]'") from missing

_MOST_RESULTS = 200
# Links to uploaded photos keep working until this many later uploads, or a restart.
_LINKS = 1000
# Of the pictures that the page shows: the longest side in pixels, and the quality as JPEGs.
_SIDE, _QUALITY = 480, 85
# Embedding uses all cores: more requests at a time only wait longer and take more memory.
_AT_A_TIME = 2
_LABELS_FOR_SECONDS = 30
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self' blob: data:; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_PAGE = Path(__file__).parent / "page.html"


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

    def info(self) -> dict[str, Any]:
        now = time.monotonic()
        if not self._labels or now - self._labels_at > _LABELS_FOR_SECONDS:
            self._labels, self._labels_at = self.index.engine.labels(), now
        return {
            "images": len(self.index.engine),
            "categories": [name for name in self._labels["category"] if name],
            "domains": [name for name in self._labels["domain"] if name],
            "columns": self.index.engine.info().get("columns", {}),
            "max_upload": self.max_upload,
        }

    def upload(self, contents: bytes) -> str:
        """Embeds a photo; returns the name it can be asked for by."""
        with self._turn:
            try:
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
    return HTTPException(415, "This is no photo that can be read: JPEG, PNG, GIF and BMP are.")


class _Endpoints:
    """What the page asks for."""

    def __init__(self, service: _Service) -> None:
        self._service = service

    async def page(self, request: Request) -> Response:
        return FileResponse(_PAGE, media_type="text/html")

    async def info(self, request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(self._service.info))

    async def upload(self, request: Request) -> Response:
        contents = await _body(request, self._service.max_upload)
        return JSONResponse({"photo": await run_in_threadpool(self._service.upload, contents)})

    async def search(self, request: Request) -> Response:
        values = request.query_params
        photo, like = values.get("photo", ""), values.get("like", "")
        if bool(photo) == bool(like):
            raise HTTPException(400, "Give one of photo and like.")
        where = combined(
            Filter(tuple(values.getlist("category")), tuple(values.getlist("domain"))),
            parse(values["where"]) if values.get("where", "").strip() else None,
        )
        group = values.get("group", "1") != "0"
        k = _whole("k", values.get("k", "24"))
        return JSONResponse(
            {"results": await run_in_threadpool(self._service.search, photo, like, k, where, group)}
        )

    async def image(self, request: Request) -> Response:
        values = request.query_params
        if "photo" in values:
            contents = self._service.uploaded(values["photo"]).picture
        else:
            contents = await run_in_threadpool(self._service.picture, values.get("path", ""))
        headers = {"Cache-Control": "private, max-age=300"}
        return Response(contents, media_type="image/jpeg", headers=headers)


def _refused(request: Request, error: Exception) -> Response:
    """Says what was wrong, as JSON."""
    status, text = 400, str(error)
    if isinstance(error, HTTPException):
        status, text = error.status_code, error.detail
    return JSONResponse({"error": text}, status, headers=_HEADERS)


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
            Route("/", endpoints.page),
            Route("/api/info", endpoints.info),
            Route("/api/photo", endpoints.upload, methods=["POST"]),
            Route("/api/search", endpoints.search),
            Route("/image", endpoints.image),
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


def _whole(name: str, text: str) -> int:
    number = int(text) if text.isdecimal() and len(text) < 10 else 0
    if not 1 <= number <= _MOST_RESULTS:
        raise HTTPException(400, f"{name} must be between 1 and {_MOST_RESULTS}.")
    return number


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
