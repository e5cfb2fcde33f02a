"""search.py watch: questions of today against those of when all was well."""

import datetime
import importlib
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from scipy.spatial.distance import mahalanobis
from small_sets import write_jpeg
from two_models import TwoModels, build, make_models, migration, two_models

from fir_tf import boutique
from fir_tf.calibration import Calibration
from fir_tf.config import Config
from fir_tf.errors import FirError
from fir_tf.files import write_json
from fir_tf.search import indexing
from fir_tf.search.asked_log import entry, read_log
from fir_tf.search.drift import drift, shift, stability_index
from fir_tf.search.engines import open_engine
from fir_tf.search.index import Index
from fir_tf.search.migrating import migrate
from fir_tf.search.reference import SKETCHED, Questions, Reference, sketch
from fir_tf.search.watching import DriftError, watch
from fir_tf.search_options import IndexOptions, ServiceOptions, WatchOptions, largest_values

counts = st.lists(st.integers(0, 500), min_size=2, max_size=12)


def questions(rng, many, far=0.0, lower=0.0):
    """Draws a stream; its scores and its embeddings may be moved, in deviations."""
    spread = np.linspace(0.5, 2, SKETCHED)
    sketches = rng.normal(size=(many, SKETCHED)) * spread
    sketches[:, 0] += far * spread[0]
    return Questions(np.clip(rng.normal(0.7 - 0.1 * lower, 0.1, many), -1, 1), sketches)


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_the_stability_index_is_a_plain_loop(data):
    first = data.draw(counts)
    second = data.draw(st.lists(st.integers(0, 500), min_size=len(first), max_size=len(first)))
    total = 0.0
    for e, a in zip(first, second, strict=True):
        e, a = (e + 0.5) / (sum(first) + len(first) / 2), (a + 0.5) / (sum(second) + len(first) / 2)
        total += (a - e) * np.log(a / e)
    assert stability_index(first, second) == pytest.approx(total, abs=1e-12)
    assert stability_index(first, second) == pytest.approx(stability_index(second, first))
    assert stability_index(first, first) == 0


def test_the_stability_index_by_hand():
    # Shares of .2, .5 and .3 that have become .4, .3 and .3.
    value = 0.2 * np.log(2) - 0.2 * np.log(0.6)
    assert stability_index([200_000, 500_000, 300_000], [400_000, 300_000, 300_000]) == (
        pytest.approx(value, abs=1e-5)
    )
    # An empty bin is not infinite.
    assert 5 < stability_index([100, 0], [0, 100]) < 11


def test_the_shift_is_the_distance_of_mahalanobis():
    rng = np.random.default_rng(0)
    learned = Reference.learn(questions(rng, 500), "", "", 1)
    live = questions(rng, 300, far=2)
    exact = mahalanobis(live.sketches.mean(axis=0), learned.mean, np.linalg.inv(learned.covariance))
    assert shift(learned, live.sketches) == pytest.approx(exact, rel=0.05) and 1.5 < exact < 2.5
    # Embeddings that are all the same do not divide by zero.
    same = Reference.learn(Questions(np.ones(50), np.ones([50, SKETCHED])), "", "", 1)
    assert shift(same, np.ones([50, SKETCHED])) == 0
    assert 1e3 < shift(same, np.zeros([50, SKETCHED])) < 1e6


def test_a_sketch_keeps_distances_and_stays_the_same():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(40, 512))
    kept, exact = (
        np.linalg.norm(each[:, np.newaxis] - each, axis=2)[np.triu_indices(40, 1)]
        for each in (sketch(vectors), vectors)
    )
    assert 0.9 < np.mean(kept / exact) < 1.1 and np.std(kept / exact) < 0.25
    signs = ["0101100110111101", "1100011110111110", "1101000101010111"]
    expected = [[0.25 if sign == "1" else -0.25 for sign in row] for row in signs]
    assert sketch(np.eye(3)).tolist() == expected


@pytest.mark.slow
def test_luck_is_what_a_hundredth_of_unchanged_streams_exceed():
    rng = np.random.default_rng(1)
    over = {"psi": 0, "shift": 0, "below": 0}
    calibration = Calibration(10.0, -6.0, 20)
    for _ in range(1000):
        learned = Reference.learn(questions(rng, 300), "", "", 1)
        values = drift(learned, questions(rng, 200), calibration, 0.5)
        for name in over:
            over[name] += values[name]["value"] > values[name]["luck"]
    assert all(count <= 30 for count in over.values()), over
    assert all(count >= 1 for count in over.values()), over


@pytest.mark.parametrize(
    ("changes", "changed"),
    [({}, set()), ({"far": 2}, {"shift"}), ({"lower": 1}, {"psi", "below"})],
)
def test_what_has_changed_is_said_and_nothing_else(changes, changed):
    rng = np.random.default_rng(2)
    calibration = Calibration(10.0, -6.0, 20)
    learned = Reference.learn(questions(rng, 500), "", "", 1)
    asked = questions(rng, 300, **changes)
    values = drift(Reference.of(learned.to_json(), ""), asked, calibration, 0.5)
    assert {name for name in ("psi", "shift", "below") if values[name]["changed"]} == changed
    below = values["below"]
    assert below["score"] == pytest.approx(0.6)
    assert below["value"] == np.mean([score < 0.6 for score in asked.scores])
    assert abs(below["reference"] - 0.159) < 0.06
    assert sum(values["bins"]["asked"]) == pytest.approx(1)


def filled(folder, count=60):
    """Makes an index of smooth random photos; returns (photos, old and new model, index)."""
    for number in range(count):
        write_jpeg(folder / "photos" / "Tops" / f"i{number}" / f"{number}.jpg", number)
    old, new = make_models(folder)
    build(folder / "photos", folder / "index", old)
    return folder / "photos", old, new, folder / "index"


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    with two_models():
        return filled(tmp_path_factory.mktemp("shop"))


def kept(address, generation=None):
    with open_engine(address, generation=generation) as engine:
        return engine.info().get("reference")


def test_an_index_keeps_what_its_photos_find_but_themselves(shop):
    photos, old, _, index = shop
    files = sorted(photos.rglob("*.jpg"))
    vectors = TwoModels(old).encode([file.read_bytes() for file in files]).embedding
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -1)
    learned = Reference.of(kept(index), "")
    assert learned.counts.sum() == learned.images == 60
    found = scores.argmax(axis=1)
    mutual = sum(found[found[row]] == row for row in range(60))
    # Two that find each other are one.
    assert learned.independent == pytest.approx(60**2 / (60 - mutual + 4 * mutual / 2), rel=1e-5)
    assert learned.model == "old" and "60 photos of the index" in learned.source
    best = np.round(scores.max(axis=1), 4)
    np.testing.assert_allclose(learned.edges[[0, -1]], [best.min(), best.max()], atol=2e-4)
    np.testing.assert_allclose(learned.mean, sketch(vectors).mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(
        learned.covariance, np.cov(sketch(vectors), rowvar=False), rtol=1e-4, atol=1e-6
    )
    assert len(json.dumps(kept(index))) < 8000


def test_a_reference_stays_and_a_new_model_has_its_own(tmp_path):
    with two_models():
        photos, old, new, index = filled(tmp_path)
        first = kept(index)
        for number in range(60, 70):
            write_jpeg(photos / "Tops" / "more" / f"{number}.jpg", number)
        build(photos, index, old)
        assert kept(index) == first
        migrate(migration(index, new))
        assert kept(index)["model"] == "new" and kept(index)["images"] == 70
        assert kept(index, "") == first


def line(scores, number, model="old", **changes):
    """A line as the server writes it."""
    numbers = np.random.default_rng(number).normal(size=SKETCHED).round(4).tolist()
    query = {"model": model, "sketch": numbers}
    if scores is not None:
        query["score"] = scores
    told = {"time": "2026-01-02T03:04:05.678+00:00", "route": "/api/search", "query": query}
    return json.dumps({**told, **changes})


def test_a_log_has_each_photo_once_and_may_be_damaged(tmp_path):
    log = tmp_path / "access.jsonl"
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
    lines = [
        json.dumps({"time": now, "route": "/api/photo"}),
        line(0.5, 1),
        line(None, 1),
        line(0.5, 1),
        line(None, 2),
        line(0.7, 3, time=now),
        line(0.7, 4, model="other"),
        line(0.7, 5)[:40],
        "[1]",
        line(0.7, 6, query={"model": "old", "sketch": [1, 2]}),
        line(float("nan"), 7),
        line(float("inf"), 8),
        line(10**400, 9),
        line(0.7, 10, query={"model": "old", "sketch": [10**400] * SKETCHED}),
        "[" * 100_000,
        "",
    ]
    log.write_text("\n".join(lines))
    found = read_log(str(log), "old")
    assert sorted(found.questions.scores) == [0.5, 0.7] and len(found.questions.sketches) == 3
    assert (found.of_others, found.unread) == (1, 8)
    assert len(read_log(str(log), "old", days=1).questions.sketches) == 1
    log.write_text("no\nlog\n")
    with pytest.raises(FirError, match="none of 2 lines is"):
        read_log(str(log), "old")
    with pytest.raises(FirError, match="not there"):
        read_log(str(tmp_path / "missing"), "old")


EACH_WAY = ({}, {"category": "Tops"}, {"min_confidence": 0})


def asked_with(index, photos, log, ways=EACH_WAY[:1], **options):
    """Asks the page's server with photos; its access log is `log`."""
    testclient = pytest.importorskip("starlette.testclient")
    make_app = importlib.import_module("fir_tf.search.web.app").make_app
    with two_models(), Index(index) as opened:
        app = make_app(opened, ServiceOptions(access_log=str(log), **options))
        client = testclient.TestClient(app)
        for photo in photos:
            name = client.post("/api/photo", content=photo).json()["photo"]
            for more in ways:
                answer = client.get("/api/search", params={"photo": name, "k": 2, **more})
                assert answer.status_code == 200
        like = client.get("/api/info").json()["samples"][0]
        assert client.get("/api/search", params={"like": like}).status_code == 200
        app.close()


def changed_photos(files, change):
    found = []
    for file in files:
        with Image.open(file) as image:
            place = io.BytesIO()
            change(image.convert("RGB")).save(place, "PNG")
            found.append(place.getvalue())
    return found


def same(image):
    return image


def blurred(image):
    return image.filter(ImageFilter.GaussianBlur(3))


def dark(image):
    return image.point(lambda value: value // 8)


def named(values):
    return {name for name in ("psi", "shift", "below") if (values[name] or {}).get("changed")}


def test_the_server_s_log_is_compared_and_scripts_hear_of_it(shop, tmp_path, caplog):
    photos, _, _, index = shop
    for number in range(50):
        write_jpeg(tmp_path / "asked" / f"{number}.jpg", 1000 + number)
    files = sorted((tmp_path / "asked").iterdir())
    light, other = tmp_path / "light.jsonl", tmp_path / "other.jsonl"
    asked_with(index, changed_photos(files, same), light)
    # Seen by a model of mean colours.
    asked_with(index, changed_photos(files, dark), other)

    def options(log, **more):
        return WatchOptions(index=str(index), log=str(log), **more)

    plain = watch(options(light, json=str(tmp_path / "w.json")))
    assert plain["photos"] == plain["scored"] == 50 and plain["below"] is None
    assert json.loads((tmp_path / "w.json").read_text()) == plain
    with caplog.at_level("INFO"):
        found = watch(options(other, sheet=str(tmp_path / "d.png")))
    assert {"psi", "shift"} <= named(found) and named(plain) == set()
    assert "CHANGED" in caplog.text and "evaluate.py tells" in caplog.text
    with Image.open(tmp_path / "d.png") as picture:
        assert picture.width > 800
    with pytest.raises(DriftError, match="psi is .*above 0.25"):
        watch(options(other, fail_above="psi=.25"))
    # What cannot be drawn keeps nobody from the numbers.
    (tmp_path / "full").write_text("a file")
    told = watch(
        options(other, sheet=str(tmp_path / "full" / "d.png"), json=str(tmp_path / "w.json"))
    )
    assert json.loads((tmp_path / "w.json").read_text()) == told
    with pytest.raises(DriftError, match="below is unknown"):
        watch(options(light, fail_above="below=.5,psi=90"))
    assert DriftError.status == 2


def test_a_log_can_be_what_is_usual(tmp_path):
    with two_models():
        _, _, _, index = filled(tmp_path, 20)
        # Too few photos for a reference of its own.
        assert kept(index) is None
        log = tmp_path / "log"
        log.write_text("\n".join(line(0.5 + number / 200, number) for number in range(80)))
        options = WatchOptions(index=str(index), log=str(log))
        with pytest.raises(FirError, match="must have 50 photos"):
            watch(options)
        assert watch(WatchOptions(index=str(index), log=str(log), learn=True)) == {}
        values = watch(options)
        assert values["psi"]["value"] == 0 and values["shift"]["value"] < 1e-4
        assert values["reference"]["source"] == f"80 photos of {log}"
        log.write_text(line(0.5, 1) + "\n" + line(0.5, 1, model="new"))
        with pytest.raises(FirError, match="at least 50 photos.*Received: 1, of.*1 of another"):
            watch(options)


def test_an_index_of_before_gets_its_reference_from_watch(tmp_path):
    with two_models():
        photos, old, _, index = filled(tmp_path)
        with open_engine(index) as engine:
            info = engine.info()
            before = info.pop("reference")
            engine.set_info(info)
        log = tmp_path / "log"
        log.write_text("\n".join(line(0.9, number) for number in range(60)))
        watch(WatchOptions(index=str(index), log=str(log)))
        assert {**kept(index), "made": ""} == {**before, "made": ""}
        for damaged in ([1, 2], [float("nan")] * SKETCHED):
            with open_engine(index) as engine:
                engine.set_info({**info, "reference": {**before, "mean": damaged}})
            with pytest.raises(FirError, match="the reference in the index .* --learn"):
                watch(WatchOptions(index=str(index), log=str(log)))


def test_photos_are_kept_where_a_folder_is_given_and_nowhere_else(shop, tmp_path, caplog):
    files = sorted(shop[0].rglob("*.jpg"))[:3]
    contents = [file.read_bytes() for file in files]
    before = set(tmp_path.rglob("*"))
    asked_with(shop[3], contents, tmp_path / "log", EACH_WAY)
    assert set(tmp_path.rglob("*")) - before == {tmp_path / "log"}
    folder = tmp_path / "asked"
    more = [*contents, contents[0]]
    asked_with(shop[3], more, tmp_path / "log", EACH_WAY, keep_queries=str(folder))
    assert sorted(file.read_bytes() for file in folder.iterdir()) == sorted(contents)
    assert {file.suffix for file in folder.iterdir()} == {".jpg"}
    asked = [json.loads(text) for text in (tmp_path / "log").read_text().splitlines()]
    known = [told["query"] for told in asked if "query" in told]
    assert len(known) == 3 * 7 and all(len(told["sketch"]) == SKETCHED for told in known)
    assert [("score" in told) for told in known[:3]] == [True, False, True]


def test_photos_are_not_kept_where_they_would_be_indexed(shop, tmp_path):
    for place in (shop[0], shop[0] / "asked"):
        with pytest.raises(FirError, match="`keep_queries` must lie outside of the photos' folder"):
            asked_with(shop[3], [], tmp_path / "log", keep_queries=str(place))
        assert not (shop[0] / "asked").exists()
    check_apart = importlib.import_module("fir_tf.search.web.kept").check_apart
    walked = {"root": str(tmp_path / "photos"), "walked": True}
    for place, info in (
        (tmp_path / "photos2", walked),
        (tmp_path / "photos" / ".." / "asked", walked),
        # What a file does not name is not indexed, nor what nobody knows of.
        (tmp_path / "photos" / "asked", {**walked, "walked": False}),
        (tmp_path / "photos" / "asked", {}),
    ):
        check_apart(str(place), info)
    with pytest.raises(FirError, match="would be indexed"):
        check_apart(str(tmp_path / "x" / ".." / "photos" / "asked"), walked)


def test_a_folder_that_cannot_be_written_stops_no_request(tmp_path, capsys):
    module = importlib.import_module("fir_tf.search.web.kept")
    place = module.KeptQueries(str(tmp_path / "kept"))
    (tmp_path / "kept").rmdir()
    (tmp_path / "kept").write_text("a file")
    for _ in range(2):
        place.keep(b"\xff\xd8 a photo")
    shown = capsys.readouterr()
    assert (shown.out + shown.err).count("`keep_queries`") == 1


@pytest.mark.parametrize("text", ["psi", "psi=-1", "recall=.5", "psi=101"])
def test_a_limit_that_means_nothing_is_refused(text):
    with pytest.raises(FirError, match="`fail_above` must be psi=, shift= or below="):
        largest_values(text)


@pytest.mark.slow
def test_the_boutique_s_photos_blurred_or_dark_are_another_stream(tmp_path):
    """By a network that is not trained on them: what a change of the camera looks like."""
    fir = importlib.import_module("fir_tf.models.fir")
    config = Config(run=str(tmp_path / "run"), backbone="efficientnet_lite0", image_size=64)
    config.save(tmp_path / "run" / "config.json")
    write_json(tmp_path / "run" / "labels.json", {"categories": ["a"]})
    fir.build_fir(config, 64, 1).save(tmp_path / "run" / "model.keras")
    garments, photos = boutique.plan(70, 3, seed=0)
    for number, photo in enumerate(photos):
        # One photo of each garment, each time of another view.
        folder = "asked" if (number + photo.item) % 3 == 0 else "photos"
        place = tmp_path / folder / f"i{photo.item}" / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(boutique.render(garments[photo.item - 1], photo, 64)).save(place)
    index = tmp_path / "index"
    indexing.build(
        IndexOptions(model=str(tmp_path / "run"), images=str(tmp_path / "photos"), index=str(index))
    )
    files = sorted((tmp_path / "asked").rglob("*.png"))
    found = {}
    with Index(index) as opened, opened.held() as generation:
        for change in (same, blurred, dark):
            vectors = generation.encoder.encode(changed_photos(files, change)).embedding
            answers = zip(vectors, generation.search(vectors, 1), strict=True)
            queries = [entry(generation, vector, hits, False) for vector, hits in answers]
            log = tmp_path / f"{change.__name__}.jsonl"
            log.write_text("\n".join(json.dumps({"time": "", "query": one}) for one in queries))
            values = watch(WatchOptions(index=str(index), log=str(log)))
            found[change.__name__] = (
                {n: values[n]["value"] for n in ("psi", "shift")},
                named(values),
            )
    plain, *others = found.values()
    assert plain[1] == set(), found
    assert all(each[1] == {"psi", "shift"} for each in others), found
