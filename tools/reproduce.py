"""Trains and evaluates what a table or figure of the paper compares, and prints ours beside it.

  python tools/reproduce.py --table=1 --data_dir=<In-shop Clothes Retrieval Benchmark>
  python tools/reproduce.py --table=1 --data_dir=data/boutique --backbones=efficientnet_lite0 \\
      --seeds=0,1 -- --image_size=128 --epochs=12

What stands behind `--` goes to train.py. Given again, the command goes on where it was stopped.
Writes <out>/table_1.md, and recall_curve.png where the metric is recall@k.
"""

import argparse
import dataclasses
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, TypeAlias

from results_table import markdown

from fir_tf.cli.common import load_library
from fir_tf.errors import FirError
from fir_tf.evaluation.paper import PAPER_RESULTS
from fir_tf.files import write_text

# Quietly: TensorFlow comes with it.
pictures = load_library("fir_tf.evaluation.pictures")

ROOT = Path(__file__).parent.parent

# {(backbone, losses): the metrics of each seed}
Found: TypeAlias = dict[tuple[str, str], list[dict[str, Any]]]


@dataclasses.dataclass(frozen=True)
class Table:
    """What is compared.

    Attributes:
        title: str.
        dataset: str, the layout and the name of its flag file.
        backbones, losses: tuples of str, the grid.
        keys: tuple of str, the metrics shown.
    """

    title: str
    dataset: str
    backbones: tuple[str, ...]
    losses: tuple[str, ...]
    keys: tuple[str, ...]


_TWO, _SUMS = ("resnet50", "densenet121"), ("OC", "OC+OS", "OC+IS")
_RECALLS = tuple(f"recall@{k}" for k in (1, 5, 10, 20, 50))
TABLES = {
    "1": Table("Table 1: In-Shop", "inshop", _TWO, _SUMS, ("recall@5", "recall@20")),
    "2": Table(
        "Table 2: category prediction",
        "category",
        (*_TWO, "seresnet50", "seresnext50"),
        ("OC",),
        ("category_top3", "category_top5"),
    ),
    "fig3": Table("Figure 3: recall@k, In-Shop", "inshop", _TWO, _SUMS, _RECALLS),
    "fig4": Table(
        "Figure 4: recall@k, Consumer-to-Shop", "consumer2shop", _TWO, ("OC", "OC+IS"), _RECALLS
    ),
}


def run_one(
    table: Table, backbone: str, losses: str, seed: int, options: argparse.Namespace
) -> dict[str, Any]:
    """Trains and evaluates one run, or takes what is there; returns what metrics.json holds."""
    run = options.out / f"{table.dataset}_{backbone}_{losses}_{seed}"
    place = [f"--data_dir={options.data_dir}", f"--run={run}"]
    flags = [f"--flagfile={ROOT / table.dataset}.flags", *place, f"--backbone={backbone}"]
    train = ["train.py", *flags, f"--losses={losses}", f"--seed={seed}", *options.train_flags]
    # A finished run says so and returns; it is refused if its settings were others.
    for command in (train, ["evaluate.py", *place]):
        done = subprocess.run([sys.executable, str(ROOT / command[0]), *command[1:]], check=False)
        if done.returncode:
            raise FirError(
                f"{' '.join(command)} ended with status {done.returncode} (reason above). The "
                "same command goes on from there"
            )
    return json.loads((run / "metrics.json").read_text(encoding="utf-8"))


def paper_values(table: Table, backbone: str, losses: str) -> dict[str, float]:
    """Returns the paper's numbers of a row, {metric: fraction}, {} where it prints none."""
    for row in PAPER_RESULTS:
        if (row.dataset, row.backbone, row.losses) == (table.dataset, backbone, losses):
            return row.values
    return {}


def render(table: Table, found: Found) -> str:
    """Returns the table as Markdown, and what it says of the paper's order of the losses.

    Args:
        table: Table.
        found: {(backbone, losses): list of dict}, the metrics of each seed.
    """
    both = [f"{key}, {whose}" for whose in ("paper", "ours") for key in table.keys]
    rows = []
    for (backbone, losses), seeds in found.items():
        paper = paper_values(table, backbone, losses)
        rows.append(
            [
                f"{backbone} {losses}",
                *(_fraction(paper[key]) if key in paper else "" for key in table.keys),
                *(_spread([seed[key] for seed in seeds]) for key in table.keys),
            ]
        )
    first = next(iter(found.values()))
    note = f"Images: {Path(first[0]['protocol']['data_dir']).name}. Mean of {len(first)} seed(s)"
    note += " (lowest to highest)." if len(first) > 1 else "."
    return "\n".join(
        [f"# {table.title}\n", markdown(["row", *both], rows), note, *claims(table, found), ""]
    )


def claims(table: Table, found: Found) -> list[str]:
    """Returns a line for each backbone: the paper's order of the losses, and ours.

    The paper has OC+IS before OC before OC+OS, in recall@5 (Table 1). A difference within the
    seeds' spread decides nothing.
    """
    lines = []
    for backbone in dict.fromkeys(backbone for backbone, _ in found):
        rows = {
            losses: [seed["recall@5"] for seed in seeds]
            for (own, losses), seeds in found.items()
            if own == backbone and "recall@5" in table.keys
        }
        for better, worse in itertools.pairwise(("OC+IS", "OC", "OC+OS")):
            if better not in rows or worse not in rows:
                continue
            one, other = rows[better], rows[worse]
            gain = sum(one) / len(one) - sum(other) / len(other)
            apart = min(one) > max(other) or max(one) < min(other)
            if min(len(one), len(other)) < 2:
                verdict, why = "is not decided", "one seed decides nothing"
            elif apart:
                verdict, why = "holds" if gain > 0 else "does not hold", "the seeds do not overlap"
            else:
                verdict, why = "is not decided", "the seeds overlap"
            lines.append(
                f"{backbone}: the paper's {better} over {worse} in recall@5 {verdict} here "
                f"({gain:+.3f}; {why})."
            )
    return ["", *lines] if lines else []


def _fraction(value: float) -> str:
    return f"{value:.3f}".lstrip("0") if value < 1 else "1.000"


def _spread(values: list[float]) -> str:
    mean = _fraction(sum(values) / len(values))
    if len(values) == 1:
        return mean
    return f"{mean} ({_fraction(min(values))} to {_fraction(max(values))})"


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Returns the options."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--table", required=True, choices=TABLES, help="what is reproduced")
    parser.add_argument("--data_dir", required=True, help="folder of the data set")
    parser.add_argument("--backbones", help="names with commas; the paper's when not given")
    parser.add_argument("--losses", help="sums with commas; the paper's when not given")
    parser.add_argument("--seeds", default="0", help="numbers with commas (%(default)s)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/reproduce"), help="folder (%(default)s)"
    )
    parser.add_argument("train_flags", nargs="*", metavar="-- --flag=value", help="for train.py")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Runs the grid; returns the exit status."""
    options = parse(argv)
    table = TABLES[options.table]
    backbones = options.backbones.split(",") if options.backbones else table.backbones
    sums = options.losses.split(",") if options.losses else table.losses
    grid = list(itertools.product(backbones, sums))
    found: Found = {}
    try:
        for number, (backbone, losses) in enumerate(grid, 1):
            print(f"row {number} of {len(grid)}: {backbone} {losses}", flush=True)
            found[backbone, losses] = [
                run_one(table, backbone, losses, int(seed), options)
                for seed in options.seeds.split(",")
            ]
        text = render(table, found)
        name = f"table_{options.table}" if options.table.isdigit() else options.table
        page = options.out / f"{name}.md"
        write_text(page, text)
        print(f"\n{text}\nwrote {page}")
        if table.keys[0].startswith("recall"):
            curves = {
                f"{backbone} {losses}": {
                    int(key.split("@")[1]): sum(seed[key] for seed in seeds) / len(seeds)
                    for key in seeds[0]
                    if key.startswith("recall@")
                }
                for (backbone, losses), seeds in found.items()
            }
            pictures.recall_curve(curves, page.with_suffix(".png"), table.title)
            print(f"wrote {page.with_suffix('.png')}")
    except FirError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
