"""The training loop: schedule, exact resume, what stops a run."""

import contextlib
import dataclasses
import functools
import itertools
import json
import re
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from objectives import make_objective
from reading import cheap_view, preprocess
from shallow import TWO_LAYERS, TWO_STAGES, build_two_layers, shallow_backbones
from small_sets import inshop_rows, write_inshop

from fir_tf import registry
from fir_tf.config import Config, LoopSettings, ModelSettings
from fir_tf.datasets import load, load_training
from fir_tf.errors import FirError, StoppedError
from fir_tf.evaluation.embedder import Embedder
from fir_tf.evaluation.evaluate import evaluate
from fir_tf.evaluation.measure import Procedure, measure
from fir_tf.hygiene.findings import quick_check
from fir_tf.input import batches
from fir_tf.input.batches import training_batches
from fir_tf.keras_versions import make_variable, tensor_of
from fir_tf.losses.grammar import LossSettings, Term
from fir_tf.losses.loss import ANY, Loss
from fir_tf.losses.objective import Objective, make_losses
from fir_tf.models import fir
from fir_tf.models.fir import build_fir, for_any_size, training_model
from fir_tf.models.saving import load_model
from fir_tf.options import EvaluateOptions, ExportOptions
from fir_tf.run import load_run, read_history
from fir_tf.samplers.choose import make_sampler
from fir_tf.serving.export import export
from fir_tf.training import from_config, loop
from fir_tf.training.checkpoints import Checkpoints
from fir_tf.training.checks import Health
from fir_tf.training.log import RunLog
from fir_tf.training.loop import stages, train
from fir_tf.training.optimizer import make_optimizer
from fir_tf.training.schedules import make_schedule
from fir_tf.training.step import TrainStep, _compiles, make_averages
from fir_tf.training.trainer import build_trainer, distributed_batches


def small_model(**values):
    return ModelSettings(
        backbone="efficientnet_lite0", weights="none", relaxation_width=4, **values
    )


def small_config(inshop, run, **values):
    return Config(
        **{
            "data_dir": str(inshop),
            "run": str(run),
            "backbone": "efficientnet_lite0",
            "weights": "none",
            "batch_norm": "frozen",
            "image_size": 32,
            "batch_size": 8,
            "images_per_item": 2,
            "epochs": 2,
            "relaxation_width": 8,
            "val_fraction": 0.3,
            **values,
        }
    )


@pytest.fixture
def tiny():
    """For the length of a test the network is of the smallest; returns the options it takes."""
    with shallow_backbones(TWO_STAGES):
        yield {"backbone": "resnet50_v15"}


def test_schedule_is_the_papers():
    """Of 200 epochs: times 0.1 after 100 and after 150."""
    steps_per_epoch = 7
    schedule = make_schedule(Config(), steps_per_epoch)
    for epoch, expected in [(0, 1e-4), (99, 1e-4), (100, 1e-5), (149, 1e-5), (150, 1e-6)]:
        first, last = epoch * steps_per_epoch, (epoch + 1) * steps_per_epoch - 1
        assert float(schedule(first)) == pytest.approx(expected)
        assert float(schedule(last)) == pytest.approx(expected)
    constant = make_schedule(Config(decay_epochs=""), 1)
    assert float(constant(0)) == float(constant(199)) == pytest.approx(1e-4)
    constant = make_schedule(Config(schedule="constant"), 1)
    assert float(constant(0)) == float(constant(199)) == pytest.approx(1e-4)


def test_cosine_with_warm_up():
    """Rising over 10 of 100 updates, then half a cosine: half the rate at the middle, 0 last."""
    config = Config(schedule="cosine", epochs=10, warmup_epochs=1.0, learning_rate=0.5)
    schedule = make_schedule(config, 10)
    rates = np.array([float(schedule(step)) for step in range(101)])
    expected = 0.25 * (1 + np.cos(np.pi * (np.arange(10, 101) - 10) / 90))
    np.testing.assert_allclose(rates[10:], expected, atol=1e-6)
    np.testing.assert_allclose(rates[:10], 0.5 * np.arange(1, 11) / 11, rtol=1e-5)
    assert rates[55] == pytest.approx(0.25) and rates[100] == pytest.approx(0, abs=1e-6)
    copy = type(schedule).from_config(schedule.get_config())
    assert float(copy(42)) == float(schedule(42))


def linear_step(batches, losses="OC", **flags):
    """A linear network on [n, 12] inputs, its TrainStep and its kernel; `batches` as arrays."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((12,))
    logits = keras.layers.Dense(3, use_bias=False, name="logits")(inputs)
    embedding = keras.layers.UnitNormalization()(inputs)
    network = keras.Model(inputs, {"logits": logits, "embedding": embedding})
    config = Config(losses=losses, learning_rate=0.01, alpha=0.5, **flags)
    variables = network.trainable_variables
    optimizer = make_optimizer(config, network, variables, 0.01)
    averages = make_averages(variables) if config.ema else None
    step = TrainStep(
        network,
        optimizer,
        make_objective(
            losses, np.ones(4, bool), alpha=0.5, beta=0.0, label_smoothing=config.label_smoothing
        ),
        variables,
        config,
        averages,
    )
    images, category = batches
    data = tf.data.Dataset.from_tensor_slices(
        {
            "images": images,
            "category": category.astype(np.int32),
            "item": np.full(category.shape, -1, np.int32),
            "row": np.tile(np.arange(4, dtype=np.int32), (len(images), 1)),
            "valid": np.tile([True, False, True, True], (len(images), 1)),
        }
    )
    return step, iter(data), variables[0], averages


class Centres(Loss):
    """Mean squared distance to the class's own centre, which is gathered."""

    sampler = ANY
    has_classes = True

    def build(self, classes, width):
        self._centres = make_variable(np.zeros((classes, width)), "centres", trainable=True)
        return [self._centres]

    def __call__(self, values, labels, triplets=None):
        centres = tf.gather(tensor_of(self._centres), tf.maximum(labels, 0))
        return {"loss": tf.reduce_mean(tf.square(values - centres))}


def test_a_loss_may_gather_from_its_own_variable():
    """Its gradient is sparse; Adam's first step moves each number by the rate, or not at all."""
    inputs = keras.Input((3,))
    network = keras.Model(inputs, {"embedding": keras.layers.Dense(2)(inputs)})
    terms = [Term("centres:item", "centres", "item", 1.0)]
    rows = types.SimpleNamespace(classified=np.ones(4, bool), triplets={})
    objective = Objective(terms, [Centres(LossSettings())], rows)
    # Items 0, 3 and 5: the item between them has no centre.
    objective.build({"item": np.array([5, 0, 3])}, {"embedding": 2})
    variables = network.trainable_variables + objective.variables
    optimizer = make_optimizer(Config(), network, variables, 0.01)
    step = TrainStep(network, optimizer, objective, variables, LoopSettings(accumulate=2))
    images = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)
    batch = {
        "images": images,
        "item": np.tile(np.array([5, 0, 5, 0], np.int32), (2, 1)),
        "row": np.zeros((2, 4), np.int32),
        "valid": np.ones((2, 4), bool),
    }
    step(iter(tf.data.Dataset.from_tensor_slices(batch)), 1)
    moved = np.abs(objective.variables[0].numpy())
    np.testing.assert_allclose(moved, [[0.01, 0.01], [0, 0], [0.01, 0.01]], rtol=1e-3)


def linear_data(count):
    rng = np.random.default_rng(0)
    return rng.normal(size=(count, 4, 12)).astype(np.float32), rng.integers(0, 3, (count, 4))


def gradient_by_hand(kernel, x, category, smoothing=0.0):
    """Loss and gradient of 0.5 * softmax cross-entropy of a linear network, in float64."""
    x, kernel = x.astype(np.float64), kernel.astype(np.float64)
    scores = np.exp(x @ kernel)
    softmax = scores / scores.sum(1, keepdims=True)
    target = (1 - smoothing) * np.eye(3)[category] + smoothing / 3
    loss = 0.5 * -(target * np.log(softmax)).sum(1).mean()
    return loss, 0.5 * x.T @ (softmax - target) / len(x)


class AdamByHand:
    """Kingma and Ba 2015 with epsilon beside the uncorrected root ("epsilon hat", section 2)."""

    def __init__(self, decay=0.0):
        self.m = self.v = self.t = 0
        self.decay = decay

    def __call__(self, kernel, gradient):
        self.t += 1
        self.m = 0.9 * self.m + 0.1 * gradient
        self.v = 0.999 * self.v + 0.001 * gradient**2
        rate = 0.01 * np.sqrt(1 - 0.999**self.t) / (1 - 0.9**self.t)
        return kernel * (1 - 0.01 * self.decay) - rate * self.m / (np.sqrt(self.v) + 1e-7)


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"accumulate": 2},
        {"clip_norm": 0.1},
        {"weight_decay": 0.5},
        {"label_smoothing": 0.2},
        {"ema": 0.75},
        {"jit": "on"},
        {"jit": "on", "accumulate": 2, "clip_norm": 0.1},
    ],
    ids=str,
)
def test_three_updates_equal_adam_by_hand(flags):
    """Loss, gradient, update and what the flags add, worked out with numpy."""
    each = flags.get("accumulate", 1)
    images, category = linear_data(3 * each)
    step, batches, variable, averages = linear_step((images, category), **flags)
    kernel = variable.numpy().astype(np.float64)
    average, adam = kernel.copy(), AdamByHand(flags.get("weight_decay", 0.0))
    losses = []
    for update in range(3):
        found = [
            gradient_by_hand(kernel, images[i], category[i], flags.get("label_smoothing", 0.0))
            for i in range(update * each, (update + 1) * each)
        ]
        losses.append(np.mean([loss for loss, _ in found]))
        gradient = np.mean([value for _, value in found], axis=0)
        if "clip_norm" in flags:
            norm = np.sqrt((gradient**2).sum())
            assert norm > flags["clip_norm"]
            gradient *= flags["clip_norm"] / norm
        kernel = adam(kernel, gradient)
        average = 0.75 * average + 0.25 * kernel
    first, _ = step(batches, 1)
    scalars, bad = step(batches, 2)
    found = [float(first["loss"][0]), *scalars["loss"].numpy()]
    np.testing.assert_allclose(found, losses, rtol=1e-5)
    np.testing.assert_allclose(variable.numpy(), kernel, atol=5e-6)
    assert bad.numpy().tolist() == [[-1, 1, -1, -1] * each] * 2
    if averages:
        np.testing.assert_allclose(averages[0].numpy(), average, atol=5e-6)


@pytest.mark.slow
@pytest.mark.parametrize("miner", registry.names("miner"))
def test_losses_and_miners_compile_to_the_same_step(miner):
    """Loss and gradients of a network with batch norm, compiled by XLA and not."""
    others = [name for name in registry.names("loss") if name not in ("softmax", "triplet")]
    others = others if miner == "all" else []
    config = Config(losses="+".join(["OC", "IS", *(f"{name}:item" for name in others)]))
    labels = np.repeat(np.arange(4, dtype=np.int32), 3)
    batch = {
        "images": np.random.default_rng(0).normal(size=(12, 6)).astype(np.float32),
        "item": labels,
        "category": labels % 2,
        "row": np.zeros(12, np.int32),
        "valid": np.ones(12, bool),
    }
    steps = {}
    for jit in ("off", "on"):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((6,))
        hidden = keras.layers.BatchNormalization()(keras.layers.Dense(5)(inputs))
        embedding = keras.layers.UnitNormalization()(keras.layers.Dense(4)(hidden))
        network = keras.Model(
            inputs, {"logits": keras.layers.Dense(2)(hidden), "embedding": embedding}
        )
        settings = dataclasses.replace(config.loss_settings(), triplets=miner)
        rows = types.SimpleNamespace(classified=np.ones(12, bool), triplets={})
        objective = Objective(config.terms(), make_losses(config.terms(), settings), rows)
        objective.build({"item": labels, "category": labels % 2}, {"embedding": 4, "logits": 2})
        variables = network.trainable_variables + objective.variables
        optimizer = make_optimizer(config, network, variables, 0.01)
        step = TrainStep(network, optimizer, objective, variables, LoopSettings(jit=jit))
        scalars, _ = step(iter(tf.data.Dataset.from_tensors(batch)), 1)
        scalars = {name: float(value[0]) for name, value in scalars.items()}
        steps[jit] = scalars, [variable.numpy() for variable in optimizer.variables]
    (plain, before), (compiled, after) = steps["off"], steps["on"]
    assert plain["loss"] > 0 and compiled == pytest.approx(plain, rel=1e-4, abs=1e-5)
    # Adam's moments are the gradients and their squares, times a tenth and a thousandth.
    for one, other in zip(before, after, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


def test_several_devices_are_not_compiled():
    with pytest.raises(FirError, match="`jit` must be auto or off with several devices.*with 2"):
        _compiles("on", types.SimpleNamespace(num_replicas_in_sync=2))
    assert not _compiles("auto", types.SimpleNamespace(num_replicas_in_sync=2))
    assert not _compiles("auto", tf.distribute.get_strategy())
    assert _compiles("on", tf.distribute.get_strategy())


def test_the_backbone_has_its_own_rate(shallow):
    """With a tenth of the rate, Adam's first step of the backbone is a tenth as long."""
    config = Config(backbone="efficientnet_lite0", learning_rate=0.01, backbone_learning_rate=0.001)
    model = build_fir(small_model(embedding_size=3), 32, 5)
    variables = model.trainable_variables
    before = [variable.numpy() for variable in variables]
    optimizer = make_optimizer(config, model, variables, 0.01)
    optimizer.apply([tf.ones(variable.shape) for variable in variables], variables)
    body = {id(variable) for variable in model.get_layer(config.backbone).trainable_variables}
    assert 0 < len(body) < len(variables)
    for variable, old in zip(variables, before, strict=True):
        expected = 0.001 if id(variable) in body else 0.01
        np.testing.assert_allclose(old - variable.numpy(), expected, rtol=1e-2)


@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
def test_the_backbone_starts_when_it_is_let_go(half):
    """By hand: the heads take every update; the backbone's Adam begins with its own first one."""
    images, category = linear_data(5)
    keras.utils.set_random_seed(1)
    inputs = keras.Input((12,))
    body = keras.Sequential([keras.Input((12,)), keras.layers.Dense(5, use_bias=False)])
    logits = keras.layers.Dense(3, use_bias=False)(body(inputs))
    network = keras.Model(inputs, {"logits": logits})
    config = Config(losses="OC", learning_rate=0.01, freeze_epochs=1.0)
    variables = network.trainable_variables
    optimizer = make_optimizer(config, network, variables, 0.01, half, frozen=3)
    objective = make_objective("OC", np.ones(4, bool), alpha=0.5)
    step = TrainStep(network, optimizer, objective, variables, config)
    batch = {
        "images": images,
        "category": category.astype(np.int32),
        "row": np.zeros((5, 4), np.int32),
        "valid": np.ones((5, 4), bool),
    }
    batches = iter(tf.data.Dataset.from_tensor_slices(batch))
    first, second = (variable.numpy().astype(np.float64) for variable in variables)
    start, adams = variables[0].numpy(), (AdamByHand(), AdamByHand())
    for number in range(5):
        _, gradient = gradient_by_hand(second, images[number] @ first, category[number])
        hidden = category_gradient(second, images[number] @ first, category[number])
        if number >= 3:
            first = adams[0](first, images[number].T.astype(np.float64) @ hidden)
        second = adams[1](second, gradient)
    step(batches, 1, True)
    step(batches, 2, True)
    np.testing.assert_array_equal(variables[0].numpy(), start)
    step(batches, 1, False)
    step(batches, 1, False)
    for variable, expected in zip(variables, (first, second), strict=True):
        np.testing.assert_allclose(variable.numpy(), expected, atol=5e-6)
    assert step._run.experimental_get_tracing_count() == 2


def category_gradient(kernel, x, category):
    """Gradient of `gradient_by_hand`'s loss with respect to x."""
    scores = np.exp(x @ kernel)
    return 0.5 * (scores / scores.sum(1, keepdims=True) - np.eye(3)[category]) @ kernel.T / len(x)


def test_a_float16_step_that_overflows_changes_nothing():
    step, batches, variable, _ = linear_step(linear_data(2))
    config = Config(losses="OC", learning_rate=0.01)
    optimizer = make_optimizer(config, None, [variable], 0.01, half=True)
    before, scale = variable.numpy(), float(optimizer.scale_loss(tf.constant(1.0)))
    optimizer.apply([tf.fill(variable.shape, float("inf"))], [variable])
    np.testing.assert_array_equal(variable.numpy(), before)
    assert float(optimizer.scale_loss(tf.constant(1.0))) == scale / 2


def test_training_model_shares_the_network(shallow):
    model = build_fir(small_model(), 32, 5)
    images = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)
    outputs, inner = model(images), training_model(model)(images)
    np.testing.assert_allclose(tf.nn.softmax(inner["logits"]), outputs["category"], rtol=1e-5)
    np.testing.assert_array_equal(inner["embedding"], outputs["embedding"])
    np.testing.assert_allclose(np.linalg.norm(outputs["embedding"], axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(np.sum(outputs["category"], axis=1), 1.0, rtol=1e-5)


def test_projection_and_head_shapes():
    model = build_fir(small_model(embedding_size=16), 40, 5)
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


def checkpoint_values(folder):
    """Everything in the newest checkpoint, by name."""
    reader = tf.train.load_checkpoint(str(folder))
    return {
        name: reader.get_tensor(name)
        for name in reader.get_variable_to_shape_map()
        if not name.startswith(("_CHECKPOINTABLE", "save_counter"))
    }


def assert_same_run(whole, parts, count=100):
    """The same weights, optimiser, random states, counters and validations, to the last bit.

    Other entries of the log are means over the steps since the one before or since the resume.
    """
    first = checkpoint_values(whole / "checkpoints")
    second = checkpoint_values(parts / "checkpoints")
    assert first.keys() == second.keys() and len(first) > count
    for name, value in first.items():
        assert np.array_equal(value, second[name]), name
    logs = [
        {name: values for name, values in read_history(run).items() if name.startswith("val/")}
        for run in (whole, parts)
    ]
    assert logs[0] == logs[1] and logs[0]


SCRIPT = f"""
import os, resource, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
{TWO_LAYERS}
from reading import cheap_view
from fir_tf import messages
from fir_tf.config import Config
from fir_tf.errors import FirError
from fir_tf.input import batches
from fir_tf.training import checkpoints, loop
from fir_tf.training.from_config import train_config
batches.training_view = cheap_view
checkpoints.CHECKPOINT_SECONDS = 0
messages.show()
# Drawing takes as long as training here.
loop.training_curves = lambda history, path: None
_, unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
for values, limit in eval(sys.argv[1]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit or unlimited, unlimited))
    try:
        train_config(Config(**values))
    except FirError as error:
        print(f"status {{error.status}}:", error, flush=True)
"""


def start(*runs):
    """Starts training runs one after the other in a process that saves after every step.

    Args:
        *runs: (Config, bytes that a file may have, 0 for any).
    """
    values = [(dataclasses.asdict(config), limit) for config, limit in runs]
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, repr(values)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_step(run, step, process):
    """Returns once the run's checkpoint file names the step."""
    end = time.monotonic() + 300
    while time.monotonic() < end and process.poll() is None:
        path = run / "checkpoints" / "checkpoint"
        if path.exists() and f'"ckpt-{step}"' in path.read_text():
            return
        time.sleep(0.01)
    raise AssertionError(f"step {step} was not reached: {process.communicate()[0][-2000:]}")


def newest_data(run):
    """Returns the newest checkpoint and the file of its values."""
    newest = Path(tf.train.latest_checkpoint(str(run / "checkpoints")))
    return newest, newest.with_name(newest.name + ".data-00000-of-00001")


def killed(process):
    """Kills a process as a crash would; returns what it printed."""
    process.kill()
    return process.communicate(timeout=60)[0]


@pytest.mark.slow
def test_no_accident_and_no_loop_of_steps_changes_a_run(tmp_path):
    """kill -9, a truncated checkpoint, SIGTERM, kill -9 again, a full disk; one command resumes.

    The run it equals is traced and makes several steps without a return to Python.
    """
    config = small_config(
        write_inshop(tmp_path / "data", inshop_rows()),
        tmp_path / "parts",
        backbone="resnet50_v15",
        batch_norm="batch",
        epochs=4,
        eval_every=2,
        deterministic=True,
        ema=0.9,
        log_every=2,
        losses="OC+IS+contrastive(memory=12):item",
    )
    run, whole = tmp_path / "parts", tmp_path / "whole"
    process = start((config, 0))
    wait_for_step(run, 3, process)
    killed(process)
    # The one before it is used, which is said.
    newest, data = newest_data(run)
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    process = start((config, 0), (config, 0))
    wait_for_step(run, 5, process)
    process.send_signal(signal.SIGTERM)
    wait_for_step(run, 8, process)
    text = killed(process)
    assert f"cannot read the checkpoint {newest}" in text and text.count("resuming") == 2
    assert re.search(r"status 143: stopped at .* on request; the same command resumes", text)
    # Files may not grow beyond half a checkpoint: a message, and the one before it stays.
    newest, data = newest_data(run)
    looped = dataclasses.replace(config, run=str(whole), steps_per_loop=5, profile="2,3")
    process = start((config, data.stat().st_size // 2), (config, 0), (looped, 0))
    text, _ = process.communicate(timeout=600)
    assert process.returncode == 0, text[-2000:]
    assert f"status 1: cannot write a checkpoint into {newest.parent}" in text
    assert f"last whole checkpoint ({newest.name})" in text
    assert text.count("resuming") == 2 and len(re.findall("^status", text, re.MULTILINE)) == 1
    assert_same_run(whole, run, count=20)
    assert list((whole / "logs").rglob("*.xplane.pb"))


def test_without_a_whole_checkpoint_a_run_says_so(tmp_path):
    network = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    optimizer = keras.optimizers.Adam()
    optimizer.build(network.trainable_variables)
    kept = Checkpoints(tmp_path, network, optimizer)
    for step in (1, 2):
        kept.step.assign(step)
        kept.save()
    again = Checkpoints(tmp_path, network, optimizer)
    assert again.restore(tmp_path) and int(again.step) == 2
    for path in tmp_path.glob("ckpt-*.index"):
        path.write_bytes(b"")
    with pytest.raises(FirError, match="no checkpoint in .* can be read"):
        again.restore(tmp_path)


class StopAfter:
    """In place of the signals of `_stop_requests`: stops at the step with this number."""

    def __init__(self, step):
        self._left = step

    def __bool__(self):
        self._left -= 1
        return self._left < 0

    def __getitem__(self, places):
        return []


def parts_of(config):
    catalogue = load_training(config)
    return from_config.make_parts(config, catalogue, make_sampler(catalogue, config))


@pytest.fixture
def two_layers(monkeypatch):
    """For the length of a test a backbone is a convolution with batch norm; returns options."""
    for module in (fir, from_config):
        monkeypatch.setattr(module, "build_backbone", build_two_layers)
    monkeypatch.setattr(batches, "training_view", cheap_view)
    monkeypatch.setattr(loop, "training_curves", lambda *_: None)
    return {"backbone": "resnet50_v15", "batch_norm": "batch"}


def interrupted(config, run, step, monkeypatch):
    """Trains until `step`, and from there to the end."""
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_stop_requests", lambda: contextlib.nullcontext(StopAfter(step - 1)))
        with pytest.raises(StoppedError, match=f"stopped at step {step} of"):
            train(parts_of(config), run, config, config)
    train(parts_of(config), run, config, config)


@pytest.mark.slow
def test_the_heads_learn_first_and_a_run_resumes_across_that(
    inshop, tmp_path, two_layers, monkeypatch
):
    """Backbone and statistics are the start's to the bit for 5 of 8 updates, and move after."""
    config = small_config(
        inshop,
        tmp_path,
        losses="OC+normface:item",
        ema=0.9,
        freeze_epochs=1.25,
        eval_every=2,
        **two_layers,
    )
    parts, seen = parts_of(config), []
    body = parts.model.get_layer("resnet50_v15").weights
    heads = parts.model.get_layer("relaxation").weights + parts.objective.variables

    def look(_):
        seen.append([[w.numpy() for w in part] for part in (body, heads)])

    look(None)
    parts.actions = [look]
    train(parts, tmp_path / "whole", config, config)
    assert len(body) == 6 and len(heads) == 3 and len(seen) == 9
    for number, pair in enumerate(itertools.pairwise(seen)):
        kept, learned = (list(map(np.array_equal, *part)) for part in zip(*pair, strict=True))
        assert not any(learned)
        assert all(kept) if number < 5 else not any(kept)
    interrupted(config, tmp_path / "parts", 3, monkeypatch)
    assert_same_run(tmp_path / "whole", tmp_path / "parts", 30)


@pytest.mark.slow
def test_what_comes_after_training_has_the_test_size(inshop, tmp_path, two_layers):
    """Validation, model, evaluation and export take images of 64 pixels, training of 32."""
    config = small_config(
        inshop, tmp_path / "run", test_size=64, epochs=1, val_fraction=0.5, **two_layers
    )
    run = from_config.train_config(config)
    model, loaded, _ = load_run(run)
    assert model.input_shape[1:] == (64, 64, 3) and loaded.eval_size == 64
    found = measure(Embedder(model, 64, "crop"), load_training(config), Procedure("val"))
    assert found.values["mAP@R"] == pytest.approx(read_history(run)["val/mAP@R"][-1][1])
    evaluate(EvaluateOptions(run=config.run))
    assert json.loads((run / "metrics.json").read_text())["protocol"]["image_size"] == 64
    served = tf.saved_model.load(str(export(ExportOptions(run=config.run))))
    photo = next(inshop.rglob("*.jpg")).read_bytes()
    pixels = preprocess(tf.constant(photo), 64, "crop")[0][None]
    expected = model(pixels, training=False)["embedding"]
    found = served.signatures["embed"](image_bytes=tf.constant([photo]))["embedding"]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["efficientnet_lite0", "densenet121", "seresnext50"])
def test_a_network_takes_images_of_another_size(shallow, backbone):
    """As the same weights in a network that was built for it do."""
    settings = ModelSettings(backbone=backbone, weights="none", relaxation_width=4)
    model, small = (build_fir(settings, side, 5) for side in (96, 32))
    small.set_weights(model.get_weights())
    images = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)
    found, expected = for_any_size(training_model(model))(images), small(images)
    np.testing.assert_allclose(found["embedding"], expected["embedding"], atol=1e-6)
    np.testing.assert_allclose(tf.nn.softmax(found["logits"]), expected["category"], atol=1e-6)


def test_stages_have_equally_many_steps():
    assert stages([224], 10) == {0: 224}
    assert stages([128, 160, 224], 9) == {0: 128, 3: 160, 6: 224}
    assert stages([128, 224], 7) == {0: 128, 3: 224}
    # The last size has its turn in the shortest of runs.
    assert stages([64, 96, 128, 160], 1) == {0: 160}


@pytest.mark.slow
def test_images_grow_and_a_run_resumes_across_that(inshop, tmp_path, two_layers, monkeypatch):
    """Sizes follow the step; each batch is that of its number; the step is compiled once a size."""
    config = small_config(
        inshop, tmp_path, losses="OC", progressive_size="32,48", image_size=64, **two_layers
    )
    made, parts = [], parts_of(config)

    def spy(trainer, parts, inputs, first):
        made.append((first, inputs.image_size, trainer.update))
        return distributed_batches(trainer, parts, inputs, first)

    monkeypatch.setattr(loop, "distributed_batches", spy)
    train(parts, tmp_path / "whole", config, config)
    assert [place[:2] for place in made] == [(0, 32), (2, 48), (5, 64)]
    assert made[0][2]._run.experimental_get_tracing_count() == 3
    assert load_model(tmp_path / "whole" / "model.keras").input_shape == (None, 64, 64, 3)
    made.clear()
    interrupted(config, tmp_path / "parts", 4, monkeypatch)
    assert [place[:2] for place in made] == [(0, 32), (2, 48), (4, 48), (5, 64)]
    assert_same_run(tmp_path / "whole", tmp_path / "parts", 30)


def test_sizes_that_no_network_takes_are_refused(inshop, tmp_path, two_layers):
    for value in ("16", "64,5000", "a"):
        with pytest.raises(FirError, match="`progressive_size` must be sizes from 32 to 4096"):
            small_config(inshop, tmp_path, progressive_size=value)
    for value in (16, -1):
        with pytest.raises(FirError, match="`test_size` must be"):
            small_config(inshop, tmp_path, test_size=value)
    config = small_config(inshop, tmp_path / "run", test_size=64, **two_layers)
    with pytest.raises(FirError, match="`test_size` must be the model's 32. Received: 64 pixels"):
        train(parts_of(config), config.run, config, config)


@pytest.mark.slow
def test_the_weights_in_between_are_chosen_on_validation_items(tmp_path, two_layers, monkeypatch):
    """Every share measured anew; the model is the best one, and stays it."""
    root = write_inshop(tmp_path / "data", inshop_rows(train_items=24))
    flags = {"weights": "start.h5", "interpolate": True, "learning_rate": 0.3, "test_size": 64}
    config = small_config(root, tmp_path / "run", epochs=1, val_fraction=0.5, **flags, **two_layers)
    # Items that nobody can tell apart: what is found depends on every weight.
    catalogue = load_training(config)
    places = np.flatnonzero(catalogue.split == "val")
    catalogue.item[places] = np.random.default_rng(1).permutation(catalogue.item[places])
    monkeypatch.setattr(from_config.datasets, "load_training", lambda _: catalogue)
    run = from_config.train_config(config)
    told = json.loads((run / "interpolation.json").read_text())
    end, model = (load_model(run / name) for name in ("model_end.keras", "model.keras"))
    start = fir.build_backbone(config.backbone, 64, "start.h5")
    # The backbone's six come first, in the order of its layers.
    first, last = start.get_weights(), end.get_weights()
    assert [a.shape for a in first] == [a.shape for a in last[:6]] and len(last) == 10
    twin, found = load_model(run / "model_end.keras"), []
    embedder = Embedder(twin, 64, "crop")

    def between(share):
        mixed = [(1 - share) * a + share * b for a, b in zip(first, last[:6], strict=True)]
        return [*mixed, *last[6:]]

    for share in range(11):
        twin.set_weights(between(share / 10))
        measured = measure(embedder, catalogue, Procedure("val"))
        found.append([share / 10, pytest.approx(measured.values["mAP@R"], abs=1e-6)])
    assert told["curve"] == found and len({value for _, value in told["curve"]}) > 1
    (begin, before), (_, after) = read_history(run)["val/mAP@R"]
    assert after == pytest.approx(told["curve"][-1][1])
    # Before the first step it was what the seed makes.
    twin.set_weights(parts_of(config).model.get_weights())
    untrained = measure(embedder, catalogue, Procedure("val")).values["mAP@R"]
    assert begin == 0 and before == pytest.approx(untrained, abs=1e-6) and before != after
    best = max(value for _, value in told["curve"])
    assert told["share"] == max(share for share, value in told["curve"] if value == best)
    for a, b in zip(model.get_weights(), between(told["share"]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    written = (run / "model.keras").read_bytes()
    from_config.train_config(config)
    assert (run / "model.keras").read_bytes() == written
    # Stopped before the last file: from the end's model again, not from what became of it.
    (run / "interpolation.json").unlink()
    from_config.train_config(config)
    assert json.loads((run / "interpolation.json").read_text()) == told


def test_without_start_or_validation_there_is_nothing_in_between(inshop, tmp_path):
    for values, message in (
        ({"weights": "none"}, "needs weights to start from. Received: --weights=none"),
        (
            {"weights": "a.h5", "val_fraction": 0.0},
            "has none. Give --val_fraction, or leave it out",
        ),
    ):
        config = small_config(inshop, tmp_path / "run", interpolate=True, **values)
        with pytest.raises(FirError, match=message):
            from_config.train_config(config)
    assert not (tmp_path / "run").exists()


def test_without_a_head_there_is_nothing_to_train_first(inshop, tmp_path, two_layers):
    config = small_config(inshop, tmp_path, losses="IS", freeze_epochs=1.0, **two_layers)
    with pytest.raises(FirError, match="nothing would be trained in the first --freeze_epochs"):
        build_trainer(parts_of(config), config, 3)


def test_a_dry_run_fetches_no_weights(inshop, tmp_path, capsys, monkeypatch, tiny):
    """It says where a run would have them from; what is left frozen is as with them."""
    monkeypatch.setenv("FIR_TF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FIR_TF_OFFLINE", "1")
    made = []
    make = from_config.make_parts
    monkeypatch.setattr(from_config, "make_parts", lambda *of: made.append(make(*of)) or made[0])
    config = small_config(inshop, tmp_path / "run", dry_run=True, weights="imagenet", **tiny)
    from_config.train_config(config)
    out = capsys.readouterr().out
    place = registry.get("backbone", config.backbone).weights
    assert f"from {place.url}/{place.file}. This dry run" in out and "dry run: nothing" in out
    body = made[0].model.get_layer(config.backbone)
    size = sum(np.prod(weight.shape) for weight in body.weights) * 4e-6
    assert f"about {size:.0f} MB" in out
    norms = [layer for layer in body.layers if "BatchNormalization" in type(layer).__name__]
    assert norms and all(layer.frozen_statistics for layer in norms)
    assert not (tmp_path / "run").exists() and not (tmp_path / "cache").exists()


@pytest.mark.slow
def test_early_stop_and_dry_run(inshop, tmp_path, capsys, two_layers):
    config = small_config(
        inshop,
        tmp_path / "run",
        epochs=30,
        patience=2,
        learning_rate=1e-9,
        **{**two_layers, "batch_norm": "frozen"},
    )
    from_config.train_config(dataclasses.replace(config, dry_run=True))
    out = capsys.readouterr().out
    assert "dry run: nothing was written" in out and "images/s" in out and "GiB of RAM" in out
    assert not (tmp_path / "run").exists()
    from_config.train_config(config)
    out = capsys.readouterr().out
    assert re.search(r"ended at step \d+ of \d+: no better model in 2 validations", out)
    from_config.train_config(config)
    assert "finished already" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_writes_its_folder_and_learns(inshop, tmp_path, capsys):
    config = small_config(
        inshop,
        tmp_path / "run",
        weights="imagenet",
        epochs=10,
        eval_every=5,
        relaxation_width=64,
        dropout=0.0,
    )
    run = from_config.train_config(config)
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
    model, loaded, categories = load_run(run)
    assert loaded == config and categories == ["MEN/Denim", "WOMEN/Dresses"]
    from_config.train_config(config)
    assert "finished already" in capsys.readouterr().out


@pytest.mark.slow
def test_unreadable_images_are_skipped_counted_and_reported(
    tmp_path, capsys, monkeypatch, two_layers
):
    root = write_inshop(tmp_path / "data", inshop_rows(train_items=30, test_items=2))
    broken = root / "Img/img/WOMEN/Dresses/id_00000002/01_1_front.jpg"
    broken.write_bytes(broken.read_bytes()[:100])
    config = small_config(
        root, tmp_path / "run", epochs=1, val_fraction=0.0, images_per_item=4, **two_layers
    )
    from_config.train_config(config)
    out = capsys.readouterr().out
    assert "skipped 1 images that cannot be decoded" in out and str(broken) in out
    # All files are looked at, however busy the machine.
    monkeypatch.setattr(from_config, "quick_check", functools.partial(quick_check, seconds=60))
    for path in sorted((root / "Img/img/WOMEN/Dresses").rglob("*.jpg"))[:8]:
        path.write_bytes(b"")
    with pytest.raises(FirError, match="8 of 128 image files looked at cannot be read"):
        from_config.train_config(dataclasses.replace(config, run=str(tmp_path / "first_look")))
    # What the first look, which is no full reading, has not seen.
    monkeypatch.setattr(from_config, "quick_check", lambda catalogue: [])
    with pytest.raises(FirError, match="images cannot be decoded, more than the 1 %"):
        from_config.train_config(dataclasses.replace(config, run=str(tmp_path / "other")))


@pytest.mark.nightly
@pytest.mark.slow
def test_items_alone_are_enough(inshop, tmp_path, shallow):
    """A shop's table that knows no category: trained by IS, evaluated, exported, served."""
    rows = ["path,item"] + [
        f"{path.relative_to(inshop)},{path.parent.name}" for path in sorted(inshop.rglob("*.jpg"))
    ]
    table = inshop / "photos.csv"
    table.write_text("\n".join(rows))
    config = small_config(table, tmp_path / "run", dataset="table", losses="IS", epochs=1)
    from_config.train_config(config)
    metrics = evaluate(EvaluateOptions(run=config.run))
    assert 0 <= metrics["recall@1"] <= 1 and not [name for name in metrics if "category" in name]
    served = tf.saved_model.load(str(export(ExportOptions(run=config.run))))
    photo = tf.constant([next(inshop.rglob("*.jpg")).read_bytes()])
    assert served.signatures["embed"](image_bytes=photo)["valid"].numpy().all()
    with pytest.raises(FirError, match="the loss OC needs category labels"):
        from_config.train_config(
            dataclasses.replace(config, run=str(tmp_path / "other"), losses="OC+IS")
        )


@pytest.mark.slow
@pytest.mark.bfloat16
def test_bfloat16_takes_the_same_steps(inshop, tmp_path, tiny, monkeypatch):
    """Three updates on the same batches: other numbers, but hardly. Recall: test_scripts.py."""
    monkeypatch.setattr(batches, "training_view", cheap_view)
    losses = {}
    for precision in ("float32", "bfloat16"):
        config = small_config(inshop, tmp_path, dropout=0.0, mixed_precision=precision, **tiny)
        catalogue = load_training(config)
        sampler = make_sampler(catalogue, config)
        parts = from_config.make_parts(config, catalogue, sampler)
        engine = build_trainer(parts, config, sampler.steps_per_epoch)
        scalars, _ = engine.update(iter(training_batches(catalogue, sampler, config)), 3)
        losses[precision] = np.stack([scalars[name].numpy() for name in ("loss", "OC", "IS")])
        if precision == "bfloat16":
            body = engine.model.get_layer(config.backbone)
            assert body.compute_dtype == "bfloat16"
            kept = engine.served().trainable_weights
            assert {tf.as_dtype(weight.dtype) for weight in kept} == {tf.float32}
    assert np.abs(losses["bfloat16"] - losses["float32"]).max() > 1e-6
    np.testing.assert_allclose(losses["bfloat16"], losses["float32"], rtol=0.05)


def test_nan_stops_with_advice():
    health = Health(1e-4)
    health.check(10, {"loss": 1.0, "IS": 0.2})
    with pytest.raises(FirError, match="at step 20: IS is nan. Try a lower --learning_rate"):
        health.check(20, {"loss": 1.0, "IS": float("nan")})


def test_collapse_stops_with_advice_but_a_bad_start_does_not():
    health = Health(1e-4)
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


def test_losses_that_no_batch_suits_are_refused(inshop, tmp_path):
    catalogue = load("inshop", inshop)
    for flags, message in (
        (
            {"triplets": "explicit", "sampler": "pk"},
            "forms triplets for IS. Received: --sampler=pk",
        ),
        ({"losses": "triplet:item", "batch_size": 4, "images_per_item": 4}, "at least twice"),
        ({"losses": "softmax:item+IS"}, "softmax is by category. Received: softmax:item"),
        ({"losses": "OC", "items_per_category": 2}, "P x K, and the losses take others.*uniform"),
        ({"triplets": "explicit", "cross_domain": True}, "`cross_domain` is for batches of P x K"),
        ({"losses": "OS", "items_per_category": 2}, "made by item. Received: 2 .* by category"),
        ({"items_per_category": 3}, r"items in a batch \(4\). Received: 3"),
        ({"cross_domain": True}, "a consumer's photo and a shop's, and there are none"),
    ):
        with pytest.raises(FirError, match=message):
            make_sampler(catalogue, small_config(inshop, tmp_path, **flags))


def test_flags_make_batches_harder(inshop, tmp_path):
    """Items of one category beside each other, and a photo of either domain of each."""
    catalogue = load("inshop", inshop)
    consumer = np.arange(len(catalogue)) % 4 == 0
    catalogue = dataclasses.replace(catalogue, domain=consumer.astype(np.int8))
    flags = {"items_per_category": 2, "cross_domain": True}
    sampler = make_sampler(catalogue, small_config(inshop, tmp_path, **flags))
    assert "4 x 2: 4 of 8 items, 2 images each, 2 of a category" in sampler.describe()
    assert "from both domains (8 of 8 have both)" in sampler.describe()
    for step in range(6):
        rows = sampler(np.int64(step)).numpy()
        kinds = catalogue.category[rows[::2]]
        assert kinds[0] == kinds[1] and kinds[2] == kinds[3]
        assert consumer[rows].tolist() == [False, True] * 4


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ("IS", "the loss IS needs item labels"),
        ("OC+IS", "the loss IS needs item labels"),
    ],
)
def test_losses_without_labels_are_refused(inshop, tmp_path, losses, message):
    catalogue = load("inshop", inshop)
    unlabelled = dataclasses.replace(catalogue, item=np.full(48, -1, np.int32))
    with pytest.raises(FirError, match=message):
        make_sampler(unlabelled, small_config(inshop, tmp_path, losses=losses))
    unlabelled = dataclasses.replace(catalogue, category=np.full(48, -1, np.int32))
    for kind in ("OC", "OS"):
        with pytest.raises(FirError, match=f"the loss {kind} needs category labels"):
            make_sampler(unlabelled, small_config(inshop, tmp_path, losses=kind))
