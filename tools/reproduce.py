"""Trains and evaluates what a table or figure of the paper compares, and prints ours beside it.

  python tools/reproduce.py --table=1 --data_dir=<In-shop Clothes Retrieval Benchmark>
  python tools/reproduce.py --table=1 --data_dir=data/boutique --backbones=efficientnet_lite0 \\
      --seeds=0,1 -- --image_size=128 --epochs=12

The grids are those of recipes/paper_tables.json, the runs tools/compare.py's --final. What stands
behind `--` goes to train.py. Given again, the command goes on where it was stopped. Writes
<out>/table_1.md, and table_1.png where the metric is recall@k.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compare import compare, compare_two, numbers, whole_seeds
from grid import Launch, Run, Variant, check_flags, describe, make_grid
from results_table import markdown

from fir_tf.cli.common import load_library
from fir_tf.evaluation.paper import PAPER_RESULTS
from fir_tf.files import write_text
from fir_tf.shell import run_command

ROOT = Path(__file__).parent.parent
TABLES = json.loads((ROOT / "recipes" / "paper_tables.json").read_text(encoding="utf-8"))


def paper_values(table: dict[str, Any], name: str) -> dict[str, float]:
    """Returns the paper's numbers of a row, {metric: fraction}, {} where it prints none."""
    for row in PAPER_RESULTS:
        if (row.dataset, f"{row.backbone} {row.losses}") == (table["dataset"], name):
            return row.values
    return {}


def render(table: dict[str, Any], runs: Sequence[Run]) -> str:
    """Returns the table as Markdown, and what it says of the paper's order of the losses.

    Args:
        table: dict, one of `TABLES`.
        runs: sequence of Run, finished, of variants "backbone losses".
    """
    keys = table["metrics"]
    rows = []
    for name, seeds in metrics_of(runs).items():
        paper = paper_values(table, name)
        rows.append(
            [
                name,
                *(_fraction(paper[key]) if key in paper else "" for key in keys),
                *(_spread([seed[key] for seed in seeds]) for key in keys),
            ]
        )
    first = next(iter(metrics_of(runs).values()))
    note = f"Images: {Path(first[0]['protocol']['data_dir']).name}. Mean of {len(first)} seed(s)"
    note += " (lowest to highest)." if len(first) > 1 else "."
    head = ["row", *(f"{key}, {whose}" for whose in ("paper", "ours") for key in keys)]
    return "\n".join(
        [f"# {table['title']}\n", markdown(head, rows), note, *claims(table, runs), ""]
    )


def metrics_of(runs: Sequence[Run]) -> dict[str, list[dict[str, Any]]]:
    """Returns {variant: the metrics of each seed}."""
    found: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        found.setdefault(run.variant.name, []).append(run.metrics())
    return found


def claims(table: dict[str, Any], runs: Sequence[Run]) -> list[str]:
    """Returns a line for each backbone: the paper's order of the losses, and ours.

    The paper has OC+IS before OC before OC+OS, in recall@5 (Table 1). What an interval around 0
    does not leave out decides nothing.
    """
    lines = []
    seeds = whole_seeds(runs) if "recall@5" in table["metrics"] else {}
    for backbone in dict.fromkeys(name.split()[0] for name in seeds):
        for better, worse in itertools.pairwise(("OC+IS", "OC", "OC+OS")):
            names = f"{backbone} {better}", f"{backbone} {worse}"
            found = compare_two(*names, seeds) if seeds.keys() >= set(names) else None
            if not found:
                continue
            gain = found["recall@5"]
            verdict, why = "is not decided", "one seed decides nothing"
            if len(found["seeds"]) > 1:
                why = f"interval {gain['low']:+.3f} to {gain['high']:+.3f}"
                if gain["low"] > 0:
                    verdict = "holds"
                elif gain["high"] < 0:
                    verdict = "does not hold"
            lines.append(
                f"{backbone}: the paper's {better} over {worse} in recall@5 {verdict} here "
                f"({gain['difference']:+.3f}; {why})."
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
    add = parser.add_argument
    add("--table", required=True, choices=TABLES, help="what is reproduced")
    add("--data_dir", required=True, help="folder of the data set")
    add("--backbones", help="names with commas; the paper's when not given")
    add("--losses", help="sums with commas; the paper's when not given")
    add("--seeds", type=numbers, default=[0], help="numbers with commas (0)")
    add("--jobs", type=int, default=1, help="runs side by side (%(default)s)")
    add("--out", type=Path, default=Path("runs/reproduce"), help="folder (%(default)s)")
    add("--dry_run", action="store_true", help="show the runs and the time that is left")
    add("flags", nargs="*", metavar="-- --flag=value", help="for train.py")
    return parser.parse_args(argv)


def plan(options: argparse.Namespace) -> list[Run]:
    """Returns the runs of a table: its backbones by its losses, measured on the test part."""
    table = TABLES[options.table]
    grid = itertools.product(
        options.backbones.split(",") if options.backbones else table["backbones"],
        options.losses.split(",") if options.losses else table["losses"],
    )
    shared = [f"--flagfile={ROOT / table['dataset']}.flags", f"--data_dir={options.data_dir}"]
    variants = [
        Variant(
            f"{backbone} {losses}",
            (*shared, f"--backbone={backbone}", f"--losses={losses}", *check_flags(options.flags)),
        )
        for backbone, losses in grid
    ]
    return make_grid(options.out / table["dataset"], variants, options.seeds, [""])


def main(argv: list[str] | None = None, launch: Launch | None = None) -> int:
    """Runs the grid; returns the exit status."""
    options = parse(argv)
    table, runs = TABLES[options.table], plan(options)
    if options.dry_run:
        print(describe(runs))
        return 0
    compare(runs, options.out / table["dataset"], options.jobs, launch)
    text = render(table, runs)
    name = f"table_{options.table}" if options.table.isdigit() else options.table
    page = options.out / f"{name}.md"
    write_text(page, text)
    print(f"\n{text}\nwrote {page}")
    if table["metrics"][0].startswith("recall"):
        curves = {
            row: {
                int(key.split("@")[1]): sum(seed[key] for seed in seeds) / len(seeds)
                for key in seeds[0]
                if key.startswith("recall@")
            }
            for row, seeds in metrics_of(runs).items()
        }
        # Quietly: TensorFlow comes with it.
        pictures = load_library("fir_tf.evaluation.pictures")
        pictures.recall_curve(curves, page.with_suffix(".png"), table["title"])
        print(f"wrote {page.with_suffix('.png')}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
