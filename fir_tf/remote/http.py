"""Photos from web servers, by urllib3."""

import collections
import contextlib
import dataclasses
import http
import socket
import time
from collections.abc import Iterator
from typing import Any, BinaryIO
from urllib.parse import urljoin

from urllib3 import BaseHTTPResponse, HTTPConnectionPool, HTTPSConnectionPool, PoolManager, Timeout
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import (
    ConnectTimeoutError,
    EmptyPoolError,
    HTTPError,
    LocationValueError,
    MaxRetryError,
    NameResolutionError,
    NewConnectionError,
    ReadTimeoutError,
    SSLError,
)
from urllib3.util.retry import Retry

from fir_tf import __version__
from fir_tf.remote.fetch import TIMEOUT, FetchError, Limits, Validators
from fir_tf.remote.guard import Guard

USER_AGENT = f"fir_tf/{__version__} (+https://pypi.org/project/fir_tf/)"
"""str, by which servers know us."""

# Seconds: to connect; without a byte; the first pause; the longest that a server may ask for.
CONNECT_SECONDS, READ_SECONDS, BACKOFF_SECONDS, PAUSE_MAX = 10.0, 20.0, 0.5, 30.0
RETRIES, REDIRECTS = 4, 5
# A host that so many photos in a row cannot be had from is not asked for so many seconds.
GIVE_UP, GIVEN_UP_SECONDS = 20, 300.0

_KINDS: dict[str, tuple[type[HTTPError], ...]] = {
    "unknown host": (NameResolutionError,),
    "no connection": (NewConnectionError,),
    # To urllib3 the two above are of the first of these.
    TIMEOUT: (ConnectTimeoutError, ReadTimeoutError, EmptyPoolError),
}
_OTHER = "broken off"
_AGAIN = frozenset({429, 500, 502, 503, 504})
_PIECE = 65536
# Types of text, in whose middle a photo cannot be.
_TEXTS = ("text/", "html", "json", "xml", "javascript")


class _Again(FetchError):
    """What may be otherwise when it is asked for again; `response` where there was one."""

    def __init__(
        self, kind: str, reason: str = "", response: BaseHTTPResponse | None = None
    ) -> None:
        super().__init__(kind, reason)
        self.response = response


@dataclasses.dataclass
class _Host:
    """How a host has answered lately: when it may be asked again, and photos lost in a row."""

    rests_until: float = 0.0
    lost: int = 0
    lost_at: float = 0.0
    last: str = ""


class HttpFetcher:
    """Fetches photos from web servers; see `fir_tf.remote.fetch.Fetcher`.

    urllib3's Retry counts the attempts and knows the pauses. The loop is ours, because an answer
    may break off in its body, a pause ends when the fetcher is closed, and a host that asks for
    one gets it from all threads.

    Args:
        limits: Limits.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._guard = Guard(limits.allow_private)
        self._pools = _pool_manager(limits, self._guard)
        self._hosts: collections.defaultdict[str, _Host] = collections.defaultdict(_Host)

    def fetch(self, address: str, known: Validators | None, file: BinaryIO) -> Validators | None:
        """See `Fetcher`."""
        host = self._hosts[host_of(address)]
        if host.lost >= GIVE_UP and time.monotonic() - host.lost_at < GIVEN_UP_SECONDS:
            raise FetchError("host given up", f"{host.lost} photos in a row before it: {host.last}")
        try:
            found = self._patiently(host, address, known, file)
        except FetchError as error:
            lost = isinstance(error, _Again) or error.kind == TIMEOUT
            host.lost, host.last = (host.lost + 1, str(error)) if lost else (0, "")
            host.lost_at = time.monotonic()
            raise
        host.lost = 0
        return found

    def close(self) -> None:
        """See `Fetcher`."""
        self._guard.stop()
        self._pools.clear()

    def _patiently(
        self, host: _Host, address: str, known: Validators | None, file: BinaryIO
    ) -> Validators | None:
        """Asks until there is an answer that stays."""
        retry = Retry(RETRIES, backoff_factor=BACKOFF_SECONDS, backoff_max=PAUSE_MAX)
        left = self._limits.seconds
        while True:
            self._rest(host)
            start = time.monotonic()
            try:
                with self._guard.transfer(left), _in_our_words():
                    return self._once(address, known, file, left)
            except _Again as error:
                left -= time.monotonic() - start
                if left <= 0:
                    raise
                retry = _counted(retry, address, error)
                pause = min(_asked_for(retry, error), PAUSE_MAX)
                # Another thread may have been told of a longer one.
                host.rests_until = max(host.rests_until, time.monotonic() + pause)
            # Retry's own first pause is none.
            self._guard.stopped.wait(max(BACKOFF_SECONDS, retry.get_backoff_time()))

    def _rest(self, host: _Host) -> None:
        """Waits until a host may be asked again."""
        while (left := host.rests_until - time.monotonic()) > 0:
            if self._guard.stopped.wait(left):
                return

    def _once(
        self, address: str, known: Validators | None, file: BinaryIO, left: float
    ) -> Validators | None:
        """Asks once, and where that leads to."""
        for _ in range(REDIRECTS + 1):
            response = self._pools.urlopen(
                "GET",
                address,
                redirect=False,
                retries=False,
                headers=self._headers(known),
                preload_content=False,
                decode_content=False,
                timeout=Timeout(connect=min(CONNECT_SECONDS, left), read=min(READ_SECONDS, left)),
                pool_timeout=left,
            )
            with _given_back(response):
                target = response.get_redirect_location()
                if not target:
                    return self._taken(response, known, file)
                response.read(_PIECE, decode_content=False)
            address = urljoin(address, target)
            if not address.lower().startswith(("http://", "https://")):
                raise FetchError("scheme not allowed", f"it leads to {address:.200}")
        raise FetchError("redirects", f"more than {REDIRECTS} of them, the last to {address:.200}")

    def _headers(self, known: Validators | None) -> dict[str, str]:
        headers = {
            "User-Agent": self._limits.user_agent or USER_AGENT,
            "Accept": "image/*,*/*;q=0.5",
            # A photo is packed already, and an answer that unpacks to gigabytes is not wanted.
            "Accept-Encoding": "identity",
        }
        if known and known.etag:
            headers["If-None-Match"] = known.etag
        if known and known.modified:
            headers["If-Modified-Since"] = known.modified
        return headers

    def _taken(
        self, response: BaseHTTPResponse, known: Validators | None, file: BinaryIO
    ) -> Validators | None:
        """Writes an answer's body to a file, unless it says that nothing has changed."""
        if response.status == 304 and known:
            response.read(_PIECE, decode_content=False)
            return None
        if response.status in _AGAIN:
            response.read(_PIECE, decode_content=False)
            raise _Again(_phrase(response.status), response=response)
        if response.status != 200:
            raise FetchError(_phrase(response.status))
        most = self._limits.most_bytes
        _check_headers(response, most)
        file.seek(0)
        file.truncate()
        size = 0
        for piece in response.stream(_PIECE, decode_content=False):
            if not size and piece.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"<", b"{"):
                raise FetchError("not a photo", f"it begins as text: {piece[:40]!r}")
            size += len(piece)
            if size > most:
                raise FetchError("too large", f"more than the {most:,} bytes that are read")
            file.write(piece)
        if not size:
            raise FetchError("empty", "the server sent no bytes")
        headers = response.headers
        return Validators(headers.get("ETag", ""), headers.get("Last-Modified", ""))


def _counted(retry: Retry, address: str, error: _Again) -> Retry:
    """Returns the Retry after one more attempt; raises `error` where that was the last."""
    try:
        return retry.increment("GET", address, error.response, None if error.response else error)
    except MaxRetryError as last:
        raise error from last


def _asked_for(retry: Retry, error: _Again) -> float:
    """Returns the pause that a server asks for, seconds; 0 for none, or one that makes no sense."""
    with contextlib.suppress(HTTPError, ValueError, OverflowError):
        return (retry.get_retry_after(error.response) if error.response else None) or 0.0
    return 0.0


def _check_headers(response: BaseHTTPResponse, most: int) -> None:
    """Raises FetchError where an answer's headers say that it is no photo."""
    kind = response.headers.get("Content-Type", "").lower()
    if any(text in kind for text in _TEXTS):
        raise FetchError("not a photo", f"the server says it is {kind:.100}")
    packed = response.headers.get("Content-Encoding", "").lower()
    if packed not in ("", "identity"):
        raise FetchError("packed", f"the server sends {packed:.100}, which was not asked for")
    length = response.headers.get("Content-Length", "")
    if length.isdecimal() and int(length) > most:
        raise FetchError(
            "too large", f"{int(length):,} bytes, more than the {most:,} that are read"
        )


def host_of(address: str) -> str:
    """Returns the host of an address as it stands there, with its port."""
    return address.partition("://")[2].partition("/")[0].rpartition("@")[2].lower()


def _phrase(status: int) -> str:
    with contextlib.suppress(ValueError):
        return f"{status} {http.HTTPStatus(status).phrase}"
    return str(status)


@contextlib.contextmanager
def _given_back(response: BaseHTTPResponse) -> Iterator[None]:
    """Gives an answer's connection back to its pool: open after its last byte, closed before."""
    try:
        yield
    finally:
        response.close()
        response.release_conn()


@contextlib.contextmanager
def _in_our_words() -> Iterator[None]:
    """Makes FetchErrors of urllib3's errors."""
    try:
        yield
    except SSLError as error:
        raise FetchError("certificate", str(error)) from error
    # Python's own errors: a host in letters that no host has, half a letter.
    except (LocationValueError, ValueError) as error:
        raise FetchError("no address", str(error)) from error
    except HTTPError as error:
        kind = next((kind for kind, errors in _KINDS.items() if isinstance(error, errors)), _OTHER)
        # The pool or the connection stands before it, as Python writes an object.
        raise _Again(kind, str(error).rpartition(">: ")[2] or type(error).__name__) from error


class _Guarded(HTTPConnection):
    """A connection that a Guard looks after."""

    guard: Guard

    def _new_conn(self) -> socket.socket:
        connected = super()._new_conn()
        try:
            self.guard.admit(connected)
        except OSError as error:
            connected.close()
            raise NewConnectionError(self, f"it has gone: {error}") from error
        except FetchError:
            connected.close()
            raise
        return connected

    def request(self, *args: Any, **kwargs: Any) -> None:
        # One that is kept open was admitted by another transfer.
        if self.sock is not None:
            self.guard.use(self.sock)
        super().request(*args, **kwargs)


def _pool_manager(limits: Limits, guard: Guard) -> PoolManager:
    """Returns a PoolManager whose connections a Guard looks after."""
    # A pool that leaves it is made anew, and would not know of the connections of the old one.
    manager = PoolManager(4 * limits.connections, maxsize=limits.per_host, block=True)
    own = {"guard": guard}
    plain = type("GuardedHTTP", (_Guarded,), own)
    secure = type("GuardedHTTPS", (_Guarded, HTTPSConnection), own)
    manager.pool_classes_by_scheme = {
        "http": type("GuardedHTTPPool", (HTTPConnectionPool,), {"ConnectionCls": plain}),
        "https": type("GuardedHTTPSPool", (HTTPSConnectionPool,), {"ConnectionCls": secure}),
    }
    return manager
