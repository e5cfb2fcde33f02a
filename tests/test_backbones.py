"""Backbones against published counts and torch's numbers, layers against stock Keras ones."""

import functools
import json
import os
import subprocess
import sys

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from fir_tf.errors import FirError
from fir_tf.keras_versions import KERAS_2, name_of, tensor_of
from fir_tf.models import layers
from fir_tf.models.backbones import (
    STAGES,
    build_backbone,
    freeze_stages,
    normalisation,
    stage_count,
)
from fir_tf.models.batch_norm import FusedBatchNormalization, set_batch_norm
from fir_tf.models.layers import GroupedConv2D, PixelNormalisation
from fir_tf.models.pretrained.assign import assign_torch
from fir_tf.models.pretrained.load import load_file
from fir_tf.models.surgery import with_faster_layers
from fir_tf.registry import get, names


def relative_error(actual, expected):
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    return np.abs(actual - expected).max() / max(np.abs(expected).max(), 1e-12)


def normal(*shape, seed=0):
    return np.random.RandomState(seed).standard_normal(shape).astype("float32")


# Published counts with a classifier of 1000 classes, less that classifier. ResNet50 and
# DenseNet121: keras.applications' tables; the others: timm.
PARAMETERS = {
    "resnet50": 25_583_592 - 2_049_000,
    "resnet50_v15": 25_557_032 - 2_049_000,
    "densenet121": 7_978_856 - 1_025_000,
    "seresnet50": 28_088_024 - 2_049_000,
    "seresnet50_v15": 28_088_024 - 2_049_000,
    "seresnext50": 27_559_896 - 2_049_000,
    "seresnext50_v15": 27_559_896 - 2_049_000,
    "efficientnet_lite0": 4_652_008 - 1_281_000,
    "efficientnet_lite1": 5_416_680 - 1_281_000,
    "efficientnet_lite2": 6_092_072 - 1_281_000,
}


@pytest.mark.slow
def test_densenets_transitions_pool_first_and_compute_the_same():
    size = (33, 64)
    stock = keras.applications.DenseNet121(include_top=False, weights=None, input_shape=(*size, 3))
    rng = np.random.default_rng(0)
    stock.set_weights(
        [
            rng.uniform(0.5, 1.0, value.shape)
            if value.ndim == 1
            else rng.normal(0, np.sqrt(2 / np.prod(value.shape[:-1])), value.shape)
            for value in stock.get_weights()
        ]
    )
    model = get("backbone", "densenet121").build((*size, 3))
    model.set_weights(stock.get_weights())
    images = normal(2, *size, 3)
    expected = stock(images, training=False)
    actual = model(images, training=False)
    assert np.max(np.abs(actual - expected)) < 1e-5 * np.max(np.abs(expected))
    for number in (2, 3, 4):
        convolution = model.get_layer(f"pool{number}_conv")
        assert convolution.input.shape[1] == 33 // 2 ** (number + 1)


@pytest.fixture
def without_keras_cv(request, monkeypatch):
    """keras-cv, whose import takes long, is there for its own backbone only."""
    if not request.getfixturevalue("name").startswith("efficientnet_lite"):
        for module in {"keras_cv", *(key for key in sys.modules if key.startswith("keras_cv."))}:
            monkeypatch.setitem(sys.modules, module, None)


QUICK = ("resnet50", "efficientnet_lite0")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow)
        for name in names("backbone")
    ],
)
def test_parameters_output_and_stages(name, without_keras_cv):
    height, width = 64, 49
    model = build_backbone(name, (height, width), None)
    assert sum(np.prod(v.shape) for v in model.trainable_variables) == PARAMETERS[name]
    assert model.name == name
    assert model.output_shape[-1] == get("backbone", name).features
    features = model(normal(2, height, width, 3), training=False)
    assert features.shape == (2, *model.output_shape[1:])
    assert np.isfinite(features).all() and np.std(features) > 0
    kinds = {type(layer) for layer in model.layers}
    assert FusedBatchNormalization in kinds and keras.layers.BatchNormalization not in kinds

    # The stages follow each other, and compute at the same scales in every backbone.
    layers_with_weights = [layer for layer in model.layers if layer.weights]
    stages = [get("backbone", name).stage_of(layer.name) for layer in layers_with_weights]
    assert stages == sorted(stages)
    scales = [set() for _ in STAGES]
    for stage, layer in zip(stages, layers_with_weights, strict=True):
        side = layer.output.shape[1]
        # A squeeze has one pixel.
        if side > 1:
            scales[stage].add(height // side)
    for stage, scale in enumerate((2, 4, 8, 16, 32)):
        # The first layers of a stage may still see the size of the stage before, and the
        # convolution that ends one of DenseNet's already that of the next.
        near = {scale, scale // 2, 2 * scale} if name == "densenet121" else {scale, scale // 2}
        assert scale in scales[stage] and scales[stage] <= near
    left = [len(model.trainable_variables)]
    for number, stage in enumerate(STAGES):
        assert freeze_stages(model, get("backbone", name), stage) == sum(
            one <= number for one in stages
        )
        left.append(len(model.trainable_variables))
    assert left == sorted(set(left), reverse=True) and left[-1] == 0


# The first is enough for every day.
WITH_LAST_STRIDE = [
    pytest.param(name, marks=[pytest.mark.nightly] if place else [])
    for place, name in enumerate(
        name for name in names("backbone") if get("backbone", name).last_strides
    )
]


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_LAST_STRIDE)
def test_a_last_stride_of_one_doubles_the_map_and_nothing_else(name, shallow, tmp_path):
    """Of the same weights; that it computes what torch's does: tests/test_pretrained.py."""
    usual = build_backbone(name, (64, 96), None)
    usual.save_weights(tmp_path / "x.weights.h5")
    wide = build_backbone(name, (64, 96), tmp_path / "x.weights.h5", last_stride=1)
    assert usual.output_shape == (None, 2, 3, 2048)
    assert wide.output_shape == (None, 4, 6, 2048)
    assert [layer.name for layer in wide.layers[1:]] == [layer.name for layer in usual.layers[1:]]
    for one, other in zip(usual.get_weights(), wide.get_weights(), strict=True):
        assert np.array_equal(one, other)
    changed = {
        get("backbone", name).stage_of(one.name)
        for one, other in zip(usual.layers, wide.layers, strict=True)
        if one.weights and one.output.shape != other.output.shape
    }
    assert changed == {STAGES.index("stage4")}


def test_the_last_stride_of_other_backbones():
    with pytest.raises(FirError, match="densenet121; it can be 1 with resnet50, .*seresnext50_v15"):
        build_backbone("densenet121", 64, None, last_stride=1)
    with pytest.raises(FirError, match="`last_stride` must be 1 or 2. Received: 3"):
        build_backbone("resnet50", 64, None, last_stride=3)
    assert len(WITH_LAST_STRIDE) == 6


@functools.cache
def shared_backbone(name):
    """A backbone whose numbers may be changed, and nothing else: it takes seconds to build."""
    return build_backbone(name, 32, None)


def torch_tensors(name):
    """A backbone, and a torch state dict for it: variable number n is n everywhere."""
    backbone = get("backbone", name)
    suffixes = {
        "kernel": "weight",
        "gamma": "weight",
        "beta": "bias",
        "bias": "bias",
        "moving_mean": "running_mean",
        "moving_variance": "running_var",
    }
    model = shared_backbone(name)
    for _, variable in variables_of(model):
        variable.assign(np.full(variable.shape, -1.0, "float32"))
    tensors = {key: np.zeros(1000, "float32") for key in backbone.torch_classifier}
    for number, (layer, variable) in enumerate(variables_of(model)):
        module, shape = backbone.torch_module(layer.name), tuple(variable.shape)
        if len(shape) == 4:
            depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
            shape = (*(shape[2:] if depthwise else shape[:1:-1]), *shape[:2])
        tensors[f"{module}.{suffixes[name_of(variable)]}"] = np.full(shape, number, "float32")
        if name_of(variable) == "moving_mean":
            tensors[f"{module}.num_batches_tracked"] = np.array(7)
    return model, tensors


def variables_of(model):
    """(layer, variable) of all that a weights file has."""
    return [(layer, variable) for layer in model.layers for variable in layer.weights]


def is_filled(model):
    """Whether the model has the numbers of `torch_tensors`."""
    return all(np.all(v.numpy() == number) for number, (_, v) in enumerate(variables_of(model)))


@pytest.mark.slow
def test_a_torch_state_dict_is_assigned_strictly():
    model, tensors = torch_tensors("seresnet50")
    left_out = assign_torch(model, tensors, get("backbone", "seresnet50"))
    assert is_filled(model)
    assert {"last_linear.weight", "last_linear.bias"} < set(left_out)
    assert all(key.endswith((".num_batches_tracked", "weight", "bias")) for key in left_out)
    before = model.get_weights()

    def refused(changed, *matches):
        with pytest.raises(FirError) as error:
            assign_torch(model, changed, get("backbone", "seresnet50"))
        assert all(match in str(error.value) for match in matches)
        assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))

    # Every one that does not fit is named, however many there are.
    surplus = {f"layer9.{number}.weight": np.zeros(3) for number in range(20)}
    refused({**tensors, **surplus}, "has also: ", *surplus)
    refused({**tensors, "layer9.num_batches_tracked": np.zeros(())}, "layer9.num_batches_tracked")
    name, other = "layer4.2.conv3.weight", "layer0.bn1.running_var"
    fewer = {k: v for k, v in tensors.items() if k not in (name, other)}
    refused(fewer, "lacks: ", name, other)
    refused({**tensors, name: tensors[name][:5]}, f"has unfit: {name} (1, 1, 512, 5) instead of")
    refused({**tensors, other: tensors[other] * np.nan}, f"{other} with numbers that are not finit")


def small_network(filters=4):
    images = keras.Input((8, 8, 3), name="images")
    x = keras.layers.Conv2D(filters, 3, name="conv")(images)
    x = keras.layers.BatchNormalization(momentum=0.7, epsilon=1e-4, name="norm")(x)
    x = keras.layers.ReLU(name="relu")(x)
    inner = keras.layers.BatchNormalization(name="again")(x)
    return keras.Model(images, keras.layers.Add(name="add")([x, inner]), name="small")


def smaller_network():
    images = keras.Input((8, 8, 3), name="images")
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3)(images))
    return keras.Model(images, x, name="smaller")


def save_as_applications_do(model, path):
    if KERAS_2:
        from keras.src.saving.legacy.hdf5_format import save_weights_to_hdf5_group
    else:
        from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group

    with h5py.File(path, "w") as group:
        save_weights_to_hdf5_group(group, model)


@pytest.mark.parametrize("file", ["stock.weights.h5", "fused.weights.h5", "applications.h5"])
def test_keras_weights_files(tmp_path, file):
    path = tmp_path / file

    def save(model):
        if file == "applications.h5":
            save_as_applications_do(model, path)
        else:
            (with_faster_layers(model) if file.startswith("fused") else model).save_weights(path)

    backbone = get("backbone", "resnet50")
    saved, loaded = small_network(), small_network()
    saved(normal(4, 8, 8, 3), training=True)
    save(saved)
    load_file(loaded, backbone, str(path))
    for one, other in zip(saved.get_weights(), loaded.get_weights(), strict=True):
        assert np.array_equal(one, other)
    for foreign in (smaller_network(), small_network(filters=5)):
        save(foreign)
        with pytest.raises(FirError, match=f"{path} into small"):
            load_file(small_network(), backbone, path)


def test_weights_that_cannot_be_loaded(tmp_path):
    with pytest.raises(FirError, match="no file .*nowhere.h5"):
        build_backbone("efficientnet_lite0", 32, "nowhere.h5")
    backbone, model = get("backbone", "efficientnet_lite0"), small_network()
    before = model.get_weights()
    for name in ("junk.h5", "junk.weights.h5", "junk.pth", "junk.safetensors"):
        path = tmp_path / name
        path.write_bytes(b"not weights at all")
        with pytest.raises(FirError, match=name):
            load_file(model, backbone, path)
    (tmp_path / "weights.txt").write_text("")
    with pytest.raises(FirError, match=r"\.safetensors or \.pth.*weights\.txt"):
        load_file(model, backbone, tmp_path / "weights.txt")
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_wrong_arguments():
    with pytest.raises(FirError, match="resnet50, resnet50_v15.*Received: 'vgg'"):
        build_backbone("vgg", 224)
    for size in (31, (64, 16), None, (64,), "big"):
        with pytest.raises(FirError, match="`image_size`"):
            build_backbone("resnet50", size, None)


@pytest.mark.slow
def test_random_weights_follow_the_seed():
    def build(seed):
        keras.utils.set_random_seed(seed)
        return build_backbone("efficientnet_lite0", 32, None).get_weights()

    one, again = build(1), build(1)
    other = shared_backbone("efficientnet_lite0").get_weights()
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert not np.array_equal(one[0], other[0])


def test_normalisation_is_that_of_the_sources():
    pixels = np.random.RandomState(0).uniform(0, 255, (2, 5, 7, 3)).astype("float32")
    for name, reference in (
        ("resnet50", keras.applications.resnet.preprocess_input),
        ("densenet121", keras.applications.densenet.preprocess_input),
        ("seresnet50", keras.applications.densenet.preprocess_input),
        ("resnet50_v15", keras.applications.densenet.preprocess_input),
    ):
        expected = reference(pixels.copy())
        assert np.allclose(normalisation(name)(pixels), expected, atol=1e-4)
    assert np.allclose(normalisation("efficientnet_lite0")(pixels), (pixels - 127) / 128, atol=1e-5)


def test_normalisation_is_float32_under_mixed_precision():
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        layer = normalisation("resnet50")
        assert layer(np.full((1, 2, 2, 3), 200, np.uint8)).dtype == tf.float32
    finally:
        keras.mixed_precision.set_global_policy("float32")
    copy = PixelNormalisation.from_config(layer.get_config())
    pixels = normal(1, 2, 2, 3)
    assert np.array_equal(copy(pixels), layer(pixels))


def per_group(images, kernel, groups, strides, padding):
    return tf.concat(
        [
            tf.nn.conv2d(i, k, strides, padding.upper())
            for i, k in zip(tf.split(images, groups, -1), tf.split(kernel, groups, -1), strict=True)
        ],
        -1,
    )


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize(("strides", "padding"), [(1, "valid"), (2, "valid"), (1, "same")])
def test_grouped_convolution(native, graph, strides, padding, monkeypatch):
    if native and not layers._grouped_gradient_is_native():
        pytest.skip("this machine has no gradient of grouped convolutions")
    monkeypatch.setattr(layers, "_grouped_gradient_is_native", lambda: native)
    layer = GroupedConv2D(12, 3, 4, strides=strides, padding=padding)
    images = tf.constant(normal(2, 7, 10, 8))
    layer.build(images.shape)
    kernel = tensor_of(layer.kernel)
    weights = normal(*layer.compute_output_shape(images.shape))

    def differentiate(function):
        with tf.GradientTape() as tape:
            tape.watch(images)
            outputs = function()
            loss = tf.reduce_sum(outputs * weights)
        return [outputs, *tape.gradient(loss, [images, kernel])]

    ours = tf.function(differentiate) if graph else differentiate
    expected = differentiate(lambda: per_group(images, kernel, 4, strides, padding))
    for actual, wanted in zip(ours(lambda: layer(images)), expected, strict=True):
        assert actual.shape == wanted.shape
        assert relative_error(actual, wanted) < 1e-5


def test_grouped_convolution_is_saved_without_xla(tmp_path):
    images = keras.Input((6, 6, 8))
    options = {"use_bias": True, "kernel_initializer": "he_normal"}
    model = keras.Model(images, GroupedConv2D(8, 3, 2, strides=2, **options)(images))
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    batch = normal(2, 6, 6, 8)
    assert np.array_equal(loaded(batch), model(batch))
    concrete = tf.function(lambda x: model(x)).get_concrete_function(tf.TensorSpec((None, 6, 6, 8)))
    graph = str(concrete.graph.as_graph_def())
    assert "_XlaMustCompile" not in graph and "Conv2D" in graph


def test_grouped_convolution_refuses_uneven_groups():
    with pytest.raises(FirError, match="10 and 4"):
        GroupedConv2D(10, 3, 4)
    with pytest.raises(FirError, match="groups` = 4"):
        GroupedConv2D(8, 3, 4).build((None, 5, 5, 6))


def pair_of_batch_norms(shape, seed=0, **options):
    """Stock and fused layer with the same values in their variables."""
    stock = keras.layers.BatchNormalization(**options)
    fused = FusedBatchNormalization(**options)
    random = np.random.RandomState(seed)
    stock.build(shape)
    fused.build(shape)
    for one, other in zip(stock.weights, fused.weights, strict=True):
        assert (one.name, one.shape) == (other.name, other.shape)
        value = random.uniform(0.5, 2, one.shape)
        one.assign(value)
        other.assign(value)
    return stock, fused


def step(layer, images, upstream, training, graph):
    def run(images):
        with tf.GradientTape() as tape:
            tape.watch(images)
            outputs = layer(images, training=training)
            loss = tf.reduce_sum(tf.cast(outputs, tf.float32) * upstream)
        variables = [tensor_of(v) for v in (layer.gamma, layer.beta) if v is not None]
        return [outputs, *tape.gradient(loss, [images, *variables])]

    return (tf.function(run) if graph else run)(images)


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(2, 3, 3, 5), (18, 5)])
@pytest.mark.parametrize(
    "options",
    [
        {"momentum": 0.9, "epsilon": 1e-5},
        {"scale": False, "momentum": 0.5},
        {"center": False},
        # What the fused operation cannot do is the parent's: the channels of maps come last there.
        {"axis": 1},
    ],
)
def test_batch_norm_equals_the_stock_layer(options, shape, training, graph):
    # 18 values a channel: n / (n - 1) is 1.06, far outside the tolerance.
    images = tf.constant(normal(*shape) * 3 + 2)
    stock, fused = pair_of_batch_norms(images.shape, **options)
    upstream = normal(*images.shape, seed=1)
    before = stock.moving_variance.numpy()
    for _ in range(2):
        expected = step(stock, images, upstream, training, graph)
        actual = step(fused, images, upstream, training, graph)
    for one, other in zip(actual, expected, strict=True):
        assert relative_error(one, other) < 2e-5
    expected = [variable.numpy() for variable in stock.weights]
    if training and options.get("axis") in (None, len(shape) - 1):
        # n / (n - 1) times the variance of each of the two batches, which Keras 2 has as well on
        # maps.
        updates = expected[-1] - before * stock.momentum**2
        expected[-1] += 0 if KERAS_2 and len(shape) == 4 else updates / (18 - 1)
    for one, other in zip(fused.weights, expected, strict=True):
        assert relative_error(one, other) < 1e-5


def test_batch_norm_uses_the_fused_operation():
    _, fused = pair_of_batch_norms((None, 4, 4, 3))
    for training in (True, False):
        call = tf.function(lambda x, training=training: fused(x, training=training))
        graph = call.get_concrete_function(tf.TensorSpec((None, 4, 4, 3))).graph
        assert "FusedBatchNormV3" in {op.type for op in graph.get_operations()}


def test_batch_norm_of_one_value_and_of_none():
    stock, fused = pair_of_batch_norms((None, 1, 1, 3))
    one = normal(1, 1, 1, 3)
    assert relative_error(fused(one, training=True), stock(one, training=True)) < 1e-5
    for left, right in zip(fused.weights, stock.weights, strict=True):
        assert relative_error(left, right) < 1e-5
    before = [v.numpy() for v in fused.weights]
    assert fused(np.zeros((0, 1, 1, 3), "float32"), training=True).shape == (0, 1, 1, 3)
    assert all(np.array_equal(a, b.numpy()) for a, b in zip(before, fused.weights, strict=True))


def test_batch_norm_with_a_mask():
    stock, fused = pair_of_batch_norms((2, 4, 4, 3))
    images, mask = normal(2, 4, 4, 3), np.random.RandomState(2).rand(2, 4, 4) > 0.5
    outputs = fused(images, training=True, mask=mask)
    assert relative_error(outputs, stock(images, training=True, mask=mask)) < 1e-5


@pytest.mark.bfloat16
def test_batch_norm_under_mixed_precision():
    images = normal(4, 6, 6, 5) + 1
    stock, fused = pair_of_batch_norms(images.shape, dtype="mixed_bfloat16", momentum=0.5)
    variance = stock.moving_variance.numpy()
    for training in (True, False):
        actual, expected = fused(images, training=training), stock(images, training=training)
        assert actual.dtype == tf.bfloat16
        assert relative_error(actual, expected) < 2e-2
    bessel = 1 if KERAS_2 else 144 / 143
    unbiased = 0.5 * variance + (stock.moving_variance - 0.5 * variance) * bessel
    for one, other in zip(fused.weights, [*stock.weights[:-1], unbiased], strict=True):
        assert one.dtype == "float32"
        # The stock layer too takes its statistics of images rounded to bfloat16, in float32.
        assert relative_error(one, other) < 1e-5


def test_frozen_statistics_leave_gamma_and_beta_trainable():
    images = tf.constant(normal(2, 3, 3, 4))
    stock, fused = pair_of_batch_norms(images.shape)
    fused.frozen_statistics = True
    upstream = normal(*images.shape, seed=1)
    before = [v.numpy() for v in fused.non_trainable_variables]
    for graph in (True, False):
        actual = step(fused, images, upstream, True, graph)
        for one, other in zip(actual, step(stock, images, upstream, False, False), strict=True):
            assert relative_error(one, other) < 1e-5
    after = [v.numpy() for v in fused.non_trainable_variables]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert len(fused.trainable_variables) == 2


def test_an_untrainable_batch_norm_is_in_inference_mode():
    images = normal(2, 3, 3, 4)
    stock, fused = pair_of_batch_norms(images.shape)
    fused.trainable = False
    assert relative_error(fused(images, training=True), stock(images, training=False)) < 1e-5
    assert not fused.trainable_variables


def test_swapping_keeps_names_values_and_survives_saving(tmp_path):
    stock = small_network()
    images = normal(4, 8, 8, 3)
    stock(images, training=True)
    fused = with_faster_layers(stock)
    assert [layer.name for layer in fused.layers] == [layer.name for layer in stock.layers]
    assert (fused.get_layer("norm").momentum, fused.get_layer("norm").epsilon) == (0.7, 1e-4)
    expected = stock(images, training=False)
    assert relative_error(fused(images, training=False), expected) < 1e-5
    assert set_batch_norm(keras.Sequential([fused]), "frozen") == 2
    fused.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert isinstance(loaded.get_layer("again"), FusedBatchNormalization)
    assert loaded.get_layer("again").frozen_statistics
    assert relative_error(loaded(images, training=True), expected) < 1e-5
    # The original was copied, not altered.
    assert type(stock.get_layer("norm")) is keras.layers.BatchNormalization


def test_the_copy_can_have_another_momentum():
    stock = small_network()
    assert with_faster_layers(stock, 0.8).get_layer("norm").momentum == 0.8
    assert with_faster_layers(stock).get_layer("norm").momentum == 0.7


@pytest.mark.bfloat16
@pytest.mark.parametrize(
    ("policy", "device", "expected"),
    [
        ("mixed_bfloat16", "CPU", "float32"),
        ("mixed_bfloat16", "GPU", "bfloat16"),
        ("mixed_bfloat16", "TPU", "bfloat16"),
        ("mixed_float16", "CPU", "float16"),
        ("float32", "CPU", "float32"),
    ],
)
def test_depthwise_convolutions_are_float32_in_bfloat16_on_cpus(
    policy, device, expected, monkeypatch
):
    monkeypatch.setattr(
        tf.config, "list_logical_devices", lambda kind=None: [kind] * (kind == device)
    )
    keras.mixed_precision.set_global_policy(policy)
    try:
        images = keras.Input((8, 8, 3))
        maps = keras.layers.DepthwiseConv2D(3, name="depthwise")(images)
        model = keras.Model(images, keras.layers.Conv2D(4, 1, name="pointwise")(maps))
    finally:
        keras.mixed_precision.set_global_policy("float32")
    faster = with_faster_layers(model)
    assert faster.get_layer("depthwise").compute_dtype == expected
    assert faster.get_layer("pointwise").compute_dtype == policy.removeprefix("mixed_")
    images = normal(2, 8, 8, 3)
    assert relative_error(faster(images, training=False), model(images, training=False)) < 0.02


def test_a_batch_norm_that_cannot_be_set():
    with pytest.raises(FirError, match="layer norm"):
        set_batch_norm(small_network(), "frozen")
    with pytest.raises(FirError, match="frozen, batch, synchronized. Received: 'live'"):
        set_batch_norm(with_faster_layers(small_network()), "live")


def test_a_frozen_stage_keeps_its_statistics():
    model = build_backbone("efficientnet_lite0", 32, None)
    freeze_stages(model, get("backbone", model.name), "stage2")
    norms = [layer for layer in model.layers if isinstance(layer, FusedBatchNormalization)]
    before = [layer.moving_mean.numpy() for layer in norms]
    model(normal(4, 32, 32, 3), training=True)
    changed = {
        get("backbone", model.name).stage_of(layer.name)
        for layer, mean in zip(norms, before, strict=True)
        if not np.array_equal(layer.moving_mean, mean)
    }
    assert changed == {3, 4}


def test_stages_that_do_not_exist():
    assert [stage_count(value) for value in (0, 5, "stem", "stage4")] == [0, 5, 1, 5]
    for value in (-1, 6, "stage5", "", None, 1.0, True):
        with pytest.raises(FirError, match="0 to 5 or one of stem, stage1"):
            stage_count(value)


IMPORTS = """
import fir_tf.models.backbones
assert "keras_cv" not in sys.modules
"""

TWO_REPLICAS = """
from fir_tf.keras_versions import tensor_of
from fir_tf.models.batch_norm import FusedBatchNormalization
random = np.random.RandomState(0)
images, upstream = random.randn(2, 8, 2, 2, 3).astype("float32")
images[:5] += 30.0
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])

def build(synchronized):
    layer = FusedBatchNormalization(momentum=0.0, synchronized=synchronized)
    layer.build((None, *images.shape[1:]))
    layer.gamma.assign([1.0, 2.0, 3.0])
    return layer

def step(layer, images, upstream):
    with tf.GradientTape() as tape:
        tape.watch(images)
        outputs = layer(images, training=True)
        loss = tf.reduce_sum(outputs * upstream)
    variables = [tensor_of(layer.gamma), tensor_of(layer.beta)]
    return [outputs, *tape.gradient(loss, [images, *variables])]

def over_replicas(layer, cut):
    def share(values):
        parts = (values[:cut], values[cut:])
        return strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(parts[context.replica_id_in_sync_group]))
    results = strategy.run(tf.function(step), (layer, share(images), share(upstream)))
    outputs, gradient, gamma, beta = map(strategy.experimental_local_results, results)
    return np.concatenate(outputs), np.concatenate(gradient), sum(gamma), sum(beta)
"""

AVERAGED = """
with strategy.scope():
    layer = build(synchronized=False)
over_replicas(layer, 4)
mean = (images[:4].mean((0, 1, 2)) + images[4:].mean((0, 1, 2))) / 2
variance = (images[:4].var((0, 1, 2), ddof=1) + images[4:].var((0, 1, 2), ddof=1)) / 2
np.testing.assert_allclose(layer.moving_mean.numpy(), mean, rtol=1e-5)
np.testing.assert_allclose(layer.moving_variance.numpy(), variance, rtol=1e-5)
"""

OF_FEATURES = """
images, upstream = images[:, 0, 0], upstream[:, 0, 0]
"""

SYNCHRONIZED = """
axes = tuple(range(images.ndim - 1))
whole = build(synchronized=False)
expected = step(whole, tf.constant(images), upstream)
# Shares of unequal size, and one with nothing in it.
for cut in (4, 3, 8):
    with strategy.scope():
        layer = build(synchronized=True)
    for actual, wanted in zip(over_replicas(layer, cut), expected, strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=2e-4, atol=2e-5)
    mean, variance = images.mean(axes), images.var(axes, ddof=1)
    np.testing.assert_allclose(layer.moving_mean.numpy(), mean, rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance.numpy(), variance, rtol=1e-5)
# Without replicas there is one share.
alone = build(synchronized=True)
for actual, wanted in zip(step(alone, tf.constant(images), upstream), expected, strict=True):
    np.testing.assert_allclose(actual, wanted, rtol=2e-4, atol=2e-5)
"""


WITHOUT_ONEDNN = """
from fir_tf.models.layers import GroupedConv2D
layer = GroupedConv2D(8, 3, 4, padding="same")
images = tf.ones((2, 5, 5, 8))
with tf.GradientTape() as tape:
    tape.watch(images)
    loss = tf.reduce_sum(layer(images))
gradient = tape.gradient(loss, images)
middle = tf.reduce_sum(tf.reshape(layer.kernel, (9, 2, 4, 2)), (0, 3))
tf.debugging.assert_near(gradient[0, 2, 2], tf.reshape(tf.transpose(middle), [-1]), 1e-5, 1e-5)
"""


PARTS = {
    "keras-cv is not imported with the backbones": IMPORTS,
    "the statistics of two replicas are averaged": TWO_REPLICAS + AVERAGED,
    "synchronized replicas equal one with the whole batch": TWO_REPLICAS + SYNCHRONIZED,
    "and so with features": TWO_REPLICAS + OF_FEATURES + SYNCHRONIZED,
    "a grouped convolution trains where TensorFlow has no gradient for it": WITHOUT_ONEDNN,
}

RUN_PARTS = """
import json, sys, traceback
import numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
errors = {}
for name, code in json.load(sys.stdin).items():
    try:
        exec(code, {"np": np, "tf": tf, "sys": sys})
        errors[name] = ""
    except Exception:
        errors[name] = traceback.format_exc()
print(json.dumps(errors))
"""


@pytest.fixture(scope="module")
def errors():
    """What each of `PARTS` ended with, in one process of its own: two devices, no oneDNN."""
    done = subprocess.run(
        [sys.executable, "-c", RUN_PARTS],
        input=json.dumps(PARTS),
        capture_output=True,
        text=True,
        env={**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_in_a_process_of_its_own(part, errors):
    assert errors[part] == ""
