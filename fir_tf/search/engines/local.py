"""An index in a folder: vectors in one flat file, records in SQLite.

A vector is written and brought to the disk before the transaction that says it is there, so a
killed writer leaves at most bytes behind the last known vector, which the next one overwrites.
"""

import contextlib
import json
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from fir_tf import bounds
from fir_tf.checks import check_positive
from fir_tf.errors import FirError
from fir_tf.neighbours import top_k
from fir_tf.search.conditions import Condition
from fir_tf.search.engines.base import (
    Engine,
    Hit,
    Record,
    Scheme,
    check_dimension,
    check_vectors,
    in_order,
    in_pieces,
)
from fir_tf.search.engines.generations import FolderGenerations
from fir_tf.search.engines.sql import SqliteDialect

_SCHEMA = """
CREATE TABLE IF NOT EXISTS info (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS record (
    position INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, item TEXT NOT NULL,
    category TEXT NOT NULL, domain TEXT NOT NULL, checksum TEXT NOT NULL,
    metadata TEXT NOT NULL DEFAULT '{}');
CREATE INDEX IF NOT EXISTS record_category ON record (category, domain);
"""
_COLUMNS = "path, item, category, domain, checksum, metadata"
# For an index made before there were metadata; the second where it cannot be written to.
_ADD_METADATA = "ALTER TABLE record ADD COLUMN metadata TEXT NOT NULL DEFAULT '{}'"
_SHOW_METADATA = "CREATE TEMP VIEW record AS SELECT *, '{}' AS metadata FROM main.record"
_DATABASE = "records.sqlite"
# SQLite takes no more variables than this in one statement on its oldest supported versions.
_VARIABLES = 900
_PIECE = 8192
# A share of dead vectors that is worth rewriting the file for.
_DEAD_MAX = 0.2
# A share of vectors without bounds that is worth learning them anew for.
_UNBOUND_MAX = 0.1
_BOUNDS = ".bounds"

Nearest = tuple[np.ndarray, np.ndarray]
"""Scores float32 [q, k] and positions int64 [q, k], -1 where there is none."""


class LocalEngine(Engine):
    """Exact search in a memory-mapped file, in bounded memory and on all cores.

    Args:
        folder: str or Path.
        create: bool, whether to make a new index where there is none.

    Raises:
        FirError: `folder` holds no index, or something else.
    """

    def __init__(self, folder: str | Path, create: bool = False) -> None:
        self.folder = Path(folder)
        self._database = self.folder / _DATABASE
        self._lock = threading.RLock()
        # What the last look found: vectors float32 [rows, dimension], the dead among them.
        self._version: tuple[int, int] | None = None
        self._vectors = np.zeros((0, 0), np.float32)
        self._alive = 0
        self._living: np.ndarray | None = None
        self._bounds: bounds.Bounds | None = None
        self._bounds_key: tuple[str, int, int, int] | None = None
        if not self._database.is_file():
            self._check_new(create)
        self._connect()
        self._refresh()

    def _connect(self) -> None:
        # Without the right to write, a state of the files that no writer changes; else None.
        self._frozen: tuple[int, ...] | None = None
        try:
            if self._database.is_file() and not all(map(_writable, (self._database, self.folder))):
                self._connection = self._read_only()
                if not self._has_metadata():
                    self._connection.execute(_SHOW_METADATA)
                return
            self._connection = _open(self._database)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.executescript(_SCHEMA)
            if not self._has_metadata():
                self._add_metadata()
        except sqlite3.Error as error:
            raise FirError(
                f"{self._database} must be an index's table. Received: {error}"
            ) from error

    def _has_metadata(self) -> bool:
        columns = self._connection.execute("PRAGMA main.table_info(record)")
        return "metadata" in {name for _, name, *_ in columns}

    def _add_metadata(self) -> None:
        with self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            # Another process may have been here first.
            if not self._has_metadata():
                self._connection.execute(_ADD_METADATA)

    def _read_only(self) -> sqlite3.Connection:
        """Opens the table without the lock and log files that SQLite keeps beside it."""
        connection = _open(self._database, "?mode=ro")
        try:
            # While a writer elsewhere keeps them, they can be read too.
            connection.execute("SELECT count(*) FROM record")
            return connection
        except sqlite3.OperationalError:
            connection.close()
        self._frozen = self._files_state()
        if self._frozen[-1]:
            raise FirError(
                f"{self.folder} cannot be written to, and {_DATABASE}-wal in it holds changes "
                "that a writer has not finished. Let search.py index run there once more, or copy "
                "the index's whole folder to a place that can be written to"
            )
        return _open(self._database, "?mode=ro&immutable=1")

    def _files_state(self) -> tuple[int, ...]:
        """Returns what changes when a writer changes the table; last the log's length in bytes."""
        found, log = self._database.stat(), self.folder / f"{_DATABASE}-wal"
        length = log.stat().st_size if log.is_file() else 0
        return found.st_mtime_ns, found.st_size, found.st_ino, length

    def _check_new(self, create: bool) -> None:
        if not create:
            raise FirError(
                f"`index` must be the folder of an index. Received: {self.folder}, which has no "
                f"{_DATABASE}. Make one with search.py index"
            )
        if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise FirError(
                f"`index` must be a new folder or that of an index. Received: {self.folder}, "
                "which holds other files"
            )
        self.folder.mkdir(parents=True, exist_ok=True)

    def info(self) -> dict[str, Any]:
        """See `Engine`."""
        with self._lock:
            return json.loads(self._value("info", "{}"))

    def set_info(self, info: dict[str, Any]) -> None:
        """See `Engine`."""
        with self._writing():
            before = self.info().get("dimension", 0)
            check_dimension(before, info["dimension"], len(self._vectors))
            self._set_value("info", json.dumps(info))

    def upsert(self, records: Sequence[Record], vectors: np.ndarray) -> None:
        """See `Engine`."""
        if not records:
            return
        with self._writing():
            rows, dimension = self._vectors.shape
            vectors = check_vectors("vectors", vectors, dimension)
            with _durable(self._vectors_path(), "r+b") as file:
                file.seek(4 * rows * dimension)
                file.write(vectors.tobytes())
            self._connection.executemany(
                f"INSERT OR REPLACE INTO record (position, {_COLUMNS}) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                [(position, *_row(record)) for position, record in enumerate(records, rows)],
            )
            self._set_value("rows", rows + len(records))

    def update(self, records: Sequence[Record]) -> None:
        """See `Engine`."""
        with self._writing():
            self._connection.executemany(
                f"UPDATE record SET ({_COLUMNS}) = (?, ?, ?, ?, ?, ?) WHERE path = ?",
                [(*_row(record), record.path) for record in records],
            )

    def delete(self, paths: Iterable[str]) -> None:
        """See `Engine`."""
        with self._writing():
            self._connection.executemany(
                "DELETE FROM record WHERE path = ?", [(path,) for path in paths]
            )

    def search(
        self, queries: np.ndarray, k: int, where: Condition | None = None
    ) -> list[list[Hit]]:
        """See `Engine`."""
        k = check_positive("k", k)
        with self._reading():
            if not self._alive:
                return [[] for _ in queries]
            queries = check_vectors("queries", queries, self._vectors.shape[1])
            scores, positions = self._nearest(queries, min(k, self._alive), self._positions(where))
            records = self._select("position", np.unique(positions[positions >= 0]).tolist())
        return [
            in_order(
                Hit(score, records[position])
                for score, position in zip(*row, strict=True)
                if position >= 0
            )
            for row in zip(scores.tolist(), positions.tolist(), strict=True)
        ]

    def _nearest(self, queries: np.ndarray, k: int, positions: np.ndarray | None) -> Nearest:
        """Searches the vectors at some positions, in order, or at all of them where None."""
        if len(queries) == 1 and (known := self._known_bounds()):
            narrowed = known.narrow(queries[0], self._vectors, k, positions).rows
            positions = positions if narrowed is None else narrowed
        return top_k(queries, self._vectors, k, gallery_rows=positions)

    def _known_bounds(self) -> bounds.Bounds | None:
        """Returns the bounds in the folder where they are of the vectors as they lie now."""
        path = self._vectors_path().with_suffix(_BOUNDS)
        key: tuple[str, int, int, int] | None = None
        with contextlib.suppress(OSError):
            found = path.stat()
            # With the rows: a file of more than were seen then may fit later.
            key = path.name, found.st_mtime_ns, found.st_ino, len(self._vectors)
        if key != self._bounds_key:
            self._bounds_key = key
            self._bounds = bounds.read(path, self._vectors) if key else None
        return self._bounds

    def _positions(self, where: Condition | None) -> np.ndarray | None:
        """Returns the positions that may be found, in order, or None for all of them."""
        if where:
            return self._allowed(*where.written(SqliteDialect()))
        if self._alive == len(self._vectors):
            return None
        if self._living is None:
            self._living = self._allowed()
        return self._living

    def __len__(self) -> int:
        self._refresh()
        return self._alive

    def scan(self, vectors: bool = False) -> Iterator[tuple[list[Record], np.ndarray | None]]:
        """See `Engine`."""
        last = -1
        while True:
            with self._reading():
                rows = self._connection.execute(
                    f"SELECT position, {_COLUMNS} FROM record WHERE position > ? "
                    f"ORDER BY position LIMIT {_PIECE}",
                    (last,),
                ).fetchall()
                if not rows:
                    return
                last = rows[-1][0]
                read = self._vectors[[row[0] for row in rows]] if vectors else None
            yield [_record(row[1:]) for row in rows], read

    def fetch(self, paths: Sequence[str]) -> list[tuple[Record, np.ndarray]]:
        """See `Engine`."""
        with self._reading():
            found = {
                record.path: (record, np.array(self._vectors[position]))
                for position, record in self._select("path", list(paths)).items()
            }
        return [found[path] for path in paths if path in found]

    def labels(self) -> dict[str, dict[str, int]]:
        """See `Engine`."""
        with self._lock:
            return {
                column: dict(
                    self._connection.execute(
                        f"SELECT {column}, count(*) FROM record GROUP BY {column} ORDER BY {column}"
                    )
                )
                for column in ("category", "domain")
            }

    def flush(self) -> None:
        """Rewrites the vectors without the dead ones where these are more than a fifth.

        Of large indexes it also brings `fir_tf.bounds` up to date.
        """
        with self._lock:
            self._refresh()
            rows = len(self._vectors)
            if rows - self._alive > _DEAD_MAX * rows:
                self._compact()
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
            self._derive()

    def _derive(self) -> None:
        """Writes what makes a search faster and can be made again from the vectors."""
        path, rows = self._vectors_path().with_suffix(_BOUNDS), len(self._vectors)
        # A full disk, or too little memory, costs the speed, not the index.
        with contextlib.suppress(OSError, MemoryError, np.linalg.LinAlgError):
            for other in self.folder.glob(f"*{_BOUNDS}"):
                if other != path:
                    other.unlink(missing_ok=True)
            known = self._known_bounds()
            small = self._vectors.size < bounds.NUMBERS_MIN
            if small or (known and rows - known.rows <= _UNBOUND_MAX * rows):
                return
            bounds.write(path, self._vectors)

    def _compact(self) -> None:
        with self._writing():
            old, positions = self._vectors_path(), self._allowed()
            self._set_value("file", int(self._value("file", "0")) + 1)
            with _durable(self._vectors_path(), "wb") as file:
                for piece in in_pieces(positions, _PIECE):
                    file.write(self._vectors[piece].tobytes())
            # In rising order no new position meets one that is still in use.
            self._connection.executemany(
                "UPDATE record SET position = ? WHERE position = ?",
                enumerate(positions.tolist()),
            )
            self._set_value("rows", len(positions))
        # Readers that have it mapped keep it until they look again.
        old.unlink(missing_ok=True)

    def close(self) -> None:
        """See `Engine`."""
        with self._lock:
            self._connection.close()
            self._vectors = np.zeros((0, 0), np.float32)
            self._bounds = self._bounds_key = None

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Makes changes wholly or not at all, in sight of what other writers have changed."""
        with self._lock:
            with self._connection:
                self._connection.execute("BEGIN IMMEDIATE")
                self._look()
                yield
            self._refresh()

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """Keeps records and vectors of one state together, whatever others write meanwhile."""
        with self._lock:
            self._begin()
            try:
                yield
            finally:
                self._connection.execute("COMMIT")

    def _begin(self) -> None:
        """Starts a transaction on the state that the index has now."""
        if self._frozen and self._frozen != self._files_state():
            self._connection.close()
            self._connect()
            self._version = None
        while True:
            self._connection.execute("BEGIN")
            try:
                self._look()
                return
            except (OSError, FirError):
                state = self._state()
                self._connection.execute("ROLLBACK")
                # A writer that has compacted in between has removed the file.
                if self._state() == state:
                    raise

    def _refresh(self) -> None:
        """Takes over what has changed since the last look, here or in another process."""
        with self._reading():
            pass

    def _state(self) -> tuple[int, int]:
        """Returns what differs after any change, here or in another process."""
        (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        return version, self._connection.total_changes

    def _look(self) -> None:
        """Takes over what has changed since the last look; inside a transaction."""
        version = self._state()
        if version == self._version:
            return
        rows, dimension = int(self._value("rows", "0")), self.info().get("dimension", 0)
        path = self._vectors_path()
        if dimension and not rows and not path.exists():
            path.touch()
        if rows and path.stat().st_size < 4 * rows * dimension:
            raise FirError(
                f"{path} must hold {rows} vectors of {dimension} numbers. "
                f"Received: {path.stat().st_size} bytes. Copy the index's whole folder again"
            )
        # Copy on write, so that TensorFlow may use the pages where they lie.
        self._vectors = (
            np.memmap(path, np.float32, "c", shape=(rows, dimension))
            if rows
            else np.zeros((rows, dimension), np.float32)
        )
        (self._alive,) = self._connection.execute("SELECT count(*) FROM record").fetchone()
        self._living = None
        self._version = version

    def _vectors_path(self) -> Path:
        return self.folder / f"vectors-{int(self._value('file', '0')):06d}.f32"

    def _value(self, name: str, default: str) -> str:
        row = self._connection.execute("SELECT value FROM info WHERE name = ?", (name,)).fetchone()
        return row[0] if row else default

    def _set_value(self, name: str, value: str | int) -> None:
        self._connection.execute("INSERT OR REPLACE INTO info VALUES (?, ?)", (name, str(value)))

    def _allowed(self, condition: str = "1", values: Sequence[Any] = ()) -> np.ndarray:
        """Returns the positions, in order, of the records of which a condition in SQL holds."""
        rows = self._connection.execute(
            f"SELECT position FROM record WHERE {condition} ORDER BY position", values
        )
        return np.fromiter((row[0] for row in rows), np.int64)

    def _select(self, column: str, values: Sequence[Any]) -> dict[int, Record]:
        """Returns {position: Record} of the records whose column has one of the values."""
        found = {}
        for part in in_pieces(values, _VARIABLES):
            for position, *fields in self._connection.execute(
                f"SELECT position, {_COLUMNS} FROM record WHERE {column} IN ({_marks(part)})",
                part,
            ):
                found[position] = _record(fields)
        return found


def _row(record: Record) -> tuple[str, ...]:
    """Returns a Record as the table has it, in the order of _COLUMNS."""
    metadata = json.dumps(record.metadata, ensure_ascii=False, allow_nan=False)
    return record.path, record.item, record.category, record.domain, record.checksum, metadata


def _record(row: Sequence[str]) -> Record:
    path, item, category, domain, checksum, metadata = row
    return Record(path, item, category, domain, checksum, json.loads(metadata))


def _marks(values: Sequence[Any]) -> str:
    return ", ".join("?" * len(values))


def _writable(path: Path) -> bool:
    effective = os.access in os.supports_effective_ids
    return os.access(path, os.W_OK, effective_ids=effective)


@contextlib.contextmanager
def _durable(path: Path, mode: str) -> Iterator[IO[bytes]]:
    """Opens a file whose bytes are on the disk when the block has ended."""
    with open(path, mode) as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _open(database: Path, how: str = "") -> sqlite3.Connection:
    # A name with `?`, `#` or `%` is quoted.
    return sqlite3.connect(
        database.absolute().as_uri() + how,
        uri=True,
        timeout=60,
        isolation_level=None,
        check_same_thread=False,
    )


FOLDER = Scheme(
    "Exact search in this process, in a folder",
    [("FOLDER", "exact search in this process (up to a few million vectors)")],
    lambda variant, place, create, effort: LocalEngine(place, create),
    generations=lambda variant, place: FolderGenerations(
        place, lambda folder, create, effort: LocalEngine(folder, create)
    ),
)
