"""Fetched photos in a folder of bounded size, which several processes may share.

A table says what an address has led to; the photos lie beside it, each under the checksum of its
contents. What is known of an address stays when its photo leaves the cache, so that a server can
be asked whether it has changed. A file is written in the process' own folder and renamed inside the
transaction that says that it is there.
"""

import collections
import contextlib
import dataclasses
import os
import shutil
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from fir_tf.errors import FirError
from fir_tf.remote.fetch import Validators

_SCHEMA = """
CREATE TABLE IF NOT EXISTS address (
    address TEXT PRIMARY KEY, etag TEXT NOT NULL, modified TEXT NOT NULL, checksum TEXT NOT NULL,
    asked REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS photo (
    checksum TEXT PRIMARY KEY, size INTEGER NOT NULL, used REAL NOT NULL);
CREATE INDEX IF NOT EXISTS photo_used ON photo (used);
CREATE TABLE IF NOT EXISTS hold (
    checksum TEXT NOT NULL, process TEXT NOT NULL, PRIMARY KEY (checksum, process)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS total (id INTEGER PRIMARY KEY CHECK (id = 0), bytes INTEGER NOT NULL);
INSERT OR IGNORE INTO total VALUES (0, 0);
CREATE TRIGGER IF NOT EXISTS photo_added AFTER INSERT ON photo
    BEGIN UPDATE total SET bytes = bytes + NEW.size; END;
CREATE TRIGGER IF NOT EXISTS photo_removed AFTER DELETE ON photo
    BEGIN UPDATE total SET bytes = bytes - OLD.size; END;
"""
_EVICTABLE = """
SELECT checksum, size FROM photo WHERE checksum NOT IN (SELECT checksum FROM hold)
ORDER BY used LIMIT 100
"""
# SQLite takes no more variables than this in one statement on its oldest supported versions.
_VARIABLES = 900
# Seconds after which an address that is asked for no more is forgotten: signed ones change hourly.
_FORGET = 30 * 86400.0


@dataclasses.dataclass(frozen=True)
class Entry:
    """What is known of an address.

    Attributes:
        checksum: str, of the photo it led to.
        validators: Validators of that.
        asked: float, when the server last said that this is it, seconds since the epoch.
    """

    checksum: str
    validators: Validators
    asked: float


class PhotoCache:
    """Fetched photos in a folder; its methods may be called from several threads.

    Args:
        folder: str or Path, made where there is none.
        most_bytes: float, what the photos may take. What is held may be more.

    Raises:
        FirError: the folder cannot be written to, or holds something else.
    """

    def __init__(self, folder: str | Path, most_bytes: float) -> None:
        self.folder = Path(folder)
        self._most = most_bytes
        self._lock = threading.RLock()
        self._held: collections.Counter[str] = collections.Counter()
        self._process = uuid.uuid4().hex
        self._work = self.folder / "work" / self._process
        try:
            self._work.parent.mkdir(parents=True, exist_ok=True)
            self._table = open_table(self.folder / "photos.sqlite", _SCHEMA)
            with FileLock(str(self.folder / "work.lock")):
                self._clean_up()
                self._alive = FileLock(f"{self._work}.lock", thread_local=False)
                self._alive.acquire()
            self._work.mkdir()
        except (OSError, sqlite3.Error) as error:
            raise FirError(
                f"`photo_cache` must be a folder that can be written to. Received: {self.folder} "
                f"({error}). Give another one; what is in it can be deleted"
            ) from error

    def _clean_up(self) -> None:
        """Removes what killed processes have left."""
        for path in self._work.parent.glob("*.lock"):
            lock = FileLock(str(path))
            with contextlib.suppress(Timeout):
                lock.acquire(timeout=0)
                with self._writing() as table:
                    table.execute("DELETE FROM hold WHERE process = ?", [path.stem])
                shutil.rmtree(path.with_suffix(""), ignore_errors=True)
                path.unlink(missing_ok=True)
                lock.release()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._table:
            self._table.execute("BEGIN IMMEDIATE")
            yield self._table

    def known(self, addresses: Sequence[str]) -> dict[str, Entry]:
        """Returns the Entry of each address that something is known of."""
        found = {}
        for start in range(0, len(addresses), _VARIABLES):
            part = addresses[start : start + _VARIABLES]
            marks = ", ".join("?" * len(part))
            with self._lock:
                rows = self._table.execute(
                    "SELECT address, etag, modified, checksum, asked FROM address "
                    f"WHERE address IN ({marks})",
                    part,
                ).fetchall()
            for address, etag, modified, checksum, asked in rows:
                found[address] = Entry(checksum, Validators(etag, modified), asked)
        return found

    def hold(self, checksum: str) -> Path | None:
        """Returns a photo's file, which stays until it is let go; None where it is not here."""
        path = self._path(checksum)
        with self._writing() as table:
            table.execute("UPDATE photo SET used = ? WHERE checksum = ?", [time.time(), checksum])
            there = table.execute("SELECT 1 FROM photo WHERE checksum = ?", [checksum]).fetchone()
            if not there or not path.is_file():
                table.execute("DELETE FROM photo WHERE checksum = ?", [checksum])
                return None
            self._hold(table, checksum)
        return path

    def _hold(self, table: sqlite3.Connection, checksum: str) -> None:
        self._held[checksum] += 1
        table.execute("INSERT OR IGNORE INTO hold VALUES (?, ?)", [checksum, self._process])

    def let_go(self, checksums: Iterable[str]) -> None:
        """Ends as many holds of photos."""
        with self._writing() as table:
            for checksum in checksums:
                self._held[checksum] -= 1
                if not self._held[checksum]:
                    del self._held[checksum]
                    table.execute(
                        "DELETE FROM hold WHERE checksum = ? AND process = ?",
                        [checksum, self._process],
                    )
            self._evict(table)

    @contextlib.contextmanager
    def new_file(self) -> Iterator[BinaryIO]:
        """Yields an empty file to write a photo into, for `keep`; it is gone after the block."""
        path = self._work / uuid.uuid4().hex
        with open(path, "w+b") as file:
            try:
                yield file
            finally:
                path.unlink(missing_ok=True)

    def keep(self, address: str, file: BinaryIO, checksum: str, validators: Validators) -> Path:
        """Takes over a photo.

        Args:
            address: str, what it was fetched from.
            file: file of `new_file`, written.
            checksum: str, of its contents.
            validators: Validators.

        Returns:
            Path of the file, held.
        """
        file.flush()
        size, now, path = os.fstat(file.fileno()).st_size, time.time(), self._path(checksum)
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._writing() as table:
            table.execute(
                "INSERT INTO photo VALUES (?, ?, ?) "
                "ON CONFLICT (checksum) DO UPDATE SET used = excluded.used",
                [checksum, size, now],
            )
            self._hold(table, checksum)
            table.execute(
                "INSERT OR REPLACE INTO address VALUES (?, ?, ?, ?, ?)",
                [address, validators.etag, validators.modified, checksum, now],
            )
            self._evict(table)
            os.replace(file.name, path)
        return path

    def unchanged(self, address: str) -> None:
        """Notes that the server has said now that what is known of an address holds."""
        with self._writing() as table:
            table.execute("UPDATE address SET asked = ? WHERE address = ?", [time.time(), address])

    def _evict(self, table: sqlite3.Connection) -> None:
        """Removes what was used least recently, but nothing held, until the rest fits."""
        (total,) = table.execute("SELECT bytes FROM total").fetchone()
        while total > self._most:
            rows = table.execute(_EVICTABLE).fetchall()
            if not rows:
                return
            for checksum, size in rows:
                if total <= self._most:
                    return
                self._path(checksum).unlink(missing_ok=True)
                table.execute("DELETE FROM photo WHERE checksum = ?", [checksum])
                total -= size

    def _path(self, checksum: str) -> Path:
        return self.folder / "photos" / checksum[:2] / checksum

    def close(self) -> None:
        """Lets go of everything."""
        with self._writing() as table:
            table.execute("DELETE FROM hold WHERE process = ?", [self._process])
            table.execute("DELETE FROM address WHERE asked < ?", [time.time() - _FORGET])
            self._evict(table)
        with self._lock:
            self._table.close()
        shutil.rmtree(self._work, ignore_errors=True)
        self._alive.release()
        Path(f"{self._work}.lock").unlink(missing_ok=True)


def open_table(path: Path, schema: str) -> sqlite3.Connection:
    """Opens a table that several processes and threads write to.

    Args:
        path: Path; its folder exists.
        schema: str, SQL that makes what is not there yet.

    Raises:
        sqlite3.Error: it cannot be opened, or is something else.
    """
    table = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
    try:
        table.execute("PRAGMA journal_mode = WAL")
        # What a power failure takes away is fetched or read again.
        table.execute("PRAGMA synchronous = OFF")
        table.executescript(schema)
    except sqlite3.Error:
        table.close()
        raise
    return table
