"""What a score is worth: how often an answer of that score is the right one."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fir_tf.errors import FirError
from fir_tf.files import checksum, open_file, read_json

NAME = "calibration.json"
"""str, the file in a run's folder that keeps one."""

LEAST = 50
"""int, of fewer queries nothing is learned."""

_ADVICE = "Evaluate the run again, or delete the file"


@dataclasses.dataclass(frozen=True)
class Block:
    """Scores that are worth the same.

    Attributes:
        low, high: float, the least and the largest of them.
        precision: float in [0, 1], the share of their answers that are right.
        queries: int, how many answers that is.
    """

    low: float
    high: float
    precision: float
    queries: int


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What the scores of a model are worth.

    Attributes:
        blocks: sequence of Block; neither scores nor precisions fall from one to the next.
        learned_on: dict ready for JSON: the photos, and how many there were.
        how: dict ready for JSON: what was embedded of a photo. Other scores are worth other things.
        model: str, the checksum of the model's file.
    """

    blocks: Sequence[Block]
    learned_on: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    how: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    model: str = ""

    @property
    def queries(self) -> int:
        """How many answers it was learned of."""
        return sum(block.queries for block in self.blocks)

    def confidence(self, score: ArrayLike) -> np.ndarray:
        """Returns how often an answer of such a score is right.

        Between two blocks it rises evenly; beyond the first and the last it stays theirs.

        Args:
            score: float array of any shape.

        Returns:
            float64 array of the same shape, in [0, 1]; it never falls where the score rises.
        """
        return np.interp(np.asarray(score, np.float64), *self._knots())

    def score_of(self, precision: float) -> float:
        """Returns the least score whose answers are right that often.

        Args:
            precision: float in [0, 1].

        Returns:
            float; -inf where all answers are, inf where none are.
        """
        scores, precisions = self._knots()
        place = int(np.searchsorted(precisions, precision))
        if place in (0, len(scores)):
            return float("inf" if place else "-inf")
        share = (precision - precisions[place - 1]) / (precisions[place] - precisions[place - 1])
        return float(scores[place - 1] + share * (scores[place] - scores[place - 1]))

    def _knots(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns (scores, precisions), between which confidence rises evenly."""
        # A block of a single score is one knot.
        ends = ((end, block.precision) for block in self.blocks for end in (block.low, block.high))
        scores, precisions = np.array(list(dict(ends).items())).T
        return scores, precisions

    def to_json(self) -> dict[str, Any]:
        """Returns a dict ready for JSON, which `of` reads."""
        return {
            "blocks": [dataclasses.asdict(block) for block in self.blocks],
            "queries": self.queries,
            "learned_on": dict(self.learned_on),
            "how": dict(self.how),
            "model": self.model,
        }

    @classmethod
    def of(cls, value: Mapping[str, Any], where: str) -> "Calibration":
        """Returns what `to_json` told.

        Args:
            value: dict.
            where: str, whose it is, for the message.

        Raises:
            FirError: it is damaged.
        """
        try:
            blocks = tuple(
                Block(
                    float(row["low"]),
                    float(row["high"]),
                    float(row["precision"]),
                    int(row["queries"]),
                )
                for row in value["blocks"]
            )
            knots = [(end, row.precision) for row in blocks for end in (row.low, row.high)]
            # NaN is in no order.
            rises = all(a <= b and p <= q for (a, p), (b, q) in itertools.pairwise(knots))
            if not blocks or not rises or not all(0 <= share <= 1 for _, share in knots):
                raise ValueError("blocks that do not rise from 0 to 1")
            return cls(
                blocks, dict(value["learned_on"]), dict(value["how"]), str(value.get("model", ""))
            )
        except (KeyError, TypeError, ValueError) as error:
            raise FirError(
                f"{where} must be what evaluate.py writes. Received: {type(error).__name__}: "
                f"{error}. {_ADVICE}"
            ) from error

    @classmethod
    def load(cls, path: str | Path) -> "Calibration":
        """Reads a file that has what `to_json` told.

        Raises:
            FirError: it is missing or damaged.
        """
        return cls.of(read_json(path, _ADVICE), str(path))


def learn(score: ArrayLike, right: ArrayLike) -> tuple[Block, ...]:
    """Learns by isotonic regression how often answers are right, the more often the higher scored.

    The pool-adjacent-violators algorithm (Ayer et al. 1955; for classifiers Zadrozny and Elkan
    2002): of all functions that never fall, the one with the least squared error.

    Args:
        score: float array [n], n >= 1, finite.
        right: bool array [n].

    Returns:
        tuple of Block, by rising score and precision.

    Raises:
        FirError: the arrays do not fit, or a score is not finite.

    Example:
        >>> [block.precision for block in learn([0.1, 0.5, 0.6, 0.9], [False, True, False, True])]
        [0.0, 0.5, 1.0]
    """
    scores, hits = np.asarray(score, np.float64), np.asarray(right, bool)
    if scores.ndim != 1 or scores.shape != hits.shape or not np.isfinite(scores).all():
        raise FirError(
            "`score` must be a finite array [n], and `right` one of the same length. Received: "
            f"shapes {scores.shape} and {hits.shape}"
        )
    values, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    sums = np.bincount(place.ravel(), hits, len(values))
    pools: list[tuple[float, float, int, int]] = []
    for value, total, count in zip(values, sums, counts, strict=True):
        low, good, queries = float(value), int(total), int(count)
        # A share that is no larger than the one before is pooled with it.
        while pools and pools[-1][2] * queries >= good * pools[-1][3]:
            low, _, more, others = pools.pop()
            good, queries = good + more, queries + others
        pools.append((low, float(value), good, queries))
    return tuple(Block(low, high, good / count, count) for low, high, good, count in pools)


def calibration_error(confidence: ArrayLike, right: ArrayLike, bins: int = 10) -> float:
    """Expected calibration error: how far confidences are from the shares that are right.

        ECE = sum over bins of n_b / n * abs(mean confidence - share right)

    Guo et al., "On Calibration of Modern Neural Networks", 2017, section 2; bins of equal width.
    Few answers in a bin have a share that is off by luck, which counts too: of a hundred or two,
    a perfect calibration has an error of a few hundredths.

    Args:
        confidence: float array [n] in [0, 1], n >= 1.
        right: bool array [n].
        bins: int.

    Returns:
        float in [0, 1].

    Example:
        Two answers at .8, one of them right, and one at .1 that is wrong.

        >>> round(calibration_error([0.8, 0.8, 0.1], [True, False, False]), 4)
        0.2333
    """
    shares = np.asarray(confidence, np.float64)
    place = np.minimum((shares * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(place, shares - np.asarray(right, bool))
    return float(np.abs(gaps).sum() / len(shares))


def model_checksum(run: Path) -> str:
    """Returns the checksum of a run's model; empty where there is none, as in an export."""
    path = run / "model.keras"
    if not path.is_file():
        return ""
    with open_file(path) as file:
        return checksum(file)
