"""Times one training step of fir_tf beside plain Keras 3 and PyTorch.

  python benchmarks/train_step.py --torch_python=<python with torch, timm, pytorch-metric-learning>

The same backbone, relaxation head, batch (32 = 8 items x 4 images), losses (cross-entropy and the
triplet loss over all triplets) and Adam, with batch-norm statistics of the batch, in one run, one
side after the other. ResNet50 is v1.5 on all sides, the one that timm has. Prints a table and
writes benchmarks/results/train_step.json.
"""

import argparse
import dataclasses
import json
import os
import statistics
import sys
import types
from pathlib import Path

from sides import Side, compare, serve

HERE = Path(__file__).parent
BATCH, CATEGORIES = 32, 20
CASES = [
    ("resnet50_v15", 128),
    ("resnet50_v15", 224),
    ("densenet121", 128),
    ("densenet121", 224),
    ("efficientnet_lite0", 128),
]


def tensorflow_side(args):
    """Serves fir_tf's step, or the same with Keras' own batch normalisation and Adam."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    # Before TensorFlow, whose environment it sets.
    from fir_tf.models import layers  # isort: split

    import keras
    import numpy as np
    import tensorflow as tf

    if args.side == "keras":
        layers.FusedBatchNormalization = keras.layers.BatchNormalization

    from fir_tf.config import Config
    from fir_tf.losses.objective import Objective, make_losses
    from fir_tf.models import backbones, fir
    from fir_tf.samplers.triplets import triplet_rows
    from fir_tf.training.optimizer import make_optimizer
    from fir_tf.training.precision import policy
    from fir_tf.training.step import TrainStep

    if args.side == "keras":
        backbones.with_faster_layers = backbones.rebuilt = lambda model, *_: model
        fir.set_batch_norm = lambda *_: None
    images = BATCH
    config = Config(
        backbone=args.backbone, image_size=args.image_size, weights="none", batch_norm="batch"
    )
    with policy(args.precision):
        model = fir.build_fir(config, args.image_size, CATEGORIES)
    variables = model.trainable_variables
    optimizer = make_optimizer(config, model, variables, 1e-4)
    if args.side == "keras":
        optimizer = keras.optimizers.Adam(1e-4)
        optimizer.build(variables)
    item, classified = np.repeat(np.arange(8, dtype=np.int32), 4), np.ones(images, bool)
    triplets = "all"
    if args.side == "explicit":
        # 11 anchors, positives and negatives: 33 images.
        images, triplets = 33, "explicit"
        anchor = np.arange(11, dtype=np.int32)
        item = np.concatenate([anchor, anchor, (anchor + 1) % 11])
        classified = np.arange(33) < 11
    config = dataclasses.replace(config, triplets=triplets, remat=args.side == "remat")
    rows = types.SimpleNamespace(
        classified=classified,
        triplets=triplet_rows(11, ["item"]) if triplets == "explicit" else {},
    )
    terms = config.terms()
    objective = Objective(terms, make_losses(terms, config.loss_settings()), rows)
    step = TrainStep(
        fir.training_model(model),
        optimizer,
        objective,
        variables,
        config,
    )
    shape = (images, args.image_size, args.image_size, 3)
    batch = {
        "images": np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32),
        "category": item % 5,
        "item": item,
        "row": np.arange(images, dtype=np.int32),
        "valid": np.ones(images, bool),
    }
    batches = iter(tf.data.Dataset.from_tensors(batch).cache().repeat())

    def work(count):
        for _ in range(count):
            scalars, _ = step(batches, 1)
        float(scalars["loss"][0])

    work(2)
    serve(work)


def sides(backbone, image_size, precision, torch_python):
    """Returns the Sides of one row."""
    common = [f"--backbone={backbone}", f"--image_size={image_size}", f"--precision={precision}"]
    own = [sys.executable, str(HERE / "train_step.py"), *common]
    found = [Side(name, [*own, f"--side={name}"]) for name in ("fir_tf", "remat", "keras")]
    if torch_python:
        torch = [torch_python, str(HERE / "torch_train_step.py"), *common]
        found += [Side("torch", torch), Side("torch compiled", [*torch, "--compiled"])]
    return found


def main():
    """Runs the comparison, or serves as one of its sides."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch_python", default="", help="a Python with torch; none: left out")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side (%(default)s)")
    parser.add_argument("--steps", type=int, default=3, help="steps a turn (%(default)s)")
    parser.add_argument("--precisions", default="float32,bfloat16")
    cases = {f"{backbone}:{image_size}": (backbone, image_size) for backbone, image_size in CASES}
    parser.add_argument("--only", default="", choices=["", *cases], help="one backbone:size")
    parser.add_argument("--side", default="", help=argparse.SUPPRESS)
    parser.add_argument("--backbone", help=argparse.SUPPRESS)
    parser.add_argument("--image_size", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--precision", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        tensorflow_side(args)
        return
    path = HERE / "results" / "train_step.json"
    path.parent.mkdir(exist_ok=True)
    results = json.loads(path.read_text()) if path.exists() else {}
    for backbone, image_size in [cases[args.only]] if args.only else CASES:
        for precision in args.precisions.split(","):
            row = sides(backbone, image_size, precision, args.torch_python)
            found = compare(row, BATCH, args.rounds, args.steps)
            name = f"{backbone} {image_size} {precision}"
            results[name] = {
                side.name: {
                    "images_per_second": round(side.median(), 1),
                    "cpu_ms_per_image": round(1000 * statistics.median(side.cpu), 1),
                    "peak_memory_mb": round(side.memory),
                }
                for side in row
                if side.name in found
            }
            path.write_text(json.dumps(results, indent=2) + "\n")
            print(line(name, results[name]), flush=True)
        if (backbone, image_size) == CASES[0]:
            print(triplet_line(results, args), flush=True)
            path.write_text(json.dumps(results, indent=2) + "\n")


def line(name, sides):
    """Returns a row of the table: rates, and how ours compares, in time and in CPU time."""
    ours, parts = sides["fir_tf"], []
    for other, side in sides.items():
        time = ours["images_per_second"] / side["images_per_second"]
        cpu = side["cpu_ms_per_image"] / ours["cpu_ms_per_image"]
        parts.append(f"{other} {side['images_per_second']:.1f} ({time:.2f}x, CPU {cpu:.2f}x)")
    return f"{name:32s} images/s: " + ", ".join(parts)


def triplet_line(results, args):
    """Compares the paper's explicit triplets with mining, in useful triplets a second.

    A P x K batch of 8 x 4 holds 8 * 4 * 3 * 28 triplets; 33 images in explicit form hold 11.
    """
    backbone, image_size = CASES[0]
    own = [sys.executable, str(HERE / "train_step.py")]
    own += [f"--backbone={backbone}", f"--image_size={image_size}"]
    own.append("--precision=float32")
    row = [Side("mined", [*own, "--side=fir_tf"]), Side("explicit", [*own, "--side=explicit"])]
    found = compare(row, 1, args.rounds, args.steps)
    steps = {name: rate for name, (rate, _) in found.items()}
    results[f"triplets, {backbone} {image_size} float32"] = {
        "mined": {
            "images_per_second": 32 * steps["mined"],
            "triplets_per_second": 2688 * steps["mined"],
        },
        "explicit": {
            "images_per_second": 33 * steps["explicit"],
            "triplets_per_second": 11 * steps["explicit"],
        },
    }
    return (
        f"a gradient from 32 anchors: mined {steps['mined']:.2f}/s, explicit "
        f"{steps['explicit'] * 11 / 32:.2f}/s ({steps['mined'] * 32 / steps['explicit'] / 11:.1f}x)"
    )


if __name__ == "__main__":
    main()
