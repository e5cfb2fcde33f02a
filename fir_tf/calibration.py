"""What a score is worth: how often an answer of that score is the right one."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fir_tf.errors import FirError
from fir_tf.files import checksum, open_file, read_json
from fir_tf.options import parse_scales

NAME = "calibration.json"
"""str, the file in a run's folder that keeps one."""

LEAST = 50
"""int, of fewer queries nothing is learned."""

LEAST_ITEMS = 20
"""int, nor of photos of fewer items: those of one item are right or wrong together."""

_BINS = 10
# The odds of an answer fall with this power of the number of items.
_CROWDED = 0.8
_ADVICE = "Evaluate the run again, or delete the file"


@dataclasses.dataclass(frozen=True)
class Bin:
    """First answers that were seen, about as many as in any other bin.

    Attributes:
        low, high: float, the least and the largest of their scores.
        precision: float in [0, 1], the share of them that are right.
        queries: int, how many answers that is.
    """

    low: float
    high: float
    precision: float
    queries: int


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What the scores of a model are worth: confidence = 1 / (1 + exp(-slope score - intercept)).

    Among more items more photos look alike by chance. Were all scores independent, the odds that a
    first answer of a score is right would fall with the number of items: of the best right and the
    best wrong photo the odds at a score are the ratio of their reverse hazard rates, and the best
    of n has n times the rate of one. A photo's scores are not independent; measured, the odds fall
    with its power .8 (docs/scale.md).

    Attributes:
        slope: float >= 0.
        intercept: float.
        items: float, the gallery's photos for each that is right: the number of its items, where
            queries are of all of them alike.
        bins: sequence of Bin, what was seen, for people; scores rise from one to the next.
        learned_on: dict ready for JSON: the photos, and how many there were.
        how: dict ready for JSON: what was embedded of a photo. Other scores are worth other things.
        model: str, the checksum of the model's file.
    """

    slope: float
    intercept: float
    items: float
    bins: Sequence[Bin] = ()
    learned_on: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    how: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    model: str = ""

    def among(self, items: float) -> "Calibration":
        """Returns what scores are worth in a gallery of so many items.

        Args:
            items: float > 0.
        """
        shift = _CROWDED * float(np.log(self.items / items))
        return dataclasses.replace(self, intercept=self.intercept + shift, items=items)

    def confidence(self, score: ArrayLike) -> np.ndarray:
        """Returns how often an answer of such a score is right.

        Args:
            score: float array of any shape.

        Returns:
            float64 array of the same shape, in [0, 1]; it never falls where the score rises.
        """
        return _share(self.slope * np.asarray(score, np.float64) + self.intercept)

    def score_of(self, precision: float) -> float:
        """Returns the least score whose answers are right that often.

        Args:
            precision: float in [0, 1].

        Returns:
            float; -inf where all answers are, inf where none are.
        """
        with np.errstate(divide="ignore"):
            missing = float(np.log(precision) - np.log1p(-precision)) - self.intercept
        if self.slope and np.isfinite(missing):
            return missing / self.slope
        return float("inf" if missing > 0 else "-inf")

    def to_json(self) -> dict[str, Any]:
        """Returns a dict ready for JSON, which `of` reads."""
        return dataclasses.asdict(self)

    @classmethod
    def of(cls, value: Mapping[str, Any], where: str) -> "Calibration":
        """Returns what `to_json` told.

        Args:
            value: dict.
            where: str, whose it is, for the message.

        Raises:
            FirError: it is damaged, or of an earlier version.
        """
        try:
            slope, intercept, items = (
                float(value[name]) for name in ("slope", "intercept", "items")
            )
            if not (np.isfinite([slope, intercept, items]).all() and slope >= 0 and items > 0):
                raise ValueError("numbers that no curve has")
            bins = tuple(
                Bin(
                    float(row["low"]),
                    float(row["high"]),
                    float(row["precision"]),
                    int(row["queries"]),
                )
                for row in value["bins"]
            )
            told = dict(value["learned_on"]), dict(value["how"]), str(value.get("model", ""))
            return cls(slope, intercept, items, bins, *told)
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


def learn(score: ArrayLike, right: ArrayLike, items: float) -> Calibration:
    """Learns by logistic regression how often answers are right, the more often the higher scored.

    Platt, "Probabilistic Outputs for Support Vector Machines", 1999, with his targets: of n right
    answers each counts as (n + 1) / (n + 2) of one, so that few answers promise nothing for sure.

    Args:
        score: float array [n], n >= 1, finite.
        right: bool array [n].
        items: float > 0, see `Calibration`.

    Returns:
        Calibration.

    Raises:
        FirError: the arrays do not fit, or a score is not finite.

    Example:
        >>> found = learn([0.1, 0.4, 0.5, 0.9], [False, False, True, True], items=20)
        >>> found.confidence([0.2, 0.8]).round(2).tolist()
        [0.3, 0.73]
    """
    from scipy.optimize import minimize

    scores, hits = np.asarray(score, np.float64), np.asarray(right, bool)
    if scores.ndim != 1 or scores.shape != hits.shape or not np.isfinite(scores).all():
        raise FirError(
            "`score` must be a finite array [n], and `right` one of the same length. Received: "
            f"shapes {scores.shape} and {hits.shape}"
        )
    counts = hits.sum(), (~hits).sum()
    target = np.where(hits, (counts[0] + 1) / (counts[0] + 2), 1 / (counts[1] + 2))
    # Scores that are all alike tell nothing.
    mean, spread = scores.mean(), max(scores.std(), 1e-6)
    apart = (scores - mean) / spread

    def loss(curve: np.ndarray) -> tuple[float, np.ndarray]:
        logits = curve[0] * apart + curve[1]
        left = _share(logits) - target
        return float(np.logaddexp(0, logits).sum() - target @ logits), left @ np.stack(
            [apart, np.ones_like(apart)], axis=1
        )

    # A curve that falls is nothing to tell sure answers by.
    slope, middle = minimize(loss, np.zeros(2), jac=True, bounds=[(0, None), (None, None)]).x
    slope /= spread
    return Calibration(
        float(slope), float(middle - slope * mean), float(items), _bins(scores, hits)
    )


def _share(logits: np.ndarray) -> np.ndarray:
    # No overflow, and no SciPy, which takes as long to import as a photo to embed.
    return np.exp(-np.logaddexp(0, -logits))


def _bins(scores: np.ndarray, hits: np.ndarray) -> tuple[Bin, ...]:
    parts = np.array_split(np.argsort(scores, kind="stable"), min(_BINS, len(scores)))
    return tuple(
        Bin(
            float(scores[part[0]]),
            float(scores[part[-1]]),
            float(hits[part].mean()),
            len(part),
        )
        for part in parts
    )


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


def how_of(views: Mapping[str, Any], whiten: int) -> dict[str, Any]:
    """Returns what decides on scores beside the model, the same where it is said in other words.

    Args:
        views: dict of any of `flip`, `scales`, `crop` and `crop_margin`, see
            `fir_tf.options.Views`.
        whiten: int, the numbers that embeddings are whitened to; 0 for their own.
    """
    crop = views.get("crop") or "image"
    return {
        "flip": bool(views.get("flip")),
        "scales": list(parse_scales(views.get("scales") or "1")),
        "crop": crop,
        "crop_margin": float(views.get("crop_margin", 0.0)) if crop == "box" else 0.0,
        "whiten": whiten,
    }


def model_checksum(run: Path) -> str:
    """Returns the checksum of a run's model; empty where there is none, as in an export."""
    path = run / "model.keras"
    if not path.is_file():
        return ""
    with open_file(path) as file:
        return checksum(file)
