"""How far a stream of questions is from another one, and how far luck alone might take it."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import chi2, norm

from fir_tf.calibration import Calibration
from fir_tf.search.reference import SKETCHED, Questions, Reference, counted

# Of a hundred streams that have not changed one is further away than luck is said to take it.
_SURE = 0.99
# Less than this is of no use to anyone, however many questions show it.
_NOTEWORTHY = {"psi": 0.1, "shift": 0.5, "below": 0.05}
# A direction in which embeddings hardly differ counts as if they did by this much of the largest
# variance, and by what a sketch in a log is rounded to, for photos that are all the same.
_LEAST_VARIANCE, _ROUNDED = 1e-3, 1e-4


def stability_index(expected: ArrayLike, actual: ArrayLike) -> float:
    """Population stability index of two histograms.

        PSI = sum over bins of (a - e) * ln(a / e)

    of the shares e and a in each bin (Lewis 1994, "An Introduction to Credit Scoring"; Kullback and
    Leibler's symmetric divergence). By custom under .1 is no change to speak of, over .25 a large
    one. Each bin has half a count more, so that an empty one is not infinite.

    Args:
        expected: int array [b], counts of the reference.
        actual: int array [b].

    Returns:
        float >= 0.

    Example:
        Shares of .5 and .5 that have become .75 and .25: .25 ln 1.5 - .25 ln .5 is .2747.

        >>> round(stability_index([500, 500], [1500, 500]), 3)
        0.274
    """
    e, a = (_shares(counts) for counts in (expected, actual))
    return float(((a - e) * np.log(a / e)).sum())


def _shares(counts: ArrayLike) -> np.ndarray:
    more = np.asarray(counts, np.float64) + 0.5
    return more / more.sum()


def shift(reference: Reference, sketches: np.ndarray) -> float:
    """Distance of the mean embedding from the reference's, in its standard deviations.

        D = sqrt(d' S^-1 d)

    of the difference d of the means and the reference's covariance S (Mahalanobis 1936).

    Args:
        reference: Reference.
        sketches: float [n, 16].

    Returns:
        float >= 0. 1 is as far as embeddings differ among each other.
    """
    variances, directions = np.linalg.eigh(reference.covariance)
    least = max(_LEAST_VARIANCE * float(variances[-1]), _ROUNDED**2)
    apart = directions.T @ (sketches.mean(axis=0) - reference.mean)
    return float(np.sqrt((apart**2 / (np.maximum(variances, 0) + least)).sum()))


def _luck(first: float, second: int, freedom: int) -> float:
    """How far luck takes a stability index, or the square of a shift, of so many questions.

    Where nothing has changed, either is about (1 / n + 1 / m) times chi-square (Yurdakul and
    Naranjo 2020, "Statistical properties of the population stability index"; Hotelling 1931).
    """
    return (1 / first + 1 / second) * float(chi2.ppf(_SURE, freedom))


def drift(
    reference: Reference, asked: Questions, calibration: Calibration | None, precision: float
) -> dict[str, Any]:
    """Compares questions with a reference.

    Args:
        reference: Reference.
        asked: Questions, at least one.
        calibration: Calibration; None where it is not known what scores are worth.
        precision: float in [0, 1], the share of right first answers that is asked for.

    Returns:
        dict ready for JSON: `psi`, `shift` and `below`, each a dict of `value`, `luck` (what a
        stream that has not changed stays below 99 of 100 times) and `changed`, a bool: more than
        that, and enough to matter. `below` is the share of questions with a first answer of so
        little a score that fewer than `precision` of them are right; it has this `score`, and
        the `reference`'s share; None without a calibration. `bins` has the `edges` of the scores
        and the shares `reference` and `asked` between them.
    """
    counts = counted(asked.scores, reference.edges)
    known, before = int(reference.counts.sum()), reference.independent
    index = stability_index(reference.counts, counts)
    index_luck = _luck(before, len(asked.scores), max(len(counts) - 1, 1))
    far = shift(reference, asked.sketches)
    far_luck = _luck(before, len(asked.sketches), SKETCHED) ** 0.5
    return {
        "psi": _told("psi", index, index_luck),
        "shift": _told("shift", far, far_luck),
        "below": _below(reference, asked.scores, calibration, precision),
        "bins": {
            "edges": reference.edges.tolist(),
            "reference": (reference.counts / known).tolist(),
            "asked": (counts / len(asked.scores)).tolist(),
        },
    }


def _told(name: str, value: float, luck: float, before: float = 0.0) -> dict[str, Any]:
    changed = value > max(luck, before + _NOTEWORTHY[name])
    return {"value": value, "luck": luck, "changed": bool(changed)}


def _below(
    reference: Reference, scores: np.ndarray, calibration: Calibration | None, precision: float
) -> dict[str, Any] | None:
    if calibration is None:
        return None
    least, known = calibration.score_of(precision), int(reference.counts.sum())
    # Between two edges scores are taken to lie evenly.
    before = float(np.interp(least, reference.edges, np.append(0, reference.counts.cumsum())))
    likely = (before + 0.5) / (known + 1)
    spread = np.sqrt(likely * (1 - likely) * (1 / reference.independent + 1 / len(scores)))
    luck = min(likely + float(norm.ppf(_SURE) * spread), 1.0)
    return {
        **_told("below", float((scores < least).mean()), luck, before / known),
        "reference": before / known,
        "precision": precision,
        "score": least if np.isfinite(least) else None,
    }
