"""Which vectors can be among the best k of a query, told from the first numbers of rotated ones.

A rotation by the eigenvectors of the second moment keeps inner products and moves most of the
length of embeddings into their first numbers. With y and z the first numbers of a rotated vector
and of the query, and s and t the lengths of what is left of both, the inner product is at most
y z + s t (Cauchy and Schwarz). Vectors of which that is below the k-th best score seen so far are
not read any further; the answer stays the same. Source: Li and others, "FEXIPRO: Fast and Exact
Inner Product Retrieval in Recommender Systems" (2017).

The bounds lie in a file that is derived from the vectors: it can be removed at any time.
"""

import contextlib
import itertools
import json
import math
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fir_tf.files import replacing

# Vectors of fewer numbers than this are searched faster as they are: 256 MB.
NUMBERS_MIN = 2**26
# Reading a row out of order takes this many times what it takes in order.
_SCATTERED = 4
# What all stages may cost of what reading all numbers in order does, to be worth it.
_COST_MAX = 0.6
_SAMPLE, _TRIALS, _TYPICAL_K = 16_384, 64, 50
_WIDTHS = (32, 64, 96, 128, 192, 256, 384, 512)
_HEADER, _PIECE, _CHECKED = 4096, 8192, 32
_GROUP = 32


class Narrowed(NamedTuple):
    """Vectors that can be among the best.

    Attributes:
        rows: int64 [r], rising, or None where scoring all costs less.
        read: int, bytes of the bounds and vectors that were read to tell.
    """

    rows: np.ndarray | None
    read: int


class Bounds:
    """Upper bounds of the inner products with vectors, in a few stages that read ever more.

    Args:
        rotation: float64 [d, w], orthonormal columns, w one less than the last stage's width.
        stages: list of float32 [rows, width]: the first width - 1 numbers of each rotated
            vector and the length of the others. None: the bounds are of no use.
        rows: int, how many vectors they are of.
        norm: float, the largest length of a vector.
    """

    def __init__(
        self, rotation: np.ndarray, stages: list[np.ndarray], rows: int, norm: float
    ) -> None:
        self.rotation, self.stages, self.rows, self.norm = rotation, stages, rows, norm

    def narrow(
        self, query: np.ndarray, vectors: np.ndarray, k: int, rows: np.ndarray | None = None
    ) -> Narrowed:
        """Finds the vectors that can be among the k with the largest inner product.

        No other vector is among the first k of `fir_tf.neighbours.top_k`, whatever the order in
        which that sums: the bounds leave room for the rounding of float32 (not of TF32). Several
        queries cost less together, by scoring all.

        Args:
            query: float32 [d].
            vectors: float32 [n, d] with n at least `self.rows`; what comes after those is kept.
            k: int >= 1.
            rows: int64 [r], strictly rising, to search among; None: all.

        Returns:
            Narrowed.
        """
        inside = rows if rows is None else rows[: np.searchsorted(rows, self.rows)]
        count = self.rows if inside is None else len(inside)
        largest = float(np.linalg.norm(query.astype(np.float64))) * self.norm
        # Beyond these float32 underflows or overflows.
        fits = 1e-30 < largest < 1e30
        few = count < max(2 * _GROUP * k, self.rows // _SCATTERED, NUMBERS_MIN / len(query))
        if not self.stages or not fits or few:
            return Narrowed(None, 0)
        kept = self._narrow(query, vectors, k, inside)
        if kept.rows is None:
            return kept
        later = np.arange(self.rows, len(vectors)) if rows is None else rows[count:]
        return kept._replace(rows=np.concatenate([kept.rows, later]))

    def _narrow(
        self, query: np.ndarray, vectors: np.ndarray, k: int, rows: np.ndarray | None
    ) -> Narrowed:
        rotated, lengths = _rotated(query[np.newaxis], self.rotation)
        kept, read, least = rows, 0, np.float32(0)
        for stage, following in itertools.pairwise([*self.stages, vectors]):
            width = stage.shape[1]
            asked = _with_rest(rotated[:, : width - 1], lengths)[0].astype(np.float32)
            if not read:
                # All in order, also those that are not asked for.
                bounds = stage @ asked if rows is None else (stage @ asked)[rows]
                likely = _likely(bounds, 4 * k + 64)
                scores = vectors[likely if rows is None else rows[likely]] @ query
                least = self._least(scores, float(lengths[0]), len(query), k)
                read += stage.nbytes + 4 * len(query) * len(likely)
            else:
                bounds = stage[kept] @ asked
                read += 4 * width * len(bounds)
            # What a damaged file has no bound of stays.
            left = np.flatnonzero(~(bounds < least))
            kept = left if kept is None else kept[left]
            if len(kept) * _SCATTERED * following.shape[1] > _COST_MAX * self.rows * len(query):
                return Narrowed(None, read)
        return Narrowed(kept, read)

    def _least(self, scores: np.ndarray, length: float, size: int, k: int) -> np.float32:
        """Returns the bound below which no vector is among the best, given scores of some."""
        # Rounding: of three sums of `size` products (these scores, and both that `top_k`
        # compares), of one as long as a stage, and of the numbers that are stored. Twice that.
        slack = (3 * size + self.stages[-1].shape[1] + 8) * 2.0**-23 * self.norm * length
        least = float(np.partition(scores, -k)[-k]) - slack
        return np.nextafter(np.float32(least), np.float32(-np.inf))


def _likely(bounds: np.ndarray, count: int) -> np.ndarray:
    """Returns places, rising, where `bounds` [n] has large ones: each the best of a group."""
    groups = len(bounds) // _GROUP
    grouped = bounds[: groups * _GROUP].reshape(_GROUP, groups)
    count = min(count, groups)
    chosen = np.argpartition(grouped.max(axis=0), groups - count)[groups - count :]
    return np.sort(grouped[:, chosen].argmax(axis=0) * groups + chosen)


def _with_rest(first: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Appends the length of what is left to the first numbers of vectors with these lengths."""
    left = lengths**2 - np.einsum("nd,nd->n", first, first)
    # Never too short, whatever float64 has rounded.
    left = np.sqrt(np.maximum(left, 0) + 1e-10 * lengths**2) * (1 + 2.0**-22)
    return np.concatenate([first, left[:, np.newaxis]], axis=1)


def _rotated(vectors: np.ndarray, rotation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the first numbers of rotated vectors and the vectors' lengths, in float64."""
    vectors = vectors.astype(np.float64)
    return vectors @ rotation, np.linalg.norm(vectors, axis=1)


def learn(vectors: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Learns a rotation and how many numbers to look at.

    Args:
        vectors: float32 [n, d], finite; some of them are looked at.

    Returns:
        (rotation float64 [d, w], widths), none of both where no stages would cost less than
        reading all.
    """
    rows, size = vectors.shape
    sample = vectors[np.unique(np.linspace(0, rows - 1, _SAMPLE).astype(np.int64))]
    sample = sample.astype(np.float64)
    rotation = np.linalg.eigh(sample.T @ sample)[1][:, ::-1]
    k = max(1, round(_TYPICAL_K * len(sample) / rows))
    chosen = np.linspace(0, len(sample) - 1, _TRIALS).astype(np.int64)
    scores = sample[chosen] @ sample.T
    # A query is not in the index, as a rule.
    scores[np.arange(len(chosen)), chosen] = -np.inf
    least = np.partition(scores, -k, axis=1)[:, -k]
    shares = {}
    rotated, lengths = _rotated(sample, rotation)
    for width in (width for width in _WIDTHS if width < size):
        bounds = _with_rest(rotated[:, : width - 1], lengths)
        shares[width] = float((bounds[chosen] @ bounds.T >= least[:, np.newaxis]).mean())
    # Numbers of a row that are read, by stages; in order first, then scattered.
    costs: dict[tuple[int, ...], float] = {(): float(size)}
    for first, second in itertools.combinations_with_replacement(shares, 2):
        between = _SCATTERED * shares[first] * second if first < second else 0
        costs[first, second] = first + between + _SCATTERED * shares[second] * size
    best = min(costs, key=costs.__getitem__)
    if costs[best] > _COST_MAX * size:
        return rotation[:, :0], []
    widths: list[int] = sorted(set(best))
    return np.ascontiguousarray(rotation[:, : widths[-1] - 1]), widths


def write(path: Path, vectors: np.ndarray) -> None:
    """Learns bounds of vectors and writes them, to a temporary name that is renamed.

    Args:
        path: Path.
        vectors: float32 [n, d], n >= 1, finite.

    Raises:
        OSError: the file cannot be written.
    """
    rotation, widths = learn(vectors)
    norm = 0.0
    rows, size = vectors.shape
    starts = _starts(rotation.size, widths, rows)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.seek(_HEADER)
        file.write(rotation.tobytes())
        for row in range(0, rows if widths else 0, _PIECE):
            rotated, lengths = _rotated(vectors[row : row + _PIECE], rotation)
            norm = max(norm, float(lengths.max()))
            for width, start in zip(widths, starts, strict=False):
                file.seek(start + 4 * width * row)
                file.write(_with_rest(rotated[:, : width - 1], lengths).astype("<f4").tobytes())
        header = {"rows": rows, "size": size, "widths": widths, "norm": norm}
        file.seek(0)
        file.write(json.dumps(header).encode())
        file.truncate(starts[-1])
        # `read` looks at some rows alone: a failing machine must not leave others empty.
        file.flush()
        os.fsync(file.fileno())


def _starts(numbers: int, widths: list[int], rows: int) -> list[int]:
    """Returns at which byte each stage begins behind a rotation's numbers, and the file's end."""
    lengths = [4 * rows * width for width in widths]
    starts = itertools.accumulate([_HEADER + 8 * numbers, *lengths])
    return list(starts)


def read(path: Path, vectors: np.ndarray) -> Bounds | None:
    """Opens bounds where they are of these vectors, or of the first of them.

    Args:
        path: Path that `write` has written.
        vectors: float32 [n, d].

    Returns:
        Bounds, memory-mapped, or None where the file is missing, cut off, or of other vectors.
    """
    # What is not as `write` leaves it is as good as missing.
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        with open(path, "rb") as file:
            header = json.loads(file.read(_HEADER).rstrip(b"\0"))
            length = os.fstat(file.fileno()).st_size
        rows, size, widths = header["rows"], header["size"], header["widths"]
        rotated_to = widths[-1] - 1 if widths else 0
        *starts, end = _starts(size * rotated_to, widths, rows)
        if size != vectors.shape[1] or not 0 < rows <= len(vectors) or length != end:
            return None
        rotation = np.fromfile(path, np.float64, size * rotated_to, offset=_HEADER)
        rotation = rotation.reshape(size, rotated_to)
        stages = [
            np.memmap(path, np.float32, "r", start, (rows, width)).view(np.ndarray)
            for start, width in zip(starts, widths, strict=True)
        ]
        chosen = np.unique(np.linspace(0, rows - 1, _CHECKED).astype(np.int64))
        rotated, lengths = _rotated(vectors[chosen], rotation)
        for stage, width in zip(stages, widths, strict=True):
            expected = _with_rest(rotated[:, : width - 1], lengths)
            if not np.allclose(stage[chosen], expected, 1e-5, 1e-5 * header["norm"]):
                return None
        if math.isfinite(header["norm"]):
            return Bounds(rotation, stages, rows, header["norm"])
    return None
