"""How long a command takes to its first answer, beside the import of TensorFlow alone.

  python benchmarks/startup.py

Each command is a process of its own, as a user starts it, and they take turns; medians of --rounds
turns, the first of which is not counted. `search.py query` asks an index of --photos rendered
garments, made by an untrained network of --backbone, and by its OpenVINO and ONNX exports where
they are installed. Its parts (import, opening, first photo, second photo) are timed in one more
process each. Prints the tables of benchmarks/README.md and writes benchmarks/results/startup.json.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from tqdm import tqdm
from untrained import write_run

from fir_tf import boutique
from fir_tf.files import write_json

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "startup.json"
PARTS = """
import json, sys, time
marks = [time.perf_counter()]
from fir_tf.search.index import Index
marks.append(time.perf_counter())
with Index(sys.argv[1], sys.argv[2]) as index:
    marks.append(time.perf_counter())
    for photo in sys.argv[3:]:
        index.search(photo)
        marks.append(time.perf_counter())
spent = [after - before for before, after in zip(marks, marks[1:])]
print(json.dumps([*spent, "tensorflow" in sys.modules]))
"""


def processor_seconds():
    """Returns what the processes that have ended have used."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def timed(command):
    """Runs a command; returns its (seconds, processor seconds)."""
    before, start = processor_seconds(), time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - start, processor_seconds() - before


def made(folder, options):
    """Makes what is asked; returns (photos' folder, index, {name: model's folder})."""
    photos = folder / "photos"
    boutique.write(photos, boutique.Order(items=max(16, options.photos // 8), views=8, size=256))
    run = write_run(
        folder / "run", ["garment"], backbone=options.backbone, image_size=options.image_size
    )
    models = {"a run": run}
    for name, form, file in (
        ("OpenVINO", "openvino", "model.xml"),
        ("ONNX", "onnx", "model.onnx"),
    ):
        export = [sys.executable, "export.py", f"--run={run}", f"--format={form}"]
        if subprocess.run(export, cwd=ROOT, capture_output=True, check=False).returncode:
            print(f"left out: {name} is not installed", flush=True)
        else:
            models[f"its {name} export"] = next(run.rglob(file)).parent
    for name, model in models.items():
        subprocess.run(
            [
                *(sys.executable, "search.py", "index", f"--model={model}"),
                *(f"--images={photos}", f"--index={folder / name}"),
            ],
            cwd=ROOT,
            check=True,
            capture_output=True,
        )
    return photos, models


def commands(folder, photos, models, options):
    """Returns {name: command line}."""
    photo = next(photos.rglob("*.jpg"))
    train = [
        *(sys.executable, "train.py", "--dry_run", "--dataset=inshop", f"--data_dir={photos}"),
        *(f"--backbone={options.backbone}", f"--image_size={options.image_size}"),
        *("--weights=none", f"--run={folder / 'new'}", "--val_fraction=0.2"),
    ]
    return {
        "python -c 'import tensorflow'": [sys.executable, "-c", "import tensorflow"],
        "python -c 'import fir_tf'": [sys.executable, "-c", "import fir_tf"],
        "search.py --help": [sys.executable, "search.py", "--help"],
        **{
            f"search.py query, {name}": [
                *(sys.executable, "search.py", "query", str(photo), f"--index={folder / name}"),
            ]
            for name in models
        },
        "train.py --dry_run": train,
    }


def main():
    """See the top of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="turns that count (5)")
    parser.add_argument("--photos", type=int, default=64, help="of the index (64)")
    parser.add_argument("--backbone", default="efficientnet_lite0", help="(efficientnet_lite0)")
    parser.add_argument("--image_size", type=int, default=128, help="pixels (128)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photos, models = made(folder, options)
        lines = commands(folder, photos, models, options)
        turns = {command: [] for command in lines}
        for _ in tqdm(range(options.rounds + 1), desc="turns", disable=None):
            for command, line in lines.items():
                turns[command].append(timed(line))
        asked = [str(path) for path in sorted(photos.rglob("*.jpg"))[:2]]
        parts = {
            name: json.loads(
                subprocess.run(
                    [sys.executable, "-c", PARTS, folder / name, model, *asked],
                    cwd=ROOT,
                    check=True,
                    capture_output=True,
                ).stdout.splitlines()[-1]
            )
            for name, model in models.items()
        }
    medians = {
        command: [statistics.median(column) for column in zip(*found[1:], strict=True)]
        for command, found in turns.items()
    }
    alone = next(iter(medians.values()))
    print("| | seconds | processor seconds | to the import of TensorFlow |\n|---|---|---|---|")
    for command, (wall, used) in medians.items():
        print(f"| `{command}` | {wall:.2f} | {used:.2f} | {used / alone[1]:.2f} |")
    print("\n| seconds of | import | opening | first photo | second photo | TensorFlow |")
    print("|---|---|---|---|---|---|")
    for name, (*spent, imported) in parts.items():
        cells = " | ".join(f"{seconds:.2f}" for seconds in spent)
        print(f"| {name} | {cells} | {'imported' if imported else 'not imported'} |")
    write_json(RESULTS, {"options": vars(options), "commands": medians, "parts": parts})


if __name__ == "__main__":
    main()
