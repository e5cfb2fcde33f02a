"""Data sets that lack a part, and run folders and indexes that lack or moved a file."""

import contextlib
import csv
import dataclasses
import errno
import json
import os
import re
import shutil
import tempfile
import weakref
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_sets import inshop_rows, write_inshop, write_jpeg
from test_index import make_photos, make_run

from fir_tf import datasets
from fir_tf.config import Config
from fir_tf.errors import FirError
from fir_tf.evaluation import evaluate as evaluate_module
from fir_tf.evaluation import pictures
from fir_tf.evaluation.embedder import Embedder
from fir_tf.evaluation.evaluate import evaluate
from fir_tf.evaluation.metrics import retrieval_metrics
from fir_tf.options import EvaluateOptions
from fir_tf.run import load_run, open_run, read_log_rows
from fir_tf.search import accuracy
from fir_tf.search import encoder as encoder_module
from fir_tf.search import query as query_module
from fir_tf.search.accuracy import measure_engine
from fir_tf.search.encoder import Encoder
from fir_tf.search.engines import Record, open_engine
from fir_tf.search.indexing import build
from fir_tf.search.query import query
from fir_tf.search_options import IndexOptions, MeasureOptions, QueryOptions
from fir_tf.serving import quality
from fir_tf.serving.card import model_card
from fir_tf.training.checkpoints import Checkpoints

RETRIEVAL = ("recall@k", "mAP@R", "R-precision")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder with an untrained model, in a place with characters of patterns."""
    return make_run(tmp_path_factory.mktemp("runs") / "s[m]all *?")


@pytest.fixture(scope="module")
def indexed(run, tmp_path_factory):
    """(photos, index) of ten photos of five items in two categories."""
    root = tmp_path_factory.mktemp("indexed")
    photos, index = make_photos(root / "photos"), root / "index"
    build(IndexOptions(model=str(run), images=str(photos), index=str(index), batch_size=4))
    return photos, index


@pytest.fixture(scope="module")
def encoder(run):
    return Encoder(run)


@pytest.fixture
def opened(encoder, monkeypatch):
    """Opens indexes with the one encoder, which takes seconds to load."""
    monkeypatch.setattr(encoder_module, "Encoder", lambda *args, **options: encoder)


@pytest.fixture(scope="module")
def loaded(run):
    return load_run(run)


@pytest.fixture
def quick(loaded, monkeypatch):
    """Loads the run's model once, and draws no pictures, whose tests are elsewhere."""
    monkeypatch.setattr(evaluate_module, "load_run", lambda _: loaded)
    for name in ("recall_curve", "contact_sheet"):
        monkeypatch.setattr(evaluate_module, name, lambda *args, **options: None)


def measured(run, output, dataset, data_dir, **options):
    """Returns what evaluate.py writes of a data set as metrics.json."""
    evaluate(
        EvaluateOptions(
            run=str(run), dataset=dataset, data_dir=str(data_dir), output=str(output), **options
        )
    )
    return json.loads((output / "metrics.json").read_text())


def write_table(folder, rows, columns=("path", "item", "category", "split")):
    """Writes a table of photos; a row is a dict."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "table.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for number, row in enumerate(rows):
            path = f"{number}.jpg"
            write_jpeg(folder / path, seed=number)
            writer.writerow({"path": path} | row)
    return folder / "table.csv"


@pytest.mark.slow
def test_a_test_set_alone_is_measured_and_not_trained_on(run, quick, tmp_path):
    rows = [row for row in inshop_rows() if row[2] != "train"]
    data = write_inshop(tmp_path / "data", rows)
    metrics = measured(run, tmp_path / "out", "inshop", data)
    assert metrics["protocol"]["queries"] == 8 and metrics["protocol"]["gallery_images"] == 8
    assert 0 <= metrics["recall@1"] <= 1
    with pytest.raises(FirError, match="the split 'train' is empty"):
        datasets.load_training(Config(data_dir=str(data)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "reasons"),
    [
        (
            [{"item": "a", "category": "Tops", "split": "query"}] * 2,
            {RETRIEVAL: "there are no gallery images: .* in the split `gallery`"},
        ),
        (
            [{"item": "a", "category": "Tops", "split": "gallery"}],
            {RETRIEVAL: "there are no queries: .* in the split `query`"},
        ),
        (
            [
                {"item": "a", "category": "Tops", "split": "query"},
                {"category": "Tops", "split": "query"},
                {"item": "b", "category": "Tops", "split": "gallery"},
            ],
            {RETRIEVAL: r"none of the 2 queries has another .* \(1 queries are of unknown item\)"},
        ),
        (
            [{"item": "a", "split": "query"}, {"item": "a", "split": "gallery"}],
            {("category_topk",): "none of the 2 images has one of the model's categories"},
        ),
        (
            [{"item": "a", "category": "Hats", "split": "query"}, {"split": "gallery"}],
            {
                ("category_topk",): r"none .* has one of the model's categories \(Dresses, Tops\)",
                RETRIEVAL: "none of the 1 queries",
            },
        ),
        (
            [{"category": "Tops", "split": "test"}],
            {RETRIEVAL: "there are no queries"},
        ),
    ],
)
def test_each_number_that_is_missing_has_its_reason(run, quick, tmp_path, capsys, rows, reasons):
    table = write_table(tmp_path / "data", rows)
    metrics = measured(run, tmp_path / "out", "table", table)
    printed = capsys.readouterr().out
    expected = {name: reason for names, reason in reasons.items() for name in names}
    assert metrics["not_measured"].keys() == expected.keys()
    for name, reason in expected.items():
        assert re.search(reason, metrics["not_measured"][name])
        assert metrics["not_measured"][name] in printed
    assert ("recall@1" in metrics) == ("recall@k" not in expected)
    assert ("category_top1" in metrics) == ("category_topk" not in expected)
    assert (tmp_path / "out" / "report.html").is_file()


def test_a_run_beside_another(run, quick, tmp_path, capsys):
    """An evaluation of the same queries, of others, and what is no evaluation."""
    rows = [
        {"item": item, "category": "Tops", "split": side}
        for item in "abc"
        for side in ("query", "gallery")
    ]
    table = write_table(tmp_path / "data", rows)
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    with pytest.raises(FirError, match="folder of an evaluated run. Received: .*one"):
        measured(run, two, "table", table, compare=str(one))
    one.mkdir()
    with pytest.raises(FirError, match="one has no queries.csv.*evaluate.py --run=.*one first"):
        measured(run, two, "table", table, compare=str(one))
    assert not two.exists()
    measured(run, one, "table", table)
    assert "queries find the item first" in capsys.readouterr().out
    measured(run, two, "table", table, compare=str(one), flip=True)
    assert f"beside {one}:" in capsys.readouterr().out
    text = (two / "report.html").read_text(encoding="utf-8")
    assert f"Beside {one}" in text and "mean of an image and its mirror image" in text
    assert f'href="{os.path.relpath(run, two)}'.split("s[m]all")[0] in text
    # What was measured is there although the two cannot be compared.
    table = write_table(tmp_path / "other", [*rows[:4], *rows[2:4]])
    with pytest.raises(FirError, match="was measured on other queries: 3 there and 3 here, 1 only"):
        measured(run, three, "table", table, compare=str(one))
    assert json.loads((three / "metrics.json").read_text())["recall@1"] >= 0
    assert (three / "queries.csv").is_file()


def test_validation_without_items_says_so(run, quick, tmp_path):
    table = write_table(tmp_path / "data", [{"category": "Tops", "split": "val"}] * 3)
    metrics = measured(run, tmp_path / "out", "table", table, split="val")
    assert "no validation image" in metrics["not_measured"]["mAP@R"]
    assert metrics["category_top5"] == 1
    with pytest.raises(FirError, match="there is nothing to measure: .*--split=test"):
        measured(run, tmp_path / "out", "table", table)


def test_numbers_are_there_although_nothing_can_be_drawn(run, quick, tmp_path, monkeypatch, capsys):
    rows = [{"item": "a", "category": "Tops", "split": side} for side in ("query", "gallery")]
    table = write_table(tmp_path / "data", rows)

    def full(*args, **options):
        raise OSError(errno.ENOSPC, "full", "/x")

    for name in ("recall_curve", "contact_sheet", "write_report"):
        monkeypatch.setattr(evaluate_module, name, full)
    metrics = measured(run, tmp_path / "out", "table", table)
    out, err = capsys.readouterr()
    assert metrics["recall@1"] == 1 and "recall@1" in out
    assert err.count("was not drawn: /x: No space left on device") == 3
    monkeypatch.setattr(evaluate_module, "write_json", full)
    with pytest.raises(FirError, match="No space left on device.*--output"):
        measured(run, tmp_path / "out", "table", table)
    assert "recall@1" in capsys.readouterr().out


def test_photos_that_vanish_while_they_are_measured(run, quick, tmp_path, monkeypatch):
    """Between the look at the data and the embedding of it a share went offline."""
    rows = [{"item": "a", "category": "Tops", "split": side} for side in ("query", "gallery") * 3]
    table = write_table(tmp_path / "data", rows)
    embed = Embedder.catalogue

    def goes(self, catalogue, *arguments):
        for path in (tmp_path / "data").glob("*.jpg"):
            path.unlink()
        return embed(self, catalogue, *arguments)

    monkeypatch.setattr(Embedder, "catalogue", goes)
    with pytest.raises(FirError, match="(?s)6 of 6 images cannot be found any more.*share offline"):
        measured(run, tmp_path / "out", "table", table)
    assert not (tmp_path / "out").exists()


def test_a_loss_of_recall_without_matches_is_no_number(capsys):
    eye = np.eye(2, dtype=np.float32)
    values = retrieval_metrics(eye, eye, [0, 1], [2, 3]).values
    assert quality.changes(values, values) == {}
    text = quality.report("int8", {"queries": 2, "gallery": 2})["text"]
    assert "not measured: no query has an image of its item" in text


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        ("labels.json", None, "labels.json is missing.*train.py command again"),
        ("labels.json", '{"categories": ["Dre', "labels.json must be JSON.*train.py command"),
        ("labels.json", "[1]", "labels.json must be a JSON object"),
        ("labels.json", '{"categories": [1, null]}', "must have a list of names"),
        ("labels.json", '{"categories": ["a"]}', "must have the 2 categories of model.keras"),
        ("config.json", None, "config.json is missing there.*--model of search.py"),
        ("config.json", "", "config.json must be JSON"),
        ("config.json", "null", "config.json must be a JSON object. Received: null"),
        ("config.json", '{"image_size": null}', "`image_size` must be a whole.*Received: null"),
        ("config.json", '{"image_size": "32"}', "`image_size` must be a whole number"),
        ("config.json", '{"resume": 1}', "`resume` must be true or false. Received: 1"),
        ("config.json", '{"epochs": true}', "`epochs` must be a whole number. Received: true"),
        ("config.json", '{"epochs": 0}', "config.json: `epochs` must be >= 1"),
        ("config.json", '{"new": 1}', "does not know: new. Use the version that wrote the run"),
        ("model.keras", None, "has no model yet"),
        ("model.keras", "half", "model.keras is not a Keras model, or it is damaged.*Copy it"),
    ],
)
def test_a_damaged_file_of_a_run_is_named(run, tmp_path, name, contents, message):
    copy = shutil.copytree(run, tmp_path / "run")
    if contents is None:
        (copy / name).unlink()
    else:
        (copy / name).write_text(contents)
    with pytest.raises(FirError, match=message):
        load_run(copy)


def test_whole_numbers_are_numbers_in_a_config(tmp_path):
    (tmp_path / "config.json").write_text('{"alpha": 1, "run": "r"}')
    assert Config.load(tmp_path / "config.json").alpha == 1


def test_the_versions_of_a_run_may_be_missing(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    config = dataclasses.replace(Config.load(copy / "config.json"), run=str(copy))
    config.save(copy / "config.json")
    card = model_card(copy, config, ["a"], {})
    assert "no versions.json" in card
    (copy / "versions.json").write_text("{")
    with pytest.raises(FirError, match="versions.json must be JSON.*Delete the file"):
        model_card(copy, config, ["a"], {})
    assert open_run(config) == copy


def test_a_damaged_log_keeps_its_good_lines(tmp_path):
    (tmp_path / "log.csv").write_bytes(b"step,name,value\n1,loss,0.5\n\xff\0\0,\n2,loss,0.25\n3,lo")
    assert read_log_rows(tmp_path / "log.csv") == [(1, "loss", 0.5), (2, "loss", 0.25)]


def small_state(folder):
    """Checkpoints of a model of one weight, and the weight."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    optimizer = keras.optimizers.SGD()
    optimizer.build(model.trainable_variables)
    return Checkpoints(folder, model, optimizer), model.weights[0]


@pytest.mark.parametrize("name", ["[a]", "b*?"])
def test_a_run_in_a_folder_like_a_pattern_resumes(tmp_path, name, capsys):
    folder = tmp_path / name / "checkpoints"
    checkpoints, weight = small_state(folder)
    assert not checkpoints.restore(folder)
    for step in (1, 2, 3, 10):
        weight.assign([[float(step)]])
        checkpoints.step.assign(step)
        checkpoints.save()
    # Old ones are deleted there too.
    assert {path.name for path in folder.iterdir() if path.suffix == ".index"} == {
        "ckpt-3.index",
        "ckpt-10.index",
    }
    again, weight = small_state(folder)
    assert again.restore(folder)
    assert int(again.step) == 10 and float(np.array(weight)[0, 0]) == 10
    # Without TensorFlow's list the files are still there; a damaged one is passed over.
    (folder / "checkpoint").write_text("nonsense")
    (folder / "ckpt-10.index").write_bytes(b"damaged")
    (folder / "ckpt-11_temp").mkdir()
    (folder / "ckpt-11_temp" / "part").write_bytes(b"half")
    again, weight = small_state(folder)
    assert again.restore(folder)
    assert not (folder / "ckpt-11_temp").exists()
    assert int(again.step) == 3 and float(np.array(weight)[0, 0]) == 3
    assert f"cannot read the checkpoint {folder / 'ckpt-10'}" in capsys.readouterr().out


class _Fake(tf.Module):
    """What an export answers: a constant from a variable that has to be read from its files."""

    def __init__(self):
        super().__init__()
        self.vector = tf.Variable([0.6, 0.8])

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
    def embed(self, image_bytes):
        count = tf.shape(image_bytes)[0]
        embedding = tf.tile(self.vector[None], [count, 1])
        return {"embedding": embedding, "valid": tf.fill([count], True)}


def test_an_export_in_a_folder_like_a_pattern_is_opened(tmp_path):
    module, folder = _Fake(), tmp_path / "fir[1]" / "7"
    tf.saved_model.save(module, str(folder), signatures={"embed": module.embed})
    encoder = Encoder(folder.parent)
    np.testing.assert_allclose(encoder.encode([b"a", b"b"]).embedding, [[0.6, 0.8]] * 2, rtol=1e-6)
    (folder / "saved_model.pb").write_bytes(b"half")
    with pytest.raises(FirError, match="`model` must be a whole export.*Copy it again"):
        Encoder(folder.parent)


def asked(indexed, **options):
    photos, index = indexed
    return QueryOptions(index=str(index), **options), str(photos)


def test_a_query_from_python_writes_no_file(indexed, opened, monkeypatch, tmp_path):
    photo = next(indexed[0].rglob("*.jpg"))
    monkeypatch.chdir(tmp_path)
    answers = query(QueryOptions(index=str(indexed[1]), k=2), [str(photo)])
    assert len(answers[0]["results"]) == 2 and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_photos_are_answered_a_few_at_a_time(indexed, opened, monkeypatch, tmp_path, capsys):
    """Whatever their number, no more are in memory, and each answer is out before the next."""
    photos, index = indexed
    files = sorted(map(str, photos.rglob("*.jpg"))) * 7
    monkeypatch.setattr(query_module, "_CHUNK", 16)
    monkeypatch.setattr(query_module, "_PICTURED", 3)
    sizes, printed = [], []
    encode = Encoder.encode

    def counting(self, contents, guess=False, boxes=None):
        sizes.append(len(contents))
        printed.append(capsys.readouterr().out.count(".jpg\n   1"))
        return encode(self, contents, guess, boxes)

    monkeypatch.setattr(Encoder, "encode", counting)
    options, _ = asked(indexed, k=1, sheet=str(tmp_path / "sheet.png"))
    answers = query(options, files)
    assert sizes == [16, 16, 16, 16, 6] and printed == [0, 16, 16, 16, 16]
    assert [answer["photos"] for answer in answers] == [[file] for file in files]
    for file, answer in zip(files, answers, strict=True):
        assert answer["results"][0]["path"] == Path(file).relative_to(photos).as_posix()
    assert "the sheet shows the first 3 queries" in capsys.readouterr().out


@pytest.mark.slow
def test_one_query_of_many_photos_is_their_mean(indexed, opened, monkeypatch):
    photos, _ = indexed
    files = sorted(map(str, photos.rglob("*.jpg")))
    options, _ = asked(indexed, together=True, k=3)
    (whole,) = query(options, files)
    monkeypatch.setattr(query_module, "_CHUNK", 3)
    (parts,) = query(options, files)
    assert whole["photos"] == parts["photos"] == files
    assert [row["path"] for row in whole["results"]] == [row["path"] for row in parts["results"]]


def test_a_bad_photo_does_not_cost_the_answers_of_the_others(indexed, opened, tmp_path, capsys):
    photos, _ = indexed
    good, bad = str(photos / "Tops/item3/1.jpg"), str(tmp_path / "bad.jpg")
    Path(bad).write_bytes(b"no picture")
    options, _ = asked(indexed, json="-", k=1)
    with pytest.raises(FirError, match=r"1 of 2 photos cannot be read:\n.*bad.jpg: cannot be dec"):
        query(options, [bad, good])
    answers = {tuple(row["photos"]): row for row in json.loads(capsys.readouterr().out)}
    assert answers[(good,)]["results"][0]["path"] == "Tops/item3/1.jpg"
    assert "cannot be decoded" in answers[(bad,)]["error"] and not answers[(bad,)]["results"]
    # Given twice, each is answered twice.
    with pytest.raises(FirError, match="2 of 4 photos cannot be read"):
        query(options, [bad, good, bad, good])
    named = sorted(row["photos"] for row in json.loads(capsys.readouterr().out))
    assert named == sorted([[bad], [good]] * 2)
    with pytest.raises(FirError, match="with --together every photo must be readable"):
        query(dataclasses.replace(options, together=True), [good, bad])


def test_answers_come_before_the_sheet_and_do_without_it(
    indexed, opened, tmp_path, monkeypatch, capsys
):
    photos, _ = indexed
    photo = str(photos / "Tops/item3/1.jpg")
    seen = []

    def refuse(*args):
        seen.append(capsys.readouterr().out)
        raise PermissionError(errno.EACCES, "no", "query.png")

    monkeypatch.setattr(pictures, "contact_sheet", refuse)
    answer = tmp_path / "answer.json"
    options, _ = asked(indexed, sheet="query.png", json=str(answer))
    answers = query(options, [photo])
    assert "Tops/item3/1.jpg" in seen[0] and json.loads(answer.read_text()) == answers
    assert "note: query.png was not drawn: query.png: Permission denied" in capsys.readouterr().err
    # Nothing but JSON on stdout.
    query(dataclasses.replace(options, json="-"), [photo])
    assert json.loads(seen[1]) == answers and not capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Shirts, Blouses", ("Shirts, Blouses",)),
        ("Tops,Shirts, Blouses", ("Tops", "Shirts, Blouses")),
        ("Shirts , Tops,", ("Shirts", "Tops")),
        ("Skirts, Shorts", ("Skirts,Shorts",)),
        ("", ()),
        (" , ", ()),
    ],
)
def test_categories_with_commas(tmp_path, text, expected):
    names = ("Tops", "Shirts, Blouses", "Shirts", "Skirts,Shorts", "")
    with open_engine(tmp_path / "index", create=True) as engine:
        engine.set_info({"dimension": 8})
        records = [Record(f"{name}.jpg", "", name, "", "x") for name in names]
        engine.upsert(records, np.eye(len(names), 8, dtype=np.float32))
        assert query_module._categories(text, engine) == expected
        with pytest.raises(FirError, match="`category` must name .*'Tops'.*Received: 'Blouses'"):
            query_module._categories("Tops,Blouses", engine)


def test_measure_prints_json_alone(indexed, capsys):
    values = measure_engine(MeasureOptions(index=str(indexed[1]), k=3, queries=4, json="-"))
    assert json.loads(capsys.readouterr().out) == values
    assert values["recall@3"] == 1 and values["vectors"] == 10


class _Pieces:
    """An engine that hands out vectors in pieces and looks whether earlier ones are let go."""

    def __init__(self, vectors, size):
        self.vectors, self.size, self.alive = vectors, size, []

    def scan(self, vectors=False):
        kept = []
        for start in range(0, len(self.vectors), self.size):
            piece = self.vectors[start : start + self.size].copy()
            kept.append(weakref.ref(piece))
            yield [None] * len(piece), piece
            del piece
            self.alive.append(sum(ref() is not None for ref in kept))


def test_an_index_is_measured_piece_by_piece():
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((103, 8)).astype(np.float32)
    engine = _Pieces(vectors, 30)
    queries = rng.standard_normal((5, 8)).astype(np.float32)
    found = accuracy._exact_scores(engine, queries, 12)
    np.testing.assert_allclose(found, -np.sort(-(queries @ vectors.T), axis=1)[:, :12], rtol=1e-5)
    places = rng.choice(103, 20, replace=False)
    np.testing.assert_array_equal(accuracy._vectors_at(engine, places), vectors[places])
    # The last one handed out is still the caller's.
    assert max(engine.alive) <= 1


@pytest.mark.slow
def test_a_moved_index_says_which_flag_helps(run, tmp_path, capsys):
    copy, photos = shutil.copytree(run, tmp_path / "run"), make_photos(tmp_path / "photos", 3)
    index = tmp_path / "index"
    build(IndexOptions(model=str(copy), images=str(photos), index=str(index)))
    moved = copy.rename(tmp_path / "moved")
    photo = str(photos / "Tops/item1/0.jpg")
    options = QueryOptions(index=str(index), sheet=str(tmp_path / "sheet.png"))
    with pytest.raises(FirError, match="made with the model .*run, which is no longer.*--model"):
        query(options, [photo])
    elsewhere = photos.rename(tmp_path / "elsewhere")
    options = dataclasses.replace(options, model=str(moved))
    (answer,) = query(options, [str(elsewhere / "Tops/item1/0.jpg")])
    assert answer["results"][0]["path"] == "Tops/item1/0.jpg"
    assert "give their folder as --images" in capsys.readouterr().out


@contextlib.contextmanager
def without_rights():
    """Runs a block as somebody who is not root; what root owns is then not theirs to write."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def protect(folder):
    for path in folder.iterdir():
        path.chmod(0o444)
    folder.chmod(0o555)


@pytest.fixture
def open_folder():
    """A folder that anybody may look into; pytest's are its user's own."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755)
    shutil.rmtree(folder)


def filled(address, count=5):
    """An index of unit vectors."""
    with open_engine(address, create=True) as engine:
        engine.set_info({"dimension": 8})
        records = [Record(f"{number}.jpg", "", "", "", "x") for number in range(count)]
        engine.upsert(records, np.eye(count, 8, dtype=np.float32))
    return address


@pytest.mark.parametrize("name", ["index", "a %25?#[b] '\""])
def test_a_read_only_index_answers(open_folder, name):
    folder = filled(open_folder / name)
    before = sorted(path.name for path in folder.iterdir())
    protect(folder)
    with without_rights():
        engine = open_engine(folder)
        ((hit,),) = engine.search(np.eye(8, dtype=np.float32)[3:4], 1)
        assert hit.record.path == "3.jpg" and len(engine) == 5
        assert sorted(path.name for path in folder.iterdir()) == before
    # Somebody else's changes are seen.
    folder.chmod(0o755)
    for path in folder.iterdir():
        path.chmod(0o644)
    with open_engine(folder) as writer:
        writer.delete(["3.jpg"])
    protect(folder)
    with without_rights():
        ((hit,),) = engine.search(np.eye(8, dtype=np.float32)[3:4], 1)
        assert hit.record.path != "3.jpg" and len(engine) == 4
        engine.close()


def test_a_read_only_index_with_an_unfinished_log_says_so(open_folder):
    folder = filled(open_folder / "index")
    copy = open_folder / "copy"
    with open_engine(folder) as engine:
        engine.delete(["3.jpg"])
        # As a killed writer leaves it; copied without the file that programs share.
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("*-shm"))
    assert (copy / "records.sqlite-wal").stat().st_size
    protect(copy)
    with without_rights(), pytest.raises(FirError, match="cannot be written to, and .*-wal in it"):
        open_engine(copy)
