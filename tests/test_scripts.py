"""train.py, evaluate.py and export.py as a user runs them, on a small boutique."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from fir_tf.datasets import boutique, load
from fir_tf.files import write_json

ROOT = Path(__file__).parent.parent


def script(name, *flags, ok=True):
    """Runs a script in a process of its own; returns its standard output and error."""
    done = subprocess.run(
        [sys.executable, str(ROOT / name), *flags],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=600,
    )
    assert (done.returncode == 0) == ok, done.stdout + done.stderr
    return done.stdout, done.stderr


def train(shop, run, epochs, ok=True):
    """Trains a small model by the quickstart's flags."""
    return script(
        "train.py",
        "--flagfile=quickstart.flags",
        f"--data_dir={shop}",
        f"--run={run}",
        "--image_size=64",
        "--batch_size=16",
        f"--epochs={epochs}",
        ok=ok,
    )


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return boutique.write(tmp_path_factory.mktemp("data") / "boutique", items=24, views=4, size=96)


@pytest.fixture(scope="module")
def trained(shop, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "small"
    train(shop, run, epochs=2)
    return run


@pytest.mark.slow
def test_the_three_scripts(shop, trained):
    out, _ = script("evaluate.py", f"--run={trained}")
    metrics = json.loads((trained / "metrics.json").read_text())
    recalls = [metrics[f"recall@{k}"] for k in (1, 5, 10, 20, 30, 40, 50)]
    assert recalls == sorted(recalls) and 0 < recalls[0] <= 1 and recalls[-1] <= 1
    assert 0 <= metrics["mAP@R"] <= metrics["R-precision"] <= 1
    assert (
        0 <= metrics["category_top1"] <= metrics["category_top3"] <= metrics["category_top5"] <= 1
    )
    for word in ("gallery", "ties", "without a match"):
        assert word in out
    for name in ("recall_curve.png", "contact_sheet.png"):
        with Image.open(trained / name) as picture:
            assert min(picture.size) > 300
            assert len(np.unique(np.asarray(picture.convert("L")))) > 50

    out, _ = script("export.py", f"--run={trained}")
    target = trained / "export" / "fir" / "1"
    assert str(target) in out
    catalogue = load("inshop", shop)
    contents = [Path(path).read_bytes() for path in catalogue.files()[:5]]
    signature = tf.saved_model.load(str(target)).signatures["serving_default"]
    answer = signature(image_bytes=tf.constant([*contents, b"no image"]))
    assert answer["valid"].numpy().tolist() == [True] * 5 + [False]
    assert answer["category"].dtype == tf.string
    assert (np.diff(answer["score"].numpy(), axis=1) <= 0).all()
    names = {name.decode() for name in answer["category"].numpy()[:5].ravel()}
    assert names <= set(catalogue.categories)
    assert (answer["category"].numpy()[5] == b"").all()


@pytest.mark.slow
def test_evaluation_and_serving_see_the_same_bits(shop, trained, tmp_path):
    """The exported graph's embedding equals the evaluated one on real JPEG bytes, bit for bit."""
    from fir_tf.options import ExportOptions
    from fir_tf.retrieval.embed import embed, make_embedder
    from fir_tf.retrieval.evaluate import load_model
    from fir_tf.serving.export import export

    target = export(ExportOptions(run=str(trained), output=str(tmp_path / "fir")))
    model, config, _ = load_model(trained)
    part = load("inshop", shop).part("gallery").rows(np.arange(8))
    evaluated = embed(make_embedder(model), part, config.image_size, config.resize, batch_size=8)
    served = tf.saved_model.load(str(target)).signatures["serving_default"](
        image_bytes=tf.constant([Path(path).read_bytes() for path in part.files()])
    )
    np.testing.assert_array_equal(served["embedding"].numpy(), evaluated.embedding)


@pytest.mark.slow
def test_the_same_command_again_does_nothing(shop, trained):
    before = (trained / "model.keras").read_bytes()
    out, _ = train(shop, trained, epochs=2)
    assert "finished already" in out
    assert (trained / "model.keras").read_bytes() == before
    _, err = train(shop, trained, epochs=3, ok=False)
    assert "--epochs: now 3, there 2" in err and "Traceback" not in err


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("train.py", ["--data_dir=no/such/folder"], "`data_dir` must be an existing folder"),
        ("train.py", ["--alpha=0", "--beta=0"], "`alpha` or `beta` must be > 0"),
        ("train.py", ["--losses=OC+XY"], "`losses` must be a sum"),
        ("train.py", ["stray"], "unexpected argument 'stray'"),
        ("evaluate.py", ["--run=no/such/run"], "is not the folder of a run"),
        ("export.py", ["--run=no/such/run"], "is not the folder of a run"),
    ],
)
def test_wrong_use_is_a_message_not_a_traceback(name, flags, message):
    _, err = script(name, *flags, ok=False)
    assert message in err and "Traceback" not in err


@pytest.mark.parametrize("name", ["train.py", "evaluate.py", "export.py"])
def test_help_explains_every_flag(name):
    done = subprocess.run(
        [sys.executable, str(ROOT / name), "--help"], capture_output=True, text=True, cwd=ROOT
    )
    assert "--run:" in done.stdout and f"python {name}" in done.stdout


def test_a_run_without_a_model_says_so(tmp_path):
    from fir_tf.config import Config

    Config(run=str(tmp_path)).save(tmp_path / "config.json")
    write_json(tmp_path / "labels.json", {"categories": ["a"]})
    _, err = script("evaluate.py", f"--run={tmp_path}", ok=False)
    assert "has no model yet" in err and "Traceback" not in err
