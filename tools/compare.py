"""Compares variants of a training run, and tells luck from gain.

  python tools/compare.py --out=runs/beta --seeds=0,1,2 --folds=3 \\
      --variant="beta 1: --beta=1" --variant="beta 10: --beta=10" -- --flagfile=quickstart.flags

Each variant is trained with each seed on each fold of the TRAINING items, and measured on the items
of the fold that was left out. What stands behind `--` goes to every variant. The same command goes
on where it was stopped; with more seeds, folds or variants it makes what is missing.

Prints and writes <out>/results.json, .md and .png: means over seeds and folds, and for each two
variants the difference with its bootstrap interval (items and seeds drawn anew) and how often one
is ahead. The test part is scored by --final alone, which trains on all training items, writes
<out>/final.* and counts in <out>/test_part.json how often that was done.
"""

import argparse
import itertools
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from filelock import FileLock, Timeout
from grid import (
    Launch,
    Run,
    Variant,
    check_flags,
    describe,
    looked_at_test_part,
    make_grid,
    parse_variant,
    read_variants,
    run_grid,
)
from results_table import markdown

from fir_tf.cli.common import load_library
from fir_tf.errors import FirError
from fir_tf.evaluation.bootstrap import paired_bootstrap
from fir_tf.evaluation.queries import Queries
from fir_tf.files import write_json, write_text
from fir_tf.shell import draw_or_note, run_command

METRICS = ("recall@1", "recall@5", "mAP@R", "R-precision")
# Shown beside them where the categories were trained.
CATEGORY_METRICS = ("category_top1", "category_top3")

# {seed: {fold: Run}}, of one variant
Seeds: TypeAlias = dict[int, dict[str, Run]]


def whole_seeds(runs: Iterable[Run]) -> dict[str, Seeds]:
    """Returns {variant: Seeds}: the seeds of which every fold is finished."""
    found: dict[str, Seeds] = {}
    for run in runs:
        found.setdefault(run.variant.name, {}).setdefault(run.seed, {})[run.fold] = run
    return {
        name: {
            seed: folds
            for seed, folds in seeds.items()
            if all(run.finished for run in folds.values())
        }
        for name, seeds in found.items()
    }


def values_of(seeds: Seeds, numbers: Sequence[int]) -> dict[str, np.ndarray]:
    """Reads what the queries are worth.

    Args:
        seeds: Seeds of a variant.
        numbers: sequence of int, the seeds that are read.

    Returns:
        {metric: float array [seeds, queries]}, and under "path", "item" and "fold" the queries'
        own, [queries]; {} where there are none.

    Raises:
        FirError: the seeds were measured on different queries.
    """
    table: list[dict[str, np.ndarray]] = []
    for number in numbers:
        read = []
        for fold, run in seeds[number].items():
            path = run.folder / "queries.csv"
            if path.exists():
                read.append((fold, Queries.load(path)))
        if not read:
            return {}
        columns = {name: np.concatenate([q.values(name) for _, q in read]) for name in METRICS}
        columns["path"] = np.concatenate([queries.path for _, queries in read])
        columns["item"] = np.concatenate([queries.item for _, queries in read])
        columns["fold"] = np.concatenate([np.full(len(q.path), fold) for fold, q in read])
        check_same(table[0] if table else columns, columns, f"seed {number}")
        table.append(columns)
    labels = {name: table[0][name] for name in ("path", "item", "fold")}
    return labels | {name: np.stack([columns[name] for columns in table]) for name in METRICS}


def check_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray], name: str) -> None:
    """Raises FirError unless two tables are of the same queries."""
    for label in ("fold", "path"):
        if not np.array_equal(one[label], other[label]):
            raise FirError(
                f"{name} was measured on other queries than those before it. Did the data or what "
                "can be read of it change in between? Compare in a new --out"
            )


def summarise(runs: Sequence[Run], bad: dict[Run, str]) -> dict[str, Any]:
    """Returns what results.json holds: what each variant is worth, and each two beside each other.

    Args:
        runs: sequence of Run, finished or not.
        bad: {Run: str}, what went wrong.
    """
    seeds = whole_seeds(runs)
    variants = [_variant(name, own, runs) for name, own in seeds.items()]
    # The better one first, so that a difference is a gain.
    variants.sort(key=lambda found: -found.get("recall@1", -1.0))
    folds = [fold for fold in dict.fromkeys(run.fold for run in runs) if fold]
    out = runs[0].folder.parents[2]
    return {
        "measured": f"{len(folds)} folds of the training items" if folds else "the test part",
        "folds": folds,
        "seeds": list(dict.fromkeys(run.seed for run in runs)),
        "variants": variants,
        "pairs": [
            pair
            for one, other in itertools.combinations([found["name"] for found in variants], 2)
            if (pair := compare_two(one, other, seeds))
        ],
        "bad": {run.name: reason for run, reason in bad.items()},
        "test_part_scored": looked_at_test_part(out),
    }


def _variant(name: str, seeds: Seeds, runs: Sequence[Run]) -> dict[str, Any]:
    own = [run for run in runs if run.variant.name == name]
    took = [run.processor_seconds for run in own if run.processor_seconds is not None]
    found = {
        "name": name,
        "flags": list(own[0].variant.flags),
        "runs": sum(run.finished for run in own),
        "of": len(own),
        "seeds": list(seeds),
    }
    if took:
        found["processor_seconds"] = sum(took) / len(took)
    values = values_of(seeds, list(seeds)) if seeds else {}
    found |= {metric: float(values[metric].mean()) for metric in METRICS if values}
    measured = [run.metrics() for folds in seeds.values() for run in folds.values()]
    return found | {
        metric: sum(metrics[metric] for metrics in measured) / len(measured)
        for metric in CATEGORY_METRICS
        if measured and all(metric in metrics for metrics in measured)
    }


def compare_two(one: str, other: str, seeds: dict[str, Seeds]) -> dict[str, Any] | None:
    """Compares two variants on the seeds that both have; None where there is none, or no query.

    Args:
        one, other: str, names of variants.
        seeds: {variant: Seeds}.
    """
    both = [number for number in seeds[one] if number in seeds[other]]
    first, second = (values_of(seeds[name], both) if both else {} for name in (one, other))
    if not first or not second:
        return None
    check_same(first, second, other)
    found: dict[str, Any] = {
        "first": one,
        "second": other,
        "seeds": both,
        "queries": len(first["path"]),
        "items": len(np.unique(first["item"])),
    }
    for metric in METRICS:
        difference = paired_bootstrap(first[metric], second[metric], first["item"], first["fold"])
        found[metric] = {
            "difference": difference.mean,
            "low": difference.low,
            "high": difference.high,
            "wins": difference.wins,
        }
    return found


def render(results: dict[str, Any], title: str) -> str:
    """Returns results as Markdown, see `summarise`."""
    shown = [
        metric
        for metric in (*METRICS, *CATEGORY_METRICS)
        if any(metric in found for found in results["variants"])
    ]
    head = ["variant", *shown, "processor seconds", "runs"]
    rows = [
        [
            found["name"],
            *(f"{found[metric]:.3f}" if metric in found else "" for metric in shown),
            f"{found['processor_seconds']:.0f}" if "processor_seconds" in found else "",
            f"{found['runs']} of {found['of']}",
        ]
        for found in results["variants"]
    ]
    lines = [f"# {title}\n", markdown(head, rows)]
    lines.append(
        f"Measured on {results['measured']}; means over seeds {_join(results['seeds'])}. Processor "
        "seconds are those of a run's training.\n"
    )
    if results["pairs"]:
        pairs = [
            [f"{pair['first']} - {pair['second']}", *(_interval(pair[name]) for name in METRICS)]
            for pair in results["pairs"]
        ]
        lines += [markdown(["difference", *METRICS], pairs), _explain(results["pairs"])]
    lines += [f"- failed: {name}: {reason}" for name, reason in results["bad"].items()]
    return "\n".join([*lines, count_looks(results["test_part_scored"]), ""])


def _join(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))


def _interval(found: dict[str, float]) -> str:
    text = f"{found['difference']:+.3f} ({found['low']:+.3f} to {found['high']:+.3f})"
    bold = "**" if found["low"] > 0 or found["high"] < 0 else ""
    return f"{bold}{text}{bold} {found['wins']:.0%}"


def _explain(pairs: list[dict[str, Any]]) -> str:
    first = pairs[0]
    lines = [
        f"In brackets the 95 % bootstrap interval over {first['items']} items with "
        f"{first['queries']} queries and the seeds; behind it the share of bootstrap samples in "
        "which the first is ahead. Bold leaves out 0: more than luck. Of twenty differences that "
        "are luck alone, one is bold."
    ]
    if any(len(pair["seeds"]) < 2 for pair in pairs):
        lines.append("One seed: the luck of training is NOT in the intervals. Give more --seeds.")
    return "\n".join([*lines, ""])


def count_looks(looks: list[dict[str, Any]]) -> str:
    """Returns how often the test part was scored, as a sentence."""
    if not looks:
        return "The test part was never scored from this folder."
    names = [look["variant"] for look in looks]
    each = _join(f"{name} {names.count(name)}" for name in dict.fromkeys(names))
    return (
        f"The test part was scored {len(looks)} times from this folder ({each}), last "
        f"{looks[-1]['at']}. What is chosen by such a result is no longer measured by it."
    )


def compare(runs: Sequence[Run], out: Path, jobs: int = 0, launch: Launch | None = None) -> int:
    """Makes the runs, prints and writes what they say; returns the exit status.

    Args:
        runs: sequence of Run.
        out: Path, the folder.
        jobs: int, see `grid.run_grid`.
        launch: optional Launch, see `grid.run_grid`.
    """
    out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out / ".lock", timeout=0):
            bad = run_grid(runs, jobs, launch)
    except Timeout as error:
        raise FirError(
            f"another comparison is at work in {out}. Wait, or give another --out"
        ) from error
    results = summarise(runs, bad)
    written = _write(results, out)
    print(f"wrote {_join(written)}")
    if bad:
        names = "; ".join(f"{run.name}: {reason}" for run, reason in bad.items())
        raise FirError(
            f"{len(bad)} of {len(runs)} runs failed; the same command tries again: {names}"
        )
    return 0


def _write(results: dict[str, Any], out: Path) -> list[Path]:
    """Prints the results, writes and draws them; returns the paths of what was written."""
    final = not results["folds"]
    data, page, picture = (
        out / f"{'final' if final else 'results'}{suffix}" for suffix in (".json", ".md", ".png")
    )
    text = render(results, f"{out.name}: {'the test part' if final else 'cross-validation'}")
    write_json(data, results)
    write_text(page, text)
    print(f"\n{text}")
    if not results["pairs"]:
        return [data, page]
    # Quietly: TensorFlow comes with it.
    pictures = load_library("fir_tf.evaluation.pictures")
    rows = {
        f"{pair['first']} - {pair['second']}": {
            name: tuple(pair[name][key] for key in ("difference", "low", "high"))
            for name in METRICS
        }
        for pair in results["pairs"]
    }
    drawn = draw_or_note(picture, lambda: pictures.difference_intervals(rows, picture))
    return [data, page, *drawn]


def numbers(text: str) -> list[int]:
    """Reads numbers with commas, without those that come twice."""
    return list(dict.fromkeys(int(part) for part in text.split(",")))


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Returns the options."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--out", type=Path, default=Path("runs/compare"), help="folder (%(default)s)")
    add(
        "--variant",
        action="append",
        default=[],
        metavar="'NAME: FLAGS'",
        help="a variant, as often as there are some",
    )
    add(
        "--variants",
        action="append",
        default=[],
        metavar="FILE",
        help="file of variants: lines of NAME: FLAGS, and of flags that all of them get",
    )
    add("--seeds", type=numbers, default=[0, 1, 2], help="numbers with commas (0,1,2)")
    add("--folds", type=int, default=3, help="of the training items (%(default)s)")
    add(
        "--final",
        action="store_true",
        help="train on all training items and score the test part, which is counted",
    )
    add(
        "--jobs",
        type=int,
        default=0,
        help="runs side by side, each with its share of the cores and about 3 GB; one for every "
        "two cores by default, 1 where a GPU is used",
    )
    add("--dry_run", action="store_true", help="show the runs and the time that is left")
    add("flags", nargs="*", metavar="-- --flag=value", help="flags of train.py for all variants")
    return parser.parse_args(argv)


def plan(options: argparse.Namespace) -> list[Run]:
    """Returns the runs that the options ask for."""
    variants = [variant for path in options.variants for variant in read_variants(path)]
    variants += map(parse_variant, options.variant)
    if not variants:
        raise FirError(
            'there is nothing to compare. Give --variant="NAME: FLAGS" or --variants=FILE'
        )
    if not options.final and options.folds < 2:
        raise FirError(f"`folds` must be at least 2. Received: {options.folds}")
    shared = check_flags(options.flags)
    folds = [""] if options.final else [f"{i}/{options.folds}" for i in range(1, options.folds + 1)]
    variants = [Variant(variant.name, (*shared, *variant.flags)) for variant in variants]
    return make_grid(options.out, variants, options.seeds, folds)


def main(argv: list[str] | None = None) -> int:
    """Compares; returns the exit status."""
    options = parse(argv)
    runs = plan(options)
    if options.dry_run:
        print(describe(runs))
        return 0
    return compare(runs, options.out, options.jobs)


if __name__ == "__main__":
    sys.exit(run_command(main))
