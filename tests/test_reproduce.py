"""tools/reproduce.py: the paper's grid, run and compared."""

import importlib
import json
import time
from pathlib import Path

import numpy as np
import pytest
from commands import call

from fir_tf import boutique
from fir_tf.evaluation.queries import Queries
from fir_tf.files import write_json

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def reproduce():
    with pytest.MonkeyPatch.context() as patch:
        # As for the script, whose own folder Python puts there.
        patch.syspath_prepend(ROOT / "tools")
        yield importlib.import_module("reproduce")


@pytest.fixture
def finished(reproduce, tmp_path):
    """Returns what writes runs as if they were finished, from {row: recall@5 of each seed}."""

    def write(rows, queries=200):
        runs = []
        for name, recalls in rows.items():
            for seed, recall in enumerate(recalls):
                variant = reproduce.Variant(name, ())
                folder = tmp_path / "runs" / name / f"seed{seed}"
                protocol = {"data_dir": "somewhere/photos"}
                metrics = {"recall@5": recall, "recall@20": 0.5, "protocol": protocol}
                write_json(folder / "metrics.json", metrics)
                write_json(folder.with_suffix(".json"), {"finished": True})
                hit = np.arange(queries) < round(recall * queries)
                path = np.arange(queries).astype(str)
                Queries(path, path, hit * 5, hit / 1, hit / 1).save(folder / "queries.csv")
                runs.append(reproduce.Run(variant, seed, "", folder))
        return runs

    return write


def test_the_table_stands_beside_the_papers(reproduce, finished):
    runs = finished({"resnet50 OC": (0.6, 0.62, 0.7), "lite OC": (0.25, 0.25, 0.25)})
    text = reproduce.render(reproduce.TABLES["1"], runs)
    # PAPER: Table 1, ResNet50 with OC.
    assert "| resnet50 OC | .633 | .766 | .640 (.600 to .700) | .500 (.500 to .500) |" in text
    assert "| lite OC |  |  | .250 (.250 to .250) |" in text
    assert "Images: photos. Mean of 3 seed(s)" in text and "somewhere" not in text


def test_the_papers_order_is_judged_by_intervals(reproduce, finished):
    runs = finished(
        {
            "a OC": (0.60, 0.65),
            "a OC+OS": (0.30, 0.35),
            "a OC+IS": (0.55, 0.80),
            "b OC": (0.8, 0.8),
            "b OC+IS": (0.6, 0.6),
            "c OC": (0.7,),
            "c OC+IS": (0.8,),
            "d OC": (0.7,),
        }
    )
    # The first one's seeds contradict each other: -.05 and +.15.
    between, within, worse = [
        line.partition("interval ")[2].rstrip(").").split(" to ")
        for line in reproduce.claims(reproduce.TABLES["1"], runs)
        if "interval" in line
    ]
    assert float(between[0]) < 0 < float(between[1])
    assert 0 < float(within[0]) < 0.3 < float(within[1])
    assert float(worse[0]) < -0.2 < float(worse[1]) < 0
    lines = [line for line in reproduce.claims(reproduce.TABLES["1"], runs) if line]
    assert [line.partition(" (")[0] for line in lines] == [
        "a: the paper's OC+IS over OC in recall@5 is not decided here",
        "a: the paper's OC over OC+OS in recall@5 holds here",
        "b: the paper's OC+IS over OC in recall@5 does not hold here",
        "c: the paper's OC+IS over OC in recall@5 is not decided here",
    ]
    assert lines[3].endswith("(+0.100; one seed decides nothing).")
    assert reproduce.claims(reproduce.TABLES["2"], runs) == []


def test_the_grids_are_the_papers(reproduce):
    tables = reproduce.TABLES
    grid = {
        name: {(own, losses) for own in table["backbones"] for losses in table["losses"]}
        for name, table in tables.items()
    }
    for name, title in (("1", "Table 1"), ("2", "Table 2")):
        rows = [row for row in reproduce.PAPER_RESULTS if row.source == title]
        assert grid[name] == {(row.backbone, row.losses) for row in rows if row.backbone}
        for row in rows:
            if row.backbone:
                own = reproduce.paper_values(tables[name], f"{row.backbone} {row.losses}")
                assert own == row.values and set(tables[name]["metrics"]) <= set(own)


def test_a_plan_is_the_tables_flag_file_with_ours_behind(reproduce, tmp_path):
    arguments = ["--table=2", "--data_dir=photos", f"--out={tmp_path}", "--backbones=lite,resnet50"]
    runs = reproduce.plan(reproduce.parse([*arguments, "--seeds=3,4", "--", "--epochs=1"]))
    assert [run.name for run in runs] == [
        "lite OC, seed 3",
        "resnet50 OC, seed 3",
        "lite OC, seed 4",
        "resnet50 OC, seed 4",
    ]
    assert runs[0].flags == [
        f"--flagfile={ROOT / 'category.flags'}",
        "--data_dir=photos",
        "--backbone=lite",
        "--losses=OC",
        "--epochs=1",
        "--seed=3",
    ]


def test_a_dry_run_shows_the_runs_and_makes_none(reproduce, tmp_path, capsys):
    def launch(words, log):
        raise AssertionError(words)

    out = tmp_path / "out"
    assert reproduce.main(["--table=1", "--data_dir=x", f"--out={out}", "--dry_run"], launch) == 0
    shown = capsys.readouterr().out
    assert "resnet50 OC+IS, seed 0: to be run" in shown
    assert "6 runs, 0 finished, 6 left" in shown
    assert not out.exists()


@pytest.mark.nightly
@pytest.mark.slow
def test_a_grid_is_run_once(reproduce, tmp_path, capsys, shallow):
    """The grid's own processes are calls here; test_compare.py has them as processes."""
    made = []

    def in_this_process(words, log):
        before = time.process_time()
        status, out, err = call(*words)
        log.write_text(out + err)
        made.append(words[0])
        return importlib.import_module("grid").Ended(status, time.process_time() - before)

    data = boutique.write(tmp_path / "data", boutique.Order(items=24, views=6, size=64))
    arguments = ["--table=fig3", f"--data_dir={data}", f"--out={tmp_path / 'out'}", "--losses=OC"]
    arguments += ["--backbones=efficientnet_lite0", "--", "--image_size=64", "--epochs=1"]
    arguments += ["--weights=none"]
    texts = []
    for _ in range(2):
        assert reproduce.main(arguments, in_this_process) == 0
        texts.append(capsys.readouterr().out)
    assert made == ["train.py", "evaluate.py"]
    run = tmp_path / "out" / "inshop" / "runs" / "efficientnet_lite0_OC" / "seed0"
    recall = json.loads((run / "metrics.json").read_text())["recall@1"]
    row = f"| efficientnet_lite0 OC |  |  |  |  |  | {recall:.3f} |".replace(" 0.", " .")
    assert row in (tmp_path / "out" / "fig3.md").read_text() and row in texts[1]
    assert "The test part was scored 1 times" in texts[1]
    assert (tmp_path / "out" / "fig3.png").stat().st_size > 10_000
