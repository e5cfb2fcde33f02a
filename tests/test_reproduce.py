"""tools/reproduce.py: the paper's grid, run and compared."""

import importlib.util
import json
import subprocess
import sys
import types
from pathlib import Path

import pytest
from commands import call

from fir_tf import boutique

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def reproduce():
    with pytest.MonkeyPatch.context() as patch:
        # As for the script, whose own folder Python puts there.
        patch.syspath_prepend(ROOT / "tools")
        spec = importlib.util.spec_from_file_location("reproduce", ROOT / "tools" / "reproduce.py")
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, "reproduce", module)
        spec.loader.exec_module(module)
        yield module


def seeds(*recalls):
    """Metrics of runs with these values of recall@5."""
    protocol = {"data_dir": "somewhere/photos"}
    return [{"recall@5": one, "recall@20": 0.5, "protocol": protocol} for one in recalls]


def test_the_table_stands_beside_the_papers(reproduce):
    found = {("resnet50", "OC"): seeds(0.6, 0.62, 0.7), ("lite", "OC"): seeds(0.25, 0.25, 0.25)}
    text = reproduce.render(reproduce.TABLES["1"], found)
    # PAPER: Table 1, ResNet50 with OC.
    assert "| resnet50 OC | .633 | .766 | .640 (.600 to .700) | .500 (.500 to .500) |" in text
    assert "| lite OC |  |  | .250 (.250 to .250) |" in text
    assert "Images: photos. Mean of 3 seed(s)" in text and "somewhere" not in text


def test_the_papers_order_is_judged_by_the_spread_of_the_seeds(reproduce):
    found = {
        ("a", "OC"): seeds(0.60, 0.65),
        ("a", "OC+OS"): seeds(0.50, 0.55),
        ("a", "OC+IS"): seeds(0.64, 0.80),
        ("b", "OC"): seeds(0.7, 0.8),
        ("b", "OC+IS"): seeds(0.6, 0.5),
        ("c", "OC"): seeds(0.7),
        ("c", "OC+IS"): seeds(0.8),
    }
    lines = reproduce.claims(reproduce.TABLES["1"], found)
    assert [line for line in lines if line] == [
        "a: the paper's OC+IS over OC in recall@5 is not decided here (+0.095; the seeds overlap).",
        "a: the paper's OC over OC+OS in recall@5 holds here (+0.100; the seeds do not overlap).",
        "b: the paper's OC+IS over OC in recall@5 does not hold here "
        "(-0.200; the seeds do not overlap).",
        "c: the paper's OC+IS over OC in recall@5 is not decided here "
        "(+0.100; one seed decides nothing).",
    ]


def test_the_grids_are_the_papers(reproduce):
    tables = reproduce.TABLES
    grid = {
        name: {(backbone, losses) for backbone in table.backbones for losses in table.losses}
        for name, table in tables.items()
    }
    for name, title in (("1", "Table 1"), ("2", "Table 2")):
        rows = [row for row in reproduce.PAPER_RESULTS if row.source == title]
        assert grid[name] == {(row.backbone, row.losses) for row in rows if row.backbone}
        for row in rows:
            if row.backbone:
                own = reproduce.paper_values(tables[name], row.backbone, row.losses)
                assert own == row.values and set(tables[name].keys) <= set(own)


@pytest.mark.nightly
@pytest.mark.slow
def test_a_grid_is_run_once(reproduce, tmp_path, monkeypatch, capsys, shallow):
    """The grid's own processes are calls here; test_scripts.py has scripts as processes."""

    def in_this_process(command, check):
        python, script, *flags = command
        assert python == sys.executable and Path(script).is_file() and not check
        status, out, err = call(Path(script).name, *flags)
        print(out, err)
        return subprocess.CompletedProcess(command, status)

    monkeypatch.setattr(reproduce, "subprocess", types.SimpleNamespace(run=in_this_process))
    data = boutique.write(tmp_path / "data", boutique.Order(items=24, views=6, size=64))
    arguments = ["--table=fig3", f"--data_dir={data}", f"--out={tmp_path / 'out'}", "--losses=OC"]
    arguments += ["--backbones=efficientnet_lite0", "--", "--image_size=64", "--epochs=1"]
    arguments += ["--weights=none"]
    run = tmp_path / "out" / "inshop_efficientnet_lite0_OC_0"
    texts, times = [], []
    for _ in range(2):
        assert reproduce.main(arguments) == 0
        texts.append(capsys.readouterr().out)
        times.append((run / "model.keras").stat().st_mtime)
    assert "finished already" in texts[1] and "finished already" not in texts[0]
    assert times[0] == times[1]
    recall = json.loads((run / "metrics.json").read_text())["recall@1"]
    row = f"| efficientnet_lite0 OC |  |  |  |  |  | {recall:.3f} |".replace(" 0.", " .")
    assert row in (tmp_path / "out" / "fig3.md").read_text() and row in texts[1]
    assert (tmp_path / "out" / "fig3.png").stat().st_size > 10_000
