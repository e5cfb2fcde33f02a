#!/usr/bin/env python
"""The speed of the served network against other runtimes, in one run.

ResNet50 of this library at 224 pixels with random weights, pixels in, embedding out. Plain Keras is
keras.applications' ResNet50, with Keras' own batch normalisation; torch runs timm's ResNet50. The
runtimes take turns, round by round, so that a slow minute of the machine hits all of them. Those
whose package is missing are named and left out.

  python benchmarks/serving.py --torch_python=<python with torch and timm>
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import fir_tf  # noqa: F401, before TensorFlow, whose environment it sets

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

from fir_tf.config import ModelSettings
from fir_tf.errors import FirError
from fir_tf.files import write_json
from fir_tf.models.fir import build_fir
from fir_tf.serving.fold import inference_model
from fir_tf.serving.formats.network import network_function
from fir_tf.serving.formats.onnx import convert_onnx
from fir_tf.serving.formats.openvino import convert_openvino

SIZE = 224
BASELINE = "Keras SavedModel"
_BFLOAT16 = {"auto_mixed_precision_onednn_bfloat16": True}


def _saved(network, folder):
    """Returns a function running the network's SavedModel, as loaded from disk."""
    module = tf.Module()
    module.weights = [weight.value for weight in network.weights]
    module.forward = network_function(network)
    tf.saved_model.save(module, str(folder), signatures=module.forward)
    loaded = tf.saved_model.load(str(folder))
    signature = loaded.signatures["serving_default"]

    def run(pixels):
        # `loaded` owns the variables.
        return loaded and signature(pixels=tf.constant(pixels))["embedding"].numpy()

    return run


def _frozen(network):
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    function = convert_variables_to_constants_v2(network_function(network).get_concrete_function())
    return lambda pixels: function(tf.constant(pixels))[1].numpy()


def _under_bfloat16_option(run):
    """Runs with the session option that serving/platform.config sets."""

    def changed(pixels):
        tf.config.optimizer.set_experimental_options(_BFLOAT16)
        try:
            return run(pixels)
        finally:
            tf.config.optimizer.set_experimental_options(dict.fromkeys(_BFLOAT16, False))

    return changed


class _Torch:
    """Turns of benchmarks/torch_worker.py."""

    def __init__(self, python, kind):
        worker = Path(__file__).with_name("torch_worker.py")
        self._process = subprocess.Popen(
            [python, str(worker), kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        # Its imports may print something of their own first.
        if not any(line == "ready\n" for line in self._process.stdout):
            raise ImportError("torch and timm cannot be imported; see --torch_python")

    def turn(self, batch_size, seconds):
        """Returns the latencies of a turn."""
        order = {"batch_size": batch_size, "seconds": seconds}
        print(json.dumps(order), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def close(self):
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait()


class _Here:
    """Turns of a function of pixels in this process."""

    def __init__(self, run):
        self._run = run

    def turn(self, batch_size, seconds):
        """Returns the latencies of a turn."""
        pixels = np.random.default_rng(0).uniform(0, 255, (batch_size, SIZE, SIZE, 3))
        pixels = pixels.astype(np.float32)
        turn, stop = [], time.perf_counter() + seconds
        while time.perf_counter() < stop or len(turn) < 2:
            start = time.perf_counter()
            self._run(pixels)
            turn.append(time.perf_counter() - start)
        return turn

    def close(self):
        """Nothing is held."""


def _openvino(network, folder, precision, photos=()):
    import openvino

    convert_openvino(network, folder, photos)
    hints = {"INFERENCE_PRECISION_HINT": precision}
    compiled = openvino.Core().compile_model(str(folder / "model.xml"), "CPU", hints)
    return lambda pixels: compiled(pixels)["embedding"]


def _onnx(network, folder, photos=()):
    run = convert_onnx(network, folder, photos)
    return lambda pixels: run(pixels)["embedding"].numpy()


def _plain_keras():
    """Returns keras.applications' ResNet50 with outputs as this library's models have them."""
    network = keras.applications.ResNet50(
        include_top=False, weights=None, input_shape=(SIZE, SIZE, 3), pooling="avg"
    )
    embedding = keras.layers.UnitNormalization()(network.output)
    category = keras.layers.Dense(50, activation="softmax")(network.output)
    return keras.Model(network.input, {"embedding": embedding, "category": category})


def _runtimes(folder, wanted, torch_python):
    """Builds those whose names are in the set `wanted`, all if it is empty."""
    model = build_fir(ModelSettings(backbone="resnet50", weights="none"), SIZE, 50)
    folded = inference_model(model)
    plain = _plain_keras()
    # What ranges are read off does not matter to the speed.
    shape = (4, 1, SIZE, SIZE, 3)
    noise = list(np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32))
    once = tf.function(lambda pixels: plain(pixels, training=False)["embedding"])
    makers = {
        "Keras tf.function": lambda: lambda pixels: once(tf.constant(pixels)).numpy(),
        BASELINE: lambda: _saved(plain, folder / "plain"),
        "SavedModel --nofold": lambda: _saved(model, folder / "unfolded"),
        "SavedModel folded": lambda: _saved(folded, folder / "folded"),
        "SavedModel folded, frozen": lambda: _frozen(folded),
        "SavedModel --precision=bfloat16": lambda: _saved(
            inference_model(model, precision="bfloat16"), folder / "bfloat16"
        ),
        "SavedModel folded, session bf16": lambda: _under_bfloat16_option(
            _saved(folded, folder / "option")
        ),
        "OpenVINO": lambda: _openvino(folded, folder / "openvino", "f32"),
        "OpenVINO bf16": lambda: _openvino(folded, folder / "openvino_bf16", "bf16"),
        "OpenVINO int8": lambda: _openvino(folded, folder / "openvino_int8", "f32", noise),
        "OpenVINO int8, bf16": lambda: _openvino(folded, folder / "openvino_both", "bf16", noise),
        "onnxruntime": lambda: _onnx(folded, folder / "onnx"),
        "onnxruntime int8": lambda: _onnx(folded, folder / "onnx_int8", noise),
        "torch eager": lambda: _Torch(torch_python, "eager"),
        "torch compiled, frozen": lambda: _Torch(torch_python, "compiled"),
        "torch bf16 compiled, frozen": lambda: _Torch(torch_python, "bf16"),
    }
    unknown = sorted(wanted - set(makers))
    if unknown:
        sys.exit(f"`only` must name some of {'; '.join(makers)}. Received: {'; '.join(unknown)}")
    found = {}
    for name, make in makers.items():
        if wanted and name not in {*wanted, BASELINE}:
            continue
        try:
            run = make()
            found[name] = run if isinstance(run, _Torch) else _Here(run)
        except (ImportError, FirError) as error:
            print(f"left out: {name}: {error}", flush=True)
    return found


def measure(runtimes, batch_size, rounds, seconds):
    """Lets the runtimes take turns.

    Args:
        runtimes: {name: object with `turn(batch_size, seconds)` -> latencies in seconds}.
        batch_size: int.
        rounds: int, turns of each.
        seconds: float, length of a turn.

    Returns:
        {name: dict of `images_per_second` (median of the turns), `ratio` to the plain Keras
        SavedModel (median of the rounds' ratios), `p50_ms`, `p99_ms` of a request}.
    """
    latencies = {name: [] for name in runtimes}
    speeds = {name: [] for name in runtimes}
    for runtime in runtimes.values():
        runtime.turn(batch_size, 0)
    for number in range(rounds):
        for name, runtime in runtimes.items():
            turn = runtime.turn(batch_size, seconds)
            latencies[name] += turn
            speeds[name].append(batch_size * len(turn) / sum(turn))
        print(f"batch {batch_size}: round {number + 1} of {rounds}", flush=True)
    base = np.array(speeds[BASELINE])
    return {
        name: {
            "images_per_second": float(np.median(speeds[name])),
            "ratio": float(np.median(np.array(speeds[name]) / base)),
            "p50_ms": 1000 * float(np.percentile(latencies[name], 50)),
            "p99_ms": 1000 * float(np.percentile(latencies[name], 99)),
        }
        for name in runtimes
    }


def main():
    """Runs the benchmark; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch_sizes", default="1,64", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=7, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=3.0, help="of a turn (default: 3)")
    parser.add_argument(
        "--torch_python", default=sys.executable, help="a Python that has torch and timm"
    )
    parser.add_argument("--only", default="", help="names to run, separated by ';'")
    parser.add_argument("--output", default="benchmark_serving.json", help="default: %(default)s")
    arguments = parser.parse_args()
    keras.utils.set_random_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        wanted = {name.strip() for name in arguments.only.split(";") if name.strip()}
        runtimes = _runtimes(Path(folder), wanted, arguments.torch_python)
        results = {}
        for batch_size in (int(part) for part in arguments.batch_sizes.split(",")):
            found = measure(runtimes, batch_size, arguments.rounds, arguments.seconds)
            results[f"batch {batch_size}"] = found
            print(f"\n| batch {batch_size} | images/s | x plain | p50 ms | p99 ms |")
            print("|---|---|---|---|---|")
            for name, row in found.items():
                print(
                    f"| {name} | {row['images_per_second']:.1f} | {row['ratio']:.2f} | "
                    f"{row['p50_ms']:.0f} | {row['p99_ms']:.0f} |",
                    flush=True,
                )
            write_json(arguments.output, results)
        for runtime in runtimes.values():
            runtime.close()
    print(f"\nwrote {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
