"""Milvus: a cluster by its URL, or the same client on a file of its own (milvus-lite)."""

import dataclasses
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np

from fir_tf.checks import check_positive
from fir_tf.errors import FirError
from fir_tf.extras import require
from fir_tf.search.conditions import FIELDS, Condition, Dialect, Value, kind_of
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
from fir_tf.search.engines.generations import Generations

KINDS = ("flat", "hnsw")
# Milvus' own limits: results of one search, bytes of a string; and messages of some megabytes.
_MOST = 16_384
_TEXT = 65_535
_MESSAGE = 2**22
# Bytes of each field, the key first. A longer path has no room in a key of every Milvus version.
_SIZES = {"path": 4096, "item": 4096, "category": 4096, "domain": 2048, "checksum": 128}
# The client writes keys between quotes without escaping them.
_UNSAFE = re.compile(r"[%\"'\\\x00-\x1f\x7f]")


class MilvusEngine(Engine):
    """A collection of Milvus.

    Args:
        uri: str, the cluster's URL, or a file ending in .db for milvus-lite.
        collection: str, its name.
        kind: str, "flat" (exact) or "hnsw".
        create: bool, whether to make a new collection where there is none.

    Raises:
        FirError: pymilvus or milvus-lite is not installed, nothing answers, or there is no such
            collection.
    """

    def __init__(
        self, uri: str, collection: str = "catalogue", kind: str = "flat", create: bool = False
    ) -> None:
        if kind not in KINDS:
            raise FirError(f"`kind` must be one of {', '.join(KINDS)}. Received: {kind!r}")
        self._pymilvus = require("pymilvus", "milvus")
        self.kind, self.collection = kind, collection
        self._notes = f"{collection}_info"
        self._fields = [*_SIZES, "metadata"]
        self._client = _client(uri)
        there = self._client.has_collection(self._notes)
        if not there and not create:
            raise FirError(
                f"`index` must be an index. Received: {uri}, which has no collection "
                f"{collection!r}. Make one with search.py index"
            )
        if not there:
            self._create(self._notes, 2, {"name": 64, "value": _TEXT}, "flat")
        self._client.load_collection(self._notes)
        self._dimension = self.info().get("dimension", 0)
        if self._dimension and self._client.has_collection(collection):
            self._client.load_collection(collection)
            self._fields = self._stored_fields()

    def _stored_fields(self) -> list[str]:
        """Returns the fields of a record; a collection made before there were metadata has none."""
        stored = self._client.describe_collection(self.collection)["fields"]
        return [field["name"] for field in stored if field["name"] != "vector"]

    def info(self) -> dict[str, Any]:
        """See `Engine`."""
        rows = self._client.get(self._notes, ids=["info"], output_fields=["value"])
        return json.loads(rows[0]["value"]) if rows else {}

    def set_info(self, info: dict[str, Any]) -> None:
        """See `Engine`."""
        dimension = info["dimension"]
        check_dimension(self._dimension, dimension, len(self))
        if self._dimension != dimension:
            self._client.drop_collection(self.collection)
            self._create(self.collection, dimension, _SIZES, self.kind, metadata=True)
            self._client.load_collection(self.collection)
        row = {"name": "info", "value": json.dumps(info), "vector": [0.0, 0.0]}
        self._client.upsert(self._notes, [row])
        self._dimension = dimension

    def _create(
        self,
        name: str,
        dimension: int,
        sizes: Mapping[str, int],
        kind: str,
        metadata: bool = False,
    ) -> None:
        """Makes a collection of vectors with strings of some bytes, the first of them the key."""
        types = self._pymilvus.DataType
        schema = self._client.create_schema(auto_id=False)
        for number, (field, size) in enumerate(sizes.items()):
            schema.add_field(field, types.VARCHAR, max_length=size, is_primary=not number)
        if metadata:
            schema.add_field("metadata", types.JSON)
        schema.add_field("vector", types.FLOAT_VECTOR, dim=dimension)
        index = self._client.prepare_index_params()
        params = {"M": 32, "efConstruction": 200} if kind == "hnsw" else {}
        index.add_index("vector", index_type=kind.upper(), metric_type="IP", params=params)
        # A search sees all that was written before it, whichever client wrote it.
        self._client.create_collection(
            name, schema=schema, index_params=index, consistency_level="Strong"
        )

    def _message_rows(self) -> int:
        return max(1, _MESSAGE // (4 * self._dimension))

    def upsert(self, records: Sequence[Record], vectors: np.ndarray) -> None:
        """See `Engine`."""
        if not records:
            return
        vectors = check_vectors("vectors", vectors, self._dimension)
        rows = [
            {**_row(record), "vector": vector}
            for record, vector in zip(records, vectors, strict=True)
        ]
        for part in in_pieces(rows, self._message_rows()):
            self._client.upsert(self.collection, part)

    def delete(self, paths: Iterable[str]) -> None:
        """See `Engine`."""
        for part in in_pieces(list(map(_key, paths)), 1000):
            self._client.delete(self.collection, ids=part)

    def search(
        self, queries: np.ndarray, k: int, where: Condition | None = None
    ) -> list[list[Hit]]:
        """See `Engine`."""
        k = check_positive("k", k)
        if not self._dimension:
            return [[] for _ in queries]
        queries = check_vectors("queries", queries, self._dimension)
        params = {"params": {"ef": max(256, k)}} if self.kind == "hnsw" else {}
        found: list[Any] = []
        for part in in_pieces(queries, 256):
            found += self._client.search(
                self.collection,
                data=list(part),
                limit=min(k, _MOST),
                filter=where.written(_Expressions()) if where else "",
                output_fields=self._fields,
                search_params=params,
            )
        return [
            in_order(Hit(float(hit["distance"]), _record(hit["entity"])) for hit in row)
            for row in found
        ]

    def __len__(self) -> int:
        if not self._dimension:
            return 0
        return self._client.query(self.collection, output_fields=["count(*)"])[0]["count(*)"]

    def scan(self, vectors: bool = False) -> Iterator[tuple[list[Record], np.ndarray | None]]:
        """See `Engine`."""
        if not self._dimension:
            return
        iterator = self._client.query_iterator(
            self.collection,
            batch_size=min(4096, self._message_rows()),
            output_fields=[*self._fields, *(["vector"] if vectors else [])],
        )
        try:
            while rows := iterator.next():
                read = np.array([row["vector"] for row in rows], np.float32) if vectors else None
                yield [_record(row) for row in rows], read
        finally:
            iterator.close()

    def fetch(self, paths: Sequence[str]) -> list[tuple[Record, np.ndarray]]:
        """See `Engine`."""
        if not paths or not self._dimension:
            return []
        rows = self._client.get(
            self.collection, ids=list(map(_key, paths)), output_fields=[*self._fields, "vector"]
        )
        records = [(_record(row), np.array(row["vector"], np.float32)) for row in rows]
        found = {record.path: (record, vector) for record, vector in records}
        return [found[path] for path in paths if path in found]

    def flush(self) -> None:
        """See `Engine`."""
        if self._dimension:
            self._client.flush(self.collection)
            self._client.load_collection(self.collection)

    def close(self) -> None:
        """See `Engine`."""
        self._client.close()


class MilvusGenerations(Generations):
    """Generations of an index in Milvus: collections side by side, a row names the current.

    Milvus has no locks: what `search.py index` writes during the switch is in the old generation,
    and the command says so at its end.

    Args:
        uri: str, see `MilvusEngine`.
        collection: str, see `MilvusEngine`.
        kind: str, see `MilvusEngine`.
    """

    _ROWS = 'name like "generations-%"'

    def __init__(self, uri: str, collection: str, kind: str) -> None:
        self._uri, self._collection, self._kind = uri, collection, kind
        self._notes = f"{collection}_info"
        self._client = _client(uri)
        self._loaded = False

    def stored(self) -> Mapping[str, Any]:
        """See `Generations`."""
        if not self._loaded:
            if not self._client.has_collection(self._notes):
                return {}
            self._client.load_collection(self._notes)
            self._loaded = True
        rows = self._client.query(self._notes, filter=self._ROWS, output_fields=["name", "value"])
        return json.loads(max(rows, key=lambda row: row["name"])["value"]) if rows else {}

    def store(self, values: dict[str, Any]) -> None:
        """See `Generations`."""
        # A row of its own for each state: there is no moment without one, and the last counts.
        name = f"generations-{values['number']:012d}"
        row = {"name": name, "value": json.dumps(values), "vector": [0.0, 0.0]}
        self._client.upsert(self._notes, [row])
        rows = self._client.query(self._notes, filter=self._ROWS, output_fields=["name"])
        old = [row["name"] for row in rows if row["name"] < name]
        if old:
            self._client.delete(self._notes, ids=old)

    def engine(self, name: str, create: bool, effort: float) -> MilvusEngine:
        """See `Generations`."""
        return MilvusEngine(self._uri, self._named(name), self._kind, create)

    def _named(self, name: str) -> str:
        return f"{self._collection}_{name}" if name else self._collection

    def drop(self, name: str) -> None:
        """See `Generations`."""
        collection = self._named(name)
        self._client.drop_collection(collection)
        if name:
            self._client.drop_collection(f"{collection}_info")
        else:
            # The collection beside it has the row that names the current.
            self._client.delete(self._notes, ids=["info"])

    def close(self) -> None:
        """See `Generations`."""
        self._client.close()


def _client(uri: str) -> Any:
    """Connects with Milvus; the connection is tried."""
    pymilvus = require("pymilvus", "milvus")
    try:
        client = pymilvus.MilvusClient(uri, token=os.environ.get("MILVUS_TOKEN", ""), timeout=60)
        client.list_collections()
        return client
    except Exception as error:
        # The client raises its own errors, gRPC's and, for milvus-lite, many others.
        raise FirError(f"no Milvus answers at {uri}. Received: {error}") from error


class _Expressions(Dialect[str]):
    """Milvus' language."""

    def ordered(self, column: str, sign: str, value: Value) -> str:
        """See `Dialect`."""
        return self.all([self.known(column), f"{_place(column)} {sign} {_literal(value)}"])

    def one_of(self, column: str, values: Sequence[Value]) -> str:
        """See `Dialect`."""
        if column in FIELDS:
            return f"{column} in {_list([v for v in values if v and kind_of(v) == 'text'])}"
        place = _place(column)
        equal = [f"{place} == {_literal(value)}" for value in values]
        equal.append(f"json_contains_any({place}, {_list(values)})")
        # What is said of a key that is not there is neither true nor false.
        return self.all([self.known(column), self.any(equal)])

    def known(self, column: str) -> str:
        """See `Dialect`."""
        return f'({column} != "")' if column in FIELDS else f"(exists {_place(column)})"

    def all(self, parts: Sequence[str]) -> str:
        """See `Dialect`."""
        return f"({' and '.join(parts)})" if parts else '(path != "")'

    def any(self, parts: Sequence[str]) -> str:
        """See `Dialect`."""
        return f"({' or '.join(parts)})" if parts else '(path == "")'

    def negated(self, part: str) -> str:
        """See `Dialect`."""
        return f"(not ({part}))"


def _place(column: str) -> str:
    return column if column in FIELDS else f"metadata[{_quoted(column)}]"


def _literal(value: Value) -> str:
    return _quoted(value) if isinstance(value, str) else json.dumps(value)


def _list(values: Sequence[Value]) -> str:
    return f"[{', '.join(map(_literal, values))}]"


def _quoted(text: str) -> str:
    """Returns a string as Milvus' language writes it; of controls it knows these escapes alone."""
    for letter, escape in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\r", "\\r")):
        text = text.replace(letter, escape)
    return f'"{text}"'


def _key(path: str) -> str:
    """Returns a path without letters that end a string in Milvus' language: those as %XX."""
    return _UNSAFE.sub(lambda found: f"%{ord(found[0]):02X}", path)


def _row(record: Record) -> dict[str, Any]:
    """Returns a Record as Milvus stores it; FirError if a field has no room."""
    row = {**dataclasses.asdict(record), "path": _key(record.path)}
    sizes = {name: len(row[name].encode()) for name in _SIZES}
    sizes["metadata"] = len(json.dumps(row["metadata"]))
    for name, size in sizes.items():
        if size > _SIZES.get(name, _TEXT):
            raise FirError(
                f"`{name}` must be at most {_SIZES.get(name, _TEXT):,} bytes in Milvus. Received: "
                f"{size:,} bytes, of the photo {record.path!r}"
            )
    return row


def _record(row: Mapping[str, Any]) -> Record:
    path = re.sub("%([0-9A-F]{2})", lambda found: chr(int(found[1], 16)), row["path"])
    fields = {name: row[name] for name in (*_SIZES, "metadata") if name in row}
    return Record(**{**fields, "path": path})


def _parsed(variant: str, place: str) -> tuple[str, str, str]:
    """Returns (URI, collection, kind) of an address."""
    if variant not in ("", "http", "https"):
        raise FirError(
            f"`index` must be milvus+http://HOST:PORT/NAME. Received: milvus+{variant}:{place}"
        )
    if variant:
        parts = urlsplit(f"{variant}:{place}")
        uri, name, query = f"{parts.scheme}://{parts.netloc}", parts.path.strip("/"), parts.query
    else:
        (uri, _, query), name = place.partition("?"), ""
        if not uri.endswith(".db"):
            raise FirError(f"`index` must be milvus:FILE.db. Received: milvus:{place!r}")
    return uri, name or "catalogue", parse_qs(query).get("kind", ["flat"])[0]


MILVUS = Scheme(
    "Milvus, in a file or on a cluster",
    [
        ("milvus:FILE.db", "Milvus' embedded mode"),
        (
            "milvus+http://HOST:19530/NAME",
            "a Milvus cluster's collection (https too; the environment",
        ),
        ("", "  variable MILVUS_TOKEN logs in); ?kind=hnsw for a graph"),
    ],
    lambda variant, place, create, effort: MilvusEngine(*_parsed(variant, place), create),
    generations=lambda variant, place: MilvusGenerations(*_parsed(variant, place)),
)
