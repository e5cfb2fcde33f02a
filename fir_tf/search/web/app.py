"""The page's server: a photo or an indexed image in, the nearest items out, as JSON."""

import asyncio
import contextlib
import time
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any, TypeVar

from fir_tf.errors import FirError
from fir_tf.locate import Locator
from fir_tf.options import FetchOptions
from fir_tf.search.conditions import Filter, combined
from fir_tf.search.index import Index
from fir_tf.search.photo_files import PhotoFiles
from fir_tf.search.where import parse
from fir_tf.search_options import ServiceOptions

try:
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.datastructures import MutableHeaders
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import FileResponse, JSONResponse, Response
    from starlette.routing import Route
    from starlette.types import Message, Receive, Scope, Send

    from fir_tf.search.web import api, told
    from fir_tf.search.web.access import AccessLog
    from fir_tf.search.web.doors import Doors
    from fir_tf.search.web.metrics import open_metrics
    from fir_tf.search.web.service import Service
except ImportError as missing:
    raise FirError("the page needs pip install 'fir_tf[web]'") from missing

_T = TypeVar("_T")

# A photo whose sender is slower is not waited for, in seconds.
_BODY_SECONDS = 60
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self' blob: data:; "
    "style-src 'self'; script-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_FILES = {"/": "page.html", "/page.css": "page.css", "/page.js": "page.js"}
_DESCRIPTION = "/api/openapi.json"
_WORK = {operation.path for operation in api.OPERATIONS.values() if operation.work}
_ROUTES = {*_FILES, _DESCRIPTION, *(operation.path for operation in api.OPERATIONS.values())}


class _Endpoints:
    """What the page asks for; requests are checked by their `api.Operation`."""

    def __init__(self, app: "App") -> None:
        self._app = app

    async def file(self, request: Request) -> Response:
        return FileResponse(Path(__file__).parent / _FILES[request.url.path])

    async def openapi(self, request: Request) -> Response:
        return JSONResponse(api.openapi())

    async def health(self, request: Request) -> Response:
        api.HEALTH.read(request.query_params)
        return JSONResponse({"status": "alive"})

    async def ready(self, request: Request) -> Response:
        api.READY.read(request.query_params)
        self._app.doors.check_open()
        return JSONResponse({"status": "ready"})

    async def metrics(self, request: Request) -> Response:
        api.METRICS.read(request.query_params)
        # It asks the index.
        page = await run_in_threadpool(self._app.metrics.page)
        if page is None:
            raise HTTPException(404, "Metrics need pip install 'fir_tf[metrics]'.")
        return Response(page[0], media_type=page[1])

    async def info(self, request: Request) -> Response:
        api.INFO.read(request.query_params)
        return JSONResponse(await self._app.service.info())

    async def photo(self, request: Request) -> Response:
        values = api.PHOTO.read(request.query_params)
        service = self._app.service
        contents = await _body(request, service.max_upload)
        work = service.upload(contents, values["garments"])
        name = await _unless_left(request, work)
        found = service.garments(name) if values["garments"] else []
        whole = values["garments"] and service.uploaded(name).whole
        return JSONResponse({"photo": name, "garments": found, "whole": whole})

    async def garments(self, request: Request) -> Response:
        values = api.GARMENTS.read(request.query_params)
        return JSONResponse({"garments": self._app.service.garments(values["photo"])})

    async def search(self, request: Request) -> Response:
        values = api.SEARCH.read(request.query_params)
        photo, like = _one_of(values)
        where = combined(
            Filter(tuple(values["category"]), tuple(values["domain"])),
            parse(values["where"]) if values["where"].strip() else None,
        )
        how = values["k"], where, values["group"], values["min_confidence"]
        work = self._app.service.search(photo, like, *how)
        found = await _unless_left(request, work)
        with told.stage("answer"):
            return JSONResponse({"results": found})

    async def explain(self, request: Request) -> Response:
        values = api.EXPLAIN.read(request.query_params)
        photo, like = _one_of(values)
        work = self._app.service.explain(photo, like, values["path"])
        found = await _unless_left(request, work)
        with told.stage("answer"):
            return JSONResponse(found)

    async def image(self, request: Request) -> Response:
        values = api.IMAGE.read(request.query_params)
        service = self._app.service
        if values["photo"]:
            contents = service.uploaded(values["photo"]).picture
        else:
            contents = await _unless_left(request, service.picture(values["path"]))
        headers = {"Cache-Control": "private, max-age=300"}
        return Response(contents, media_type=api.IMAGE.media, headers=headers)


def _one_of(values: Mapping[str, Any]) -> tuple[str, str]:
    """Returns what is asked with, (photo, like), one of them empty."""
    photo, like = values["photo"], values["like"]
    if bool(photo) == bool(like):
        raise HTTPException(400, "Give one of photo and like.")
    return photo, like


def _refused(request: Request, error: Exception) -> Response:
    """Says what was wrong, as JSON."""
    status, text, headers = 400, str(error), None
    if isinstance(error, HTTPException):
        status, text, headers = error.status_code, error.detail, error.headers
    return JSONResponse({"error": text}, status, headers=headers)


def _left(request: Request, error: Exception) -> Response:
    return Response(status_code=499)


class App:
    """The page's ASGI application; it says 503 until it is opened.

    Args:
        options: ServiceOptions.

    Attributes:
        doors: Doors, which let requests in.
        metrics: Metrics.
        service: Service, from `open` on.

    Raises:
        OSError: the access log cannot be written.
    """

    service: Service

    def __init__(self, options: ServiceOptions) -> None:
        self._options, self._log = options, AccessLog(options.access_log)
        self.doors = Doors(options.max_queue, options.max_per_client)
        self.metrics = open_metrics()
        for name, text, value in (
            ("fir_requests_under_way", "Requests let in.", lambda: self.doors.under_way),
            ("fir_ready", "1 where requests are let in.", lambda: not self.doors.closed),
        ):
            self.metrics.gauge(name, text, value)
        endpoints = _Endpoints(self)
        self._inner = Starlette(
            routes=[
                *(Route(path, endpoints.file) for path in _FILES),
                Route(_DESCRIPTION, endpoints.openapi),
                *(
                    Route(operation.path, getattr(endpoints, name), methods=[operation.method])
                    for name, operation in api.OPERATIONS.items()
                ),
            ],
            exception_handlers={
                HTTPException: _refused,
                FirError: _refused,
                ClientDisconnect: _left,
            },
        )

    def open(self, index: Index, files: PhotoFiles, locate: Locator | None = None) -> None:
        """Warms the model and lets requests in.

        Args:
            index: Index, opened.
            files: PhotoFiles, where the index's photos are had from.
            locate: Locator of the garments in uploaded photos; None finds none.
        """
        self.service = service = Service(index, self._options, files, self.metrics, locate)
        service.warm()
        self.metrics.watch(index)
        self.metrics.gauge(
            "fir_queue_length", "Photos that wait for the model.", lambda: service.waiting
        )
        self.doors.open()

    def close(self) -> None:
        """Ends its threads and closes the access log."""
        if hasattr(self, "service"):
            self.service.close()
        self._log.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, and tells of it."""
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        route, begin, status = _route(scope), time.perf_counter(), 0

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        with told.telling() as note:
            try:
                await self._let_in(scope, receive, noted)
            except asyncio.CancelledError:
                # The server does not wait for it any longer.
                if status:
                    raise
                answer = JSONResponse({"error": "The server has stopped."}, 503)
                await answer(scope, receive, noted)
            finally:
                seconds = time.perf_counter() - begin
                self.metrics.request(route, status or 500, seconds, note)
                self._log.write(route, status or 500, seconds, note)

    async def _let_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = scope["client"][0] if scope.get("client") else ""
        with contextlib.ExitStack() as stack:
            if _route(scope) in _WORK:
                try:
                    stack.enter_context(self.doors.place(client))
                except HTTPException as error:
                    await _refused(Request(scope), error)(scope, receive, send)
                    return
            await self._inner(scope, receive, send)


def make_app(
    index: Index,
    options: ServiceOptions | None = None,
    files: PhotoFiles | None = None,
    locate: Locator | None = None,
) -> App:
    """Returns the page's ASGI application.

    Args:
        index: Index, opened.
        options: ServiceOptions; the flags' defaults when not given.
        files: PhotoFiles, where the index's photos are had from; made where none is given.
        locate: Locator of the garments in uploaded photos; None finds none.
    """
    app = App(options or ServiceOptions())
    app.open(index, files or PhotoFiles(index.root, FetchOptions()), locate)
    return app


def _route(scope: Scope) -> str:
    """Returns a request's route; "other" for all that there are not."""
    return scope["path"] if scope["path"] in _ROUTES else "other"


async def _unless_left(request: Request, work: Coroutine[Any, Any, _T]) -> _T:
    """Returns what `work` returns; what of it has not begun is left out when the client goes away.

    Raises:
        ClientDisconnect: it has gone.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        task.cancel()
        gone.cancel()
        # A thread that is at it holds the request's place until it is done.
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _body(request: Request, largest: int) -> bytes:
    """Reads a request's body, but no more of it than is allowed, and not for ever."""
    try:
        return await asyncio.wait_for(_read(request, largest), _BODY_SECONDS)
    except asyncio.TimeoutError as error:
        raise HTTPException(
            408, f"The photo was not here after {_BODY_SECONDS} seconds."
        ) from error


async def _read(request: Request, largest: int) -> bytes:
    """Returns a request's body."""
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
