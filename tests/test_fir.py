"""The FIR model: fine-tuning options, the backbone's learning rate, saving and loading."""

import contextlib
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from objectives import make_objective
from shallow import shallow_backbones
from test_backbones import normal

from fir_tf.config import ModelSettings
from fir_tf.errors import FirError
from fir_tf.keras_versions import tensor_of
from fir_tf.models.batch_norm import FusedBatchNormalization
from fir_tf.models.fir import build_fir, search_model, training_model
from fir_tf.models.saving import load_model
from fir_tf.registry import names
from fir_tf.training.optimizer import make_optimizer


def small_fir(backbone="efficientnet_lite0", **options):
    values = {"weights": "none", "relaxation_width": 4, "embedding_size": 8, **options}
    return build_fir(ModelSettings(backbone=backbone, **values), 32, 3)


def batch_norms(model):
    return [
        layer for layer in model._flatten_layers() if isinstance(layer, FusedBatchNormalization)
    ]


def test_the_default_layers_are_those_of_saved_checkpoints():
    """Checkpoints find layers by their place: another layer would leave older runs behind."""
    model = small_fir(embedding_size=4)
    assert [layer.name for layer in model.layers] == [
        "images",
        "normalisation",
        "efficientnet_lite0",
        "relaxation",
        "relaxation_dropout",
        "category_map",
        "features",
        "category_logits",
        "projection",
        "category",
        "embedding",
    ]


@pytest.mark.slow
def test_batch_norm_modes():
    images = np.random.RandomState(0).uniform(0, 255, (4, 32, 32, 3)).astype("float32")
    for mode, weights, moves in (
        ("auto", "none", True),
        ("auto", "imagenet", False),
        ("frozen", "none", False),
        ("synchronized", "none", True),
    ):
        with shallow_backbones() if weights == "none" else contextlib.nullcontext():
            model = small_fir(weights=weights, batch_norm=mode)
        layers = batch_norms(model)
        assert {layer.synchronized for layer in layers} == {mode == "synchronized"}
        before = layers[0].moving_mean.numpy()
        model(images, training=True)
        assert np.any(layers[0].moving_mean != before) == moves
    with pytest.raises(FirError, match="`batch_norm` must be one of .*'live'"):
        small_fir(batch_norm="live")


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def standardised(rows, mean, variance):
    return (rows - mean) / np.sqrt(variance + 1e-5)


@pytest.mark.parametrize("width", [0, 8])
@pytest.mark.parametrize("neck", ["linear_bn", "bnneck", "bnneck_before"])
def test_necks_with_batch_norm(neck, width, shallow):
    """Beside numpy. The neck's batch norm is trained where the backbone's is frozen."""
    model = small_fir(neck=neck, embedding_size=width, batch_norm="frozen")
    norm = model.get_layer("neck")
    gamma, *_ = norm.trainable_variables
    gamma.assign(np.random.RandomState(0).uniform(0.5, 2, gamma.shape))
    # BNNeck's has no trained shift.
    assert len(norm.trainable_variables) == (2 if neck == "linear_bn" else 1)
    images = np.random.RandomState(1).uniform(0, 255, (6, 32, 32, 3)).astype("float32")
    backbones = [layer.moving_mean.numpy() for layer in batch_norms(model) if layer is not norm]
    kernel = model.get_layer("projection").kernel.numpy() if width else np.eye(1280)
    for training in (True, False):
        found = training_model(model)(images, training=training)
        before = found["features"].numpy().astype("float64") @ kernel
        if training:
            mean, variance = before.mean(0), before.var(0)
            np.testing.assert_allclose(norm.moving_mean, 0.1 * mean, atol=1e-5)
            unbiased = 0.9 + 0.1 * before.var(0, ddof=1)
            np.testing.assert_allclose(norm.moving_variance, unbiased, rtol=1e-4)
        else:
            mean, variance = norm.moving_mean.numpy(), norm.moving_variance.numpy()
        behind = standardised(before, mean, variance) * gamma.numpy()
        sides = {"before_batch_norm": unit(before), "behind_batch_norm": unit(behind)}
        if neck == "linear_bn":
            sides = {"embedding": unit(behind)}
        else:
            searched = "behind_batch_norm" if neck == "bnneck" else "before_batch_norm"
            sides["embedding"] = sides.pop(searched)
        assert set(found) == {"logits", "features", *sides}
        for name, expected in sides.items():
            np.testing.assert_allclose(found[name], expected, atol=2e-4)
    after = [layer.moving_mean.numpy() for layer in batch_norms(model) if layer is not norm]
    assert all(np.array_equal(a, b) for a, b in zip(backbones, after, strict=True))
    assert set(search_model(model).output) == {"category", "embedding"}


def test_the_necks_batch_norm_is_synchronized_with_the_backbones(shallow):
    for mode, expected in (("synchronized", True), ("batch", False), ("frozen", False)):
        norm = small_fir(neck="bnneck", batch_norm=mode).get_layer("neck")
        assert (norm.synchronized, norm.frozen_statistics) == (expected, False)


@pytest.mark.parametrize("neck", ["bnneck", "bnneck_before"])
def test_pairs_are_compared_before_the_batch_norm_and_classes_behind_it(neck, shallow):
    """Each loss alone: what it is, and whether its gradient reaches the batch norm."""
    model = small_fir(neck=neck)
    network, norm = training_model(model), model.get_layer("neck")
    widths = {name: output.shape[-1] for name, output in network.output.items()}
    images = np.random.RandomState(1).uniform(0, 255, (6, 32, 32, 3)).astype("float32")
    labels = {"item": np.repeat(np.arange(3, dtype="int32"), 2)}
    for losses, side in (
        ("triplet:item", "before_batch_norm"),
        ("normface:item", "behind_batch_norm"),
    ):
        objective = make_objective(losses, np.ones(6, bool))
        objective.build(labels, widths)
        with tf.GradientTape() as tape:
            found = network(images, training=False)
            total, _ = objective({name: found[name] for name in objective.outputs}, labels)
        (gamma,) = (tensor_of(variable) for variable in norm.trainable_variables)
        reaches = tape.gradient(total, gamma) is not None
        assert reaches == (side == "behind_batch_norm")
        # The loss is that of the side's vectors, given as those of a neck with one side.
        alone = make_objective(losses, np.ones(6, bool))
        alone.build(labels, {"embedding": widths["embedding"]})
        for own, other in zip(alone.variables, objective.variables, strict=True):
            own.assign(other)
        expected, _ = alone({"embedding": found.get(side, found["embedding"])}, labels)
        np.testing.assert_allclose(total, expected, rtol=1e-6)


def test_freezing_leaves_the_head_alone(shallow):
    trained = []
    for freeze in (0, 3, 5):
        model = small_fir(freeze=freeze)
        body = model.get_layer("efficientnet_lite0")
        trained.append(len(body.trainable_variables))
        # The head's four and the projection.
        assert len(model.trainable_variables) == trained[-1] + 5
    assert trained[0] > trained[1] > trained[2] == 0
    with pytest.raises(FirError, match="`freeze` must be between 0 and 5. Received: 6"):
        small_fir(freeze=6)


RATES = types.SimpleNamespace(
    backbone="body",
    weight_decay=0.0,
    learning_rate=0.1,
    backbone_learning_rate=0.03,
    loss_learning_rate=0.0,
)


def two_kernels(rates):
    """A backbone and a head of one kernel each, and the optimizer of `rates` on them."""
    body = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, use_bias=False)], name="body")
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(2, use_bias=False)(body(inputs)))
    for seed, variable in enumerate(model.trainable_variables):
        variable.assign(normal(*variable.shape, seed=seed))
    variables = model.trainable_variables
    return variables, make_optimizer(rates, model, variables, schedule(0.1))


def gradients(variables, step):
    return [
        tf.constant(normal(*variable.shape, seed=10 * step + number))
        for number, variable in enumerate(variables)
    ]


def schedule(rate):
    return keras.optimizers.schedules.PiecewiseConstantDecay([2], [rate, 0.1 * rate])


def test_two_learning_rates_equal_two_optimizers():
    variables, ours = two_kernels(RATES)
    apart, _ = two_kernels(RATES)
    theirs = [keras.optimizers.Adam(schedule(rate)) for rate in (0.03, 0.1)]
    step = tf.function(lambda values: ours.apply(values, variables))
    for number in range(6):
        step(gradients(variables, number))
        both = zip(theirs, apart, gradients(apart, number), strict=True)
        for optimizer, variable, gradient in both:
            optimizer.apply_gradients([(gradient, variable)])
    for actual, expected, start in zip(variables, apart, two_kernels(RATES)[0], strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5)
        assert np.abs(expected - start).max() > 0.05


def test_the_optimizer_goes_on_from_a_checkpoint(tmp_path):
    def make():
        variables, optimizer = two_kernels(RATES)
        state = tf.train.Checkpoint(optimizer=optimizer, variables=list(map(tensor_of, variables)))
        return variables, optimizer, state

    def run(variables, optimizer, steps):
        for number in steps:
            optimizer.apply(gradients(variables, number), variables)

    whole, optimizer, _ = make()
    run(whole, optimizer, range(5))
    variables, optimizer, state = make()
    run(variables, optimizer, range(3))
    path = state.save(str(tmp_path / "state"))
    variables, optimizer, state = make()
    state.restore(path).assert_consumed()
    assert int(optimizer.iterations) == 3
    run(variables, optimizer, range(3, 5))
    for one, other in zip(whole, variables, strict=True):
        assert np.array_equal(one, other)


FRESH = """
import sys
import numpy as np
import fir_tf
assert "tensorflow" not in sys.modules
for path in sys.argv[1:]:
    model = fir_tf.load_model(path + ".keras")
    saved = np.load(path + ".npz")
    outputs = model(saved["images"], training=False)
    for name in ("category", "embedding"):
        assert str(outputs[name].dtype) == "<dtype: 'float32'>"
        assert np.array_equal(outputs[name], saved[name]), (path, name)
    assert len(model.trainable_variables) == saved["trainable"]
"""


def check_fresh_process(folder, backbones):
    """Saves models of both policies, loads them elsewhere; the outputs agree to the bit."""
    paths = []
    for backbone in backbones:
        for policy in ("float32", "mixed_bfloat16"):
            keras.mixed_precision.set_global_policy(policy)
            try:
                model = small_fir(backbone, freeze=2, batch_norm="frozen")
            finally:
                keras.mixed_precision.set_global_policy("float32")
            (body,) = (layer for layer in model.layers if isinstance(layer, keras.Model))
            assert body.compute_dtype == policy.removeprefix("mixed_")
            images = np.random.RandomState(1).uniform(0, 255, (2, 32, 32, 3)).astype("float32")
            # Moving statistics and other values than a new model has.
            for variable in model.non_trainable_variables:
                if variable.dtype == "float32":
                    variable.assign(variable * 1.5 + 0.1)
            path = folder / f"{backbone}.{policy}"
            model.save(f"{path}.keras")
            outputs = {name: np.array(value) for name, value in model(images).items()}
            trainable = len(model.trainable_variables)
            np.savez(f"{path}.npz", images=images, trainable=trainable, **outputs)
            paths.append(str(path))
    subprocess.run([sys.executable, "-c", FRESH, *paths], check=True)


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.bfloat16
def test_every_kind_of_saved_model_loads_in_a_fresh_process(tmp_path, shallow):
    """Every layer and option there is."""
    check_fresh_process(tmp_path, ["efficientnet_lite0", "densenet121", "seresnext50"])


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.bfloat16
def test_every_saved_model_loads_in_a_fresh_process(tmp_path):
    check_fresh_process(tmp_path, names("backbone"))


def test_files_that_are_no_model(tmp_path):
    with pytest.raises(FirError, match="no file .*none.keras"):
        load_model(tmp_path / "none.keras")
    (tmp_path / "junk.keras").write_bytes(b"not a model")
    with pytest.raises(FirError, match="junk.keras is not a Keras model"):
        load_model(tmp_path / "junk.keras")
