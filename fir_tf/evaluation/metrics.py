"""What retrieval and classification are worth: definitions, formulas, worked examples.

Every score is a fraction from 0 to 1, computed in float64. Nothing here knows a data set.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fir_tf import neighbours
from fir_tf.errors import FirError

# Bytes that one query and one of its neighbours take while they are judged: score and row from
# the search, item, match, running count, precision and their products.
_BYTES_PER_NEIGHBOUR = 72


def classification_accuracy(
    scores: ArrayLike, categories: Sequence[int] | np.ndarray, ks: Iterable[int] = (1, 3, 5)
) -> dict[str, float]:
    """Top-k accuracy: the share of images whose true category is among the k best scored ones.

        `accuracy(k) = |{images : rank of the true category <= k}| / |images of known category|`

    The rank counts the categories with a strictly larger score, those with an equal score and a
    lower index, and the true one itself. The paper's Table 2 gives it for k = 3 and 5.

    An image of unknown category (-1) takes no part; `classification_protocol` counts them. Where
    no category is known the accuracy is undefined, and the dict is empty.

    Args:
        scores: float array [n, c], logits or probabilities; not NaN.
        categories: int array [n], the true index into the c scores, or -1.
        ks: ints >= 1. With k >= c every image counts as right.

    Returns:
        dict of float by name, `category_top1`, `category_top3` and `category_top5` for those ks.

    Raises:
        FirError: wrong shapes or types, a category outside the scores, NaN.

    Example:
        The first image's category is scored highest, the second's comes third (one is larger,
        one equal with a lower index), the third's is unknown.

        >>> scores = np.array([[0.7, 0.2, 0.1], [0.2, 0.6, 0.2], [0.1, 0.2, 0.7]])
        >>> classification_accuracy(scores, [0, 2, -1], ks=(1, 2, 3))
        {'category_top1': 0.5, 'category_top2': 0.5, 'category_top3': 1.0}
    """
    ks, ranks = _check_ks(ks), category_ranks(scores, categories)
    known = ranks[ranks > 0]
    return {f"category_top{k}": float(np.mean(known <= k)) for k in ks} if len(known) else {}


def category_ranks(scores: ArrayLike, categories: Sequence[int] | np.ndarray) -> np.ndarray:
    """Ranks the true category of each image among all by its score, as `classification_accuracy`.

    Args:
        scores: float array [n, c], logits or probabilities; not NaN.
        categories: int array [n], the true index into the c scores, or -1.

    Returns:
        int64 array [n], from 1; 0 for an image of unknown category.

    Raises:
        FirError: wrong shapes or types, a category outside the scores, NaN.

    Example:
        >>> category_ranks(np.array([[0.2, 0.6, 0.2], [0.1, 0.2, 0.7]]), [2, -1])
        array([3, 0])
    """
    scores = neighbours.check_embeddings("scores", scores)
    categories = neighbours.check_labels("categories", categories, len(scores))
    ranks = np.zeros(len(categories), np.int64)
    known = categories >= 0
    scores, categories = scores[known], categories[known]
    if len(categories) and categories.max() >= scores.shape[1]:
        raise FirError(
            f"`categories` must be below the number of scores, {scores.shape[1]}. "
            f"Received: {categories.max()}"
        )
    if np.isnan(scores).any():
        raise FirError(
            "`scores` must not be NaN. "
            f"Received: NaN in {np.isnan(scores).any(axis=1).sum()} of {len(scores)} rows"
        )
    true = np.take_along_axis(scores, categories[:, np.newaxis], axis=1)
    lower = np.arange(scores.shape[1]) < categories[:, np.newaxis]
    ahead = (scores > true).sum(axis=1) + ((scores == true) & lower).sum(axis=1)
    ranks[known] = 1 + ahead
    return ranks


def classification_protocol(categories: Sequence[int] | np.ndarray) -> dict[str, Any]:
    """Counts the images that take part in `classification_accuracy`, and those that do not.

    Args:
        categories: int array [n], -1 means unknown.

    Returns:
        dict of ints and text ready for JSON.

    Example:
        >>> counts = classification_protocol([0, 2, -1])
        >>> counts["images_classified"], counts["images_of_unknown_category"]
        (2, 1)
    """
    categories = neighbours.check_labels("categories", categories, len(categories))
    return {
        "images_classified": int((categories >= 0).sum()),
        "images_of_unknown_category": int((categories < 0).sum()),
        "category_topk": "share of images whose category is among the k best scored; equal scores "
        "go to the lower category index",
    }


def recall_at_k(correct: np.ndarray, k: int) -> np.ndarray:
    """Recall@k, the paper's top-k accuracy: is any of the k nearest of the query's item?

        recall@k(query) = 1 if correct_i for any i <= k, else 0

    This is the usual name in metric learning; it is not the share of all matches that was found.

    Args:
        correct: bool array [q, n]: is the i-th nearest gallery image of the query's item?
        k: int >= 1; ranks beyond n count as wrong.

    Returns:
        float64 array [q].

    Example:
        >>> recall_at_k(np.array([[False, True, True], [False, False, True]]), 2)
        array([1., 0.])
    """
    return np.any(np.asarray(correct)[:, :k], axis=1).astype(np.float64)


def r_precision(correct: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """R-precision: the share of the first R results that match, where R could.

        R-precision(query) = 1/R * sum of correct_i over i <= R

    Args:
        correct: bool array [q, n], n >= R: is the i-th nearest of the query's item?
        relevant: int array [q], R: the gallery images of the query's item, without the query
            image itself.

    Returns:
        float64 array [q]; 0 where R = 0.

    Example:
        Two of the first three match; the second query has no match in the gallery.

        >>> r_precision(np.array([[True, False, True, True], [False] * 4]), [3, 0]).round(4)
        array([0.6667, 0.    ])
    """
    correct, relevant = _first_r(correct, relevant)
    return correct.sum(axis=1) / np.maximum(relevant, 1)


def average_precision_at_r(correct: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """Average precision at R; its mean over queries is mAP@R.

        AP@R(query) = 1/R * sum of P(i) * correct_i over i <= R,
        P(i) = 1/i * sum of correct_j over j <= i

    Musgrave, Belongie and Lim, "A Metric Learning Reality Check", 2020, section 3.2. Unlike
    recall@1 it rewards finding all the matches first. It differs from the textbook's average
    precision, which goes on beyond rank R.

    Args:
        correct: bool array [q, n], n >= R: is the i-th nearest of the query's item?
        relevant: int array [q], R: the gallery images of the query's item, without the query
            image itself.

    Returns:
        float64 array [q]; 0 where R = 0.

    Example:
        Matches at ranks 1 and 3 of R = 3: (1/1 + 0 + 2/3) / 3. The match at rank 4 is too late.

        >>> average_precision_at_r(np.array([[True, False, True, True]]), [3]).round(4)
        array([0.5556])
    """
    correct, relevant = _first_r(correct, relevant)
    precision = np.cumsum(correct, axis=1) / np.arange(1, correct.shape[1] + 1)
    return (precision * correct).sum(axis=1) / np.maximum(relevant, 1)


def _first_r(correct: ArrayLike, relevant: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    correct, relevant = np.asarray(correct), np.asarray(relevant)
    if relevant.size and relevant.max() > correct.shape[1]:
        raise FirError(
            f"`correct` must reach to rank R = {relevant.max()}. Received: shape {correct.shape}"
        )
    return correct & (np.arange(correct.shape[1]) < relevant[:, np.newaxis]), relevant


@dataclasses.dataclass(frozen=True)
class RetrievalResult:
    """What `retrieval_metrics` found.

    Attributes:
        values: {"recall@1": float, ..., "mAP@R": float, "R-precision": float}, means over the
            queries that count; empty where none does.
        neighbours: int64 array [q, kmax], gallery rows of every query, nearest first; -1 where
            there are fewer.
        scores: float32 array [q, kmax], their inner products; -inf where there are fewer.
        correct: bool array [q, kmax], whether they are of the query's item.
        relevant: int64 array [q], R: the gallery images of the query's item, without the query
            image itself; 0 for a query of unknown item.
        evaluated: bool array [q], which queries count in `values`.
        average_precision: float array [q], AP@R of every query.
        r_precision: float array [q].
        ks: tuple of int, the k of recall@k.
        protocol: dict of numbers and text ready for JSON: what was measured, and by which rules.
    """

    values: dict[str, float]
    neighbours: np.ndarray
    scores: np.ndarray
    correct: np.ndarray
    relevant: np.ndarray
    evaluated: np.ndarray
    average_precision: np.ndarray
    r_precision: np.ndarray
    ks: tuple[int, ...]
    protocol: dict[str, Any]

    def means(self, queries: np.ndarray) -> dict[str, float]:
        """Returns `values` over some of the queries (int array of their places)."""
        rows = queries[self.evaluated[queries]]
        if not len(rows):
            return {}
        recalls = {f"recall@{k}": float(recall_at_k(self.correct[rows], k).mean()) for k in self.ks}
        return {
            **recalls,
            "mAP@R": float(self.average_precision[rows].mean()),
            "R-precision": float(self.r_precision[rows].mean()),
        }

    def describe(self) -> str:
        """Returns the protocol as text, a rule or a count per line."""
        return describe_protocol(self.protocol)


def describe_protocol(protocol: Mapping[str, Any]) -> str:
    """Returns a protocol ({name: number or text}) as text, a rule or a count per line."""
    width = max(len(name) for name in protocol)
    return "\n".join(
        f"{name.replace('_', ' '):<{width}}  {value}" for name, value in protocol.items()
    )


def retrieval_metrics(
    query_embeddings: ArrayLike,
    gallery_embeddings: ArrayLike,
    query_items: ArrayLike,
    gallery_items: ArrayLike,
    *,
    query_ids: np.ndarray | None = None,
    gallery_ids: np.ndarray | None = None,
    ks: Iterable[int] = (1, 5, 10, 20, 30, 40, 50),
    unmatched: str = "exclude",
    memory: int = neighbours.DEFAULT_MEMORY,
    find: neighbours.SearchFunction = neighbours.top_k,
) -> RetrievalResult:
    """Measures how well the queries' items are found in the gallery.

    Every query is compared with the whole gallery (not with its own category only) by inner
    product. Equal scores go to the lower gallery row. The metrics are those of `recall_at_k`
    (the paper's top-k accuracy), `average_precision_at_r` (mAP@R) and `r_precision`, averaged
    over queries.

    A query without a match in the gallery cannot be answered: it is counted in the protocol, and
    left out of the means or scored 0, as `unmatched` says. A query of unknown item is always left
    out and counted. Gallery images of unknown item are distractors: they match nothing.

    Memory stays bounded however large the gallery is: the score matrix is never built, and
    queries with many matches are judged a few at a time.

    Args:
        query_embeddings: float array [q, d]; L2-normalised for the paper's similarity.
        gallery_embeddings: float array [g, d]; may be a `np.memmap`.
        query_items: int array [q]; -1 means unknown.
        gallery_items: int array [g]; -1 means unknown.
        query_ids: optional int array [q], which image a query is. A gallery image with the same
            id is the query itself and is left out of its results. Negative means no id.
        gallery_ids: int array [g]; given exactly when `query_ids` is.
        ks: ints >= 1, for recall@k.
        unmatched: "exclude" leaves queries without a match out of the means, "wrong" scores
            them 0.
        memory: working memory in bytes, beside the inputs and the arrays of the result.
        find: what ranks the gallery, with the arguments and results of
            `fir_tf.neighbours.top_k`; see `fir_tf.evaluation.rerank.better_search`.

    Returns:
        RetrievalResult.

    Raises:
        FirError: arrays that do not fit each other, NaN or infinity in an embedding, or an
            option that is not one of those above.

    Example:
        The first query finds its item at ranks 1 and 3 of 4 (R = 2), the second at rank 2.

        >>> gallery = np.array([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
        >>> queries = np.array([[1.0, 0.0], [0.0, 1.0]])
        >>> found = retrieval_metrics(queries, gallery, [7, 7], [7, 8, 7, -1], ks=(1, 2))
        >>> found.neighbours
        array([[0, 1],
               [3, 2]])
        >>> {name: round(value, 4) for name, value in found.values.items()}
        {'recall@1': 0.5, 'recall@2': 1.0, 'mAP@R': 0.375, 'R-precision': 0.5}
    """
    ks = _check_ks(ks)
    if unmatched not in ("exclude", "wrong"):
        raise FirError(f'`unmatched` must be "exclude" or "wrong". Received: {unmatched!r}')
    test = _Test.checked(
        (query_embeddings, gallery_embeddings),
        (query_items, gallery_items),
        (query_ids, gallery_ids),
    )
    relevant = _count_relevant(test)
    known = test.query_items >= 0
    shape = [len(known), max(ks)]
    result = RetrievalResult(
        values={},
        neighbours=np.empty(shape, np.int64),
        scores=np.empty(shape, np.float32),
        correct=np.empty(shape, bool),
        relevant=relevant,
        evaluated=known & (relevant > 0) if unmatched == "exclude" else known,
        average_precision=np.zeros(len(known)),
        r_precision=np.zeros(len(known)),
        ks=tuple(ks),
        protocol={},
    )
    result.protocol.update(_protocol(test, result, unmatched))
    for part, k in _parts(relevant, max(ks), memory // 2):
        scores, rows = find(
            test.queries[part],
            test.gallery,
            k,
            query_ids=None if test.query_ids is None else test.query_ids[part],
            gallery_ids=test.gallery_ids,
            memory=memory // 2,
        )
        _judge(test, result, part, scores, rows)
    result.values.update(result.means(np.arange(len(known))))
    return result


@dataclasses.dataclass(frozen=True, eq=False)
class _Test:
    """The checked arguments of `retrieval_metrics`."""

    queries: np.ndarray
    gallery: np.ndarray
    query_items: np.ndarray
    gallery_items: np.ndarray
    query_ids: np.ndarray | None
    gallery_ids: np.ndarray | None
    unit_length: bool

    @classmethod
    def checked(
        cls,
        embeddings: tuple[ArrayLike, ArrayLike],
        items: tuple[ArrayLike, ArrayLike],
        ids: tuple[np.ndarray | None, np.ndarray | None],
    ) -> "_Test":
        """Takes (of the queries, of the gallery) each."""
        names = ("query_embeddings", "gallery_embeddings")
        queries, gallery = neighbours.check_pair(names[0], embeddings[0], names[1], embeddings[1])
        query_ids, gallery_ids = neighbours.check_ids(*ids, len(queries), len(gallery))
        return cls(
            queries,
            gallery,
            neighbours.check_labels("query_items", items[0], len(queries)),
            neighbours.check_labels("gallery_items", items[1], len(gallery)),
            query_ids,
            gallery_ids,
            all([_scan(names[0], queries), _scan(names[1], gallery)]),
        )


def _judge(
    test: _Test, result: RetrievalResult, part: np.ndarray, scores: np.ndarray, rows: np.ndarray
) -> None:
    """Puts what was found for some of the queries into the result."""
    items = test.query_items[part, np.newaxis]
    # Row -1, no result, would read the last item.
    correct = (rows >= 0) & (items >= 0)
    if len(test.gallery):
        correct &= test.gallery_items[rows] == items
    kept = result.scores.shape[1]
    result.neighbours[part], result.scores[part] = rows[:, :kept], scores[:, :kept]
    result.correct[part] = correct[:, :kept]
    result.average_precision[part] = average_precision_at_r(correct, result.relevant[part])
    result.r_precision[part] = r_precision(correct, result.relevant[part])


def _parts(relevant: np.ndarray, kmax: int, memory: int) -> Iterator[tuple[np.ndarray, int]]:
    """Yields (query rows, k): queries to judge together, and how many neighbours they need.

    mAP@R needs R neighbours, and R can be anything up to the gallery. In order of R, the many
    queries with few matches do not pay for the few with many.
    """
    order = np.argsort(relevant, kind="stable")
    needed = np.maximum(relevant[order], kmax)
    start = 0
    while start < len(order):
        # Taking queries start..stop costs (stop - start) * needed[stop - 1], which only grows.
        cost = np.arange(1, len(order) - start + 1) * needed[start:] * _BYTES_PER_NEIGHBOUR
        stop = start + max(1, int(np.searchsorted(cost, memory, side="right")))
        yield order[start:stop], int(needed[stop - 1])
        start = stop


def _count_relevant(test: _Test) -> np.ndarray:
    """Counts, for every query, the other gallery images of its item; 0 for item -1."""
    relevant = _count(test.gallery_items[test.gallery_items >= 0], test.query_items)
    if test.query_ids is None or test.gallery_ids is None:
        return relevant
    itself = np.isin(test.gallery_ids, test.query_ids) & (test.gallery_items >= 0)
    ids, items = np.unique(test.gallery_ids[itself]), np.unique(test.gallery_items[itself])

    def pair(item: np.ndarray, image: np.ndarray) -> np.ndarray:
        # -1 where the item or the image is not among them: no pair of the gallery's.
        place, row = _place(items, item), _place(ids, image)
        return np.where((place < 0) | (row < 0), -1, place * len(ids) + row)

    there = pair(test.gallery_items[itself], test.gallery_ids[itself])
    return relevant - _count(there, pair(test.query_items, test.query_ids))


def _count(values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Counts how often each of `wanted` [q] occurs in `values` [n]; int64 [q]."""
    unique, counts = np.unique(values, return_counts=True)
    place = _place(unique, wanted)
    return np.where(place < 0, 0, np.append(counts, 0)[place]).astype(np.int64)


def _place(ordered: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Returns where `wanted` [q] stand in the ordered unique `ordered` [n], -1 where nowhere."""
    if not len(ordered):
        return np.full(len(wanted), -1, np.int64)
    place = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
    return np.where(ordered[place] == wanted, place, -1)


def _scan(name: str, array: np.ndarray) -> bool:
    """Checks that `array` [n, d] is finite; returns whether all its rows have length 1."""
    rows = max(1, 2**22 // array.shape[1])
    unit_length = True
    for start in range(0, len(array), rows):
        block = array[start : start + rows].astype(np.float32, copy=False)
        squared = np.einsum("nd,nd->n", block, block)
        if not np.isfinite(squared).all() and not np.isfinite(block).all():
            neighbours.raise_not_finite(name, array)
        # Wide enough for vectors normalised in bfloat16.
        unit_length = unit_length and bool((np.abs(np.sqrt(squared) - 1) < 0.01).all())
    return unit_length


def _protocol(test: _Test, result: RetrievalResult, unmatched: str) -> dict[str, Any]:
    known, gallery_items = test.query_items >= 0, test.gallery_items
    self_match, met_again = "nothing is left out: no image ids were given", 0
    if test.query_ids is not None and test.gallery_ids is not None:
        self_match = "a gallery image with the query's image id is left out of its results"
        met_again = int(np.isin(test.query_ids, test.gallery_ids).sum())
    cosine = (
        "cosine similarity: all embeddings have length 1"
        if test.unit_length
        else "not cosine similarity: not all embeddings have length 1"
    )
    return {
        "queries": len(known),
        "queries_evaluated": int(result.evaluated.sum()),
        "queries_without_match": int((known & (result.relevant == 0)).sum()),
        "queries_of_unknown_item": int((~known).sum()),
        "queries_in_gallery": met_again,
        "gallery_images": len(gallery_items),
        "gallery_items": len(np.unique(gallery_items[gallery_items >= 0])),
        "gallery_images_of_unknown_item": int((gallery_items < 0).sum()),
        "embedding_size": test.gallery.shape[1],
        "similarity": f"inner product ({cosine})",
        "search": "exact, against the whole gallery, not limited to the query's category",
        "self_match": self_match,
        "ties": "equal scores go to the lower gallery row",
        "unmatched": {
            "exclude": "queries without a match in the gallery are left out of the means",
            "wrong": "queries without a match in the gallery are scored 0",
        }[unmatched],
        "recall@k": "share of queries with an image of the same item among the k nearest, "
        f"k = {', '.join(map(str, result.ks))}; the paper's top-k accuracy",
        "mAP@R": "mean of 1/R * sum over i <= R of precision(i) * match(i) (Musgrave et al. "
        "2020), R = gallery images of the query's item without the query itself",
        "R-precision": "mean share of the first R results that match",
    }


def _check_ks(ks: Iterable[int] | int) -> list[int]:
    numbers = ks if isinstance(ks, Iterable) else [ks]
    checked = sorted({neighbours.check_positive("ks", k) for k in numbers})
    if not checked:
        raise FirError("`ks` must name at least one k. Received: none")
    return checked
