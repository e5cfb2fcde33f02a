"""FAISS over the vectors of a local index: less work for each query, at a measured loss.

The FAISS file is derived from the vectors and can be made again from them at any time. It says
up to which position it knows them; what came later is searched exactly beside it, so a query
sees every record that was added, whatever state the file is in.
"""

import json

import numpy as np

from fir_tf.errors import FirError
from fir_tf.extras import require
from fir_tf.files import replacing, write_json
from fir_tf.search.engines.base import Scheme
from fir_tf.search.engines.local import LocalEngine

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

    def __init__(self, folder, kind="flat", create=False, effort=1.0):
        if kind not in KINDS:
            raise FirError(f"`kind` must be one of {', '.join(KINDS)}. Received: {kind!r}")
        if not effort > 0:
            raise FirError(f"`effort` must be > 0. Received: {effort}")
        self._faiss = require("faiss", "faiss")
        self.kind, self.effort = kind, effort
        self._index, self._index_key, self._known = None, None, 0
        super().__init__(folder, create)

    def _nearest(self, queries, k, where):
        self._load()
        k = min(k, self._alive)
        allowed = self._positions(where)
        if self._index is None:
            return self._exact(queries, k, allowed)
        inside = None if allowed is None else allowed[allowed < self._known]
        if inside is not None and len(inside) <= max(50 * k, 0.02 * self._known):
            # So few that scoring them all costs less, and finds them all.
            return self._exact(queries, k, allowed)
        _, found = self._index.search(queries, self._candidates(k), params=self._parameters(inside))
        tail = np.arange(self._known, self._rows)
        if allowed is not None:
            tail = allowed[allowed >= self._known]
        return self._rescored(queries, found, tail, k)

    def _rescored(self, queries, found, tail, k):
        """Scores candidates by the stored vectors, so that all kinds give the same scores."""
        scores = np.full([len(queries), k], -np.inf, np.float32)
        positions = np.full([len(queries), k], -1, np.int64)
        for number, candidates in enumerate(found):
            candidates = np.unique(candidates[candidates >= 0])
            exact = self._vectors[candidates] @ queries[number]
            best = np.lexsort((candidates, -exact))[:k]
            scores[number, : len(best)] = exact[best]
            positions[number, : len(best)] = candidates[best]
        if not len(tail):
            return scores, positions
        late_scores, late = self._exact(queries, k, tail)
        scores = np.concatenate([scores, late_scores], axis=1)
        positions = np.concatenate([positions, late], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(scores, order, 1), np.take_along_axis(positions, order, 1)

    def _candidates(self, k):
        if self.kind != "ivfpq":
            return min(self._known, k)
        return min(self._known, round(k * _REFINE * max(1.0, self.effort)))

    def _parameters(self, inside):
        faiss = self._faiss
        selector = None if inside is None else faiss.IDSelectorBatch(inside)
        if hasattr(self._index, "nlist"):
            lists = self._index.nlist
            probes = min(lists, max(1, round(self.effort * max(8, lists / 16))))
            return faiss.SearchParametersIVF(sel=selector, nprobe=probes)
        if self.kind == "hnsw":
            return faiss.SearchParametersHNSW(sel=selector, efSearch=round(256 * self.effort))
        return faiss.SearchParameters(sel=selector)

    def flush(self):
        """See `Engine`."""
        super().flush()
        with self._lock:
            self._load()
            if self._alive and self._rows - self._known > _TAIL_MAX * self._rows:
                self._build()

    def _build(self):
        index = self._new_index()
        if not index.is_trained:
            wanted = min(self._rows, index.nlist * _TRAINING_PER_LIST)
            sample = np.random.default_rng(0).choice(self._rows, wanted, replace=False)
            index.train(self._vectors[np.sort(sample)])
        piece = max(1, 2**28 // self._row_bytes)
        for start in range(0, self._rows, piece):
            index.add(np.asarray(self._vectors[start : start + piece]))
        with replacing(self._path()) as temporary:
            self._faiss.write_index(index, str(temporary))
        # Last: a file that it does not describe is not used.
        write_json(
            self._path().with_suffix(".json"),
            {"rows": self._rows, "file": self._value("file", "0")},
        )
        self._load()

    def _new_index(self):
        faiss, size = self._faiss, self._dimension
        if self.kind == "hnsw":
            index = faiss.IndexHNSWFlat(size, 32, faiss.METRIC_INNER_PRODUCT)
            index.hnsw.efConstruction = 200
            return index
        # Below this the inverted lists cannot be trained, and are not worth it.
        if self.kind == "flat" or self._rows < 10_000:
            return faiss.IndexFlatIP(size)
        lists = int(2 ** np.round(np.log2(4 * np.sqrt(self._rows))))
        pieces = next(number for number in range(max(1, size // 4), 0, -1) if size % number == 0)
        # "np": not polysemous. FAISS would order the codes for a search by Hamming distance that is
        # not made here, at two processor seconds for each piece.
        return faiss.index_factory(size, f"IVF{lists},PQ{pieces}np", faiss.METRIC_INNER_PRODUCT)

    def _load(self):
        """Takes the FAISS file into use where it describes the vectors as they lie now."""
        path = self._path()
        try:
            state = json.loads(path.with_suffix(".json").read_text())
            key = (path.stat().st_mtime_ns, path.stat().st_size, state["rows"], state["file"])
        except (OSError, ValueError):
            key = None
        if key is not None and state["file"] != self._value("file", "0"):
            key = None
        if key == self._index_key:
            return
        self._index = self._faiss.read_index(str(path)) if key else None
        if self._index is not None and self._index.ntotal != state["rows"]:
            self._index, key = None, None
        self._known = self._index.ntotal if key else 0
        self._index_key = key

    def _path(self):
        return self.folder / f"faiss-{self.kind}.index"


FAISS = Scheme(
    "FAISS beside the same folder: exact, compressed lists or a graph",
    [
        ("faiss+flat:FOLDER", "the same folder through FAISS: exact,"),
        ("faiss+ivfpq:FOLDER", "  compressed inverted lists,"),
        ("faiss+hnsw:FOLDER", "  or a graph (up to tens of millions)"),
    ],
    lambda variant, place, create, effort: FaissEngine(place, variant or "flat", create, effort),
)
