"""Shows what a training step, the input and the evaluation cost as things grow.

  python benchmarks/growth.py

Four curves, each over one quantity with the others fixed: images/s of the training step over the
batch and over the image size, start-up and images/s of the input over the number of items, and
queries/s of the retrieval metrics over the gallery. Writes benchmarks/results/growth.json and
growth.png.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import fir_tf  # noqa: F401, before TensorFlow, whose environment it sets

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import matplotlib

matplotlib.use("Agg")
import keras
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from tqdm import tqdm

from fir_tf.config import Config
from fir_tf.datasets.catalogue import Catalogue
from fir_tf.evaluation.metrics import retrieval_metrics
from fir_tf.input.batches import training_batches
from fir_tf.samplers.choose import make_sampler
from fir_tf.training.from_config import make_parts
from fir_tf.training.trainer import build_trainer

RESULTS = Path(__file__).parent / "results"
VIEWS = 5


def catalogue(root, items):
    """Returns a Catalogue of `items` items of 5 images each, on a hundred files."""
    for number in range(100):
        path = root / f"{number}.jpg"
        if not path.exists():
            noise = np.random.default_rng(number).integers(0, 256, (16, 12, 3), dtype=np.uint8)
            Image.fromarray(noise).resize((192, 256), Image.BICUBIC).save(path, quality=90)
    rows = items * VIEWS
    item = np.repeat(np.arange(items, dtype=np.int32), VIEWS)
    return Catalogue(
        root=root,
        path=np.array([f"{row % 100}.jpg" for row in range(rows)], object),
        category=item % 20,
        item=item,
        domain=np.zeros(rows, np.int8),
        split=np.full(rows, "train"),
        categories=tuple(f"category {number}" for number in range(20)),
        items=tuple(f"item {number}" for number in range(items)),
        source="growth.py",
        line=np.zeros(rows, np.int32),
    )


def seconds(work, repeats=3):
    """Returns the median time of a call."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def step_rate(root, batch_size, image_size):
    """Returns images/s of the training step on a batch that is at hand."""
    config = Config(
        backbone="efficientnet_lite0", weights="none", batch_size=batch_size, image_size=image_size
    )
    data = catalogue(root, 100)
    sampler = make_sampler(data, config)
    engine = build_trainer(make_parts(config, data, sampler), config, sampler.steps_per_epoch)
    batches = iter(training_batches(data, sampler, config).take(1).cache().repeat())
    engine.update(batches, 1)
    return 3 * batch_size / seconds(lambda: engine.update(batches, 3)[0]["loss"].numpy())


def input_rate(root, items):
    """Returns (seconds until the first batch, images/s afterwards)."""
    config = Config(image_size=64)
    data = catalogue(root, items)
    begin = time.perf_counter()
    batches = iter(training_batches(data, make_sampler(data, config), config))
    next(batches)
    start = time.perf_counter() - begin

    def work():
        for _ in range(20):
            next(batches)

    work()
    return start, 20 * config.batch_size / seconds(work)


def metric_rate(gallery):
    """Returns queries/s of the retrieval metrics at 512 numbers an embedding."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(gallery + 1000, 512)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    labels = rng.integers(0, max(gallery // 4, 1), gallery + 1000)
    queries, rest = slice(0, 1000), slice(1000, None)

    def work():
        retrieval_metrics(vectors[queries], vectors[rest], labels[queries], labels[rest])

    work()
    return 1000 / seconds(work)


def main():
    """Measures and draws."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    RESULTS.mkdir(exist_ok=True)
    found = {"batch": {}, "image_size": {}, "items": {}, "first_batch": {}, "gallery": {}}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for value in tqdm((8, 16, 32, 64, 128), "batch"):
            found["batch"][value] = step_rate(root, value, 96)
            keras.backend.clear_session()
        for value in tqdm((64, 96, 128, 192, 256), "image size"):
            found["image_size"][value] = step_rate(root, 16, value)
            keras.backend.clear_session()
        for value in tqdm((100, 1000, 10_000, 100_000), "items"):
            found["first_batch"][value], found["items"][value] = input_rate(root, value)
        for value in tqdm((1000, 10_000, 100_000), "gallery"):
            found["gallery"][value] = metric_rate(value)
    (RESULTS / "growth.json").write_text(json.dumps(found, indent=2) + "\n")
    draw(found)
    print(json.dumps(found, indent=2))
    print(f"written: {RESULTS / 'growth.json'}, {RESULTS / 'growth.png'}")


def draw(found):
    """Draws growth.png."""
    panels = [
        ("batch", "batch (96 px)", "training step, µs an image and pixel", "step"),
        ("image_size", "image size (batch 16)", "training step, µs an image and pixel", "step"),
        ("items", "items", "input, ms an image (64 px)", "input"),
        ("first_batch", "items", "start-up, s to the first batch", "start"),
        ("gallery", "gallery (512 numbers)", "metrics, µs a query and 1,000 images", "metrics"),
    ]
    figure, axes = plt.subplots(1, len(panels), figsize=(18, 3.4), layout="constrained")
    for axis, (name, label, title, kind) in zip(axes, panels, strict=True):
        x = np.array(list(found[name]), float)
        y = np.array(list(found[name].values()), float)
        if kind == "step":
            side = 96.0 if name == "batch" else x
            y = 1e6 / y / side**2
        elif kind == "input":
            y = 1e3 / y
        elif kind == "metrics":
            y = 1e6 / y / (x / 1000)
        axis.plot(x, y, "o-")
        axis.set_xscale("log")
        axis.set_ylim(0, max(y) * 1.15)
        axis.set_xlabel(label)
        axis.set_title(title, fontsize=9)
        axis.grid(alpha=0.3)
    figure.savefig(RESULTS / "growth.png", dpi=110)


if __name__ == "__main__":
    main()
