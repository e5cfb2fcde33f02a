"""Shows how far `search.py index` stays behind its two halves, in images/s.

  python benchmarks/index.py

Photos of 512 x 512 pixels (rendered garments, JPEG) are embedded and stored in an empty index; the
model alone embeds as many images that lie decoded in memory, the input alone decodes and resizes
the photos. With OpenVINO installed its export takes turns too. Medians of --rounds turns,
interleaved; random weights.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import fir_tf  # noqa: F401, before TensorFlow, whose environment it sets

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from untrained import write_run

from fir_tf import boutique
from fir_tf.files import write_json
from fir_tf.input.batches import ordered_batches
from fir_tf.search.encoder import Encoder
from fir_tf.search.indexing import build
from fir_tf.search_options import IndexOptions

ROOT = Path(__file__).parent.parent
BATCH = 64
# The backbones, and the side of their images.
SIZES = {"efficientnet_lite0": 128, "resnet50": 224}


def openvino_export(run):
    """Returns the folder of the run's OpenVINO export, None where OpenVINO is missing."""
    command = [sys.executable, str(ROOT / "export.py"), f"--run={run}", "--format=openvino"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"left out: OpenVINO: {done.stderr.strip().splitlines()[-1]}", flush=True)
        return None
    return next(run.rglob("model.xml")).parent


def measure(models, photos, count, image_size, rounds):
    """Lets the model alone and the index take turns.

    Returns:
        {name: ([images/s of the model], [of the input], [of the index])}, of each turn.
    """
    shape = BATCH, image_size, image_size, 3
    pixels = np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)
    encoders = {name: Encoder(model) for name, model in models.items()}
    rates = {name: ([], [], []) for name in models}
    files = [str(path) for path in sorted(photos.rglob("*.jpg"))]
    for turn in range(rounds):
        for name, model in models.items():
            network = encoders[name].network
            network(pixels)
            start = time.perf_counter()
            for _ in range(count // BATCH):
                np.asarray(network(pixels)["embedding"])
            rates[name][0].append(count // BATCH * BATCH / (time.perf_counter() - start))
            start = time.perf_counter()
            for batch in ordered_batches(files, image_size, "crop", BATCH)[0]:
                batch["valid"].numpy()
            rates[name][1].append(len(files) / (time.perf_counter() - start))
            with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(None):
                options = IndexOptions(
                    model=str(model), images=str(photos), index=f"{folder}/index", batch_size=BATCH
                )
                rates[name][2].append(build(options)["images_per_second"])
        print(f"round {turn + 1} of {rounds}", flush=True)
    return rates


def told(alone, inputs, index):
    """Returns what rates, a list of each turn's, come to: medians, and the longest pass."""
    middle = statistics.median(index)
    halves = 1 / statistics.median(alone) + 1 / statistics.median(inputs)
    return {
        "model_alone": statistics.median(alone),
        "input_alone": statistics.median(inputs),
        "index": middle,
        # Both halves on the same cores, one after the other.
        "of_both": middle * halves,
        "longest_pass": middle / min(index),
        "longest_input": statistics.median(inputs) / min(inputs),
    }


def main():
    """Runs the benchmark and writes the numbers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", choices=["", *SIZES], help="one backbone")
    parser.add_argument("--images", type=int, default=512, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--output", default="benchmark_index.json", help="default: %(default)s")
    given = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        photos = folder / "photos"
        boutique.write(photos, boutique.Order(items=given.images // 8, views=8, size=512))
        for backbone in [given.only] if given.only else SIZES:
            image_size, run = SIZES[backbone], folder / backbone
            write_run(
                run, ["Dresses", "Tops"], backbone=backbone, image_size=image_size, weights="none"
            )
            models = {"run": run, "OpenVINO export": openvino_export(run)}
            models = {name: model for name, model in models.items() if model}
            found = measure(models, photos / "Img", given.images, image_size, given.rounds)
            for name, rates in found.items():
                label = f"{backbone} {image_size}, {name}"
                results[label] = row = told(*rates)
                print(
                    f"{label}: model alone {row['model_alone']:.1f} images/s, input alone "
                    f"{row['input_alone']:.1f}, index {row['index']:.1f}, {row['of_both']:.2f} of "
                    f"what both leave; the longest pass took {row['longest_pass']:.2f} times the "
                    f"median, of the input alone {row['longest_input']:.2f}",
                    flush=True,
                )
            write_json(given.output, results)
    print(f"wrote {given.output}")


if __name__ == "__main__":
    main()
