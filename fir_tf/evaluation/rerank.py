"""Better answers from the same embeddings: query expansion, re-ranking, whitening."""

import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike
from tqdm import tqdm

from fir_tf.errors import FirError
from fir_tf.files import replacing
from fir_tf.neighbours import SearchFunction, check_embeddings, top_k
from fir_tf.options import Improvements

Result = TypeVar("Result")


def expanded(queries: np.ndarray, near: Iterable[np.ndarray], alpha: float) -> np.ndarray:
    """Expands queries float32 [q, d] by their nearest vectors, see `expand_query`."""
    found = [
        expand_query(query, vectors, alpha) for query, vectors in zip(queries, near, strict=True)
    ]
    return np.array(found, np.float32).reshape(queries.shape)


def reranked(
    query: np.ndarray,
    results: list[Result],
    vectors_of: Callable[[list[Result]], np.ndarray],
    count: int,
) -> list[Result]:
    """Ranks a query's first results anew, see `k_reciprocal`.

    Args:
        query: float32 [d], unit length.
        results: list, best first.
        vectors_of: function of results to their embeddings, float32 [n, d].
        count: int, how many are ranked anew; the others stay behind them.
    """
    head = results[:count]
    if len(head) < 2:
        return results
    order = k_reciprocal(query, vectors_of(head))
    return [*(head[place] for place in order), *results[count:]]


def better_search(improvements: Improvements) -> SearchFunction:
    """Returns a function to call instead of `fir_tf.neighbours.top_k`.

    Args:
        improvements: Improvements.

    Returns:
        function with the arguments and results of `top_k`; scores stay the inner products with
        the (expanded) query, in the new order.
    """
    if not improvements.expand and not improvements.rerank:
        return top_k

    def search(
        queries: ArrayLike, gallery: np.ndarray, k: int, **options: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        def find(vectors: np.ndarray, count: int) -> list[list[tuple[float, int]]]:
            scores, rows = top_k(vectors, gallery, count, **options)
            return [
                [(score, row) for score, row in zip(*both, strict=True) if row >= 0]
                for both in zip(scores.tolist(), rows.tolist(), strict=True)
            ]

        def vectors_of(results: list[tuple[float, int]]) -> np.ndarray:
            return np.asarray(gallery[[row for _, row in results]], np.float32)

        queries, how = np.asarray(queries, np.float32), improvements
        if how.expand:
            queries = expanded(
                queries, map(vectors_of, find(queries, how.expand)), how.expand_alpha
            )
        found = find(queries, max(k, how.rerank))
        if how.rerank:
            bar = tqdm(found, "re-ranking", unit="query", disable=None, leave=False)
            pairs = zip(queries, bar, strict=True)
            found = [reranked(query, hits, vectors_of, how.rerank) for query, hits in pairs]
        scores = np.full([len(queries), k], -np.inf, np.float32)
        rows = np.full([len(queries), k], -1, np.int64)
        for place, results in enumerate(found):
            for column, (score, row) in enumerate(results[:k]):
                scores[place, column], rows[place, column] = score, row
        return scores, rows

    return search


def expand_query(query: np.ndarray, neighbours: np.ndarray, alpha: float = 3.0) -> np.ndarray:
    """Alpha query expansion (Radenovic et al. 2018, section 5.4 after Chum et al. 2007).

    The query is replaced by the normalised sum of itself and its nearest gallery images, each
    weighted by its similarity to the power of alpha; those of negative similarity weigh nothing.

    Args:
        query: float32 [d], unit length.
        neighbours: float32 [n, d], unit length.
        alpha: float >= 0; 0 is the plain mean.

    Returns:
        float32 [d], unit length.

    Raises:
        FirError: alpha is negative.
    """
    if not alpha >= 0:
        raise FirError(f"`expand_alpha` must be >= 0. Received: {alpha}")
    if not len(neighbours):
        return query
    similarity = neighbours @ query
    weights = np.where(similarity > 0, np.maximum(similarity, 0) ** alpha, 0)
    total = query + weights @ neighbours
    return (total / np.linalg.norm(total)).astype(np.float32)


def k_reciprocal(
    query: np.ndarray, candidates: np.ndarray, k1: int = 20, k2: int = 6, weight: float = 0.3
) -> np.ndarray:
    """Ranks a query's candidates anew by the neighbours they share (Zhong et al. 2017).

    Two images are alike if they are among each other's k1 nearest and so are their neighbours.
    Each image is described by its reciprocal neighbours, weighted by exp(-distance), averaged
    over its k2 nearest (local query expansion); the Jaccard distance of the descriptions is mixed
    with the squared Euclidean distance, divided by its largest value in each column as in the
    authors' program.

    Args:
        query: float32 [d], unit length.
        candidates: float32 [n, d], unit length: the results to be ranked.
        k1: int, neighbours looked at.
        k2: int, neighbours averaged over.
        weight: float in [0, 1], of the original distance ("lambda" in the paper).

    Returns:
        int64 [n], the candidates' numbers, best first.
    """
    vectors = np.concatenate([query[np.newaxis], candidates]).astype(np.float64)
    count = len(vectors)
    distance = np.maximum(2 - 2 * vectors @ vectors.T, 0)
    distance /= np.maximum(distance.max(axis=0, keepdims=True), 1e-12)
    order = np.argsort(distance, axis=1, kind="stable")
    described = np.zeros_like(distance)
    for row in range(count):
        members = _reciprocal(order, row, k1)
        expanded = members
        for member in members:
            near = _reciprocal(order, member, max(1, round(k1 / 2)))
            if len(np.intersect1d(near, members)) > 2 / 3 * len(near):
                expanded = np.union1d(expanded, near)
        weights = np.exp(-distance[row, expanded])
        described[row, expanded] = weights / weights.sum()
    if k2 > 1:
        described = described[order[:, :k2]].mean(axis=1)
    shared = np.minimum(described[0], described[1:]).sum(axis=1)
    jaccard = 1 - shared / (2 - shared)
    final = (1 - weight) * jaccard + weight * distance[0, 1:]
    return np.argsort(final, kind="stable")


def _reciprocal(order: np.ndarray, row: int, k: int) -> np.ndarray:
    """Returns those of the k nearest of `row`, itself included, that have it among theirs."""
    forward = order[row, : k + 1]
    return forward[(order[forward, : k + 1] == row).any(axis=1)]


def whitening(vectors: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Learns PCA-whitening (Jegou and Chum 2012) from embeddings.

    Args:
        vectors: float array [n, d], such as the training images' embeddings.
        size: int, numbers to keep, at most min(n - 1, d).

    Returns:
        (mean, matrix): float32 [d] and [d, size]; `(vectors - mean) @ matrix`, normalised, are
        the whitened embeddings.

    Raises:
        FirError: there are too few vectors for `size`.
    """
    vectors = check_embeddings("vectors", vectors).astype(np.float64)
    largest = min(len(vectors) - 1, vectors.shape[1])
    if not 1 <= size <= largest:
        raise FirError(f"`size` must be between 1 and {largest}. Received: {size}")
    mean = vectors.mean(axis=0)
    _, spread, directions = np.linalg.svd(vectors - mean, full_matrices=False)
    scale = spread[:size] / np.sqrt(len(vectors) - 1)
    if scale[-1] < 1e-6 * scale[0]:
        raise FirError(
            f"`size` must be at most {int((scale >= 1e-6 * scale[0]).sum())}, the directions these "
            f"vectors differ in. Received: {size}"
        )
    return mean.astype(np.float32), (directions[:size] / scale[:, np.newaxis]).T.astype(np.float32)


def whiten(vectors: ArrayLike, mean: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Applies `whitening`: float32 [n, d] -> float32 [n, size] of unit length.

    Raises:
        FirError: the vectors have another length than those it was learned from.
    """
    if np.shape(vectors)[1] != len(mean):
        raise FirError(
            f"`whitening` must be learned from embeddings of this model, {np.shape(vectors)[1]} "
            f"numbers each. Received: one of {len(mean)}"
        )
    whitened = (np.asarray(vectors, np.float32) - mean) @ matrix
    return whitened / np.maximum(np.linalg.norm(whitened, axis=1, keepdims=True), 1e-12)


def write_whitening(path: str | Path, mean: np.ndarray, matrix: np.ndarray) -> None:
    """Writes what `whitening` returns as one .npz file."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, mean=mean, matrix=matrix)


def read_whitening(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads what `write_whitening` wrote.

    Returns:
        (mean, matrix), see `whitening`.

    Raises:
        FirError: there is no such file, or it holds something else.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            mean, matrix = file["mean"], file["matrix"]
        good = mean.ndim == 1 and matrix.ndim == 2 and len(mean) == len(matrix)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise FirError(
            f"`whitening` must be a file that evaluate.py --whiten wrote. Received: {path}: {error}"
        ) from error
    if not good:
        raise FirError(
            "`whitening` must be a file that evaluate.py --whiten wrote. Received: "
            f"{path}, with shapes {mean.shape} and {matrix.shape}"
        )
    return mean, matrix
