"""Every engine keeps the same contract."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from databases import place_of

from fir_tf.errors import FirError
from fir_tf.registry import names
from fir_tf.search.engines import DEFAULT, Filter, Record, open_engine
from fir_tf.search.engines.local import LocalEngine

SIZE = 16
INFO = {"dimension": SIZE, "root": "/photos"}
ENGINES = [
    "{}",
    *("faiss+flat:{}", "faiss+ivfpq:{}", "faiss+hnsw:{}"),
    "milvus:{}.db",
    *("postgresql:{}", "postgresql+hnsw:{}"),
]
CATEGORIES, DOMAINS = ("Dresses", "Denim", 'Tops "new"'), ("shop", "consumer")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """FAISS's threads wait for each other at work, which costs more than these sizes gain."""
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(before)


@pytest.fixture(params=ENGINES)
def address(request, tmp_path):
    return place_of(request.param, tmp_path, request)


def unit(rng, rows, size=SIZE):
    vectors = rng.standard_normal((rows, size)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def records(count, start=0):
    return [
        Record(
            f"{number:05d}.jpg",
            f"item {number // 3}",
            CATEGORIES[number % 3],
            DOMAINS[number % 2],
            f"sum {number}",
        )
        for number in range(start, start + count)
    ]


def filled(address, vectors):
    engine = open_engine(address, create=True)
    engine.set_info({**INFO, "dimension": vectors.shape[1]})
    engine.upsert(records(len(vectors)), vectors)
    return engine


def expected(vectors, query, k, where=None, gone=()):
    """The oracle: score every vector in a loop, sort, cut."""
    scored = [
        (-float(np.dot(vector, query)), record)
        for vector, record in zip(vectors, records(len(vectors)), strict=True)
        if record.path not in gone and (where is None or where.allows(record))
    ]
    return [record for _, record in sorted(scored, key=lambda pair: pair[0])[:k]]


def found(engine, query, k, where=None):
    return [hit.record for hit in engine.search(query[np.newaxis], k, where)[0]]


def test_the_contract_is_tested_on_every_engine():
    tested = {re.split(r"[+:]", address)[0] if ":" in address else DEFAULT for address in ENGINES}
    assert tested == set(names("engine"))


def test_finds_the_nearest_in_order(address):
    rng = np.random.default_rng(0)
    vectors, queries = unit(rng, 300), unit(rng, 7)
    with filled(address, vectors) as engine:
        for step in range(2):
            rows = engine.search(queries, 10)
            assert len(engine) == 300 and len(rows) == 7
            for query, row in zip(queries, rows, strict=True):
                assert [hit.record for hit in row] == expected(vectors, query, 10)
                scores = [float(vectors[int(hit.record.path[:5])] @ query) for hit in row]
                np.testing.assert_allclose([hit.score for hit in row], scores, atol=1e-6)
            if not step:
                engine.flush()


def test_an_empty_index_finds_nothing(address):
    with open_engine(address, create=True) as engine:
        assert engine.info() == {} and len(engine) == 0
        engine.set_info(INFO)
        engine.flush()
        assert engine.search(np.ones((2, SIZE), np.float32), 3) == [[], []]
        assert list(engine.scan()) == [] and engine.fetch(["a.jpg"]) == []
        engine.delete(["a.jpg"])
        engine.upsert([], np.zeros((0, SIZE), np.float32))
        assert len(engine) == 0


def test_more_results_than_records(address):
    vectors = unit(np.random.default_rng(1), 4)
    with filled(address, vectors) as engine:
        assert found(engine, vectors[2], 50) == expected(vectors, vectors[2], 50)


@pytest.mark.parametrize(
    "where",
    [
        Filter(("Denim",)),
        Filter(("Dresses", 'Tops "new"')),
        Filter((), ("consumer",)),
        Filter(("Denim",), ("shop",)),
        Filter(("nothing of the kind",)),
    ],
)
def test_filters_by_category_and_domain(address, where):
    rng = np.random.default_rng(2)
    vectors, query = unit(rng, 200), unit(rng, 1)[0]
    with filled(address, vectors) as engine:
        engine.flush()
        assert found(engine, query, 20, where) == expected(vectors, query, 20, where)


def test_a_filter_that_leaves_much(address):
    """Enough vectors that an approximate engine filters inside its own index."""
    rng = np.random.default_rng(3)
    vectors, query = unit(rng, 3000), unit(rng, 1)[0]
    with filled(address, vectors) as engine:
        engine.flush()
        where = Filter((), ("shop",))
        assert found(engine, query, 5, where) == expected(vectors, query, 5, where)


def test_a_record_is_replaced(address):
    rng = np.random.default_rng(4)
    vectors = unit(rng, 60)
    with filled(address, vectors) as engine:
        engine.flush()
        changed = [Record("00007.jpg", "another", "Denim", "shop", "sum b")]
        vectors[7] = -vectors[7]
        engine.upsert(changed, vectors[7:8])
        for _ in range(2):
            assert len(engine) == 60
            assert found(engine, vectors[7], 1) == changed
            assert changed[0] not in found(engine, -vectors[7], 30)
            engine.flush()


def test_deleted_records_are_not_found(address):
    rng = np.random.default_rng(5)
    vectors = unit(rng, 100)
    gone = [f"{number:05d}.jpg" for number in range(0, 100, 2)]
    with filled(address, vectors) as engine:
        engine.flush()
        engine.delete([*gone, "never there.jpg"])
        for _ in range(2):
            assert len(engine) == 50
            assert found(engine, vectors[0], 100) == expected(vectors, vectors[0], 100, gone=gone)
            # The second time after the dead vectors are cleared away.
            engine.flush()
        engine.delete([record.path for record in records(100)])
        engine.flush()
        assert len(engine) == 0 and found(engine, vectors[0], 5) == []


def test_equal_scores_are_in_order_of_path(address):
    vectors = np.zeros((30, SIZE), np.float32)
    vectors[:, 0], vectors[20:, 1] = 1, 1
    shuffled = np.random.default_rng(6).permutation(30)
    with open_engine(address, create=True) as engine:
        engine.set_info(INFO)
        for number in shuffled:
            engine.upsert(records(1, int(number)), vectors[number : number + 1])
        query = np.zeros(SIZE, np.float32)
        query[:2] = 0.75, 0.5
        ten = records(10, 20)
        assert found(engine, query, 10) == ten
        assert found(engine, query, 30) == ten + records(20)


def test_scan_and_fetch_return_what_was_stored(address):
    vectors = unit(np.random.default_rng(7), 500)
    with filled(address, vectors) as engine:
        stored = {}
        for part, read in engine.scan(vectors=True):
            stored.update(zip(part, read, strict=True))
        assert sorted(stored, key=lambda record: record.path) == records(500)
        for number, record in enumerate(records(500)):
            np.testing.assert_array_equal(stored[record], vectors[number])
        assert {record for part, none in engine.scan() for record in part} == set(stored)
        pairs = engine.fetch(["00009.jpg", "missing.jpg", "00002.jpg"])
        assert [record for record, _ in pairs] == [records(500)[9], records(500)[2]]
        np.testing.assert_array_equal(pairs[1][1], vectors[2])
        np.testing.assert_array_equal(engine.vector("00003.jpg"), vectors[3])
        assert engine.vector("missing.jpg") is None


def test_labels_are_counted(address):
    with filled(address, unit(np.random.default_rng(15), 10)) as engine:
        engine.delete(["00001.jpg"])
        assert engine.labels() == {
            "category": {"Denim": 2, "Dresses": 4, 'Tops "new"': 3},
            "domain": {"consumer": 4, "shop": 5},
        }


def test_info_is_kept(address):
    vectors = unit(np.random.default_rng(8), 3)
    with filled(address, vectors) as engine:
        engine.set_info({**INFO, "note": "Größe ✓"})
    with open_engine(address) as engine:
        assert engine.info() == {**INFO, "note": "Größe ✓"}
        with pytest.raises(FirError, match=f"`dimension` must stay {SIZE}"):
            engine.set_info({"dimension": SIZE + 1})


def test_wrong_vectors_are_told(address):
    with filled(address, unit(np.random.default_rng(9), 3)) as engine:
        with pytest.raises(FirError, match="`vectors` must be vectors of the index's length 16"):
            engine.upsert(records(1), np.ones((1, SIZE - 1), np.float32))
        with pytest.raises(FirError, match="`vectors` must be finite"):
            engine.upsert(records(1), np.full((1, SIZE), np.nan, np.float32))
        with pytest.raises(FirError, match="`queries` must be vectors"):
            engine.search(np.ones((1, 3), np.float32), 1)
        with pytest.raises(FirError, match="`k` must be a whole number"):
            engine.search(np.ones((1, SIZE), np.float32), 0)
        assert len(engine) == 3


def test_there_must_be_an_index(address, tmp_path):
    with pytest.raises(FirError, match="search.py index"):
        open_engine(address)


KILLED_ALWAYS = {("{}", 17), ("faiss+hnsw:{}", 3), ("milvus:{}.db", 3)}

_KILLED = """
import sys
sys.path.insert(0, {tests!r})
from test_engines import *
engine = open_engine({address!r}, create=True)
engine.set_info(INFO)
vectors = unit(np.random.default_rng(10), 4000)
for start in range(0, 4000, 50):
    engine.upsert(records(50, start), vectors[start : start + 50])
    if start % 100 == 0:
        engine.delete([records(1, start)[0].path])
    print(start, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("address", "after"),
    [
        # All but Milvus write the same files. Each case starts a process.
        pytest.param(
            address,
            after,
            marks=[] if (address, after) in KILLED_ALWAYS else pytest.mark.nightly,
        )
        for address in ENGINES
        for after in (3, 17)
    ],
    indirect=["address"],
)
def test_reopens_after_kill(address, after):
    """What upsert returned from is there after kill -9, and what comes next works."""
    code = textwrap.dedent(_KILLED).format(tests=str(Path(__file__).parent), address=address)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    for _ in range(after):
        done = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    process.wait()
    vectors = unit(np.random.default_rng(10), 4000)
    with open_engine(address, create=True) as engine:
        paths = {record.path for part, _ in engine.scan() for record in part}
        known = {record.path for record in records(done + 50)}
        deleted = {f"{start:05d}.jpg" for start in range(0, done + 1, 100)}
        assert known - deleted <= paths and not deleted & paths
        assert len(engine) == len(paths)
        engine.upsert(records(4000), vectors)
        engine.flush()
        assert len(engine) == 4000
        for number in (0, 1, done, 3999):
            assert found(engine, vectors[number], 1) == records(1, number)


def test_a_torn_write_is_overwritten(tmp_path):
    """Bytes behind the last known vector, as a killed writer leaves them."""
    vectors = unit(np.random.default_rng(11), 20)
    with filled(tmp_path / "index", vectors[:10]):
        pass
    with open(tmp_path / "index" / "vectors-000000.f32", "ab") as file:
        file.write(os.urandom(100))
    with open_engine(tmp_path / "index") as engine:
        assert found(engine, vectors[4], 1) == records(1, 4)
        engine.upsert(records(10, 10), vectors[10:])
        assert all(found(engine, vectors[n], 1) == records(1, n) for n in range(20))


def test_a_reader_sees_what_a_writer_adds_and_clears_away(tmp_path):
    vectors = unit(np.random.default_rng(12), 200)
    writer = filled(tmp_path / "index", vectors[:100])
    reader = open_engine(tmp_path / "index")
    assert found(reader, vectors[5], 1) == records(1, 5) and len(reader) == 100
    writer.upsert(records(100, 100), vectors[100:])
    assert found(reader, vectors[150], 1) == records(1, 150)
    writer.delete([record.path for record in records(120)])
    writer.flush()
    # Compacted: another file, other positions.
    assert (tmp_path / "index" / "vectors-000001.f32").stat().st_size == 80 * 4 * SIZE
    assert not (tmp_path / "index" / "vectors-000000.f32").exists()
    assert found(reader, vectors[150], 1) == records(1, 150) and len(reader) == 80
    assert found(reader, vectors[5], 80) == expected(
        vectors, vectors[5], 80, gone={record.path for record in records(120)}
    )


def test_a_short_file_is_told(tmp_path):
    with filled(tmp_path / "index", unit(np.random.default_rng(13), 10)):
        pass
    os.truncate(tmp_path / "index" / "vectors-000000.f32", 99)
    with pytest.raises(FirError, match="must hold 10 vectors of 16 numbers. Received: 99 bytes"):
        LocalEngine(tmp_path / "index")


@pytest.mark.parametrize("kind", [pytest.param("ivfpq", marks=pytest.mark.slow), "hnsw"])
def test_an_approximate_index_is_near_the_exact_one(tmp_path, kind):
    """Recall@50 on clustered vectors, with a tail that FAISS has not seen yet."""
    rng = np.random.default_rng(14)
    centres = rng.standard_normal((400, 32))
    vectors = centres[rng.integers(0, 400, 12_000)] + 0.5 * rng.standard_normal((12_000, 32))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    queries = vectors[::600] + 0.05 * rng.standard_normal((20, 32)).astype(np.float32)
    with filled(f"faiss+{kind}:{tmp_path / 'index'}", vectors[:11_500]) as engine:
        engine.flush()
        assert engine._index.ntotal == 11_500
        engine.upsert(records(500, 11_500), vectors[11_500:])
        rows = engine.search(queries, 50)
    truth = np.argsort(-queries @ vectors.T, axis=1)[:, :50]
    shares = [
        len({int(hit.record.path[:5]) for hit in row} & set(best.tolist())) / 50
        for row, best in zip(rows, truth, strict=True)
    ]
    assert np.mean(shares) >= 0.95


def test_unknown_addresses_are_told(tmp_path):
    for address, message in [
        ("", "Received: nothing"),
        ("oracle://host", "faiss\\+hnsw:FOLDER"),
        ("faiss+lsh:x", "`kind` must be one of flat, ivfpq, hnsw. Received: 'lsh'"),
        ("milvus:folder", "must be milvus:FILE.db"),
        (str(tmp_path), "has no records.sqlite"),
    ]:
        with pytest.raises(FirError, match=message):
            open_engine(address)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FirError, match="which holds other files"):
        open_engine(tmp_path, create=True)


def _write(address, start):
    with open_engine(address) as engine:
        engine.upsert(records(200, start), unit(np.random.default_rng(start), 200))


@pytest.mark.slow
def test_two_writers_lose_nothing(tmp_path):
    with open_engine(tmp_path / "index", create=True) as engine:
        engine.set_info(INFO)
    context = multiprocessing.get_context("spawn")
    starts = (0, 200, 400)
    with context.Pool(2) as pool:
        pool.starmap(_write, [(str(tmp_path / "index"), start) for start in starts])
    with open_engine(tmp_path / "index") as engine:
        assert len(engine) == 600
        for start in starts:
            vectors = unit(np.random.default_rng(start), 200)
            assert found(engine, vectors[7], 1) == records(1, start + 7)
