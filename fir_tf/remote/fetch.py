"""What fetching a photo means, whatever scheme its address has."""

import dataclasses
from typing import BinaryIO, Protocol

from fir_tf.images.limits import MAX_BYTES

TIMEOUT = "timeout"
"""str, the kind of a FetchError: the photo was not there in time."""


class FetchError(Exception):
    """A photo that cannot be fetched.

    Args:
        kind: str, what such photos are counted by: "404 Not Found", "timeout".
        reason: str, what was found, in words; `kind` alone where there is no more to say.
    """

    def __init__(self, kind: str, reason: str = "") -> None:
        super().__init__(f"{kind}: {reason}" if reason else kind)
        self.kind, self.reason = kind, reason


@dataclasses.dataclass(frozen=True)
class Validators:
    """What a server says that tells one version of a photo from another.

    Attributes:
        etag: str, empty where it says none.
        modified: str, when it was changed, as the server writes it; empty where it does not say.
    """

    etag: str = ""
    modified: str = ""


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a fetcher may take.

    Attributes:
        seconds: float, in which a photo must be there. Pauses that a server asks for do not count.
        most_bytes: int, of a photo.
        per_host: int, connections to one host.
        connections: int, in all.
        allow_private: bool, whether addresses that are not public may be connected to.
        user_agent: str, empty for our own.
    """

    seconds: float = 60.0
    most_bytes: int = MAX_BYTES
    per_host: int = 8
    connections: int = 32
    allow_private: bool = False
    user_agent: str = ""


class Fetcher(Protocol):
    """Fetches photos of a scheme, from several threads at a time."""

    def fetch(self, address: str, known: Validators | None, file: BinaryIO) -> Validators | None:
        """Writes a photo to a file.

        Args:
            address: str.
            known: Validators of the version that is here, None where there is none.
            file: binary file, empty and at its beginning; after an error it holds anything.

        Returns:
            Validators of what was written; None where the version that is here is the newest.

        Raises:
            FetchError: it cannot be had.
        """

    def close(self) -> None:
        """Ends what is under way: its threads raise FetchError at once."""
