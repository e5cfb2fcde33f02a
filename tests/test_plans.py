"""Batch plans: properties that hold for any catalogue, checked with plain Python."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fir_tf.errors import FirError
from fir_tf.input.plans import MixedPlan, PKPlan, TripletPlan, UniformPlan


def labels_of(sizes):
    return np.repeat(np.arange(len(sizes)), sizes).astype(np.int32)


def epoch_of(plan, number=0):
    first = number * plan.steps_per_epoch
    return [plan(np.int64(first + step)).numpy() for step in range(plan.steps_per_epoch)]


@pytest.mark.parametrize("count", [2, 5, 62])
def test_permutations_are_uniform(count):
    """Every image comes to every place of an epoch about equally often (chi-squared test)."""
    epochs = 60 * count if count < 10 else 1200
    table = np.zeros((count, count))
    for epoch in range(epochs):
        rows = UniformPlan(np.arange(count), count, 9)(np.int64(epoch)).numpy()
        table[np.arange(count), rows] += 1
    expected = epochs / count
    freedom = (count - 1) ** 2
    chi = ((table - expected) ** 2 / expected).sum()
    assert abs(chi - freedom) < 6 * np.sqrt(2 * freedom)


@settings(max_examples=15, deadline=None)
@given(count=st.integers(1, 70), size=st.integers(1, 16), seed=st.integers(0, 1000))
def test_uniform_takes_every_image_once_an_epoch(count, size, seed):
    rows = np.arange(count) * 3 + 1
    plan = UniformPlan(rows, size, seed)
    batches = epoch_of(plan)
    assert len(batches) == -(-count // size)
    drawn = np.concatenate(batches)
    assert set(drawn[:count]) == set(rows)
    assert set(drawn) <= set(rows)


@settings(max_examples=20, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=4, max_size=14).filter(lambda s: max(s) > 1),
    k=st.integers(2, 5),
    seed=st.integers(0, 1000),
)
def test_pk_batches(sizes, k, seed):
    labels = labels_of(sizes)
    plan = PKPlan(labels, np.arange(len(labels)), 4 * k, k, seed)
    batches = epoch_of(plan)
    used = set()
    for batch in batches:
        assert len(batch) == 4 * k
        places = batch.reshape(4, k)
        heads = labels[places[:, 0]]
        assert len(set(heads)) == 4, "P distinct items"
        for head, row in zip(heads, places, strict=True):
            own = min(k, sizes[head])
            assert (labels[row[:own]] == head).all()
            assert len(set(row[:own])) == own, "an image stands once in its item's places"
        used |= set(heads)
    assert used == set(range(len(sizes))), "every item is used within an epoch"


def test_pk_draws_the_images_of_an_item_evenly():
    labels = labels_of([7, 7, 7, 7])
    plan = PKPlan(labels, np.arange(28), 9, 3, 5)
    counts = Counter()
    steps = 1400
    for step in range(steps):
        rows = plan(np.int64(step)).numpy()
        counts.update(rows.tolist())
    # 3 of 4 items in a batch, 3 of 7 images of each: binomial around steps * 9 / 28.
    mean = steps * 9 / 28
    assert all(abs(counts[row] - mean) < 5 * np.sqrt(mean) for row in range(28))


def test_small_items_are_not_over_weighted():
    """An image of a two-image item is drawn no more often than its item's turn and the fill."""
    sizes = [2] * 10 + [8] * 10
    labels = labels_of(sizes)
    plan = PKPlan(labels, np.arange(len(labels)), 16, 4, 0)
    counts = Counter()
    steps = 1000
    for step in range(steps):
        counts.update(plan(np.int64(step)).numpy().tolist())
    turns = steps * 4 / 20
    fill = (steps * 16 - turns * 10 * (2 + 4)) / 100
    small = np.mean([counts[row] for row in range(20)])
    large = np.mean([counts[row] for row in range(20, 100)])
    assert small == pytest.approx(turns + fill, rel=0.08)
    assert large == pytest.approx(turns * 4 / 8 + fill, rel=0.08)


def test_fewer_items_than_p_take_more_images_each():
    labels = labels_of([30, 30, 30])
    rows = PKPlan(labels, np.arange(90), 32, 4, 0)(np.int64(0)).numpy()
    assert sorted(Counter(labels[rows[:30]]).values()) == [10, 10, 10]
    assert len(rows) == 32


@settings(max_examples=20, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=10).filter(lambda s: max(s) > 1),
    anchors=st.integers(1, 9),
    seed=st.integers(0, 1000),
)
def test_explicit_triplets(sizes, anchors, seed):
    item = labels_of(sizes)
    # Shuffled, so that a plan which confuses rows with sorted places is found out.
    item = np.random.default_rng(seed).permutation(item)
    plan = TripletPlan([item], np.arange(len(item)), anchors, seed)
    taken = []
    for batch in epoch_of(plan):
        a, p, n = batch.reshape(3, anchors)
        assert (item[a] == item[p]).all() and (a != p).all()
        assert (item[a] != item[n]).all()
        taken += a.tolist()
    able = {row for row in range(len(item)) if (item == item[row]).sum() > 1}
    assert set(taken[: len(able)]) == able, "every image with a partner is an anchor once"


def test_explicit_triplets_by_item_and_category():
    rng = np.random.default_rng(0)
    item = rng.permutation(labels_of([3] * 12))
    category = (item % 3).astype(np.int32)
    plan = TripletPlan([item, category], np.arange(36), 6, 1, ["item", "category"])
    for step in range(20):
        a, p, n, q, m = plan(np.int64(step)).numpy().reshape(5, 6)
        assert (item[a] == item[p]).all() and (item[a] != item[n]).all()
        assert (category[a] == category[q]).all() and (a != q).all()
        assert (category[a] != category[m]).all()


def test_negatives_are_uniform_over_the_other_items():
    item = labels_of([2, 5, 3])
    plan = TripletPlan([item], np.arange(10), 10, 3)
    seen = Counter()
    for step in range(600):
        a, _, n = plan(np.int64(step)).numpy().reshape(3, 10)
        seen.update(n[item[a] == 0].tolist())
    total = sum(seen.values())
    assert set(seen) == set(range(2, 10))
    assert all(abs(seen[row] - total / 8) < 5 * np.sqrt(total / 8) for row in seen)


def test_unlabelled_rows_are_never_drawn_for_triplets():
    labels = np.array([0, -1, 0, 1, -1, 1, 1], np.int32)
    for plan in (
        PKPlan(labels, np.arange(7), 8, 4, 0),
        TripletPlan([labels], np.arange(7), 4, 0),
    ):
        for step in range(30):
            assert (labels[plan(np.int64(step)).numpy()] >= 0).all()


@pytest.mark.parametrize(
    "make",
    [
        lambda seed: UniformPlan(np.arange(50), 8, seed),
        lambda seed: PKPlan(labels_of([5] * 10), np.arange(50), 8, 2, seed),
        lambda seed: TripletPlan([labels_of([5] * 10)], np.arange(50), 8, seed),
    ],
)
def test_a_plan_is_a_function_of_seed_and_step(make):
    steps = [0, 7, 3, 12]
    first = {step: make(4)(np.int64(step)).numpy().tolist() for step in steps}
    again = {step: make(4)(np.int64(step)).numpy().tolist() for step in reversed(steps)}
    assert first == again
    assert make(5)(np.int64(3)).numpy().tolist() != first[3]
    assert len({tuple(rows) for rows in first.values()}) == len(steps)


def test_mixed_plan_appends_rows_for_oc():
    labels = labels_of([4] * 6)
    plan = MixedPlan(
        TripletPlan([labels], np.arange(24), 3, 0), UniformPlan(np.arange(24, 40), 5, 1)
    )
    rows = plan(np.int64(2)).numpy()
    assert len(rows) == plan.size == 14
    assert (rows[:9] < 24).all() and (rows[9:] >= 24).all()
    assert plan.classified.tolist() == [True] * 3 + [False] * 6 + [True] * 5


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([1, 1, 1], "needs two images of one item; each of the 3 items has one"),
        ([4], "at least 2 items. Received: 1"),
    ],
)
def test_labels_without_a_triplet_are_refused(sizes, message):
    labels = labels_of(sizes)
    for make in (
        lambda: PKPlan(labels, np.arange(len(labels)), 4, 2, 0),
        lambda: TripletPlan([labels], np.arange(len(labels)), 4, 0),
    ):
        with pytest.raises(FirError, match=message):
            make()
