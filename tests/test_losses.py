"""The losses against plain Python loops, in both precisions, eager and compiled."""

import itertools
import math
import re

import numpy as np
import pytest
import tensorflow as tf
from objectives import make_objective

from fir_tf.config import Config
from fir_tf.errors import FirError
from fir_tf.losses.softmax import cross_entropy
from fir_tf.losses.triplet import explicit_triplet_loss, mined_triplet_loss, squared_distances

MARGIN = 0.3
DTYPES = [tf.float32, tf.bfloat16]


def unit_rows(count, width, seed, clusters=None):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(count, width))
    if clusters is not None:
        values = rng.normal(size=(max(clusters) + 2, width))[clusters] + 0.4 * values
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def distance(a, b):
    return sum((float(x) - float(y)) ** 2 for x, y in zip(a, b, strict=True))


def triplets_of(labels):
    """Every (anchor, positive, negative), by the definition."""
    rows = [row for row, label in enumerate(labels) if label >= 0]
    for a, p, n in itertools.product(rows, rows, rows):
        if a != p and labels[a] == labels[p] and labels[a] != labels[n]:
            yield a, p, n


def expected_all(points, labels):
    terms = [
        max(0.0, MARGIN + distance(points[a], points[p]) - distance(points[a], points[n]))
        for a, p, n in triplets_of(labels)
    ]
    active = [term for term in terms if term > 0]
    return sum(active) / len(active) if active else 0.0, len(active) / len(terms) if terms else 0.0


def expected_semihard(points, labels):
    terms = []
    for a, p in sorted({(a, p) for a, p, _ in triplets_of(labels)}):
        near = distance(points[a], points[p])
        far = [
            distance(points[a], points[n])
            for n in range(len(labels))
            if labels[n] >= 0 and labels[n] != labels[a]
        ]
        beyond = [value for value in far if value > near]
        terms.append(max(0.0, MARGIN + near - (min(beyond) if beyond else max(far))))
    share = sum(term > 0 for term in terms) / len(terms) if terms else 0.0
    return sum(terms) / len(terms) if terms else 0.0, share


def expected_hard(points, labels):
    terms = []
    found = list(triplets_of(labels))
    for a in sorted({a for a, _, _ in found}):
        far = max(distance(points[a], points[p]) for b, p, _ in found if b == a)
        near = min(distance(points[a], points[n]) for b, _, n in found if b == a)
        terms.append(max(0.0, MARGIN + far - near))
    share = sum(term > 0 for term in terms) / len(terms) if terms else 0.0
    return sum(terms) / len(terms) if terms else 0.0, share


def soft(gap):
    return math.log1p(math.exp(gap))


def expected_soft(miner, points, labels):
    """Mean of the soft margin over the triplets of a miner, and how many have p beyond n."""
    found = [
        (a, p, distance(points[a], points[p]), distance(points[a], points[n]))
        for a, p, n in triplets_of(labels)
    ]
    gaps = []
    if miner == "all":
        gaps = [near - far for *_, near, far in found]
    elif miner == "hard":
        for anchor in {a for a, *_ in found}:
            own = [(near, far) for a, _, near, far in found if a == anchor]
            gaps.append(max(near for near, _ in own) - min(far for _, far in own))
    else:
        for pair in {(a, p) for a, p, *_ in found}:
            near = next(near for a, p, near, _ in found if (a, p) == pair)
            far = [far for a, p, _, far in found if (a, p) == pair]
            gaps.append(near - min([d for d in far if d > near] or [max(far)]))
    count = max(1, len(gaps))
    return sum(map(soft, gaps)) / count, sum(gap > 0 for gap in gaps) / count


EXPECTED = {"all": expected_all, "semihard": expected_semihard, "hard": expected_hard}
LABELS = {
    "pk": [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3],
    "uneven": [0, 1, 1, 2, 2, 2, 2, 3, 4, 4],
    "unknown": [-1, 0, 0, -1, 1, 1, -1, 2, 0],
    "one label": [5, 5, 5, 5],
    "no pair": [0, 1, 2, 3],
    "nothing known": [-1, -1, -1],
}


@pytest.mark.parametrize("miner", EXPECTED)
@pytest.mark.parametrize("name", LABELS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "graph"])
def test_miner_equals_the_loops(miner, name, dtype, compiled):
    labels = LABELS[name]
    points = tf.cast(unit_rows(len(labels), 6, 3, np.array(labels) + 1), dtype)
    function = tf.function(mined_triplet_loss) if compiled else mined_triplet_loss
    result = function(points, tf.constant(labels), MARGIN, miner)
    # The loops see the values after rounding to `dtype`, so one tolerance serves both.
    loss, active = EXPECTED[miner](tf.cast(points, tf.float32).numpy(), labels)
    assert result.loss.dtype == tf.float32
    np.testing.assert_allclose(result.loss, loss, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(result.active, active, atol=1e-6)


@pytest.mark.parametrize("miner", EXPECTED)
@pytest.mark.parametrize(("name", "xla"), [*((name, False) for name in LABELS), ("unknown", True)])
def test_soft_margin_equals_the_loops(miner, name, xla):
    """And its gradient, by central differences along three directions."""
    labels = LABELS[name]
    points = unit_rows(len(labels), 6, 3, np.array(labels) + 1)

    def both(points):
        with tf.GradientTape() as tape:
            tape.watch(points)
            result = mined_triplet_loss(points, tf.constant(labels), None, miner)
        return result.loss, result.active, tape.gradient(result.loss, points)

    if xla:
        both = tf.function(both, jit_compile=True, autograph=False)
    loss, active, gradient = both(tf.constant(points))
    expected = expected_soft(miner, points, labels)
    np.testing.assert_allclose([loss, active], expected, rtol=2e-5, atol=2e-6)
    for direction in np.random.default_rng(0).normal(size=(3, *points.shape)):
        ends = [
            expected_soft(miner, points + step * direction, labels)[0] for step in (1e-5, -1e-5)
        ]
        slope = float((gradient.numpy() * direction).sum())
        assert slope == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-3, abs=1e-5)


def test_soft_margin_of_many_positives():
    """More of them than the other way of "all" goes through one by one."""
    labels = [0] * 40 + [1] * 5
    points = unit_rows(45, 4, 8)
    result = mined_triplet_loss(points, tf.constant(labels), None, "all")
    loss, active = expected_soft("all", points, labels)
    assert float(result.loss) == pytest.approx(loss, rel=2e-5)
    assert float(result.active) == pytest.approx(active, rel=1e-5)


@pytest.mark.parametrize("miner", [*EXPECTED, "explicit"])
def test_triplets_on_features(miner):
    """As they are, not of unit length; two of them fall together."""
    labels = [0, 0, 1, 1, 2, 2] if miner != "explicit" else [0, 1, 0, 1, 1, 0]
    points = 3 * np.random.default_rng(2).normal(size=(6, 4)).astype(np.float32)
    points[1] = points[0] if miner != "explicit" else points[3]
    classified = np.ones(6, bool) if miner != "explicit" else np.array([1, 1, 0, 0, 0, 0], bool)
    objective = make_objective("triplet(soft=true, on=features):item", classified, triplets=miner)
    assert objective.outputs == ("features",)
    variable = tf.Variable(points)
    with tf.GradientTape() as tape:
        outputs = {"features": variable, "embedding": tf.zeros((6, 2))}
        total, _ = objective(outputs, {"item": tf.constant(labels)})
    if miner == "explicit":
        rows = [(0, 2, 4), (1, 3, 5)]
        gaps = [distance(points[a], points[p]) - distance(points[a], points[n]) for a, p, n in rows]
        expected = sum(map(soft, gaps)) / 2
    else:
        expected, _ = expected_soft(miner, points, labels)
    assert float(total) == pytest.approx(expected, rel=1e-4)
    gradient = tape.gradient(total, variable).numpy()
    assert np.isfinite(gradient).all() and gradient.any()


@pytest.mark.parametrize("miner", EXPECTED)
def test_miner_gradient_equals_differences(miner):
    labels = LABELS["uneven"]
    points = unit_rows(len(labels), 4, 1, np.array(labels)).astype(np.float64)
    variable = tf.Variable(points.astype(np.float32))
    with tf.GradientTape() as tape:
        loss = mined_triplet_loss(variable, tf.constant(labels), MARGIN, miner).loss
    gradient = tape.gradient(loss, variable).numpy()
    step = 1e-6
    for row, column in [(0, 0), (1, 2), (4, 1), (7, 3), (9, 0)]:
        ends = []
        for sign in (1, -1):
            moved = points.copy()
            moved[row, column] += sign * step
            ends.append(EXPECTED[miner](moved, labels)[0])
        assert gradient[row, column] == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=2e-4)


@pytest.mark.parametrize("margin", [MARGIN, None], ids=["margin", "soft"])
@pytest.mark.parametrize("miner", EXPECTED)
def test_gradients_are_finite_where_all_points_are_one(miner, margin):
    variable = tf.Variable(np.tile(unit_rows(1, 5, 0), (6, 1)))
    with tf.GradientTape() as tape:
        result = mined_triplet_loss(variable, tf.constant([0, 0, 0, 1, 1, 1]), margin, miner)
    assert np.isfinite(tape.gradient(result.loss, variable).numpy()).all()
    assert float(result.loss) == pytest.approx(margin or math.log(2), abs=1e-6)
    assert float(result.positive_distance) == 0.0


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "graph"])
def test_explicit_equals_the_loop(dtype, compiled):
    a, p, n = (tf.cast(unit_rows(5, 4, seed), dtype) for seed in (1, 2, 3))
    valid = [True, True, False, True, True]
    function = tf.function(explicit_triplet_loss) if compiled else explicit_triplet_loss
    result = function(a, p, n, tf.constant(valid), MARGIN)
    rows = [tf.cast(value, tf.float32).numpy() for value in (a, p, n)]
    terms = [
        max(0.0, MARGIN + distance(rows[0][i], rows[1][i]) - distance(rows[0][i], rows[2][i]))
        for i in range(5)
        if valid[i]
    ]
    np.testing.assert_allclose(result.loss, sum(terms) / 4, rtol=1e-5)
    np.testing.assert_allclose(result.active, sum(term > 0 for term in terms) / 4)


def test_explicit_pulls_the_positive_near():
    """The sign of the term: a step against the gradient lowers the distance to the positive."""
    a, p, n = (tf.Variable(unit_rows(4, 4, seed)) for seed in (1, 2, 3))
    with tf.GradientTape() as tape:
        loss = explicit_triplet_loss(a, p, n, tf.ones(4, tf.bool), 5.0).loss
    moved = a - 0.01 * tape.gradient(loss, a)
    before = sum(distance(x, y) for x, y in zip(a.numpy(), p.numpy(), strict=True))
    after = sum(distance(x, y) for x, y in zip(moved.numpy(), p.numpy(), strict=True))
    far_before = sum(distance(x, y) for x, y in zip(a.numpy(), n.numpy(), strict=True))
    far_after = sum(distance(x, y) for x, y in zip(moved.numpy(), n.numpy(), strict=True))
    assert after - far_after < before - far_before


def test_squared_distances_equal_the_loop():
    points = unit_rows(7, 3, 5)
    expected = [[distance(a, b) for b in points] for a in points]
    np.testing.assert_allclose(squared_distances(points), expected, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
def test_classification_leaves_out_unknown_and_masked(dtype):
    logits = tf.cast(np.random.default_rng(0).normal(size=(5, 3)) * 3, dtype)
    category, mask = [0, -1, 2, 1, 2], [True, True, True, False, True]
    objective = make_objective("OC", mask)
    total, parts = objective({"logits": logits}, {"category": tf.constant(category)})
    loss, accuracy = parts["OC"], parts["category_accuracy"]
    assert total.dtype == loss.dtype == tf.float32
    values = tf.cast(logits, tf.float32).numpy().tolist()
    terms, right = [], []
    for row, label, used in zip(values, category, mask, strict=True):
        if used and label >= 0:
            terms.append(math.log(sum(math.exp(value) for value in row)) - row[label])
            right.append(row.index(max(row)) == label)
    np.testing.assert_allclose(loss, sum(terms) / len(terms), rtol=1e-5)
    np.testing.assert_allclose(accuracy, sum(right) / len(right))
    nothing, _ = cross_entropy(logits, tf.constant([-1] * 5))
    assert float(nothing) == 0.0


@pytest.mark.parametrize("losses", ["OC", "OS", "IS", "OC+OS", "OC+IS", "OS+IS", "OC+OS+IS"])
def test_objective_is_the_weighted_sum_of_its_parts(losses):
    item, category = [0, 0, 1, 1, 2, 2], [0, 0, 0, 0, 1, 1]
    points, logits = unit_rows(6, 4, 9, item), np.random.default_rng(1).normal(size=(6, 2))
    objective = make_objective(losses, np.ones(6, bool), alpha=0.7, beta=0.2, delta=MARGIN)
    total, parts = objective(
        {"logits": tf.constant(logits, tf.float32), "embedding": points},
        {"category": tf.constant(category), "item": tf.constant(item)},
    )
    expected = 0.0
    if "OC" in losses:
        expected += 0.7 * np.mean(
            [
                math.log(sum(math.exp(v) for v in row)) - row[c]
                for row, c in zip(logits, category, strict=True)
            ]
        )
    if "OS" in losses:
        expected += 0.2 * expected_all(points, category)[0]
    if "IS" in losses:
        expected += 0.2 * expected_all(points, item)[0]
    assert float(total) == pytest.approx(expected, rel=1e-5)
    assert {name for name in parts if name in ("OC", "OS", "IS")} == set(losses.split("+"))


def test_objective_with_explicit_triplets_of_both_kinds():
    """Rows are [A | P(IS) | N(IS) | P(OS) | N(OS) | images for OC alone]."""
    points = unit_rows(12, 4, 2)
    item = [0, 1] + [0, 1] + [1, 0] + [0, 3] + [4, 5] + [-1, -1]
    category = [0, 1] + [0, 1] + [1, 0] + [0, 1] + [1, -1] + [0, 1]
    classified = np.array([True] * 2 + [False] * 8 + [True] * 2)
    logits = np.random.default_rng(1).normal(size=(12, 2)).astype(np.float32)
    objective = make_objective("OC+OS+IS", classified, beta=1.0, delta=MARGIN, triplets="explicit")
    _, parts = objective(
        {"logits": tf.constant(logits), "embedding": points},
        {"category": tf.constant(category), "item": tf.constant(item)},
    )

    def hinge(a, p, n):
        return max(0.0, MARGIN + distance(points[a], points[p]) - distance(points[a], points[n]))

    assert float(parts["IS"]) == pytest.approx((hinge(0, 2, 4) + hinge(1, 3, 5)) / 2, rel=1e-5)
    # The second negative of OS has no category: that triplet takes no part.
    assert float(parts["OS"]) == pytest.approx(hinge(0, 6, 8), rel=1e-5)
    cross = [
        math.log(sum(math.exp(v) for v in logits[row])) - logits[row][category[row]]
        for row in (0, 1, 10, 11)
    ]
    assert float(parts["OC"]) == pytest.approx(sum(cross) / 4, rel=1e-5)


def test_centres_are_cosine_softmax_over_the_training_classes():
    """normface in plain Python; the items between those of the training images have no centre."""
    items = [7, 2, 2, -1, 4]
    objective = make_objective("2*normface:item", [True] * 5, label_smoothing=0.1)
    objective.build({"item": np.array([7, 2, 2, 4, -1])}, {"embedding": 3})
    (centres,) = objective.variables
    assert centres.shape == (3, 3)
    points = np.random.default_rng(2).normal(size=(5, 3)).astype(np.float32)
    total, parts = objective({"embedding": tf.constant(points)}, {"item": tf.constant(items)})

    def unit(vector):
        length = math.sqrt(sum(v * v for v in vector))
        return [v / length for v in vector]

    losses, right = [], []
    for point, item in zip(points.tolist(), items, strict=True):
        if item < 0:
            continue
        own = [2, 4, 7].index(item)
        scores = [
            20.0 * sum(a * b for a, b in zip(unit(point), unit(centre), strict=True))
            for centre in centres.numpy().tolist()
        ]
        log_sum = math.log(sum(math.exp(score) for score in scores))
        logs = [score - log_sum for score in scores]
        losses.append(-0.9 * logs[own] - 0.1 * sum(logs) / 3)
        right.append(scores.index(max(scores)) == own)
    assert float(parts["normface:item"]) == pytest.approx(sum(losses) / 4, rel=1e-5)
    assert float(parts["centre_accuracy"]) == pytest.approx(sum(right) / 4)
    assert float(total) == pytest.approx(2 * sum(losses) / 4, rel=1e-5)


def test_two_triplet_losses_tell_the_mean_of_what_they_tell():
    item, category = [0, 0, 1, 1, 2, 2], [0, 0, 0, 0, 1, 1]
    points = unit_rows(6, 4, 9, item)
    labels = {"item": tf.constant(item), "category": tf.constant(category)}
    active = {
        losses: make_objective(losses, [True] * 6)({"embedding": points}, labels)[1]["active"]
        for losses in ("IS", "OS", "IS+OS")
    }
    assert float(active["IS"]) != float(active["OS"])
    assert float(active["IS+OS"]) == pytest.approx(float(active["IS"] + active["OS"]) / 2, rel=1e-6)


def test_a_loss_by_a_label_it_cannot_have():
    with pytest.raises(FirError, match="softmax is by category. Received: softmax:item"):
        make_objective("softmax:item", [True])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("OC+IS", [("OC", 3.0), ("IS", 5.0)]),
        ("is+OC", [("OC", 3.0), ("IS", 5.0)]),
        ("OS+IS", [("IS", 5.0), ("OS", 5.0)]),
        ("OC+10*IS", [("OC", 3.0), ("IS", 10.0)]),
        (
            " 0.5 * triplet : category + softmax:category ",
            [("triplet:category", 0.5), ("softmax:category", 1.0)],
        ),
        ("1e+2*OS+1e-3*OC", [("OC", 0.001), ("OS", 100.0)]),
        ("normface", [("normface:item", 1.0)]),
        ("2*triplet( margin=.2 )+ OS(margin=1e+1)", [("OS", 5.0), ("triplet:item", 2.0)]),
        (
            "OC(label_smoothing=+0.1)+triplet(margin=+0.2) : item",
            [("OC", 3.0), ("triplet:item", 1.0)],
        ),
        ("softmax+2E+1*triplet", [("softmax:category", 1.0), ("triplet:item", 20.0)]),
    ],
)
def test_a_sum_of_losses(text, expected):
    terms = Config(losses=text, alpha=3.0, beta=5.0).terms()
    assert [(term.name, term.weight) for term in terms] == expected


@pytest.mark.parametrize(
    ("text", "place", "why"),
    [
        ("OC+tripet:item", 3, "no loss 'tripet'; there are OC, IS, OS, softmax"),
        ("OC+triplet:shop", 3, "the label must be item or category, not 'shop'"),
        ("OC+-1*IS", 3, "a weight must be a number >= 0, not '-1'"),
        ("inf*OC", 0, "a weight must be"),
        ("x*OC", 0, "a weight must be a number >= 0, not 'x'"),
        ("2*nan*OC", 0, "a weight must be"),
        ("OC + softmax:category", 4, "softmax:category comes twice"),
        ("IS+is", 3, "triplet:item comes twice"),
        ("OC++IS", 3, "a loss is missing here"),
        ("OC+", 3, "a loss is missing here"),
        ("", 0, "a loss is missing here"),
        ("3*", 2, "a loss is missing here"),
        ("OC+IS(margin=much)", 6, "an option must be name=number, not 'margin=much'"),
        ("OC+IS(margin=nan)", 6, "an option must be name=number"),
        ("IS(=1)", 3, "an option must be name=number, not '=1'"),
        ("IS(on=)", 3, "an option must be name=number, not 'on='"),
        ("IS(on=features, on=embedding)", 16, "on comes twice"),
        ("IS(soft=yes)", 3, "an option must be name=number, not 'soft=yes'"),
        ("IS()", 3, "an option must be name=number, not ''"),
        ("2 * IS(margin=1, margin=2)", 17, "margin comes twice"),
        ("OC+IS(margin=1", 3, "a bracket is not closed"),
        ("OC+IS(margin=1+OC", 3, "a bracket is not closed"),
        ("OC+IS(margin=1+2)", 6, "an option must be name=number, not 'margin=1+2'"),
        ("IS(margin=2*3)", 3, "an option must be name=number, not 'margin=2*3'"),
        ("trip(margin=0.2)let:item", 16, "behind a bracket only :label may stand, not 'let:item'"),
        ("OC+(margin=1)triplet", 13, "behind a bracket only :label may stand, not 'triplet'"),
        ("2*I(margin=0.1) S ", 16, "behind a bracket only :label may stand, not 'S'"),
        ("IS(margin=1)(margin=2)", 12, "behind a bracket only :label"),
        ("OC+(margin=1):item", 3, "a loss is missing here"),
        ("IS(margin=1)+triplet(margin=2)", 13, "triplet:item comes twice"),
    ],
)
def test_a_mistake_in_a_sum_of_losses_is_shown(text, place, why):
    with pytest.raises(FirError, match=re.escape(why)) as raised:
        Config(losses=text)
    *_, shown, mark = str(raised.value).split("\n")
    assert shown == f"  {text}" and mark.index("^") == 2 + place


@pytest.mark.parametrize(
    ("told", "flags"),
    [
        ("triplet(margin=0.7):item", {"delta": 0.7}),
        ("IS(margin=0)+0*softmax", {"delta": 0.0, "losses": "IS+0*softmax"}),
        ("softmax(label_smoothing=0.2)", {"label_smoothing": 0.2}),
    ],
)
def test_an_option_of_a_term_goes_before_its_flag(told, flags):
    """As the flag that says the same to all terms; beside another value of the flag."""
    rng = np.random.default_rng(4)
    outputs = {
        "logits": tf.constant(rng.normal(size=(6, 3)), tf.float32),
        "embedding": tf.math.l2_normalize(tf.constant(rng.normal(size=(6, 4)), tf.float32), 1),
    }
    labels = {"item": tf.constant([0, 0, 1, 1, 2, 2]), "category": tf.constant([0, 1, 2, 0, 1, 2])}
    plain = flags.pop("losses", re.sub(r"\(.*\)", "", told))
    with_option, by_flag, other = (
        make_objective(losses, [True] * 6, **values)(outputs, labels)[0]
        for losses, values in ((told, {}), (plain, flags), (plain, {}))
    )
    assert float(with_option) == float(by_flag) != float(other)


def test_the_scale_of_centres():
    """Of one image and two centres, in plain Python."""
    objective = make_objective("normface(scale=3):item", [True])
    objective.build({"item": np.array([0, 1])}, {"embedding": 2})
    objective.variables[0].assign([[1.0, 0.0], [0.0, 1.0]])
    total, _ = objective({"embedding": tf.constant([[0.6, 0.8]])}, {"item": tf.constant([0])})
    assert float(total) == pytest.approx(math.log(1 + math.exp(3 * (0.8 - 0.6))), rel=1e-5)


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ("IS(scale=2)", "the loss triplet takes the options margin, soft. Received: scale=2"),
        ("IS(margin=-1)", "`margin` must be >= 0. Received: -1.0"),
        ("IS(soft=0.5)", "`soft` must be true or false. Received: 0.5"),
        ("IS(soft=true, margin=1)", "`margin` has no meaning beside soft=true. Received: margin=1"),
        ("IS(on=shop)", "the loss triplet can be on features or embedding. Received: on=shop"),
        ("IS(on=logits)", "the loss triplet can be on features or embedding. Received: on=logits"),
        ("OC(on=features)", "the loss softmax can be on logits. Received: on=features"),
        ("circle(on=features)", "the loss circle can be on embedding. Received: on=features"),
        ("normface(scale=0)", "`scale` must be > 0. Received: 0.0"),
        ("OC(label_smoothing=1)", "`label_smoothing` must be at least 0 and below 1"),
    ],
)
def test_options_that_a_loss_lacks_or_refuses(losses, message):
    with pytest.raises(FirError, match=re.escape(message)):
        make_objective(losses, [True])


def test_unknown_miner_is_named():
    with pytest.raises(
        FirError, match="`triplets` must be one of all, semihard, hard, .*Received: 'x'"
    ):
        mined_triplet_loss(unit_rows(2, 2, 0), tf.constant([0, 1]), MARGIN, "x")
