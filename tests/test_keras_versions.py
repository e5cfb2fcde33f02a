"""Keras 2 and Keras 3: what one writes is refused by the other, or served by both."""

import json
import os
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_sets import write_jpeg

from fir_tf.config import Config
from fir_tf.errors import FirError
from fir_tf.keras_versions import (
    KERAS_2,
    clone_model,
    name_of,
    path_of,
    random_states,
    stack,
    tensor_of,
)
from fir_tf.models.saving import load_model
from fir_tf.run import open_run, versions

# An interpreter with the other Keras, see `make test-addons`.
OTHER = os.environ.get("FIR_TF_OTHER_PYTHON", "")
OTHER_VERSION = "3.15.1" if KERAS_2 else "2.15.0"


def small_model():
    images = keras.Input((4, 4, 3), name="images")
    maps = keras.layers.DepthwiseConv2D(3, name="depthwise")(images)
    maps = keras.layers.BatchNormalization(name="norm")(maps)
    return keras.Model(images, keras.layers.Dense(2, name="dense")(maps))


def rewritten(path, target, version):
    """Copies a `.keras` file and lets it say that another Keras wrote it."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as copy:
        for name in source.namelist():
            content = source.read(name)
            if name == "metadata.json":
                content = json.dumps({**json.loads(content), "keras_version": version}).encode()
            copy.writestr(name, content)
    return target


def test_a_file_of_the_other_keras_is_refused(tmp_path):
    small_model().save(tmp_path / "own.keras")
    foreign = rewritten(tmp_path / "own.keras", tmp_path / "foreign.keras", OTHER_VERSION)
    with pytest.raises(FirError) as error:
        load_model(foreign)
    for part in (str(foreign), f"Keras {OTHER_VERSION}", stack(), "pip install", "SavedModel"):
        assert part in str(error.value)
    near = "2.14.0" if KERAS_2 else "3.6.0"
    copy = load_model(rewritten(tmp_path / "own.keras", tmp_path / "near.keras", near))
    images = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype(np.float32)
    own = load_model(tmp_path / "own.keras")
    np.testing.assert_array_equal(copy(images), own(images))


def test_a_run_of_the_other_keras_is_refused(tmp_path):
    run = open_run(Config(run=str(tmp_path / "run")))
    file = run / "versions.json"
    file.write_text(json.dumps({**versions(), "keras": OTHER_VERSION}), encoding="utf-8")
    before = file.read_bytes()
    with pytest.raises(FirError, match=f"the run .*run was written with Keras {OTHER_VERSION}"):
        open_run(Config(run=str(run)))
    assert file.read_bytes() == before
    for text in (json.dumps({**versions(), "keras": "2.9" if KERAS_2 else "3.9"}), "", "[]", "{}"):
        file.write_text(text, encoding="utf-8")
        assert open_run(Config(run=str(run))) == run
        assert json.loads(file.read_text(encoding="utf-8")) == versions()


def test_variables_have_one_name():
    model = small_model()
    names = {layer.name: [name_of(v) for v in layer.weights] for layer in model.layers[1:]}
    assert names == {
        "depthwise": ["kernel", "bias"],
        "norm": ["gamma", "beta", "moving_mean", "moving_variance"],
        "dense": ["kernel", "bias"],
    }
    assert len({path_of(variable) for variable in model.weights}) == len(model.weights)
    for variable in model.weights:
        tensor = tensor_of(variable)
        tensor.assign(tensor + 1.0)
        np.testing.assert_array_equal(tensor.numpy(), np.asarray(variable))


def test_a_clone_can_leave_a_layer_out():
    model = small_model()

    def clone(layer):
        if layer.name == "norm":
            return keras.layers.Identity(name="norm")
        return type(layer).from_config(layer.get_config())

    def call(layer, inputs, *args, **kwargs):
        return inputs if layer.name == "norm" else layer(inputs, *args, **kwargs)

    copy = clone_model(model, clone, call)
    assert [len(layer.weights) for layer in copy.layers if layer.weights] == [2, 2]
    for name in ("depthwise", "dense"):
        copy.get_layer(name).set_weights(model.get_layer(name).get_weights())
    images = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype(np.float32)
    # A fresh batch norm divides by the root of 1 + epsilon and does nothing else.
    expected = np.asarray(model.get_layer("depthwise")(images)) @ np.asarray(
        model.get_layer("dense").kernel
    )
    np.testing.assert_allclose(copy(images), expected, atol=1e-5)


def test_dropout_goes_on_from_a_checkpoint(tmp_path):
    images = keras.Input((64,))
    inner = keras.Model(images, keras.layers.Dropout(0.5)(images))
    model = keras.Model(images, keras.layers.Dropout(0.5)(inner(images)))
    states = random_states(model)
    assert len(states) == 2
    checkpoint = tf.train.Checkpoint(seeds=states)

    @tf.function
    def draw():
        return model(tf.ones((8, 64)), training=True)

    first = draw().numpy()
    path = checkpoint.save(str(tmp_path / "state"))
    second = draw().numpy()
    checkpoint.restore(path).assert_consumed()
    np.testing.assert_array_equal(draw(), second)
    assert not np.array_equal(first, second)
    assert set(np.unique(second)) == {0.0, 4.0}


# Writes a model, a run's folder and a SavedModel, and what they say of a photo.
WRITE = """
import sys
from pathlib import Path
import keras, numpy as np, tensorflow as tf
from fir_tf.config import Config, ModelSettings
from fir_tf.models.fir import build_fir
from fir_tf.serving.fold import inference_model
from fir_tf.serving.servable import Servable
from fir_tf.run import open_run
folder, photo = map(Path, sys.argv[1:])
keras.utils.set_random_seed(0)
config = Config(image_size=48, run=str(folder / "run"))
model = build_fir(ModelSettings(backbone="efficientnet_lite0", relaxation_width=4), 48, 3)
model.save(open_run(config) / "model.keras")
(folder / "run" / "labels.json").write_text('{"categories": ["a", "b", "c"]}')
servable = Servable(inference_model(model), 48, config.resize, ["a", "b", "c"], 2)
tf.saved_model.save(servable, str(folder / "served"), signatures=servable.signatures())
np.save(folder / "embedding.npy", servable.embed(tf.constant([photo.read_bytes()]))["embedding"])
"""
# Serves that SavedModel, and is refused the rest.
READ = """
import sys
from pathlib import Path
import keras, numpy as np, tensorflow as tf
from fir_tf.config import Config
from fir_tf.errors import FirError
from fir_tf.run import load_run
from fir_tf.run import open_run
folder, photo = map(Path, sys.argv[1:])
served = tf.saved_model.load(str(folder / "served")).signatures["embed"]
found = served(image_bytes=tf.constant([photo.read_bytes(), b"no image"]))
assert found["valid"].numpy().tolist() == [True, False]
np.testing.assert_allclose(found["embedding"][:1], np.load(folder / "embedding.npy"), atol=1e-4)
for attempt in (load_run, lambda run: open_run(Config(image_size=48, run=str(run)))):
    try:
        attempt(folder / "run")
        raise SystemExit("not refused")
    except FirError as error:
        assert "was written with Keras" in str(error) and keras.__version__ in str(error)
"""


@pytest.mark.skipif(not OTHER, reason="FIR_TF_OTHER_PYTHON names no second environment")
@pytest.mark.parametrize("written_here", [True, False])
def test_a_saved_model_serves_in_the_other_environment(tmp_path, written_here):
    photo = tmp_path / "photo.jpg"
    write_jpeg(photo, seed=1, size=(96, 128))
    first, second = (sys.executable, OTHER) if written_here else (OTHER, sys.executable)
    for python, code in ((first, WRITE), (second, READ)):
        done = subprocess.run(
            [python, "-c", code, str(tmp_path), str(photo)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-3000:]
