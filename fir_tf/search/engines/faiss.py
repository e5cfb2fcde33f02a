"""FAISS over the vectors of a local index: less work for each query, at a measured loss.

The FAISS file is derived from the vectors and can be made again from them at any time. It says
up to which position it knows them; what came later is searched exactly beside it, so a query
sees every record that was added, whatever state the file is in.
"""

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from fir_tf.errors import FirError
from fir_tf.extras import require
from fir_tf.files import replacing, write_json
from fir_tf.search.engines.base import Scheme, in_pieces
from fir_tf.search.engines.generations import FolderGenerations
from fir_tf.search.engines.local import LocalEngine, Nearest

KINDS = ("flat", "ivfpq", "hnsw")
# A share of vectors unknown to the FAISS file that is worth training it anew for.
_TAIL_MAX = 0.1
# Candidates taken from a compressed index for each result, to be scored again exactly.
_REFINE = 10
_TRAINING_PER_LIST = 64


class FaissEngine(LocalEngine):
    """Approximate search for up to tens of millions of vectors on one machine.

    Args:
        folder: str or Path.
        kind: str, "flat" (exact), "ivfpq" (inverted lists of product-quantised vectors, the least
            memory; its candidates are scored again from the stored vectors) or "hnsw" (a graph,
            the fastest query, the slowest build and the most memory).
        create: bool, whether to make a new index where there is none.
        effort: float > 0, how far to search: multiplies the lists or nodes looked at, and the
            candidates that are scored again. `search.py measure` tells what recall it gives.

    Raises:
        FirError: faiss is not installed, or `kind` is unknown.
    """

    def __init__(
        self, folder: str | Path, kind: str = "flat", create: bool = False, effort: float = 1.0
    ) -> None:
        if kind not in KINDS:
            raise FirError(f"`kind` must be one of {', '.join(KINDS)}. Received: {kind!r}")
        if not effort > 0:
            raise FirError(f"`effort` must be > 0. Received: {effort}")
        self._faiss = require("faiss", "faiss")
        self.kind, self.effort = kind, effort
        # FAISS has no types: a faiss.Index, or None where no file of one fits the vectors.
        self._index: Any = None
        self._key: tuple[int, int, int, str] | None = None
        super().__init__(folder, create)

    def _nearest(self, queries: np.ndarray, k: int, positions: np.ndarray | None) -> Nearest:
        index = self._load()
        known = index.ntotal if index is not None else 0
        inside = None if positions is None else positions[positions < known]
        # So few that scoring them all costs less, and finds them all. A graph is walked among what
        # is not allowed too: of 100,000 a filter of half cost more than scoring that half, at a
        # recall@50 of .83, and a twentieth twice as much, at .53.
        few = inside is not None and (
            self.kind == "hnsw" or len(inside) <= max(50 * k, 0.02 * known)
        )
        if index is None or few:
            return super()._nearest(queries, k, positions)
        wanted = round(k * _REFINE * max(1.0, self.effort)) if self.kind == "ivfpq" else k
        _, found = index.search(queries, min(known, wanted), params=self._parameters(index, inside))
        tail = np.arange(known, len(self._vectors))
        if positions is not None:
            tail = positions[positions >= known]
        return self._rescored(queries, found, tail, k)

    def _rescored(
        self, queries: np.ndarray, found: np.ndarray, tail: np.ndarray, k: int
    ) -> Nearest:
        """Scores candidates by the stored vectors, so that all kinds give the same scores."""
        if len(tail):
            found = np.concatenate([found, super()._nearest(queries, k, tail)[1]], axis=1)
        scores = np.full([len(queries), k], -np.inf, np.float32)
        positions = np.full([len(queries), k], -1, np.int64)
        for number, candidates in enumerate(found):
            candidates = np.unique(candidates[candidates >= 0])
            exact = self._vectors[candidates] @ queries[number]
            best = np.lexsort((candidates, -exact))[:k]
            scores[number, : len(best)] = exact[best]
            positions[number, : len(best)] = candidates[best]
        return scores, positions

    def _parameters(self, index: Any, inside: np.ndarray | None) -> Any:
        faiss = self._faiss
        selector = None if inside is None else faiss.IDSelectorBatch(inside)
        if hasattr(index, "nlist"):
            probes = min(index.nlist, max(1, round(self.effort * max(8, index.nlist / 16))))
            return faiss.SearchParametersIVF(sel=selector, nprobe=probes)
        if self.kind == "hnsw":
            return faiss.SearchParametersHNSW(sel=selector, efSearch=round(256 * self.effort))
        return faiss.SearchParameters(sel=selector)

    def _derive(self) -> None:
        index, rows = self._load(), len(self._vectors)
        known = index.ntotal if index is not None else 0
        if self._alive and rows - known > _TAIL_MAX * rows:
            self._build()

    def _build(self) -> None:
        index = self._new_index()
        rows, size = self._vectors.shape
        if not index.is_trained:
            wanted = min(rows, index.nlist * _TRAINING_PER_LIST)
            sample = np.random.default_rng(0).choice(rows, wanted, replace=False)
            index.train(self._vectors[np.sort(sample)])
        for piece in in_pieces(self._vectors, max(1, 2**26 // size)):
            index.add(np.asarray(piece))
        with replacing(self._path()) as temporary:
            self._faiss.write_index(index, str(temporary))
        # Last: a file that it does not describe is not used.
        write_json(
            self._path().with_suffix(".json"), {"rows": rows, "file": self._value("file", "0")}
        )
        self._load()

    def _new_index(self) -> Any:
        faiss, (rows, size) = self._faiss, self._vectors.shape
        if self.kind == "hnsw":
            index = faiss.IndexHNSWFlat(size, 32, faiss.METRIC_INNER_PRODUCT)
            index.hnsw.efConstruction = 200
            return index
        # Below this the inverted lists cannot be trained, and are not worth it.
        if self.kind == "flat" or rows < 10_000:
            return faiss.IndexFlatIP(size)
        lists = int(2 ** np.round(np.log2(4 * np.sqrt(rows))))
        pieces = next(number for number in range(max(1, size // 4), 0, -1) if size % number == 0)
        # "np": not polysemous. FAISS would order the codes for a search by Hamming distance that is
        # not made here, at two processor seconds for each piece.
        return faiss.index_factory(size, f"IVF{lists},PQ{pieces}np", faiss.METRIC_INNER_PRODUCT)

    def _load(self) -> Any:
        """Returns the FAISS index where its file describes the vectors as they lie now, or None."""
        path = self._path()
        key: tuple[int, int, int, str] | None = None
        with contextlib.suppress(OSError, ValueError):
            state, found = json.loads(path.with_suffix(".json").read_text()), path.stat()
            if state["file"] == self._value("file", "0"):
                key = found.st_mtime_ns, found.st_size, state["rows"], state["file"]
        if key != self._key:
            self._index = self._faiss.read_index(str(path)) if key else None
            # Written anew in between: looked at again the next time.
            if key and self._index.ntotal != key[2]:
                self._index = key = None
            self._key = key
        return self._index

    def _path(self) -> Path:
        return self.folder / f"faiss-{self.kind}.index"


FAISS = Scheme(
    "FAISS beside the same folder: exact, compressed lists or a graph",
    [
        ("faiss+flat:FOLDER", "the same folder through FAISS: exact,"),
        ("faiss+ivfpq:FOLDER", "  compressed inverted lists,"),
        ("faiss+hnsw:FOLDER", "  or a graph (up to tens of millions)"),
    ],
    lambda variant, place, create, effort: FaissEngine(place, variant or "flat", create, effort),
    generations=lambda variant, place: FolderGenerations(
        place,
        lambda folder, create, effort: FaissEngine(folder, variant or "flat", create, effort),
    ),
)
