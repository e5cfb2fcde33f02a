"""Samplers: properties that hold for any catalogue, checked with plain Python."""

from collections import Counter

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from reading import batches_of

from fir_tf.errors import FirError
from fir_tf.samplers.mixed import MixedSampler
from fir_tf.samplers.pk import PKSampler
from fir_tf.samplers.triplets import TripletSampler
from fir_tf.samplers.uniform import UniformSampler


def labels_of(sizes):
    return np.repeat(np.arange(len(sizes)), sizes).astype(np.int32)


@st.composite
def catalogues(draw, items_min=2):
    """(labels, rows): labels in any order, some rows unlabelled, some not to be drawn.

    At least two items have two images to draw.
    """
    sizes = [2, 2] + draw(st.lists(st.integers(1, 8), min_size=items_min - 2, max_size=9))
    unlabelled = draw(st.integers(0, 5))
    labels = np.concatenate([labels_of(sizes), np.full(unlabelled, -1, np.int32)])
    other = draw(st.integers(0, 6))
    held = np.concatenate([np.ones(len(labels), bool), np.zeros(other, bool)])
    labels = np.concatenate([labels, np.arange(other, dtype=np.int32) % len(sizes)])
    order = np.random.default_rng(draw(st.integers(0, 99))).permutation(len(labels))
    return labels[order], np.flatnonzero(held[order])


def epoch_of(sampler, number=0):
    first = number * sampler.steps_per_epoch
    return [sampler(np.int64(first + step)).numpy() for step in range(sampler.steps_per_epoch)]


@pytest.mark.parametrize("count", [2, 5, 62])
def test_permutations_are_uniform(count):
    """Every image comes to every place of an epoch about equally often (chi-squared test)."""
    epochs = 60 * count if count < 10 else 1200
    table = np.zeros((count, count))
    for rows in batches_of(UniformSampler(np.arange(count), count, 9), epochs):
        table[np.arange(count), rows] += 1
    expected = epochs / count
    freedom = (count - 1) ** 2
    chi = ((table - expected) ** 2 / expected).sum()
    assert abs(chi - freedom) < 6 * np.sqrt(2 * freedom)


@settings(max_examples=15, deadline=None)
@given(count=st.integers(1, 70), size=st.integers(1, 16), seed=st.integers(0, 1000))
def test_uniform_takes_every_image_once_an_epoch(count, size, seed):
    rows = np.arange(count) * 3 + 1
    sampler = UniformSampler(rows, size, seed)
    batches = epoch_of(sampler)
    assert len(batches) == -(-count // size)
    drawn = np.concatenate(batches)
    assert set(drawn[:count]) == set(rows)
    assert set(drawn) <= set(rows)


@settings(max_examples=15, deadline=None)
@given(
    count=st.integers(2, 40),
    size=st.integers(1, 12),
    seed=st.integers(0, 1000),
    epoch=st.integers(0, 5),
)
def test_every_epoch_is_a_permutation_filled_from_its_beginning(count, size, seed, epoch):
    sampler = UniformSampler(np.arange(count), size, seed)
    drawn = np.concatenate(epoch_of(sampler, epoch))
    order = drawn[:count]
    assert sorted(order) == list(range(count))
    assert (drawn == np.resize(order, len(drawn))).all()


def test_epochs_have_different_orders():
    sampler = UniformSampler(np.arange(100), 10, 0)
    orders = {tuple(np.concatenate(epoch_of(sampler, epoch))) for epoch in range(20)}
    assert len(orders) == 20


@settings(max_examples=25, deadline=None)
@given(
    catalogue=catalogues(),
    p=st.integers(2, 5),
    k=st.integers(2, 5),
    seed=st.integers(0, 1000),
    epoch=st.integers(0, 3),
)
def test_pk_batches(catalogue, p, k, seed, epoch):
    labels, rows = catalogue
    sizes = Counter(labels[rows].tolist())
    del sizes[-1]
    sampler = PKSampler(labels, rows, p * k, k, seed)
    used = set()
    for batch in epoch_of(sampler, epoch):
        assert len(batch) == p * k
        assert set(batch) <= set(rows) and (labels[batch] >= 0).all()
        # With fewer than P items there are as many groups as items, of more than K places.
        groups = min(p, len(sizes))
        each = p * k // groups
        places = batch[: groups * each].reshape(groups, each)
        heads = labels[places[:, 0]]
        assert len(set(heads)) == groups, "P distinct items"
        for head, row in zip(heads, places, strict=True):
            own = min(each, sizes[head])
            assert (labels[row[:own]] == head).all(), "positives share the label"
            assert len(set(row[:own])) == own, "an image stands once in its item's places"
        used |= set(heads)
    assert used == set(sizes), "every item is used within an epoch"


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=4, max_size=8).filter(lambda s: max(s) > 1),
    seed=st.integers(0, 1000),
)
def test_each_image_is_drawn_as_often_as_its_item_and_the_fill_allow(sizes, seed):
    """Exact expectation for any sizes: an item's turn shows min(K, n) of its n images."""
    labels = labels_of(sizes)
    p, k = 3, 4
    sampler = PKSampler(labels, np.arange(len(labels)), p * k, k, seed)
    passes = 120
    counts = np.zeros(len(labels))
    turns = np.zeros(len(sizes))
    for rows in batches_of(sampler, passes * sampler.batches_per_pass):
        np.add.at(counts, rows, 1)
        turns[labels[rows.reshape(p, k)[:, 0]]] += 1
    shown = np.minimum(sizes, k)
    fill = (turns * (k - shown)).sum() / len(labels)
    expected = (turns * shown / sizes)[labels] + fill
    assert (np.abs(counts - expected) < 6 * np.sqrt(expected)).all()
    # An item takes its turn once a pass; the last batch of a pass is filled from its beginning.
    assert turns.min() >= passes and turns.max() <= 2 * passes


def test_pk_draws_the_images_of_an_item_evenly():
    labels = labels_of([7, 7, 7, 7])
    sampler = PKSampler(labels, np.arange(28), 9, 3, 5)
    steps = 1400
    counts = Counter(batches_of(sampler, steps).ravel().tolist())
    # 3 of 4 items in a batch, 3 of 7 images of each: binomial around steps * 9 / 28.
    mean = steps * 9 / 28
    assert all(abs(counts[row] - mean) < 5 * np.sqrt(mean) for row in range(28))


def test_small_items_are_not_over_weighted():
    """An image of a two-image item is drawn no more often than its item's turn and the fill."""
    sizes = [2] * 10 + [8] * 10
    labels = labels_of(sizes)
    sampler = PKSampler(labels, np.arange(len(labels)), 16, 4, 0)
    steps = 1000
    counts = Counter(batches_of(sampler, steps).ravel().tolist())
    turns = steps * 4 / 20
    fill = (steps * 16 - turns * 10 * (2 + 4)) / 100
    small = np.mean([counts[row] for row in range(20)])
    large = np.mean([counts[row] for row in range(20, 100)])
    assert small == pytest.approx(turns + fill, rel=0.08)
    assert large == pytest.approx(turns * 4 / 8 + fill, rel=0.08)


def test_fewer_items_than_p_take_more_images_each():
    labels = labels_of([30, 30, 30])
    rows = PKSampler(labels, np.arange(90), 32, 4, 0)(np.int64(0)).numpy()
    assert sorted(Counter(labels[rows[:30]]).values()) == [10, 10, 10]
    assert len(rows) == 32


@settings(max_examples=25, deadline=None)
@given(
    catalogue=catalogues(items_min=6),
    kinds=st.lists(st.integers(-1, 3), min_size=15, max_size=15),
    count=st.integers(2, 3),
    seed=st.integers(0, 1000),
    number=st.integers(0, 3),
)
def test_items_of_one_category_stand_together(catalogue, kinds, count, seed, number):
    """A pass in a plain loop: whole blocks first, then what is left, and every item once."""
    labels, rows = catalogue
    category = np.where(labels < 0, -1, np.array(kinds)[labels]).astype(np.int32)
    items = sorted({int(labels[row]) for row in rows if labels[row] >= 0})
    members = {kind: [item for item in items if kinds[item] == kind] for kind in range(4)}
    assume(any(len(own) > 1 for own in members.values()) and len(items) >= 2 * count)
    sampler = PKSampler(labels, rows, 2 * count * 2, 2, seed)
    sampler.of_one_category(category, count)
    passes = sampler.batches_per_pass
    heads = []
    for step in range(number * passes, (number + 1) * passes):
        batch = labels[sampler(np.int64(step)).numpy().reshape(-1, 2)[:, 0]].tolist()
        assert len(set(batch)) == 2 * count, "distinct items"
        heads += batch
    assert sorted(heads[: len(items)]) == items, "every item once a pass"
    assert heads[len(items) :] == heads[: len(heads) - len(items)], "filled from its beginning"
    whole = sum(len(own) // count for own in members.values())
    for block in range(whole):
        together = {kinds[item] for item in heads[block * count : (block + 1) * count]}
        assert len(together) == 1 and together != {-1}
    rest = [kinds[item] for item in heads[whole * count : len(items)]]
    for kind, own in members.items():
        places = [place for place, other in enumerate(rest) if other == kind]
        assert len(places) == len(own) % count
        assert not places or places[-1] - places[0] == len(places) - 1, "the rest together too"
    assert f"({len(rest)} at the end of a pass" in sampler.describe()


def test_which_items_stand_together_changes_from_pass_to_pass():
    labels = labels_of([2] * 7)
    sampler = PKSampler(labels, np.arange(14), 4, 2, 0)
    sampler.of_one_category(np.zeros(14, np.int32), 2)
    met, last = Counter(), Counter()
    for rows in batches_of(sampler, 4 * 700).reshape(700, 4, 4):
        heads = labels[rows[:, ::2]]
        met.update(tuple(sorted(pair.tolist())) for pair in heads[:3])
        last[int(heads[3, 0])] += 1
    # 3 of 21 pairs a pass, and each item is as often the one that is left.
    assert len(met) == 21 and all(abs(met[pair] - 100) < 5 * 10 for pair in met)
    assert all(abs(last[item] - 100) < 5 * 10 for item in range(7))


@settings(max_examples=25, deadline=None)
@given(
    catalogue=catalogues(),
    consumers=st.integers(0, 2**20),
    k=st.integers(2, 5),
    seed=st.integers(0, 1000),
    epoch=st.integers(0, 3),
)
@pytest.mark.slow
def test_an_items_images_are_of_both_domains(catalogue, consumers, k, seed, epoch):
    labels, rows = catalogue
    consumer = np.array([consumers >> (row % 20) & 1 for row in range(len(labels))], bool)
    sides = {
        item: [int(((labels[rows] == item) & (consumer[rows] == side)).sum()) for side in (0, 1)]
        for item in set(labels[rows][labels[rows] >= 0].tolist())
    }
    assume(any(all(side) for side in sides.values()))
    plain = PKSampler(labels, rows, 2 * k, k, seed)
    sampler = PKSampler(labels, rows, 2 * k, k, seed)
    sampler.of_both_domains(consumer)
    for batch, other in zip(epoch_of(sampler, epoch), epoch_of(plain, epoch), strict=True):
        assert (labels[batch[::k]] == labels[other[::k]]).all(), "the same items as without"
        for place in batch.reshape(2, k):
            shops, others = sides[int(labels[place[0]])]
            own = place[: min(k, shops + others)]
            assert (labels[own] == labels[place[0]]).all() and len(set(own)) == len(own)
            drawn = int((~consumer[own]).sum())
            if shops + others <= k:
                assert drawn == shops
            else:
                halves = (k // 2, k - k // 2)
                assert drawn in {min(shops, max(half, k - others)) for half in halves}
            assert bool(drawn) == bool(shops) and (len(own) > drawn) == bool(others)


def test_images_of_a_domain_are_drawn_evenly():
    labels = labels_of([7, 7])
    consumer = np.arange(14) % 7 > 1
    sampler = PKSampler(labels, np.arange(14), 6, 3, 0)
    sampler.of_both_domains(consumer)
    counts = np.bincount(batches_of(sampler, 2000).ravel(), minlength=14)
    # Both items in each batch: 1.5 of 2 shop photos and 1.5 of 5 consumer photos of each.
    expected = np.where(consumer, 2000 * 1.5 / 5, 2000 * 1.5 / 2)
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected)).all()


def test_harder_batches_that_cannot_be_are_refused():
    labels = labels_of([2] * 6)
    sampler = PKSampler(labels, np.arange(12), 8, 2, 0)
    with pytest.raises(FirError, match=r"items in a batch \(4\). Received: 3"):
        sampler.of_one_category(np.zeros(12, np.int32), 3)
    with pytest.raises(FirError, match="two items of one category, and there are none"):
        sampler.of_one_category(labels, 2)
    with pytest.raises(FirError, match="a consumer's photo and a shop's, and there are none"):
        sampler.of_both_domains(labels % 2 == 0)


@settings(max_examples=25, deadline=None)
@given(
    catalogue=catalogues(),
    anchors=st.integers(1, 9),
    seed=st.integers(0, 1000),
    epoch=st.integers(0, 3),
)
def test_explicit_triplets(catalogue, anchors, seed, epoch):
    item, rows = catalogue
    sampler = TripletSampler([item], rows, anchors, seed)
    taken = []
    for batch in epoch_of(sampler, epoch):
        assert set(batch) <= set(rows) and (item[batch] >= 0).all()
        a, p, n = batch.reshape(3, anchors)
        assert (item[a] == item[p]).all() and (a != p).all(), "positives share the label"
        assert (item[a] != item[n]).all(), "negatives never do"
        taken += a.tolist()
    able = {row for row in rows if item[row] >= 0 and (item[rows] == item[row]).sum() > 1}
    assert sorted(taken[: len(able)]) == sorted(able), "each image with a partner is an anchor once"


@settings(max_examples=15, deadline=None)
@given(catalogue=catalogues(items_min=4), anchors=st.integers(1, 7), seed=st.integers(0, 1000))
def test_triplets_of_two_kinds_where_labels_are_missing(catalogue, anchors, seed):
    item, rows = catalogue
    # Categories of two items each; every fifth row has none.
    category = np.where((item < 0) | (np.arange(len(item)) % 5 == 4), -1, item // 2)
    category = category.astype(np.int32)
    known = Counter(category[rows][category[rows] >= 0].tolist())
    assume(len(known) > 1 and max(known.values()) > 1)
    sampler = TripletSampler([item, category], rows, anchors, seed, ["item", "category"])
    assert sampler.classified.tolist() == [True] * anchors + [False] * 4 * anchors
    for batch in epoch_of(sampler):
        a, p, n, q, m = batch.reshape(5, anchors)
        assert (item[a] == item[p]).all() and (item[a] != item[n]).all()
        # An anchor without a category takes no part in OS, wherever its other rows come from.
        labelled = category[a] >= 0
        assert (category[q] >= 0).all() and (category[m] >= 0).all()
        assert (category[a] == category[q])[labelled].all()
        assert (category[a] != category[m])[labelled].all()


def test_explicit_triplets_by_item_and_category():
    rng = np.random.default_rng(0)
    item = rng.permutation(labels_of([3] * 12))
    category = (item % 3).astype(np.int32)
    sampler = TripletSampler([item, category], np.arange(36), 6, 1, ["item", "category"])
    for step in range(20):
        a, p, n, q, m = sampler(np.int64(step)).numpy().reshape(5, 6)
        assert (item[a] == item[p]).all() and (item[a] != item[n]).all()
        assert (category[a] == category[q]).all() and (a != q).all()
        assert (category[a] != category[m]).all()


def test_negatives_are_uniform_over_the_other_items():
    item = labels_of([2, 5, 3])
    sampler = TripletSampler([item], np.arange(10), 10, 3)
    seen = Counter()
    for batch in batches_of(sampler, 600):
        a, _, n = batch.reshape(3, 10)
        seen.update(n[item[a] == 0].tolist())
    total = sum(seen.values())
    assert set(seen) == set(range(2, 10))
    assert all(abs(seen[row] - total / 8) < 5 * np.sqrt(total / 8) for row in seen)


def test_unlabelled_rows_are_never_drawn_for_triplets():
    labels = np.array([0, -1, 0, 1, -1, 1, 1], np.int32)
    for sampler in (
        PKSampler(labels, np.arange(7), 8, 4, 0),
        TripletSampler([labels], np.arange(7), 4, 0),
    ):
        for step in range(30):
            assert (labels[sampler(np.int64(step)).numpy()] >= 0).all()


def hard_pk(seed):
    sampler = PKSampler(labels_of([5] * 10), np.arange(50), 8, 2, seed)
    sampler.of_one_category((np.arange(50) // 20).astype(np.int32), 2)
    sampler.of_both_domains(np.arange(50) % 5 == 0)
    return sampler


@pytest.mark.parametrize(
    "make",
    [
        hard_pk,
        lambda seed: UniformSampler(np.arange(50), 8, seed),
        lambda seed: PKSampler(labels_of([5] * 10), np.arange(50), 8, 2, seed),
        lambda seed: TripletSampler([labels_of([5] * 10)], np.arange(50), 8, seed),
    ],
)
def test_a_plan_is_a_function_of_seed_and_step(make):
    steps = [0, 7, 3, 12]
    first = {step: make(4)(np.int64(step)).numpy().tolist() for step in steps}
    again = {step: make(4)(np.int64(step)).numpy().tolist() for step in reversed(steps)}
    assert first == again
    assert make(5)(np.int64(3)).numpy().tolist() != first[3]
    assert len({tuple(rows) for rows in first.values()}) == len(steps)


def test_samplers_give_the_same_rows_inside_a_graph():
    labels = labels_of([5] * 10)
    for sampler in (
        UniformSampler(np.arange(5000), 8, 3),
        PKSampler(labels, np.arange(50), 8, 2, 3),
        hard_pk(3),
        TripletSampler([labels], np.arange(50), 8, 3),
    ):
        steps = tf.data.Dataset.counter(start=5).map(sampler, num_parallel_calls=2).take(4)
        eager = [sampler(np.int64(step)).numpy().tolist() for step in range(5, 9)]
        assert [rows.numpy().tolist() for rows in steps] == eager


@settings(max_examples=15, deadline=None)
@given(
    catalogue=catalogues(),
    extra=st.integers(1, 6),
    seed=st.integers(0, 1000),
    step=st.integers(0, 10**6),
)
@pytest.mark.slow
def test_mixed_batches_are_those_of_both(catalogue, extra, seed, step):
    labels, rows = catalogue
    first = PKSampler(labels, rows, 8, 2, seed)
    second = UniformSampler(rows, extra, seed + 1)
    sampler = MixedSampler(first, second)
    drawn = sampler(np.int64(step)).numpy().tolist()
    assert drawn[:8] == first(np.int64(step)).numpy().tolist()
    assert drawn[8:] == second(np.int64(step)).numpy().tolist()
    assert sampler.size == len(drawn) == len(sampler.classified) and sampler.classified.all()
    assert sampler.steps_per_epoch == first.steps_per_epoch
    # The second part goes through its images at its own pace.
    seen = [sampler(np.int64(number)).numpy()[8:] for number in range(second.steps_per_epoch)]
    assert set(np.concatenate(seen)) == set(rows)


def test_mixed_plan_appends_rows_for_oc():
    labels = labels_of([4] * 6)
    sampler = MixedSampler(
        TripletSampler([labels], np.arange(24), 3, 0), UniformSampler(np.arange(24, 40), 5, 1)
    )
    rows = sampler(np.int64(2)).numpy()
    assert len(rows) == sampler.size == 14
    assert (rows[:9] < 24).all() and (rows[9:] >= 24).all()
    assert sampler.classified.tolist() == [True] * 3 + [False] * 6 + [True] * 5


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
        lambda: PKSampler(labels, np.arange(len(labels)), 4, 2, 0),
        lambda: TripletSampler([labels], np.arange(len(labels)), 4, 0),
    ):
        with pytest.raises(FirError, match=message):
            make()
