"""One device or many: the same losses and the same weights."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from socket import socket

import numpy as np
import pytest
from commands import done
from shallow import CODE as SHALLOW
from shallow import TWO_STAGES, shallow_backbones

import fir_tf
from fir_tf.config import Config
from fir_tf.errors import FirError
from fir_tf.run import read_history
from fir_tf.training.distribution import make_strategy, worker_index
from fir_tf.training.precision import choose_precision

HERE = Path(__file__).parent


CASES = [
    "OC+IS-semihard",
    "OC+IS+OS-all",
    "OC+IS-explicit",
    "every loss",
    "clipped",
    "accumulated",
    "float16",
    "batch_norm",
    "batch_norm again",
]
# Parts of the ones above, each alone, and what is the optimiser's.
MORE = [
    "decayed",
    "heads first",
    "OC",
    "OS-all",
    "IS-all",
    "OC+IS-hard",
    "OC+OS-hard",
    "OC+normface",
]
# What four devices do otherwise than two: shares of a mean; a gathered batch and statistics.
ON_FOUR = ["OC+IS-explicit", "batch_norm"]


def trained(folder, *wanted):
    """Runs tests/replicas.py for each {replicas: cases}; {replicas: {case|name: array}}."""
    processes = [
        subprocess.Popen(
            [sys.executable, HERE / "replicas.py", folder, json.dumps(cases)],
            stderr=subprocess.PIPE,
        )
        for cases in wanted
    ]
    for process in processes:
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors.decode()[-2000:]
    return {count: dict(np.load(folder / f"{count}.npz")) for cases in wanted for count in cases}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{replicas: {case|name: array}}."""
    return trained(tmp_path_factory.mktemp("replicas"), {1: CASES, 2: CASES}, {4: ON_FOUR})


@pytest.fixture(scope="module")
def all_runs(tmp_path_factory):
    """Every case on every number: {replicas: {case|name: array}}."""
    every = CASES + MORE
    return trained(tmp_path_factory.mktemp("all"), {1: every, 2: every}, {4: every})


def check_equal(one, many, case):
    """Losses and weights after 3 updates on the same global batches, whose sums are divided once."""
    one = {key: value for key, value in one.items() if key.startswith(f"{case}|")}
    assert any("variable" in key for key in one) and f"{case}|scalar/loss" in one
    for key, value in one.items():
        np.testing.assert_allclose(many[key], value, rtol=1e-3, atol=5e-5, err_msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_replicas_equal_one_device(runs, case):
    check_equal(runs[1], runs[2], case)


@pytest.mark.slow
@pytest.mark.parametrize("case", ON_FOUR)
def test_four_replicas_equal_one_device(runs, case):
    check_equal(runs[1], runs[4], case)


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize("replicas", [2, 4])
@pytest.mark.parametrize("case", CASES + MORE)
def test_every_case_equals_one_device(all_runs, case, replicas):
    check_equal(all_runs[1], all_runs[replicas], case)


@pytest.mark.slow
def test_the_cases_train(runs):
    """The comparison above means something: each case moves its weights, and differently."""
    first = f"{CASES[0]}|"
    starts = {key: value for key, value in runs[1].items() if key.startswith(f"{first}variable")}
    moved = {
        case: np.concatenate(
            [
                runs[1][key.replace(first, f"{case}|", 1)].ravel()
                for key in starts
                if key.replace(first, f"{case}|", 1) in runs[1]
            ]
        )
        for case in CASES
        if not case.startswith("batch_norm")
    }
    assert len({round(float(np.abs(value).sum()), 5) for value in moved.values()}) == len(moved)
    limited, free = (runs[1][f"{case}|scalar/loss"] for case in ("clipped", "OC+IS+OS-all"))
    assert limited[0] != pytest.approx(free[0])
    assert (runs[4]["batch_norm|bad"] == np.where(np.arange(16) == 5, 5, -1)).all()


def test_strategies_by_name(monkeypatch):
    assert make_strategy("none").num_replicas_in_sync == 1
    assert make_strategy("auto").num_replicas_in_sync == 1
    assert worker_index(make_strategy("none")) == 0
    for text in ("", "{", '{"cluster": {}}'):
        monkeypatch.setenv("TF_CONFIG", text)
        with pytest.raises(FirError, match="reads the cluster from the environment variable TF_C"):
            make_strategy("multiworker")
    with pytest.raises(FirError, match="--distribute=tpu needs a machine with a TPU"):
        make_strategy("tpu")


def test_precision_by_name():
    for name in ("float32", "bfloat16", "float16"):
        assert choose_precision(name) == name
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    flags = next(line for line in lines if line.startswith("flags"))
    expected = "bfloat16" if "avx512_bf16" in flags or "amx_bf16" in flags else "float32"
    assert choose_precision("auto") == expected


# A network of two blocks, without random draws inside the network, which each device makes for
# its own images (EfficientNet's stochastic depth), and without statistics of a batch.
FLAGS = {
    "backbone": "resnet50_v15",
    "weights": "none",
    "batch_norm": "frozen",
    "image_size": 32,
    "batch_size": 8,
    "images_per_item": 2,
    "epochs": 1,
    "relaxation_width": 8,
    "dropout": 0.0,
    "val_fraction": 0.3,
    "log_every": 1,
}


def start_workers(command, run):
    """Starts train.py as the two workers of a cluster on loopback."""
    with socket() as first, socket() as second:
        for each in (first, second):
            each.bind(("127.0.0.1", 0))
        ports = [each.getsockname()[1] for each in (first, second)]
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    return [
        subprocess.Popen(
            [*command, "--distribute=multiworker", f"--run={run}"],
            env={
                **os.environ,
                "TF_CONFIG": json.dumps(
                    {"cluster": cluster, "task": {"type": "worker", "index": index}}
                ),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in (0, 1)
    ]


def finished(workers, status):
    """Waits for processes that are to end with `status`; returns what they printed."""
    texts = [worker.communicate(timeout=600)[0] for worker in workers]
    for worker, text in zip(workers, texts, strict=True):
        assert worker.returncode == status, text[-3000:]
    return texts


@pytest.mark.nightly
@pytest.mark.slow
def test_two_workers_equal_one_process(inshop, tmp_path):
    """train.py in two processes, a global batch between them; one is stopped on the way."""
    train = f"{SHALLOW}\nfrom fir_tf.cli.train import run\nrun()"
    flags = [f"--data_dir={inshop}", *(f"--{name}={value}" for name, value in FLAGS.items())]
    command = [sys.executable, "-c", train, *flags]
    workers = start_workers(command, tmp_path / "two")
    log = tmp_path / "two" / "log.csv"
    while not (log.exists() and len(log.read_text().splitlines()) > 2):
        assert workers[0].poll() is None, workers[0].communicate()[0][-3000:]
        time.sleep(0.01)
    workers[1].send_signal(signal.SIGTERM)
    for text in finished(workers, 143):
        assert "on request; the same command resumes" in text
    for text in finished(start_workers(command, tmp_path / "two"), 0):
        assert "resuming" in text
    with shallow_backbones(TWO_STAGES):
        done("train.py", *flags, f"--run={tmp_path / 'one'}")
    one, two = (read_history(tmp_path / name) for name in ("one", "two"))
    assert one.keys() == two.keys() and len(one["loss"]) > 3
    for name in ("loss", "OC", "IS", "active", "positive_distance", "negative_distance"):
        np.testing.assert_allclose(two[name], one[name], rtol=2e-3, err_msg=name)
    models = [fir_tf.load_model(tmp_path / name / "model.keras") for name in ("one", "two")]
    # Where a gradient is all but zero Adam takes a full step in a chance direction.
    for a, b in zip(*(model.weights for model in models), strict=True):
        assert np.abs(a.numpy() - b.numpy()).mean() < 2e-5 + 1e-3 * np.abs(a.numpy()).mean(), a.name
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == sorted(
        p.name for p in (tmp_path / "one").iterdir()
    )


def test_config_names_bad_training_settings():
    for values, message in [
        ({"accumulate": 0}, "`accumulate` must be >= 1"),
        ({"ema": 1.0}, "`ema` must be at least 0 and below 1"),
        ({"profile": "5"}, "`profile` must be two steps such as 20,30"),
        ({"label_smoothing": 1.0}, "`label_smoothing` must be"),
        ({"clip_norm": -1.0}, "`clip_norm` must be >= 0. Received: -1.0"),
    ]:
        with pytest.raises(FirError, match=message):
            Config(**values)
