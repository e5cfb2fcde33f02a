"""Exact nearest-neighbour search by inner product, in bounded memory.

The whole [queries, gallery] score matrix is never built: it would take 4 TB for a million queries
against a million images. Blocks of it are multiplied, reduced to the best k of each query and
merged into what earlier blocks left.
"""

import math
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike

from fir_tf.checks import check_positive
from fir_tf.errors import FirError

DEFAULT_MEMORY = 256 * 2**20

# What takes the arguments of `top_k` and returns the like.
SearchFunction = Callable[..., tuple[np.ndarray, np.ndarray]]

# Products that NumPy makes by itself in less time than TensorFlow takes to be imported.
_PLAIN_MAX = 2**33

# Scores are compared in groups of this many neighbouring gallery rows before single ones are.
GROUP = 16


def top_k(
    queries: ArrayLike,
    gallery: ArrayLike,
    k: int,
    *,
    query_ids: np.ndarray | None = None,
    gallery_ids: np.ndarray | None = None,
    gallery_rows: np.ndarray | None = None,
    memory: int = DEFAULT_MEMORY,
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the k gallery rows with the largest inner product for every query.

    For L2-normalised embeddings, as in the paper, this is the order of cosine similarity and of
    Euclidean distance too. The search is exact: every pair is scored. (On recent NVIDIA GPUs
    TensorFlow multiplies float32 matrices in TF32 unless
    `tf.config.experimental.enable_tensor_float_32_execution(False)` was called.)

    Order: by falling score; equal scores go to the lower gallery row. "Equal" means equal as
    float32 numbers after the multiplication.

    Args:
        queries: float array [q, d], finite. Other float types are cast to float32 block by block.
        gallery: float array [g, d], finite; may be a `np.memmap`, it is read once from start to
            end. Where TensorFlow can use it as it lies (float32, contiguous, writable or mapped
            copy-on-write, a multiple of 64 bytes into memory) it is not copied either, which
            more than halves the time of a single query.
        k: int >= 1, the number of results; may be larger than g.
        query_ids: optional int64 array [q], which image a query is. A gallery row with the same
            id is the query image itself and is left out of that query's results. Negative means
            no id: such a query or row is never left out.
        gallery_ids: int64 array [g]; given exactly when `query_ids` is.
        gallery_rows: optional int64 array [r], strictly rising: the gallery rows to search among;
            None: all of them.
        memory: working memory in bytes, which `block_sizes` keeps to. The inputs, the result
            (12 * q * k bytes) and TensorFlow itself come on top.

    Returns:
        (scores, rows): float32 [q, k] and int64 [q, k]. Where a query has fewer than k results,
        the rest is score -inf and row -1.

    Raises:
        FirError: the arrays do not fit each other, hold NaN or infinity, or are so large that
            their inner product leaves float32.
    """
    queries, gallery = check_pair("queries", queries, "gallery", gallery)
    k = check_positive("k", k)
    query_ids, gallery_ids = check_ids(query_ids, gallery_ids, len(queries), len(gallery))
    gallery_rows = _check_rows(gallery_rows, len(gallery))
    count = len(gallery) if gallery_rows is None else len(gallery_rows)
    query_block, gallery_block = block_sizes(len(queries), count, gallery.shape[1], k, memory)
    if not _is_finite(queries):
        raise_not_finite("queries", queries)

    scores = np.full([len(queries), k], -np.inf, np.float32)
    rows = np.full([len(queries), k], -1, np.int64)
    as_block, merge = _merging(len(queries) * count * gallery.shape[1])
    # The gallery is the outer loop because it is the large one, and may lie on disk.
    for taken, block_rows in _blocks(gallery_rows, count, gallery_block):
        block = as_block(gallery[taken])
        block_ids = np.empty(0) if gallery_ids is None else gallery_ids[block_rows]
        for first in range(0, len(queries), query_block):
            part = slice(first, first + query_block)
            query = np.ascontiguousarray(queries[part], np.float32)
            # Masking costs two more passes over the scores, so only where it changes something.
            same = query_ids is not None and np.isin(query_ids[part], block_ids).any()
            ids = (query_ids[part], block_ids) if query_ids is not None and same else None
            scores[part], rows[part], total = merge(
                query, block, (scores[part], rows[part]), block_rows, ids
            )
            if not math.isfinite(total):
                _raise_bad_scores(query, gallery, taken)
    return scores, rows


def _merging(products: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Returns what makes a block of gallery rows and what merges it, in NumPy or TensorFlow.

    TensorFlow where it is there already, or so much is to be done that it is worth its import.
    """
    if "tensorflow" not in sys.modules and products <= _PLAIN_MAX:
        return plain_block, merge_plainly
    from fir_tf import neighbours_graph

    return neighbours_graph.block_of, neighbours_graph.merge


def plain_block(rows: np.ndarray) -> np.ndarray:
    """Returns rows of the gallery as `merge_plainly` takes them."""
    return np.ascontiguousarray(rows, np.float32)


def merge_plainly(
    queries: np.ndarray,
    gallery: np.ndarray,
    best: tuple[np.ndarray, np.ndarray],
    block_rows: np.ndarray,
    ids: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray, float]:
    """Scores a block and merges it into the best of earlier blocks, in NumPy.

    Args:
        queries: float32 [q, d].
        gallery: float32 [n, d], the block.
        best: float32 [q, k], falling, and int64 [q, k]: scores of earlier blocks and their gallery
            rows, which are lower than the block's; -inf and -1 where there are fewer.
        block_rows: int64 [n], the block's gallery rows, rising.
        ids: int64 [q] and [n], which image each is: the query itself is left out; None where it
            is not there.

    Returns:
        (scores, rows, sum of the block's scores): as `best`; the lower row first among equals.
    """
    # Unlike BLAS it sums all rows in the same order, so that equal ones have equal scores.
    with np.errstate(all="ignore"):
        block = np.einsum("qd,nd->qn", queries, gallery)
        total = float(block.sum())
    if ids:
        block[ids[0][:, np.newaxis] == ids[1]] = -np.inf
    scores, rows = best[0].copy(), best[1].copy()
    k = scores.shape[1]
    for query, found in enumerate(block):
        candidates = np.concatenate([best[0][query], found])
        least = np.partition(candidates, -k)[-k]
        # NaN stays: the caller tells it.
        places = np.flatnonzero(~(candidates < least))
        places = places[np.argsort(-candidates[places], kind="stable")][:k]
        scores[query] = candidates[places]
        rows[query] = np.concatenate([best[1][query], block_rows])[places]
    rows[np.isinf(scores)] = -1
    return scores, rows, total


def _blocks(
    rows: np.ndarray | None, count: int, size: int
) -> Iterator[tuple[slice | np.ndarray, np.ndarray]]:
    """Yields what to take of the gallery at a time, and the rows it is."""
    for start in range(0, count, size):
        stop = min(start + size, count)
        if rows is None:
            yield slice(start, stop), np.arange(start, stop)
            continue
        block = rows[start:stop]
        # Neighbouring rows are used where they lie; others have to be gathered.
        first, last = int(block[0]), int(block[-1])
        yield (slice(first, last + 1) if last - first < len(block) else block), block


def _check_rows(rows: np.ndarray | None, length: int) -> np.ndarray | None:
    """Returns `gallery_rows` as int64, None as None.

    Raises:
        FirError: the rows are no integers, not rising, or not in the gallery.
    """
    if rows is None:
        return None
    rows = check_labels("gallery_rows", rows, len(rows))
    if len(rows) and (rows[0] < 0 or rows[-1] >= length or (np.diff(rows) <= 0).any()):
        raise FirError(
            f"`gallery_rows` must rise strictly from 0 or more to below {length}. "
            f"Received: {len(rows)} rows from {rows.min()} to {rows.max()}"
        )
    return rows


def _raise_bad_scores(queries: np.ndarray, gallery: np.ndarray, taken: slice | np.ndarray) -> None:
    """Raises the FirError that says why scores are not finite, or returns if they all are.

    Called when the sum of a block's scores is not finite. That alone can be many large scores.
    """
    block = np.ascontiguousarray(gallery[taken], np.float32)
    if not _is_finite(block):
        raise_not_finite("gallery", gallery)
    with np.errstate(all="ignore"):
        if np.isfinite(queries @ block.T).all():
            return
    raise FirError(
        "`queries` and `gallery` must have an inner product within float32: L2-normalise them. "
        f"Received: values up to {np.abs(queries).max():g} and {np.abs(block).max():g} in size"
    )


def block_sizes(
    queries: int, gallery: int, size: int, k: int, memory: int = DEFAULT_MEMORY
) -> tuple[int, int]:
    """Chooses how many queries and gallery rows to score at a time.

    Args:
        queries: int, number of queries.
        gallery: int, number of gallery rows.
        size: int, length of an embedding.
        k: int, number of results.
        memory: bytes of working memory to stay under. Never less than one query against one row
            is chosen, whatever that takes.

    Returns:
        (query_block, gallery_block), ints >= 1.
    """
    # Bytes in use at the same time. A score: the block, its masked copy, the mask, the maxima of
    # groups. A gallery row: in NumPy and in TensorFlow. A query: the same, and its candidates as
    # groups, as results of this block and of earlier ones, and as both together.
    per_score, per_row, per_query = 10, 8 * size, 8 * size + (8 * GROUP + 100) * k
    # Selecting the best k costs least in a wide block, multiplying in a square one: 8 to 1 is
    # near the best for embeddings of 512 to 2048 numbers. Solves for `gallery_block = wide *
    # query_block` within the budget.
    wide = 8
    linear = wide * per_row + per_query
    root = math.sqrt(linear**2 + 4 * wide * per_score * memory)
    query_block = max(1, int((root - linear) / (2 * wide * per_score)))
    # Blocks of equal length: a short last one multiplies at a lower speed.
    query_block = max(1, math.ceil(queries / math.ceil(max(1, queries) / query_block)))
    left = memory - query_block * per_query
    gallery_block = int(left / (per_score * query_block + per_row))
    # Whole groups: the scores are reduced as they lie, without a copy of all but the last few.
    gallery_block -= gallery_block % GROUP if gallery_block > GROUP else 0
    return query_block, max(1, min(gallery_block, gallery))


def check_embeddings(name: str, value: ArrayLike) -> np.ndarray:
    """Returns `value` as a NumPy array [n, d] of floats, without copying one that is already.

    Raises:
        FirError: it has another shape or is not of a float type.
    """
    array = np.asarray(value)
    is_float = array.dtype.kind == "f" or array.dtype.name == "bfloat16"
    if array.ndim != 2 or array.shape[1] == 0 or not is_float:
        raise FirError(
            f"`{name}` must be a float array of shape [n, d]. "
            f"Received: shape {array.shape}, type {array.dtype}"
        )
    return array


def check_pair(
    query_name: str, queries: ArrayLike, gallery_name: str, gallery: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    """Returns queries [q, d] and gallery [g, d] as NumPy arrays.

    Raises:
        FirError: one is not a float array of two dimensions, or they differ in d.
    """
    gallery = check_embeddings(gallery_name, gallery)
    queries = check_embeddings(query_name, queries)
    if queries.shape[1] != gallery.shape[1]:
        raise FirError(
            f"`{query_name}` must be a float array of shape [q, d] with the d = "
            f"{gallery.shape[1]} of `{gallery_name}`. Received: shape {queries.shape}"
        )
    return queries, gallery


def check_labels(name: str, value: ArrayLike, length: int) -> np.ndarray:
    """Returns `value` as an int64 array [length].

    Raises:
        FirError: it is not of an integer type or has another shape.
    """
    array = np.asarray(value)
    # An empty list comes out as float64.
    if array.shape != (length,) or (array.dtype.kind not in "iu" and length):
        raise FirError(
            f"`{name}` must be an integer array of shape [{length}]. "
            f"Received: shape {array.shape}, type {array.dtype}"
        )
    return array.astype(np.int64, copy=False)


def check_ids(
    query_ids: np.ndarray | None, gallery_ids: np.ndarray | None, queries: int, gallery: int
) -> tuple[np.ndarray, np.ndarray] | tuple[None, None]:
    """Returns query and gallery image ids as int64 arrays in which "no id" matches nothing.

    Args:
        query_ids: int array [queries] or None.
        gallery_ids: int array [gallery] or None.
        queries: int, number of queries.
        gallery: int, number of gallery rows.

    Returns:
        (query_ids, gallery_ids), or (None, None) when neither is given.

    Raises:
        FirError: only one is given, or one is no integer array of the right length.
    """
    if (query_ids is None) != (gallery_ids is None):
        missing = "query_ids" if query_ids is None else "gallery_ids"
        raise FirError(
            "`query_ids` and `gallery_ids` must be given together. "
            f"Received: {missing}=None and the other one given"
        )
    if query_ids is None or gallery_ids is None:
        return None, None
    query_ids = check_labels("query_ids", query_ids, queries)
    gallery_ids = check_labels("gallery_ids", gallery_ids, gallery)
    return np.where(query_ids < 0, -1, query_ids), np.where(gallery_ids < 0, -2, gallery_ids)


def raise_not_finite(name: str, array: np.ndarray) -> NoReturn:
    """Raises the FirError that says how many rows of `array` [n, d] hold NaN or infinity."""
    bad: list[int] = []
    for start in range(0, len(array), 4096):
        block = array[start : start + 4096].astype(np.float32)
        bad.extend(start + np.flatnonzero(~np.isfinite(block).all(axis=1)))
    raise FirError(
        f"`{name}` must be finite. Received: NaN or infinity in {len(bad)} of {len(array)} rows, "
        f"the first is row {bad[0]}"
    )


def _is_finite(array: np.ndarray) -> bool:
    # Two reductions that pass NaN on, and no boolean copy of the array.
    return not array.size or (math.isfinite(array.max()) and math.isfinite(array.min()))
