"""Files that matter are written to a temporary name and renamed."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from fir_tf.errors import FirError

# Bytes; a temporary name is at most this long, or shorter than its file's.
_LONG_NAME = 100
# Bytes of a file that are read at a time.
_PIECE = 2**20

NO_FILE = "this is a folder, a pipe or a device"


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; renames it to `path` when the block succeeds.

    A killed or failing block leaves `path` as it was, never half-written. Works for a file and
    for a folder that does not exist yet. A device or a pipe, such as /dev/stdout, stays what it is
    and is written to.

    Args:
        path: str or Path, the final name. Its parent folders are created.

    Yields:
        Path with the suffix of `path`, which the block has to create.
    """
    path = Path(path)
    if _is_device(path):
        with tempfile.TemporaryDirectory() as place:
            yield Path(place) / path.name
            with open(Path(place) / path.name, "rb") as file, open(path, "ab") as device:
                shutil.copyfileobj(file, device)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name may be as long as the file system allows, and no letter longer.
    name = path.name if len(os.fsencode(path.name)) <= _LONG_NAME else path.suffix[-16:]
    temporary = path.with_name(f".{uuid.uuid4().hex[:8]}.{name.removeprefix('.')}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        # A full disk does not say which file, and nobody knows the temporary one.
        if error.filename in (None, str(temporary)):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        elif temporary.exists():
            temporary.unlink()


def _is_device(path: Path) -> bool:
    """Whether a path is, or leads to, what a file must not take the place of."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    # /dev/stdout may be a link to a file.
    own = path.is_symlink() and str(path).startswith(("/dev/", "/proc/"))
    return own or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def open_file(path: str | Path) -> BinaryIO:
    """Opens a file to read its bytes.

    Args:
        path: str or Path.

    Raises:
        OSError: it cannot be opened. FileNotFoundError also for a folder, for a pipe, which would
            be waited for, and for a device, which may have no end.
    """
    # Neither flag is everywhere: one keeps a pipe from being waited for, one bytes as they are.
    flags = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    number = os.open(path, os.O_RDONLY | flags)
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise FileNotFoundError(errno.ENOENT, NO_FILE, str(path))
    return open(number, "rb")


def checksum(file: BinaryIO) -> str:
    """Returns what tells a file's contents, from here to its end, from others."""
    digest = hashlib.blake2b(digest_size=16)
    while piece := file.read(_PIECE):
        digest.update(piece)
    return digest.hexdigest()


def write_text(path: str | Path, text: str) -> None:
    """Writes a string to `path` (UTF-8) by way of a temporary name.

    What is no Unicode, of a file's name in other bytes, becomes `\\udcff` and the like.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def json_text(value: Any) -> str:
    """Returns `value` as indented JSON that can be written in UTF-8."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        # A file's name in other bytes. JSON's own escapes are read as what they were.
        text = json.dumps(value, indent=2, allow_nan=False)
    return text


def write_json(path: str | Path, value: Any) -> None:
    """Writes `value` as indented JSON to `path` by way of a temporary name."""
    write_text(path, json_text(value) + "\n")


def read_json(path: str | Path, advice: str) -> dict[str, Any]:
    """Reads a file that holds a JSON object.

    Args:
        path: str or Path.
        advice: str, what to do where it is missing or damaged.

    Raises:
        FirError: it cannot be read, or holds anything else.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FirError(f"{path} is missing. {advice}") from error
    except (ValueError, RecursionError) as error:
        raise FirError(f"{path} must be JSON. Received: {error}. {advice}") from error
    if not isinstance(value, dict):
        raise FirError(f"{path} must be a JSON object. Received: {json.dumps(value):.60}. {advice}")
    return value


@contextlib.contextmanager
def without_wildcards(folder: str | Path) -> Iterator[Path]:
    """Yields a path to a folder that TensorFlow's checkpoint readers take for no pattern.

    They look for a checkpoint's files by its name, and find none below `runs/[a]`.

    Args:
        folder: str or Path; created where it does not exist.

    Yields:
        Path: `folder` itself, or a link to it that is there for the length of the block.
    """
    if not set("*?[\\") & set(str(folder)):
        yield Path(folder)
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        link = Path(place) / "folder"
        link.symlink_to(Path(folder).absolute(), target_is_directory=True)
        yield link
