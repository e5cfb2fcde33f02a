"""benchmarks/recipes.py: all sides under one law, measured by one code."""

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from fir_tf.errors import FirError
from fir_tf.images.decode import decode_and_fit

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def recipes():
    """The module; what it puts on the path is taken off again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
        yield __import__("recipes")


def run_of(side, seed, recall, seconds):
    """What results.json holds of a run, a point for each recall@1."""
    points = [
        {"step": 10 * n, "seconds": seconds * n, "recall@1": value, "mAP@R": value / 2}
        for n, value in enumerate(recall)
    ]
    return {"side": side, "seed": seed, "startup_seconds": 7.4, "points": points}


def test_the_table_says_when_the_best_peer_is_reached(recipes):
    sides = {"ours": {"flags": []}, "weak": {"flags": []}, "a (peer)": {}, "b (peer)": {}}
    runs = [
        run_of("ours", 0, (0.4, 0.5, 0.6, 0.9), 10),
        run_of("ours", 1, (0.4, 0.6, 0.8, 0.9), 12),
        run_of("weak", 0, (0.4, 0.4, 0.4, 0.69), 10),
        run_of("weak", 1, (0.4, 0.4, 0.4, 0.69), 10),
        # The best of the peers is .7 at the end, whatever it was before.
        run_of("a (peer)", 0, (0.4, 0.9, 0.8, 0.8), 10),
        run_of("a (peer)", 1, (0.4, 0.1, 0.1, 0.6), 10),
        run_of("b (peer)", 0, (0.4, 0.6, 0.6, 0.6), 10),
        run_of("b (peer)", 1, (0.4, 0.6, 0.6, 0.6), 10),
    ]
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in recipes.table(sides, runs).splitlines()[2:]
    ]
    assert rows == [
        ["ours", "0.900", "0.450", "0.400", "30", "33.0", "7", "22.0"],
        ["a (peer)", "0.700", "0.350", "0.400", "30", "30.0", "7", "30.0"],
        ["weak", "0.690", "0.345", "0.400", "30", "30.0", "7", "never"],
        ["b (peer)", "0.600", "0.300", "0.400", "30", "30.0", "7", "never"],
    ]


@pytest.mark.parametrize("seconds", [0.01, 3, 47])
def test_a_plan_ends_at_the_budget(recipes, seconds):
    steps = recipes.planned_steps({"points": 8, "seconds": seconds}, 0.05)
    assert steps >= 8
    assert steps == 8 or abs(steps * 0.05 - seconds) <= 0.03


def test_what_embedding_takes_is_not_counted(recipes, tmp_path):
    def work(seconds):
        begin = time.process_time()
        while time.process_time() - begin < seconds:
            pass

    made = []

    def advance(first, last):
        made.extend(range(first, last))
        work(0.02)

    def embed():
        work(0.1)
        return np.full([3, 2], len(made), np.float32)

    recipes.record({"folder": str(tmp_path), "points": 4}, 13, advance, embed)
    points = json.loads((tmp_path / "points.json").read_text())["points"]
    assert made == list(range(13))
    assert [point["step"] for point in points] == [0, 3, 6, 10, 13]
    assert 0.08 <= points[-1]["seconds"] < 0.3
    for number, point in enumerate(points):
        assert (np.load(tmp_path / f"{number}.npy") == point["step"]).all()


def options(**others):
    values = {"variants": [], "variant": ["a: --beta=1"], "torch_python": "p", "peers": "supcon"}
    return SimpleNamespace(**{**values, "learning_rate": 1e-4, **others})


@pytest.mark.parametrize(
    ("others", "match"),
    [
        ({"peers": "supcon,nothing"}, "Received: 'nothing'"),
        ({"variant": ["a: --beta=1", "a: --beta=2"]}, "Received: a, a, supcon"),
        ({"variant": [], "peers": ""}, "Received: none"),
    ],
)
def test_sides_that_cannot_be(recipes, others, match):
    with pytest.raises(FirError, match=match):
        recipes.sides_of(options(**others))


def test_sides(recipes, tmp_path):
    (tmp_path / "x.variants").write_text("--epochs=3\nb: --beta=2\n")
    sides = recipes.sides_of(options(variants=[tmp_path / "x.variants"]))
    assert sides == {
        "b": {"flags": ["--epochs=3", "--beta=2"]},
        "a": {"flags": ["--beta=1"]},
        "supcon (peer)": {"peer": "supcon", "learning_rate": 1e-4},
    }
    assert list(recipes.sides_of(options(torch_python=""))) == ["a"]


def test_it_goes_on_where_it_was_stopped(recipes, tmp_path, monkeypatch):
    arguments = ["recipes.py", "--name=x", "--seeds", "0", "1", "--torch_python=p"]
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setattr(recipes, "RESULTS", tmp_path)
    monkeypatch.setattr(recipes, "Photos", lambda conditions: None)
    monkeypatch.setattr(recipes, "make_task", lambda *_: {})
    args, made = recipes.parse(), []

    def run_side(task, python, script, photos):
        if len(made) == 2:
            raise FirError("stopped")
        made.append((python, script, task.get("flags") or task["peer"]))
        return {"startup_seconds": 1.0, "points": [dict.fromkeys(("seconds", *recipes.METRICS), 0)]}

    monkeypatch.setattr(recipes, "run_side", run_side)
    sides = {"a": {"flags": ["--image_size=99"]}, "b (peer)": {"peer": "b"}}
    with pytest.raises(FirError, match="stopped"):
        recipes.run_all(args, sides, {})
    (python, script, flags), other = made
    assert (python, script) == (sys.executable, "recipes.py")
    assert other == ("p", "torch_recipe.py", "b")
    # The conditions come last: a recipe cannot change them.
    assert flags[0] == "--image_size=99" and "--image_size=128" in flags[1:]

    made.clear()
    results = json.loads((tmp_path / "recipes.json").read_text())
    recipes.run_all(args, sides, results)
    assert len(made) == 2 and len(results) == 4
    with pytest.raises(FirError, match="another --name"):
        recipes.run_all(args, {"a": {"flags": ["--beta=3"]}}, results)


@pytest.fixture(scope="module")
def torch_recipe(recipes):
    pytest.importorskip("torch", reason="torch is not installed: extra `oracle`")
    return __import__("torch_recipe")


@pytest.mark.parametrize("resize", ["crop", "squash", "pad"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_the_peers_photos_are_fitted_as_ours(torch_recipe, resize, mode, tmp_path):
    """Of a PNG, which all decoders read alike."""
    noise = np.random.default_rng(0).integers(0, 256, (9, 14, len(mode)), dtype=np.uint8)
    photo = Image.fromarray(noise).resize((283, 190), Image.Resampling.BICUBIC)
    photo.save(tmp_path / "x.png")
    ours = decode_and_fit((tmp_path / "x.png").read_bytes(), 96, resize).numpy()
    theirs = torch_recipe.fitted(torch_recipe.opened(tmp_path / "x.png"), 96, resize)
    assert np.abs(ours - np.asarray(theirs, np.float32)).max() < 1.6
