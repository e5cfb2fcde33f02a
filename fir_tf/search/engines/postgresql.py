"""PostgreSQL with pgvector: vectors and records in a table of a database that is there anyway.

Every change is a transaction, several processes write at a time, and a reader sees the last
finished state. Search is exact, or walks an HNSW graph that the database keeps up to date.
"""

import contextlib
import json
import logging
import math
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import numpy as np

from fir_tf.checks import check_positive
from fir_tf.errors import FirError
from fir_tf.extras import require
from fir_tf.search.conditions import FIELDS, AllOf, Condition, Value
from fir_tf.search.engines.base import (
    Engine,
    Hit,
    Record,
    Scheme,
    check_dimension,
    check_vectors,
    in_order,
    shown,
)
from fir_tf.search.engines.generations import Generations, acquire
from fir_tf.search.engines.sql import Sql, SqlDialect

KINDS = ("", "hnsw")
_COLUMNS = "path, item, category, domain, checksum, metadata"
_TYPES = ("text", "text", "text", "text", "text", "jsonb", "vector")
_INFO_TABLE = "CREATE TABLE IF NOT EXISTS {name}_info (name text PRIMARY KEY, value text NOT NULL)"
# Text is compared by its bytes, whatever the database's language.
_TABLE = """
DROP TABLE IF EXISTS {name};
CREATE TABLE {name} (
    path text COLLATE "C" PRIMARY KEY, item text COLLATE "C" NOT NULL,
    category text COLLATE "C" NOT NULL, domain text COLLATE "C" NOT NULL, checksum text NOT NULL,
    metadata jsonb NOT NULL, embedding vector({dimension}) NOT NULL);
CREATE INDEX ON {name} (category, domain);
"""
_SET = "(item, category, domain, checksum, metadata"
_UPSERT = f"""
INSERT INTO {{name}} ({_COLUMNS}, embedding) SELECT {_COLUMNS}, embedding FROM incoming
ON CONFLICT (path) DO UPDATE SET {_SET}, embedding) = (EXCLUDED.item, EXCLUDED.category,
    EXCLUDED.domain, EXCLUDED.checksum, EXCLUDED.metadata, EXCLUDED.embedding)
"""
_UPDATE = f"UPDATE {{name}} SET {_SET}) = (%s, %s, %s, %s, %s::jsonb) WHERE path = %s"
_NEAR = f"""
SELECT {_COLUMNS}, embedding <#> %s AS distance FROM {{name}} WHERE {{condition}}
ORDER BY {{order}} LIMIT %s
"""
# An image of no item stands for itself.
_ITEM = "item, CASE item WHEN '' THEN path ELSE '' END"
_BEST = f"SELECT DISTINCT ON ({_ITEM}) * FROM near ORDER BY {_ITEM}, distance, path"
# pgvector's limits: numbers of a vector in a graph, in float32 and float16; nodes looked at.
_LONGEST, _LONGEST_HALF, _MOST_NODES = 2000, 4000, 1000
# The graph's neighbours of a node, nodes looked at for a new one and for a query: as FAISS' engine.
_GRAPH, _NODES = "m = 32, ef_construction = 200", 256
# The table keeps vectors of so many numbers beside the records, where a scan reads them faster.
_INSIDE = 1500
_PIECE = 4096


class PostgresqlEngine(Engine):
    """A table of a PostgreSQL database with pgvector >= 0.8.

    Args:
        url: str, the database's; its `?table=` names the table ("catalogue").
        kind: str, "" (exact) or "hnsw".
        create: bool, whether to make a new index where there is none.
        effort: float > 0, multiplies the nodes of the graph that are looked at.
        generation: str, see `fir_tf.search.engines.generations`.

    Raises:
        FirError: psycopg is not installed, no database answers, it has no pgvector, or there is
            no such index.
    """

    def __init__(
        self,
        url: str,
        kind: str = "",
        create: bool = False,
        effort: float = 1.0,
        generation: str = "",
    ) -> None:
        _check_kind(kind)
        if not effort > 0:
            raise FirError(f"`effort` must be > 0. Received: {effort}")
        self._psycopg = require("psycopg", "postgresql")
        self._vectors = require("pgvector.psycopg", "postgresql")
        pool = require("psycopg_pool", "postgresql")
        self.kind, self.effort = kind, effort
        self._url, name = _parsed(url)
        self._name = _table(name, generation)
        self._errors = (self._psycopg.Error, pool.PoolTimeout)
        # Of its attempts to reach the database the last is told as an error.
        logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
        with _told(self._url, self._errors):
            self._prepare(create)
            self._pool = pool.ConnectionPool(
                self._url,
                min_size=1,
                max_size=8,
                timeout=30,
                open=True,
                configure=self._vectors.register_vector,
                check=pool.ConnectionPool.check_connection,
            )
        self._dimension: int = self.info().get("dimension", 0)

    def _prepare(self, create: bool) -> None:
        """Makes what is missing; apart from the pool, which waits where this says what is wrong."""
        with self._psycopg.connect(self._url, connect_timeout=10) as connection:
            # Of two that come at the same time the second finds all that it needs.
            connection.execute("SELECT pg_advisory_xact_lock(hashtext('fir_tf'))")
            if create:
                connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
                connection.execute(_INFO_TABLE.format(name=self._name))
                return
            found = connection.execute("SELECT to_regclass(%s)", [f"{self._name}_info"])
            if found.fetchone() == (None,):
                raise FirError(
                    f"`index` must be an index. Received: {shown(self._url)}, which has no table "
                    f"{self._name!r} of one. Make one with search.py index"
                )

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Any]:
        """Lends a connection; what is done with it happens wholly or not at all."""
        with _told(self._url, self._errors), self._pool.connection() as connection:
            yield connection

    def _rows(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._transaction() as connection:
            return connection.execute(query, values).fetchall()

    def info(self) -> dict[str, Any]:
        """See `Engine`."""
        rows = self._rows(f"SELECT value FROM {self._name}_info WHERE name = 'info'")
        return json.loads(rows[0][0]) if rows else {}

    def set_info(self, info: dict[str, Any]) -> None:
        """See `Engine`."""
        dimension = info["dimension"]
        check_dimension(self._dimension, dimension, len(self))
        if self.kind and dimension > _LONGEST_HALF:
            raise FirError(
                f"postgresql+hnsw: takes vectors of at most {_LONGEST_HALF} numbers. Received: "
                f"{dimension}. Use postgresql:, which is exact, or a model with --embedding_size"
            )
        with self._transaction() as connection:
            if dimension != self._dimension:
                connection.execute(_TABLE.format(name=self._name, dimension=dimension))
                if dimension <= _INSIDE:
                    inside = f"ALTER TABLE {self._name} ALTER embedding SET STORAGE PLAIN"
                    connection.execute(inside)
            connection.execute(
                f"INSERT INTO {self._name}_info VALUES ('info', %s) "
                "ON CONFLICT (name) DO UPDATE SET value = EXCLUDED.value",
                [json.dumps(info)],
            )
        self._dimension = dimension

    def upsert(self, records: Sequence[Record], vectors: np.ndarray) -> None:
        """See `Engine`."""
        if not records:
            return
        vectors = check_vectors("vectors", vectors, self._dimension)
        # In one order, so that no two writers wait for each other.
        order = sorted(range(len(records)), key=lambda row: records[row].path)
        copied = f"COPY incoming ({_COLUMNS}, embedding) FROM STDIN (FORMAT BINARY)"
        with self._transaction() as connection:
            connection.execute(f"CREATE TEMP TABLE incoming (LIKE {self._name}) ON COMMIT DROP")
            with connection.cursor().copy(copied) as copy:
                copy.set_types(_TYPES)
                for row in order:
                    copy.write_row([*self._row(records[row]), vectors[row]])
            connection.execute(_UPSERT.format(name=self._name))

    def _row(self, record: Record) -> list[Any]:
        """Returns a Record as the table has it, in the order of _COLUMNS."""
        fields = [record.path, record.item, record.category, record.domain, record.checksum]
        return [*fields, self._psycopg.types.json.Jsonb(record.metadata)]

    def update(self, records: Sequence[Record]) -> None:
        """See `Engine`."""
        rows = [[*self._row(r)[1:], r.path] for r in sorted(records, key=lambda r: r.path)]
        with self._transaction() as connection:
            connection.cursor().executemany(_UPDATE.format(name=self._name), rows)

    def delete(self, paths: Iterable[str]) -> None:
        """See `Engine`."""
        if self._dimension:
            with self._transaction() as connection:
                connection.execute(f"DELETE FROM {self._name} WHERE path = ANY(%s)", [list(paths)])

    def search(
        self, queries: np.ndarray, k: int, where: Condition | None = None
    ) -> list[list[Hit]]:
        """See `Engine`."""
        return self._search(queries, check_positive("k", k), where, items=False)

    def search_items(
        self, queries: np.ndarray, k: int, where: Condition | None = None
    ) -> list[list[Hit]]:
        """See `Engine`."""
        return self._search(queries, check_positive("k", k), where, items=True)

    def _search(
        self, queries: np.ndarray, k: int, where: Condition | None, items: bool
    ) -> list[list[Hit]]:
        if not self._dimension:
            return [[] for _ in queries]
        queries = check_vectors("queries", queries, self._dimension)
        condition = (where or AllOf(())).written(PostgresqlDialect())
        with self._transaction() as connection:
            return [
                in_order(
                    Hit(-distance, Record(*fields))
                    for *fields, distance in self._nearest(connection, query, k, condition, items)
                )
                for query in queries
            ]

    def _nearest(
        self, connection: Any, query: np.ndarray, k: int, condition: Sql, items: bool
    ) -> list[Any]:
        """Returns the rows of the k best, of each item one or of all."""
        graph, wanted = bool(self.kind), 4 * k if items else k
        while True:
            near, values = self._near(query, condition, wanted, graph)
            self._set_up(connection, graph, wanted)
            best = f"({_BEST}) AS best" if items else "near"
            rows = connection.execute(
                f"WITH near AS ({near}) SELECT *, (SELECT count(*) FROM near) FROM {best} "
                "ORDER BY distance, path LIMIT %s",
                [*values, k],
            ).fetchall()
            seen = rows[0][-1] if rows else 0
            if len(rows) == k or (seen < wanted and not graph):
                return [row[:-1] for row in rows]
            if seen == wanted:
                wanted *= 4
            else:
                # A walk ends where too few of those that it comes by are allowed.
                graph = False

    def _near(self, query: np.ndarray, condition: Sql, count: int, graph: bool) -> Sql:
        """Writes the query for the nearest images, by the graph or by all vectors."""
        text, values = condition
        order = self._graph("%s") if graph else "embedding <#> %s, path"
        near = _NEAR.format(name=self._name, condition=text, order=order)
        return near, [query, *values, query, count]

    def _graph(self, query: str = "") -> str:
        """Writes what the graph is over, or the distance to a query in it."""
        half = f"halfvec({self._dimension})" if self._dimension > _LONGEST else ""
        what = f"(embedding::{half})" if half else "embedding"
        return f"{what} <#> {query}{f'::vector::{half}' if half else ''}" if query else what

    def _set_up(self, connection: Any, graph: bool, count: int) -> None:
        """Tells the database for this transaction whether to walk the graph, and how far."""
        settings = {"enable_indexscan": "on" if graph else "off"}
        if graph:
            nodes = min(_MOST_NODES, round(max(_NODES, 2 * count) * self.effort))
            settings["hnsw.ef_search"] = str(max(1, nodes))
            settings["hnsw.iterative_scan"] = "strict_order"
        for name, value in settings.items():
            connection.execute("SELECT set_config(%s, %s, true)", [name, value])

    def __len__(self) -> int:
        return self._rows(f"SELECT count(*) FROM {self._name}")[0][0] if self._dimension else 0

    def labels(self) -> dict[str, dict[str, int]]:
        """See `Engine`."""
        if not self._dimension:
            return {"category": {}, "domain": {}}
        counted = "SELECT {0}, count(*) FROM {1} GROUP BY {0} ORDER BY {0}"
        return {
            name: dict(self._rows(counted.format(name, self._name)))
            for name in ("category", "domain")
        }

    def scan(self, vectors: bool = False) -> Iterator[tuple[list[Record], np.ndarray | None]]:
        """See `Engine`."""
        columns, last = f"{_COLUMNS}, embedding" if vectors else _COLUMNS, ""
        query = f"SELECT {columns} FROM {self._name} WHERE path > %s ORDER BY path LIMIT {_PIECE}"
        while self._dimension and (rows := self._rows(query, [last])):
            last = rows[-1][0]
            read = np.stack([row[-1].to_numpy() for row in rows]) if vectors else None
            yield [Record(*row[:6]) for row in rows], read

    def fetch(self, paths: Sequence[str]) -> list[tuple[Record, np.ndarray]]:
        """See `Engine`."""
        if not self._dimension:
            return []
        rows = self._rows(
            f"SELECT {_COLUMNS}, embedding FROM {self._name} WHERE path = ANY(%s)", [list(paths)]
        )
        found = {row[0]: (Record(*row[:6]), row[6].to_numpy()) for row in rows}
        return [found[path] for path in paths if path in found]

    def flush(self) -> None:
        """See `Engine`. The graph is made the first time; a reader does not wait for it."""
        if not self._dimension:
            return
        with self._transaction() as connection:
            # Two at a time would each wait for the other's lock of the table.
            connection.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [self._name])
            if self.kind:
                kind = "halfvec" if self._dimension > _LONGEST else "vector"
                connection.execute(
                    f"CREATE INDEX IF NOT EXISTS {self._name}_hnsw ON {self._name} "
                    f"USING hnsw ({self._graph()} {kind}_ip_ops) WITH ({_GRAPH})"
                )
            connection.execute(f"ANALYZE {self._name}")

    def close(self) -> None:
        """See `Engine`."""
        self._pool.close()


class PostgresqlDialect(SqlDialect):
    """PostgreSQL, with a record's metadata as jsonb and conditions on it as JSON paths."""

    mark = "%s"

    def ordered(self, column: str, sign: str, value: Value) -> Sql:
        """See `Dialect`."""
        if column in FIELDS:
            return self.field(column, sign, value)
        return self._exists("strict", column, f"@ {sign} $value", value)

    def one_of(self, column: str, values: Sequence[Value]) -> Sql:
        """See `Dialect`."""
        if column in FIELDS:
            texts = [value for value in values if isinstance(value, str) and value]
            return f"({column} = ANY(%s))", [texts]
        return self._exists("lax", column, "@ == $value[*]", list(values))

    def known(self, column: str) -> Sql:
        """See `Dialect`."""
        return (f"({column} <> '')", []) if column in FIELDS else ("(metadata ? %s)", [column])

    def _exists(self, mode: str, column: str, condition: str, value: Any) -> Sql:
        """A JSON path that finds a value; lax looks into lists, strict does not."""
        path = f"{mode} $.{json.dumps(column)} ? ({condition})"
        given = json.dumps({"value": value})
        # Without it, null where strict finds no such key.
        found = "coalesce(jsonb_path_exists(metadata, %s::jsonpath, %s::jsonb, true), false)"
        return found, [path, given]


class PostgresqlGenerations(Generations):
    """Generations of an index in a database: tables side by side, a row names the current.

    Args:
        url: str, see `PostgresqlEngine`.
        kind: str, see `PostgresqlEngine`.
    """

    def __init__(self, url: str, kind: str = "") -> None:
        _check_kind(kind)
        self._psycopg = require("psycopg", "postgresql")
        self._given, self._kind = url, kind
        self._url, self._name = _parsed(url)
        self._lock = threading.Lock()
        # Opened when something is asked.
        self._connection: Any = None

    def _connected(self) -> Any:
        return self._psycopg.connect(self._url, connect_timeout=10, autocommit=True)

    def _execute(self, query: str, values: Sequence[Any] | None = None) -> Any:
        """Asks the database; over a new connection where the old one has broken since."""
        with self._lock, _told(self._url, (self._psycopg.Error,)):
            if self._connection is not None and not self._connection.closed:
                try:
                    return self._connection.execute(query, values)
                except self._psycopg.OperationalError:
                    self._connection.close()
            self._connection = self._connected()
            return self._connection.execute(query, values)

    def stored(self) -> Mapping[str, Any]:
        """See `Generations`."""
        info = f"{self._name}_info"
        if self._execute("SELECT to_regclass(%s)", [info]).fetchone() == (None,):
            return {}
        row = self._execute(f"SELECT value FROM {info} WHERE name = 'generations'").fetchone()
        return json.loads(row[0]) if row else {}

    def store(self, values: dict[str, Any]) -> None:
        """See `Generations`."""
        self._execute(
            f"INSERT INTO {self._name}_info VALUES ('generations', %s) "
            "ON CONFLICT (name) DO UPDATE SET value = EXCLUDED.value",
            [json.dumps(values)],
        )

    def engine(self, name: str, create: bool, effort: float) -> PostgresqlEngine:
        """See `Generations`."""
        return PostgresqlEngine(self._given, self._kind, create, effort, name)

    def drop(self, name: str) -> None:
        """See `Generations`."""
        table = _table(self._name, name)
        # The first one's other table has the row that names the current.
        own = f"DROP TABLE IF EXISTS {table}_info"
        rest = own if name else f"DELETE FROM {table}_info WHERE name = 'info'"
        self._execute(f"DROP TABLE IF EXISTS {table}; {rest}")

    @contextlib.contextmanager
    def holding(self, what: str, alone: bool = False, seconds: float = math.inf) -> Iterator[None]:
        """See `Generations`."""
        tried = f"SELECT pg_try_advisory_lock{'' if alone else '_shared'}(hashtext(%s))"
        key = [f"fir_tf {what} {self._name}"]
        with _told(self._url, (self._psycopg.Error,)):
            connection = self._connected()
        # It holds the lock until it is closed, or its process is dead.
        with contextlib.closing(connection):
            with _told(self._url, (self._psycopg.Error,)):
                acquire(lambda: connection.execute(tried, key).fetchone() == (True,), what, seconds)
            yield

    def close(self) -> None:
        """See `Generations`."""
        if self._connection is not None:
            self._connection.close()


@contextlib.contextmanager
def _told(url: str, errors: tuple[type[Exception], ...]) -> Iterator[None]:
    """Turns the database's errors into messages."""
    try:
        yield
    except errors as error:
        # Of the classes of errors these say that the connection is gone.
        state = getattr(error, "sqlstate", None) or "08"
        advice = ""
        if state.startswith(("08", "57P")):
            advice = ". Is it running? The same command goes on when it answers"
        text = " ".join(str(error).split())
        raise FirError(f"the database {shown(url)} says: {text}{advice}") from error


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise FirError(f"`index` must be postgresql: or postgresql+hnsw:. Received: +{kind}")


def _table(name: str, generation: str) -> str:
    """Returns the name of a generation's table."""
    return f"{name}_{generation}" if generation else name


def _parsed(url: str) -> tuple[str, str]:
    """Returns the database's URL and the table's name."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    name = query.pop("table", "catalogue")
    if not re.fullmatch(r"[a-z_][a-z0-9_]{0,50}", name):
        raise FirError(
            "`table` must be small letters, digits and _, at most 51 of them. "
            f"Received: {name!r} in {shown(url)}"
        )
    # PostgreSQL's library does not take + for a space.
    return urlunsplit(parts._replace(query=urlencode(query, quote_via=quote))), name


POSTGRESQL = Scheme(
    "PostgreSQL with pgvector, exact or a graph",
    [
        ("postgresql://HOST/DATABASE", "a table of a PostgreSQL database with pgvector: exact,"),
        ("postgresql+hnsw://HOST/DATABASE", "  or a graph; ?table=NAME, PGUSER and PGPASSWORD"),
        ("", "  or USER:PASSWORD@HOST log in"),
    ],
    lambda variant, place, create, effort: PostgresqlEngine(
        f"postgresql:{place}", variant, create, effort
    ),
    generations=lambda variant, place: PostgresqlGenerations(f"postgresql:{place}", variant),
)
