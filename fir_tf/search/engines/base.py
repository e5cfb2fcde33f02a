"""What every search engine does, whatever it is built on."""

import abc
import collections
import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from fir_tf.errors import FirError
from fir_tf.search.conditions import Condition

if TYPE_CHECKING:
    from fir_tf.search.engines.generations import Generations

DOMAIN_NAMES = ("", "shop", "consumer")

_Rows = TypeVar("_Rows", Sequence[Any], np.ndarray)


@dataclasses.dataclass(frozen=True)
class Record:
    """A catalogue image in an index, without its vector.

    Attributes:
        path: str, the image file relative to the catalogue's folder; the record's key.
        item: str, the garment's name; empty where unknown.
        category: str, empty where unknown.
        domain: str, "shop", "consumer" or empty.
        checksum: str, of the file's contents.
        metadata: dict, the other columns of the feed or table: text, numbers, bools and lists of
            them by name. What is unknown is left out.
    """

    path: str
    item: str
    category: str
    domain: str
    checksum: str
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)


@dataclasses.dataclass(frozen=True)
class Scheme:
    """How an engine is named by an address, `<engine>[+<variant>]:<place>`.

    Attributes:
        description: str, one line for lists.
        addresses: sequence of (str, str), what its addresses look like and what they are, for
            --help.
        open: callable of (variant: str, place: str, create: bool, effort: float), see
            `fir_tf.search.engines.open_engine`, that returns an Engine.
        generations: callable of (variant: str, place: str) that returns
            `fir_tf.search.engines.generations.Generations`; None for an engine without, whose
            indexes `search.py migrate` refuses.
    """

    description: str
    addresses: Sequence[tuple[str, str]]
    open: Callable[[str, str, bool, float], "Engine"]
    generations: "Callable[[str, str], Generations] | None" = None


@dataclasses.dataclass(frozen=True)
class Hit:
    """A record that was found.

    Attributes:
        score: float, inner product of its vector and the query.
        record: Record.
        confidence: float in [0, 1], how often a first answer of that score is right, see
            `fir_tf.calibration`; None where unknown.
    """

    score: float
    record: Record
    confidence: float | None = None


class Engine(abc.ABC):
    """Vectors with their records, and the search among them.

    A record is known by its path. What `upsert` and `delete` have returned from survives the
    death of the process; what they were interrupted in is there wholly or not at all for each
    record. One process writes, others may read at the same time.

    Attributes:
        generation: str, which of the index's generations this is, see
            `fir_tf.search.engines.generations`.
    """

    generation: str = ""

    @abc.abstractmethod
    def info(self) -> dict[str, Any]:
        """Returns what `set_info` stored last: a dict ready for JSON, empty for a new index."""

    @abc.abstractmethod
    def set_info(self, info: dict[str, Any]) -> None:
        """Stores a dict beside the vectors: the model's fingerprint, the catalogue's folder.

        Args:
            info: dict ready for JSON; `dimension`, int, is the length of the vectors and fixes
                it for good.
        """

    @abc.abstractmethod
    def upsert(self, records: Sequence[Record], vectors: np.ndarray) -> None:
        """Adds records, or replaces those whose paths are there already.

        Args:
            records: list of Record, their paths different from each other.
            vectors: float32 [len(records), dimension].
        """

    def update(self, records: Sequence[Record]) -> None:
        """Replaces records and leaves their vectors as they are.

        Args:
            records: list of Record, their paths different from each other; those whose paths are
                not there are passed over.
        """
        found = {record.path: vector for record, vector in self.fetch([r.path for r in records])}
        there = [record for record in records if record.path in found]
        if there:
            self.upsert(there, np.stack([found[record.path] for record in there]))

    @abc.abstractmethod
    def delete(self, paths: Iterable[str]) -> None:
        """Removes the records of these paths; those that are not there are passed over."""

    @abc.abstractmethod
    def search(
        self, queries: np.ndarray, k: int, where: Condition | None = None
    ) -> list[list[Hit]]:
        """Finds the records with the largest inner products.

        Args:
            queries: float32 [q, dimension].
            k: int >= 1.
            where: Condition or None. What it does not allow takes no place among the k.

        Returns:
            list of q lists of at most k Hits: by falling score, equal scores by path.
        """

    def search_items(
        self, queries: np.ndarray, k: int, where: Condition | None = None
    ) -> list[list[Hit]]:
        """Finds the items with the largest inner products, each by its best image.

        See `search`; an image of no item stands for itself.
        """
        return best_of_items(lambda count: self.search(queries, count, where), k, len(self))

    @abc.abstractmethod
    def __len__(self) -> int:
        """Returns the number of records."""

    @abc.abstractmethod
    def scan(self, vectors: bool = False) -> Iterator[tuple[list[Record], np.ndarray | None]]:
        """Yields all records in pieces, in no particular order.

        Args:
            vectors: bool, whether to read the vectors too.

        Yields:
            (list of Record, float32 [n, dimension] or None).
        """

    def vector(self, path: str) -> np.ndarray | None:
        """Returns the vector of a record, float32 [dimension], or None where there is none."""
        found = self.fetch([path])
        return found[0][1] if found else None

    @abc.abstractmethod
    def fetch(self, paths: Sequence[str]) -> list[tuple[Record, np.ndarray]]:
        """Returns [(Record, float32 [dimension])] of the paths that are there, in their order."""

    def labels(self) -> dict[str, dict[str, int]]:
        """Counts the categories and domains.

        Returns:
            dict with `category` and `domain`, each a dict of the number of records by name, names
            in order.
        """
        counts: dict[str, collections.Counter[str]] = {
            "category": collections.Counter(),
            "domain": collections.Counter(),
        }
        for part, _ in self.scan():
            for name, counter in counts.items():
                counter.update(getattr(record, name) for record in part)
        return {name: dict(sorted(counter.items())) for name, counter in counts.items()}

    def flush(self) -> None:  # noqa: B027
        """Brings the index into the shape that is searched fastest; after many changes."""

    def close(self) -> None:  # noqa: B027
        """Releases files and connections."""

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def best_of_items(find: Callable[[int], list[list[Hit]]], k: int, most: int) -> list[list[Hit]]:
    """Returns the first hit of each item, for each query.

    Args:
        find: callable of an int, how many hits each query has to get at least.
        k: int, items for each query.
        most: int, how many records there are.

    Returns:
        list of lists of at most k Hits, in order.
    """
    wanted = 4 * k
    while True:
        found = find(wanted)
        rows = [best_views(hits)[:k] for hits in found]
        complete = all(
            len(row) == k or len(hits) < wanted for row, hits in zip(rows, found, strict=True)
        )
        if complete or wanted >= most:
            return rows
        wanted *= 4


def best_views(hits: Iterable[Hit]) -> list[Hit]:
    """Returns the first hit of each item, in order; one of no item stands for itself."""
    seen: set[tuple[str, str]] = set()
    kept: list[Hit] = []
    for hit in hits:
        key = ("item", hit.record.item) if hit.record.item else ("image", hit.record.path)
        if key not in seen:
            seen.add(key)
            kept.append(hit)
    return kept


def shown(address: str | Path) -> str:
    """Returns an address without the password that may stand in it."""
    return re.sub(r"(//[^/@:]*):[^/@]*@", r"\1:***@", str(address))


def in_order(hits: Iterable[Hit]) -> list[Hit]:
    """Returns Hits by falling score, equal scores by path."""
    return sorted(hits, key=lambda hit: (-hit.score, hit.record.path))


def in_pieces(rows: _Rows, size: int) -> Iterator[_Rows]:
    """Yields a sequence or an array in pieces of at most `size` rows."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def check_dimension(before: int, dimension: int, rows: int) -> None:
    """Raises FirError where an index has rows of another length, `before`."""
    if rows and before not in (0, dimension):
        raise FirError(
            f"`dimension` must stay {before}, the length of the index's vectors. "
            f"Received: {dimension}"
        )


def check_vectors(name: str, vectors: ArrayLike, dimension: int) -> np.ndarray:
    """Returns `vectors` as a contiguous float32 array [n, dimension].

    Raises:
        FirError: they have another shape, or are not finite.
    """
    array = np.ascontiguousarray(vectors, np.float32)
    if array.ndim != 2 or array.shape[1] != dimension:
        raise FirError(
            f"`{name}` must be vectors of the index's length {dimension}. "
            f"Received: shape {array.shape}"
        )
    if not np.isfinite(array).all():
        raise FirError(f"`{name}` must be finite. Received: NaN or infinity")
    return array
