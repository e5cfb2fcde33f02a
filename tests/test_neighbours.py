"""Exact search against NumPy and FAISS; ties, the query itself, bounded memory."""

from unittest import mock

import faiss
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fir_tf import neighbours, neighbours_graph
from fir_tf.errors import FirError
from fir_tf.neighbours import block_sizes, top_k


@pytest.fixture(scope="module", autouse=True, params=["graph", "numpy"])
def merging(request):
    """Each test once with what large searches are made by, once with what small ones are."""
    parts = {
        "graph": (neighbours_graph.block_of, neighbours_graph.merge),
        "numpy": (neighbours.plain_block, neighbours.merge_plainly),
    }
    with mock.patch.object(neighbours, "_merging", lambda _: parts[request.param]):
        yield


def unit(rng, rows, size):
    vectors = rng.standard_normal((rows, size), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def whole_numbers(rng, rows, size=3, largest=2):
    """Embeddings whose inner products are exact in float32 and often equal."""
    return rng.integers(-largest, largest + 1, (rows, size)).astype(np.float32)


def sorted_by_numpy(queries, gallery, k, query_ids=None, gallery_ids=None):
    """The oracle: the whole matrix, a stable sort, a loop."""
    scores = np.full((len(queries), k), -np.inf, np.float32)
    rows = np.full((len(queries), k), -1, np.int64)
    for number, query in enumerate(queries):
        products = gallery @ query
        order = [
            row
            for row in np.argsort(-products, kind="stable")
            if query_ids is None or query_ids[number] < 0 or query_ids[number] != gallery_ids[row]
        ][:k]
        rows[number, : len(order)] = order
        scores[number, : len(order)] = products[order]
    return scores, rows


def in_blocks(blocks, *arguments, **options):
    """`top_k` in blocks of so many queries and gallery rows, whatever would be chosen."""
    with mock.patch.object(neighbours, "block_sizes", lambda *_: blocks):
        return top_k(*arguments, **options)


@pytest.mark.parametrize("blocks", [(7, 64), (1, 5), (50, 33), (1000, 1000)])
def test_equals_a_stable_sort_with_ties(blocks):
    rng = np.random.default_rng(0)
    queries, gallery = whole_numbers(rng, 23), whole_numbers(rng, 150)
    scores, rows = in_blocks(blocks, queries, gallery, 40)
    expected = sorted_by_numpy(queries, gallery, 40)
    assert scores.dtype == np.float32 and rows.dtype == np.int64
    np.testing.assert_array_equal(scores, expected[0])
    np.testing.assert_array_equal(rows, expected[1])


@settings(max_examples=60, deadline=None)
@example(seed=0, queries=4, gallery=9, k=5, query_block=1, gallery_block=1, ids=True)
@given(
    seed=st.integers(0, 10**6),
    queries=st.integers(0, 9),
    gallery=st.integers(0, 70),
    k=st.integers(1, 80),
    query_block=st.integers(1, 10),
    gallery_block=st.integers(1, 80),
    ids=st.booleans(),
)
def test_any_shape_equals_numpy(seed, queries, gallery, k, query_block, gallery_block, ids):
    rng = np.random.default_rng(seed)
    queries, gallery = whole_numbers(rng, queries), whole_numbers(rng, gallery)
    if ids:
        ids = {
            "query_ids": rng.integers(-2, 6, len(queries)),
            "gallery_ids": rng.integers(-2, 6, len(gallery)),
        }
    else:
        ids = {}
    found = in_blocks((query_block, gallery_block), queries, gallery, k, **ids)
    expected = sorted_by_numpy(queries, gallery, k, *ids.values())
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


def test_agrees_with_faiss():
    rng = np.random.default_rng(1)
    queries, gallery = unit(rng, 300, 96), unit(rng, 5003, 96)
    index = faiss.IndexFlatIP(96)
    index.add(gallery)
    expected_scores, expected_rows = index.search(queries, 50)
    scores, rows = in_blocks((128, 2000), queries, gallery, 50)
    np.testing.assert_allclose(scores, expected_scores, atol=1e-6)
    # Two scores closer than float32 can tell may change places.
    assert (rows == expected_rows).mean() > 0.999


def test_equal_photos_are_found_in_order():
    """The same photo many times over: equal rows get equal scores, wherever they stand."""
    rng = np.random.default_rng(2)
    originals = unit(rng, 5, 100)
    pick = rng.integers(0, 5, 3001)
    queries = unit(rng, 9, 100)
    _, rows = in_blocks((9, 700), queries, originals[pick], 30)
    best = (queries @ originals.T).argmax(axis=1)
    for number in range(len(queries)):
        np.testing.assert_array_equal(rows[number], np.flatnonzero(pick == best[number])[:30])


@pytest.mark.parametrize("size", [100, 512, 1280])
@pytest.mark.parametrize("count", [5, 9, 16, 300])
def test_equal_rows_get_equal_scores_wherever_they_stand(size, count):
    rng = np.random.default_rng(2)
    for rows in (7, 201, 700, 3001):
        scores, found = top_k(unit(rng, count, size), np.repeat(unit(rng, 1, size), rows, 0), 7)
        np.testing.assert_array_equal(found, np.tile(np.arange(7), (count, 1)))
        assert (scores == scores[:, :1]).all()


def test_the_query_itself_is_left_out():
    rng = np.random.default_rng(3)
    gallery = unit(rng, 200, 16)
    ids = np.arange(200)
    scores, rows = top_k(gallery, gallery, 1)
    np.testing.assert_array_equal(rows[:, 0], ids)
    scores, rows = in_blocks((200, 64), gallery, gallery, 200, query_ids=ids, gallery_ids=ids)
    assert not (rows == ids[:, np.newaxis]).any()
    # 199 others, then nothing.
    assert (rows[:, :199] >= 0).all() and (rows[:, 199] == -1).all()
    assert (scores[:, 199] == -np.inf).all() and np.isfinite(scores[:, :199]).all()


def test_negative_ids_leave_nothing_out():
    gallery = np.eye(4, dtype=np.float32)
    _, rows = top_k(gallery, gallery, 1, query_ids=[-1] * 4, gallery_ids=[-1] * 4)
    np.testing.assert_array_equal(rows[:, 0], np.arange(4))


def test_empty_sides():
    some, none = np.ones((3, 4), np.float32), np.ones((0, 4), np.float32)
    scores, rows = top_k(some, none, 2)
    assert (rows == -1).all() and (scores == -np.inf).all() and rows.shape == (3, 2)
    scores, rows = top_k(none, some, 2)
    assert scores.shape == rows.shape == (0, 2)
    assert block_sizes(0, 0, 4, 2) == (1, 1)


def test_other_float_types_and_a_file(tmp_path):
    rng = np.random.default_rng(4)
    queries, gallery = whole_numbers(rng, 5), whole_numbers(rng, 90)
    gallery.tofile(tmp_path / "gallery")
    on_disk = np.memmap(tmp_path / "gallery", np.float32, "r", shape=gallery.shape)
    expected = top_k(queries, gallery, 10)[1]
    for same in (on_disk, gallery.astype(np.float16), gallery.astype(np.float64)):
        np.testing.assert_array_equal(top_k(queries, same, 10)[1], expected)
    backwards = gallery[::-1]
    np.testing.assert_array_equal(
        top_k(queries, backwards, 10)[1], top_k(queries, backwards.copy(), 10)[1]
    )


@settings(max_examples=200, deadline=None)
@given(
    queries=st.integers(0, 10**6),
    gallery=st.integers(0, 10**8),
    size=st.integers(1, 4096),
    k=st.integers(1, 10**4),
    megabytes=st.integers(8, 4096),
)
def test_blocks_stay_within_the_budget(queries, gallery, size, k, megabytes):
    memory = megabytes * 2**20
    query_block, gallery_block = block_sizes(queries, gallery, size, k, memory)
    assert 1 <= query_block <= max(1, queries) and 1 <= gallery_block <= max(1, gallery)
    # Scores, a masked copy and the mask; both blocks twice; the candidates twice.
    needed = 9 * query_block * gallery_block + 8 * size * (query_block + gallery_block)
    needed += 24 * query_block * k
    assert needed <= memory or query_block == 1


def peak_growth(call):
    """Bytes by which the process's resident set grew at most during a call."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        pytest.skip("the peak of the resident set cannot be reset here")

    def status(name):
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))

    before = status("VmRSS")
    call()
    return status("VmHWM") - before


@pytest.mark.parametrize("with_ids", [False, True])
def test_the_score_matrix_is_never_built(with_ids):
    rng = np.random.default_rng(5)
    queries, gallery = unit(rng, 3000, 8), unit(rng, 60_000, 8)
    ids = {"query_ids": np.arange(3000), "gallery_ids": np.arange(60_000)} if with_ids else {}
    top_k(queries[:10], gallery[:100], 5)
    memory = 32 * 2**20
    growth = peak_growth(lambda: top_k(queries, gallery, 5, memory=memory, **ids))
    # The whole matrix would take 720 MB. Allocators keep freed blocks, hence twice the budget.
    assert growth < 2 * memory + 30 * 2**20


def test_blocks_do_not_retrace():
    rng = np.random.default_rng(6)
    top_k(unit(rng, 9, 8), unit(rng, 90, 8), 5)
    before = neighbours_graph._merge.experimental_get_tracing_count()
    for queries, gallery, size, k in [(1, 7, 3, 2), (30, 1000, 16, 40), (4, 93, 8, 93)]:
        in_blocks((9, 70), unit(rng, queries, size), unit(rng, gallery, size), k)
    assert neighbours_graph._merge.experimental_get_tracing_count() == before


def test_bad_input_is_told():
    good = np.ones((3, 4), np.float32)
    with pytest.raises(FirError, match=r"`queries`.* d = 4 of `gallery`. Received: shape \(3, 2\)"):
        top_k(good[:, :2], good, 1)
    with pytest.raises(FirError, match=r"`gallery` must be a float array.*type int64"):
        top_k(good, good.astype(np.int64), 1)
    with pytest.raises(FirError, match=r"`gallery` must be a float array.*shape \(4,\)"):
        top_k(good, good[0], 1)
    for k in (0, -3, 1.5, True, None):
        with pytest.raises(FirError, match="`k` must be a whole number"):
            top_k(good, good, k)
    with pytest.raises(FirError, match="given together.*gallery_ids=None"):
        top_k(good, good, 1, query_ids=[1, 2, 3])
    with pytest.raises(FirError, match=r"`query_ids` must be an integer array of shape \[3\]"):
        top_k(good, good, 1, query_ids=[1, 2], gallery_ids=[1, 2, 3])
    with pytest.raises(FirError, match="`gallery_ids` must be an integer array.*float64"):
        top_k(good, good, 1, query_ids=[1, 2, 3], gallery_ids=[1.0, 2.0, 3.0])
    for value in (np.nan, np.inf, -np.inf):
        bad = good.copy()
        bad[1, 2] = bad[2, 0] = value
        with pytest.raises(FirError, match="`gallery`.* in 2 of 3 rows, the first is row 1"):
            top_k(good, bad, 1)
        with pytest.raises(FirError, match="`queries`.* in 2 of 3 rows"):
            top_k(bad, good, 1)
    with pytest.raises(FirError, match="L2-normalise"):
        top_k(good * 1e30, good * 1e30, 1)
