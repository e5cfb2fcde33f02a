"""Where a score comes from: its parts by a plain loop, and by finite differences."""

import keras
import numpy as np
import pytest
from PIL import Image
from shallow import build_two_layers

from fir_tf.config import ModelSettings
from fir_tf.errors import FirError
from fir_tf.explain import Explainer, Heat, draw_heat, window
from fir_tf.models import fir

SIZE = 32
EXACT = [
    ("average", "linear", 0),
    ("average", "linear", 6),
    ("average", "linear_bn", 6),
    ("average", "bnneck", 0),
    ("average", "bnneck_before", 6),
]
# With these a place has no share of its own.
OTHERS = [("max_average", "linear", 6), ("gem", "linear", 0), ("gem_channels", "linear_bn", 6)]


def model_of(monkeypatch, pooling, neck, width):
    """A model of a 4 x 4 map of 8 channels, whose batch norms shift and scale."""
    monkeypatch.setattr(fir, "build_backbone", build_two_layers)
    keras.utils.set_random_seed(5)
    settings = ModelSettings(
        backbone="resnet50_v15",
        weights="none",
        pooling=pooling,
        neck=neck,
        embedding_size=width,
        relaxation_width=4,
    )
    model = fir.build_fir(settings, SIZE, 3)
    rng = np.random.default_rng(1)
    for layer in model.layers:
        if layer.name == "neck":
            layer.set_weights([rng.uniform(0.5, 2, value.shape) for value in layer.get_weights()])
    return model


def pixels(seed):
    return np.random.default_rng(seed).uniform(0, 255, (SIZE, SIZE, 3)).astype(np.float32)


def maps_and_embeddings(model):
    both = np.stack([pixels(1), pixels(2)])
    maps = keras.Model(model.input, model.get_layer("relaxation").input)(both, training=False)
    return np.asarray(maps, np.float64), np.asarray(model(both, training=False)["embedding"])


def head_of(model, maps):
    """What the layers behind the pooled features make of vectors, before the unit length."""
    values = maps.astype(np.float32)
    for name in ("projection", "neck"):
        searched_before = name == "neck" and any(
            layer.name == "behind_batch_norm" for layer in model.layers
        )
        if name in {layer.name for layer in model.layers} and not searched_before:
            values = np.asarray(model.get_layer(name)(values, training=False))
    return values.astype(np.float64)


@pytest.mark.parametrize(("pooling", "neck", "width"), EXACT)
def test_the_parts_are_those_of_a_plain_loop_and_sum_to_the_score(
    monkeypatch, pooling, neck, width
):
    model = model_of(monkeypatch, pooling, neck, width)
    found = Explainer(model)(pixels(1), pixels(2))
    maps, embeddings = maps_and_embeddings(model)
    score = float(embeddings[0] @ embeddings[1])
    assert found.exact and found.score == pytest.approx(score, abs=1e-6)
    for side, other, parts in ((0, 1, found.query), (1, 0, found.match)):
        assert abs(parts.sum(dtype=np.float64) - score) < 1e-5
        length = np.linalg.norm(head_of(model, maps[side].mean((0, 1))[None])[0])
        expected = np.zeros((4, 4))
        for row in range(4):
            for column in range(4):
                vector = head_of(model, maps[side][row, column][None])[0]
                expected[row, column] = vector @ embeddings[other] / (16 * length)
        np.testing.assert_allclose(parts, expected, atol=2e-6)
        assert parts.std() > 1e-4


@pytest.mark.parametrize(("pooling", "neck", "width"), OTHERS)
def test_without_an_exact_split_it_is_the_gradient_that_is_told(monkeypatch, pooling, neck, width):
    model = model_of(monkeypatch, pooling, neck, width)
    explainer = Explainer(model)
    found = explainer(pixels(1), pixels(2))
    assert not found.exact
    maps, embeddings = maps_and_embeddings(model)
    head = keras.Model(model.get_layer("relaxation").input, model.get_layer("embedding").input)

    def unscaled(values):
        return np.asarray(head(values[None].astype(np.float32), training=False), np.float64)[0]

    length, step = np.linalg.norm(unscaled(maps[0])), 1e-2
    for row, column in ((0, 0), (2, 3)):
        more, less = maps[0].copy(), maps[0].copy()
        more[row, column] *= 1 + step
        less[row, column] *= 1 - step
        slope = (unscaled(more) - unscaled(less)) @ embeddings[1] / (2 * step * length)
        assert found.query[row, column] == pytest.approx(slope, abs=2e-3)
    if pooling == "max_average":
        # In proportion with the map, so that Euler's theorem holds.
        assert found.query.sum() == pytest.approx(found.score, abs=1e-5)


def test_a_head_that_is_additive_but_not_linear_is_not_exact(monkeypatch):
    """The mean of what a ReLU leaves of each cell."""
    model = model_of(monkeypatch, "average", "linear", 0)
    assert Explainer(model).exact
    maps = model.get_layer("relaxation").input
    cells = keras.layers.Conv2D(5, 1, activation="relu", bias_initializer="ones")(maps)
    features = keras.layers.GlobalAveragePooling2D()(cells)
    outputs = {
        "category": model.output["category"],
        "embedding": keras.layers.UnitNormalization(name="embedding")(features),
    }
    assert not Explainer(keras.Model(model.input, outputs)).exact


def test_another_model_is_refused():
    images = keras.Input((8, 8, 3))
    with pytest.raises(FirError, match="`model` must be one that fir_tf.build_fir made"):
        Explainer(keras.Model(images, keras.layers.GlobalMaxPooling2D()(images)))


@pytest.mark.parametrize(
    ("resize", "expected"),
    [
        ("squash", (0, 0, 1, 1)),
        ("pad", (-0.5, 0, 1.5, 1)),
        ("crop", (1 / 16, 0.5 - 7 / 32, 15 / 16, 0.5 + 7 / 32)),
    ],
)
def test_the_window_is_what_the_network_sees(resize, expected):
    np.testing.assert_allclose(window(100, 200, resize), expected, atol=1e-9)


def test_heat_lies_where_the_network_saw_it():
    photo = Image.new("RGB", (64, 128), (120, 120, 120))
    values = np.zeros((4, 4), np.float32)
    values[0, 0], values[3, 3] = 1.0, -0.5
    drawn = np.asarray(draw_heat(photo, Heat(values, "crop")), int)
    assert drawn.shape == (128, 64, 3)
    red = drawn[..., 0] - drawn[..., 2]
    # The centre square of 56 pixels begins at row 36 and column 4.
    row, column = np.unravel_index(red.argmax(), red.shape)
    assert 34 <= row < 52 and 2 <= column < 20
    row, column = np.unravel_index(red.argmin(), red.shape)
    assert 76 <= row < 94 and 44 <= column < 62
    assert (drawn[:30] == drawn[0, 0]).all() and drawn[0, 0].max() < 60
