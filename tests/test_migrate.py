"""search.py migrate: another model for an index, while it is asked, written to and killed."""

import concurrent.futures
import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import valid_html
from commands import call, done
from databases import place_of
from small_sets import write_jpeg
from test_docs import commands
from two_models import build, contents, expected, make_models, migration, two_models

from fir_tf.errors import FirError
from fir_tf.registry import names
from fir_tf.search import coming, following, migrating
from fir_tf.search.engines import DEFAULT, generations_of, open_engine, writing_to
from fir_tf.search.index import Index
from fir_tf.search.migrating import migrate
from fir_tf.search_options import MigrateOptions

ENGINES = ["{}", "faiss+hnsw:{}", "milvus:{}.db", "postgresql:{}", "postgresql+hnsw:{}"]


@pytest.fixture
def photos(tmp_path):
    for number in range(9):
        write_jpeg(tmp_path / "photos" / "Tops" / f"i{number // 3}" / f"{number}.jpg", number)
    return tmp_path / "photos"


@pytest.fixture
def models(tmp_path):
    with two_models():
        yield make_models(tmp_path)


@pytest.fixture
def index(tmp_path, photos, models):
    build(photos, tmp_path / "index", models[0])
    return tmp_path / "index"


@pytest.fixture(params=ENGINES)
def address(request, tmp_path):
    return place_of(request.param, tmp_path, request)


def left(address, generation):
    """What is there of a generation that may be removed."""
    try:
        return contents(address, generation)
    except FirError:
        return {}


def state_of(address):
    with generations_of(address) as generations:
        return generations.state()


def test_every_engine_of_the_package_can_be_migrated():
    tested = {
        form.partition(":")[0].partition("+")[0] if ":" in form else DEFAULT for form in ENGINES
    }
    assert tested == set(names("engine"))


def test_a_migration_back_and_to_its_end(address, photos, models):
    old, new = models
    build(photos, address, old)
    migrate(migration(address, new))
    assert contents(address) == expected(photos, new)
    assert contents(address, "") == expected(photos, old)
    # A second time there is nothing to do.
    migrate(migration(address, new))
    with open_engine(address) as engine:
        assert engine.info()["model"]["model"] == str(new) and engine.info()["dimension"] == 6
        assert [hit.record.path for hit in engine.search([[0, 0, 0, 0, 0, 1.0]], 9)[0]]

    migrate(migration(address, rollback=True))
    assert contents(address) == expected(photos, old)
    migrate(migration(address, new))
    assert contents(address) == expected(photos, new)

    migrate(migration(address, finish=True))
    assert contents(address) == expected(photos, new)
    with pytest.raises(FirError, match="`rollback` needs a migration to go back from. Received"):
        migrate(migration(address, rollback=True))
    assert contents(address) == expected(photos, new)
    assert left(address, "") == {}

    # And on: the index is one like any other.
    write_jpeg(photos / "Tops" / "i4" / "more.jpg", 40)
    assert build(photos, address, new)["embedded"] == 1
    with pytest.raises(FirError, match="must be the one that"):
        build(photos, address, old)
    migrate(migration(address, old))
    assert contents(address) == expected(photos, old)
    assert state_of(address).current == "gen2"


def answers(index, queries):
    return [told(index.search(query, 3)) for query in queries]


def told(hits):
    return [(hit.record.path, round(hit.score, 4)) for hit in hits]


def test_clients_that_ask_meanwhile_get_the_old_or_the_new_answer(address, photos, models):
    build(photos, address, models[0])
    queries = [file.read_bytes() for file in sorted(photos.rglob("*.jpg"))]
    switched, asked = threading.Event(), []

    def ask(index):
        found = []
        while not switched.is_set() or len(found) < 10 or found[-1][0] < switched_at[0]:
            number = len(found) % len(queries)
            begun = time.monotonic()
            found.append((begun, number, told(index.search(queries[number], 3))))
            asked.append(number)
            time.sleep(0.01)
        return found

    switched_at = [float("inf")]
    with Index(address) as index:
        before = answers(index, queries)
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            clients = [pool.submit(ask, index) for _ in range(2)]
            migrate(migration(address, models[1]))
            switched_at[0] = time.monotonic()
            switched.set()
            found = [client.result() for client in clients]
        after = answers(index, queries)
    with Index(address) as fresh:
        assert after == answers(fresh, queries)
    assert all(one != other for one, other in zip(before, after, strict=True))
    for client in found:
        assert all(hits in (before[number], after[number]) for _, number, hits in client)
        new = [hits == after[number] for _, number, hits in client]
        # Once the new answer, never the old one again; and the new one to every later question.
        assert new == sorted(new) and not new[0]
        assert all(hits == after[n] for begun, n, hits in client if begun >= switched_at[0])


def test_a_question_ends_on_the_generation_that_it_began_with(index, photos, models):
    photo = next(photos.rglob("*.jpg"))
    with Index(index) as opened, opened.held() as begun:
        vector = begun.encoder.encode([photo.read_bytes()]).embedding
        before = told(begun.search(vector, 3)[0])
        migrate(migration(index, models[1]))
        migrate(migration(index, finish=True))
        assert opened.search(photo, 3)[0].record.path == before[0][0]
        assert told(begun.search(vector, 3)[0]) == before != told(opened.search(photo, 3))


def test_the_next_model_is_opened_before_the_switch(index, photos, models, monkeypatch):
    opened = Index(index)
    photo = next(photos.rglob("*.jpg"))
    opened.search(photo)
    loaded, prepared = [], []
    verify, open_next = migrating._verify, following.Following._open
    opened.prepare_next(lambda generation: prepared.append(generation.name))
    monkeypatch.setattr(
        following.Following,
        "_open",
        lambda self, name: loaded.append(name) or open_next(self, name),
    )

    def while_verified(*arguments):
        opened.search(photo)
        opened._following._coming["gen1"].result()
        assert prepared == ["gen1"] and opened.encoder.model.endswith("old")
        return verify(*arguments)

    monkeypatch.setattr(migrating, "_verify", while_verified)
    migrate(migration(index, models[1]))
    assert loaded == ["gen1"]
    assert opened.search(photo) and opened.encoder.model.endswith("new") and loaded == ["gen1"]
    opened.close()


@pytest.mark.parametrize("address", ["{}", "postgresql:{}"], indirect=True)
def test_the_switch_waits_for_those_who_open_the_new_model(address, photos, models, monkeypatch):
    build(photos, address, models[0])
    photo = next(photos.rglob("*.jpg"))
    looking, may_open, verified = (threading.Event() for _ in range(3))
    monkeypatch.setattr(migrating, "_SEEN", 0.3)
    verify = migrating._verify

    def slowly(generation):
        looking.set()
        assert may_open.wait(30)

    def while_asked(*arguments):
        opened.search(photo)
        assert looking.wait(30)
        verify(*arguments)
        verified.set()

    monkeypatch.setattr(migrating, "_verify", while_asked)
    with Index(address) as opened, concurrent.futures.ThreadPoolExecutor(1) as pool:
        opened.prepare_next(slowly)
        before = told(opened.search(photo))
        migrated = pool.submit(migrate, migration(address, models[1]))
        assert verified.wait(60)
        # The old model answers, and nobody waits.
        time.sleep(0.5)
        assert told(opened.search(photo)) == before and not migrated.done()
        assert state_of(address).current == ""
        may_open.set()
        migrated.result(timeout=30)
        after = told(opened.search(photo))
        assert after != before
        for event in (looking, may_open):
            event.clear()
        back = pool.submit(migrate, migration(address, rollback=True))
        while not looking.is_set():
            assert told(opened.search(photo)) == after
        time.sleep(0.5)
        assert told(opened.search(photo)) == after and not back.done()
        may_open.set()
        back.result(timeout=30)
        assert told(opened.search(photo)) == before


def test_a_reader_that_never_ends_to_open_is_not_waited_for(index, models, monkeypatch, capsys):
    monkeypatch.setattr(migrating, "_OPENING", 0.2)
    with generations_of(index) as generations, generations.holding("opening"):
        migrate(migration(index, models[1]))
        assert state_of(index).current == "gen1"
    said = capsys.readouterr().out
    assert "waiting for them" in said and "a reader still opens the next model" in said


def test_without_the_new_model_the_old_one_answers(index, photos, models, capsys, monkeypatch):
    photo = next(photos.rglob("*.jpg"))
    with Index(index) as opened:
        before = told(opened.search(photo))
        migrate(migration(index, models[1]))
        models[1].rename(models[1].with_name("elsewhere"))
        assert told(opened.search(photo)) == told(opened.search(photo)) == before
        assert capsys.readouterr().out.count("cannot be opened here") == 1
        models[1].with_name("elsewhere").rename(models[1])
        monkeypatch.setattr(following, "_AGAIN", 0.0)
        opened._following._again_at = 0.0
        assert told(opened.search(photo)) != before
    with pytest.raises(FirError, match="must be the one that"):
        Index(index, models[0])


def test_the_page_goes_on_through_a_migration(index, photos, models):
    pytest.importorskip("starlette")
    from starlette.testclient import TestClient

    from fir_tf.search.web import make_app

    photo = next(photos.rglob("*.jpg"))
    with Index(index) as opened, TestClient(make_app(opened)) as client:

        def found(name):
            answer = client.get("/api/search", params={"photo": name, "k": 3})
            assert answer.status_code == 200, answer.text
            return [(hit["path"], hit["score"]) for hit in answer.json()["results"]]

        name = client.post("/api/photo", content=photo.read_bytes()).json()["photo"]
        before, told_before = found(name), client.get("/api/info").json()
        like = client.get("/api/search", params={"like": before[0][0]}).json()["results"]
        migrate(migration(index, models[1]))
        # The upload is one that the old model has embedded.
        after = found(name)
        again = client.post("/api/photo", content=photo.read_bytes()).json()["photo"]
        assert after == found(again) != before
        assert after == told(opened.search(photo, 3))
        assert client.get("/api/search", params={"like": before[0][0]}).json()["results"] != like
        assert client.get("/api/info").json()["images"] == told_before["images"] == 9
        assert client.get("/image", params={"path": before[0][0]}).status_code == 200


def test_uploads_during_a_migration_are_asked_with_by_one_model(index, photos, models):
    """The batches of several clients: never a vector of one model among those of the other."""
    pytest.importorskip("starlette")
    from starlette.testclient import TestClient

    from fir_tf.search.web import make_app

    files = sorted(photos.rglob("*.jpg"))
    with Index(index) as opened, TestClient(make_app(opened)) as client:

        def ask(number):
            name = client.post("/api/photo", content=files[number].read_bytes()).json()["photo"]
            answer = client.get("/api/search", params={"photo": name, "k": 3})
            assert answer.status_code == 200, answer.text
            return [(hit["path"], hit["score"]) for hit in answer.json()["results"]]

        def ask_on(first):
            found = []
            while not switched.is_set() or len(found) < 3:
                number = (first + len(found)) % len(files)
                found.append((number, ask(number)))
            return found

        switched = threading.Event()
        before = [ask(number) for number in range(len(files))]
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            clients = [pool.submit(ask_on, first) for first in range(3)]
            try:
                migrate(migration(index, models[1]))
            finally:
                switched.set()
            found = [answer for asked in clients for answer in asked.result()]
        after = [ask(number) for number in range(len(files))]
    assert all(one != other for one, other in zip(before, after, strict=True))
    assert all(hits in (before[number], after[number]) for number, hits in found)
    assert found[0][1] == before[found[0][0]]


def boxed(photos):
    """Returns (a table of the photos, {path: box}): every third one has no box."""
    paths = [file.relative_to(photos).as_posix() for file in sorted(photos.rglob("*.jpg"))]
    boxes = {path: [3 + n, 5, 14, 18 + n] for n, path in enumerate(paths) if n % 3}
    rows = [f'{path},"{",".join(map(str, boxes.get(path, [])))}"' for path in paths]
    (photos / "boxes.csv").write_text("\n".join(["path,box", *rows, ""]))
    return photos / "boxes.csv", boxes


def records(address):
    with open_engine(address) as engine:
        return coming.records_by_path(engine)


def test_boxes_go_into_the_new_vectors(photos, models, tmp_path):
    old, new = models
    table, boxes = boxed(photos)
    index, crop = tmp_path / "index", {"crop": "box", "crop_margin": 0.25}
    build(table, index, old, crop="box")
    before = records(index)
    assert contents(index) == expected(photos, old, boxes) != expected(photos, old)
    migrate(migration(index, new, **crop))
    assert records(index) == before
    assert contents(index) == expected(photos, new, boxes, **crop)
    # A catalogue of these boxes has nothing new.
    assert build(table, index, new, **crop)["kept"] == 9
    migrate(migration(index, finish=True))

    # The same model with another margin is another one, also while one is under way.
    with pytest.raises(FirError, match="--fail_below=rbo=1"):
        migrate(migration(index, new, crop="box", fail_below="rbo=1"))
    with pytest.raises(FirError, match="is under way, with --crop=box --crop_margin=0. Give"):
        migrate(migration(index, new, crop="image"))
    migrate(migration(index, new, crop="box"))
    assert contents(index) == expected(photos, new, boxes)
    migrate(migration(index, finish=True))

    # Whole photos have no boxes, and there is no way back to them.
    migrate(migration(index, new))
    assert contents(index) == expected(photos, new)
    assert not any("@" in record.checksum for record in records(index).values())
    migrate(migration(index, finish=True))
    with pytest.raises(FirError, match="is of whole photos and has no boxes"):
        migrate(migration(index, old, crop="box"))


def test_what_index_changes_meanwhile_is_taken_in(index, photos, models, monkeypatch):
    old, new = models
    fill, verify = coming.Filling.fill, migrating._verify

    def change(number):
        write_jpeg(photos / "Tops" / "later" / f"{number}.jpg", 50 + number)
        next(photos.rglob("i*/*.jpg")).unlink()
        write_jpeg(sorted(photos.rglob("i*/*.jpg"))[-1], 70 + number)
        (photos / "Tops" / f"label{number}").mkdir()
        moved = sorted(photos.rglob("i*/*.jpg"))[1]
        moved.rename(photos / "Tops" / f"label{number}" / moved.name)
        assert build(photos, index, old, remove=True)["embedded"] >= 2

    def fill_and_change(self):
        fill(self)
        if not changed:
            changed.append(1)
            change(1)
            fill(self)

    def verify_and_change(*arguments):
        verify(*arguments)
        change(2)

    changed = []
    monkeypatch.setattr(coming.Filling, "fill", fill_and_change)
    monkeypatch.setattr(migrating, "_verify", verify_and_change)
    migrate(migration(index, new))
    assert contents(index) == expected(photos, new)
    assert len(contents(index)) == 9


def test_an_index_run_and_the_switch_wait_for_each_other(index, photos, models, monkeypatch):
    old, new = models
    order, writing = [], threading.Event()

    def write():
        with writing_to(index) as engine:
            writing.set()
            time.sleep(0.5)
            order.append("written")
            engine.delete([next(iter(contents(index)))])

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        verify = migrating._verify

        def start_to_write(*arguments):
            verify(*arguments)
            order.append(pool.submit(write))
            assert writing.wait(30)

        monkeypatch.setattr(migrating, "_verify", start_to_write)
        migrate(migration(index, new))
        order.pop(0).result()
    assert order == ["written"]
    # What the run did before the switch is in the new generation.
    assert len(contents(index)) == 8
    with pytest.raises(FirError, match="must be the one that"):
        build(photos, index, old)


def test_two_migrations_at_a_time_are_refused(index, models):
    with (
        coming.migrating(str(index)),
        pytest.raises(FirError, match="one process at a time migrates"),
    ):
        migrate(migration(index, models[1]))


def test_what_cannot_be_migrated_is_said(index, photos, models, tmp_path):
    with pytest.raises(FirError, match=r"has no .*Make one with search.py index"):
        migrate(migration(tmp_path / "nowhere", models[1]))
    with Index.from_arrays([[0.6, 0.8]]) as arrays:
        arrays.save(tmp_path / "arrays")
    with pytest.raises(FirError, match="must be one of photos and a model"):
        migrate(migration(tmp_path / "arrays", models[1]))
    (index / "generations.json").write_text("[]")
    with pytest.raises(FirError, match="generations.json must name the index's generations"):
        open_engine(index)
    with pytest.raises(FirError, match="one of --rollback and --finish"):
        MigrateOptions(index="a", rollback=True, finish=True)
    with pytest.raises(FirError, match="`model` must be given"):
        MigrateOptions(index="a")


def test_another_migration_first_ends_or_goes_back(index, photos, models, tmp_path):
    third = tmp_path / "third"
    third.mkdir()
    with pytest.raises(FirError, match="--fail_below=rbo=1"):
        migrate(migration(index, models[1], fail_below="rbo=1"))
    assert contents(index) == expected(photos, models[0])
    with pytest.raises(FirError, match=f"migration to {models[1]} is under way"):
        migrate(migration(index, third))
    migrate(migration(index, rollback=True))
    assert state_of(index).coming is None and not (index / "gen1").exists()
    migrate(migration(index, models[1]))
    with pytest.raises(FirError, match="migrate --finish, or go back"):
        migrate(migration(index, third))
    assert contents(index) == expected(photos, models[1])


def test_photos_that_are_gone_are_lost_up_to_a_share(index, photos, models):
    gone = sorted(photos.rglob("*.jpg"))[0]
    gone.unlink()
    with pytest.raises(FirError, match=r"1 of 9 photos cannot be read, over --max_removed=0.1"):
        migrate(migration(index, models[1]))
    assert len(contents(index)) == 9
    migrate(migration(index, models[1], max_removed=0.2))
    assert contents(index) == expected(photos, models[1])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda engine, records, vectors: engine.upsert(records, -vectors),
            "not those of the model",
        ),
        (lambda engine, records, vectors: engine.delete([records[0].path]), "must be of all 9"),
    ],
)
def test_what_was_written_wrong_is_not_switched_to(
    index, photos, models, monkeypatch, spoil, message
):
    fill = coming.Filling.fill

    def fill_and_spoil(self):
        fill(self)
        spoil(self.after, *next(self.after.scan(vectors=True)))

    monkeypatch.setattr(coming.Filling, "fill", fill_and_spoil)
    with pytest.raises(FirError, match=message):
        migrate(migration(index, models[1]))
    assert contents(index) == expected(photos, models[0])


def test_an_index_that_is_never_migrated_stays_as_it_was(index, photos, models):
    build(photos, index, models[0])
    with Index(index) as opened:
        opened.search(next(photos.rglob("*.jpg")))
    assert {path.name.split("-")[0] for path in index.iterdir()} <= {"records.sqlite", "vectors"}


@pytest.mark.slow
@pytest.mark.parametrize("command", ["migrate", "rollback", "finish"])
@pytest.mark.parametrize(
    "form",
    [
        "{}",
        # Each attempt starts four processes.
        *(
            pytest.param(form, marks=pytest.mark.nightly)
            for form in ("faiss+hnsw:{}", "milvus:{}.db", "postgresql+hnsw:{}")
        ),
    ],
)
def test_killed_before_any_write_it_answers_and_goes_on(form, command, photos, tmp_path, request):
    old, new = make_models(tmp_path)
    place = str(tmp_path / "index{}")
    if form.startswith("milvus"):
        pytest.importorskip("milvus_lite")
    if form.startswith("postgresql"):
        place = f"{request.getfixturevalue('postgresql')}&table={command}{{}}"
    script = str(Path(__file__).with_name("killed_migration.py"))
    done = subprocess.run(
        [sys.executable, script, str(photos), str(tmp_path), form.replace("{}", place), command],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    attempts = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    of_old, of_new = (
        json.loads(json.dumps(sorted(expected(photos, m).items()))) for m in (old, new)
    )
    first, last = {
        "migrate": (of_old, of_new),
        "rollback": (of_new, of_old),
        "finish": (of_new, of_new),
    }[command]
    assert len(attempts) == {"migrate": 10, "rollback": 3, "finish": 4}[command]
    for number, (killed, before, after, again, (end, *_)) in enumerate(attempts):
        assert killed == (number < len(attempts) - 1)
        assert before == first and again == 0 and end == last
        # The switch is the last write of a migration and of a rollback.
        assert after == (first if killed else last)


@pytest.mark.slow
def test_the_commands_of_the_page(tmp_path, monkeypatch):
    """docs/migrate.md, with two runs."""
    from test_index import make_photos, make_run

    for name, seed in (("shop", 0), ("new", 1)):
        (tmp_path / "runs" / name).mkdir(parents=True)
        make_run(tmp_path / "runs" / name, seed)
    make_photos(tmp_path / "photos")
    shutil.copytree(tmp_path / "photos", tmp_path / "asked")
    monkeypatch.chdir(tmp_path)
    answered = []
    for _, script, *words in commands("docs/migrate.md"):
        done(script, *words)
        with open_engine("catalogue") as engine:
            answered.append((words[0], Path(engine.info()["model"]["model"]).name))
    assert answered == [
        *(("index", "shop"), ("compare", "shop"), ("compare", "shop"), ("migrate", "new")),
        *(("index", "new"), ("migrate", "shop"), ("migrate", "new"), ("migrate", "new")),
    ]
    assert valid_html.page(Path("compare.html").read_text())
    values = json.loads(Path("compare.json").read_text())
    assert values["recall@10"]["queries"] == 10 and values["changed"]
    assert {path.name for path in Path("catalogue").iterdir()} == {
        *("generations.json", "gen1", "migrate.lock", "open.lock"),
    }
    # What a script is told, and a mistake.
    status, out, err = call(
        *("search.py", "compare", "--index=catalogue", "--model=runs/shop", "--json"),
        "--fail_below=rbo=1",
    )
    assert status == 2 and json.loads(out)["queries"] == 10 and "--fail_below=rbo=1" in err
    done("search.py", "query", "--index=catalogue", "--model=runs/shop", "asked/a.jpg", ok=False)
