"""Addresses of photos -> files of this machine, fetched where they are not here yet."""

import collections
import dataclasses
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import BinaryIO

from fir_tf.files import checksum
from fir_tf.remote.cache import Entry, PhotoCache
from fir_tf.remote.fetch import Fetcher, FetchError, Limits, Validators
from fir_tf.remote.http import HttpFetcher, host_of
from fir_tf.remote.lanes import Lanes
from fir_tf.remote.objects import ObjectFetcher

SCHEMES = ("http", "https", "s3", "gs")
"""tuple of str, the schemes that photos are fetched by."""

AHEAD = 512
"""int, photos that are fetched before the first of them has been asked for, and held."""


@dataclasses.dataclass(frozen=True)
class Found:
    """What an address leads to.

    Attributes:
        address: str.
        checksum: str, of the photo's contents; empty where it cannot be had.
        file: Path, held until `RemotePhotos.let_go`; None where it cannot be had, or is the photo
            that was there before.
        error: FetchError, why it cannot be had, or None.
    """

    address: str
    checksum: str = ""
    file: Path | None = None
    error: FetchError | None = None


class RemotePhotos:
    """Fetches photos into a cache, many at a time.

    Args:
        cache: PhotoCache, which is closed with it.
        limits: Limits.
    """

    def __init__(self, cache: PhotoCache, limits: Limits) -> None:
        self._cache, self._limits = cache, limits
        self._lanes = Lanes(limits.connections, limits.per_host)
        self._lock = threading.Lock()
        self._fetchers: dict[str, Fetcher] = {}

    def look(
        self, before: Mapping[str, str], max_age: float, again: bool = False
    ) -> Iterator[Found]:
        """Finds out what addresses lead to now.

        A server is asked whether a photo has changed where that is enough: where the version it
        is compared with is here, or is the one it had before.

        Args:
            before: dict of str by address, the checksum of the photo it led to; empty for none.
            max_age: float, seconds for which a server's answer holds without asking.
            again: bool, whether to fetch all anew.

        Yields:
            Found for each address, in their order.

        Raises:
            FirError: a package for these addresses is missing.
            OSError: the cache cannot be written to.
        """
        addresses, window = list(before), collections.deque[Found | Future]()
        for start in range(0, len(addresses), AHEAD):
            part = addresses[start : start + AHEAD]
            known = self._cache.known([address for address in part if _is_text(address)])
            for address in part:
                entry = None if again else known.get(address)
                window.append(self._begun(address, before[address], entry, max_age))
                if len(window) > AHEAD:
                    yield _done(window.popleft())
        while window:
            yield _done(window.popleft())

    def _begun(
        self, address: str, before: str, entry: Entry | None, max_age: float
    ) -> Found | Future:
        """Returns what an address leads to, or begins to fetch it."""
        if entry and time.time() - entry.asked < max_age:
            if entry.checksum == before:
                return Found(address, before)
            if file := self._cache.hold(entry.checksum):
                return Found(address, entry.checksum, file)
        scheme = address.partition("://")[0].lower()
        if scheme not in SCHEMES:
            allowed = ", ".join(SCHEMES)
            reason = f"{scheme}:// is none of {allowed}"
            return Found(address, error=FetchError("scheme not allowed", reason))
        if not _is_text(address):
            return Found(address, error=FetchError("no address", "it has half a letter in it"))
        return self._lanes.submit(host_of(address), self._fetched, address, before, entry)

    def _fetched(self, address: str, before: str, entry: Entry | None) -> Found:
        """Asks a server for a photo."""
        held = self._cache.hold(entry.checksum) if entry else None
        known = entry.validators if entry and (held or entry.checksum == before) else None
        try:
            with self._cache.new_file() as file:
                validators = self._fetcher(address).fetch(address, known, file)
                if entry and not validators:
                    self._cache.unchanged(address)
                    found = Found(address, entry.checksum, held)
                else:
                    found = self._kept(address, file, validators or Validators())
        except FetchError as error:
            found = Found(address, error=error)
        if entry and held and found.file is not held:
            self._cache.let_go([entry.checksum])
        if found.file and found.checksum == before:
            self.let_go([found])
            return Found(address, before)
        return found

    def _kept(self, address: str, file: BinaryIO, validators: Validators) -> Found:
        file.seek(0)
        total = checksum(file)
        return Found(address, total, self._cache.keep(address, file, total, validators))

    def _fetcher(self, address: str) -> Fetcher:
        scheme = address.partition("://")[0].lower().replace("https", "http")
        with self._lock:
            if scheme not in self._fetchers:
                http = scheme == "http"
                own = HttpFetcher(self._limits) if http else ObjectFetcher(scheme, self._limits)
                self._fetchers[scheme] = own
            return self._fetchers[scheme]

    def let_go(self, found: Iterable[Found]) -> None:
        """Lets the cache have the files of Founds back."""
        self._cache.let_go([each.checksum for each in found if each.file])

    def close(self) -> None:
        """Ends what is under way, and lets go of everything."""
        self._lanes.close()
        with self._lock:
            for fetcher in self._fetchers.values():
                fetcher.close()
        self._cache.close()


def _is_text(address: str) -> bool:
    """Whether an address is Unicode: a JSON feed may have half a letter in it."""
    try:
        address.encode()
    except UnicodeEncodeError:
        return False
    return True


def _done(found: Found | Future) -> Found:
    return found if isinstance(found, Found) else found.result()
