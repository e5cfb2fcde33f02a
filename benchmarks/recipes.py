"""Trains our recipes and those of PyTorch's libraries for the same processor seconds.

  python benchmarks/recipes.py --variants=recipes/losses.variants --dataset=inshop \\
      --data_dir=data/inshop --torch_python=<python with torch, timm, pytorch-metric-learning>

All sides get the same photos, weights, image size, batches of P x K, crops and frozen stages. Each
first times its own steps and plans a run that ends after --seconds of processor time; --points
times on the way it embeds the test photos, which is not counted. One code measures all embeddings.

Prints the table of benchmarks/README.md and writes benchmarks/results/recipes.json and
recipes_<name>.png. The same command goes on where it was stopped. The queries are those of the
test part: choose variants by tools/compare.py, not by this.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
RESULTS = HERE / "results"
# What torch_recipe.py knows, of pytorch-metric-learning and of open-metric-learning.
PEERS = (
    "triplet_all",
    "triplet_semihard",
    "supcon",
    "multi_similarity",
    "arcface",
    "proxy_anchor",
)
OPEN_PEERS = ("oml_all", "oml_hard")
METRICS = ("recall@1", "mAP@R")
GROUPS, IMAGES, AREA_MIN, GRAYSCALE = 8, 4, 0.3, 0.1
# Steps that are made before others are timed, and those.
WARM, TIMED = 3, 12


def record(task, steps, advance, embed):
    """A side's part: trains and embeds in turns, from before the first step on.

    Writes `<number>.npy`, the test photos' embeddings, float32 [n, d], and points.json into the
    folder of the task.

    Args:
        task: dict, see `make_task`.
        steps: int, those of the whole run.
        advance: callable of (first, last), which makes the steps from first to before last.
        embed: callable without arguments, which returns the embeddings.
    """
    folder, startup = Path(task["folder"]), time.process_time()
    made, used, points = 0, 0.0, []
    for number in range(task["points"] + 1):
        step, begin = round(number * steps / task["points"]), time.process_time()
        advance(made, step)
        made, used = step, used + time.process_time() - begin
        np.save(folder / f"{number}.npy", embed())
        points.append({"step": step, "seconds": used})
    found = {"startup_seconds": startup, "points": points}
    (folder / "points.json").write_text(json.dumps(found))


def planned_steps(task, seconds_a_step):
    """Returns how many steps end at the task's seconds, at least one for each of its points."""
    return max(task["points"], round(task["seconds"] / seconds_a_step))


def timed(steps):
    """Returns processor seconds of one step; `steps` is a callable of how many are made."""
    steps(WARM)
    begin = time.process_time()
    steps(TIMED)
    return (time.process_time() - begin) / TIMED


class Ours:
    """A recipe of train.py, ready to be trained.

    Args:
        config: Config of one epoch, see `config_of`.
        catalogue: Catalogue.
        steps: int, updates of the run.
    """

    def __init__(self, config, catalogue, steps):
        from fir_tf.models.fir import build_fir
        from fir_tf.samplers.choose import make_sampler
        from fir_tf.training.from_config import make_parts
        from fir_tf.training.loop import stages
        from fir_tf.training.trainer import build_trainer

        plain = dataclasses.replace(config, weights="none")
        self._config = config
        self.parts = make_parts(config, catalogue, make_sampler(catalogue, config))
        self.parts.plain = build_fir(plain, config.image_size, len(catalogue.categories))
        self.trainer = build_trainer(self.parts, config, steps)
        # Made before the run, since it takes seconds to build what reads them.
        self._batches = {
            step: self.batches(side, step)
            for step, side in stages(config.training_sizes(), steps).items()
        }

    def batches(self, side, step=0):
        """Returns the batches of a size from a step on."""
        from fir_tf.training.trainer import distributed_batches

        inputs = dataclasses.replace(self._config, image_size=side)
        first = step * self._config.accumulate
        return distributed_batches(self.trainer, self.parts, inputs, first)

    def seconds_a_step(self):
        """Returns processor seconds of a step, the mean over the run's stages."""

        def measured(side, heads_only=False):
            batches = self.batches(side)
            return timed(lambda count: self.trainer.update(batches, count, heads_only))

        config = self._config
        sides = config.training_sizes()
        whole = [measured(side) for side in sides]
        mean = sum(whole) / len(whole)
        if config.freeze_epochs:
            share = min(1, config.freeze_epochs)
            mean += share * (measured(sides[0], heads_only=True) - whole[0])
        return mean

    def compile(self):
        """Compiles what the run needs and takes first batches; the weights stay as they were."""
        trainer, objective = self.trainer, self.parts.objective
        variables = [
            *trainer.model.variables,
            *trainer.optimizer.variables,
            *objective.variables,
            *objective.state,
            *(trainer.averages or ()),
        ]
        before = [variable.numpy() for variable in variables]
        for step, batches in self._batches.items():
            for heads_only in {False, step < trainer.frozen}:
                trainer.update(batches, 1, heads_only)
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)

    def advance(self, first, last):
        """Makes the steps from first to before last."""
        for step in range(first, last):
            stage = max(number for number in self._batches if number <= step)
            self.trainer.update(self._batches[stage], 1, step < self.trainer.frozen)


def config_of(task):
    """Returns the Config of one of our tasks: the run is its one epoch.

    What the recipe counts in epochs keeps its share of the run.

    Raises:
        FirError: the recipe has something that a run of planned length cannot have.
    """
    from absl import flags

    from fir_tf.cli.common import define_flags, read_flags
    from fir_tf.config import Config
    from fir_tf.errors import FirError

    define_flags(dataclasses.fields(Config))
    flags.FLAGS(["recipes.py", *task["flags"]])
    config = read_flags(Config)
    if config.schedule == "step":
        raise FirError("a recipe must have --schedule=cosine or constant here. Received: step")
    if config.interpolate:
        raise FirError("a recipe with --interpolate needs a validation part, which none has here")
    return dataclasses.replace(
        config,
        epochs=1,
        warmup_epochs=config.warmup_epochs / config.epochs,
        freeze_epochs=config.freeze_epochs / config.epochs,
    )


def train_ours(task):
    """Trains one of our recipes as a process of its own."""
    from fir_tf.cli.common import load_library

    datasets = load_library("fir_tf.datasets.loading")

    from fir_tf.evaluation.embedder import Embedder

    config = config_of(task)
    catalogue = datasets.load_training(config)
    if not catalogue.categories:
        catalogue = catalogue.with_categories(["unknown"])
    # The schedule is compiled into the step: one to be timed, then the run's.
    steps = planned_steps(task, Ours(config, catalogue, 1000).seconds_a_step())
    ours = Ours(config, catalogue, steps)
    ours.compile()
    embedder = Embedder(ours.trainer.served(), config.eval_size, config.resize)

    def embed():
        ours.trainer.served()
        return np.concatenate([part.embedding for part in embedder.files(task["test"])])

    record(task, steps, ours.advance, embed)


def conditions_of(args):
    """Returns the flags of train.py that are the same for all sides."""
    return {
        "dataset": args.dataset,
        "data_dir": args.data_dir,
        "columns": args.columns,
        "backbone": args.backbone,
        "weights": "imagenet",
        "image_size": args.image_size,
        "test_size": 0,
        "resize": args.resize,
        "crop_area_min": AREA_MIN,
        "grayscale": GRAYSCALE,
        "batch_size": GROUPS * IMAGES,
        "images_per_item": IMAGES,
        "freeze": args.freeze,
        "batch_norm": "frozen",
        "mixed_precision": "float32",
        "distribute": "none",
        # There is nothing to choose: all sides train on all training items, to the end.
        "val_fraction": 0,
        "cv_fold": "",
        "extra_data": "",
    }


class Photos:
    """The data set: what is trained on, and what the embeddings of the test photos are worth.

    Args:
        conditions: dict, see `conditions_of`.
    """

    def __init__(self, conditions):
        from fir_tf import datasets
        from fir_tf.datasets.catalogue import retrieval_sides

        names = ("dataset", "data_dir", "columns")
        self._catalogue = datasets.load(*(conditions[name] for name in names))
        self._query, self._gallery = retrieval_sides(self._catalogue)
        self._rows = np.unique(np.concatenate([self._query, self._gallery]))
        self.test = self._catalogue.rows(self._rows).files()
        training = self._catalogue.part("train")
        training = training.rows(training.item >= 0)
        self.train = {"files": training.files(), "item": training.item.tolist()}

    def score(self, embeddings):
        """Returns {metric: float} of the embeddings of `test`."""
        from fir_tf.evaluation.metrics import retrieval_metrics

        sides = self._query, self._gallery
        vectors = (embeddings[np.searchsorted(self._rows, side)] for side in sides)
        items = (self._catalogue.item[side] for side in sides)
        found = retrieval_metrics(*vectors, *items, query_ids=sides[0], gallery_ids=sides[1])
        return {name: found.values[name] for name in METRICS}


def make_task(args, photos, seed, folder):
    """Returns what a side is told, ready for JSON."""
    from fir_tf import registry
    from fir_tf.models.pretrained.download import imagenet_file

    backbone = registry.get("backbone", args.backbone)
    return {
        "folder": str(folder),
        "seconds": args.seconds,
        "points": args.points,
        "seed": seed,
        "train": photos.train,
        "test": photos.test,
        "backbone": args.backbone,
        "weights": str(imagenet_file(backbone.weights)),
        "mean": backbone.normalisation.mean,
        "std": backbone.normalisation.std,
        "image_size": args.image_size,
        "resize": args.resize,
        "freeze": args.freeze,
        "area_min": AREA_MIN,
        "grayscale": GRAYSCALE,
        "groups": GROUPS,
        "images": IMAGES,
        "learning_rate": args.learning_rate,
    }


def run_side(task, python, script, photos):
    """Trains a side as a process; returns what results.json holds of it.

    Raises:
        FirError: it failed.
    """
    from fir_tf.errors import FirError

    folder = Path(task["folder"])
    path = folder / "task.json"
    path.write_text(json.dumps(task))
    environment = {
        **os.environ,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONPATH": str(HERE.parent),
        # torch's threads else spend processor seconds on waiting, on a busy machine most of them.
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    ended = subprocess.run([python, str(HERE / script), f"--task={path}"], env=environment)
    if ended.returncode:
        raise FirError(f"{script} ended with status {ended.returncode}; see above")
    found = json.loads((folder / "points.json").read_text())
    for number, point in enumerate(found["points"]):
        point.update(photos.score(np.load(folder / f"{number}.npy")))
    return found


def run_all(args, sides, results):
    """Trains what is not in `results`, which is written after each run."""
    from fir_tf.errors import FirError
    from fir_tf.files import write_json

    conditions = conditions_of(args)
    shared = [f"--{name}={value}" for name, value in conditions.items()]
    photos = None
    for seed in args.seeds:
        for name, side in sides.items():
            key = f"{args.name}, {name}, seed {seed}"
            told = {**conditions, **side, "seconds": args.seconds, "points": args.points}
            if key in results:
                if results[key]["told"] != told:
                    raise FirError(
                        f"{key} was run with {results[key]['told']}, now {told}. Give another "
                        "--name, or the variant another one"
                    )
                continue
            photos = photos or Photos(conditions)
            with tempfile.TemporaryDirectory() as folder:
                task = make_task(args, photos, seed, folder)
                if "flags" in side:
                    flags = [*side["flags"], *shared, f"--seed={seed}", f"--run={folder}/run"]
                    run = {**task, "flags": flags}, sys.executable, "recipes.py"
                else:
                    run = {**task, **side}, args.torch_python, "torch_recipe.py"
                found = run_side(*run, photos)
            results[key] = {"told": told, "name": args.name, "side": name, "seed": seed, **found}
            write_json(RESULTS / "recipes.json", results)
            last = found["points"][-1]
            values = ", ".join(f"{metric} {last[metric]:.3f}" for metric in METRICS)
            print(f"{key}: {values} after {last['seconds']:.1f} s", flush=True)


def curves_of(sides, runs):
    """Returns {side: {column: float array [seeds, points]}}; the columns of a point."""
    columns = ("seconds", "step", *METRICS)
    found = {}
    for name in sides:
        points = [run["points"] for run in runs if run["side"] == name]
        found[name] = {
            column: np.array([[point[column] for point in own] for own in points])
            for column in columns
        }
    return found


def first_reached(curve, wanted):
    """Returns the mean processor seconds at the first point whose mean recall@1 is `wanted`.

    Returns:
        float, or None where no point has it.
    """
    reached = np.flatnonzero(curve["recall@1"].mean(axis=0) >= wanted)
    return float(curve["seconds"].mean(axis=0)[reached[0]]) if len(reached) else None


def table(sides, runs):
    """Returns the table as Markdown, the best side first."""
    curves = curves_of(sides, runs)
    final = {name: curve["recall@1"][:, -1].mean() for name, curve in curves.items()}
    peers = [name for name, side in sides.items() if "flags" not in side]
    best = max(peers, key=final.get, default=None)
    last = "until the best peer's recall@1, s" if best else ""
    head = ["", *METRICS, "before training", "steps", "seconds", "start-up, s", last]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name in sorted(final, key=lambda name: -final[name]):
        curve = curves[name]
        until = first_reached(curve, final[best]) if best else None
        startup = np.mean([run["startup_seconds"] for run in runs if run["side"] == name])
        cells = [
            name,
            *(f"{curve[metric][:, -1].mean():.3f}" for metric in METRICS),
            f"{curve['recall@1'][:, 0].mean():.3f}",
            f"{curve['step'][:, -1].mean():.0f}",
            f"{curve['seconds'][:, -1].mean():.1f}",
            f"{startup:.0f}",
            "" if not best else "never" if until is None else f"{until:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(sides, runs, path):
    """Draws the curves: means over seeds, each seed pale, the peers dashed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(METRICS), figsize=(13, 4.6), layout="constrained")
    for axis, metric in zip(panels, METRICS, strict=True):
        for number, (name, curve) in enumerate(curves_of(sides, runs).items()):
            style = {"color": f"C{number % 10}", "ls": "-" if "flags" in sides[name] else "--"}
            if len(curve["seconds"]) > 1:
                axis.plot(curve["seconds"].T, curve[metric].T, alpha=0.25, lw=0.8, **style)
            mean = curve["seconds"].mean(axis=0), curve[metric].mean(axis=0)
            axis.plot(*mean, "o", ms=3, lw=1.8, label=name, **style)
        axis.set_title(metric, loc="left", fontsize=10)
        axis.set_xlabel("processor seconds of training")
        axis.grid(alpha=0.3)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def sides_of(args):
    """Returns {name: flags of a variant, or a peer's name and rate}, ours first.

    Raises:
        FirError: there is none, two have one name, or a peer is unknown.
    """
    sys.path.insert(0, str(HERE.parent / "tools"))
    from grid import parse_variant, read_variants

    from fir_tf.errors import FirError

    variants = [variant for path in args.variants for variant in read_variants(path)]
    variants += map(parse_variant, args.variant)
    peers = args.peers.split(",") if args.torch_python and args.peers else []
    for name in peers:
        if name not in PEERS + OPEN_PEERS:
            known = ", ".join(PEERS + OPEN_PEERS)
            raise FirError(f"`peers` must be some of {known}. Received: {name!r}")
    ours = {variant.name: {"flags": list(variant.flags)} for variant in variants}
    rate = {"learning_rate": args.learning_rate}
    sides = ours | {f"{name} (peer)": {"peer": name, **rate} for name in peers}
    if not sides or len(sides) < len(variants) + len(peers):
        names = ", ".join([*(variant.name for variant in variants), *peers])
        raise FirError(f"give recipes, each with its own name. Received: {names or 'none'}")
    return sides


def compare(args):
    """Trains, prints and draws."""
    from fir_tf.files import read_json

    path = RESULTS / "recipes.json"
    RESULTS.mkdir(exist_ok=True)
    args.name = args.name or Path(args.data_dir).stem
    results = read_json(path, "Remove it to begin anew") if path.exists() else {}
    sides = sides_of(args)
    run_all(args, sides, results)
    keys = [f"{args.name}, {name}, seed {seed}" for name in sides for seed in args.seeds]
    runs = [results[key] for key in keys]
    picture = RESULTS / f"recipes_{args.name}.png"
    draw(sides, runs, picture)
    print(f"\n{args.name}, seeds {', '.join(map(str, args.seeds))}:\n\n{table(sides, runs)}\n")
    print(f"written: {path}, {picture}")


def parse():
    """Returns the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--variants", action="append", default=[], metavar="FILE", help="see tools/compare.py")
    add("--variant", action="append", default=[], metavar="'NAME: FLAGS'", help="one of ours")
    add("--torch_python", default="", help="interpreter of the peers; none without it")
    add(
        "--peers",
        default=",".join(PEERS),
        help=f"with commas (%(default)s; {', '.join(OPEN_PEERS)})",
    )
    add("--dataset", default="inshop", help="as of train.py (%(default)s)")
    add("--data_dir", default="data/inshop", help="as of train.py (%(default)s)")
    add("--columns", default="", help="as of train.py")
    add("--backbone", default="efficientnet_lite0", help="an EfficientNet-Lite (%(default)s)")
    add("--image_size", type=int, default=128, help="as of train.py (%(default)s)")
    add("--resize", default="crop", help="as of train.py (%(default)s)")
    add("--freeze", type=int, default=2, help="as of train.py (%(default)s)")
    add("--learning_rate", type=float, default=3e-4, help="the peers' (%(default)s)")
    add("--seconds", type=float, default=60.0, help="processor seconds (%(default)s)")
    add("--points", type=int, default=8, help="measurements on the way (%(default)s)")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(0 1 2)")
    add("--name", default="", help="in the results; that of the data by default")
    add("--task", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    """Compares, or trains as one of our sides."""
    from fir_tf.shell import run_command

    args = parse()
    if args.task:
        task = json.loads(Path(args.task).read_text())
        return run_command(lambda: train_ours(task))
    return run_command(lambda: compare(args))


if __name__ == "__main__":
    sys.exit(main())
