"""Which queries the contact sheet shows, and what it says of them."""

import numpy as np

from fir_tf.datasets.catalogue import Catalogue
from fir_tf.evaluation.measured import Measured
from fir_tf.evaluation.pictures import SheetMatch, SheetRow


def sheet_rows(catalogue: Catalogue, measured: Measured, most: int, matches: int) -> list[SheetRow]:
    """Returns queries of so many items, spread evenly over those that count.

    Args:
        catalogue: Catalogue of all images.
        measured: Measured, with a result.
        most: int, queries returned at most.
        matches: int, results shown of each.
    """
    result = measured.result
    assert result is not None
    # Any of an item's queries, the same ones in every run: the first is always the same view.
    candidates = np.random.default_rng(0).permutation(np.flatnonzero(result.evaluated))
    _, first = np.unique(catalogue.item[measured.query[candidates]], return_index=True)
    places = np.unique(np.linspace(0, len(first) - 1, min(most, len(first))).round().astype(int))
    return [
        _sheet_row(catalogue, measured, number, matches) for number in candidates[first[places]]
    ]


def _sheet_row(catalogue: Catalogue, measured: Measured, number: int, matches: int) -> SheetRow:
    """A query by its place among the queries, and its first results."""

    def label(row: int) -> str:
        item = catalogue.item[row]
        return catalogue.items[item] if item >= 0 else "unknown item"

    result = measured.result
    assert result is not None
    neighbours = result.neighbours[number][:matches]
    found = []
    for place, row in enumerate(measured.gallery[neighbours[neighbours >= 0]]):
        score, correct = result.scores[number, place], result.correct[number, place]
        photo = catalogue.root / catalogue.path[row]
        found.append(SheetMatch(photo, float(score), bool(correct), label(row)))
    row = measured.query[number]
    return SheetRow(catalogue.root / catalogue.path[row], label(row), found)
