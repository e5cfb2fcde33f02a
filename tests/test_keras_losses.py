"""The Keras losses against plain Python loops, and as `model.compile` and `fit` use them."""

import itertools
import json
import math
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from fir_tf import registry
from fir_tf.errors import FirError
from fir_tf.keras import layers, losses
from fir_tf.losses.grammar import LossSettings

LABELS = [0, 1, 1, 2, 2, 2, -1, 0, -1, 7]
METRICS = ["L2", "squared-L2", "angular"]


def points(count=10, width=5):
    return np.random.default_rng(0).normal(size=(count, width)).astype(np.float32)


def distance(a, b, metric):
    squared = sum((float(x) - float(y)) ** 2 for x, y in zip(a, b, strict=True))
    if metric == "angular":
        dot = sum(float(x) * float(y) for x, y in zip(a, b, strict=True))
        return 1.0 - dot / math.sqrt(sum(float(x) ** 2 for x in a) * sum(float(y) ** 2 for y in b))
    return squared if metric == "squared-L2" else math.sqrt(squared)


def mates(labels, a):
    return [p for p in range(len(labels)) if p != a and labels[p] == labels[a]]


def others(labels, a):
    return [n for n in range(len(labels)) if labels[n] != labels[a]]


def semihard_rows(x, labels, metric, margin):
    """The terms of each anchor."""
    rows = []
    for a in range(len(labels)):
        far = [distance(x[a], x[n], metric) for n in others(labels, a)]
        near = [distance(x[a], x[p], metric) for p in mates(labels, a)]
        rows.append(
            [max(0, margin + d - min([f for f in far if f > d], default=max(far))) for d in near]
        )
    return rows


def hard_rows(x, labels, metric, margin, soft=False):
    rows = []
    for a in range(len(labels)):
        near = min(distance(x[a], x[n], metric) for n in others(labels, a))
        far = max([distance(x[a], x[p], metric) for p in mates(labels, a)], default=0.0)
        rows.append(math.log(1 + math.exp(far - near)) if soft else max(0, far - near + margin))
    return rows


def lifted(x, labels, margin):
    terms = []
    for i, j in itertools.combinations(range(len(labels)), 2):
        if labels[i] == labels[j]:
            near = sum(
                math.exp(margin - distance(x[k], x[n], "L2"))
                for k in (i, j)
                for n in others(labels, k)
            )
            terms.append(max(0, distance(x[i], x[j], "L2") + math.log(near)) ** 2)
    return sum(terms) / (2 * len(terms))


def cross_entropy(scores, target):
    total = math.log(sum(math.exp(score) for score in scores))
    return sum(t * (total - s) for s, t in zip(scores, target, strict=True))


def value_and_gradient(loss, labels, x):
    x = tf.convert_to_tensor(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = loss(tf.convert_to_tensor(labels), x)
    return value, tape.gradient(value, x)


@pytest.mark.parametrize("metric", METRICS)
def test_triplet_losses_equal_the_loops(metric):
    x = points()
    terms = sum(semihard_rows(x, LABELS, metric, 0.5), [])
    loss = losses.TripletSemiHardLoss(0.5, metric)
    assert float(loss(LABELS, x)) == pytest.approx(sum(terms) / len(terms), rel=1e-5)
    for soft in (False, True):
        rows = hard_rows(x, LABELS, metric, 0.5, soft)
        loss = losses.TripletHardLoss(0.5, soft, metric)
        assert float(loss(LABELS, x)) == pytest.approx(sum(rows) / len(rows), rel=1e-5)


def test_many_images_of_a_class_equal_the_loops():
    """More than are looked at one by one."""
    labels = np.random.default_rng(1).permutation([0] * 36 + [1] * 3)
    x = points(len(labels))
    terms = sum(semihard_rows(x, labels, "squared-L2", 0.5), [])
    loss = losses.TripletSemiHardLoss(0.5, "squared-L2")
    assert float(loss(labels, x)) == pytest.approx(sum(terms) / len(terms), rel=1e-5)
    terms = [
        0.5 + distance(x[a], x[p], "squared-L2") - distance(x[a], x[n], "squared-L2")
        for a in range(len(labels))
        for p in mates(labels, a)
        for n in others(labels, a)
    ]
    active = [term for term in terms if term > 0]
    loss = losses.TripletLoss(0.5, "all")
    assert float(loss(labels, x)) == pytest.approx(sum(active) / len(active), rel=1e-5)


def test_lifted_structure_equals_the_loop():
    x = points()
    assert float(losses.LiftedStructLoss(2.0)(LABELS, x)) == pytest.approx(
        lifted(x, LABELS, 2.0), rel=1e-5
    )


def test_contrastive_is_that_of_each_pair():
    value = losses.ContrastiveLoss(2.0, reduction="sum")([1, 1, 0, 0], [0.5, 3.0, 0.5, 3.0])
    assert float(value) == pytest.approx(0.25 + 9 + 1.5**2 + 0)


def test_npairs_equal_the_loops():
    scores = points(4, 4)
    rows = [[1, 0, 0, 0], [0, 0.5, 0, 0.5], [0, 0, 1, 0], [0, 0.5, 0, 0.5]]
    expected = sum(map(cross_entropy, scores.tolist(), rows)) / 4
    assert float(losses.NpairsLoss()([3, 8, -1, 8], scores)) == pytest.approx(expected, rel=1e-5)
    classes = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 0], [1, 1, 1]])
    shared = [[2, 1, 0, 2], [1, 1, 0, 1], None, [2, 1, 0, 3]]
    expected = [
        cross_entropy(row, [count / sum(counts) for count in counts])
        for row, counts in zip(scores.tolist(), shared, strict=True)
        if counts
    ]
    loss = losses.NpairsMultilabelLoss()
    assert float(loss(classes, scores)) == pytest.approx(sum(expected) / 3, rel=1e-5)
    assert float(loss(tf.sparse.from_dense(classes), scores)) == float(loss(classes, scores))
    # The row without a class has no gradient.
    assert not value_and_gradient(loss, classes, scores)[1][2].numpy().any()


def test_triplet_loss_leaves_unknown_labels_out():
    known = [row for row, label in enumerate(LABELS) if label >= 0]
    x = points()
    for miner in ("all", "semihard", "hard"):
        loss = losses.TripletLoss(0.5, miner)
        assert float(loss(LABELS, x)) == pytest.approx(
            float(loss(np.array(LABELS)[known], x[known]))
        )
        assert float(loss(LABELS, x)) > 0


EMBEDDING_LOSSES = [
    losses.TripletSemiHardLoss(),
    losses.TripletSemiHardLoss(distance_metric="angular"),
    losses.TripletHardLoss(),
    losses.TripletHardLoss(soft=True, distance_metric="squared-L2"),
    losses.LiftedStructLoss(),
    losses.TripletLoss(miner="all"),
    losses.TripletLoss(miner="semihard"),
    losses.TripletLoss(miner="hard"),
]
each = pytest.mark.parametrize("loss", EMBEDDING_LOSSES, ids=lambda loss: type(loss).__name__)


@each
def test_batches_without_a_triplet_are_zero(loss):
    for labels in ([4] * 6, range(6), [], [2]):
        value, gradient = value_and_gradient(loss, np.array(labels, int), points(len(labels)))
        assert value.shape == () and float(value) == 0.0
        assert gradient.shape == (len(labels), 5) and not gradient.numpy().any()


@each
def test_gradients_are_finite_where_all_points_are_one(loss):
    for x in (np.ones((6, 3), np.float32), np.zeros((6, 3), np.float32)):
        value, gradient = value_and_gradient(loss, [0, 0, 0, 1, 1, 1], x)
        assert float(value) > 0 and np.isfinite(gradient).all()


@each
def test_column_half_precision_and_xla(loss):
    x = points()
    expected, gradient = value_and_gradient(loss, LABELS, x)
    assert float(loss(np.array(LABELS)[:, None], x)) == float(expected)
    run = tf.function(value_and_gradient, jit_compile=True, autograph=False)
    value, compiled = run(loss, LABELS, x)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(compiled, gradient, rtol=1e-4, atol=1e-5)
    half = tf.cast(x, tf.bfloat16)
    value = loss(LABELS, half)
    assert value.dtype == tf.float32
    # Not rounded on the way.
    np.testing.assert_allclose(value, loss(LABELS, tf.cast(half, tf.float32)), rtol=1e-6)


def test_labels_beyond_float32_are_told_apart():
    """16777216 and 16777217 are one number in float32, 256 and 257 in bfloat16."""
    x = 0.1 * points(4)
    small, large = [0, 0, 1, 1], [2**24, 2**24, 2**24 + 1, 2**24 + 1]
    for loss in EMBEDDING_LOSSES:
        assert float(loss(tf.constant(large), x)) == float(loss(tf.constant(small), x)) > 0
    scores = tf.cast(points(4, 4), tf.bfloat16)
    loss = losses.NpairsLoss()
    assert float(loss([256, 256, 257, 257], scores)) == float(loss(small, scores))


def test_sample_weights_weigh_anchors():
    x, weight = points(), np.arange(len(LABELS), dtype=np.float32)
    rows = hard_rows(x, LABELS, "L2", 1.0)
    expected = sum(w * row for w, row in zip(weight, rows, strict=True)) / len(rows)
    assert float(losses.TripletHardLoss()(LABELS, x, weight)) == pytest.approx(expected, rel=1e-5)
    rows = semihard_rows(x, LABELS, "L2", 1.0)
    pairs = sum(map(len, rows))
    expected = sum(w * sum(row) for w, row in zip(weight, rows, strict=True)) / pairs
    found = losses.TripletSemiHardLoss()(LABELS, x, weight[:, None])
    assert float(found) == pytest.approx(expected, rel=1e-5)
    for loss in (losses.LiftedStructLoss(), losses.TripletSemiHardLoss()):
        ones = loss(LABELS, x, np.ones(len(LABELS)))
        assert float(ones) == pytest.approx(float(loss(LABELS, x)), rel=1e-6)
    with pytest.raises(FirError, match="TripletLoss takes no `sample_weight`"):
        losses.TripletLoss()(LABELS, x, weight)


@pytest.mark.parametrize(
    ("labels", "x", "message"),
    [
        (
            np.eye(4),
            points(4),
            r"`y_true` must be integer labels of shape \[n\] or \[n, 1\]. Received: shape \(4, 4\); one-hot labels become such by tf.argmax",
        ),
        (["a", "b", "a", "b"], points(4), "`y_true` must be integer labels. Received: strings"),
        ([0.5, 1, 0, 1], points(4), "`y_true` must be integer labels. Received: 0.5"),
        (None, points(4), "`y_true` must be integer labels. Received: None"),
        ([0, 0, 1], points(4), "a label for each row of `y_pred`. Received: 3 labels for 4 rows"),
        (
            [0, 0, 1, 1],
            np.full((4, 2), np.nan),
            "`y_pred` must be finite. Received: NaN or infinity in 4 of 4 rows",
        ),
        (
            [0, 0, 1, 1],
            np.zeros((4, 2, 2)),
            r"`y_pred` must be vectors, of shape \[n, d\]. Received: shape \(4, 2, 2\)",
        ),
        (
            [0, 0, 1, 1],
            np.zeros(4),
            r"`y_pred` must be vectors, of shape \[n, d\]. Received: shape \(4,\)",
        ),
    ],
)
def test_bad_batches_are_named(labels, x, message):
    for loss in (losses.TripletSemiHardLoss(), losses.LiftedStructLoss(), losses.TripletLoss()):
        with pytest.raises(FirError, match=message):
            loss(labels, x)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: losses.ContrastiveLoss()([1, 0], np.zeros((2, 3))), r"`y_pred` must be the distance of each pair, of shape \[n\] or \[n, 1\]. Received: shape \(2, 3\)"),
        (lambda: losses.ContrastiveLoss()([1, 2], [0.5, 0.5]), "`y_true` must be 1 for a pair of one class, else 0. Received: 2"),
        (lambda: losses.NpairsLoss()([1, 2], np.zeros((2, 3))), r"`y_pred` must be the similarities .* Received: shape \(2, 3\)"),
        (lambda: losses.NpairsMultilabelLoss()([1, 2], np.zeros((2, 2))), r"`y_true` must be 0 and 1, of shape \[n, classes\]. Received: shape \(2,\)"),
        (lambda: losses.NpairsMultilabelLoss()([[3], [1]], np.zeros((2, 2))), "`y_true` must be 0 and 1.* Received: 3"),
        (lambda: losses.NormFaceLoss()([0, 3], np.zeros((2, 3))), "`y_true` must be below 3, the classes. Received: 3"),
        (lambda: losses.TripletHardLoss(margin="wide"), "`margin` must be a finite number. Received: 'wide'"),
        (lambda: losses.TripletHardLoss(distance_metric="l2"), "`distance_metric` must be one of L2, squared-L2, angular, or a callable. Received: 'l2'"),
        (lambda: losses.TripletHardLoss(distance_metric=lambda x: x[:, 0])([0, 1], points(2)), r"`distance_metric` must return distances of shape \[n, n\]. Received: shape \(2,\)"),
        (lambda: losses.TripletLoss(miner="harder"), "`miner` must be one of all, semihard, hard.*Received: 'harder'"),
        (lambda: layers.ClassCentres(0), "`classes` must be a whole number of at least 1. Received: 0"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(call, message):
    with pytest.raises(FirError, match=message):
        call()


def test_a_graph_finds_other_counts_when_it_runs():
    loss = losses.TripletHardLoss()
    run = tf.function(loss).get_concrete_function(
        tf.TensorSpec([None], tf.int32), tf.TensorSpec([None, 5])
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match="a label for each row of `y_pred`"):
        run(tf.constant([0, 1, 1]), tf.constant(points(4)))


@keras.saving.register_keras_serializable(package="tests")
def city_block(x):
    return tf.reduce_sum(tf.abs(x[:, None] - x[None]), axis=2)


@pytest.mark.parametrize(
    "loss",
    [
        losses.TripletSemiHardLoss(0.7, "angular", name="mine"),
        losses.TripletHardLoss(0.7, True, city_block, reduction="sum"),
        losses.LiftedStructLoss(0.7),
        losses.ContrastiveLoss(0.7),
        losses.NpairsLoss(),
        losses.NpairsMultilabelLoss(),
        losses.TripletLoss(0.7, "semihard"),
        losses.NormFaceLoss(3.0, 0.1),
        losses.RegisteredLoss("supcon", {"temperature": 0.2}),
        losses.RegisteredLoss("arcface", name="mine"),
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_a_loss_is_made_again_from_its_config(loss):
    told = json.loads(json.dumps(keras.losses.serialize(loss)))
    again = keras.losses.deserialize(told)
    assert type(again) is type(loss)
    assert again.get_config() == loss.get_config()
    assert again.name == loss.name and again.reduction == loss.reduction


@pytest.mark.parametrize("name", registry.names("loss"))
def test_a_registered_loss_is_what_fir_tf_trains_with(name):
    """By its name; those on logits are Keras' own, and are refused."""
    x, y = toy()
    part = registry.get("loss", name)
    if part.output != "embedding":
        with pytest.raises(
            FirError, match=f"on embeddings, or on class centres. Received: '{name}'"
        ):
            losses.RegisteredLoss(name)
        return
    labels = np.where(y == 3, -1, y)[:, None]
    x = tf.math.l2_normalize(x, axis=1)
    if part.has_classes:
        layer = layers.ClassCentres(8)
        found = losses.RegisteredLoss(name)(labels, layer(x))
        term = part(LossSettings())
        term._centres = layer.centres
    else:
        found, term = losses.RegisteredLoss(name)(labels, x), part(LossSettings())
    expected = term(x, tf.constant(labels[:, 0], tf.int32))["loss"]
    assert float(found) == pytest.approx(float(expected), rel=1e-6) and float(found) > 0


def test_a_registered_loss_takes_its_own_options_only():
    with pytest.raises(
        FirError, match="the loss circle takes the options scale, margin, memory. Received"
    ):
        losses.RegisteredLoss("circle", {"temperature": 1})
    with pytest.raises(FirError, match="`temperature` must be"):
        losses.RegisteredLoss("supcon", {"temperature": -1})
    with pytest.raises(FirError, match="`memory` needs train.py .*Received: 8"):
        losses.RegisteredLoss("contrastive", {"memory": 8})
    with pytest.raises(FirError, match="`loss` must be one of|must be one of"):
        losses.RegisteredLoss("circel")


def toy():
    """Eight classes in 16 numbers, of which the first two tell them apart badly."""
    rng = np.random.default_rng(0)
    y = np.arange(128) % 8
    x = rng.normal(size=(8, 16))[y] + 0.7 * rng.normal(size=(128, 16))
    return x.astype(np.float32), y


def network(x):
    keras.utils.set_random_seed(0)
    inputs = keras.Input(x.shape[1:])
    outputs = keras.layers.Dense(4, name="embedding")(inputs)
    return keras.Model(inputs, outputs)


def recall(model, x, y):
    """Share of the examples whose nearest other one is of their class."""
    z = np.asarray(model.predict(x, batch_size=128, verbose=0), np.float64)
    away = ((z[:, None] - z[None]) ** 2).sum(2) + np.diag(np.full(len(z), np.inf))
    return float((y[away.argmin(1)] == y).mean())


@pytest.mark.slow
@pytest.mark.parametrize(
    "loss",
    [
        losses.TripletSemiHardLoss(),
        losses.TripletHardLoss(soft=True, distance_metric="angular"),
        losses.LiftedStructLoss(),
        losses.TripletLoss(),
    ],
    ids=lambda loss: type(loss).__name__,
)
@pytest.mark.parametrize(
    "jit", [False, pytest.param(True, marks=pytest.mark.nightly)], ids=["graph", "xla"]
)
def test_fit_learns_and_the_model_is_saved(tmp_path, loss, jit):
    x, y = toy()
    model = network(x)
    before = recall(model, x, y)
    model.compile(keras.optimizers.Adam(0.02), loss, jit_compile=jit)
    # The last batch of an epoch is smaller.
    history = model.fit(x, y, batch_size=48, epochs=12, verbose=0).history["loss"]
    assert history[-1] < history[0]
    assert recall(model, x, y) > max(0.9, before)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert type(again.loss) is type(loss) and again.loss.get_config() == loss.get_config()
    evaluated = [m.evaluate(x, y, batch_size=128, verbose=0) for m in (model, again)]
    assert evaluated[0] == pytest.approx(evaluated[1], rel=1e-5)


@pytest.mark.slow
def test_centres_are_trained_with_the_model(tmp_path):
    x, y = toy()
    embedding = network(x)
    model = keras.Model(embedding.input, layers.ClassCentres(8, name="centres")(embedding.output))
    model.compile(keras.optimizers.Adam(0.02), losses.NormFaceLoss())
    before = recall(embedding, x, y)
    model.fit(x, y[:, None], batch_size=32, epochs=12, verbose=0)
    assert recall(embedding, x, y) > before + 0.15
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    found, centres = again.predict(x, verbose=0), again.get_layer("centres").get_weights()[0]
    z = embedding.predict(x, verbose=0)
    cosine = (z / np.linalg.norm(z, axis=1, keepdims=True)) @ (
        centres / np.linalg.norm(centres, axis=1, keepdims=True)
    ).T
    np.testing.assert_allclose(found, cosine, atol=1e-5)
    expected = np.mean(
        [cross_entropy((20 * row).tolist(), np.eye(8)[n]) for row, n in zip(cosine, y, strict=True)]
    )
    assert again.evaluate(x, y, batch_size=128, verbose=0) == pytest.approx(expected, rel=1e-4)


@pytest.mark.bfloat16
@pytest.mark.slow
def test_several_outputs_with_weights_in_half_precision():
    """The total is the weighted sum of what each loss says of the predictions."""
    x, y = toy()
    inputs = keras.Input(x.shape[1:])
    hidden = keras.layers.Dense(8, dtype="mixed_bfloat16")(inputs)
    first = keras.layers.Dense(4, dtype="mixed_bfloat16", name="first")(hidden)
    second = keras.layers.Dense(3, name="second")(hidden)
    model = keras.Model(inputs, {"first": first, "second": second})
    ours = {"first": losses.TripletSemiHardLoss(), "second": losses.LiftedStructLoss()}
    model.compile("sgd", ours, loss_weights={"first": 0.5, "second": 2.0})
    labels = {"first": y, "second": y[:, None]}
    found = model.evaluate(x, labels, batch_size=128, verbose=0, return_dict=True)
    outputs = model(x)
    assert outputs["first"].dtype == tf.bfloat16
    expected = {key: float(loss(y, outputs[key])) for key, loss in ours.items()}
    # A graph may round its half precision elsewhere than single operations do.
    for key, value in expected.items():
        assert found[f"{key}_loss"] == pytest.approx(value, rel=0.02)
    total = 0.5 * expected["first"] + 2 * expected["second"]
    assert found["loss"] == pytest.approx(total, rel=0.02)


MIRRORED = """
import os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import keras, numpy as np, tensorflow as tf
from fir_tf.keras import losses

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
rng = np.random.default_rng(0)
x, y = rng.normal(size=(16, 6)).astype(np.float32), np.arange(16) % 4
kernel = rng.normal(size=(6, 3)).astype(np.float32)

def trained(loss, strategy):
    with strategy.scope():
        model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3, use_bias=False)])
        model.layers[-1].set_weights([kernel])
        model.compile(keras.optimizers.SGD(0.1), loss)
    value = model.fit(x, y, batch_size=16, shuffle=False, verbose=0).history["loss"][0]
    return value, model.layers[-1].get_weights()[0]

for make in (losses.TripletSemiHardLoss, losses.TripletHardLoss, losses.TripletLoss):
    value, weights = trained(make(), tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
    variable, halves = tf.Variable(kernel), []
    with tf.GradientTape() as tape:
        for half in (slice(0, 8), slice(8, 16)):
            halves.append(make()(y[half], tf.matmul(x[half], variable)))
        mean = tf.add_n(halves) / 2
    assert float(mean) > 0
    np.testing.assert_allclose(value, mean, rtol=1e-5)
    np.testing.assert_allclose(weights, kernel - 0.1 * tape.gradient(mean, variable), rtol=1e-4, atol=1e-5)
print("equal")
"""


@pytest.mark.slow
def test_replicas_take_the_mean_of_theirs():
    """Two devices: the loss and the step are those of the mean over the two halves of a batch."""
    done = subprocess.run([sys.executable, "-c", MIRRORED], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip().endswith("equal"), done.stderr[-3000:]
