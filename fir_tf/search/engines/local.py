"""An index in a folder: vectors in one flat file, records in SQLite.

A vector is written and brought to the disk before the transaction that says it is there, so a
killed writer leaves at most bytes behind the last known vector, which the next one overwrites.
"""

import contextlib
import json
import os
import sqlite3
import threading
from pathlib import Path

import numpy as np

from fir_tf.checks import check_positive
from fir_tf.errors import FirError
from fir_tf.search.engines.base import Engine, Hit, Record, Scheme, check_vectors, in_order

_SCHEMA = """
CREATE TABLE IF NOT EXISTS info (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS record (
    position INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, item TEXT NOT NULL,
    category TEXT NOT NULL, domain TEXT NOT NULL, checksum TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS record_category ON record (category, domain);
"""
_COLUMNS = "path, item, category, domain, checksum"
_DATABASE = "records.sqlite"
# SQLite takes no more variables than this in one statement on its oldest supported versions.
_VARIABLES = 900
_PIECE = 8192
# A share of dead vectors that is worth rewriting the file for.
_DEAD_MAX = 0.2


class LocalEngine(Engine):
    """Exact search in a memory-mapped file, in bounded memory and on all cores.

    Args:
        folder: str or Path.
        create: bool, whether to make a new index where there is none.

    Raises:
        FirError: `folder` holds no index, or something else.
    """

    def __init__(self, folder, create=False):
        self.folder = Path(folder)
        self._lock = threading.RLock()
        database = self.folder / _DATABASE
        if not database.is_file():
            self._check_new(create)
        self._connect()
        self._version = None
        self._refresh()

    def _connect(self):
        database = self.folder / _DATABASE
        # Without the right to write, a state of the files that no writer changes; else None.
        self._frozen = None
        try:
            if database.is_file() and not (_writable(database) and _writable(self.folder)):
                self._connection = self._read_only(database)
                return
            self._connection = _open(database)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.executescript(_SCHEMA)
        except sqlite3.Error as error:
            raise FirError(f"{database} must be an index's table. Received: {error}") from error

    def _read_only(self, database):
        """Opens the table without the lock and log files that SQLite keeps beside it."""
        connection = _open(database, "?mode=ro")
        try:
            # While a writer elsewhere keeps them, they can be read too.
            connection.execute("SELECT count(*) FROM record")
            return connection
        except sqlite3.OperationalError:
            connection.close()
        self._frozen = self._files_state()
        if self._frozen[1]:
            raise FirError(
                f"{self.folder} cannot be written to, and {database.name}-wal in it holds changes "
                "that a writer has not finished. Let search.py index run there once more, or copy "
                "the index's whole folder to a place that can be written to"
            )
        return _open(database, "?mode=ro&immutable=1")

    def _files_state(self):
        """Returns what changes when a writer changes the table, and the log's length in bytes."""
        database = self.folder / _DATABASE
        found, log = database.stat(), database.with_name(f"{_DATABASE}-wal")
        state = (found.st_mtime_ns, found.st_size, found.st_ino)
        return state, log.stat().st_size if log.is_file() else 0

    def _check_new(self, create):
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

    def info(self):
        """See `Engine`."""
        with self._lock:
            return json.loads(self._value("info", "{}"))

    def set_info(self, info):
        """See `Engine`."""
        with self._lock, self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            before = json.loads(self._value("info", "{}")).get("dimension")
            if before not in (None, info["dimension"]) and self._rows:
                raise FirError(
                    f"`dimension` must stay {before}, the length of the index's vectors. "
                    f"Received: {info['dimension']}"
                )
            self._set_value("info", json.dumps(info))
        self._refresh()

    def upsert(self, records, vectors):
        """See `Engine`."""
        if not records:
            return
        vectors = check_vectors("vectors", vectors, self._dimension)
        with self._lock, self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            rows = int(self._value("rows", "0"))
            with open(self._vectors_path(), "r+b") as file:
                file.seek(rows * self._row_bytes)
                file.write(vectors.tobytes())
                file.flush()
                os.fsync(file.fileno())
            self._connection.executemany(
                f"INSERT OR REPLACE INTO record (position, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)",
                [
                    (rows + number, r.path, r.item, r.category, r.domain, r.checksum)
                    for number, r in enumerate(records)
                ],
            )
            self._set_value("rows", rows + len(records))
        self._refresh()

    def delete(self, paths):
        """See `Engine`."""
        with self._lock, self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany(
                "DELETE FROM record WHERE path = ?", [(path,) for path in paths]
            )
        self._refresh()

    def search(self, queries, k, where=None):
        """See `Engine`."""
        k = check_positive("k", k)
        with self._reading():
            if not self._alive:
                return [[] for _ in queries]
            queries = check_vectors("queries", queries, self._dimension)
            scores, positions = self._nearest(queries, k, where)
            records = self._records(np.unique(positions[positions >= 0]))
        return [
            in_order(
                Hit(float(score), records[int(position)])
                for score, position in zip(*row, strict=True)
                if position >= 0
            )
            for row in zip(scores, positions, strict=True)
        ]

    def _nearest(self, queries, k, where):
        """Returns scores float32 [q, k] and positions int64 [q, k], -1 where there is none."""
        return self._exact(queries, min(k, self._alive), self._positions(where))

    def _exact(self, queries, k, positions):
        # TensorFlow takes seconds to import, which --help has not.
        from fir_tf.neighbours import top_k

        return top_k(queries, self._vectors, k, gallery_rows=positions)

    def _positions(self, where):
        """Returns the positions that may be found, in order, or None for all of them."""
        if not where:
            if self._alive == self._rows:
                return None
            if self._living is None:
                self._living = self._column("SELECT position FROM record ORDER BY position")
            return self._living
        clauses, values = [], []
        for column, allowed in (("category", where.categories), ("domain", where.domains)):
            if allowed:
                clauses.append(f"{column} IN ({', '.join('?' * len(allowed))})")
                values += allowed
        return self._column(
            f"SELECT position FROM record WHERE {' AND '.join(clauses)} ORDER BY position", values
        )

    def __len__(self):
        self._refresh()
        return self._alive

    def scan(self, vectors=False):
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
            yield [Record(*row[1:]) for row in rows], read

    def fetch(self, paths):
        """See `Engine`."""
        paths = list(paths)
        with self._reading():
            rows = self._select("path", paths)
            found = {row[1]: (Record(*row[1:]), np.array(self._vectors[row[0]])) for row in rows}
        return [found[path] for path in paths if path in found]

    def labels(self):
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

    def flush(self):
        """Rewrites the vectors without the dead ones where these are more than a fifth."""
        with self._lock:
            self._refresh()
            if self._rows - self._alive > _DEAD_MAX * self._rows:
                self._compact()
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def _compact(self):
        with self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            # What another writer has added since the last look.
            self._look()
            old = self._vectors_path()
            number = int(self._value("file", "0")) + 1
            positions = self._column("SELECT position FROM record ORDER BY position")
            with open(self._file(number), "wb") as file:
                for start in range(0, len(positions), _PIECE):
                    file.write(self._vectors[positions[start : start + _PIECE]].tobytes())
                file.flush()
                os.fsync(file.fileno())
            # In rising order no new position meets one that is still in use.
            self._connection.executemany(
                "UPDATE record SET position = ? WHERE position = ?",
                ((new, int(old)) for new, old in enumerate(positions)),
            )
            self._set_value("rows", len(positions))
            self._set_value("file", number)
        self._refresh()
        # Readers that have it mapped keep it until they look again.
        old.unlink(missing_ok=True)

    def close(self):
        """See `Engine`."""
        with self._lock:
            self._connection.close()
            self._vectors = None

    @contextlib.contextmanager
    def _reading(self):
        """Keeps records and vectors of one state together, whatever others write meanwhile."""
        with self._lock:
            self._begin()
            try:
                yield
            finally:
                self._connection.execute("COMMIT")

    def _begin(self):
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

    def _refresh(self):
        """Takes over what has changed since the last look, here or in another process."""
        with self._reading():
            pass

    def _state(self):
        """Returns what differs after any change, here or in another process."""
        return (
            self._connection.execute("PRAGMA data_version").fetchone()[0],
            self._connection.total_changes,
        )

    def _look(self):
        """Takes over what has changed since the last look; inside a transaction."""
        version = self._state()
        if version == self._version:
            return
        rows = int(self._value("rows", "0"))
        alive = self._connection.execute("SELECT count(*) FROM record").fetchone()[0]
        dimension = json.loads(self._value("info", "{}")).get("dimension", 0)
        path, row_bytes, shape = self._vectors_path(), 4 * dimension, (rows, dimension)
        if dimension and not rows and not path.exists():
            path.touch()
        if rows and path.stat().st_size < rows * row_bytes:
            raise FirError(
                f"{path} must hold {rows} vectors of {dimension} numbers. "
                f"Received: {path.stat().st_size} bytes. Copy the index's whole folder again"
            )
        # Copy on write, so that TensorFlow may use the pages where they lie.
        self._vectors = (
            np.memmap(path, np.float32, "c", shape=shape) if rows else np.zeros(shape, np.float32)
        )
        self._rows, self._alive, self._living = rows, alive, None
        self._dimension, self._row_bytes = dimension, row_bytes
        self._version = version

    def _file(self, number):
        return self.folder / f"vectors-{number:06d}.f32"

    def _vectors_path(self):
        return self._file(int(self._value("file", "0")))

    def _value(self, name, default):
        row = self._connection.execute("SELECT value FROM info WHERE name = ?", (name,)).fetchone()
        return row[0] if row else default

    def _set_value(self, name, value):
        self._connection.execute("INSERT OR REPLACE INTO info VALUES (?, ?)", (name, str(value)))

    def _column(self, statement, values=()):
        rows = self._connection.execute(statement, values)
        return np.fromiter((row[0] for row in rows), np.int64)

    def _select(self, column, values):
        rows = []
        for start in range(0, len(values), _VARIABLES):
            part = values[start : start + _VARIABLES]
            rows += self._connection.execute(
                f"SELECT position, {_COLUMNS} FROM record "
                f"WHERE {column} IN ({', '.join('?' * len(part))})",
                part,
            ).fetchall()
        return rows

    def _records(self, positions):
        rows = self._select("position", positions.tolist())
        return {row[0]: Record(*row[1:]) for row in rows}


def _writable(path):
    effective = os.access in os.supports_effective_ids
    return os.access(path, os.W_OK, effective_ids=effective)


def _open(database, how=""):
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
)
