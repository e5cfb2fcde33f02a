"""Poolings against plain loops over the feature map, and their gradients by finite differences."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from fir_tf.config import LoopSettings, ModelSettings
from fir_tf.keras_versions import name_of, tensor_of
from fir_tf.models.fir import build_fir, training_model
from fir_tf.models.gem import GeneralisedMeanPooling2D
from fir_tf.models.saving import load_model
from fir_tf.registry import get, names
from fir_tf.training.optimizer import make_optimizer
from fir_tf.training.schedules import make_schedule

SHAPE = (2, 3, 4, 5)


def feature_map(seed=0):
    """As a ReLU leaves it: about half of it is 0."""
    return np.maximum(np.random.RandomState(seed).standard_normal(SHAPE), 0.0)


def pooled(maps, of_values):
    """A plain loop: `of_values` takes the list of a channel's values and the channel."""
    count, height, width, channels = maps.shape
    out = np.zeros((count, channels))
    for image in range(count):
        for channel in range(channels):
            values = [maps[image, y, x, channel] for y in range(height) for x in range(width)]
            out[image, channel] = of_values(values, channel)
    return out


def generalised_mean(maps, exponents):
    def of_values(values, channel):
        p = exponents[channel % len(exponents)]
        return (sum(max(value, 1e-6) ** p for value in values) / len(values)) ** (1 / p)

    return pooled(maps, of_values)


EXPECTED = {
    "average": lambda maps: pooled(maps, lambda values, _: sum(values) / len(values)),
    "max_average": lambda maps: pooled(
        maps, lambda values, _: max(values) + sum(values) / len(values)
    ),
    "gem": lambda maps: generalised_mean(maps, [3.0]),
    "gem_channels": lambda maps: generalised_mean(maps, [3.0]),
}


def model_of(name):
    maps = keras.Input(SHAPE[1:])
    return keras.Model(maps, get("pooling", name)(maps))


@pytest.mark.parametrize("name", names("pooling"))
def test_a_new_pooling_is_that_of_a_plain_loop(name):
    maps = feature_map()
    # A channel that is 0 everywhere, as dead ones are.
    maps[0, :, :, 1] = 0.0
    actual = model_of(name)(maps.astype("float32"))
    assert actual.dtype == tf.float32
    np.testing.assert_allclose(actual, EXPECTED[name](maps), rtol=1e-5, atol=2e-6)


def layer_with(exponents):
    layer = GeneralisedMeanPooling2D(by_channel=len(exponents) > 1)
    layer.build(SHAPE)
    layer.log_exponent.assign(np.log(exponents))
    return layer


@pytest.mark.parametrize("exponents", [[1.0], [2.5], [0.5, 1.0, 3.0, 7.0, 20.0]])
def test_the_generalised_mean_and_its_gradient(exponents):
    """The gradient is that of the plain loop in double precision, by finite differences."""
    maps, layer = feature_map(seed=1), layer_with(exponents)
    upstream = np.random.RandomState(2).standard_normal((SHAPE[0], SHAPE[-1]))
    inputs = tf.constant(maps, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = layer(inputs)
        loss = tf.reduce_sum(outputs * upstream.astype("float32"))
    of_maps, of_exponents = tape.gradient(loss, [inputs, tensor_of(layer.log_exponent)])
    np.testing.assert_allclose(outputs, generalised_mean(maps, exponents), rtol=1e-5)

    def value(maps, exponents):
        return (generalised_mean(maps, exponents) * upstream).sum()

    step = 1e-6
    for place in np.ndindex(*SHAPE):
        if maps[place] == 0.0:
            assert of_maps[place] == 0.0
            continue
        near = np.zeros(SHAPE)
        near[place] = step
        expected = (value(maps + near, exponents) - value(maps - near, exponents)) / (2 * step)
        np.testing.assert_allclose(of_maps[place], expected, rtol=2e-4, atol=2e-5)
    for place in range(len(exponents)):
        factor = np.ones(len(exponents))
        factor[place] = np.exp(step)
        more, less = exponents * factor, exponents / factor
        expected = (value(maps, more) - value(maps, less)) / (2 * step)
        np.testing.assert_allclose(of_exponents[place], expected, rtol=2e-4, atol=2e-5)


def test_the_generalised_mean_is_finite_wherever_training_may_lead():
    """Nothing but zeros, huge values, exponents near 0 and far above what float32 can raise."""
    maps = feature_map() * 1e4
    maps[0] = 0.0
    inputs = tf.constant(maps, tf.float32)
    for exponent in (0.01, 3.0, 60.0):
        layer = layer_with([exponent])
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = layer(inputs)
            loss = tf.reduce_sum(outputs)
        gradients = tape.gradient(loss, [inputs, tensor_of(layer.log_exponent)])
        assert all(np.isfinite(value).all() for value in [outputs, *gradients])
        assert np.any(gradients[0][1] != 0)
    # Far down the slope of what is learned the exponent is still above 0.
    layer.log_exponent.assign([-5.0])
    assert np.isfinite(layer(inputs)).all()
    assert not np.any(np.isnan(layer(tf.zeros((0, *SHAPE[1:])))))


@pytest.mark.bfloat16
@pytest.mark.parametrize("name", names("pooling"))
def test_poolings_compute_in_float32_under_mixed_precision(name):
    maps = feature_map().astype("float32")
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        model = model_of(name)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    rounded = tf.cast(maps, tf.bfloat16)
    actual = model(rounded)
    assert actual.dtype == tf.float32
    np.testing.assert_allclose(
        actual, EXPECTED[name](tf.cast(rounded, tf.float32).numpy()), rtol=1e-5, atol=2e-6
    )


@pytest.mark.parametrize("jit_compile", [False, True])
def test_the_generalised_mean_compiles(jit_compile):
    maps, layer = feature_map().astype("float32"), layer_with([3.0])
    compiled = tf.function(layer, jit_compile=jit_compile)
    np.testing.assert_allclose(compiled(maps), layer(maps), rtol=1e-5)


def test_a_model_with_learned_exponents_is_saved(shallow, tmp_path):
    settings = ModelSettings(
        backbone="efficientnet_lite0", weights="none", relaxation_width=4, pooling="gem_channels"
    )
    model = build_fir(settings, 32, 3)
    (exponents,) = [v for v in model.trainable_variables if name_of(v) == "log_exponent"]
    assert exponents.shape == (1280,)
    exponents.assign(np.linspace(-1, 2, 1280))
    model.save(tmp_path / "m.keras")
    images = np.random.RandomState(0).uniform(0, 255, (2, 32, 32, 3)).astype("float32")
    loaded = load_model(tmp_path / "m.keras")
    assert np.array_equal(loaded(images)["embedding"], model(images)["embedding"])
    assert training_model(model).output["features"].shape == (None, 1280)


def test_weight_decay_leaves_the_exponent_alone():
    maps = keras.Input(SHAPE[1:])
    model = keras.Model(maps, keras.layers.Dense(3)(get("pooling", "gem")(maps)))
    rates = LoopSettings(weight_decay=0.1, learning_rate=0.5)
    variables = model.trainable_variables
    before = [variable.numpy() for variable in variables]
    optimizer = make_optimizer(rates, model, variables, make_schedule(rates, 1))
    optimizer.apply([tf.zeros_like(value) for value in before], variables)
    moved = {
        name_of(variable): not np.array_equal(value, variable)
        for value, variable in zip(before, variables, strict=True)
    }
    assert moved == {"log_exponent": False, "kernel": True, "bias": False}
