"""Queries with what they find, as a page shows them."""

import dataclasses
from pathlib import Path

import numpy as np

from fir_tf.datasets.catalogue import Catalogue
from fir_tf.evaluation.measured import Measured
from fir_tf.evaluation.metrics import RetrievalResult
from fir_tf.explain import Heat, PhotoExplainer, draw_heat
from fir_tf.images.file import UnreadableImageError, read
from fir_tf.images.thumbnail import small_jpeg, thumbnail

# Pixels, of a photo's longest side.
_SIDE = 176


@dataclasses.dataclass(frozen=True)
class Shown:
    """A photo on a page.

    Attributes:
        picture: bytes of a small JPEG file; empty where the photo cannot be read.
        category, item: str, "" for a category that is not known.
        rank: int, its place among the query's results, from 1; 0 for the query, and where it is
            further behind than was looked.
        score: float, its inner product with the query; 0 for the query.
        right: bool, whether it is of the query's item.
    """

    picture: bytes
    category: str
    item: str
    rank: int = 0
    score: float = 0.0
    right: bool = True


@dataclasses.dataclass(frozen=True)
class Case:
    """A query, its first results, and where its item stands.

    Attributes:
        query: Shown.
        found: list of Shown, in the order of the results.
        match: Shown, the item's photo that is ranked first; None where it is among `found`.
        looked: int, how many results were looked at.
        note: str, what else is to be said; may be empty.
        reasons: (Shown, Shown), the query and its first result with what their score comes from
            over them; None where that is not told.
    """

    query: Shown
    found: list[Shown]
    match: Shown | None
    looked: int
    note: str = ""
    reasons: tuple[Shown, Shown] | None = None


class Cases:
    """The queries of a measured part that count, to choose from and to show.

    Args:
        measured: Measured, with a result.
        catalogue: Catalogue of all images.
        matches: int, results shown of each query.
        explain: PhotoExplainer, what the worst queries' first answers come from; None leaves it
            out.

    Attributes:
        looked: int, how many results of each were looked at.
        asked: int array, their places among all queries.
        failing: int, how many of them do not find their item first.
    """

    def __init__(
        self,
        measured: Measured,
        catalogue: Catalogue,
        matches: int = 4,
        explain: PhotoExplainer | None = None,
    ) -> None:
        assert measured.result is not None
        self._measured, self._catalogue, self._matches = measured, catalogue, matches
        self._explain = explain
        self._result: RetrievalResult = measured.result
        self.looked = self._result.neighbours.shape[1]
        self.asked = np.flatnonzero(self._result.evaluated)
        correct = self._result.correct[self.asked]
        self._rank = np.where(correct.any(axis=1), correct.argmax(axis=1), self.looked)
        self._score = self._result.scores[self.asked, 0]
        self.failing = int((self._rank > 0).sum())

    def worst(self, most: int) -> list[Case]:
        """Returns the queries that do not find their item first, one of each item.

        The item that is found last comes first; among those beyond what was looked at, the one
        whose wrong answer is surest.

        Args:
            most: int, queries returned at most.
        """
        order = np.lexsort((-self._score, -self._rank))
        order = self._first_of_items(order[self._rank[order] > 0])[:most]
        return [
            dataclasses.replace(self.show(number), reasons=self._reasons(number))
            for number in order
        ]

    def best(self, most: int) -> list[Case]:
        """Returns the queries that find their item first, one of each item, the surest first."""
        order = np.lexsort((-self._score, self._rank))
        order = self._first_of_items(order[self._rank[order] == 0])[:most]
        return [self.show(number) for number in order]

    def random(self, most: int) -> list[Case]:
        """Returns queries drawn at random, the same ones each time."""
        order = np.random.default_rng(0).permutation(len(self.asked))[:most]
        return [self.show(number) for number in order]

    def _first_of_items(self, order: np.ndarray) -> np.ndarray:
        items = self._catalogue.item[self._measured.query[self.asked[order]]]
        return order[np.sort(np.unique(items, return_index=True)[1])]

    def show(self, number: int, note: str = "") -> Case:
        """Returns a query as it is shown.

        Args:
            number: int, its place in `asked`.
            note: str, see Case.
        """
        measured, result, place = self._measured, self._result, self.asked[number]
        neighbours = result.neighbours[place][: self._matches]
        found = [
            self._shown(
                measured.gallery[row],
                rank=rank,
                score=float(result.scores[place, rank - 1]),
                right=bool(result.correct[place, rank - 1]),
            )
            for rank, row in enumerate(neighbours, 1)
            if row >= 0
        ]
        match = None if self._rank[number] < len(found) else self._match(number)
        return Case(self._shown(measured.query[place]), found, match, self.looked, note)

    def _reasons(self, number: int) -> tuple[Shown, Shown] | None:
        """A query and its first result with what their score comes from over them."""
        place = self.asked[number]
        rows = (
            self._measured.query[place],
            self._measured.gallery[self._result.neighbours[place, 0]],
        )
        if self._explain is None:
            return None
        paths = [self._catalogue.root / self._catalogue.path[row] for row in rows]
        try:
            found = self._explain(*map(read, paths))
            if found is None:
                return None
            query, match = (
                dataclasses.replace(self._shown(row), picture=_heated(path, heat))
                for row, path, heat in zip(rows, paths, (found.query, found.match), strict=True)
            )
        # Also where one decoder reads what the other does not.
        except UnreadableImageError:
            return None
        return query, dataclasses.replace(match, rank=1, score=found.score, right=False)

    def _match(self, number: int) -> Shown:
        """The photo of the query's item that is ranked first, wherever it stands."""
        measured, result, place = self._measured, self._result, self.asked[number]
        rank = int(self._rank[number])
        if rank < self.looked:
            row, score = result.neighbours[place, rank], float(result.scores[place, rank])
            return self._shown(measured.gallery[row], rank=rank + 1, score=score)
        scores = measured.gallery_embedding @ measured.query_embedding[place]
        query, gallery = measured.query[place], measured.gallery
        others = gallery != query
        same = others & (self._catalogue.item[gallery] == self._catalogue.item[query])
        rows = np.flatnonzero(same)
        row = rows[scores[rows].argmax()]
        ahead = (scores > scores[row]) | ((scores == scores[row]) & (np.arange(len(scores)) < row))
        rank = 0 if measured.reordered else 1 + int((ahead & others).sum())
        return self._shown(gallery[row], rank=rank, score=float(scores[row]))

    def _shown(self, row: int, rank: int = 0, score: float = 0.0, right: bool = True) -> Shown:
        catalogue = self._catalogue
        picture = small_jpeg(catalogue.root / catalogue.path[row], _SIDE)
        category, item = catalogue.category[row], catalogue.item[row]
        names = (
            catalogue.categories[category] if category >= 0 else "",
            catalogue.items[item] if item >= 0 else "unknown item",
        )
        return Shown(picture, *names, rank, score, right)


def _heated(path: Path, heat: Heat) -> bytes:
    """Returns a small JPEG file of a photo with heat over it."""
    photo = thumbnail(path, _SIDE, convert=True)
    return dataclasses.replace(photo, image=draw_heat(photo.image, heat)).jpeg(quality=80)
