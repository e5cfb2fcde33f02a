"""Every metric against plain loops and scikit-learn, and the rules around them."""

import doctest
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, top_k_accuracy_score
from test_neighbours import peak_growth, unit, whole_numbers

from fir_tf.errors import FirError
from fir_tf.evaluation import metrics
from fir_tf.evaluation.metrics import (
    average_precision_at_r,
    classification_accuracy,
    classification_protocol,
    r_precision,
    recall_at_k,
    retrieval_metrics,
)
from fir_tf.evaluation.paper import PAPER_RESULTS

KS = (1, 2, 5, 10)


def test_worked_examples():
    assert doctest.testmod(metrics).failed == 0
    assert doctest.testmod(metrics).attempted >= 10


def by_hand(queries, gallery, query_items, gallery_items, query_ids, gallery_ids, ks, unmatched):
    """The definitions as loops over one query at a time."""
    collected = {f"recall@{k}": [] for k in ks} | {"mAP@R": [], "R-precision": []}
    for query, item, image in zip(queries, query_items, query_ids, strict=True):
        if item < 0:
            continue
        others = [
            (-float(row @ query), place)
            for place, row in enumerate(gallery)
            if image < 0 or gallery_ids[place] != image
        ]
        hits = [gallery_items[place] == item for _, place in sorted(others)]
        total = sum(hits)
        if not total and unmatched == "exclude":
            continue
        for k in ks:
            collected[f"recall@{k}"].append(1.0 if True in hits[:k] else 0.0)
        found, precisions = 0, 0.0
        for rank, hit in enumerate(hits[:total], 1):
            if hit:
                found += 1
                precisions += found / rank
        collected["mAP@R"].append(precisions / total if total else 0.0)
        collected["R-precision"].append(found / total if total else 0.0)
    return {name: sum(v) / len(v) for name, v in collected.items() if v}


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    queries=st.integers(0, 12),
    gallery=st.integers(0, 40),
    items=st.integers(1, 8),
    unmatched=st.sampled_from(["exclude", "wrong"]),
    ids=st.booleans(),
)
def test_equals_the_definitions(seed, queries, gallery, items, unmatched, ids):
    """Ties, distractors, unknown queries, images met again: all at once, on exact numbers."""
    rng = np.random.default_rng(seed)
    queries, gallery = whole_numbers(rng, queries), whole_numbers(rng, gallery)
    query_items = rng.integers(-1, items, len(queries))
    gallery_items = rng.integers(-1, items + 2, len(gallery))
    query_ids = rng.integers(-1, 9, len(queries)) if ids else np.full(len(queries), -1)
    gallery_ids = rng.integers(-1, 9, len(gallery)) if ids else np.full(len(gallery), -1)
    given_ids = {"query_ids": query_ids, "gallery_ids": gallery_ids} if ids else {}
    result = retrieval_metrics(
        queries, gallery, query_items, gallery_items, ks=KS, unmatched=unmatched, **given_ids
    )
    expected = by_hand(
        queries, gallery, query_items, gallery_items, query_ids, gallery_ids, KS, unmatched
    )
    assert list(result.values) == list(expected)
    assert result.values == pytest.approx(expected, abs=1e-12)
    assert result.protocol["queries_evaluated"] == result.evaluated.sum()
    assert result.neighbours.shape == result.scores.shape == (len(queries), max(KS))


def photos(seed=0, items=30, views=4, size=16, noise=0.6):
    """Embeddings of items scattered around their centres; (embeddings, item labels)."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(items), views)
    vectors = unit(rng, items, size)[labels] + noise * unit(rng, len(labels), size)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), labels


def test_recall_grows_with_k_and_names_are_the_papers():
    vectors, items = photos()
    result = retrieval_metrics(vectors[::4], vectors[1::4], items[::4], items[1::4])
    names = [f"recall@{k}" for k in (1, 5, 10, 20, 30, 40, 50)]
    assert list(result.values) == [*names, "mAP@R", "R-precision"]
    recalls = [result.values[name] for name in names]
    assert recalls == sorted(recalls) and 0 < recalls[0] < 1
    assert recalls[-1] == 1.0


def test_order_of_the_gallery_does_not_matter():
    vectors, items = photos(1)
    order = np.random.default_rng(0).permutation(len(vectors))
    ids = np.arange(len(vectors))
    plain = retrieval_metrics(vectors, vectors, items, items, query_ids=ids, gallery_ids=ids)
    mixed = retrieval_metrics(
        vectors, vectors[order], items, items[order], query_ids=ids, gallery_ids=ids[order]
    )
    assert mixed.values == pytest.approx(plain.values, abs=1e-12)
    kept = plain.neighbours >= 0
    np.testing.assert_array_equal(order[mixed.neighbours[kept]], plain.neighbours[kept])


def test_perfect_and_hopeless():
    gallery = np.repeat(np.eye(4, dtype=np.float32), 3, axis=0)
    items = np.repeat(np.arange(4), 3)
    perfect = retrieval_metrics(np.eye(4), gallery, np.arange(4), items)
    assert set(perfect.values.values()) == {1.0}
    hopeless = retrieval_metrics(-np.eye(4), gallery, np.arange(4), items, ks=(1, 9))
    assert set(hopeless.values.values()) == {0.0}
    assert retrieval_metrics(-np.eye(4), gallery, np.arange(4), items).values["recall@10"] == 1.0


def test_average_precision_against_scikit_learn():
    """AP@R is the average precision of the first R ranks, times the share of R found there."""
    rng = np.random.default_rng(7)
    for _ in range(20):
        correct = rng.random(12) < 0.4
        total = max(1, correct.sum())
        cut = correct & (np.arange(12) < total)
        expected = 0.0
        if cut.any():
            expected = average_precision_score(cut, -np.arange(12)) * cut.sum() / total
        got = average_precision_at_r(correct[np.newaxis], np.array([total]))[0]
        assert got == pytest.approx(expected)


def test_the_query_photo_does_not_count_as_its_own_match():
    vectors, items = photos(2, views=2)
    ids = np.arange(len(vectors))
    with_itself = retrieval_metrics(vectors, vectors, items, items)
    without = retrieval_metrics(vectors, vectors, items, items, query_ids=ids, gallery_ids=ids)
    assert with_itself.values["recall@1"] == 1.0 and with_itself.relevant.tolist() == [2] * 60
    assert without.values["recall@1"] < 1.0 and without.relevant.tolist() == [1] * 60
    assert without.protocol["queries_in_gallery"] == 60
    assert with_itself.protocol["queries_in_gallery"] == 0
    assert "left out" in without.protocol["self_match"]
    assert "no image ids" in with_itself.protocol["self_match"]


def test_queries_without_match_and_of_unknown_item():
    gallery = np.eye(4, dtype=np.float32)
    queries = gallery[[0, 1, 2]]
    arguments = queries, gallery, [5, 6, -1], [5, 7, 8, -1]
    excluded = retrieval_metrics(*arguments, ks=1)
    assert excluded.values == {"recall@1": 1.0, "mAP@R": 1.0, "R-precision": 1.0}
    assert excluded.evaluated.tolist() == [True, False, False]
    wrong = retrieval_metrics(*arguments, ks=1, unmatched="wrong")
    assert wrong.values == {"recall@1": 0.5, "mAP@R": 0.5, "R-precision": 0.5}
    assert wrong.evaluated.tolist() == [True, True, False]
    for result, rule in ((excluded, "left out of the means"), (wrong, "scored 0")):
        counts = {
            "queries": 3,
            "queries_without_match": 1,
            "queries_of_unknown_item": 1,
            "gallery_images": 4,
            "gallery_items": 3,
            "gallery_images_of_unknown_item": 1,
        }
        assert counts.items() <= result.protocol.items()
        assert rule in result.protocol["unmatched"]
        # A query of unknown item still has neighbours to look at, and a distractor is no match.
        assert result.neighbours[2, 0] == 2 and not result.correct[2].any()


def test_nothing_to_average_leaves_values_empty():
    gallery = np.eye(3, dtype=np.float32)
    for queries, items in ((gallery[:0], []), (gallery, [7, 8, -1])):
        result = retrieval_metrics(queries, gallery, items, [0, 1, 2])
        assert result.values == {} and result.protocol["queries_evaluated"] == 0
    result = retrieval_metrics(gallery, gallery[:0], [0, 1, 2], [], ks=(1, 3))
    assert result.values == {} and (result.neighbours == -1).all()
    result = retrieval_metrics(gallery, gallery[:0], [0, 1, 2], [], unmatched="wrong", ks=(1,))
    assert result.values == {"recall@1": 0.0, "mAP@R": 0.0, "R-precision": 0.0}


def test_r_may_be_larger_than_every_k():
    vectors, items = photos(3, items=3, views=40, noise=2.0)
    ids = np.arange(len(vectors))
    found = {}
    for memory in (2**16, 2**28):
        found[memory] = retrieval_metrics(
            vectors,
            vectors,
            items,
            items,
            query_ids=ids,
            gallery_ids=ids,
            ks=(1, 5),
            memory=memory,
        )
    expected = by_hand(vectors, vectors, items, items, ids, ids, (1, 5), "exclude")
    assert found[2**28].values == pytest.approx(expected, abs=1e-9)
    assert found[2**16].values == pytest.approx(expected, abs=1e-9)
    assert found[2**16].neighbours.shape == (120, 5) and (found[2**28].relevant == 39).all()


@pytest.mark.slow
def test_memory_stays_bounded_with_many_matches():
    """R = 5,000 for 2,000 queries: their neighbours alone would take 720 MB at once."""
    rng = np.random.default_rng(8)
    queries, gallery = unit(rng, 2000, 4), unit(rng, 5000, 4)
    items = np.zeros(5000, np.int64)
    memory = 48 * 2**20
    retrieval_metrics(queries[:5], gallery[:50], items[:5], items[:50])
    growth = peak_growth(
        lambda: retrieval_metrics(queries, gallery, items[:2000], items, ks=(1,), memory=memory)
    )
    assert growth < 3 * memory


def test_protocol_is_told_and_is_json():
    vectors, items = photos(4)
    result = retrieval_metrics(vectors, vectors, items, items)
    assert json.loads(json.dumps(result.protocol, allow_nan=False)) == result.protocol
    text = result.describe()
    for told in (
        "cosine",
        "not limited to the query's category",
        "lower gallery row",
        "120",
        "without a match",
        "the paper's top-k accuracy",
        "Musgrave",
    ):
        assert told in text
    assert len(text.splitlines()) == len(result.protocol)
    longer = retrieval_metrics(2 * vectors, vectors, items, items)
    assert "not cosine" in longer.protocol["similarity"]


def test_bad_input_is_told():
    vectors, items = photos()
    few = np.ones((3, 64), np.float32)
    with pytest.raises(
        FirError,
        match=r"`query_embeddings` must be a float array of shape \[q, d\] with the d = 16 of "
        r"`gallery_embeddings`. Received: shape \(3, 64\)",
    ):
        retrieval_metrics(few, vectors, items[:3], items)
    broken = vectors.copy()
    broken[[4, 9], 3] = np.nan
    for queries, gallery, name in ((broken, vectors, "query"), (vectors, broken, "gallery")):
        with pytest.raises(FirError, match=f"`{name}_embeddings`.*2 of 120 rows.*first is row 4"):
            retrieval_metrics(queries, gallery, items, items)
    with pytest.raises(FirError, match=r"`gallery_items` must be .* \[120\]. Received: shape"):
        retrieval_metrics(vectors, vectors, items, items[:5])
    with pytest.raises(FirError, match="`query_items` must be an integer array.*float64"):
        retrieval_metrics(vectors, vectors, items.astype(float), items)
    with pytest.raises(FirError, match="`unmatched` must be.*'skip'"):
        retrieval_metrics(vectors, vectors, items, items, unmatched="skip")
    for ks in ((), (0, 1), (1.5,)):
        with pytest.raises(FirError, match="`ks`"):
            retrieval_metrics(vectors, vectors, items, items, ks=ks)
    with pytest.raises(FirError, match="`correct` must reach to rank R = 5"):
        r_precision(np.ones((1, 3), bool), [5])


def test_recall_beyond_the_results_counts_what_is_there():
    correct = np.array([[False, True], [False, False]])
    np.testing.assert_array_equal(recall_at_k(correct, 50), [1, 0])


@pytest.mark.parametrize("k", [1, 3, 5, 9])
def test_classification_against_scikit_learn(k):
    rng = np.random.default_rng(k)
    scores, categories = rng.random((200, 10)), rng.integers(0, 10, 200)
    found = classification_accuracy(scores, categories, ks=(k,))
    expected = top_k_accuracy_score(categories, scores, k=k, labels=np.arange(10))
    assert found == {f"category_top{k}": pytest.approx(expected)}


def test_classification_ties_and_unknown():
    scores = np.array([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]], np.float32)
    assert classification_accuracy(scores, [0, 0, -1])["category_top1"] == 1.0
    assert classification_accuracy(scores, [1, 1, -1])["category_top1"] == 0.0
    assert classification_accuracy(scores, [1, 1, 1]) == {
        "category_top1": 0.0,
        "category_top3": 1.0,
        "category_top5": 1.0,
    }
    assert classification_accuracy(scores, [-1, -1, -1]) == {}
    assert classification_accuracy(np.ones((0, 4)), []) == {}
    assert classification_protocol([1, -1, -1])["images_of_unknown_category"] == 2


def test_classification_bad_input_is_told():
    scores = np.ones((3, 4))
    with pytest.raises(FirError, match="below the number of scores, 4. Received: 4"):
        classification_accuracy(scores, [0, 4, -1])
    with pytest.raises(FirError, match=r"`categories` must be .* \[3\]"):
        classification_accuracy(scores, [0, 1])
    scores[1, 1] = np.nan
    with pytest.raises(FirError, match="NaN in 1 of 2 rows"):
        classification_accuracy(scores, [0, 1, -1])


def test_paper_numbers():
    """The two claims of the paper hold in its own numbers, and the keys are ours."""
    rows = {(row.dataset, row.name): row for row in PAPER_RESULTS}
    assert len(rows) == len(PAPER_RESULTS) == 14
    for backbone in ("ResNet50", "DenseNet121"):
        category, same_category, same_item = (
            rows["inshop", f"{backbone} {losses}"].values for losses in ("OC", "OC+OS", "OC+IS")
        )
        for name in ("recall@5", "recall@20"):
            assert same_category[name] < category[name] < same_item[name]
    assert rows["inshop", "ResNet50 OC+IS"].values == {"recall@5": 0.826, "recall@20": 0.905}
    assert rows["category", "SEResNeXt50 OC"].values == {
        "category_top3": 0.8842,
        "category_top5": 0.9393,
    }
    assert all(0 < value < 1 for row in PAPER_RESULTS for value in row.values.values())
