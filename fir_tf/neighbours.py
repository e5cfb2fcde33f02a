"""Exact nearest-neighbour search by inner product, in bounded memory.

The whole [queries, gallery] score matrix is never built: it would take 4 TB for a million queries
against a million images. Blocks of it are multiplied, reduced to the best k of each query and
merged into what earlier blocks left.
"""

import contextlib
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from fir_tf.checks import check_positive
from fir_tf.errors import FirError

DEFAULT_MEMORY = 256 * 2**20

# What takes the arguments of `top_k` and returns the like.
SearchFunction = Callable[..., tuple[np.ndarray, np.ndarray]]

# Scores are compared in groups of this many neighbouring gallery rows before single ones are.
_GROUP = 16

# Numbers of queries between which the product is made with the gallery first.
_FEW, _MANY = 7, 512
# A multiple of the rows that kernels multiply at a time.
_TILE = 192

# TensorFlow's CPU kernels take memory in place only where it starts at a multiple of this.
_ALIGNMENT = 64

_BLOCK_SPEC = tf.TensorSpec([None, None], tf.float32)
_IDS_SPEC = tf.TensorSpec([None], tf.int64)
_STATE_SPEC = [
    _BLOCK_SPEC,
    _BLOCK_SPEC,
    _BLOCK_SPEC,
    tf.TensorSpec([None, None], tf.int64),
    _IDS_SPEC,
]


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
    # The gallery is the outer loop because it is the large one, and may lie on disk.
    for taken, block_rows in _blocks(gallery_rows, count, gallery_block):
        block = _tensor(gallery[taken])
        block_ids = np.empty(0) if gallery_ids is None else gallery_ids[block_rows]
        for first in range(0, len(queries), query_block):
            part = slice(first, first + query_block)
            query = np.ascontiguousarray(queries[part], np.float32)
            state = [query, block, scores[part], rows[part], block_rows]
            # Masking costs two more passes over the scores, so only where it changes something.
            if query_ids is not None and np.isin(query_ids[part], block_ids).any():
                merged = _merge_without_self(*state, query_ids[part], block_ids)
            else:
                merged = _merge(*state)
            if not math.isfinite(merged[2]):
                _raise_bad_scores(query, gallery, taken)
            scores[part], rows[part] = merged[0].numpy(), merged[1].numpy()
    return scores, rows


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
    per_score, per_row, per_query = 10, 8 * size, 8 * size + (8 * _GROUP + 100) * k
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
    gallery_block -= gallery_block % _GROUP if gallery_block > _GROUP else 0
    return query_block, max(1, min(gallery_block, gallery))


def _scores(queries: tf.Tensor, gallery: tf.Tensor) -> tf.Tensor:
    if not _keeps_ties():
        return tf.matmul(queries, gallery, transpose_b=True)
    count = tf.shape(queries)[0]
    # The many rows first: they are read as they lie, where the other order packs them anew. That
    # takes a third of the processor time of 16 queries, and no less of very few or very many.
    return tf.cond(
        (count > _FEW) & (count < _MANY),
        lambda: tf.transpose(_gallery_first(queries, gallery)),
        lambda: tf.matmul(queries, gallery, transpose_b=True),
    )


def _keeps_ties() -> bool:
    """Whether equal rows get equal scores as the first of two factors: oneDNN's with AVX-512.

    TensorFlow's own kernels and those for AVX2 sum some rows in another order than others.
    """
    limits = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
    off = os.environ.get("TF_ENABLE_ONEDNN_OPTS") == "0" or any(map(os.environ.get, limits))
    with contextlib.suppress(OSError):
        return not off and "avx512f" in Path("/proc/cpuinfo").read_text()
    return False


def _gallery_first(queries: tf.Tensor, gallery: tf.Tensor) -> tf.Tensor:
    # Some kernels sum rows that do not fill a tile in another order, and equal rows must have
    # equal scores: the last ones are multiplied among zeros.
    rest = tf.shape(gallery)[0] % _TILE
    whole = tf.shape(gallery)[0] - rest
    last = tf.pad(gallery[whole:], [[0, _TILE - rest], [0, 0]])
    scores = tf.matmul(gallery[:whole], queries, transpose_b=True)
    last = tf.matmul(last, queries, transpose_b=True)[:rest]
    return tf.concat([scores, last], axis=0)


# The number of rows is left open in both signatures, so each function is traced once in the life
# of the process and the last, shorter blocks need no padding.
@tf.function(input_signature=_STATE_SPEC, autograph=False)
def _merge(queries: tf.Tensor, gallery: tf.Tensor, *best: tf.Tensor) -> tuple[tf.Tensor, ...]:
    scores = _scores(queries, gallery)
    return *merge_best(scores, *best), tf.reduce_sum(scores)


@tf.function(input_signature=[*_STATE_SPEC, _IDS_SPEC, _IDS_SPEC], autograph=False)
def _merge_without_self(
    queries: tf.Tensor, gallery: tf.Tensor, *state: tf.Tensor
) -> tuple[tf.Tensor, ...]:
    *best, query_ids, gallery_ids = state
    scores = _scores(queries, gallery)
    total = tf.reduce_sum(scores)
    itself = tf.equal(query_ids[:, tf.newaxis], gallery_ids[tf.newaxis, :])
    scores = tf.where(itself, tf.constant(-np.inf, tf.float32), scores)
    return *merge_best(scores, *best), total


def merge_best(
    scores: tf.Tensor, best_scores: tf.Tensor, best_rows: tf.Tensor, block_rows: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Merges a block's scores into the best of earlier blocks, in graph operations.

    Args:
        scores: float32 [q, n] of the block; -inf is no result.
        best_scores: float32 [q, k] of earlier blocks, falling; -inf where there are fewer.
        best_rows: int [q, k], their gallery rows, lower than the block's; -1 where there are fewer.
        block_rows: int [n], the block's gallery rows, rising.

    Returns:
        (best scores, best rows): as those that were given; the lower row first among equals.
    """
    k = tf.shape(best_scores)[1]
    columns = tf.shape(scores)[1]
    grouped = columns - columns % _GROUP
    head_scores, head_columns = _grouped_top_k(scores[:, :grouped], k)
    tail_columns = tf.broadcast_to(
        tf.range(grouped, columns), [tf.shape(scores)[0], columns - grouped]
    )
    columns = tf.concat([head_columns, tail_columns], axis=1)
    # `tf.math.top_k` puts the lower position first among equals, and the lower gallery rows stand
    # first here: earlier blocks, then this one's groups, then its last few columns.
    candidates = tf.concat([best_scores, head_scores, scores[:, grouped:]], axis=1)
    rows = tf.concat([best_rows, tf.gather(block_rows, columns)], axis=1)
    best_scores, positions = tf.math.top_k(candidates, k)
    best_rows = tf.gather(rows, positions, batch_dims=1)
    nothing = tf.constant(-1, best_rows.dtype)
    return best_scores, tf.where(tf.math.is_inf(best_scores), nothing, best_rows)


def _grouped_top_k(scores: tf.Tensor, k: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns what `tf.math.top_k` does, up to three times faster on wide rows.

    The best k of a row lie in the k groups with the largest maxima: were one in another group,
    each of those k groups would hold a number that comes before it. Finding the maxima is nearly
    free, so `top_k` sees columns / 16 + 16 * k numbers instead of all.

    Args:
        scores: float32 [q, n], n a multiple of 16.
        k: int32 scalar.

    Returns:
        (values, columns): float32 and int32 [q, min(k, n)], ties in favour of the lower column.
    """
    shape = tf.shape(scores)
    groups = shape[1] // _GROUP
    scores = tf.reshape(scores, [shape[0], groups, _GROUP])
    _, chosen = tf.math.top_k(tf.reduce_max(scores, axis=2), tf.minimum(k, groups))
    # Back in column order, for the ties.
    chosen = tf.sort(chosen, axis=1)
    candidates = tf.gather(scores, chosen, batch_dims=1)
    candidates = tf.reshape(candidates, [shape[0], tf.shape(chosen)[1] * _GROUP])
    values, positions = tf.math.top_k(candidates, tf.minimum(k, shape[1]))
    chosen = tf.gather(chosen, positions // _GROUP, batch_dims=1)
    return values, chosen * _GROUP + positions % _GROUP


def check_embeddings(name: str, value: ArrayLike) -> np.ndarray:
    """Returns `value` as a NumPy array [n, d] of floats, without copying one that is already.

    Raises:
        FirError: it has another shape or is not of a float type.
    """
    array = np.asarray(value)
    is_float = array.dtype.kind == "f" or array.dtype == tf.bfloat16.as_numpy_dtype
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


def _tensor(block: np.ndarray) -> tf.Tensor:
    """Returns rows of the gallery as a float32 tensor, without a copy where that is possible."""
    usable = block.dtype == np.float32 and block.flags.c_contiguous and block.flags.writeable
    if usable and block.ctypes.data % _ALIGNMENT == 0:
        return tf.experimental.dlpack.from_dlpack(block.__dlpack__())
    return tf.constant(np.ascontiguousarray(block, np.float32))
