"""The page's process: it listens at once, opens the index meanwhile, and stops when it is told."""

import contextlib
import logging
import os
import sys
import threading
import time
from types import FrameType

from fir_tf.errors import FirError
from fir_tf.search.early import listening
from fir_tf.search.index import Index
from fir_tf.search.photo_files import PhotoFiles
from fir_tf.search.web.app import App
from fir_tf.search.web.garments import opened_locator
from fir_tf.search_options import WebOptions

try:
    import uvicorn
except ImportError as missing:
    raise FirError("the page needs pip install 'fir_tf[web]'") from missing

log = logging.getLogger(__package__)

# Open connections, many of which wait for nothing; more are refused without a word of ours.
_CONNECTIONS = 1024
# What a cut-off request's thread may still take before the process ends all the same, in seconds.
_GRACE = 5


class _Server(uvicorn.Server):
    """Refuses what comes after a signal, and ends when what came before is answered."""

    def __init__(self, app: App, seconds: float) -> None:
        config = uvicorn.Config(
            app,
            log_level="warning",
            limit_concurrency=_CONNECTIONS,
            # When it begins, answers are out or are not waited for any more.
            timeout_graceful_shutdown=1,
        )
        super().__init__(config)
        self._doors, self._seconds = app.doors, seconds
        self._until: float | None = None
        self._last = threading.Timer(seconds + _GRACE, _end, [seconds])
        self._last.daemon = True
        self.cut_off = 0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begins to stop; at a second signal what is under way is not waited for."""
        again = self._until is not None
        self._doors.close()
        self._until = time.monotonic() + (0 if again else self._seconds)
        if not again:
            self._last.start()

    async def on_tick(self, counter: int) -> bool:
        """Returns whether to end now; asked ten times a second."""
        if await super().on_tick(counter):
            return True
        if self._until is None:
            return False
        late = time.monotonic() >= self._until
        self.cut_off = self._doors.under_way if late else 0
        return late or not self._doors.under_way

    def ended(self) -> None:
        """Tells that all has come to its end in time."""
        self._last.cancel()


def _end(seconds: float) -> None:
    print(f"error: {_cut_off('requests', seconds)}", file=sys.stderr, flush=True)
    os._exit(1)


def _cut_off(what: str, seconds: float) -> str:
    return (
        f"{what} under way were cut off, for they took longer than `stop_seconds`. "
        f"Received: {seconds:g}"
    )


class _Opening(threading.Thread):
    """Opens index and model beside the server, which says meanwhile that it is not ready."""

    def __init__(self, options: WebOptions, app: App, server: _Server, address: str) -> None:
        super().__init__(name="opening")
        self._options, self._app, self._server = options, app, server
        self._address = address
        self._stack = contextlib.ExitStack()
        self.error: BaseException | None = None

    def run(self) -> None:
        """Opens; what goes wrong ends the server."""
        options = self._options
        try:
            index = self._stack.enter_context(
                Index(options.index, options.model, options.images, options.effort)
            )
            files = self._stack.enter_context(PhotoFiles(index.root, options))
            self._app.open(index, files, opened_locator(options.locator, index))
            log.info(f"{self._address}  (Ctrl+C stops it)")
        # Told by the main thread.
        except BaseException as error:
            self.error = error
            self._server.should_exit = True

    def close(self) -> None:
        """Closes what was opened."""
        self.join()
        self._app.close()
        self._stack.close()


def serve(options: WebOptions) -> None:
    """Serves the page until it is stopped.

    Args:
        options: WebOptions.

    Raises:
        FirError: the index cannot be opened, the port is taken, or requests were not finished when
            the server had to end.
    """
    with listening(options.host, options.port) as listener:
        app = App(options)
        server = _Server(app, options.stop_seconds)
        host = "127.0.0.1" if options.host == "0.0.0.0" else options.host
        address = f"http://{host}:{listener.getsockname()[1]}/"
        opening = _Opening(options, app, server, address)
        with contextlib.closing(opening):
            opening.start()
            server.run(sockets=[listener])
        server.ended()
        if opening.error:
            raise opening.error
    if server.cut_off:
        raise FirError(_cut_off(f"{server.cut_off} requests", options.stop_seconds))
