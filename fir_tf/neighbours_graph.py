"""A block of exact search in TensorFlow's graph: what `fir_tf.neighbours` does with large ones."""

import contextlib
import os
from pathlib import Path

import numpy as np
import tensorflow as tf

from fir_tf.neighbours import GROUP

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


def merge(
    queries: np.ndarray,
    gallery: tf.Tensor,
    best: tuple[np.ndarray, np.ndarray],
    block_rows: np.ndarray,
    ids: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray, float]:
    """Does the same as `fir_tf.neighbours.merge_plainly`, on all cores."""
    state = [queries, gallery, *best, block_rows]
    scores, rows, total = _merge_without_self(*state, *ids) if ids else _merge(*state)
    return scores.numpy(), rows.numpy(), float(total)


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
    grouped = columns - columns % GROUP
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
    groups = shape[1] // GROUP
    scores = tf.reshape(scores, [shape[0], groups, GROUP])
    _, chosen = tf.math.top_k(tf.reduce_max(scores, axis=2), tf.minimum(k, groups))
    # Back in column order, for the ties.
    chosen = tf.sort(chosen, axis=1)
    candidates = tf.gather(scores, chosen, batch_dims=1)
    candidates = tf.reshape(candidates, [shape[0], tf.shape(chosen)[1] * GROUP])
    values, positions = tf.math.top_k(candidates, tf.minimum(k, shape[1]))
    chosen = tf.gather(chosen, positions // GROUP, batch_dims=1)
    return values, chosen * GROUP + positions % GROUP


def block_of(block: np.ndarray) -> tf.Tensor:
    """Returns rows of the gallery as a float32 tensor, without a copy where that is possible."""
    usable = block.dtype == np.float32 and block.flags.c_contiguous and block.flags.writeable
    if usable and block.ctypes.data % _ALIGNMENT == 0:
        return tf.experimental.dlpack.from_dlpack(block.__dlpack__())
    return tf.constant(np.ascontiguousarray(block, np.float32))
