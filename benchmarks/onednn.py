"""Times what fir_tf does with TensorFlow's oneDNN kernels on and off, on this processor.

  python benchmarks/onednn.py [--isa=AVX2]

Both settings take turns in one run: a training step, embedding as evaluation and the index do it,
the SavedModel's answer to image bytes, and exact search. Prints a table and writes
benchmarks/results/onednn.json. --python names another environment, such as that of TensorFlow 2.15.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

from sides import Side, compare, serve

HERE = Path(__file__).parent
SETTINGS = {"on": "1", "off": "0"}
SIZE = 128
# What a turn does: repetitions, and units of one repetition.
WORK = {"training step": (2, 32), "embedding": (2, 64), "serving": (2, 64), "search": (1, 64)}


def embedding():
    """Returns a function that embeds a batch, as evaluation and the index do it."""
    from fir_tf.config import ModelSettings
    from fir_tf.models.fir import build_fir  # isort: split

    import numpy as np
    import tensorflow as tf

    model = build_fir(ModelSettings(backbone="efficientnet_lite0", weights="none"), SIZE, 20)
    run = tf.function(lambda pixels: model(pixels, training=False)["embedding"])
    pixels = np.random.default_rng(0).uniform(0, 255, (64, SIZE, SIZE, 3)).astype(np.float32)
    return lambda: run(tf.constant(pixels)).numpy()


def serving():
    """Returns a function that asks a SavedModel for the embeddings of 64 JPEG files."""
    from untrained import write_run  # isort: split

    import numpy as np
    import tensorflow as tf

    from fir_tf.options import ExportOptions
    from fir_tf.serving.export import export

    pixels = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3), dtype=np.uint8)
    photos = [
        tf.io.encode_jpeg(tf.cast(tf.image.resize(small, (300, 300)), tf.uint8)).numpy()
        for small in pixels
    ]
    with tempfile.TemporaryDirectory() as folder:
        run = write_run(
            Path(folder) / "run",
            ["dress", "shirt"],
            backbone="efficientnet_lite0",
            weights="none",
            image_size=SIZE,
        )
        loaded = tf.saved_model.load(str(export(ExportOptions(run=str(run)))))
    embed = loaded.signatures["embed"]
    # `loaded` owns the variables.
    return lambda: loaded and embed(image_bytes=tf.constant(photos))["embedding"].numpy()


def search():
    """Returns a function that finds the 50 nearest of 200,000 vectors for 64 queries."""
    from fir_tf.neighbours import top_k  # isort: split

    import numpy as np

    rng = np.random.default_rng(0)
    gallery = rng.standard_normal((200_000, 512), dtype=np.float32)
    queries = rng.standard_normal((64, 512), dtype=np.float32)
    return lambda: top_k(queries, gallery, 50)


def rate():
    """Returns a function that multiplies matrices: 2 * 2048^3 operations."""
    import fir_tf  # noqa: F401

    # isort: split
    import tensorflow as tf

    matrix = tf.random.normal((2048, 2048))
    return lambda: tf.matmul(matrix, matrix).numpy()


SIDES = {"embedding": embedding, "serving": serving, "search": search, "rate": rate}


def serve_side(name):
    """Answers as one side of a comparison."""
    run = SIDES[name]()
    run()
    serve(lambda count: [run() for _ in range(count)])


def sides_of(name, args):
    """Returns the two Sides of a row: the same command, with the kernels on and off."""
    command = [args.python, str(HERE / "onednn.py"), f"--side={name}"]
    if name == "training step":
        command = [args.python, str(HERE / "train_step.py"), "--side=fir_tf"]
        command += ["--backbone=efficientnet_lite0", f"--image_size={SIZE}", "--precision=float32"]
    common = {"TF_CPP_MIN_LOG_LEVEL": "3"} | ({"ONEDNN_MAX_CPU_ISA": args.isa} if args.isa else {})
    return [
        Side(setting, command, {**os.environ, **common, "TF_ENABLE_ONEDNN_OPTS": value})
        for setting, value in SETTINGS.items()
    ]


def main():
    """Runs the comparison, or serves as one of its sides."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", default=sys.executable, help="the interpreter (this one)")
    parser.add_argument("--isa", default="", help="ONEDNN_MAX_CPU_ISA, such as AVX2")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side (%(default)s)")
    parser.add_argument("--only", default="", choices=["", *WORK], help="one row")
    parser.add_argument("--side", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        serve_side(args.side)
        return
    results = {}
    for name, (count, units) in {"rate": (5, 2 * 2048**3 / 1e9), **WORK}.items():
        if name != "rate" and args.only not in ("", name):
            continue
        row = sides_of(name, args)
        compare(row, units, args.rounds, count)
        on, off = row
        results[name] = {
            "on": on.median(),
            "off": off.median(),
            "on / off": statistics.median(a / b for a, b in zip(on.rates, off.rates, strict=True)),
            "CPU off / on": statistics.median(off.cpu) / statistics.median(on.cpu),
        }
        unit = "GFLOP/s" if name == "rate" else "queries/s" if name == "search" else "images/s"
        values = results[name]
        print(
            f"{name:14s} on {values['on']:8.1f}  off {values['off']:8.1f} {unit:10s}"
            f"on / off {values['on / off']:.2f}, by CPU time {values['CPU off / on']:.2f}",
            flush=True,
        )
    path = HERE / "results" / f"onednn{args.isa and '_' + args.isa.lower()}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
