"""A run, an export and an index that the first edition wrote are read by this one."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from commands import done

from fir_tf import __version__
from fir_tf.config import Config
from fir_tf.errors import FirError
from fir_tf.keras_versions import KERAS_2
from fir_tf.search.engines import open_engine

ARCHIVE = Path(__file__).parent / "fixtures" / "first_edition" / "files.tar.xz"

# It decoded JPEGs by the fast transform, which is off by a level of 255 on average.
DECODED = 3e-3


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The folder of what it wrote; paths are relative to it, as they were then."""
    shutil.unpack_archive(ARCHIVE, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stored():
    """Returns what the index had from the first edition's own model, {path: vector}."""
    with open_engine("index") as engine:
        ((records, vectors),) = engine.scan(vectors=True)
    return {
        f"data/Img/{record.path}": vector for record, vector in zip(records, vectors, strict=True)
    }


def test_settings_mean_what_they_meant(files):
    config = Config.load("run/config.json")
    for name, value in json.loads(Path("run/config.json").read_text()).items():
        assert getattr(config, name) == value, name
    assert {(term.loss, term.label, term.weight) for term in config.terms()} == {
        ("softmax", "category", 1.0),
        ("triplet", "category", 0.1),
        ("triplet", "item", 0.1),
    }
    assert (config.pooling, config.neck, config.sampler) == ("average", "linear", "")
    assert (config.loss_learning_rate, config.actions, config.plugins) == (0, "", "")


@pytest.mark.slow
@pytest.mark.skipif(KERAS_2, reason="the first edition's model is one of Keras 3")
def test_its_run_is_measured_and_exported(files):
    before = json.loads(Path("run/metrics.json").read_text())
    done("evaluate.py", "--run=run")
    after = json.loads(Path("run/metrics.json").read_text())
    measured = {name for name, value in before.items() if isinstance(value, float)}
    assert len(measured) == 12
    for name in measured:
        assert after[name] == pytest.approx(before[name], abs=1e-9), name

    done("export.py", "--run=run")
    embed = tf.saved_model.load("run/export/fir/2").signatures["embed"]
    vectors = stored()
    answer = embed(image_bytes=tf.constant([Path(path).read_bytes() for path in vectors]))
    cosine = (answer["embedding"].numpy() * np.array(list(vectors.values()))).sum(axis=1)
    np.testing.assert_allclose(cosine, 1, atol=DECODED)


@pytest.mark.slow
@pytest.mark.skipif(KERAS_2, reason="the first edition's model is one of Keras 3")
@pytest.mark.parametrize("model", ["run", "run/export/fir/1"])
def test_its_index_is_searched_and_kept_up(files, model):
    vectors = stored()
    shelf = np.stack(list(vectors.values()))
    asked = list(vectors)[4]
    expected = shelf @ vectors[asked]
    flags = ["--index=index", f"--model={model}"]
    found, _ = done(
        "search.py", "query", asked, *flags, "--images=data/Img", "--nosheet", "--nogroup", "--json"
    )
    (query,) = json.loads(found)
    results = query["results"]
    assert [f"data/Img/{result['path']}" for result in results] == [
        list(vectors)[row] for row in np.argsort(-expected)[: len(results)]
    ]
    scores = [result["score"] for result in results]
    near = DECODED if model == "run" else 1e-5
    np.testing.assert_allclose(scores, -np.sort(-expected)[: len(results)], atol=near)

    said, _ = done(
        "search.py", "index", *flags, "--images=data", "--dataset=inshop", "--split=gallery"
    )
    assert "0 embedded, 12 kept" in said
    said, _ = done("search.py", "index", *flags, "--images=data", "--dataset=inshop")
    assert "36 embedded, 12 kept" in said


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"future": 1}, f"that fir_tf {__version__} does not know: future. Use fir_tf 7.1.0 that"),
        ({"backbone": "later"}, f"Received: 'later'. Use fir_tf 7.1.0, .* this is {__version__}"),
    ],
)
def test_a_run_of_the_future_names_its_version(files, changed, message):
    for name, values in (("config.json", changed), ("versions.json", {"fir_tf": "7.1.0"})):
        path = Path("run") / name
        path.write_text(json.dumps(json.loads(path.read_text()) | values))
    with pytest.raises(FirError, match=message):
        Config.load("run/config.json")
