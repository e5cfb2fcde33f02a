"""Samplers as tf.data."""

from collections import Counter

import keras
import numpy as np
import pytest
import tensorflow as tf

from fir_tf.errors import FirError
from fir_tf.samplers import PK, Triplets

LABELS = np.repeat(np.arange(10, 20), 6)


def taken(dataset, count):
    return [element.numpy() for element in dataset.take(count)]


@pytest.mark.parametrize(
    "labels",
    [
        LABELS,
        LABELS.tolist(),
        tf.constant(LABELS),
        LABELS[:, np.newaxis],
        [f"item {label}" for label in LABELS],
        tf.constant([f"item {label}" for label in LABELS]),
    ],
)
def test_p_labels_of_k_images_from_any_kind_of_labels(labels):
    sampler = PK(labels, p=4, k=3, seed=1)
    for rows in taken(sampler.dataset(), 20):
        assert rows.shape == (12,) and len(set(rows.tolist())) == 12
        assert sorted(Counter(LABELS[rows]).values()) == [3, 3, 3, 3]
    # The kind of the labels changes nothing.
    np.testing.assert_array_equal(
        taken(sampler.dataset(), 20), taken(PK(LABELS, 4, 3, seed=1).dataset(), 20)
    )


def test_a_pass_sees_every_label_and_it_resumes_at_any_step():
    sampler = PK(LABELS, p=5, k=2, seed=3)
    rows = taken(sampler.dataset(), 8)
    assert {*LABELS[rows[0]], *LABELS[rows[1]]} == set(LABELS)
    np.testing.assert_array_equal(taken(sampler.dataset(start=3), 5), rows[3:])
    np.testing.assert_array_equal(taken(PK(LABELS, 5, 2, seed=3).dataset(), 8), rows)
    assert not np.array_equal(taken(PK(LABELS, 5, 2, seed=4).dataset(), 8), rows)
    # 60 images, 10 a batch.
    assert sampler.steps_per_epoch == 6 and sampler.size == 10


def test_images_of_unknown_labels_are_never_drawn():
    for labels in (
        np.where(LABELS > 15, -1, LABELS),
        np.where(LABELS > 15, "", LABELS.astype(str)),
    ):
        rows = np.concatenate(taken(PK(labels, 3, 2).dataset(), 50))
        assert LABELS[rows].max() == 15


def test_triplets_are_an_image_one_of_its_label_and_one_of_another():
    sampler = Triplets(LABELS, n=8, seed=2)
    for rows in taken(sampler.dataset(), 20):
        anchor, positive, negative = np.split(rows, 3)
        assert (LABELS[anchor] == LABELS[positive]).all() and (anchor != positive).all()
        assert (LABELS[anchor] != LABELS[negative]).all()
    assert sampler.size == 24


@pytest.mark.parametrize("form", ["array", "dict", "dataset", "dataset of dicts"])
def test_batches_are_the_rows_of_the_examples(form):
    images, weights = np.arange(60.0)[:, np.newaxis] * [1, 2], np.arange(60)
    examples = {"x": images, "w": weights} if "dict" in form else images
    if "dataset" in form:
        examples = tf.data.Dataset.from_tensor_slices(examples)
    sampler = PK(LABELS, 4, 3, seed=5)
    rows = taken(sampler.dataset(start=2), 3)
    for (found, labels), expected in zip(
        sampler.batches(examples, start=2).take(3), rows, strict=True
    ):
        np.testing.assert_array_equal(labels, LABELS[expected])
        if "dict" in form:
            np.testing.assert_array_equal(found["w"], weights[expected])
            found = found["x"]
        np.testing.assert_array_equal(found, images[expected])


def test_fit_takes_the_batches():
    model = keras.Sequential([keras.Input([2]), keras.layers.Dense(20)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    sampler = PK(LABELS, 4, 3)
    data = sampler.batches(np.random.default_rng(0).random((60, 2)).astype(np.float32))
    history = model.fit(data, steps_per_epoch=sampler.steps_per_epoch, epochs=2, verbose=0)
    assert len(history.history["loss"]) == 2


def test_labels_that_are_no_numbers_are_numbered():
    names = np.array(list("bca"))[LABELS % 3]
    _, labels = next(iter(PK(names, 2, 2).batches(np.zeros(60))))
    assert set(labels.numpy()) <= {0, 1, 2}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PK(np.eye(4), 2, 2), r"`labels` must be integers or strings.*float64 \(4, 4\)"),
        (lambda: PK([], 2, 2), "`labels` must be integers or strings"),
        (lambda: PK(LABELS, 1, 2), "`p` must be at least 2. Received: 1"),
        (lambda: PK(LABELS, 2, 1), "`k` must be at least 2. Received: 1"),
        (lambda: PK(LABELS, 2.5, 2), "`p` must be a whole number.*2.5"),
        (lambda: PK([1, 1, 1], 2, 2), "at least 2 labels. Received: 1"),
        (lambda: PK([1, 2, 3], 2, 2), "two images of one label"),
        (lambda: PK(LABELS, 11, 2), "`p` must be at most 10, the labels there are. Received: 11"),
        (lambda: Triplets(LABELS, 0), "`n` must be a whole number of at least 1. Received: 0"),
        (lambda: PK(LABELS, 2, 2).batches(np.zeros(9)), "for each of the 60 labels. Received: 9"),
        (
            lambda: PK(LABELS, 2, 2).batches(tf.data.Dataset.range(70)),
            "for each of the 60 labels. Received: 61",
        ),
    ],
)
def test_what_does_not_fit_is_told(make, message):
    with pytest.raises(FirError, match=message):
        make()
