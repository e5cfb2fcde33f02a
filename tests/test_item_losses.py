"""The losses beyond the paper's against plain Python loops written from their formulas."""

import functools
import re
from math import acos, cos, exp, log, pi, sin, sqrt

import numpy as np
import pytest
import tensorflow as tf
from objectives import make_objective

from fir_tf import registry
from fir_tf.errors import FirError
from fir_tf.keras_versions import tensor_of
from fir_tf.losses.grammar import LossSettings

WIDTH, CLASSES = 3, 4
# A class of one image, and an image of unknown class.
LABELS = [0, 1, 0, 1, 2, 1, -1, 3, 2]


def dot(a, b):
    return sum(float(x) * float(y) for x, y in zip(a, b, strict=True))


def cosine(a, b):
    return dot(a, b) / sqrt(dot(a, a) * dot(b, b))


def mean(values):
    return sum(values) / len(values) if values else 0.0


def anchors(points, labels, count=None):
    """(positives, negatives) of each image of known label: similarities, and of which rows.

    Only the first `count` images are anchors; the others are those of a memory.
    """
    known = [row for row, label in enumerate(labels) if label >= 0]
    for i in [row for row in known if count is None or row < count]:
        pairs = [(dot(points[i], points[j]), i, j) for j in known if j != i]
        yield (
            [pair for pair in pairs if labels[pair[2]] == labels[i]],
            [pair for pair in pairs if labels[pair[2]] != labels[i]],
        )


def contrastive(points, labels, _, positive_margin=0, negative_margin=1, count=None):
    near, far = [], []
    for positives, negatives in anchors(points, labels, count):
        for pairs, losses, sign, margin in (
            (positives, near, 1, positive_margin),
            (negatives, far, -1, negative_margin),
        ):
            apart = [sum((points[i] - points[j]) ** 2) for _, i, j in pairs]
            losses += [sign * (d - margin) for d in apart if sign * (d - margin) > 0]
    return mean(near) + mean(far)


def supcon(points, labels, _, temperature=0.1, count=None):
    terms = []
    for positives, negatives in anchors(points, labels, count):
        total = sum(exp(s / temperature) for s, *_ in positives + negatives)
        if positives:
            terms.append(mean([-log(exp(s / temperature) / total) for s, *_ in positives]))
    return mean(terms)


def classified(points, labels, centres, scale, own, label_smoothing=0.0):
    terms = []
    for point, label in zip(points, labels, strict=True):
        if label < 0:
            continue
        scores = [cosine(point, centre) for centre in centres]
        scores[label] = own(scores[label])
        total = sum(exp(scale * score) for score in scores)
        logs = [log(exp(scale * score) / total) for score in scores]
        terms.append(-(1 - label_smoothing) * logs[label] - label_smoothing * mean(logs))
    return mean(terms)


def normface(points, labels, centres, scale=20, **options):
    return classified(points, labels, centres, scale, lambda own: own, **options)


def cosface(points, labels, centres, scale=30, margin=0.35, **options):
    return classified(points, labels, centres, scale, lambda own: own - margin, **options)


def arcface(points, labels, centres, scale=30, margin=0.5, **options):
    def turned(own):
        angle = acos(min(1.0, max(-1.0, own)))
        return cos(angle + margin) if angle + margin < pi else own - margin * sin(margin)

    return classified(points, labels, centres, scale, turned, **options)


def proxy_anchor(points, labels, centres, scale=32, margin=0.1):
    pulled, pushed = [], []
    for proxy, centre in enumerate(centres):
        rows = [
            (cosine(point, centre), label)
            for point, label in zip(points, labels, strict=True)
            if label >= 0
        ]
        own = [exp(-scale * (s - margin)) for s, label in rows if label == proxy]
        others = [exp(scale * (s + margin)) for s, label in rows if label != proxy]
        if own:
            pulled.append(log(1 + sum(own)))
        pushed.append(log(1 + sum(others)))
    return mean(pulled) + mean(pushed)


def multi_similarity(
    points, labels, _, positive_scale=2, negative_scale=50, base=0.5, epsilon=0.1, count=None
):
    terms = []
    for positives, negatives in anchors(points, labels, count):
        own, others = [s for s, *_ in positives], [s for s, *_ in negatives]
        kept = [s for s in own if others and s < max(others) + epsilon]
        far = [s for s in others if own and s > min(own) - epsilon]
        terms.append(
            log(1 + sum(exp(-positive_scale * (s - base)) for s in kept)) / positive_scale
            + log(1 + sum(exp(negative_scale * (s - base)) for s in far)) / negative_scale
        )
    return mean(terms)


def circle(points, labels, _, scale=256, margin=0.25, constant=None, count=None):
    """The weights are those of the points `constant`: no gradient runs through them."""
    constant = points if constant is None else constant
    terms = []
    for positives, negatives in anchors(points, labels, count):
        if positives and negatives:
            near, far = [], []
            for s, i, j in positives:
                weight = max(0.0, 1 + margin - dot(constant[i], constant[j]))
                near.append(-scale * weight * (s - (1 - margin)))
            for s, i, j in negatives:
                weight = max(0.0, dot(constant[i], constant[j]) + margin)
                far.append(scale * weight * (s - margin))
            # The formula in logarithms: its powers are beyond float64.
            product = np.logaddexp.reduce(near) + np.logaddexp.reduce(far)
            terms.append(float(np.logaddexp(0.0, product)))
    return mean(terms)


ORACLES = {
    "contrastive": contrastive,
    "normface": normface,
    "supcon": supcon,
    "arcface": arcface,
    "cosface": cosface,
    "proxy_anchor": proxy_anchor,
    "multi_similarity": multi_similarity,
    "circle": circle,
}
CASES = [
    *((name, {}) for name in ORACLES),
    ("contrastive", {"positive_margin": 0.4, "negative_margin": 2.5}),
    ("normface", {"scale": 4, "label_smoothing": 0.2}),
    ("supcon", {"temperature": 0.5}),
    ("arcface", {"scale": 5, "margin": 1.1, "label_smoothing": 0.1}),
    ("cosface", {"scale": 7, "margin": 0.8, "label_smoothing": 0.1}),
    ("proxy_anchor", {"scale": 5, "margin": 0.4}),
    (
        "multi_similarity",
        {"positive_scale": 3, "negative_scale": 9, "base": 0.2, "epsilon": 0.3},
    ),
    ("circle", {"scale": 12, "margin": 0.4}),
]
each = pytest.mark.parametrize(
    ("name", "options"), CASES, ids=[f"{name}{'-told' * bool(told)}" for name, told in CASES]
)
by_default = pytest.mark.parametrize("name", ORACLES)


def batch(count=9):
    """Embeddings and centres; one image beyond ArcFace's last angle from its centre."""
    rng = np.random.default_rng(5)
    points = rng.normal(size=(count, WIDTH))
    points = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)
    centres = rng.normal(size=(CLASSES, WIDTH)).astype(np.float32)
    centres[0] = -points[0] + 0.05
    return points, centres


def loss_of(name, centres, **options):
    """Returns (function of (points, labels) to the value, the loss's own variables)."""
    inside = ",".join(f"{option}={value}" for option, value in options.items())
    term = f"{name}({inside})" if inside else name
    # Which of the rows are drawn one by one is no matter here.
    objective = make_objective(f"{term}:item", True)
    objective.build({"item": np.arange(CLASSES)}, {"embedding": WIDTH})
    for variable in objective.variables:
        variable.assign(centres)

    def value(points, labels):
        _, parts = objective({"embedding": points}, {"item": tf.constant(labels, tf.int32)})
        return parts[f"{name}:item"]

    return value, [tensor_of(variable) for variable in objective.variables]


def gradients(value, points, labels, variables=()):
    points = tf.constant(points)
    with tf.GradientTape() as tape:
        tape.watch(points)
        loss = value(points, labels)
    return loss, [np.asarray(g) for g in tape.gradient(loss, [points, *variables])]


def slopes(function, values, step=1e-6):
    """Central differences of a function of float64 values by each of them."""
    result = np.zeros(values.shape)
    for place in np.ndindex(values.shape):
        ends = []
        for sign in (1, -1):
            moved = values.copy()
            moved[place] += sign * step
            ends.append(function(moved))
        result[place] = (ends[0] - ends[1]) / (2 * step)
    return result


def test_every_loss_has_an_oracle():
    """softmax and triplet have theirs in test_losses.py."""
    assert set(registry.KINDS["loss"].own) - {"softmax", "triplet"} == set(ORACLES)


@each
def test_value_and_gradients_are_the_formulas(name, options):
    points, centres = batch()
    value, variables = loss_of(name, centres, **options)
    loss, found = gradients(value, points, LABELS, variables)
    points, centres = points.astype(float), centres.astype(float)
    oracle = functools.partial(ORACLES[name], **options)
    assert loss.dtype == tf.float32
    assert float(loss) == pytest.approx(oracle(points, LABELS, centres), rel=2e-5)
    assert float(loss) > 0.01
    if name == "circle":
        oracle = functools.partial(oracle, constant=points)
    expected = [slopes(lambda moved: oracle(moved, LABELS, centres), points)]
    if variables:
        expected.append(slopes(lambda moved: oracle(points, LABELS, moved), centres))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4 * np.abs(other).max())
    # The image of unknown class takes no part.
    assert not found[0][LABELS.index(-1)].any() and found[0][0].any()


@by_default
@pytest.mark.parametrize(
    "labels",
    [[0, 0, 1, 1], [0, 1, 2, 3], [1, 1, 1, 1], [2, 2, -1, -1], [-1, 3, -1, -1], [2], [-1] * 4],
    ids=str,
)
def test_batches_that_lack_something(name, labels):
    points, centres = batch(len(labels))
    value, variables = loss_of(name, centres)
    loss, found = gradients(value, points, labels, variables)
    expected = ORACLES[name](points, labels, centres)
    assert float(loss) == pytest.approx(expected, rel=2e-5, abs=1e-6)
    assert all(np.isfinite(gradient).all() for gradient in found)
    if expected == 0:
        assert not any(gradient.any() for gradient in found)
    if max(labels) < 0:
        assert expected == 0


@by_default
def test_gradients_are_finite_where_images_and_centres_fall_together(name):
    points = np.array([[1, 0, 0]] * 4 + [[-1, 0, 0]] * 4, np.float32)
    centres = np.array([[1, 0, 0], [-1, 0, 0], [0, 0, 0], [0, 1, 0]], np.float32)
    value, variables = loss_of(name, centres)
    loss, found = gradients(value, points, [0, 1, 2, 3] * 2, variables)
    assert np.isfinite(float(loss))
    assert all(np.isfinite(gradient).all() for gradient in found)


@by_default
@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16], ids=lambda dtype: dtype.name)
def test_half_precision_is_computed_in_float32(name, dtype):
    points, centres = batch()
    points = tf.cast(points, dtype)
    loss, _ = gradients(loss_of(name, centres)[0], points, LABELS)
    expected = ORACLES[name](tf.cast(points, tf.float64).numpy(), LABELS, centres)
    assert loss.dtype == tf.float32
    assert float(loss) == pytest.approx(expected, rel=2e-5)


@by_default
def test_xla_equals_the_graph(name):
    points, centres = batch()
    value, variables = loss_of(name, centres)

    def both(points, labels):
        with tf.GradientTape() as tape:
            tape.watch(points)
            loss = value(points, labels)
        return [loss, *tape.gradient(loss, [points, *variables])]

    graph, compiled = (
        tf.function(both, jit_compile=xla)(tf.constant(points), LABELS) for xla in (False, True)
    )
    for one, other in zip(graph, compiled, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * np.abs(one).max())


def test_arcface_at_the_ends_of_the_cosine():
    """And beyond them by float32's error, where the sine would be infinitely steep or no number."""
    own = np.array([1, -1, 1.0000001, -1.0000001, 0.9999999], np.float32)
    cosines = tf.constant(np.stack([own, np.zeros(5)], axis=1), tf.float32)
    loss = registry.get("loss", "arcface")(LossSettings())
    with tf.GradientTape() as tape:
        tape.watch(cosines)
        value = loss.of_cosines(cosines, tf.zeros(5, tf.int32))
    ends = [cos(0.5), -1 - 0.5 * sin(0.5)]
    near, far = (log(1 + exp(-30 * end)) for end in ends)
    assert float(value) == pytest.approx((3 * near + 2 * far) / 5, rel=1e-5)
    assert np.isfinite(tape.gradient(value, cosines)).all()


@pytest.mark.parametrize("margin", [0.5, 1.57])
def test_arcface_falls_over_all_angles(margin):
    """The loss never falls with the angle to the own centre; the other centres stay as far."""
    centres = np.array([[1, 0, 0], [0, 0, 1], [0, 0, -1], [0, 0, 1]], np.float32)
    value, _ = loss_of("arcface", centres, margin=margin, scale=1)
    losses = [
        float(value(tf.constant([[cos(angle), sin(angle), 0.0]]), [0]))
        for angle in np.linspace(0, pi, 40)
    ]
    assert (np.diff(losses) > -1e-5).all() and losses[-1] > losses[0] + 1


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ("contrastive(positive_margin=-1)", "`positive_margin` must be >= 0. Received: -1.0"),
        ("contrastive(negative_margin=-1)", "`negative_margin` must be >= 0. Received: -1.0"),
        ("circle(memory=-4)", "`memory` must be >= 0 images. Received: -4.0"),
        ("supcon(memory=2.5)", "`memory` must be a whole number of images. Received: 2.5"),
        ("supcon(temperature=0)", "`temperature` must be > 0. Received: 0.0"),
        ("arcface(margin=1.6)", "`margin` must be between 0 and 1.57 radians. Received: 1.6"),
        ("arcface(scale=0)", "`scale` must be > 0"),
        ("cosface(margin=-0.1)", "`margin` must be >= 0"),
        ("cosface(label_smoothing=1)", "`label_smoothing` must be at least 0 and below 1"),
        ("proxy_anchor(scale=0)", "`scale` must be > 0"),
        ("proxy_anchor(margin=-1)", "`margin` must be >= 0"),
        ("multi_similarity(positive_scale=0)", "`positive_scale` must be > 0"),
        ("multi_similarity(negative_scale=0)", "`negative_scale` must be > 0"),
        ("multi_similarity(base=1.1)", "`base` must be between -1 and 1"),
        ("multi_similarity(epsilon=-1)", "`epsilon` must be >= 0"),
        ("circle(margin=1)", "`margin` must be above -1 and below 1"),
        ("circle(scale=0)", "`scale` must be > 0"),
    ],
)
def test_options_out_of_bounds(losses, message):
    with pytest.raises(FirError, match=re.escape(message)):
        make_objective(losses, [True])
