"""What a server's access log has of a photo that was asked with, written and read again."""

import dataclasses
import datetime
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fir_tf.errors import FirError
from fir_tf.search.engines import Hit
from fir_tf.search.generation import Generation
from fir_tf.search.reference import SKETCHED, Questions, sketch


def entry(
    generation: Generation, vector: np.ndarray, hits: Sequence[Hit], filtered: bool
) -> dict[str, Any]:
    """Returns what a log keeps of a photo that was asked with: not the photo, nor its embedding.

    Args:
        generation: Generation that answered.
        vector: float [d], the photo's embedding.
        hits: sequence of Hit, the answers, also those of too little confidence.
        filtered: bool, whether a part of the catalogue alone was asked.

    Returns:
        dict ready for JSON: `model`, the name of its fingerprint; `sketch`, 16 numbers, see
        `fir_tf.search.reference.sketch`; and `score`, the first answer's, where all of the
        catalogue was asked.
    """
    numbers = [round(float(number), 4) for number in sketch(vector[np.newaxis])[0]]
    score = {"score": round(hits[0].score, 4)} if hits and not filtered else {}
    return {"model": generation.model, "sketch": numbers, **score}


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a log has of the photos that an index was asked with.

    Attributes:
        questions: Questions, each photo once, however often it was asked with.
        of_others: int, lines of photos that another model answered.
        unread: int, lines that are no JSON, such as one that was being written, or that have no
            entry as `entry` makes it.
    """

    questions: Questions
    of_others: int
    unread: int


def read_log(path: str, model: str, days: float = 0.0) -> Asked:
    """Reads a server's access log.

    Args:
        path: str, the file.
        model: str, the name of the model's fingerprint.
        days: float, how far back from now; 0 for all.

    Raises:
        FirError: it cannot be read, or no line of it is one of a server.
    """
    first = ""
    if days:
        now = datetime.datetime.now(datetime.timezone.utc)
        first = (now - datetime.timedelta(days=days)).isoformat(timespec="milliseconds")
    scores: dict[tuple[float, ...], float | None] = {}
    lines = of_others = unread = 0
    for line in _lines(path):
        lines += 1
        try:
            told = json.loads(line)
            asked = told.get("query")
            # All times are UTC and of the same length.
            if not asked or told["time"] < first:
                continue
            if asked["model"] != model:
                of_others += 1
                continue
            key, score = _numbers(asked["sketch"]), asked.get("score")
            scores[key] = scores.get(key) if score is None else _finite(score)
        # A number may be too large for a float, and lists too deep.
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            unread += 1
    if lines and unread == lines:
        raise FirError(
            f"`log` must be what search.py web --access_log=FILE writes. Received: {path}, of "
            f"which none of {lines:,} lines is"
        )
    found = [score for score in scores.values() if score is not None]
    sketches = np.array(list(scores)).reshape(-1, SKETCHED)
    return Asked(Questions(np.array(found), sketches), of_others, unread)


def _lines(path: str) -> Iterator[str]:
    try:
        with Path(path).open(encoding="utf-8", errors="replace") as file:
            yield from filter(str.strip, file)
    except FileNotFoundError as error:
        raise FirError(
            f"`log` must be a file that search.py web --access_log=FILE writes. Received: {path}, "
            "which is not there"
        ) from error


def _numbers(value: Any) -> tuple[float, ...]:
    numbers = tuple(map(_finite, value))
    if len(numbers) != SKETCHED:
        raise ValueError("no sketch")
    return numbers


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("no number")
    return number
