"""Activations that the backward pass computes again: the same step in less memory."""

import functools
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from objectives import make_objective
from shallow import shallow_backbones

from fir_tf import registry
from fir_tf.config import Config
from fir_tf.errors import FirError
from fir_tf.keras_versions import seed_variables, tensor_of
from fir_tf.models.batch_norm import FusedBatchNormalization, set_batch_norm
from fir_tf.models.saving import load_model
from fir_tf.models.surgery import with_faster_layers
from fir_tf.training.optimizer import make_optimizer
from fir_tf.training.precision import policy
from fir_tf.training.remat import segments, with_remat
from fir_tf.training.step import TrainStep

IMAGES = np.random.default_rng(0).normal(size=(8, 16, 16, 3)).astype(np.float32)


def blocks(count=3, drop=0.0):
    """A small network of residual blocks: convolution, batch norm, ReLU."""
    layers = keras.layers
    images = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 3, padding="same", use_bias=False)(images)
    for _ in range(count):
        y = layers.Conv2D(8, 3, padding="same", use_bias=False)(x)
        y = FusedBatchNormalization(momentum=0.9)(y)
        y = layers.Dropout(drop)(y) if drop else y
        x = layers.ReLU()(layers.Add()([x, y]))
    return keras.Model(images, x)


def headed(body):
    """The network as a training step gets it: images, a nested backbone, heads."""
    layers = keras.layers
    images = keras.Input(body.inputs[0].shape[1:])
    features = body(layers.Rescaling(2.0)(images))
    pooled = layers.GlobalAveragePooling2D(dtype="float32")(features)
    embedding = layers.UnitNormalization(dtype="float32")(pooled)
    logits = layers.Dense(3, dtype="float32")(pooled)
    return keras.Model(images, {"logits": logits, "embedding": embedding})


def step_of(network, remat, jit=False):
    """Returns a compiled function from images to outputs and gradients."""
    forward = with_remat(network) if remat else functools.partial(network, training=True)
    variables = [tensor_of(variable) for variable in network.trainable_variables]

    @tf.function(jit_compile=jit, autograph=False)
    def step(images):
        with tf.GradientTape() as tape:
            outputs = forward(images)
            loss = sum(tf.reduce_sum(tf.sin(3.0 * output)) for output in outputs.values())
        return tf.nest.flatten((outputs, tape.gradient(loss, variables)))

    return step


def compare(make, rtol=1e-3, jit=False, images=IMAGES):
    """Asserts that outputs, gradients and statistics of a step are the same; returns the latter."""
    found = []
    for remat in (False, True):
        keras.utils.set_random_seed(0)
        network = make()
        values = [value.numpy() for value in step_of(network, remat, jit)(tf.constant(images))]
        statistics = [variable.numpy() for variable in network.non_trainable_variables]
        seeds = [variable.numpy() for variable in seed_variables(network)]
        found.append((values + statistics, seeds))
    (kept, drawn), (again, drawn_again) = found
    np.testing.assert_equal(drawn_again, drawn)
    for one, other in zip(kept, again, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=rtol * np.abs(one).max() + 1e-6)
    return statistics


@pytest.mark.parametrize(("mode", "jit"), [("batch", False), ("frozen", False), ("batch", True)])
def test_a_step_is_the_same(mode, jit):
    def make():
        body = blocks()
        set_batch_norm(body, mode)
        return headed(body)

    statistics = compare(make, jit=jit)
    assert len(statistics) == 6
    still = [np.isin(value, [0.0, 1.0]).all() for value in statistics]
    assert all(still) if mode == "frozen" else not any(still)


def test_a_step_is_the_same_in_mixed_precision():
    """To the eight bits of bfloat16, of which a few are lost on the way."""
    with policy("bfloat16"):
        compare(lambda: headed(blocks(2)), rtol=0.05)


@pytest.mark.parametrize(
    "name", ["resnet50_v15", pytest.param("densenet121", marks=pytest.mark.slow)]
)
def test_a_step_of_a_backbone_is_the_same(name):
    def make():
        with shallow_backbones():
            return headed(with_faster_layers(registry.get("backbone", name).build((32, 32, 3))))

    compare(make, images=tf.image.resize(IMAGES, (32, 32)).numpy())


def test_dropout_drops_the_same_again():
    """In the second pass it draws as in the first, and a later step draws on."""
    compare(lambda: headed(blocks(drop=0.5)))


def peak(network, remat):
    """The most numbers that a step holds at once, done in the order in which it was traced."""
    step = step_of(network, remat).get_concrete_function(tf.TensorSpec(IMAGES.shape))
    operations = step.graph.get_operations()
    last = {tensor.ref(): place for place, op in enumerate(operations) for tensor in op.inputs}
    alive, most = {}, 0
    for place, op in enumerate(operations):
        for tensor in op.outputs:
            if tensor.ref() in last and tensor.dtype == tf.float32 and tensor.shape.rank == 4:
                alive[tensor.ref()] = math.prod(side or 1 for side in tensor.shape)
        most = max(most, sum(alive.values()))
        alive = {tensor: size for tensor, size in alive.items() if last[tensor] > place}
    return most


def test_less_is_kept():
    """Of n blocks the inputs of sqrt(n) segments, and one segment's inside."""
    body = blocks(9)
    cut = segments(body)
    assert 3 <= len(cut) <= 5
    assert [layer for part in cut for layer in part.layers[1:]] == body.layers[1:]
    network = headed(body)
    assert peak(network, remat=True) < 0.6 * peak(network, remat=False)


def test_training_is_the_same_and_so_is_the_model(tmp_path):
    """An update of the heads alone, then one of all."""
    item = np.repeat(np.arange(4, dtype=np.int32), 2)
    batch = {
        "images": IMAGES,
        "category": item % 3,
        "item": item,
        "row": np.arange(8, dtype=np.int32),
        "valid": np.ones(8, bool),
    }
    batches = tf.data.Dataset.from_tensors(batch).repeat()
    found = []
    for remat in (False, True):
        keras.utils.set_random_seed(0)
        network = headed(blocks(2))
        config = Config(remat=remat)
        variables, before = network.trainable_variables, network.get_config()
        optimizer = make_optimizer(config, network, variables, 1e-3, frozen=1)
        objective = make_objective("OC+IS", np.ones(8, bool))
        step = TrainStep(network, optimizer, objective, variables, config)
        data = iter(batches)
        losses = [step(data, 1, True)[0]["loss"], step(data, 1)[0]["loss"]]
        assert network.get_config() == before
        network.save(tmp_path / "model.keras")
        saved = load_model(tmp_path / "model.keras")(IMAGES)
        for name, values in network(IMAGES).items():
            np.testing.assert_array_equal(saved[name], values)
        found.append([*map(np.asarray, losses), *network.get_weights()])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=2e-4)


def test_a_network_without_a_backbone_is_refused():
    with pytest.raises(FirError, match="`remat` needs a model with a backbone"):
        with_remat(blocks(1))
