"""Looks after connections: whom they reach, and how long they take.

A timeout of a socket begins anew with each byte, so a server that sends a byte a second, of a
header as of a body, is never caught by one. Here a thread shuts the connection at the deadline.
"""

import contextlib
import ipaddress
import os
import socket
import threading
import time
from collections.abc import Iterator

from fir_tf.remote.fetch import TIMEOUT, FetchError

# Seconds between two looks at the deadlines.
_LOOK = 0.05
# IPv6 networks whose last four bytes are an IPv4 address that is meant: compatible, mapped, NAT64.
_WITH_IPV4 = [ipaddress.IPv6Network(name) for name in ("::/96", "::ffff:0:0/96", "64:ff9b::/96")]


def is_public(address: str) -> bool:
    """Whether an IP address is a public one: not private, loopback, link-local or multicast.

    Args:
        address: str, IPv4 or IPv6; with an IPv4 address inside, that one counts.
    """
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        if found.sixtofour:
            return is_public(str(found.sixtofour))
        if int(found) > 1 and any(found in network for network in _WITH_IPV4):
            return is_public(str(ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)))
    return found.is_global and not found.is_multicast


def check_public(address: str) -> None:
    """Raises FetchError if an IP address is not a public one."""
    if not is_public(address):
        raise FetchError(
            "private address",
            f"{address} is not a public address. --allow_private fetches from there too",
        )


class _Transfer:
    """What a thread is waiting for: its connection is shut when `ends` (monotonic) is over."""

    def __init__(self, ends: float) -> None:
        self.ends = ends
        self.ended = False
        self._handles: list[socket.socket] = []
        self._lock = threading.Lock()

    def use(self, connected: socket.socket) -> None:
        """Keeps a handle of its own: TLS takes a socket over, and an answer may outlive one."""
        with self._lock:
            self._handles.append(socket.socket(fileno=os.dup(connected.fileno())))
            if self.ended:
                self._shut()

    def end(self) -> None:
        with self._lock:
            self.ended = True
            self._shut()

    def close(self) -> None:
        with self._lock:
            for handle in self._handles:
                handle.close()
            self._handles.clear()

    def _shut(self) -> None:
        for handle in self._handles:
            with contextlib.suppress(OSError):
                handle.shutdown(socket.SHUT_RDWR)


class Guard:
    """Looks after the connections of a fetcher.

    Args:
        allow_private: bool, whether addresses that are not public may be connected to.

    Attributes:
        stopped: threading.Event, set by `stop`.
    """

    def __init__(self, allow_private: bool) -> None:
        self.stopped = threading.Event()
        self._allow_private = allow_private
        self._own = threading.local()
        self._lock = threading.Lock()
        self._under_way: set[_Transfer] = set()
        threading.Thread(target=self._watch, daemon=True).start()

    @contextlib.contextmanager
    def transfer(self, seconds: float) -> Iterator[None]:
        """Ends what this thread does inside the block, after some seconds or by `stop`.

        Raises:
            FetchError: it was ended, in place of whatever came of that.
        """
        transfer = _Transfer(time.monotonic() + seconds)
        with self._lock:
            self._under_way.add(transfer)
        self._own.transfer = transfer
        try:
            if not self.stopped.is_set():
                yield
        except Exception:
            if not transfer.ended:
                raise
        finally:
            self._own.transfer = None
            with self._lock:
                self._under_way.remove(transfer)
            transfer.close()
        if self.stopped.is_set():
            raise FetchError("stopped")
        if transfer.ended:
            raise FetchError(TIMEOUT, "it was not there in the time that a photo has")

    def admit(self, connected: socket.socket) -> None:
        """Looks after a new connection.

        Raises:
            FetchError: it leads to an address that is not public.
            OSError: it has gone.
        """
        if not self._allow_private:
            check_public(connected.getpeername()[0])
        self.use(connected)

    def use(self, connected: socket.socket) -> None:
        """Says that this thread's transfer uses a connection."""
        transfer = getattr(self._own, "transfer", None)
        if transfer is not None:
            transfer.use(connected)

    def stop(self) -> None:
        """Ends all that is under way, and whatever begins later."""
        self.stopped.set()
        self._end(float("inf"))

    def _watch(self) -> None:
        while not self.stopped.wait(_LOOK):
            self._end(time.monotonic())

    def _end(self, now: float) -> None:
        with self._lock:
            over = [transfer for transfer in self._under_way if transfer.ends <= now]
        for transfer in over:
            transfer.end()
