"""The tables of docs/results.md, from the records of runs in docs/results/.

  python tools/results_table.py add --run=runs/inshop_resnet50_OC --released
  python tools/results_table.py write

A record is what a run says of itself: metrics.json, config.json and versions.json in one file.
"""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from fir_tf.datasets.published import PUBLISHED
from fir_tf.errors import FirError
from fir_tf.evaluation.paper import PAPER_RESULTS, PaperResult
from fir_tf.files import write_json, write_text

# Quietly: TensorFlow comes with it.

ROOT = Path(__file__).parent.parent
RECORDS, PAGE = ROOT / "docs" / "results", ROOT / "docs" / "results.md"

# PAPER: Figure 4 shows curves, so there are no printed numbers to stand beside ours.
FIGURE_4 = tuple(
    PaperResult("consumer2shop", f"{title} {losses}", {}, "Figure 4", backbone, losses)
    for backbone, title in (("resnet50", "ResNet50"), ("densenet121", "DenseNet121"))
    for losses in ("OC", "OC+IS")
)
TABLES = (
    ("Table 1: In-Shop Clothes Retrieval", "inshop", ("recall@5", "recall@20")),
    ("Table 2: category prediction", "category", ("category_top3", "category_top5")),
    ("Figure 4: Consumer-to-Shop", "consumer2shop", ("recall@1", "recall@5", "recall@20")),
)
OTHER = ("recall@1", "recall@5", "recall@20", "mAP@R", "category_top1")
HEAD = """# Results

Written by `python tools/results_table.py write` from the records in `docs/results/`; not by hand.
How to run a row and add its record: [Reproduce the paper](reproduce.md).
"""


def read_record(run: str | Path, released: bool = False) -> dict[str, Any]:
    """Gathers what a run says of itself.

    Args:
        run: str or Path, the folder of a run that was evaluated.
        released: bool, whether the images are those of the benchmark's release.

    Returns:
        dict with `name`, `released`, `metrics`, `config` and `versions`. Of paths only the last
        part is kept: where a machine has its data is nobody's business.

    Raises:
        FirError: if a file is missing or no JSON, or `released` contradicts the counts.
    """
    run = Path(run)
    record: dict[str, Any] = {"name": run.resolve().name, "released": released}
    for name in ("metrics", "config", "versions"):
        path = run / f"{name}.json"
        try:
            record[name] = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise FirError(
                f"{run} must be a run that was evaluated: {path.name} is missing there. Run "
                f"evaluate.py --run={run} first"
            ) from error
        except ValueError as error:
            raise FirError(f"{path} must be JSON. Received: {error}") from error
    protocol = record["metrics"]["protocol"]
    if protocol["split"] != "test":
        raise FirError(f"{run} was evaluated on the part `{protocol['split']}`, not on `test`")
    for holder, name in (
        (protocol, "data_dir"),
        (record["metrics"]["run"], "folder"),
        (record["config"], "data_dir"),
        (record["config"], "run"),
        (record["config"], "weights"),
    ):
        holder[name] = Path(holder[name]).name
    if released:
        _check_counts(run, protocol)
    return record


def _check_counts(run: str | Path, protocol: dict[str, Any]) -> None:
    skipped = protocol["unreadable_images"]
    wanted = PUBLISHED[protocol["dataset"]].counts if protocol["dataset"] in PUBLISHED else {}
    for what, key in (
        ("query images", "queries"),
        ("gallery images", "gallery_images"),
        ("test images", "images_classified"),
    ):
        own = protocol.get(key, 0)
        if what in wanted and not wanted[what] - skipped <= own <= wanted[what]:
            raise FirError(
                f"--released: {run} was evaluated on {own:,} {what}; the release has "
                f"{wanted[what]:,}. Leave --released out"
            )


def read_records(folder: str | Path = RECORDS) -> list[dict[str, Any]]:
    """Returns the records of a folder, a list of dict, by name."""
    paths = sorted(Path(folder).glob("*.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def render(records: list[dict[str, Any]]) -> str:
    """Returns the page.

    Args:
        records: list of dict, see `read_record`.

    Returns:
        str, Markdown: a table for each of the paper's with a row for each of its own, **not run**
        where no record belongs to it, and a table of all other records.
    """
    released = [record for record in records if record["released"]]
    parts = [HEAD]
    shown = []
    for title, dataset, keys in TABLES:
        rows = []
        for row in (*PAPER_RESULTS, *FIGURE_4):
            if row.dataset != dataset:
                continue
            own = [record for record in released if _is_of(record, row)]
            shown += own
            rows += [_paper_row(row, record, keys) for record in own]
            if not own:
                rows.append(_paper_row(row, None, keys))
        head = ["row", *(f"{key}, paper" for key in keys), *(f"{key}, ours" for key in keys), "run"]
        if dataset == "consumer2shop":
            head, rows = _without_paper(head, rows, len(keys))
        parts += [f"## {title}\n", markdown(head, rows)]
    rest = [record for record in records if record not in shown]
    parts += ["## Other runs\n"]
    if rest:
        head = ["run", "images", "backbone", "losses", "seed", *OTHER]
        parts += [
            "On other images or with other settings than the paper's: not comparable with the "
            "tables above.\n",
            markdown(head, [_other_row(record) for record in rest]),
        ]
    else:
        parts += ["None is recorded.\n"]
    return "\n".join(parts)


def _is_of(record: dict[str, Any], row: PaperResult) -> bool:
    config = record["config"]
    return (record["metrics"]["protocol"]["dataset"], config["backbone"], config["losses"]) == (
        row.dataset,
        row.backbone,
        row.losses,
    )


def _number(values: dict[str, Any], key: str) -> str:
    return f"{values[key]:.3f}".lstrip("0") if key in values else ""


def _paper_row(row: PaperResult, record: dict[str, Any] | None, keys: tuple[str, ...]) -> list[str]:
    paper = [f"{row.values[key]:.4g}".lstrip("0") if key in row.values else "" for key in keys]
    if not row.backbone:
        return [f"{row.name} (earlier work)", *paper, *([""] * len(keys)), ""]
    if record is None:
        return [row.name, *paper, *(["**not run**"] * len(keys)), ""]
    how = f"{_name(record)}: {record['config']['epochs']} epochs, seed {record['config']['seed']}"
    return [row.name, *paper, *(_number(record["metrics"], key) for key in keys), how]


def _without_paper(
    head: list[str], rows: list[list[str]], count: int
) -> tuple[list[str], list[list[str]]]:
    keep = [0, *range(1 + count, len(head))]
    return [head[place] for place in keep], [[row[place] for place in keep] for row in rows]


def _name(record: dict[str, Any]) -> str:
    return f"[{record['name']}](results/{record['name']}.json)"


def _other_row(record: dict[str, Any]) -> list[str]:
    config, protocol = record["config"], record["metrics"]["protocol"]
    return [
        _name(record),
        f"{protocol['data_dir']} ({protocol['dataset']} layout, {config['image_size']} px)",
        config["backbone"],
        config["losses"],
        str(config["seed"]),
        *(_number(record["metrics"], key) for key in OTHER),
    ]


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """Returns a table, str, a line for each row."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("add", help="record a run that was evaluated, and write the page")
    add.add_argument("--run", required=True, help="folder of the run")
    add.add_argument(
        "--released", action="store_true", help="the images are those of DeepFashion's release"
    )
    commands.add_parser("write", help="write docs/results.md from the records")
    commands.add_parser("print", help="print the page")
    options = parser.parse_args(argv)
    try:
        if options.command == "add":
            record = read_record(options.run, options.released)
            if not re.fullmatch(r"[\w.+-]+", record["name"]):
                raise FirError(
                    "the run's folder must have a name of letters, digits and . + - _ for its "
                    f"record. Received: {record['name']!r}"
                )
            write_json(RECORDS / f"{record['name']}.json", record)
        page = render(read_records())
        if options.command == "print":
            print(page, end="")
        else:
            write_text(PAGE, page)
            print(f"wrote {PAGE}")
    except FirError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
