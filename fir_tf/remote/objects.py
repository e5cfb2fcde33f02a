"""Photos from object stores, s3:// and gs://, by fsspec."""

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import Coroutine
from typing import Any, BinaryIO

from fir_tf.extras import require
from fir_tf.remote.fetch import TIMEOUT, FetchError, Limits, Validators

_PACKAGES = {"s3": "s3fs", "gs": "gcsfs"}
# Seconds between two looks at whether a transfer should end.
_LOOK = 0.1


class ObjectFetcher:
    """Fetches photos from an object store; see `fir_tf.remote.fetch.Fetcher`.

    Who asks and where is the business of the store's own library: its environment variables
    (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, GOOGLE_APPLICATION_CREDENTIALS), files and roles. It asks
    again by itself where that helps.

    Args:
        scheme: str, "s3" or "gs".
        limits: Limits.

    Raises:
        FirError: the packages of the extra `remote` are missing.
    """

    def __init__(self, scheme: str, limits: Limits) -> None:
        require(_PACKAGES[scheme], "remote")
        fsspec = require("fsspec", "remote")
        self._limits = limits
        self._stopped = threading.Event()
        self._store = fsspec.filesystem(scheme, use_listings_cache=False, skip_instance_cache=True)

    def fetch(self, address: str, known: Validators | None, file: BinaryIO) -> Validators | None:
        """See `Fetcher`."""
        if self._stopped.is_set():
            raise FetchError("stopped")
        ends = time.monotonic() + self._limits.seconds
        path = self._store._strip_protocol(address)
        told = self._done(self._store._info(path), ends)
        size, etag = told.get("size") or 0, told.get("ETag") or told.get("etag") or ""
        if known and etag and etag == known.etag:
            return None
        if told.get("type") == "directory":
            raise FetchError("404 Not Found", "this is a folder")
        if size > self._limits.most_bytes:
            most = self._limits.most_bytes
            raise FetchError("too large", f"{size:,} bytes, more than the {most:,} that are read")
        if not size:
            raise FetchError("empty", "the object has no bytes")
        file.write(self._done(self._store._cat_file(path), ends))
        return Validators(etag)

    def close(self) -> None:
        """See `Fetcher`."""
        self._stopped.set()

    def _done(self, work: Coroutine[Any, Any, Any], ends: float) -> Any:
        """Returns what comes of a coroutine of the store before `ends` (monotonic)."""
        future = asyncio.run_coroutine_threadsafe(work, self._store.loop)
        while not future.done():
            concurrent.futures.wait([future], timeout=_LOOK)
            if self._stopped.is_set() or time.monotonic() > ends:
                future.cancel()
        try:
            return future.result()
        except concurrent.futures.CancelledError as error:
            kind = "stopped" if self._stopped.is_set() else TIMEOUT
            reason = "it was not there in the time that a photo has"
            raise FetchError(kind, reason) from error
        except FileNotFoundError as error:
            raise FetchError("404 Not Found", "there is no such object") from error
        except PermissionError as error:
            raise FetchError("403 Forbidden", str(error)) from error
        # Each store has its own errors: no credentials, no such bucket, no connection.
        except Exception as error:
            kind = TIMEOUT if isinstance(error, TimeoutError) else type(error).__name__
            raise FetchError(kind, str(error)) from error
