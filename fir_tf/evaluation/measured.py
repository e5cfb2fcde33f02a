"""What was measured of a part of a catalogue."""

import dataclasses
from typing import Any

import numpy as np

from fir_tf.datasets.catalogue import Catalogue
from fir_tf.evaluation.metrics import RetrievalResult
from fir_tf.evaluation.queries import Queries


@dataclasses.dataclass(frozen=True)
class Measured:
    """What was measured of a part of a catalogue, and what pictures of it need.

    Attributes:
        values: {metric: float}.
        protocol: dict ready for JSON: what was measured, and by which rules.
        reasons: {metric: str}, why those that are missing were not measured.
        result: RetrievalResult of the queries; None where there are none, or no gallery.
        query, gallery, classified: int64 arrays, the catalogue's rows that could be read.
        query_embedding, gallery_embedding: float32 [q, d] and [g, d], unit length.
        category_scores: float32 [c, categories] of the classified rows, None where no loss reads
            the categories.
        skipped: list of str, paths of the images that could not be read.
        reordered: bool, whether the results stand in another order than by inner products.
    """

    values: dict[str, float]
    protocol: dict[str, Any]
    reasons: dict[str, str]
    result: RetrievalResult | None
    query: np.ndarray
    gallery: np.ndarray
    query_embedding: np.ndarray
    gallery_embedding: np.ndarray
    classified: np.ndarray
    category_scores: np.ndarray | None
    skipped: list[str]
    reordered: bool = False

    def queries(self, catalogue: Catalogue) -> Queries | None:
        """Returns what each query is worth, in the catalogue's order; None without a result.

        Args:
            catalogue: Catalogue of all images.
        """
        result = self.result
        if result is None:
            return None
        rows, correct = self.query[result.evaluated], result.correct[result.evaluated]
        return Queries(
            catalogue.path[rows],
            np.array(catalogue.items, object)[catalogue.item[rows]],
            np.where(correct.any(axis=1), correct.argmax(axis=1) + 1, 0),
            result.average_precision[result.evaluated],
            result.r_precision[result.evaluated],
        )
