"""Whether a difference between two models is more than luck: a paired bootstrap over queries."""

import dataclasses

import numpy as np
from numpy.typing import ArrayLike

from fir_tf.errors import FirError

# Samples worked on at a time.
_CHUNK = 500


@dataclasses.dataclass(frozen=True)
class Difference:
    """What `paired_bootstrap` found.

    Attributes:
        mean: float, the first model's mean over queries and runs less the second's.
        low, high: float, the ends of its interval.
        wins: float, the share of bootstrap samples in which the first model is better; samples in
            which both are equal count half.
    """

    mean: float
    low: float
    high: float
    wins: float

    @property
    def decided(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


def paired_bootstrap(
    first: ArrayLike,
    second: ArrayLike,
    groups: ArrayLike,
    folds: ArrayLike | None = None,
    *,
    samples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> Difference:
    """Compares two models on the same queries; percentile intervals (Efron & Tibshirani 1993).

    Two kinds of luck are drawn anew, the one beside the other:

    - that of the queries: whole groups with replacement, such as items, whose queries are not
      independent of each other. The mean is that of the queries in the sample.
    - that of training, where there are several runs (seeds): in each fold as many runs with
      replacement. What these means are away from the mean of all is widened by sqrt(r / (r - 1)),
      without which r runs show too little of it (Rao & Wu 1988). A single run says nothing about
      this luck, and the interval is then that of the queries alone.

    In simulations of 30 items the 95 % interval holds the true difference 94 to 98 of 100 times
    with three runs on two or three folds. With three runs or fewer in all it is too narrow where
    the luck of training is large: 80 to 90 of 100.

    Args:
        first: float array [q] or [r, q], what each query is worth in each run of the first model.
        second: the same of the second; run i of both is a pair.
        groups: int or str array [q], what belongs together.
        folds: optional array [q], which of several models of a run a query was measured with, as
            in a cross-validation.
        samples: int, bootstrap samples.
        level: float in (0, 1), the share of intervals that are to hold the true difference.
        seed: int.

    Returns:
        Difference.

    Raises:
        FirError: arrays that do not fit each other, or without a query.

    Example:
        The first model is better on each of three items, by different amounts.

        >>> found = paired_bootstrap([1.0, 1.0, 0.5, 1.0], [0.0, 1.0, 0.0, 0.0], [7, 7, 8, 9])
        >>> found.mean, found.low > 0, found.wins
        (0.625, True, 1.0)
    """
    difference = _check(first, second)
    runs, queries = difference.shape
    group = _numbered("groups", groups, queries)
    fold = _numbered("folds", np.zeros(queries) if folds is None else folds, queries)
    rng = np.random.default_rng(seed)
    drawn = np.concatenate(
        [
            _means_of_groups(difference.mean(axis=0), group, min(_CHUNK, samples - start), rng)
            for start in range(0, samples, _CHUNK)
        ]
    )
    for number in range(fold.max() + 1 if runs > 1 else 0):
        part = fold == number
        means = difference[:, part].mean(axis=1)
        counts = rng.multinomial(runs, np.full(runs, 1 / runs), samples)
        luck = counts @ (means - means.mean()) / runs * np.sqrt(runs / (runs - 1))
        drawn += part.mean() * luck
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    wins = (drawn > 0).mean() + (drawn == 0).mean() / 2
    return Difference(float(difference.mean()), float(low), float(high), float(wins))


def mean_interval(
    values: ArrayLike, groups: ArrayLike, *, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Returns the ends of a mean's percentile interval, with whole groups drawn anew.

    Args:
        values: float array [q], what each query is worth.
        groups: int or str array [q], what belongs together, such as items.
        level: float in (0, 1), the share of intervals that are to hold the true mean.
        seed: int.

    Raises:
        FirError: arrays that do not fit each other, or without a query.

    Example:
        One group is like the other: the mean cannot be anything else.

        >>> mean_interval([1.0, 0.0, 1.0, 0.0], [7, 7, 8, 8])
        (0.5, 0.5)
    """
    found = paired_bootstrap(values, np.zeros_like(values), groups, level=level, seed=seed)
    return found.low, found.high


def _check(first: ArrayLike, second: ArrayLike) -> np.ndarray:
    """Returns the differences as float64 [r, q]."""
    one, other = (np.atleast_2d(np.asarray(values, np.float64)) for values in (first, second))
    if one.ndim != 2 or one.shape != other.shape or not one.size:
        raise FirError(
            "`first` and `second` must have one value per run and query, of the same runs and at "
            f"least one query. Received: shapes {one.shape} and {other.shape}"
        )
    return one - other


def _numbered(name: str, values: ArrayLike, queries: int) -> np.ndarray:
    """Returns labels as numbers from 0, int array [q]."""
    values = np.asarray(values)
    if values.shape != (queries,):
        raise FirError(
            f"`{name}` must have one value per query ({queries}). Received: shape {values.shape}"
        )
    return np.unique(values, return_inverse=True)[1]


def _means_of_groups(
    values: np.ndarray, group: np.ndarray, samples: int, rng: np.random.Generator
) -> np.ndarray:
    """Returns the mean of `values` [q] over groups drawn with replacement, float64 [samples]."""
    sums, sizes = np.bincount(group, values), np.bincount(group)
    drawn = rng.integers(0, len(sums), (samples, len(sums)))
    return sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
