"""Who is let in: nobody before the index is open or while the server stops, and not too many."""

import collections
import contextlib
from collections.abc import Iterator

from starlette.exceptions import HTTPException

# Seconds after which one who was refused may ask again.
_FULL, _STARTING = 1, 5
_OPENING, _STOPPING = "The index is being opened.", "The server stops."


class Doors:
    """Gives requests their places. All of it happens in the event loop's thread.

    Args:
        most: int, requests at a time.
        per_client: int, as many of them from one address; 0 for no limit.

    Attributes:
        closed: str, why nobody is let in; empty where requests are.
        under_way: int, requests that have a place.
    """

    def __init__(self, most: int, per_client: int) -> None:
        self._most, self._per_client = most, per_client
        self._clients: collections.Counter[str] = collections.Counter()
        self.closed = _OPENING
        self.under_way = 0

    def open(self) -> None:
        """Lets requests in from now on, unless the server stops already."""
        if self.closed == _OPENING:
            self.closed = ""

    def close(self) -> None:
        """Lets no request in any more; those that have a place keep it."""
        self.closed = _STOPPING

    def check_open(self) -> None:
        """Raises HTTPException 503 unless requests are let in."""
        if self.closed:
            raise _refusal(503, self.closed, _STARTING)

    @contextlib.contextmanager
    def place(self, client: str) -> Iterator[None]:
        """Holds a place for a request for the length of the block.

        Args:
            client: str, the address that it comes from.

        Raises:
            HTTPException: 503, the server is not open or full; 429, this client has too many
                requests under way.
        """
        self.check_open()
        if self._per_client and self._clients[client] >= self._per_client:
            raise _refusal(429, "Too many requests of yours are under way.", _FULL)
        if self.under_way >= self._most:
            raise _refusal(503, "Too many requests are under way.", _FULL)
        self.under_way += 1
        self._clients[client] += 1
        try:
            yield
        finally:
            self.under_way -= 1
            self._clients[client] -= 1
            if not self._clients[client]:
                del self._clients[client]


def _refusal(status: int, text: str, seconds: int) -> HTTPException:
    return HTTPException(status, text, {"Retry-After": str(seconds)})
