"""An index with its model, ready to be asked."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from fir_tf.errors import FirError
from fir_tf.evaluation.rerank import improved
from fir_tf.options import Improvements
from fir_tf.search import encoder as encoders
from fir_tf.search.engines import Filter, Hit, open_engine


class Index:
    """An index opened with its model, ready to be asked.

    Args:
        address: str, see `fir_tf.search.engines.addresses`.
        model: str or Path; empty for the model the index was made with.
        images: str or Path, the photos' folder; empty for the one it was made from.
        effort: float, see `open_engine`.

    Raises:
        FirError: there is no index, or `model` is another one than it was made with.
    """

    def __init__(
        self,
        address: str | Path,
        model: str | Path = "",
        images: str | Path = "",
        effort: float = 1.0,
    ) -> None:
        self.engine = open_engine(address, effort=effort)
        try:
            info = self.engine.info()
            if not info:
                raise FirError(f"the index {address} is empty. Fill it with search.py index")
            self.encoder = _encoder(info, model, address)
            self.encoder.check(info["model"], f"the index {address}")
        except BaseException:
            self.engine.close()
            raise
        self.root = Path(images or info["root"])

    def search(
        self,
        vectors: np.ndarray,
        k: int,
        group: bool = True,
        where: Filter | None = None,
        improvements: Improvements | None = None,
    ) -> list[list[Hit]]:
        """Finds the nearest items or images.

        Args:
            vectors: float32 [q, d], unit length.
            k: int, results for each query.
            group: bool, one result for each item, its best view. An image of no item stands for
                itself.
            where: Filter or None.
            improvements: Improvements; none when not given.

        Returns:
            list of q lists of Hit.
        """

        def find(queries: np.ndarray, count: int) -> list[list[Hit]]:
            return self.engine.search(queries, count, where)

        def vectors_of(hits: list[Hit]) -> np.ndarray:
            stored = self.engine.fetch([hit.record.path for hit in hits])
            return np.array([vector for _, vector in stored]).reshape(-1, vectors.shape[1])

        improvements = improvements or Improvements()
        wanted = 4 * k if group else k
        while True:
            found = improved(vectors, wanted, find, vectors_of, improvements)
            rows = [(best_views(hits) if group else hits)[:k] for hits in found]
            complete = all(
                len(row) == k or len(hits) < wanted for row, hits in zip(rows, found, strict=True)
            )
            if complete or wanted >= len(self.engine):
                return rows
            wanted *= 4

    def close(self) -> None:
        """Closes the engine."""
        self.engine.close()

    def __enter__(self) -> "Index":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _encoder(info: dict[str, Any], model: str | Path, address: str | Path) -> encoders.Encoder:
    """Opens the model an index was made with, or the one that is given in its place."""
    stored, how = Path(info["model"]["model"]), dict(info["how"])
    if not model and not stored.exists():
        raise FirError(
            f"the index {address} was made with the model {stored}, which is no longer there. "
            "Give its folder as --model"
        )
    whitening = Path(how["whitening"])
    if how["whitening"] and not whitening.is_file():
        beside = Path(model or stored) / whitening.name
        if not beside.is_file():
            raise FirError(
                f"the index {address} was made with --whitening={whitening}, which is no longer "
                f"there. Put the file back, or into the model's folder as {beside}"
            )
        how["whitening"] = str(beside)
    return encoders.Encoder(model or stored, **how)


def best_views(hits: Iterable[Hit]) -> list[Hit]:
    """Returns the first hit of each item, in order; one of no item stands for itself."""
    seen, kept = set(), []
    for hit in hits:
        key = ("item", hit.record.item) if hit.record.item else ("image", hit.record.path)
        if key not in seen:
            seen.add(key)
            kept.append(hit)
    return kept
