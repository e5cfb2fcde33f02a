"""fir_tf.evaluation.bootstrap: intervals that hold what they promise."""

import numpy as np
import pytest
import scipy.stats

from fir_tf.errors import FirError
from fir_tf.evaluation.bootstrap import paired_bootstrap


def test_of_single_queries_it_is_scipys():
    rng = np.random.default_rng(0)
    first, second = rng.random((2, 80)) < [[0.8], [0.7]]
    found = paired_bootstrap(first, second, np.arange(80))
    other = scipy.stats.bootstrap(
        (first.astype(float), second.astype(float)),
        lambda one, two, axis: one.mean(axis) - two.mean(axis),
        paired=True,
        method="percentile",
        n_resamples=10_000,
        rng=np.random.default_rng(1),
    )
    assert found.mean == pytest.approx(first.mean() - second.mean())
    # The ends are shares of 80 queries: a step of that grid is .0125.
    assert (found.low, found.high) == pytest.approx(tuple(other.confidence_interval), abs=0.013)
    assert found.wins == pytest.approx(
        (other.bootstrap_distribution > 0).mean() + (other.bootstrap_distribution == 0).mean() / 2,
        abs=0.02,
    )


def in_a_loop(first, second, groups, folds, samples):
    """The same in plain Python: whole groups, and beside them the runs of each fold."""
    rng = np.random.default_rng(5)
    difference, names = first - second, sorted(set(groups))
    runs = len(difference)
    drawn = []
    for _ in range(samples):
        total = count = 0
        for name in rng.choice(names, len(names)):
            for query, group in enumerate(groups):
                if group == name:
                    total += sum(difference[run, query] for run in range(runs)) / runs
                    count += 1
        sample = total / count
        for fold in set(folds):
            queries = [query for query, own in enumerate(folds) if own == fold]
            means = [difference[run, queries].mean() for run in range(runs)]
            chosen = np.mean([means[run] for run in rng.integers(0, runs, runs)])
            away = (chosen - np.mean(means)) * (runs / (runs - 1)) ** 0.5
            sample += away * len(queries) / len(folds)
        drawn.append(sample)
    return np.mean(drawn), np.std(drawn), *np.quantile(drawn, [0.1, 0.9])


def test_groups_of_several_sizes_and_runs_are_drawn_as_in_a_loop():
    rng = np.random.default_rng(2)
    groups = ["a"] * 6 + ["b"] * 2 + ["c"] + ["d"] * 4 + ["e"] * 3
    folds = [0] * 8 + [1] * 8
    first = rng.normal(0.4, 1, (3, 16)) + rng.normal(0, 1, (3, 1))
    second = rng.normal(0, 1, (3, 16))
    mean, spread, low, high = in_a_loop(first, second, groups, folds, 4000)
    found = paired_bootstrap(first, second, groups, folds, level=0.8)
    assert found.mean == pytest.approx((first - second).mean())
    assert mean == pytest.approx(found.mean, abs=0.1 * spread)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.1 * spread)
    again = paired_bootstrap(first, second, groups, folds, level=0.8)
    assert again == found
    turned = paired_bootstrap(second, first, groups, folds, level=0.8)
    assert turned.mean == -found.mean and turned.wins == pytest.approx(1 - found.wins, abs=0.02)


def simulated(rng, gain, luck, seeds=3, items=30, views=4, folds=2):
    """Two models beside each other: (hits of the first, of the second, items, folds).

    Queries of an item are alike, so are runs on a query, and a run is better or worse as a whole.
    """
    group = np.repeat(np.arange(items), views)
    fold = group % folds
    hardness = rng.normal(0, 1.5, items)[group] + rng.normal(0, 0.7, len(group))

    def hits(ahead):
        runs = rng.normal(0, luck, (seeds, folds))[:, fold]
        return hardness + ahead + runs + rng.normal(0, 0.7, (seeds, len(group))) > -1

    return hits(gain), hits(0), group, fold


def decided(gain, luck, count=300, **options):
    """The share of simulated comparisons whose interval leaves out 0."""
    rng = np.random.default_rng(3)
    found = (
        paired_bootstrap(*simulated(rng, gain, luck, **options), samples=400) for _ in range(count)
    )
    return np.mean([one.decided for one in found])


@pytest.mark.parametrize("luck", [0, 0.3])
def test_without_a_difference_the_interval_covers_zero(luck):
    """95 of 100 times, or somewhat more often; the luck of training does not pass for a gain."""
    assert decided(0, luck) <= 0.08


def test_a_gain_is_seen():
    assert decided(0.8, 0) > 0.9


def test_one_seed_shows_the_luck_of_queries_alone():
    """What the caller has to say where there is one: see `paired_bootstrap`."""
    assert decided(0, 0, seeds=1) <= 0.1
    assert decided(0, 0.5, seeds=1) > 0.2


def test_of_equals_nobody_wins():
    found = paired_bootstrap(np.ones((2, 5)), np.ones((2, 5)), [0, 0, 1, 1, 2])
    assert (found.mean, found.low, found.high, found.wins) == (0, 0, 0, 0.5) and not found.decided


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (([1.0], [1.0, 2.0], [0]), r"`first` and `second` must have one value .* \(1, 1\) and"),
        (([], [], []), "at least one query"),
        (([1.0], [1.0], [0, 1]), r"`groups` must have one value per query \(1\)"),
        (([1.0], [1.0], [0], [0, 1]), r"`folds` must have one value per query \(1\)"),
    ],
)
def test_what_does_not_fit_is_refused(arrays, message):
    with pytest.raises(FirError, match=message):
        paired_bootstrap(*arrays)
