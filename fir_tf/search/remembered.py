"""Checksums of image files, remembered while size and times of a file stay as they were."""

import concurrent.futures
import contextlib
import dataclasses
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from fir_tf.files import checksum, open_file
from fir_tf.remote.cache import open_table
from fir_tf.search.engines.base import in_pieces

_SCHEMA = """
CREATE TABLE IF NOT EXISTS file (
    path BLOB PRIMARY KEY, state TEXT NOT NULL, checksum TEXT NOT NULL) WITHOUT ROWID;
"""
# SQLite takes no more variables than this in one statement on its oldest supported versions.
_VARIABLES = 900
# Files that a thread is given at a time: looking at one is less work than handing it over.
_FEW = 32
# Nanoseconds. A file may be written to again at the time that it already bears, in the steps of a
# file system's clock: what was written just before it was read is read again.
_SETTLED = 2 * 10**9


@dataclasses.dataclass(frozen=True)
class _Read:
    """A file that was looked at: its path as bytes, its state (empty if not settled), checksum."""

    key: bytes
    state: str
    checksum: str


class FileChecksums:
    """Checksums of files, which are read where they have changed since the last time.

    Args:
        table: str or Path of what is remembered; its folder is made. None, or where that cannot
            be: all files are read.
        again: bool, whether to read all files, whatever is remembered.
    """

    def __init__(self, table: str | Path | None, again: bool = False) -> None:
        self._again = again
        self._table: sqlite3.Connection | None = None
        with contextlib.suppress(OSError, sqlite3.Error):
            if table is not None:
                Path(table).parent.mkdir(parents=True, exist_ok=True)
                self._table = open_table(Path(table), _SCHEMA)

    def of(self, files: Sequence[Path]) -> Iterator[str]:
        """Yields the checksum of each file, empty for one that cannot be opened."""
        with concurrent.futures.ThreadPoolExecutor() as pool:
            for part in in_pieces(files, _VARIABLES):
                known = self._known(list(map(_key, part)))
                few = list(in_pieces(part, _FEW))
                found = [
                    each for some in pool.map(_read_all, few, [known] * len(few)) for each in some
                ]
                self._remember(each for each in found if each.state)
                yield from (each.checksum for each in found)

    def _known(self, keys: Sequence[bytes]) -> dict[bytes, tuple[str, str]]:
        """Returns {path: (state, checksum)} of what is remembered."""
        if self._table is None or self._again:
            return {}
        marks = ", ".join("?" * len(keys))
        # What is not remembered is read again: no reason to end.
        with contextlib.suppress(sqlite3.Error):
            rows = self._table.execute(f"SELECT * FROM file WHERE path IN ({marks})", keys)
            return {path: (state, total) for path, state, total in rows}
        return {}

    def _remember(self, found: Iterable[_Read]) -> None:
        rows = [(each.key, each.state, each.checksum) for each in found]
        with contextlib.suppress(sqlite3.Error):
            if self._table is not None and rows:
                with self._table:
                    self._table.execute("BEGIN IMMEDIATE")
                    self._table.executemany("INSERT OR REPLACE INTO file VALUES (?, ?, ?)", rows)

    def close(self) -> None:
        """Closes the table."""
        if self._table is not None:
            self._table.close()


def _key(path: Path) -> bytes:
    # A path that no file can have is a ValueError.
    with contextlib.suppress(ValueError):
        return os.fsencode(os.path.abspath(path))
    return b""


def _read_all(paths: Sequence[Path], known: Mapping[bytes, tuple[str, str]]) -> list[_Read]:
    keys = map(_key, paths)
    return [_read(path, key, known.get(key)) for path, key in zip(paths, keys, strict=True)]


def _read(path: Path, key: bytes, known: tuple[str, str] | None) -> _Read:
    """Returns a file's checksum: the known one if the file is in the state that it belongs to."""
    try:
        if known and _state(os.stat(path)) == known[0]:
            return _Read(key, "", known[1])
        with open_file(path) as file:
            now, found = time.time_ns(), os.fstat(file.fileno())
            settled = now - max(found.st_mtime_ns, found.st_ctime_ns) > _SETTLED
            return _Read(key, _state(found) if settled else "", checksum(file))
    except (OSError, ValueError):
        return _Read(key, "", "")


def _state(found: os.stat_result) -> str:
    """Returns what changes when a file's contents do; the time of change cannot be set back."""
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"
