"""What a run's scores are worth, learned on photos that it was not trained on."""

import dataclasses
from collections.abc import Callable

import numpy as np

from fir_tf.calibration import LEAST, LEAST_ITEMS, Calibration, calibration_error, learn
from fir_tf.datasets.catalogue import Catalogue, retrieval_sides
from fir_tf.errors import FirError
from fir_tf.evaluation.embedder import Embedder
from fir_tf.evaluation.measure import Procedure, measure
from fir_tf.evaluation.measured import Measured
from fir_tf.neighbours import top_k

ECE = "ECE"
"""str, the metric's name."""


@dataclasses.dataclass(frozen=True)
class Learned:
    """What was learned of scores.

    Attributes:
        calibration: Calibration; None where nothing was.
        counts: dict of int: `queries` and `gallery` images it was learned on.
        text: str, what it was learned on, or why nothing was.
    """

    calibration: Calibration | None = None
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    text: str = ""


def learn_from(measured: Measured | None, part: str) -> Learned:
    """Learns what first answers are worth.

    Args:
        measured: Measured, in the order of inner products; None where there was nothing to measure.
        part: str, what it was measured on, for the text.
    """
    score, right = first_answers(measured)
    if measured is None or len(score) < LEAST:
        return Learned(text=_too_few(f"{len(score)} queries", LEAST, part))
    gallery, items = len(measured.gallery), _items(measured)
    if items < LEAST_ITEMS:
        return Learned(text=_too_few(f"photos of {items:.0f} items", LEAST_ITEMS, part))
    text = (
        f"confidence is learned by logistic regression on the first answers to {len(score)} "
        f"queries among {gallery} photos, {part}, and told for the number of items asked among; "
        f"{ECE} is its expected calibration error on the queries above, where they are others"
    )
    found = learn(score, right, items)
    return Learned(found, {"queries": len(score), "gallery": gallery}, text)


def learn_on(
    embedder: Embedder, validation: Callable[[], Catalogue], procedure: Procedure, part: str
) -> Learned:
    """Embeds a validation part and learns from it; where that cannot be, the text says why.

    Args:
        embedder: Embedder.
        validation: callable that returns a Catalogue whose split `val` it is.
        procedure: Procedure; only the whitening and the size of batches count.
        part: str, what it is, for the text.
    """
    try:
        catalogue = validation()
        # Before anything is embedded: validation parts of few photos are common.
        count = len(retrieval_sides(catalogue, "val")[0])
        if count < LEAST:
            return Learned(text=_too_few(f"{count} queries", LEAST, part))
        how = dataclasses.replace(procedure, split="val", classifies=False, find=top_k)
        return learn_from(measure(embedder, catalogue, how), part)
    # It is beside what was asked for, which is measured all the same.
    except FirError as error:
        return Learned(text=f"no confidence is learned: {error}")


def first_answers(measured: Measured | None) -> tuple[np.ndarray, np.ndarray]:
    """Returns (float [q], bool [q]): scores of the first answers, and whether they are right.

    Queries without a match count for nothing, as in recall@k.
    """
    result = measured.result if measured else None
    if result is None:
        return np.empty(0), np.empty(0, bool)
    return result.scores[result.evaluated, 0], result.correct[result.evaluated, 0]


def error_of(learned: Learned, measured: Measured) -> dict[str, float]:
    """Returns the expected calibration error by name, measured on other photos; {} without any."""
    score, right = first_answers(measured)
    if not learned.calibration or not len(score):
        return {}
    told = learned.calibration.among(_items(measured)).confidence(score)
    return {ECE: calibration_error(told, right)}


def _items(measured: Measured) -> float:
    """Returns of how many items a gallery is, see `Calibration.items`."""
    assert measured.result is not None
    matches = measured.result.relevant[measured.result.evaluated]
    return len(measured.gallery) / float(matches.mean())


def _too_few(has: str, needed: int, part: str) -> str:
    return (
        f"no confidence is learned: {part} has {has}, and {needed} are needed; a larger "
        "--val_fraction in training gives more"
    )
