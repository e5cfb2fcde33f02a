"""What scores are worth: learned by evaluate.py, kept by the index, told with every answer."""

import importlib
import json
import math
import shutil

import numpy as np
import pytest
from commands import call
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta
from sklearn.linear_model import LogisticRegression
from test_index import make_photos, make_run, options

from fir_tf.calibration import (
    NAME,
    Calibration,
    calibration_error,
    how_of,
    learn,
    model_checksum,
)
from fir_tf.errors import FirError
from fir_tf.evaluation.calibrate import error_of, learn_from
from fir_tf.evaluation.measured import Measured
from fir_tf.evaluation.metrics import retrieval_metrics
from fir_tf.files import write_json
from fir_tf.options import ExportOptions, Improvements
from fir_tf.search.index import Index
from fir_tf.search.indexing import build
from fir_tf.search.opened import calibration_place
from fir_tf.search_options import QueryOptions

SLOPE, INTERCEPT, ITEMS = 8.0, -4.0, 4
# Few values, so that scores stand twice.
ANSWERS = st.lists(st.tuples(st.integers(-4, 12), st.booleans()), min_size=1, max_size=60)


def theirs(score, right):
    """scikit-learn's curve through Platt's targets: each answer counts as part right, part not."""
    rows, counts = np.array(score)[:, np.newaxis], (sum(right), len(right) - sum(right))
    share = np.where(right, (counts[0] + 1) / (counts[0] + 2), 1 / (counts[1] + 2))
    labels = np.repeat([1, 0], len(rows))
    found = LogisticRegression(C=1e9, tol=1e-10, max_iter=10_000)
    found.fit(np.concatenate([rows, rows]), labels, np.concatenate([share, 1 - share]))
    return found


@settings(max_examples=60, deadline=None)
@given(ANSWERS)
def test_learned_as_scikit_learn_does_and_never_falling(answers):
    score, right = (np.array(column) for column in zip(*answers, strict=True))
    score = score / 13
    found = learn(score, right, 10)
    expected = theirs(score, right)
    asked = np.linspace(-1.5, 1.5, 301)
    shares = found.confidence(asked)
    assert (np.diff(shares) >= 0).all() and shares[0] >= 0 and shares[-1] <= 1
    if expected.coef_[0, 0] > 1e-3 and len(set(score)) > 1:
        probabilities = expected.predict_proba(asked[:, np.newaxis])[:, 1]
        np.testing.assert_allclose(shares, probabilities, atol=2e-3)
    else:
        assert found.slope < 1e-2
    # What was seen: every answer is in one bin.
    assert sum(bin.queries for bin in found.bins) == len(answers)
    assert sum(bin.queries * bin.precision for bin in found.bins) == pytest.approx(sum(right))
    places = sorted(score)
    for bin in found.bins:
        part, places = places[: bin.queries], places[bin.queries :]
        assert (part[0], part[-1]) == (bin.low, bin.high)


@settings(max_examples=50, deadline=None)
@given(st.floats(0.1, 40), st.floats(-20, 20), st.floats(0.001, 0.999), st.floats(1, 1e6))
def test_the_score_of_a_precision_is_where_confidence_reaches_it(slope, middle, precision, items):
    found = Calibration(slope, middle, 20).among(items)
    assert found.confidence(found.score_of(precision)) == pytest.approx(precision)
    assert found.score_of(0) == -np.inf and found.score_of(1) == np.inf
    level = Calibration(0, middle, 20)
    assert level.score_of(precision) == (np.inf if level.confidence(0) < precision else -np.inf)


def test_among_more_items_an_answer_is_worth_less():
    """Of independent scores the odds at a score are those of 8 times fewer items through 8."""
    rng = np.random.default_rng(0)

    def odds_seen(items, queries=400_000):
        best_right = rng.beta(6, 3, queries)
        # The largest of that many draws, by the inverse of its distribution.
        best_wrong = beta(4, 6).ppf(rng.random(queries) ** (1 / items))
        near = abs(np.maximum(best_right, best_wrong) - 0.75) < 0.02
        right = (best_right > best_wrong)[near]
        return right.sum() / (~right).sum()

    assert odds_seen(25) / odds_seen(200) == pytest.approx(8, rel=0.15)
    # Those of a photo's neighbours are not independent.
    few = learn([0.2, 0.5, 0.6, 0.9], [False, True, False, True], 25)
    asked = np.linspace(0, 1, 20)
    told = odds(few.confidence(asked)) / odds(few.among(200).confidence(asked))
    np.testing.assert_allclose(told, 8**0.8)
    assert few.among(25) == few
    assert few.among(200).among(25).intercept == pytest.approx(few.intercept)


def odds(share):
    """Right answers for each wrong one."""
    return share / (1 - share)


def test_the_error_against_a_loop():
    rng = np.random.default_rng(0)
    confidence, right = np.append(rng.random(400), [0.0, 1.0]), rng.random(402) < 0.6
    expected = 0.0
    for number in range(10):
        inside = [
            (c, r)
            for c, r in zip(confidence, right, strict=True)
            if number / 10 <= c < (number + 1) / 10 or (number == 9 and c == 1)
        ]
        expected += abs(sum(c for c, _ in inside) - sum(r for _, r in inside)) / len(right)
    assert calibration_error(confidence, right) == pytest.approx(expected)
    # Right as often as it says.
    assert calibration_error(confidence[:400], rng.random(400) < confidence[:400]) < 0.1


def made_up(seed, items=60, photos=3):
    """Measured: some photos an item that lie near each other, asked among themselves."""
    rng = np.random.default_rng(seed)
    item = np.repeat(np.arange(items), photos)
    vectors = rng.standard_normal((items, 8))[item] + 0.8 * rng.standard_normal((len(item), 8))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    rows = np.arange(len(item))
    found = retrieval_metrics(vectors, vectors, item, item, query_ids=rows, gallery_ids=rows)
    return Measured(
        found.values, found.protocol, {}, found, rows, rows, vectors, vectors, rows, None, []
    ), item


def test_learned_from_first_answers_and_judged_on_others():
    measured, item = made_up(0)
    score, right = [], []
    for row, vector in enumerate(measured.query_embedding):
        scores = measured.gallery_embedding @ vector
        scores[row] = -2
        score.append(scores.max())
        right.append(item[scores.argmax()] == item[row])
    learned = learn_from(measured, "the validation part")
    asked = np.linspace(0, 1, 50)
    expected = theirs(score, right).predict_proba(asked[:, np.newaxis])[:, 1]
    np.testing.assert_allclose(learned.calibration.confidence(asked), expected, atol=2e-3)
    assert learned.counts == {"queries": 180, "gallery": 180}
    # Of each item a query has two others to find among 180.
    assert learned.calibration.items == 90
    told = learned.calibration.confidence(score)
    assert error_of(learned, measured)["ECE"] == pytest.approx(calibration_error(told, right))
    # Many queries of one kind: what is left is the luck of who asks.
    many = learn_from(made_up(1, items=400)[0], "the validation part")
    assert 0 < error_of(many, made_up(2, items=400)[0])["ECE"] < 0.05
    few = learn_from(made_up(0, items=16)[0], "the validation part")
    assert few.calibration is None and "has 48 queries, and 50 are needed" in few.text
    assert error_of(few, measured) == {}
    # 60 queries, of 12 items.
    alike = learn_from(made_up(0, items=12, photos=5)[0], "the validation part")
    assert alike.calibration is None and "photos of 15 items, and 20 are needed" in alike.text
    assert learn_from(None, "the validation part").calibration is None


@pytest.mark.parametrize(
    "change",
    [
        {"slope": -1},
        {"slope": None},
        {"intercept": float("nan")},
        {"items": 0},
        {"bins": [{"low": 0.1}]},
        {"how": 3},
    ],
)
def test_a_damaged_file_is_told(tmp_path, change):
    value = {**learn([0.2, 0.7], [False, True], 9).to_json(), **change}
    (tmp_path / NAME).write_text(json.dumps(value))
    with pytest.raises(FirError, match="calibration.json must be what evaluate.py writes. Rec"):
        Calibration.load(tmp_path / NAME)


def confidence_of(score):
    """What is told of a score where as many items are asked among as were."""
    return 1 / (1 + math.exp(-SLOPE * score - INTERCEPT))


def calibrated(run, **changes):
    """Writes a calibration into a run, learned among as many items as its index has."""
    how = how_of({"flip": False, "scales": "1"}, 0) | changes
    found = Calibration(SLOPE, INTERCEPT, ITEMS, (), {}, how, model_checksum(run))
    write_json(run / NAME, found.to_json())


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    base = tmp_path_factory.mktemp("calibrated")
    run = make_run(base / "run")
    photos = make_photos(base / "photos", items=4)
    return base, run, photos


@pytest.fixture
def index(place):
    """(address of an index that knows what its scores are worth, run, photos)."""
    base, run, photos = place
    calibrated(run)
    shutil.rmtree(base / "index", ignore_errors=True)
    build(options(run, photos, base / "index"))
    return base / "index", run, photos


@pytest.mark.slow
def test_an_index_tells_how_sure_it_is(index, tmp_path):
    address, run, photos = index
    photo = next(photos.rglob("*.jpg"))
    with Index(address) as opened:
        hits = opened.search(str(photo), 20, group=False)
        for hit in hits:
            assert hit.confidence == pytest.approx(confidence_of(hit.score), abs=1e-6)
        least = hits[3].confidence
        assert opened.confident(hits, least) == [hit for hit in hits if hit.confidence >= least]
        assert opened.confident(hits, 0) == hits
        other = opened.search(str(photo), 5, improvements=Improvements(rerank=5))
        assert {hit.confidence for hit in other} == {None}
        opened.save(tmp_path / "copy")
    with Index(tmp_path / "copy") as copy:
        assert [hit.confidence for hit in copy.search(str(photo), 20, group=False)] == [
            hit.confidence for hit in hits
        ]
    with Index.from_model(run, photos) as made:
        assert made.search(str(photo), 1)[0].confidence == pytest.approx(confidence_of(1), abs=1e-5)


@pytest.mark.slow
def test_query_leaves_out_what_is_not_sure(index, tmp_path):
    address, _, photos = index
    photo, out = str(next(photos.rglob("*.jpg"))), str(tmp_path / "found.json")
    plain = (photo, f"--index={address}", "--nogroup", f"--json={out}")
    status, text, _ = call("search.py", "query", *plain)
    everything = json.loads((tmp_path / "found.json").read_text())[0]["results"]
    assert (
        status == 0 and f"1.0000   {100 * confidence_of(1):.0f} %" in text and len(everything) == 8
    )
    middle = sorted(row["confidence"] for row in everything)[4]
    status, _, _ = call("search.py", "query", *plain, f"--min_confidence={middle}")
    kept = json.loads((tmp_path / "found.json").read_text())[0]["results"]
    assert status == 0 and 0 < len(kept) < 8
    assert kept == [row for row in everything if row["confidence"] >= middle]
    other = [f"--where=path != '{everything[0]['path']}'", "--min_confidence=1"]
    status, text, _ = call("search.py", "query", *plain, *other)
    nearest = everything[1]
    assert status == 0 and json.loads((tmp_path / "found.json").read_text())[0]["results"] == []
    assert f"nothing alike: the confidence of the nearest is {nearest['confidence']:.2f}" in text


@pytest.mark.slow
def test_what_was_learned_for_others_is_not_kept(index, caplog):
    address, run, photos = index
    photo = next(photos.rglob("*.jpg"))

    def built():
        caplog.clear()
        with caplog.at_level("INFO"):
            assert build(options(run, photos, address))["embedded"] == 0
        with Index(address) as opened:
            return opened.search(str(photo), 1)[0].confidence, caplog.text

    assert built()[0] is not None
    calibrated(run, flip=True)
    confidence, text = built()
    assert confidence is None and "flip is False here, True there" in text
    changed = json.loads((run / NAME).read_text()) | {"model": "another"}
    write_json(run / NAME, changed | {"how": how_of({}, 0)})
    confidence, text = built()
    assert confidence is None and "trained on since" in text
    # Runs from before there was any.
    (run / NAME).unlink()
    confidence, text = built()
    assert confidence is None and "confidence" not in text
    command = ("query", str(photo), f"--index={address}")
    status, _, error = call("search.py", *command, "--min_confidence=0.5")
    assert status == 1 and "Run evaluate.py, which writes calibration.json" in error
    status, text, _ = call("search.py", *command)
    assert status == 0 and "%" not in text


def test_values_that_cannot_be():
    for value in (-0.1, 1.5, float("nan")):
        with pytest.raises(FirError, match="`min_confidence` must be between 0 and 1. Received"):
            QueryOptions(index="x", min_confidence=value)
    with pytest.raises(FirError, match="`min_confidence` is known of plain scores. Received: --re"):
        QueryOptions(index="x", min_confidence=0.5, rerank=20)


@pytest.mark.slow
def test_the_page_tells_it_and_takes_the_threshold(index):
    pytest.importorskip("starlette")
    client = importlib.import_module("starlette.testclient").TestClient
    make_app = importlib.import_module("fir_tf.search.web.app").make_app
    address, _, photos = index
    asked = {"like": str(next(photos.rglob("*.jpg")).relative_to(photos)), "group": 0}
    with Index(address) as opened:
        page = client(make_app(opened))
        found = page.get("/api/search", params=asked).json()["results"]
        assert len(found) == 8 and found[0]["confidence"] == pytest.approx(
            confidence_of(1), abs=1e-3
        )
        least = found[3]["confidence"]
        kept = page.get("/api/search", params={**asked, "min_confidence": least - 1e-4}).json()
        assert kept["results"] == [hit for hit in found if hit["confidence"] >= least - 1e-4]
        for wrong in ("2", "-1", "nan", "", "1_0", "1e-1"):
            answer = page.get("/api/search", params={**asked, "min_confidence": wrong})
            assert answer.status_code == 400 and "between 0 and 1" in answer.json()["error"]
        with opened.held() as generation:
            generation.calibration = None
        answer = page.get("/api/search", params={**asked, "min_confidence": 0.5})
        assert answer.status_code == 400 and "Run evaluate.py" in answer.json()["error"]
        found = page.get("/api/search", params=asked).json()["results"]
        assert len(found) == 8 and "confidence" not in found[0]


class OnlyTheFile:
    """An export format without a network: what is tested is what stands beside it."""

    folder = "only"

    def write(self, job, folder):
        (folder / "assets.extra").mkdir(parents=True)
        (folder / "saved_model.pb").write_bytes(b"")
        return {}


@pytest.mark.slow
def test_an_export_carries_it(place, tmp_path, monkeypatch, caplog):
    module = importlib.import_module("fir_tf.serving.export")
    monkeypatch.setattr(module, "get_format", lambda _: OnlyTheFile())
    monkeypatch.setattr(module, "search_model", lambda model: model)
    monkeypatch.setattr(module, "inference_model", lambda model, *_: model)
    run, folder = place[1], tmp_path / "export"
    calibrated(run)
    made = module.export(ExportOptions(run=str(run), output=str(folder)))
    # The folder of versions is a model's folder too.
    assert calibration_place(folder) == calibration_place(made)
    assert Calibration.load(calibration_place(folder)) == Calibration.load(run / NAME)
    write_json(run / NAME, json.loads((run / NAME).read_text()) | {"model": "another"})
    with caplog.at_level("INFO"):
        module.export(ExportOptions(run=str(run), output=str(folder)))
    assert not calibration_place(folder).exists() and "is left out" in caplog.text
