"""What an index keeps of questions as they were when all was well, to tell later ones from."""

import collections
import dataclasses
import datetime
import functools
import hashlib
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fir_tf.errors import FirError
from fir_tf.search.engines import Engine
from fir_tf.search.engines.base import in_pieces

SKETCHED = 16
"""int, the numbers of an embedding's sketch."""

LEAST = 50
"""int, of fewer questions nothing is said."""

# Photos of the index that are asked with.
_DRAWN = 500
_BINS = 10
_AT_A_TIME = 64


@functools.cache
def _signs(dimension: int) -> np.ndarray:
    # Of a hash and no generator of random numbers, whose numbers may be others in a later version.
    contents = hashlib.shake_128(b"fir_tf sketch").digest(dimension * SKETCHED // 8)
    bits = np.unpackbits(np.frombuffer(contents, np.uint8)).reshape(dimension, SKETCHED)
    return (2.0 * bits - 1) / np.sqrt(SKETCHED)


def sketch(vectors: ArrayLike) -> np.ndarray:
    """Returns a few numbers of each embedding, which keep distances to about a fifth.

    A projection onto random signs (Achlioptas 2003, "Database-friendly random projections"), the
    same for all embeddings of a length, of this and of all later versions. No photo can be made of
    so few numbers.

    Args:
        vectors: float [n, d].

    Returns:
        float64 [n, 16].
    """
    array = np.asarray(vectors, np.float64)
    return array @ _signs(array.shape[1])


@dataclasses.dataclass(frozen=True, eq=False)
class Questions:
    """A stream of photos that were asked with.

    Attributes:
        scores: float [n], the first answers' among all of the catalogue.
        sketches: float [m, 16], of all embeddings: also of those that were asked with a filter.
    """

    scores: np.ndarray
    sketches: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Reference:
    """What is kept of a stream of questions.

    Attributes:
        edges: float [b + 1], first answers' scores that part them into equal shares.
        counts: int [b], how many scores lie between two edges.
        mean: float [16], of the embeddings' sketches.
        covariance: float [16, 16], theirs.
        independent: float, as how many questions, independent of each other, they tell as much.
        source: str, which questions.
        model: str, the name of its fingerprint.
        images: int, photos in the index at that time.
        made: str, the time in ISO 8601.
    """

    edges: np.ndarray
    counts: np.ndarray
    mean: np.ndarray
    covariance: np.ndarray
    independent: float
    source: str
    model: str
    images: int
    made: str

    @classmethod
    def learn(
        cls,
        asked: Questions,
        source: str,
        model: str,
        images: int,
        independent: float = float("inf"),
    ) -> "Reference":
        """Returns what is to be kept of questions.

        Args:
            asked: Questions.
            source: str, which these are.
            model: str, the name of its fingerprint.
            images: int, photos in the index.
            independent: float, as how many independent ones they tell as much, if less.

        Raises:
            FirError: they are fewer than `LEAST`.
        """
        check_enough(asked, source)
        # As a log has them.
        scores = np.round(asked.scores, 4)
        # Scores that stand often, such as those of photos that are there twice, are one edge.
        edges = np.unique(np.quantile(scores, np.linspace(0, 1, _BINS + 1)))
        if len(edges) == 1:
            edges = np.repeat(edges, 2)
        return cls(
            edges,
            counted(scores, edges),
            asked.sketches.mean(axis=0),
            np.cov(asked.sketches, rowvar=False),
            min(independent, len(scores), len(asked.sketches)),
            source,
            model,
            images,
            datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        )

    def to_json(self) -> dict[str, Any]:
        """Returns a dict ready for JSON, about 4 KB, which `of` reads."""
        value = dataclasses.asdict(self)
        for name in ("edges", "mean", "covariance"):
            value[name] = np.vectorize(_short)(value[name]).tolist()
        return {**value, "counts": self.counts.tolist()}

    @classmethod
    def of(cls, value: Mapping[str, Any], where: str) -> "Reference":
        """Returns what `to_json` told.

        Args:
            value: dict.
            where: str, whose it is, for the message.

        Raises:
            FirError: it is damaged.
        """
        try:
            told = {field.name: value[field.name] for field in dataclasses.fields(cls)}
            for name in ("edges", "counts", "mean", "covariance"):
                told[name] = np.asarray(told[name], np.float64)
                if not np.isfinite(told[name]).all():
                    raise ValueError(f"{name} is not finite")
            found = cls(**told)
            shapes = (found.mean.shape, found.covariance.shape, found.counts.shape)
            if shapes != ((SKETCHED,), (SKETCHED, SKETCHED), (len(found.edges) - 1,)):
                raise ValueError(f"shapes {shapes}")
        except (KeyError, TypeError, ValueError) as error:
            raise FirError(
                f"{where} must be what search.py writes. Received: {type(error).__name__}: "
                f"{error}. Learn another one: search.py watch --learn"
            ) from error
        return found


def _short(number: float) -> float:
    return float(f"{number:.6g}")


def counted(scores: ArrayLike, edges: np.ndarray) -> np.ndarray:
    """Counts scores between edges, int [b]; those beyond the first and last are in these bins."""
    places = np.searchsorted(edges[1:-1], np.asarray(scores), side="right")
    return np.bincount(places, minlength=len(edges) - 1)


def check_enough(asked: Questions, source: str) -> None:
    """Raises FirError where questions are too few to say anything of."""
    if min(len(asked.scores), len(asked.sketches)) < LEAST:
        raise FirError(
            f"at least {LEAST} photos must have been asked with, without a filter. Received: "
            f"{len(asked.scores)}, of {source}"
        )


def referenced(engine: Engine, info: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what an index keeps of questions: {"reference": dict}, {} for a small index.

    What it keeps already stays: what later questions are told from must not follow them.

    Args:
        engine: Engine, with all its photos.
        info: dict, what is to be the engine's.
    """
    if "reference" in info:
        return {"reference": info["reference"]}
    asked, independent = _asked_of(engine)
    if len(asked.scores) < LEAST or not info.get("model"):
        return {}
    source = f"{len(asked.scores):,} photos of the index itself"
    model = info["model"]["name"]
    found = Reference.learn(asked, source, model, len(engine), independent)
    return {"reference": found.to_json()}


def _asked_of(engine: Engine) -> tuple[Questions, float]:
    """Asks an index with photos of its own, drawn at random, each left out of its own answers.

    Returns:
        (Questions, as how many independent ones they tell as much). Photos of an item are like
        each other, and two photos that find each other have one score.
    """
    paths = sorted(record.path for part, _ in engine.scan() for record in part)
    drawn = np.random.default_rng(0).permutation(len(paths))[:_DRAWN]
    found = engine.fetch([paths[row] for row in drawn])
    scores, items, pairs = [], [], []
    for part in in_pieces(found, _AT_A_TIME):
        answers = engine.search(np.stack([vector for _, vector in part]), 2)
        for (record, _), hits in zip(part, answers, strict=True):
            for hit in [hit for hit in hits if hit.record.path != record.path][:1]:
                scores.append(hit.score)
                items.append(record.item or record.path)
                pairs.append(frozenset((record.path, hit.record.path)))
    vectors = [vector for _, vector in found] or np.empty([0, 1])
    independent = min(_independent(items), _independent(pairs))
    return Questions(np.array(scores), sketch(vectors)), independent


def _independent(groups: Sequence[Hashable]) -> float:
    """As how many independent questions these tell as much, were those of a group all the same."""
    sizes = np.array(list(collections.Counter(groups).values()), np.float64)
    return float(sizes.sum() ** 2 / max((sizes**2).sum(), 1))
