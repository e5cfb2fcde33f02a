"""The memory of past batches: what a batch is paired with, and what is left when a run stops."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from objectives import make_objective
from test_item_losses import ORACLES, gradients, slopes

from fir_tf import registry
from fir_tf.config import Config
from fir_tf.losses.pairs import PairLoss
from fir_tf.training.checkpoints import Checkpoints
from fir_tf.training.optimizer import make_optimizer
from fir_tf.training.step import TrainStep

# Items of no two batches alike, a batch without a known one, and one without a pair of its own.
BATCHES = [
    [0, 1, -1, 0],
    [1, 2, 3, -1],
    [-1, -1, -1, -1],
    [0, 2, 2, 1],
    [3, 0, 1, 2],
    [-1, 0, -1, -1],
]
WITH_MEMORY = [name for name in ORACLES if issubclass(registry.get("loss", name), PairLoss)]


def points_of(step):
    points = np.random.default_rng(step).normal(size=(4, 3))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def loss_with_memory(name, size):
    """Returns (function of (points, labels) to the value, the memory's variables)."""
    objective = make_objective(f"{name}(memory={size}):item", [True] * 4)
    objective.build({"item": np.arange(4)}, {"embedding": 3})
    assert not objective.variables

    def value(points, labels):
        return objective({"embedding": points}, {"item": tf.cast(labels, tf.int32)})[0]

    return value, objective.state


def oracle_with_memory(name, labels, stored, points, **options):
    """The loss of a batch whose images are paired with the stored (point, label) as well."""
    columns = [*points, *(point for point, _ in stored)]
    column_labels = labels + [label for _, label in stored]
    return ORACLES[name](columns, column_labels, None, count=len(labels), **options)


def test_all_losses_on_pairs_have_one():
    assert set(WITH_MEMORY) == {"contrastive", "supcon", "multi_similarity", "circle"}


@pytest.mark.parametrize("size", [2, 7, 100])
@pytest.mark.parametrize("name", WITH_MEMORY)
def test_a_batch_meets_the_ones_before_it(name, size):
    """Values and gradients over several steps, of memories smaller than a batch and never full."""
    value, (_, stored_labels) = loss_with_memory(name, size)
    stored = []
    assert (stored_labels.numpy() == -1).all()
    for step, labels in enumerate(BATCHES):
        points = points_of(step)
        loss, (found,) = gradients(value, points, labels)
        points = points.astype(float)
        oracle = functools.partial(oracle_with_memory, name, labels, stored)
        assert float(loss) == pytest.approx(oracle(points), rel=2e-5, abs=1e-6)
        if name == "circle":
            fixed = [*points, *(point for point, _ in stored)]
            oracle = functools.partial(oracle, constant=fixed)
        expected = slopes(oracle, points)
        atol = 1e-4 * np.abs(expected).max() + 1e-6
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=atol)
        stored += [pair for pair in zip(points, labels, strict=True) if pair[1] >= 0]
        stored = stored[-size:]
        kept = stored_labels.numpy()
        assert kept.tolist() == [-1] * (size - len(stored)) + [label for _, label in stored]


@pytest.mark.parametrize("name", WITH_MEMORY)
def test_xla_equals_the_graph(name):
    found = []
    for xla in (False, True):
        value, state = loss_with_memory(name, 6)

        @functools.partial(tf.function, jit_compile=xla, autograph=False)
        def both(points, labels, value=value):
            with tf.GradientTape() as tape:
                tape.watch(points)
                loss = value(points, labels)
            return loss, tape.gradient(loss, points)

        steps = [
            both(tf.constant(points_of(step)), tf.constant(labels))
            for step, labels in enumerate(BATCHES)
        ]
        found.append([*sum(steps, ()), *(variable.numpy() for variable in state)])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * np.abs(one).max())


@pytest.fixture
def eager():
    """The step is not compiled, which would take longer than it runs."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def training(folder, accumulate=1):
    """A linear network, its step over batches 0, 1, 2 ..., the memory, and the checkpoints."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((3,))
    embedding = keras.layers.UnitNormalization()(keras.layers.Dense(3)(inputs))
    network = keras.Model(inputs, {"embedding": embedding})
    config = Config(losses="contrastive(memory=6):item", accumulate=accumulate)
    objective = make_objective(config.losses, [True] * 4)
    objective.build({"item": np.arange(4)}, {"embedding": 3})
    variables = network.trainable_variables
    optimizer = make_optimizer(config, network, variables, 0.1)
    step = TrainStep(network, optimizer, objective, variables, config)
    kept = Checkpoints(folder, network, optimizer, owned=objective.state)
    return network, step, objective.state, kept


def batches(first):
    count = len(BATCHES)
    data = tf.data.Dataset.from_tensor_slices(
        {
            "images": np.stack([points_of(step) for step in range(count)]),
            "item": np.array(BATCHES, np.int32),
            "row": np.zeros((count, 4), np.int32),
            "valid": np.ones((count, 4), bool),
        }
    )
    return iter(data.skip(first))


@pytest.mark.usefixtures("eager")
def test_it_resumes_where_it_stopped(tmp_path):
    whole, step, state, _ = training(tmp_path / "whole")
    losses = step(batches(0), 6)[0]["loss"].numpy()
    # The memory matters: without it nothing of the last batch is a pair.
    assert losses[-1] > 0 and (losses[:2] > 0).all()
    _, step, _, kept = training(tmp_path / "parts")
    step(batches(0), 3)
    kept.save()
    parts, step, again, kept = training(tmp_path / "parts")
    assert kept.restore(tmp_path / "parts")
    np.testing.assert_allclose(step(batches(3), 3)[0]["loss"], losses[3:], rtol=1e-6)
    for one, other in zip(whole.weights + state, parts.weights + again, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-6)


@pytest.mark.usefixtures("eager")
def test_batches_of_one_update_see_those_before_them(tmp_path):
    """The mean of two losses at one set of weights, the second with the first batch stored."""
    network, step, state, _ = training(tmp_path, accumulate=2)
    outputs = [np.asarray(network(points_of(number))["embedding"]) for number in (0, 1)]
    value, alone = loss_with_memory("contrastive", 6)
    expected = np.mean([value(*pair) for pair in zip(outputs, BATCHES, strict=False)])
    assert float(step(batches(0), 1)[0]["loss"][0]) == pytest.approx(expected, rel=1e-5)
    for one, other in zip(state, alone, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-5)
