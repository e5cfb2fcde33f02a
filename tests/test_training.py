"""The training loop: schedule, exact resume, what stops a run."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import inshop_rows, write_inshop

from fir_tf.config import Config
from fir_tf.errors import FirError
from fir_tf.losses.objective import Objective
from fir_tf.models.fir import build_fir, training_model
from fir_tf.retrieval.evaluate import load_model
from fir_tf.training import loop
from fir_tf.training.checks import Health
from fir_tf.training.log import RunLog, read_history


def small_config(inshop, run, **values):
    return Config(
        **{
            "data_dir": str(inshop),
            "run": str(run),
            "backbone": "efficientnet_lite0",
            "image_size": 32,
            "batch_size": 8,
            "images_per_item": 2,
            "epochs": 2,
            "relaxation_width": 8,
            "val_fraction": 0.3,
            **values,
        }
    )


def test_schedule_is_the_papers():
    """Of 200 epochs: times 0.1 after 100 and after 150."""
    steps_per_epoch = 7
    schedule = loop.make_schedule(Config(), steps_per_epoch)
    for epoch, expected in [(0, 1e-4), (99, 1e-4), (100, 1e-5), (149, 1e-5), (150, 1e-6)]:
        first, last = epoch * steps_per_epoch, (epoch + 1) * steps_per_epoch - 1
        assert float(schedule(first)) == pytest.approx(expected)
        assert float(schedule(last)) == pytest.approx(expected)
    constant = loop.make_schedule(Config(decay_epochs=""), 1)
    assert float(constant(0)) == float(constant(99)) == pytest.approx(1e-4)


def test_step_equals_adam_by_hand():
    """One step on a tiny network: loss, gradient and Adam's update worked out with numpy."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((2, 2, 3))
    flat = keras.layers.Flatten()(inputs)
    logits = keras.layers.Dense(3, use_bias=False, name="logits")(flat)
    embedding = keras.layers.UnitNormalization()(flat)
    network = keras.Model(inputs, {"logits": logits, "embedding": embedding})
    optimizer = keras.optimizers.Adam(0.01)
    variables = network.trainable_variables
    optimizer.build(variables)
    step = loop.make_train_step(
        network, optimizer, Objective("OC", 0.5, 0.0, 0.3, "all"), variables, np.ones(4, bool)
    )
    rng = np.random.default_rng(0)
    images = rng.normal(size=(4, 2, 2, 3)).astype(np.float32)
    category = np.array([0, 2, 1, 1])
    kernel = variables[0].numpy().astype(np.float64)
    scalars, bad = step(
        {
            "images": images,
            "category": tf.constant(category, tf.int32),
            "item": tf.fill([4], -1),
            "row": tf.range(4),
            "valid": tf.constant([True, False, True, True]),
        }
    )
    x = images.reshape(4, 12).astype(np.float64)
    scores = np.exp(x @ kernel)
    softmax = scores / scores.sum(1, keepdims=True)
    loss = 0.5 * -np.log(softmax[np.arange(4), category]).mean()
    gradient = 0.5 * x.T @ (softmax - np.eye(3)[category]) / 4
    # Adam's first step, with epsilon beside the uncorrected root of v as Keras has it (the
    # "epsilon hat" of Kingma and Ba 2015, section 2).
    m, v = 0.1 * gradient, 0.001 * gradient**2
    expected = kernel - 0.01 * (np.sqrt(0.001) / 0.1) * m / (np.sqrt(v) + 1e-7)
    assert float(scalars["loss"]) == pytest.approx(loss, rel=1e-5)
    np.testing.assert_allclose(variables[0].numpy(), expected, atol=3e-6)
    assert bad.numpy().tolist() == [-1, 1, -1, -1]


def test_training_model_shares_the_network():
    model = build_fir("efficientnet_lite0", 32, 5, weights="none", relaxation_width=4)
    images = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)
    outputs, inner = model(images), training_model(model)(images)
    np.testing.assert_allclose(tf.nn.softmax(inner["logits"]), outputs["category"], rtol=1e-5)
    np.testing.assert_array_equal(inner["embedding"], outputs["embedding"])
    np.testing.assert_allclose(np.linalg.norm(outputs["embedding"], axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(np.sum(outputs["category"], axis=1), 1.0, rtol=1e-5)


def test_projection_and_head_shapes():
    model = build_fir(
        "efficientnet_lite0", 40, 5, weights="none", relaxation_width=4, embedding_size=16
    )
    assert {name: output.shape for name, output in model.output.items()} == {
        "category": (None, 5),
        "embedding": (None, 16),
    }
    assert model.get_layer("projection").kernel.shape == (1280, 16)
    # 1x1 convolutions with biases: 1280 -> 4 -> 5 (PAPER: relaxation module).
    head = (
        model.get_layer("relaxation").count_params()
        + model.get_layer("category_map").count_params()
    )
    assert head == 1280 * 4 + 4 + 4 * 5 + 5


@pytest.mark.slow
def test_an_interrupted_run_equals_an_uninterrupted_one(inshop, tmp_path, monkeypatch):
    """Stopped after 5 of 10 steps and resumed: the same weights to the last bit."""
    whole = small_config(inshop, tmp_path / "whole")
    loop.train(whole)
    parts = dataclasses.replace(whole, run=str(tmp_path / "parts"))
    make = loop.make_train_step

    def stopping(*args):
        step, calls = make(*args), []

        def run(batch):
            calls.append(batch)
            if len(calls) == 3:
                import os
                import signal

                os.kill(os.getpid(), signal.SIGTERM)
            return step(batch)

        return run

    monkeypatch.setattr(loop, "make_train_step", stopping)
    with pytest.raises(FirError, match="stopped at step 3 of .* resumes"):
        loop.train(parts)
    monkeypatch.setattr(loop, "make_train_step", make)
    loop.train(parts)

    def weights(run):
        reader = tf.train.load_checkpoint(str(run / "checkpoints"))
        return {
            name: reader.get_tensor(name)
            for name in reader.get_variable_to_shape_map()
            if not name.startswith(("_CHECKPOINTABLE", "save_counter"))
        }

    first, second = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert first.keys() == second.keys() and len(first) > 100
    for name, value in first.items():
        assert np.array_equal(value, second[name]), name


@pytest.mark.slow
def test_a_run_writes_its_folder_and_learns(inshop, tmp_path, capsys):
    config = small_config(inshop, tmp_path / "run", epochs=10, relaxation_width=64, dropout=0.0)
    run = loop.train(config)
    for name in (
        "config.json",
        "versions.json",
        "labels.json",
        "log.csv",
        "model.keras",
        "training.png",
        "checkpoints/checkpoint",
    ):
        assert (run / name).is_file(), name
    assert list((run / "logs").iterdir())
    history = read_history(run)
    for name in (
        "loss",
        "OC",
        "IS",
        "active",
        "positive_distance",
        "negative_distance",
        "learning_rate",
        "images_per_second",
        "val/mAP@R",
        "val/recall@1",
    ):
        assert history[name], name
    assert history["OC"][-1][1] < 0.7 * history["OC"][0][1]
    model, loaded, categories = load_model(run)
    assert loaded == config and categories == ["MEN/Denim", "WOMEN/Dresses"]
    loop.train(config)
    assert "finished already" in capsys.readouterr().out


@pytest.mark.slow
def test_unreadable_images_are_skipped_counted_and_reported(tmp_path, capsys):
    root = write_inshop(tmp_path / "data", inshop_rows(train_items=30, test_items=2))
    broken = root / "Img/img/WOMEN/Dresses/id_00000002/01_1_front.jpg"
    broken.write_bytes(broken.read_bytes()[:100])
    config = small_config(root, tmp_path / "run", epochs=1, val_fraction=0.0, images_per_item=4)
    loop.train(config)
    out = capsys.readouterr().out
    assert "skipped 1 images that cannot be decoded" in out and str(broken) in out
    for path in sorted((root / "Img/img/WOMEN/Dresses").rglob("*.jpg"))[:8]:
        path.write_bytes(b"")
    with pytest.raises(FirError, match="images cannot be decoded, more than the 1 %"):
        loop.train(dataclasses.replace(config, run=str(tmp_path / "other")))


def test_nan_stops_with_advice():
    health = Health(Config())
    health.check(10, {"loss": 1.0, "IS": 0.2})
    with pytest.raises(FirError, match="at step 20: IS is nan. Try a lower --learning_rate"):
        health.check(20, {"loss": 1.0, "IS": float("nan")})


def test_collapse_stops_with_advice_but_a_bad_start_does_not():
    health = Health(Config())
    collapsed = {"loss": 0.3, "negative_distance": 1e-6, "active": 1.0}
    for step in range(4):
        health.check(step, collapsed)
    health.check(4, {**collapsed, "negative_distance": 0.4})
    for step in range(5, 9):
        health.check(step, collapsed)
    with pytest.raises(FirError, match="embeddings have collapsed.*--triplets=all or semihard"):
        health.check(9, collapsed)


def test_log_drops_what_an_interrupted_run_wrote_after_its_checkpoint(tmp_path):
    log = RunLog(tmp_path)
    for step in (10, 20, 30):
        log.scalars(step, {"loss": step / 10})
    log.close()
    with open(tmp_path / "log.csv", "a") as file:
        file.write("40,lo")
    log = RunLog(tmp_path, start_step=20)
    log.scalars(30, {"loss": 9.0})
    log.close()
    assert read_history(tmp_path) == {"loss": [(10, 1.0), (20, 2.0), (30, 9.0)]}


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ("IS", "the loss IS needs item labels"),
        ("OC+IS", "the loss IS needs item labels"),
    ],
)
def test_losses_without_labels_are_refused(inshop, tmp_path, losses, message):
    from fir_tf.datasets import load
    from fir_tf.input.plans import make_plan

    catalogue = load("inshop", inshop)
    unlabelled = dataclasses.replace(catalogue, item=np.full(48, -1, np.int32))
    with pytest.raises(FirError, match=message):
        make_plan(unlabelled, small_config(inshop, tmp_path, losses=losses))
    unlabelled = dataclasses.replace(catalogue, category=np.full(48, -1, np.int32))
    for kind in ("OC", "OS"):
        with pytest.raises(FirError, match=f"the loss {kind} needs category labels"):
            make_plan(unlabelled, small_config(inshop, tmp_path, losses=kind))
