"""What a model's folder says of its scores -> what an index keeps of it."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fir_tf.calibration import NAME, Calibration, how_of, model_checksum
from fir_tf.errors import FirError
from fir_tf.search.encoder import Encoder
from fir_tf.search.engines import Hit
from fir_tf.search.opened import calibration_place

log = logging.getLogger(__package__)


def kept(encoder: Encoder, how: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what an index keeps of its model's scores: {"calibration": dict}, or {}.

    What is there, but of another model or of photos that were embedded otherwise, is a note.

    Args:
        encoder: Encoder.
        how: dict, `Encoder`'s arguments behind the model.

    Raises:
        FirError: the file is damaged.
    """
    whitening = str(how.get("whitening") or "")
    place = _place(encoder.model, whitening)
    if place is None or not place.is_file():
        return {}
    found, model = Calibration.load(place), model_checksum(Path(encoder.model))
    views = {**how, "crop": encoder.crop, "crop_margin": encoder.margin}
    own = how_of(views, encoder.dimension if whitening else 0)
    why = "; ".join(
        f"{name} is {value} here, {found.how.get(name)} there"
        for name, value in own.items()
        if value != found.how.get(name)
    )
    if model and model != found.model:
        why = "the model has been trained on since"
    if why:
        log.info(
            f"note: scores of the index have no confidence: {place} was learned for others "
            f"({why}). Run evaluate.py as the index is made, then search.py index again"
        )
        return {}
    return {"calibration": found.to_json()}


def _place(model: str, whitening: str) -> Path | None:
    """Where evaluate.py has written what the scores are worth; None for a model in hand."""
    if not model:
        return None
    return Path(whitening).parent / NAME if whitening else calibration_place(Path(model))


def calibration_of(info: Mapping[str, Any], index: str) -> Calibration | None:
    """Returns what an index's scores are worth among its items; None where it does not know.

    Args:
        info: dict, the index's.
        index: str, its address, for the message.

    Raises:
        FirError: what it keeps of them is damaged.
    """
    told, items = info.get("calibration"), info.get("items")
    if told is None:
        return None
    if items is None or "slope" not in told:
        log.info(
            f"note: scores of the index {index} have no confidence: it is of an earlier version. "
            "Run evaluate.py, then search.py index again: no photo is embedded anew"
        )
        return None
    found = Calibration.of(told, f"the calibration in the index {index}")
    return found.among(max(items, 1))


def with_confidence(found: Sequence[Sequence[Hit]], calibration: Calibration) -> list[list[Hit]]:
    """Returns lists of Hits that say how often an answer of their score is right."""
    return [
        [
            dataclasses.replace(hit, confidence=float(share))
            for hit, share in zip(
                hits, calibration.confidence([hit.score for hit in hits]), strict=True
            )
        ]
        for hits in found
    ]


def check_calibrated(calibration: Calibration | None, index: str) -> None:
    """Raises FirError where it is not known what an index's scores are worth."""
    if calibration is None:
        raise FirError(
            "`min_confidence` needs an index that knows what its scores are worth. Received: "
            f"{index}, which does not. Run evaluate.py, which writes {NAME} into the run where the "
            "validation part is large enough (train with --val_fraction=0.3 where it says that it "
            "is not), then search.py index again: no photo is embedded anew"
        )
