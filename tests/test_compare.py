"""tools/compare.py: what is run, what is measured and what is said of it."""

import dataclasses
import importlib
import json
import os
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import numpy as np
import pytest
from commands import call
from filelock import FileLock
from shallow import TWO_STAGES, shallow_backbones
from small_sets import inshop_rows, write_inshop

from fir_tf.config import Config
from fir_tf.datasets import load, load_training
from fir_tf.datasets.catalogue import take_fold
from fir_tf.errors import FirError
from fir_tf.evaluation import evaluate, pictures
from fir_tf.evaluation.queries import Queries
from fir_tf.files import write_json

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def tools():
    """compare.py and grid.py, as for the script, whose own folder Python puts there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "tools")
        names = ("compare", "grid")
        yield types.SimpleNamespace(**{name: importlib.import_module(name) for name in names})


# Folds


def test_folds_divide_the_training_items(tmp_path):
    catalogue = load("inshop", write_inshop(tmp_path / "x", inshop_rows(train_items=11)))
    train = set(catalogue.path[catalogue.split == "train"])
    seen, sizes = set(), []
    for fold in ("1/3", "2/3", "3/3"):
        trained, measured = take_fold(catalogue, fold)
        own = set(measured.path[measured.split == "val"])
        assert set(trained.path) == set(measured.path[measured.split == "train"]) == train - own
        assert not seen & own
        items = {path.split("/")[3] for path in own}
        assert not items & {path.split("/")[3] for path in trained.path}
        seen |= own
        sizes.append(len(items))
    assert seen == train and sorted(sizes) == [3, 4, 4]


def test_a_fold_of_images_without_items_keeps_the_sets_own_validation_part(tmp_path):
    table = tmp_path / "photos.csv"
    lines = [f"{number}.jpg,,dress,{'val' if number < 3 else 'train'}" for number in range(12)]
    table.write_text("\n".join(["path,item,category,split", *lines]))
    for number in range(12):
        (tmp_path / f"{number}.jpg").touch()
    catalogue = load("table", table)
    trained, measured = take_fold(catalogue, "2/2")
    assert trained.counts() == {"train": (5, 0, 1), "val": (3, 0, 1)}
    assert measured.counts() == {"train": (5, 0, 1), "val": (4, 0, 1)}
    assert not set(measured.path) & {"0.jpg", "1.jpg", "2.jpg"}


def test_a_run_of_a_fold_sees_neither_it_nor_the_test_part(inshop):
    catalogue = load_training(Config(data_dir=str(inshop), cv_fold="1/4", val_fraction=0.3))
    left_out = take_fold(load("inshop", inshop), "1/4")[1].part("val")
    assert not set(catalogue.path) & set(left_out.path)
    assert set(catalogue.split) == {"train", "val"}


@pytest.mark.parametrize("fold", ["0/3", "4/3", "1/1", "1", "1/3/3", "a/b"])
def test_what_is_no_fold_is_refused(inshop, fold):
    with pytest.raises(FirError, match="`cv_fold` must be a fold and their number, such as 1/3"):
        load_training(Config(data_dir=str(inshop), cv_fold=fold))


def test_more_folds_than_items_are_refused(inshop):
    with pytest.raises(FirError, match="no more folds than there are training items: .* has 8"):
        take_fold(load("inshop", inshop), "1/9")


# Queries


def test_queries_are_read_as_they_were_written(tmp_path):
    names = np.array(["a,b.jpg", 'c".jpg', os.fsdecode(b"\xff.jpg")], object)
    written = Queries(names, np.array(["1", "é", "1"], object), *np.array([[1, 0, 7]]), *RATES)
    written.save(tmp_path / "queries.csv")
    read = Queries.load(tmp_path / "queries.csv")
    for name in ("path", "item", "rank", "average_precision", "r_precision"):
        assert getattr(read, name).tolist() == getattr(written, name).tolist()
    assert read.values("recall@1").tolist() == [1, 0, 0]
    assert read.values("recall@7").tolist() == [1, 0, 1]
    assert read.values("mAP@R").tolist() == RATES[0].tolist()
    assert read.values("R-precision").tolist() == RATES[1].tolist()


RATES = np.array([[1 / 3, 0.1 + 0.2, 0.0], [0.5, 1e-17, 1.0]])


@pytest.mark.parametrize(
    "text", ["", "path,item\na,b\n", "path,item,rank,AP@R,R-precision\n1,2,3\n"]
)
def test_damaged_queries_are_refused(tmp_path, text):
    (tmp_path / "queries.csv").write_text(text)
    with pytest.raises(FirError, match="queries.csv must be what evaluate.py writes. .* Evaluate"):
        Queries.load(tmp_path / "queries.csv")


# What is run


class Trainer:
    """Stands in for the scripts: a run is as good as its `--skill`, and its seed moves it.

    Args:
        fails: callable (script, {flag: value}) -> whether that script ends in an error.
    """

    def __init__(self, fails=lambda script, flags: False):
        self.fails, self.calls, self.most, self._now = fails, [], 0, 0
        self._lock = threading.Lock()

    def __call__(self, words, log):
        script, *flags = words
        flags = dict(flag.removeprefix("--").split("=", 1) for flag in flags)
        with self._lock:
            self.calls.append((script, flags["run"]))
            self._now += 1
            self.most = max(self.most, self._now)
        time.sleep(0.01)
        status = 3 if self.fails(script, flags) else self._make(script, flags)
        log.write_text(f"one line\nerror: {script} did not like it\n" if status else "well\n")
        with self._lock:
            self._now -= 1
        return self._ended(status)

    def _ended(self, status):
        return importlib.import_module("grid").Ended(status, 12.5)

    def _make(self, script, flags):
        run = Path(flags["run"])
        if script == "train.py":
            write_json(run / "flags.json", flags)
            return 0
        trained = json.loads((run / "flags.json").read_text())
        assert flags.get("split", "test") == ("cv_fold" if "cv_fold" in trained else "test")
        names = [f"{trained.get('cv_fold', 'test')}/{number}.jpg" for number in range(80)]
        rng = np.random.default_rng([int(trained["seed"]), int(10 * float(trained["skill"]))])
        hit = rng.random(80) < float(trained["skill"])
        items = [f"{name[:4]}{number // 4}" for number, name in enumerate(names)]
        queries = Queries(np.array(names), np.array(items), np.where(hit, 1, 9), hit / 2, hit / 4)
        queries.save(run / "queries.csv")
        write_json(run / "metrics.json", {"recall@1": float(hit.mean()), "category_top1": 0.25})
        return 0


def grid_of(tools, out, *more, seeds="0,1", variants=("a: --skill=0.9", "b: --skill=0.3")):
    arguments = [f"--out={out}", f"--seeds={seeds}", "--folds=2", *more]
    arguments += [f"--variant={variant}" for variant in variants]
    return tools.compare.plan(tools.compare.parse([*arguments, "--", "--common=1"]))


def results(out, name="results"):
    return json.loads((out / f"{name}.json").read_text())


def test_every_variant_gets_every_seed_and_fold_once(tools, tmp_path, capsys):
    trainer = Trainer()
    runs = grid_of(tools, tmp_path)
    assert tools.compare.compare(runs, tmp_path, 3, trainer) == 0
    assert len(trainer.calls) == len(set(trainer.calls)) == 2 * 2 * 2 * 2
    assert 1 < trainer.most <= 3
    made = [json.loads((run.folder / "flags.json").read_text()) for run in runs]
    assert {(flags["skill"], flags["seed"], flags["cv_fold"]) for flags in made} == {
        (skill, seed, fold) for skill in ("0.9", "0.3") for seed in "01" for fold in ("1/2", "2/2")
    }
    assert {flags["common"] for flags in made} == {"1"}
    tables = [
        Queries.load(run.folder / "queries.csv") for run in runs if "skill=0.9" in run.flags[1]
    ]
    found = results(tmp_path)
    best, worst = found["variants"]
    assert (best["name"], worst["name"], best["runs"], best["of"]) == ("a", "b", 4, 4)
    assert best["recall@1"] == pytest.approx(np.mean([table.rank == 1 for table in tables]))
    assert best["processor_seconds"] == 12.5 and best["category_top1"] == 0.25
    (pair,) = found["pairs"]
    assert (pair["first"], pair["queries"], pair["items"]) == ("a", 160, 40)
    gain = pair["recall@1"]
    assert gain["difference"] == pytest.approx(best["recall@1"] - worst["recall@1"])
    assert 0 < gain["low"] < gain["difference"] < gain["high"] and gain["wins"] == 1
    text = (tmp_path / "results.md").read_text()
    assert text in capsys.readouterr().out and "**+0." in text
    assert "The test part was never scored from this folder." in text
    assert (tmp_path / "results.png").stat().st_size > 5000


def test_a_comparison_goes_on_and_grows(tools, tmp_path):
    def killed(script, flags):
        if "seed1" in flags["run"]:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        tools.compare.compare(grid_of(tools, tmp_path), tmp_path, 1, Trainer(killed))
    assert not (tmp_path / "results.json").exists()
    again = Trainer()
    tools.compare.compare(grid_of(tools, tmp_path), tmp_path, 1, again)
    assert again.calls and all("seed1" in run for _, run in again.calls)
    # What the killed processes took is not known, and no smaller number stands for it.
    found = {run.name: run.processor_seconds for run in grid_of(tools, tmp_path)}
    assert found["a, seed 0, fold 1/2"] == 12.5 and found["a, seed 1, fold 1/2"] is None
    wider = Trainer()
    more = grid_of(tools, tmp_path, seeds="0,1,2")
    tools.compare.compare(more, tmp_path, 1, wider)
    assert len(wider.calls) == 8 and all("seed2" in run for _, run in wider.calls)
    assert results(tmp_path)["seeds"] == [0, 1, 2]
    with pytest.raises(FirError, match="was run with other flags: .*skill=0.9.*\nnow: .*skill=1"):
        grid_of(tools, tmp_path, variants=("a: --skill=1",))


def test_a_bad_run_is_told_and_harms_no_other(tools, tmp_path, capsys):
    def fails(script, flags):
        return script == "train.py" and "/b/seed1_fold2" in flags["run"]

    runs = grid_of(tools, tmp_path)
    with pytest.raises(FirError, match="1 of 8 runs failed.* b, seed 1, fold 2/2: train.py ended"):
        tools.compare.compare(runs, tmp_path, 2, Trainer(fails))
    assert "status 3: error: train.py did not like it (" in capsys.readouterr().out
    found = results(tmp_path)
    assert [one["runs"] for one in found["variants"]] == [4, 3]
    # The seed of which a fold is missing would be measured on fewer queries.
    assert found["pairs"][0]["seeds"] == [0] and found["pairs"][0]["queries"] == 160
    assert "b, seed 1, fold 2/2" in found["bad"]
    assert "One seed: the luck of training is NOT in the intervals" in (
        tmp_path / "results.md"
    ).read_text().replace("\n", " ")
    repaired = Trainer()
    tools.compare.compare(runs, tmp_path, 2, repaired)
    assert [script for script, _ in repaired.calls] == ["train.py", "evaluate.py"]
    assert not results(tmp_path)["bad"]
    assert runs[-1].processor_seconds == 25


def test_the_test_part_is_scored_by_final_alone_and_counted(tools, tmp_path):
    tools.compare.compare(grid_of(tools, tmp_path), tmp_path, 1, Trainer())
    assert results(tmp_path)["test_part_scored"] == []
    final = grid_of(tools, tmp_path, "--final")
    assert len(final) == 4 and not any("cv_fold" in flag for run in final for flag in run.flags)
    for _ in range(2):
        tools.compare.compare(final, tmp_path, 1, Trainer())
        scored = results(tmp_path, "final")["test_part_scored"]
        assert [(one["variant"], one["seed"]) for one in scored] == [
            ("a", 0),
            ("b", 0),
            ("a", 1),
            ("b", 1),
        ]
    third = grid_of(tools, tmp_path, "--final", variants=("c: --skill=0.5",), seeds="0")
    tools.compare.compare(third, tmp_path, 1, Trainer())
    text = (tmp_path / "final.md").read_text()
    assert "The test part was scored 5 times from this folder (a 2, b 2, c 1)" in text
    tools.compare.compare(grid_of(tools, tmp_path), tmp_path, 1, Trainer())
    assert len(results(tmp_path)["test_part_scored"]) == 5


def test_a_look_counts_although_it_ends_badly(tools, tmp_path):
    trainer = Trainer(lambda script, flags: script == "evaluate.py")
    with pytest.raises(FirError, match="evaluate.py ended with status 3"):
        tools.compare.compare(
            grid_of(tools, tmp_path, "--final", seeds="0", variants=("a: --skill=1",)),
            tmp_path,
            1,
            trainer,
        )
    assert len(results(tmp_path, "final")["test_part_scored"]) == 1


def test_other_queries_cannot_be_compared(tools, tmp_path):
    runs = grid_of(tools, tmp_path)
    tools.compare.compare(runs, tmp_path, 1, Trainer())
    path = runs[1].folder / "queries.csv"
    path.write_text(path.read_text().replace("/7.jpg", "/new.jpg"))
    with pytest.raises(FirError, match="was measured on other queries than those before it"):
        tools.compare.summarise(runs, {})


def test_the_plan_is_shown_without_running(tools, tmp_path, capsys):
    arguments = [f"--out={tmp_path}", "--seeds=0", "--folds=2", "--variant=a: --skill=1"]
    assert tools.compare.main([*arguments, "--dry_run"]) == 0
    assert "2 runs, 0 finished, 2 left\n" in capsys.readouterr().out
    runs = grid_of(tools, tmp_path, seeds="0", variants=("a: --skill=1",))
    write_json(runs[0].folder.with_suffix(".json"), {"finished": True, "seconds": 600.0})
    assert tools.compare.main([*arguments, "--dry_run"]) == 0
    shown = capsys.readouterr().out
    assert "a, seed 0, fold 1/2: finished" in shown and "fold 2/2: to be run" in shown
    assert "1 left\nabout 10 minutes" in shown


def test_a_file_of_variants(tools, tmp_path):
    path = tmp_path / "margins.variants"
    path.write_text(
        "# Which margin?\n--flagfile=quickstart.flags --epochs=3\n\nsmall: --delta=0.1\n"
        "'large', it is said: --delta=1 --losses='IS + OC' # a comment\n"
    )
    small, large = tools.grid.read_variants(path)
    assert small.flags == ("--flagfile=quickstart.flags", "--epochs=3", "--delta=0.1")
    assert large.name == "'large', it is said" and large.flags[-1] == "--losses=IS + OC"
    path.write_text("small: --delta=0.1\nno colon\n")
    with pytest.raises(FirError, match=r'variants:2: a variant must be "NAME: FLAGS", such as'):
        tools.grid.read_variants(path)


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("recipes/*.variants")), ids=lambda path: path.stem
)
def test_variants_that_come_with_it(tools, path):
    known = {field.name for field in dataclasses.fields(Config)}
    variants = tools.grid.read_variants(path)
    assert len(variants) > 1
    for variant in variants:
        flags = dict(flag.removeprefix("--").split("=", 1) for flag in variant.flags)
        assert (ROOT / flags.pop("flagfile")).is_file() and set(flags) <= known
        Config(**{name: value for name, value in flags.items() if name == "losses"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "there is nothing to compare"),
        (["--variant=a: --seed=3"], "every run gets its own --seed. Leave out: --seed=3"),
        (["--variant=a: --noresume"], "every run gets its own --noresume"),
        (["--variant=a: --alpha='"], "as in a shell"),
        (["--variant=a:", "--variant=a: --beta=1"], "different names. Received: a 2 times"),
        (["--variant=a:", "--folds=1"], "`folds` must be at least 2. Received: 1"),
        (["--variant=a:", "--", "--run=x"], "Leave out: --run=x"),
        (["--variant=a:", "--", "--dry_run"], "Give it before `--`. Received: --dry_run"),
        (["--variants=nowhere"], "`variants` must be a text file. Received: nowhere"),
    ],
)
def test_what_cannot_be_compared_is_refused(tools, arguments, message):
    with pytest.raises(FirError, match=message):
        tools.compare.plan(tools.compare.parse(arguments))


# Processes


def test_help_comes_without_tensorflow():
    code = (
        "import runpy, sys\nsys.argv = ['tools/compare.py', '--help']\n"
        "sys.path.insert(0, 'tools')\n"
        "try:\n    runpy.run_path('tools/compare.py', run_name='__main__')\n"
        "except SystemExit as ended:\n    assert not ended.code\n"
        "assert 'tensorflow' not in sys.modules and 'matplotlib' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "--final" in done.stdout, done.stderr


@pytest.fixture
def sleeping(tools, monkeypatch):
    """Scripts that say so, and then do nothing for a minute."""
    follow = tools.grid._SCRIPT.split("del sys.argv")[0]
    body = "import time\nprint(os.environ['TF_NUM_INTRAOP_THREADS'], flush=True)\ntime.sleep(60)\n"
    monkeypatch.setattr(tools.grid, "_SCRIPT", follow + body)
    return tools.grid


def wait_for(path):
    while not (path.exists() and path.read_text()):
        time.sleep(0.02)


def test_processes_are_stopped_with_the_comparison(sleeping, tmp_path):
    processes, ended = sleeping.Processes(3), []
    logs = [tmp_path / f"{number}.log" for number in range(2)]
    threads = [
        threading.Thread(target=lambda log=log: ended.append(processes(["train.py"], log)))
        for log in logs
    ]
    for thread in threads:
        thread.start()
    for log in logs:
        wait_for(log)
    processes.stop()
    for thread in threads:
        thread.join(timeout=20)
    assert [one.status for one in ended] == [-15, -15]
    assert all(0 < one.processor_seconds < 5 for one in ended)
    assert [log.read_text() for log in logs] == ["3\n", "3\n"]
    with pytest.raises(sleeping.Failed):
        processes(["train.py"], logs[0])


def test_a_process_ends_when_the_comparison_is_killed(sleeping):
    process = subprocess.Popen(
        [sys.executable, "-c", sleeping._SCRIPT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"TF_NUM_INTRAOP_THREADS": "1"},
    )
    assert process.stdout.readline() == b"1\n"
    # As the system does with what a killed process had open.
    process.stdin.close()
    assert process.wait(timeout=20) == 1
    process.stdout.close()


# All together


def test_a_run_without_a_fold_has_none_to_measure():
    with pytest.raises(FirError, match="`split` cv_fold needs a run of train.py --cv_fold=... Rec"):
        evaluate._load(Config(), Path("runs/x"), "cv_fold")


def test_one_comparison_at_a_time(tools, tmp_path):
    runs = grid_of(tools, tmp_path)
    with FileLock(tmp_path / ".lock"), pytest.raises(FirError, match="another comparison is at"):
        tools.compare.compare(runs, tmp_path, 1, Trainer())


def test_the_picture_shows_each_interval_and_whether_it_leaves_out_zero(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(pictures, "_save", lambda figure, path: figures.append(figure))
    found = {"a - b": (0.2, 0.1, 0.3), "a - c": (0.0, -0.1, 0.1), "b - c": (-0.2, -0.3, -0.1)}
    rows = {pair: {"recall@1": interval} for pair, interval in found.items()}
    pictures.difference_intervals(rows, tmp_path / "x.png")
    (axes,) = figures[0].axes
    bars = [line for line in axes.lines if len(line.get_xdata()) == 2 and line.get_zorder() == 3]
    assert [tuple(bar.get_xdata()) for bar in bars] == [one[1:] for one in found.values()]
    assert len({bar.get_color() for bar in bars}) == 3
    assert [label.get_text() for label in axes.get_yticklabels()] == list(found)
    assert axes.get_ylim()[0] > axes.get_ylim()[1], "the first one is on top"


@pytest.mark.nightly
@pytest.mark.slow
def test_a_real_run_of_a_fold(tools, tmp_path, inshop):
    def in_this_process(words, log):
        before = time.process_time()
        status, out, err = call(*words)
        log.write_text(out + err)
        return tools.grid.Ended(status, time.process_time() - before)

    shared = [f"--data_dir={inshop}", "--backbone=resnet50", "--weights=none", "--image_size=32"]
    shared += ["--epochs=1", "--batch_size=8", "--val_fraction=0.3", "--losses=IS"]
    arguments = [f"--out={tmp_path}", "--seeds=0", "--folds=2", "--variant=plain:", "--"]
    # The second fold is the first one's mirror image.
    (run, _) = tools.compare.plan(tools.compare.parse([*arguments, *shared]))
    with shallow_backbones(TWO_STAGES):
        assert tools.compare.compare([run], tmp_path, 1, in_this_process) == 0
    queries = Queries.load(run.folder / "queries.csv")
    left_out = take_fold(load("inshop", inshop), "1/2")[1].part("val")
    assert queries.path.tolist() == left_out.path.tolist()
    for metric in ("recall@1", "recall@20", "mAP@R", "R-precision"):
        assert queries.values(metric).mean() == pytest.approx(run.metrics()[metric])
    assert run.metrics()["protocol"]["cv_fold"] == "1/2"
    (variant,) = results(tmp_path)["variants"]
    assert (variant["runs"], variant["of"]) == (1, 1) and variant["processor_seconds"] > 0
    assert variant["recall@1"] == pytest.approx(run.metrics()["recall@1"])
