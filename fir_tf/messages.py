"""What the library says goes to loggers, one a package; the commands show it plainly."""

import contextlib
import logging
import sys
from collections.abc import Iterator

_LOGGER = logging.getLogger("fir_tf")


class _Plain(logging.Handler):
    """Prints messages as they are. What goes wrong at that reaches the command."""

    def __init__(self, stream: str) -> None:
        super().__init__()
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        """Prints a message to what is the standard stream at this moment."""
        print(record.getMessage(), file=getattr(sys, self._stream), flush=True)


@contextlib.contextmanager
def shown() -> Iterator[None]:
    """Shows the messages of the library within it, and leaves the loggers as they were."""
    before = list(_LOGGER.handlers), _LOGGER.level, _LOGGER.propagate
    show()
    try:
        yield
    finally:
        _LOGGER.handlers[:], level, _LOGGER.propagate = before
        _LOGGER.setLevel(level)


def show(stream: str = "stdout") -> None:
    """Shows the messages of the library, as its commands do; a later call chooses anew.

    Without it they are records of level INFO and above of the logger `fir_tf`, for whoever
    configures logging.

    Args:
        stream: "stdout" or "stderr".
    """
    for handler in [handler for handler in _LOGGER.handlers if isinstance(handler, _Plain)]:
        _LOGGER.removeHandler(handler)
    _LOGGER.addHandler(_Plain(stream))
    _LOGGER.setLevel(logging.INFO)
    _LOGGER.propagate = False


def duration(seconds: float) -> str:
    """Returns a time as people say it: "40 seconds", "12 minutes", "3.5 hours"."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
