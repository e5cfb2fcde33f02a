"""The access log: a line of JSON for each request, without what was asked for."""

import datetime
import json
import logging
import sys
from pathlib import Path
from typing import Any, TextIO

from fir_tf.search.web.told import Told
from fir_tf.shell import fault

log = logging.getLogger(__package__)


class AccessLog:
    """Writes what is known of requests; says once where that cannot be done any more.

    Args:
        place: str, a file that is added to, "-" for the standard output, "" for none.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, place: str) -> None:
        self._place, self._file = place, _opened(place)
        self._failed = False

    def write(self, route: str, status: int, seconds: float, told: Told) -> None:
        """Adds the line of a request that took so many seconds."""
        if not self._file:
            return
        now = datetime.datetime.now(datetime.timezone.utc)
        line: dict[str, Any] = {
            "time": now.isoformat(timespec="milliseconds"),
            "route": route,
            "status": status,
            "milliseconds": {
                name: round(1e3 * value, 1)
                for name, value in {**told.seconds, "total": seconds}.items()
            },
        }
        for name in ("k", "results", "top_score", "query"):
            if getattr(told, name) is not None:
                line[name] = getattr(told, name)
        try:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
            self._failed = False
        # Requests are answered on a full disk too.
        except OSError as error:
            if not self._failed:
                reason = fault(error) or str(error)
                log.warning(f"note: `access_log` {self._place} cannot be written to: {reason}")
            self._failed = True

    def close(self) -> None:
        """Closes the file."""
        if self._file and self._file is not sys.stdout:
            self._file.close()


def _opened(place: str) -> TextIO | None:
    if place in ("", "-"):
        return sys.stdout if place else None
    Path(place).parent.mkdir(parents=True, exist_ok=True)
    # Whole lines, at the end of what is there by then: it may be cut by who rotates it.
    return open(place, "a", encoding="utf-8")
