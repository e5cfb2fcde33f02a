"""Bounds of inner products: nothing that is among the best is left out, and the file's states."""

import json
import os
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_engines import filled, records

from fir_tf import bounds
from fir_tf.neighbours import top_k
from fir_tf.search.conditions import Filter
from fir_tf.search.engines import open_engine

SIZE, ROWS = 24, 1000


@pytest.fixture(autouse=True)
def small():
    """Bounds of few vectors, which are used whatever they cost."""
    with mock.patch.multiple(bounds, NUMBERS_MIN=1, _COST_MAX=np.inf):
        yield


def embeddings(rng, rows, size=SIZE):
    """Unit vectors whose second moment has eigenvalues that fall as those of photos do."""
    vectors = rng.standard_normal((rows, size)) * np.arange(1, size + 1.0) ** -1.2
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def whole(rng, rows):
    """Vectors with many equal inner products, and twice the same."""
    vectors = rng.integers(-2, 3, (rows, SIZE)).astype(np.float32)
    vectors[rng.integers(0, rows, rows // 2)] = vectors[0]
    return vectors


def in_the_tail(rng, rows):
    """All that tells vectors apart lies in numbers of which the bounds have the length alone."""
    vectors = np.zeros((rows, SIZE), np.float32)
    vectors[:, -4:] = rng.standard_normal((rows, 4))
    vectors[rng.integers(0, rows, rows // 10)] = 0
    return vectors


def of_many_lengths(rng, rows):
    lengths = 10.0 ** rng.uniform(-6, 6, (rows, 1))
    return (embeddings(rng, rows) * lengths).astype(np.float32)


def rotated(vectors, rotation=None, widths=(4, 9)):
    """In place of `bounds.learn`, which of so few vectors makes nothing."""
    if rotation is None:
        rotation = np.linalg.eigh(vectors.T.astype(float) @ vectors)[1][:, ::-1]
    return rotation[:, : widths[-1] - 1], list(widths)


def made(folder, vectors, rotation=None, widths=(4, 9)):
    """Returns bounds of vectors by this rotation, or one that is learned."""
    with mock.patch.object(bounds, "learn", lambda vectors: rotated(vectors, rotation, widths)):
        bounds.write(folder / "made.bounds", vectors)
    return bounds.read(folder / "made.bounds", vectors)


def check(known, query, vectors, k, rows=None):
    """The same as without bounds, bit for bit, and as a loop in float64 finds."""
    kept, queries = known.narrow(query, vectors, k, rows).rows, query[np.newaxis]
    assert kept is not None and (np.diff(kept) > 0).all()
    plain = top_k(queries, vectors, k, gallery_rows=rows)
    narrowed = top_k(queries, vectors, k, gallery_rows=kept)
    np.testing.assert_array_equal(narrowed[0], plain[0])
    np.testing.assert_array_equal(narrowed[1], plain[1])
    allowed = range(len(vectors)) if rows is None else rows
    exact = (float(vectors[row].astype(float) @ query.astype(float)) for row in allowed)
    largest = np.linalg.norm(vectors, axis=1).max() * np.linalg.norm(query)
    best = sorted(exact, reverse=True)[:k]
    np.testing.assert_allclose(narrowed[0][0], best, atol=1e-6 * largest)
    return kept


@settings(max_examples=60, deadline=None)
@given(
    make=st.sampled_from([embeddings, whole, in_the_tail, of_many_lengths]),
    seed=st.integers(0, 2**32 - 1),
    k=st.integers(1, 5),
    widths=st.sampled_from([(2,), (3, 8), (2, 5, 20)]),
    axes=st.booleans(),
    part=st.sampled_from([None, 0.6, 0.9]),
    later=st.sampled_from([0, 1, 40]),
)
def test_nothing_among_the_best_is_left_out(
    tmp_path_factory, make, seed, k, widths, axes, part, later
):
    rng = np.random.default_rng(seed)
    vectors = make(rng, ROWS + later)
    rotation = np.eye(SIZE) if axes else None
    known = made(tmp_path_factory.mktemp("bounds"), vectors[:ROWS], rotation, widths)
    rows = None if part is None else np.flatnonzero(rng.random(len(vectors)) < part)
    queries = make(rng, 20)
    query = queries[np.linalg.norm(queries, axis=1) > 0][0]
    check(known, query, vectors, k, rows)


def test_few_are_left_of_embeddings(tmp_path):
    rng = np.random.default_rng(0)
    vectors = embeddings(rng, 20_000, 128)
    known = made(tmp_path, vectors, widths=(32, 64))
    (asked,) = embeddings(rng, 1, 128)
    assert len(check(known, asked, vectors, 10)) < 400
    narrowed = known.narrow(asked, vectors, 10)
    assert 20_000 * 32 * 4 <= narrowed.read < 0.5 * vectors.nbytes


def test_learns_widths_of_embeddings_and_none_where_no_number_tells_more():
    rng = np.random.default_rng(0)
    with mock.patch.object(bounds, "_COST_MAX", 0.6):
        rotation, widths = bounds.learn(embeddings(rng, 2000, 128))
        assert widths and widths[-1] < 128 and rotation.shape == (128, widths[-1] - 1)
        np.testing.assert_allclose(rotation.T @ rotation, np.eye(widths[-1] - 1), atol=1e-10)
        evenly = rng.standard_normal((2000, 128)).astype(np.float32)
        assert bounds.learn(evenly)[1] == []


def test_bounds_of_no_use_are_written_and_not_used(tmp_path):
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((ROWS, SIZE)).astype(np.float32)
    with mock.patch.object(bounds, "_COST_MAX", 0.6):
        bounds.write(tmp_path / "a.bounds", vectors)
    known = bounds.read(tmp_path / "a.bounds", vectors)
    assert known.stages == [] and known.rows == ROWS
    assert known.narrow(vectors[0], vectors, 3) == (None, 0)


@pytest.mark.parametrize("case", ["k", "few rows", "zero", "huge", "NaN", "cost"])
def test_what_bounds_cannot_help_is_left_to_the_search_of_all(tmp_path, case):
    rng = np.random.default_rng(0)
    vectors = whole(rng, ROWS)
    known, query, rows, k = made(tmp_path, vectors), vectors[0].copy(), None, 3
    if case == "k":
        k = ROWS
    elif case == "few rows":
        rows = np.arange(100)
    elif case == "cost":
        with mock.patch.object(bounds, "_COST_MAX", 0.01):
            assert known.narrow(query, vectors, k).rows is None
        return
    else:
        query[:] = {"zero": 0, "huge": 1e32, "NaN": np.nan}[case]
    assert known.narrow(query, vectors, k, rows) == (None, 0)


def test_files_that_are_not_of_these_vectors_are_not_used(tmp_path):
    rng = np.random.default_rng(0)
    vectors, path = embeddings(rng, ROWS), tmp_path / "made.bounds"
    assert made(tmp_path, vectors).rows == ROWS
    assert bounds.read(path, np.concatenate([vectors, vectors])).rows == ROWS
    assert bounds.read(path, vectors[:-1]) is None
    assert bounds.read(path, vectors[:, :-1]) is None
    assert bounds.read(path, vectors[::-1]) is None
    assert bounds.read(tmp_path / "none.bounds", vectors) is None
    written = path.read_bytes()
    header = json.loads(written[:4096].rstrip(b"\0"))
    wide = json.dumps({**header, "widths": [10**12]}).encode().ljust(4096, b"\0") + written[4096:]
    deep = b"[" * 4096 + written[4096:]
    random = os.urandom(len(written))
    for content in (b"", written[:-1], written + b"0", b"[]", random, b"{}", wide, deep):
        path.write_bytes(content)
        assert bounds.read(path, vectors) is None


def test_a_vector_without_a_bound_is_not_left_out(tmp_path):
    vectors = embeddings(np.random.default_rng(0), ROWS)
    query = vectors[5].copy()
    # Two that `read` does not look at.
    vectors[[5, 7]] = vectors[7], query
    known = made(tmp_path, vectors)
    known.stages = [stage.copy() for stage in known.stages]
    for stage in known.stages:
        stage[7] = np.nan
    assert 7 in known.narrow(query, vectors, 3).rows


def test_a_machine_that_fails_leaves_whole_files_alone(tmp_path):
    """All bytes are on the disk before the file has its name."""
    path, told = tmp_path / "made.bounds", []

    def noted(number):
        told.append((os.fstat(number).st_size, path.exists()))

    with mock.patch("os.fsync", noted):
        made(tmp_path, embeddings(np.random.default_rng(0), ROWS))
    assert told == [(path.stat().st_size, False)]


def answers(folder, queries, where=None):
    """What an engine that has just been opened finds, and how often bounds told what to score."""
    told, narrow = [], bounds.Bounds.narrow

    def noted(*arguments):
        told.append(narrow(*arguments))
        return told[-1]

    with open_engine(folder) as engine, mock.patch.object(bounds.Bounds, "narrow", noted):
        found = engine.search(queries, 5, where)
    return found, sum(narrowed.rows is not None for narrowed in told)


def check_folder(folder, queries, used=1):
    """The same answers with the file and without it, with filters and without."""
    paths = list(folder.glob("*.bounds"))
    for where in (None, Filter(("Dresses", "Denim")), Filter((), ("shop",))):
        with_bounds, told = answers(folder, queries, where)
        assert told == used
        for path in paths:
            path.rename(path.with_suffix(".away"))
        without, told = answers(folder, queries, where)
        for path in paths:
            path.with_suffix(".away").rename(path)
        assert told == 0 and with_bounds == without


def test_an_index_answers_as_without_them(tmp_path):
    rng = np.random.default_rng(0)
    vectors, queries = embeddings(rng, 3 * ROWS), embeddings(rng, 1)
    folder = tmp_path / "index"
    with (
        mock.patch.object(bounds, "learn", rotated),
        filled(str(folder), vectors[:ROWS]) as engine,
    ):
        engine.flush()
        (path,) = folder.glob("*.bounds")
        check_folder(folder, queries)
        # Later vectors, moved and removed ones.
        engine.upsert(records(200, ROWS), vectors[ROWS : ROWS + 200])
        engine.upsert(records(20), vectors[-20:])
        engine.delete([record.path for record in records(60, 100)])
        check_folder(folder, queries)
        # So few are not learned from.
        before = path.stat().st_mtime_ns
        engine.upsert(records(10, 2 * ROWS), vectors[2 * ROWS : 2 * ROWS + 10])
        engine.delete([record.path for record in records(5)])
        with mock.patch("fir_tf.search.engines.local._UNBOUND_MAX", 0.5):
            engine.flush()
        assert path.stat().st_mtime_ns == before
        engine.flush()
        assert path.stat().st_mtime_ns > before
        check_folder(folder, queries)
        # The file of vectors is written anew, and the bounds with it.
        engine.delete([record.path for record in records(400)])
        engine.flush()
        (path,) = folder.glob("*.bounds")
        assert path.name == "vectors-000001.bounds"
        check_folder(folder, queries)


def test_a_file_that_was_cut_off_or_removed_is_made_again(tmp_path):
    rng = np.random.default_rng(0)
    vectors, queries = embeddings(rng, ROWS), embeddings(rng, 1)
    with (
        mock.patch.object(bounds, "learn", rotated),
        filled(str(tmp_path / "index"), vectors) as engine,
    ):
        engine.flush()
        (path,) = (tmp_path / "index").glob("*.bounds")
        os.truncate(path, 9000)
        check_folder(tmp_path / "index", queries, used=0)
        engine.flush()
        check_folder(tmp_path / "index", queries)
        path.unlink()
        check_folder(tmp_path / "index", queries, used=0)
        engine.flush()
        check_folder(tmp_path / "index", queries)


def test_a_reader_takes_up_what_a_writer_learns(tmp_path):
    rng = np.random.default_rng(0)
    vectors, queries = embeddings(rng, 2 * ROWS), embeddings(rng, 1)
    folder = str(tmp_path / "index")
    with (
        mock.patch.object(bounds, "learn", rotated),
        filled(folder, vectors[:ROWS]) as writer,
        open_engine(folder) as reader,
    ):
        for count in (0, 0, ROWS):
            writer.upsert(records(count, ROWS), vectors[ROWS : ROWS + count])
            expected = writer.search(queries, 5)
            assert reader.search(queries, 5) == expected
            writer.flush()
            assert reader.search(queries, 5) == expected
            assert reader._bounds.rows == len(writer)


FAULTS = (OSError(28, "No space left"), MemoryError(), np.linalg.LinAlgError())


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
def test_what_keeps_bounds_from_being_written_costs_the_speed_only(tmp_path, fault):
    vectors = embeddings(np.random.default_rng(0), ROWS)
    with filled(str(tmp_path / "index"), vectors) as engine:
        with mock.patch.object(bounds, "write", side_effect=fault) as write:
            engine.flush()
        write.assert_called_once()
        # One of another file that cannot be removed.
        (tmp_path / "index" / "vectors-000009.bounds").mkdir()
        engine.flush()
        assert len(engine.search(vectors[:1], 3)[0]) == 3


def test_a_folder_without_the_right_to_write_uses_them(tmp_path):
    rng = np.random.default_rng(0)
    vectors, folder = embeddings(rng, ROWS), tmp_path / "index"
    with (
        mock.patch.object(bounds, "learn", rotated),
        filled(str(folder), vectors) as engine,
    ):
        engine.flush()
    with mock.patch("fir_tf.search.engines.local._writable", lambda path: False):
        check_folder(folder, embeddings(rng, 1))
    assert not list(folder.glob(".*"))
