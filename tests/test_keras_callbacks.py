"""Retrieval metrics during `fit`, against a plain loop and against what else listens there."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from fir_tf.errors import FirError
from fir_tf.keras.callbacks import RetrievalMetrics


def points(seed=0, items=6, views=5, noise=0.6):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(items), views)
    centres = rng.standard_normal((items, 8))
    return (centres[labels] + noise * rng.standard_normal((len(labels), 8))).astype("f4"), labels


def model_of(outputs=1):
    keras.utils.set_random_seed(1)
    pixels = keras.Input([8])
    embedding = keras.layers.Dense(8, kernel_initializer="identity")(pixels)
    if outputs == 1:
        return keras.Model(pixels, embedding)
    return keras.Model(
        pixels, {"category": keras.layers.Dense(6)(embedding), "embedding": embedding}
    )


def by_hand(query, gallery, itself):
    """recall@1 and mAP@R by loops."""
    vectors, labels = query
    others, names = gallery
    first, precision = [], []
    for row, (vector, label) in enumerate(zip(vectors, labels, strict=True)):
        scores = others @ vector / np.linalg.norm(others, axis=1)
        order = [place for place in np.argsort(-scores) if not (itself and place == row)]
        right = [names[place] == label for place in order]
        count = sum(right)
        if count:
            first.append(float(right[0]))
            hits = [sum(right[: rank + 1]) / (rank + 1) * right[rank] for rank in range(count)]
            precision.append(sum(hits) / count)
    return np.mean(first), np.mean(precision)


@pytest.mark.parametrize("names", [None, np.array(list("abcdef"))])
@pytest.mark.parametrize("form", ["arrays", "dataset", "column"])
def test_equals_a_loop(form, names):
    query, gallery = points(0), points(1)
    gallery = (np.concatenate([gallery[0], query[0][::7]]), np.append(gallery[1], query[1][::7]))
    expected = by_hand(query, gallery, itself=False)
    if names is not None:
        query, gallery = ((vectors, names[labels]) for vectors, labels in (query, gallery))
    if form == "dataset":
        query, gallery = (
            tf.data.Dataset.from_tensor_slices(side).batch(7) for side in (query, gallery)
        )
    if form == "column":
        query = query[0], query[1][:, np.newaxis]
    metrics = RetrievalMetrics(query, gallery, batch_size=4)
    found = metrics.measure(model_of())
    assert (found["recall@1"], found["mAP@R"]) == pytest.approx(expected)


def test_alone_a_query_is_not_its_own_answer():
    query = points(2, noise=1.5)
    found = RetrievalMetrics(query, ks=[1]).measure(model_of())
    assert (found["recall@1"], found["mAP@R"]) == pytest.approx(by_hand(query, query, True))
    assert found["recall@1"] < 1


def test_history_early_stopping_checkpoint_and_tensorboard_see_it(tmp_path):
    vectors, labels = points(3)
    model = model_of()
    model.compile("sgd", "mse")
    callbacks = [
        RetrievalMetrics((vectors, labels), ks=[1, 2]),
        keras.callbacks.EarlyStopping(monitor="val_recall@1", mode="max", patience=2),
        keras.callbacks.ModelCheckpoint(
            tmp_path / "best.keras", monitor="val_recall@1", mode="max", save_best_only=True
        ),
        keras.callbacks.TensorBoard(tmp_path / "logs"),
    ]
    data = tf.data.Dataset.from_tensor_slices((vectors, vectors)).batch(4).repeat()
    history = model.fit(data, steps_per_epoch=2, epochs=9, callbacks=callbacks, verbose=0).history
    # The network is the identity and stays so: two epochs without a better one end it.
    assert len(history["val_recall@1"]) == len(history["loss"]) == 3
    assert set(history) >= {"val_recall@1", "val_recall@2", "val_mAP@R", "val_R-precision"}
    assert (tmp_path / "best.keras").is_file() and any((tmp_path / "logs").rglob("*tfevents*"))


def test_every_other_epoch():
    vectors, labels = points()
    model = model_of()
    model.compile("sgd", "mse")
    seen = []
    watch = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append("val_recall@1" in logs)
    )
    metrics = RetrievalMetrics((vectors, labels), every=2)
    model.fit(vectors, vectors, epochs=4, callbacks=[metrics, watch], verbose=0)
    assert seen == [False, True, False, True]


def test_the_weights_of_the_epoch_are_measured():
    """The compiled pass must not keep the weights it was traced with."""
    vectors, labels = points()
    model = model_of()
    metrics = RetrievalMetrics((vectors, labels), ks=[1])
    metrics.set_model(model)
    before = metrics.measure()
    model.layers[-1].set_weights([np.zeros([8, 8]), np.ones(8)])
    assert metrics.measure() != before


def test_one_of_several_outputs_and_labels():
    vectors, labels = points()
    data = tf.data.Dataset.from_tensor_slices((vectors, {"item": labels, "category": labels % 2}))
    query = data.batch(8)
    both = {
        label: RetrievalMetrics(query, output="embedding", label=label).measure(model_of(2))
        for label in ("item", "category")
    }
    plain = RetrievalMetrics((vectors, labels)).measure(model_of())
    assert both["item"] == plain and both["category"] != plain


def test_unknown_labels_match_nothing():
    """As in `retrieval_metrics`: a query of unknown label is left out, such an image distracts."""
    vectors, labels = points(4, noise=1.0)
    for unknown, given in ((-1, labels), ("", labels.astype(str))):
        some = np.where(labels % 3 == 0, given, unknown)
        found = RetrievalMetrics((vectors, some), ks=[1]).measure(model_of())
        # Text comes as bytes from there.
        data = tf.data.Dataset.from_tensor_slices((vectors, some)).batch(7)
        assert RetrievalMetrics(data, ks=[1]).measure(model_of()) == pytest.approx(found)
        rows = np.flatnonzero(labels % 3 == 0)
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        scores = unit[rows] @ unit.T
        scores[np.arange(len(rows)), rows] = -np.inf
        assert found["recall@1"] == pytest.approx(
            np.mean(some[scores.argmax(axis=1)] == some[rows])
        )


def test_without_a_model_it_says_so():
    with pytest.raises(FirError, match="`model` must be given before `fit`"):
        RetrievalMetrics(points()).measure()


def test_half_precision_is_measured_in_float32():
    vectors, labels = points()
    found = RetrievalMetrics((vectors.astype(np.float16), labels)).measure(model_of())
    assert found == pytest.approx(RetrievalMetrics((vectors, labels)).measure(model_of()), abs=0.02)


@pytest.mark.parametrize(
    ("query", "options", "message"),
    [
        (np.eye(8), {}, r"`query` must be \(images, labels\).*Received: ndarray"),
        ((np.eye(8), [1, 2]), {}, "`query` must have a label for each image.*8 images and 2"),
        ((np.eye(8), np.eye(8)), {}, r"must be integers or strings of shape \[8\].*float64"),
        ((np.eye(8), np.arange(8)), {}, "none of the 8 queries has another image of its label"),
        ((np.full([4, 8], np.nan), [0, 0, 1, 1]), {}, "must be finite"),
        ((np.eye(8), [0] * 8), {"output": "embedding"}, "`output` names the output of a model"),
        ((np.eye(8), [0] * 8), {"ks": [0]}, "`ks`"),
        (
            (np.eye(8), [0] * 8),
            {"every": 0},
            "`every` must be a whole number of at least 1. Received: 0",
        ),
        ((np.eye(8), {"item": [0] * 8}), {}, "`label` must be one of item. Received: None"),
        ((np.zeros([0, 8]), []), {}, "`query` must have images. Received: none"),
        ((np.eye(8), 5), {}, r"`query` must be \(images, labels\). Received: int as labels"),
        ((np.eye(8), [0] * 8), {"batch_size": 0}, "`batch_size` must be a whole number"),
        ((np.eye(8), [0] * 8), {"gallery": (np.eye(8), ["a"] * 8)}, "both integers or both strin"),
        (tf.data.Dataset.from_tensors(np.eye(8)), {}, r"must have batches \(images, labels\)"),
        (
            tf.data.Dataset.from_tensors((np.eye(8), [0] * 8)).repeat(),
            {},
            "`query` must end.*endless",
        ),
    ],
)
def test_what_does_not_fit_is_told(query, options, message):
    with pytest.raises(FirError, match=message):
        RetrievalMetrics(query, **options).measure(model_of())
    if "output" in message:
        with pytest.raises(FirError, match="must be one of the model's outputs category, embedd"):
            RetrievalMetrics(query).measure(model_of(2))
