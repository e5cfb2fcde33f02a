"""Uploaded photos in a folder, where the one who serves the page has asked for that."""

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fir_tf.errors import FirError
from fir_tf.files import replacing
from fir_tf.shell import fault

log = logging.getLogger(__package__)

_ENDINGS = {b"\xff\xd8": ".jpg", b"\x89PNG": ".png", b"GIF8": ".gif", b"BM": ".bmp"}


def check_apart(place: str, info: Mapping[str, Any]) -> None:
    """Checks that photos which are kept in a folder do not come into the index by that.

    Args:
        place: str, the folder.
        info: dict, what the index says of itself.

    Raises:
        FirError: it lies in the folder whose photos are indexed, all that there are.
    """
    folder, root = Path(place).resolve(), Path(info.get("root") or "")
    if info.get("walked") and folder.is_relative_to(root.resolve()):
        raise FirError(
            f"`keep_queries` must lie outside of the photos' folder {root}: what is kept there "
            f"would be indexed with them the next time. Received: {place}"
        )


class KeptQueries:
    """Writes photos; says once where that cannot be done any more.

    Args:
        place: str, the folder; created where it is not there.

    Raises:
        OSError: it cannot be created.
    """

    def __init__(self, place: str) -> None:
        self._folder, self._failed = Path(place), False
        self._folder.mkdir(parents=True, exist_ok=True)

    def keep(self, contents: bytes) -> None:
        """Writes an image file of a known format; the same contents twice are one file."""
        name = hashlib.blake2b(contents, digest_size=16).hexdigest()
        ending = next((end for start, end in _ENDINGS.items() if contents.startswith(start)), "")
        path = self._folder / f"{name}{ending}"
        try:
            if not path.exists():
                with replacing(path) as temporary:
                    temporary.write_bytes(contents)
            self._failed = False
        # Requests are answered on a full disk too.
        except OSError as error:
            if not self._failed:
                reason = fault(error) or str(error)
                log.warning(f"note: `keep_queries` {self._folder} cannot be written to: {reason}")
            self._failed = True
