"""Which categories are taken for which others."""

import numpy as np
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from fir_tf.datasets.catalogue import Catalogue
from fir_tf.evaluation.measured import Measured


def confusion_counts(measured: Measured, catalogue: Catalogue) -> np.ndarray | None:
    """Counts the images of each category that were taken for each.

    Args:
        measured: Measured.
        catalogue: Catalogue of all images.

    Returns:
        int64 array [true category, guessed category]; None where no image of a known category was
        scored.
    """
    true = catalogue.category[measured.classified]
    known = true >= 0
    if measured.category_scores is None or not known.any():
        return None
    counts = np.zeros((len(catalogue.categories),) * 2, np.int64)
    np.add.at(counts, (true[known], measured.category_scores[known].argmax(axis=1)), 1)
    return counts


def most_confused(counts: np.ndarray, most: int) -> list[tuple[int, int]]:
    """Returns the pairs (true, guessed) of different categories by their counts, largest first.

    Args:
        counts: int array [c, c], see `confusion_counts`.
        most: int, pairs returned at most.
    """
    wrong = counts - np.diag(np.diag(counts))
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = zip(*np.unravel_index(order, wrong.shape), strict=True)
    return [(int(true), int(guessed)) for true, guessed in pairs if wrong[true, guessed]]


def by_similarity(counts: np.ndarray, most: int) -> np.ndarray:
    """Orders categories so that those which are taken for each other stand together.

    Hierarchical clustering with average linkage; among the orders that its tree allows, the one in
    which neighbours are most alike (Bar-Joseph et al. 2001). Two categories are as alike as the
    larger of the shares of one that are taken for the other.

    Args:
        counts: int array [c, c], see `confusion_counts`.
        most: int, categories returned at most: those that are confused most often.

    Returns:
        int array, categories that occur in `counts`.
    """
    wrong = counts - np.diag(np.diag(counts))
    often = np.argsort(-(wrong.sum(axis=0) + wrong.sum(axis=1)), kind="stable")
    shown = often[(counts.sum(axis=0) + counts.sum(axis=1))[often] > 0][:most]
    if len(shown) < 3:
        return shown
    shares = row_shares(counts)[np.ix_(shown, shown)]
    distance = 1 - np.maximum(shares, shares.T)
    np.fill_diagonal(distance, 0)
    tree = linkage(squareform(distance), "average", optimal_ordering=True)
    return shown[leaves_list(tree)]


def row_shares(counts: np.ndarray) -> np.ndarray:
    """Returns counts [c, c] as shares of their row, 0 in a row without images."""
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
