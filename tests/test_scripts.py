"""train.py, evaluate.py and export.py as a user runs them, on small boutiques."""

import dataclasses
import functools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from commands import done
from PIL import Image
from shallow import two_layer_backbones

from fir_tf import boutique
from fir_tf.datasets import load
from fir_tf.evaluation.pictures import SheetLayout
from fir_tf.files import write_json

ROOT = Path(__file__).parent.parent


FLAGFILES = {
    "inshop": "quickstart.flags",
    "category": "category.flags",
    "consumer2shop": "consumer2shop.flags",
}
LAYOUTS = ["inshop", "category", pytest.param("consumer2shop", marks=pytest.mark.nightly)]


def train(layout, data, run, *flags, epochs=2, ok=True):
    """Trains a small model by the flags of a benchmark, and others behind them."""
    return done(
        "train.py",
        f"--flagfile={ROOT / FLAGFILES[layout]}",
        f"--data_dir={data}",
        f"--run={run}",
        "--backbone=efficientnet_lite0",
        "--image_size=64",
        "--batch_size=16",
        f"--epochs={epochs}",
        *flags,
        ok=ok,
    )


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A small boutique in the layout of a benchmark and the run the three scripts made of it."""

    layout: str
    data: Path
    run: Path
    evaluated: str
    exported: str

    @property
    def target(self):
        return self.run / "export" / "fir" / "1"

    def table(self, name):
        """Returns the rows of an annotation file, read by hand, as lists of columns."""
        count, _, *rows = (self.data / name).read_text(encoding="utf-8").splitlines()
        assert int(count) == len(rows)
        return [row.split() for row in rows]

    def sides(self):
        """Returns {image: item} of the queries and of the gallery, in the file's order."""
        rows = self.table("Eval/list_eval_partition.txt")
        if self.layout == "inshop":
            return [
                {name: item for name, item, status in rows if status == side}
                for side in ("query", "gallery")
            ]
        pairs = [row for row in rows if row[3] == "test"]
        return [{row[side]: row[2] for row in pairs} for side in (0, 1)]

    def classified(self):
        """Returns {image: category name} of the images that the test classifies."""
        if self.layout == "category":
            names = [name for name, _ in self.table("Anno/list_category_cloth.txt")]
            label = dict(self.table("Anno/list_category_img.txt"))
            return {
                image: names[int(label[image]) - 1]
                for image, status in self.table("Eval/list_eval_partition.txt")
                if status == "test"
            }
        query, gallery = self.sides()
        return {image: "/".join(image.split("/")[1:3]) for image in [*query, *gallery]}

    def contents(self, images):
        """Returns the bytes of images."""
        return [(self.data / "Img" / image).read_bytes() for image in images]

    def serve(self, contents):
        """Returns what the SavedModel answers for a list of bytes, {name: array}."""
        signatures = tf.saved_model.load(str(self.target)).signatures
        answer = {}
        for name in ("serving_default", "classify"):
            parts = [
                signatures[name](image_bytes=tf.constant(contents[start : start + 32]))
                for start in range(0, len(contents), 32)
            ]
            answer |= {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        return answer


@pytest.fixture(scope="module")
def benchmark_of(tmp_path_factory):
    """Returns a function of the layout that makes its Benchmark once."""

    @functools.cache
    def make(layout):
        folder = tmp_path_factory.mktemp(layout)
        data = boutique.write(
            folder / "data", boutique.Order(items=24, views=6, size=96, layout=layout)
        )
        run = folder / "run"
        if layout == "inshop":
            train(layout, data, run)
        else:
            with two_layer_backbones():
                train(layout, data, run, "--weights=none", "--backbone=resnet50_v15")
        projector = ["--projector"] if layout == "inshop" else []
        evaluated, _ = done("evaluate.py", f"--run={run}", *projector)
        exported, _ = done("export.py", f"--run={run}")
        return Benchmark(layout, data, run, evaluated, exported)

    return make


@pytest.mark.addons
@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_three_scripts(benchmark_of, layout):
    made = benchmark_of(layout)
    metrics = json.loads((made.run / "metrics.json").read_text())
    tops = [metrics[f"category_top{k}"] for k in (1, 3, 5)]
    assert tops == sorted(tops) and tops[0] >= 0 and tops[-1] <= 1
    assert metrics["protocol"]["images_classified"] == len(made.classified())
    pictures = ["recall_curve.png", "contact_sheet.png"]
    if layout == "category":
        assert not {name for name in metrics if "@" in name or name == "R-precision"}
        assert not any((made.run / name).exists() for name in pictures)
        pictures = []
    else:
        query, gallery = made.sides()
        assert metrics["protocol"]["queries"] == len(query)
        assert metrics["protocol"]["gallery_images"] == len(gallery)
        recalls = [metrics[f"recall@{k}"] for k in (1, 5, 10, 20, 30, 40, 50)]
        assert recalls == sorted(recalls) and 0 < recalls[0] <= 1 and recalls[-1] <= 1
        assert 0 <= metrics["mAP@R"] <= metrics["R-precision"] <= 1
        for word in ("gallery", "ties", "without a match"):
            assert word in made.evaluated
        with Image.open(made.run / "contact_sheet.png") as picture:
            rows = min(8, len(set(query.values())))
            assert picture.size == SheetLayout((168, 224), rows, 3, title_lines=1).size
    if layout == "inshop":
        shown = np.loadtxt(made.run / "projector" / "vectors.tsv", delimiter="\t")
        np.testing.assert_allclose(np.linalg.norm(shown, axis=1), 1, atol=1e-4)
        assert len(shown) == len(query) + len(gallery)
    for name in (*pictures, "training.png"):
        with Image.open(made.run / name) as picture:
            assert min(picture.size) > 300
            assert len(np.unique(np.asarray(picture.convert("L")))) > 50

    assert str(made.target) in made.exported
    answer = made.serve([*made.contents(list(made.classified())[:5]), b"no image"])
    assert answer["valid"].tolist() == [True] * 5 + [False]
    assert (np.diff(answer["score"], axis=1) <= 0).all()
    names = {name.decode() for name in answer["category"][:5].ravel()}
    assert names <= set(load(layout, made.data).categories)
    assert (answer["category"][5] == b"").all()


@pytest.mark.addons
@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_metrics_follow_from_what_the_servable_answers(benchmark_of, layout):
    """Annotation files read by hand, the exported model on the JPEG files, plain numpy."""
    made = benchmark_of(layout)
    metrics = json.loads((made.run / "metrics.json").read_text())
    category = made.classified()
    answer = made.serve(made.contents(category))
    right = answer["category"] == np.array([[name.encode()] for name in category.values()])
    for k in (1, 3, 5):
        assert metrics[f"category_top{k}"] == pytest.approx(right[:, :k].any(1).mean(), abs=1e-9)
    if layout == "category":
        return
    embedding = dict(zip(category, answer["embedding"], strict=True))
    query, gallery = made.sides()
    shelf = np.stack([embedding[image] for image in gallery])
    hits = {k: [0, 0] for k in (1, 5, 10)}
    for image, item in query.items():
        similarity = shelf @ embedding[image]
        same = np.array([other == item for other in gallery.values()])
        for k, bounds in hits.items():
            # The export folds the batch norms, which moves a similarity by up to 1e-5.
            for place, slack in enumerate((-1e-5, 1e-5)):
                better = (similarity[~same] > similarity[same].max() + slack).sum()
                bounds[place] += better < k
    assert hits[1][0] > 0 and hits[1][1] < len(query)
    for k, (low, high) in hits.items():
        assert high - low <= 1 and low - 1e-6 <= metrics[f"recall@{k}"] * len(query) <= high + 1e-6


@pytest.mark.slow
def test_the_same_command_again_does_nothing(benchmark_of):
    made = benchmark_of("inshop")
    before = (made.run / "model.keras").read_bytes()
    out, _ = train("inshop", made.data, made.run)
    assert "finished already" in out
    assert (made.run / "model.keras").read_bytes() == before
    _, err = train("inshop", made.data, made.run, epochs=3, ok=False)
    assert "--epochs: now 3, there 2" in err


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.bfloat16
def test_bfloat16_reaches_what_float32_reaches(tmp_path):
    data = boutique.write(tmp_path / "data", boutique.Order(items=72, views=6, size=96))
    found = {}
    for name, flags in {
        "untrained": ["--learning_rate=1e-9"],
        "float32": ["--mixed_precision=float32"],
        "bfloat16": ["--mixed_precision=bfloat16"],
    }.items():
        run = tmp_path / name
        train("inshop", data, run, *flags, epochs=1 if name == "untrained" else 6)
        done("evaluate.py", f"--run={run}")
        metrics = json.loads((run / "metrics.json").read_text())
        found[name] = np.array([metrics[key] for key in ("recall@1", "recall@5", "mAP@R")])
    assert metrics["protocol"]["queries"] > 60
    # Another seed moves each of them by up to .05.
    np.testing.assert_allclose(found["bfloat16"], found["float32"], atol=0.08)
    # Six epochs on three dozen items move the near neighbours, not yet the nearest.
    assert found["bfloat16"][1] > found["untrained"][1] + 0.03


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("train.py", ["--data_dir=no/such/folder"], "`data_dir` must be an existing folder"),
        ("train.py", [], "Give --data_dir=..., or settings with --flagfile=inshop.flags"),
        ("train.py", ["--alpha=0", "--beta=0"], "`alpha` or `beta` must be > 0"),
        ("train.py", ["--losses=OC+XY"], "`losses` must be a sum"),
        ("train.py", ["stray"], "unexpected argument 'stray'"),
        ("evaluate.py", ["--run=no/such/run"], "is not the folder of a run"),
        ("export.py", ["--run=no/such/run"], "is not the folder of a run"),
    ],
)
def test_wrong_use_is_a_message_not_a_traceback(name, flags, message):
    _, err = done(name, *flags, ok=False)
    assert message in err


def test_simple_mistakes_are_told_before_tensorflow_is_imported():
    for name, flag in (
        ("train", "--losses=OC+XY"),
        ("evaluate", "--run=no/such/run"),
        ("export", "--run=no/such/run"),
        ("search", "query no/such/photo.jpg --index=x"),
        ("search", "query README.md --index=no/such/index"),
        ("search", "web --index=no/such/index"),
        ("search", "migrate --index=no/such/index --model=x"),
        ("search", "measure --index=docs"),
    ):
        code = (
            "import sys\nsys.modules['tensorflow'] = None\n"
            f"from fir_tf.cli.{name} import run\nrun()"
        )
        told = subprocess.run(
            [sys.executable, "-c", code, *flag.split()], capture_output=True, text=True, cwd=ROOT
        )
        assert told.returncode == 1 and told.stderr.startswith("error: "), told.stderr


@pytest.mark.parametrize("name", ["train.py", "evaluate.py", "export.py"])
def test_help_explains_every_flag(name):
    helped = subprocess.run(
        [sys.executable, str(ROOT / name), "--help"], capture_output=True, text=True, cwd=ROOT
    )
    assert helped.returncode == 0, helped.stderr
    assert "--run:" in helped.stdout and f"python {name}" in helped.stdout


def test_a_run_without_a_model_says_so(tmp_path):
    from fir_tf.config import Config

    Config(run=str(tmp_path)).save(tmp_path / "config.json")
    write_json(tmp_path / "labels.json", {"categories": ["a"]})
    _, err = done("evaluate.py", f"--run={tmp_path}", ok=False)
    assert "has no model yet" in err
