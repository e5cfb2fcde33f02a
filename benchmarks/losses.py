"""Times value and gradient of the losses beside those of other packages.

  python benchmarks/losses.py --addons_python=.venv-addons/bin/python --torch_python=<python>

One batch of n x 128 numbers, four images a class, in a graph and under XLA; the sides take turns
in one run. --addons_python has tensorflow-addons; fir_tf runs there too, on the same TensorFlow.
--similarity_python has tensorflow-similarity, --torch_python torch and pytorch-metric-learning. A
side whose interpreter is not given is left out. Prints the table of benchmarks/README.md and writes
benchmarks/results/losses.json.
"""

import argparse
import json
import os
import statistics
import sys
from pathlib import Path

from sides import Side, serve

HERE = Path(__file__).parent
WIDTH, IMAGES = 128, 4
# Their names in the table, and of the others' classes.
LOSSES = (
    *("semihard", "hard", "all", "lifted", "npairs", "contrastive"),
    *("supcon", "multi_similarity", "circle"),
)
# What a package has of them, by the side's name in the table; fir_tf has all.
OTHERS = {
    "addons": ("semihard", "hard", "lifted", "npairs", "contrastive"),
    "similarity": ("semihard", "hard", "multi_similarity", "circle"),
    "torch": ("semihard", "hard", "all", "lifted", "supcon", "multi_similarity", "circle"),
}
NAMES = ("fir_tf", "fir_tf on 2.15", "addons", "similarity", "torch")
# Tensors of n^3 numbers take more than 30 GB at 2,048 rows; torch's "lifted" a minute at 512.
LARGEST = {
    ("addons", "semihard"): 512,
    ("addons", "lifted"): 512,
    ("torch", "semihard"): 512,
    ("torch", "all"): 512,
    ("torch", "hard"): 512,
    ("torch", "lifted"): 128,
}


def batch(count):
    """Returns (vectors, labels): float32 [n, WIDTH] of length 1 and int64 [n]."""
    import numpy as np

    rng = np.random.default_rng(0)
    labels = np.arange(count) // IMAGES
    vectors = rng.normal(size=(count, WIDTH)) + rng.normal(size=(count, WIDTH))[labels]
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), labels


def keras_losses(library):
    """Returns {name: loss of (labels, vectors)} of fir_tf's or tensorflow-addons' losses module."""
    import fir_tf  # noqa: F401, isort:skip  # before TensorFlow: it switches oneDNN on
    import tensorflow as tf

    npairs, contrastive = library.NpairsLoss(), library.ContrastiveLoss()
    own = getattr(library, "RegisteredLoss", None)
    found = {
        "semihard": library.TripletSemiHardLoss(),
        "hard": library.TripletHardLoss(),
        "lifted": library.LiftedStructLoss(),
        "npairs": lambda y, x: npairs(y, tf.matmul(x, x, transpose_b=True)),
        # Each row and the next one are a pair.
        "contrastive": lambda y, x: contrastive(
            tf.cast(y == tf.roll(y, 1, 0), tf.int32), tf.norm(x - tf.roll(x, 1, 0) + 1e-6, axis=1)
        ),
    }
    if own:
        found["all"] = library.TripletLoss()
        found |= {name: own(name) for name in ("supcon", "multi_similarity", "circle")}
    return found


def similarity_losses():
    """Returns {name: loss of (labels, vectors)} of tensorflow-similarity, with its own defaults."""
    from tensorflow_similarity import losses

    triplets = {"semihard": "semi-hard", "hard": "hard"}
    return {
        **{
            name: losses.TripletLoss("euclidean", "hard", mining, margin=1.0)
            for name, mining in triplets.items()
        },
        "multi_similarity": losses.MultiSimilarityLoss("cosine"),
        "circle": losses.CircleLoss("cosine"),
    }


def tensorflow_work(side, name, count, jit):
    """Returns a function that works out value and gradient once."""
    if side == "similarity":
        losses = similarity_losses()
    elif side == "addons":
        from tensorflow_addons import losses as library

        losses = keras_losses(library)
    else:
        from fir_tf.keras import losses as library

        losses = keras_losses(library)

    import tensorflow as tf

    loss = losses[name]

    @tf.function(jit_compile=jit, autograph=side == "similarity")
    def run(labels, vectors):
        with tf.GradientTape() as tape:
            tape.watch(vectors)
            value = loss(labels, vectors)
        return value, tape.gradient(value, vectors)

    vectors, labels = map(tf.constant, batch(count))
    return lambda: run(labels, vectors)[1].numpy()


def torch_work(name, count):
    """Returns a function that works out value and gradient once."""
    import torch
    from pytorch_metric_learning import losses, miners

    loss, mine = losses.TripletMarginLoss(margin=1.0), None
    others = {
        "lifted": losses.LiftedStructureLoss,
        "supcon": losses.SupConLoss,
        "multi_similarity": losses.MultiSimilarityLoss,
        "circle": losses.CircleLoss,
    }
    if name == "semihard":
        mine = miners.TripletMarginMiner(margin=1.0, type_of_triplets="semihard")
    elif name == "hard":
        mine = miners.BatchHardMiner()
    elif name == "multi_similarity":
        mine = miners.MultiSimilarityMiner()
    loss = others[name]() if name in others else loss
    vectors, labels = map(torch.from_numpy, batch(count))
    vectors.requires_grad_()

    def run():
        vectors.grad = None
        loss(vectors, labels, mine and mine(vectors, labels)).backward()

    return run


def serve_side(args):
    """Answers as one side: each task, a loss and a batch such as "hard:128", is made once."""
    made = {}

    def work(repeats, task):
        if task not in made:
            name, count = task.split(":")
            if args.side == "torch":
                made[task] = torch_work(name, int(count))
            else:
                made[task] = tensorflow_work(args.side, name, int(count), args.jit)
        for _ in range(repeats):
            made[task]()

    serve(work)


def start_sides(args):
    """Returns the Sides."""
    path = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": path}
    # Torch's threads would spend processor time on waiting for each other.
    environment["OMP_WAIT_POLICY"] = "PASSIVE"
    pythons = (
        *(sys.executable, args.addons_python, args.addons_python),
        *(args.similarity_python, args.torch_python),
    )
    sides = []
    for name, python in zip(NAMES, pythons, strict=True):
        for xla in ("", " XLA") if python else ():
            flags = [f"--side={name.split()[0]}", *(["--jit"] if xla else [])]
            # Theirs is written for graphs alone.
            if name not in ("torch", "similarity") or not xla:
                command = [python, str(HERE / "losses.py"), *flags]
                sides.append(Side(name + xla, command, environment))
    return [side for side in sides if side.wait()]


def can(side, name, count):
    """Returns whether a side has a loss, and memory and time for it."""
    library = side.name.split()[0]
    has = OTHERS.get(library, LOSSES)
    return name in has and count <= LARGEST.get((library, name), count)


def measure(sides, name, count, rounds):
    """Returns {side: {"seconds", "cpu"}} of value and gradient, medians."""
    running = [side for side in sides if can(side, name, count)]
    repeats, task = max(1, 256 // count), f"{name}:{count}"
    for side in running:
        side.run(1, 1, task)
        side.rates.clear()
        side.cpu.clear()
    for _ in range(rounds):
        for side in running:
            side.run(repeats, 1, task)
    return {
        side.name: {"seconds": 1 / side.median(), "cpu": statistics.median(side.cpu)}
        for side in running
    }


def row_of(name, count, found):
    """Returns a row of the table: milliseconds, and those of processor time."""
    names = [name + xla for name in NAMES[:3] for xla in ("", " XLA")] + [*NAMES[3:]]
    cells = [
        "{:.3g} ({:.3g})".format(*(1000 * found[side][key] for key in ("seconds", "cpu")))
        if side in found
        else "-"
        for side in names
    ]
    return f"| {name} | {count} | {' | '.join(cells)} |"


def main():
    """Runs the comparison, or serves as one of its sides."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--addons_python", default="", help="interpreter with tensorflow-addons")
    parser.add_argument("--similarity_python", default="", help="with tensorflow-similarity")
    parser.add_argument("--torch_python", default="", help="with pytorch-metric-learning")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side (%(default)s)")
    parser.add_argument("--only", default="", choices=["", *LOSSES], help="one loss")
    parser.add_argument("--batch", type=int, default=0, help="one size of batch")
    parser.add_argument("--side", default="", help=argparse.SUPPRESS)
    parser.add_argument("--jit", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        serve_side(args)
        return
    path = HERE / "results" / "losses.json"
    path.parent.mkdir(exist_ok=True)
    results = json.loads(path.read_text()) if path.exists() else {}
    sides = start_sides(args)
    for count in [args.batch] if args.batch else [32, 128, 512, 2048]:
        for name in [args.only] if args.only else LOSSES:
            found = results[f"{name} {count}"] = measure(sides, name, count, args.rounds)
            print(row_of(name, count, found), flush=True)
            path.write_text(json.dumps(results, indent=2) + "\n")
    for side in sides:
        side.close()


if __name__ == "__main__":
    main()
