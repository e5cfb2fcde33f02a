"""The door of every command: paths as people give them, any console, one line and a status.

What a person or a machine can be the cause of (bad input, a full disk, a forbidden folder, Ctrl-C,
a reader that has gone) ends in a line on stderr and an exit status. Anything else is a fault of
this package and keeps its traceback.
"""

import contextlib
import errno
import os
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from fir_tf import messages
from fir_tf.errors import FirError

# As shells count: 128 and the signal's number.
_INTERRUPTED, _BROKEN_PIPE = 130, 141

# What may stand before a path in a flag's value: a data set, an index's scheme, an option.
_BEFORE_PATH = re.compile(r"(^|(?:^|,\s*)[\w+]+(?:\(.*?\))?:)(~[^/,\s]*)")
_ADVICE = {
    errno.ENOSPC: "Make room there and give the same command again",
    errno.EDQUOT: "Make room there and give the same command again",
    errno.EFBIG: "Files of this size are not allowed there; give another place",
    errno.EACCES: "Give another place, or the right to use this one",
    errno.EPERM: "Give another place, or the right to use this one",
    errno.EROFS: "Give a place that can be written to",
    errno.ENAMETOOLONG: "Give a shorter name",
}
_OF_THE_WORLD = {
    *_ADVICE,
    *(getattr(errno, name) for name in ("ENOENT", "ENOTDIR", "EISDIR", "EEXIST", "ENOTEMPTY")),
    *(getattr(errno, name) for name in ("ELOOP", "EIO", "EMFILE", "ENFILE", "ENOMEM", "EBUSY")),
    *(getattr(errno, name) for name in ("ENXIO", "ENODEV", "EXDEV", "EILSEQ", "EPIPE", "ESTALE")),
    *(getattr(errno, name) for name in ("EADDRINUSE", "EADDRNOTAVAIL", "ECONNREFUSED")),
    *(getattr(errno, name) for name in ("ECONNRESET", "ETIMEDOUT", "EHOSTUNREACH", "ENETUNREACH")),
}
_SQLITE = ("disk is full", "readonly", "disk I/O error", "unable to open", "locked", "malformed")


class _Terminated(SystemExit):
    """Raised where SIGTERM or SIGHUP arrives, so that half-written files are cleaned up."""


def given_path(name: str, text: str) -> str:
    """Returns a path, or a value with paths in it, as the file system knows it.

    `~` and `~user` become home folders: at the beginning, behind `dataset:` and behind an
    index's scheme.

    Args:
        name: str, the flag, for the message.
        text: str, its value.

    Raises:
        FirError: there is no such home, or no file can have that name.
    """
    if "\0" in text:
        raise FirError(f"`{name}` must be a path. Received: {text!r}, which has a zero byte")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise FirError(
            f"`{name}` must be a path in UTF-8. Received: {text!r}. Rename the file, or make a link"
        ) from error

    def home(found: re.Match[str]) -> str:
        folder = os.path.expanduser(found[2])
        if found[2] == "~" and folder == "~":
            raise FirError(
                f"`{name}` begins in a home folder and there is none: HOME is not set. "
                f"Received: {text!r}"
            )
        return found[1] + folder

    return _BEFORE_PATH.sub(home, text)


@contextlib.contextmanager
def quiet_import() -> Iterator[None]:
    """Keeps what TensorFlow's C++ side says while it is imported off the screen.

    It writes about CPU features and missing GPUs straight to the descriptor, whatever the log
    level. If the import fails the text is shown, for then it matters.
    """
    with tempfile.TemporaryFile() as kept:
        sys.stderr.flush()
        screen = os.dup(2)
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except Exception:
            kept.seek(0)
            os.write(screen, kept.read())
            raise
        finally:
            os.dup2(screen, 2)
            os.close(screen)


def quiet_tensorflow() -> None:
    """Imports TensorFlow, unless that is done; keeps what it says off the screen."""
    if "tensorflow" not in sys.modules:
        with quiet_import():
            import tensorflow as tf

            # Looking for devices is what says the most.
            tf.config.list_physical_devices()


def run_command(body: Callable[[], int | None]) -> int:
    """Calls `body`; what ends it becomes a line on stderr and an exit status.

    Args:
        body: callable without parameters; returns an exit status or None for 0. A SystemExit
            counts as one.

    Returns:
        int: what `body` returned; 1 after bad input or a fault of the machine, 130 after Ctrl-C,
        143 after SIGTERM, 141 when nobody reads the output any more.
    """
    _open_streams()
    with messages.shown(), _raising_on_signals():
        try:
            status = body() or 0
        except BaseException as error:
            found = explain(error)
            if found is None:
                raise
            line, status = found
            _say(line)
    return _flushed(status)


def explain(error: BaseException) -> tuple[str, int] | None:
    """Returns (what is said of an exception, exit status), None for a fault of this package."""
    if isinstance(error, SystemExit):
        if error.code is None or isinstance(error.code, int):
            line = "stopped on request" if isinstance(error, _Terminated) else ""
            return line, error.code or 0
        return str(error.code), 1
    if isinstance(error, FirError):
        return f"error: {error}", error.status
    if isinstance(error, KeyboardInterrupt):
        return "stopped on request", _INTERRUPTED
    if isinstance(error, BrokenPipeError):
        return "stopped, for nobody reads the output any more", _BROKEN_PIPE
    reason = fault(error)
    return (f"error: {reason}", 1) if reason else None


def fault(error: BaseException) -> str:
    """Returns what a machine's fault is about, "" where the exception is none.

    Disk and memory faults, as Python, SQLite, HDF5 and TensorFlow report them.
    """
    if isinstance(error, MemoryError):
        return f"there is not enough memory. {error}".strip()
    text = str(error)
    if isinstance(error, OSError):
        # HDF5 has the number in its text alone.
        found = re.search(r"errno = (\d+)", text)
        number = error.errno or (int(found[1]) if found else None)
        if number is None or number not in _OF_THE_WORLD:
            return ""
        place = f"{error.filename}: " if error.filename else ""
        advice = f". {_ADVICE[number]}" if number in _ADVICE else ""
        return f"{place}{os.strerror(number)}{advice}"
    if _is_a(error, "sqlite3", "Error") and any(part in text for part in _SQLITE):
        return f"the index's table: {text}"
    if _is_a(error, "tensorflow", "errors.OpError"):
        line = first_line(error)
        if "OOM when allocating" in text:
            return f"there is not enough memory on the device. {line}"
        # TensorFlow writes the system's own words behind a file's name.
        numbers = [number for number in _OF_THE_WORLD if f"; {os.strerror(number)}" in text]
        if numbers:
            advice = f". {_ADVICE[numbers[0]]}" if numbers[0] in _ADVICE else ""
            return f"{line}{advice}"
    return ""


def first_line(error: BaseException) -> str:
    """Returns the first line of an exception's message, without TensorFlow's node names."""
    text = re.sub(r"\{\{.*?\}\}\s*", "", str(error)).strip() or type(error).__name__
    return text.splitlines()[0].split(" [Op:")[0][:300]


def _is_a(error: BaseException, module: str, name: str) -> bool:
    """Whether an exception is of a module's class, without importing what was not needed."""
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return isinstance(found, type) and isinstance(error, found)


def draw_or_note(path: str | Path, draw: Callable[[], object]) -> list[Path]:
    """Draws what only illustrates a result; where that cannot be done it is said and passed over.

    Args:
        path: str or Path of the picture or page.
        draw: callable without parameters that writes it.

    Returns:
        list of the path, empty where it was not written.
    """
    try:
        draw()
    except (FirError, OSError, MemoryError) as error:
        reason = str(error) if isinstance(error, FirError) else fault(error) or str(error)
        _say(f"note: {path} was not drawn: {reason}")
        return []
    return [Path(path)]


def _open_streams() -> None:
    """Makes printing safe: no letter that a console lacks, no closed stream may end a command."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # Or the next file that is opened would be what C++ writes its log to.
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


@contextlib.contextmanager
def _raising_on_signals() -> Iterator[None]:
    def end(number: int, _: FrameType | None) -> None:
        raise _Terminated(128 + number)

    previous = {}
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # Only the main thread may set handlers, and nohup's choice stays.
        with contextlib.suppress(ValueError):
            if number and signal.getsignal(number) == signal.SIG_DFL:
                previous[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _say(line: str) -> None:
    if line:
        with contextlib.suppress(OSError):
            print(line, file=sys.stderr, flush=True)


def _flushed(status: int) -> int:
    """Returns the exit status after all output is out; a stream that takes no more is let go."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        try:
            stream.flush()
        except OSError as error:
            if not status:
                line, status = explain(error) or (f"error: the output: {error}", 1)
                _say(line)
            # Python flushes once more at its end and would complain.
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return status
