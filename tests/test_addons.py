"""The miners and the Keras losses against tensorflow-addons, which has them too: the oracle, and where it differs.

It runs in the environment of `make test-addons` only; see docs/packages.md.
"""

import functools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fir_tf.keras import losses
from fir_tf.losses.triplet import label_pairs, mined_triplet_loss
from fir_tf.registry import get

tfa = pytest.importorskip(
    "tensorflow_addons",
    reason="tensorflow-addons runs with TensorFlow 2.15 only: make test-addons",
)

MARGIN = 0.5
THEIRS = {"semihard": tfa.losses.triplet_semihard_loss, "hard": tfa.losses.triplet_hard_loss}


@pytest.fixture(scope="module", autouse=True)
def eagerly():
    """Their losses are compiled anew for each size of batch otherwise."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def l2(points):
    square = tf.reduce_sum(tf.square(points[:, None] - points[None]), axis=2)
    # The root of 0 has no gradient; nobody reads the diagonal.
    return tf.sqrt(square + tf.eye(points.shape[0]))


def angular(points):
    points = tf.math.l2_normalize(points, axis=1)
    return 1.0 - tf.matmul(points, points, transpose_b=True)


def our_loss(points, labels, miner, metric, margin=MARGIN):
    """Ours is squared L2 on whatever it is given; its miners take any distances."""
    labels = tf.constant(labels)
    if metric == "squared-L2":
        return mined_triplet_loss(points, labels, margin, miner).loss
    distance = {"L2": l2, "angular": angular}[metric](points)
    return get("miner", miner)(distance, *label_pairs(labels), margin)[0]


def their_loss(points, labels, miner, metric, margin=MARGIN):
    return THEIRS[miner](tf.constant(labels), points, margin, distance_metric=metric)


def value_and_gradient(loss, points, *args):
    variable = tf.Variable(points)
    with tf.GradientTape() as tape:
        value = loss(variable, *args)
    return value.numpy(), tf.convert_to_tensor(tape.gradient(value, variable)).numpy()


def both(points, labels, miner, metric="squared-L2"):
    """Returns the losses, ours and theirs."""
    points = tf.constant(points, tf.float32)
    return [float(loss(points, labels, miner, metric)) for loss in (our_loss, their_loss)]


def distances(points):
    points = np.asarray(points, np.float64)
    return ((points[:, None] - points[None]) ** 2).sum(2)


@st.composite
def label_lists(draw, largest=5):
    """Two labels or more, each of two images or more, in any order."""
    counts = draw(st.lists(st.integers(2, 4), min_size=2, max_size=largest))
    return draw(st.permutations([label for label, n in enumerate(counts) for _ in range(n)]))


@st.composite
def clouds(draw):
    """Labels and points in general position: spread out, in clusters, or nearly collapsed."""
    labels = draw(label_lists())
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    spread = draw(st.sampled_from([0.05, 0.5, 5.0]))
    centres = draw(st.sampled_from([0.0, 0.3, 3.0])) * rng.normal(size=(max(labels) + 1, 5))
    points = centres[np.array(labels)] + spread * rng.normal(size=(len(labels), 5))
    if draw(st.booleans()):
        points /= np.linalg.norm(points, axis=1, keepdims=True)
    return labels, points.astype(np.float32)


@pytest.mark.parametrize("metric", ["squared-L2", "L2", "angular"])
@pytest.mark.parametrize("miner", THEIRS)
@settings(max_examples=40, deadline=None)
@given(cloud=clouds())
def test_value_and_gradient_equal_theirs(miner, metric, cloud):
    labels, points = cloud
    used = distances(points / np.linalg.norm(points, axis=1, keepdims=True))
    used = {"squared-L2": distances(points), "L2": distances(points) ** 0.5, "angular": used / 2}
    pairs = np.sort(used[metric][np.triu_indices(len(labels), 1)])
    gaps = np.abs(pairs[:, None] + MARGIN - pairs[None])
    # Two distances that are equal but for rounding may be ranked differently, and so may a hinge
    # at zero.
    assume(min(np.diff(pairs).min(), gaps.min()) > 2e-5 * max(1.0, pairs[-1]))
    ours, own = value_and_gradient(our_loss, points, labels, miner, metric)
    theirs, other = value_and_gradient(their_loss, points, labels, miner, metric)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(own, other, rtol=1e-3, atol=1e-4 * max(1.0, np.abs(other).max()))


@pytest.mark.parametrize("miner", THEIRS)
@settings(max_examples=80, deadline=None)
@given(labels=label_lists(), data=st.data())
def test_values_are_equal_where_distances_are(miner, labels, data):
    """Whole coordinates: every distance is exact in both, so ties and duplicates are as well."""
    width = data.draw(st.integers(1, 3))
    rows = st.lists(st.integers(-2, 2), min_size=width, max_size=width)
    points = data.draw(st.lists(rows, min_size=len(labels), max_size=len(labels)))
    ours, theirs = both(points, labels, miner)
    assert ours == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize("miner", THEIRS)
def test_all_images_alike(miner):
    """The whole batch in one point: the margin, no gradient, nothing that is not finite."""
    points, labels = np.ones((6, 3), np.float32), [0, 0, 1, 1, 2, 2]
    for loss in (our_loss, their_loss):
        value, gradient = value_and_gradient(loss, points, labels, miner, "squared-L2")
        assert value == pytest.approx(MARGIN)
        # What cancels does so but for rounding, which differs between processors.
        np.testing.assert_allclose(gradient, 0, atol=1e-6)


LINE = [[0.0], [1.0], [3.0], [7.0]]


def test_an_anchor_without_a_positive():
    """Theirs: "hard" gives it the positive distance 0 and counts it; ours leaves it out."""
    labels = [0, 0, 1, 2]
    # Anchors 0 and 1: the positive is 1 away (squared), the nearest negative 9 and 4.
    # Anchors 2 and 3 have no positive and negatives at 4 and 16.
    assert both(LINE, labels, "hard") == [0.0, 0.0]
    near = [[0.0], [1.0], [1.2], [1.5]]
    hinges = [0.5 + 1 - 1.44, 0.5 + 1 - 0.04, 0.5 + 0 - 0.04, 0.5 + 0 - 0.09]
    ours, theirs = both(near, labels, "hard")
    assert ours == pytest.approx(sum(hinges[:2]) / 2, rel=1e-5)
    assert theirs == pytest.approx(sum(hinges) / 4, rel=1e-5)
    # "semihard" averages over pairs, so it makes no difference there.
    ours, theirs = both(near, labels, "semihard")
    assert ours == pytest.approx(theirs, rel=1e-5) and ours > 0


def test_a_batch_without_a_positive():
    """Theirs: not a number from "semihard"; ours is 0 and so is its gradient."""
    labels = [0, 1, 2, 3]
    ours, theirs = both(LINE, labels, "semihard")
    assert ours == 0.0 and np.isnan(theirs)
    close = [[0.0], [0.5], [5.0], [5.1]]
    ours, theirs = both(close, labels, "hard")
    assert ours == 0.0
    assert theirs == pytest.approx((0.25 + 0.25 + 0.49 + 0.49) / 4, rel=1e-5)
    for miner in THEIRS:
        points = np.array(close, np.float32)
        value, gradient = value_and_gradient(our_loss, points, labels, miner, "squared-L2")
        assert value == 0.0 and not gradient.any()


def test_a_batch_without_a_negative():
    """Theirs: "semihard" takes 0 for the negative distance, "hard" the farthest positive's."""
    labels = [4, 4, 4, 4]
    pairs = distances(LINE)[~np.eye(4, dtype=bool)]
    ours, theirs = both(LINE, labels, "semihard")
    assert ours == 0.0 and theirs == pytest.approx(MARGIN + pairs.mean(), rel=1e-6)
    ours, theirs = both(LINE, labels, "hard")
    assert ours == 0.0 and theirs == pytest.approx(MARGIN, rel=1e-6)


def test_an_unknown_label():
    """Theirs has no such thing: -1 is a class like others there."""
    points, labels = [[0.0], [1.0], [0.2], [1.3], [0.4]], [0, 0, 1, 1, -1]
    for miner in THEIRS:
        ours, theirs = both(points, labels, miner)
        without = both(points[:-1], labels[:-1], miner)
        assert ours == pytest.approx(without[0]) == pytest.approx(without[1])
        assert theirs == pytest.approx(both(points, [0, 0, 1, 1, 2], miner)[1])
    # Its distances are the nearest ones of some anchors.
    assert both(points, labels, "hard")[1] != pytest.approx(both(points, labels, "hard")[0])


# The positive of image 0 is as far as its negatives 2 and 3: 1. Those two have 0 at 1 as well.
CROSS = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], np.float32)


def gradients(miner, points):
    """Gradients of the same loss, ours and theirs, with the labels of `CROSS`."""
    (ours, own), (theirs, other) = (
        value_and_gradient(loss, points, [0, 0, 1, 1], miner, "squared-L2")
        for loss in (our_loss, their_loss)
    )
    assert ours == theirs
    return own, other


def test_the_gradient_of_a_tie_among_negatives():
    """Anchor 0 has no semihard negative and two farthest ones: theirs takes half of each."""
    own, other = gradients("semihard", CROSS)
    assert np.abs(own - other).max() > 0.1
    swapped = [0, 1, 3, 2]
    mirrored, _ = gradients("semihard", CROSS[swapped])
    np.testing.assert_allclose((own + mirrored[swapped]) / 2, other, atol=1e-6)


def test_the_gradient_of_a_tie_with_the_positive():
    """Theirs is wrong: it masks by zeros, which tie with a negative at the row's maximum.

    Image 1 is the positive of anchor 0 and in no other active term, whose mean over 4 anchors is
    taken: the gradient at it is 2 * (1, 0) / 4. Theirs gives it a part of the negatives' as well.
    """
    own, other = gradients("hard", CROSS)
    np.testing.assert_allclose(own, [[-0.5, 0], [0.5, 0], [0, 1.25], [0, -1.25]], atol=1e-6)
    np.testing.assert_allclose(other[1], [0.5 - 1 / 12, 0], atol=1e-6)


def test_the_type_of_the_result():
    """Theirs rounds the loss of bfloat16 embeddings to bfloat16, ours keeps float32."""
    points = tf.cast(np.random.default_rng(0).normal(size=(6, 4)), tf.bfloat16)
    labels = [0, 0, 0, 1, 1, 1]
    for miner in THEIRS:
        ours = our_loss(points, labels, miner, "squared-L2")
        theirs = their_loss(points, labels, miner, "squared-L2")
        assert (ours.dtype, theirs.dtype) == (tf.float32, tf.bfloat16)
        assert float(tf.cast(ours, tf.bfloat16)) == pytest.approx(float(theirs), rel=2**-7)


# The Keras losses, which have their names and meanings.

FACES = {
    "semihard": (losses.TripletSemiHardLoss, tfa.losses.TripletSemiHardLoss),
    "hard": (losses.TripletHardLoss, tfa.losses.TripletHardLoss),
    "soft": (
        functools.partial(losses.TripletHardLoss, soft=True),
        functools.partial(tfa.losses.TripletHardLoss, soft=True),
    ),
}
METRICS = ["L2", "squared-L2", "angular", lambda x: -tf.matmul(x, x, transpose_b=True)]


def face_and_theirs(ours, theirs, labels, points):
    """Returns ((value, gradient), (value, gradient)) of two Keras losses."""
    labels = tf.constant(labels)
    return [
        value_and_gradient(lambda values, loss=loss: loss(labels, values), points)
        for loss in (ours, theirs)
    ]


def assert_equal(both, rtol=1e-3):
    (ours, own), (theirs, other) = both
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(own, other, rtol=rtol, atol=1e-4 * max(1.0, np.abs(other).max()))


def is_apart(points):
    """Whether no two points are so close that rounding shows in the root of their distance."""
    squared = distances(points)[np.triu_indices(len(points), 1)]
    return squared.min() > 1e-3 * np.square(points).sum(1).max()


def gap_of(labels, points, metric):
    """The least difference of two distances, and of two with the margin between them."""
    x = np.asarray(points, np.float64)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    used = {"squared-L2": distances(x), "L2": distances(x) ** 0.5, "angular": distances(unit) / 2}
    used = used.get(metric, -x @ x.T)
    pairs = np.sort(used[np.triu_indices(len(labels), 1)])
    gaps = np.abs(pairs[:, None] + MARGIN - pairs[None])
    return min(np.diff(pairs).min(), gaps.min()) / max(1.0, np.abs(pairs).max())


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: getattr(metric, "__name__", metric))
@pytest.mark.parametrize("kind", FACES)
@settings(max_examples=15, deadline=None)
@given(cloud=clouds(), alone=st.booleans())
def test_keras_triplet_losses_equal_theirs(kind, metric, cloud, alone):
    """With an image alone in its class and a label of -1 in some batches."""
    labels, points = cloud
    if alone:
        labels = [label - 1 for label in labels[:-1]] + [99]
    assume(gap_of(labels, points, metric) > 2e-5 and len(set(labels)) < len(labels))
    assume(metric != "L2" or is_apart(points))
    given = {"margin": MARGIN, "distance_metric": metric}
    both = face_and_theirs(*(make(**given) for make in FACES[kind]), labels, points)
    # Their soft margin overflows; ours is compared with numbers below.
    assume(np.isfinite(both[1][0]))
    assert_equal(both)


def test_keras_defaults_are_theirs():
    rng = np.random.default_rng(0)
    labels, points = rng.integers(0, 4, 16), rng.normal(size=(16, 4)).astype(np.float32)
    for name in ("TripletSemiHardLoss", "TripletHardLoss", "LiftedStructLoss"):
        ours, theirs = getattr(losses, name)(), getattr(tfa.losses, name)()
        assert_equal(face_and_theirs(ours, theirs, labels, points))
    ours, theirs = losses.ContrastiveLoss(), tfa.losses.ContrastiveLoss()
    assert_equal(face_and_theirs(ours, theirs, rng.integers(0, 2, 16), np.abs(points[:, 0])))
    for name in ("ContrastiveLoss", "NpairsLoss", "NpairsMultilabelLoss"):
        assert getattr(losses, name)().name == getattr(tfa.losses, name)().name


@settings(max_examples=25, deadline=None)
@given(cloud=clouds(), margin=st.sampled_from([0.2, 1.0, 5.0]))
def test_keras_lifted_structure_equals_theirs(cloud, margin):
    labels, points = cloud
    both = face_and_theirs(
        losses.LiftedStructLoss(margin), tfa.losses.LiftedStructLoss(margin), labels, points
    )
    assume(is_apart(points))
    assert_equal(both)


@settings(max_examples=25, deadline=None)
@given(cloud=clouds())
def test_keras_npairs_equal_theirs(cloud):
    labels, points = cloud
    scores = (points @ points.T).astype(np.float32)
    assert_equal(face_and_theirs(losses.NpairsLoss(), tfa.losses.NpairsLoss(), labels, scores))
    classes = np.random.default_rng(len(labels)).integers(0, 2, (len(labels), 6))
    classes[:, 0] = 1
    assert_equal(
        face_and_theirs(
            losses.NpairsMultilabelLoss(), tfa.losses.NpairsMultilabelLoss(), classes, scores
        )
    )


@settings(max_examples=25, deadline=None)
@given(
    pairs=st.lists(st.tuples(st.booleans(), st.floats(0, 4, width=32)), min_size=1, max_size=9),
    margin=st.sampled_from([0.5, 1.0, 3.0]),
)
def test_keras_contrastive_equals_theirs(pairs, margin):
    same, distance = zip(*pairs, strict=True)
    assume(all(abs(value - margin) > 1e-3 for value in distance))
    ours, theirs = losses.ContrastiveLoss(margin), tfa.losses.ContrastiveLoss(margin)
    assert_equal(face_and_theirs(ours, theirs, np.int64(same), np.float32(distance)))


def test_keras_half_precision():
    """Theirs rounds what it returns, and the arithmetic of those without embeddings."""
    rng = np.random.default_rng(0)
    labels, points = rng.integers(0, 4, 16), rng.normal(size=(16, 4)).astype(np.float32)
    for dtype in (tf.bfloat16, tf.float16):
        half = tf.cast(points, dtype)
        for name in ("TripletSemiHardLoss", "TripletHardLoss", "LiftedStructLoss"):
            ours = getattr(losses, name)()(labels, half)
            theirs = getattr(tfa.losses, name)()(labels, half)
            assert (ours.dtype, theirs.dtype) == (tf.float32, dtype)
            assert float(tf.cast(ours, dtype)) == pytest.approx(float(theirs), rel=2**-7)
    # 256 and 257 are one class there, because labels are cast to the type of the similarities.
    scores, classes = tf.cast(points[:4], tf.bfloat16), [256, 256, 257, 257]
    right = losses.NpairsLoss()([0, 0, 1, 1], scores)
    assert float(losses.NpairsLoss()(classes, scores)) == float(right)
    wrong = tfa.losses.NpairsLoss()([0, 0, 0, 0], scores)
    assert float(tfa.losses.NpairsLoss()(tf.constant(classes), scores)) == float(wrong)


SINGLE, ONE = [0, 1, 2, 3, 4, 5], [7] * 6


@pytest.mark.parametrize(
    ("name", "labels", "theirs_is"),
    [
        ("TripletSemiHardLoss", SINGLE, np.isnan),
        ("LiftedStructLoss", SINGLE, np.isnan),
        ("LiftedStructLoss", ONE, np.isnan),
        # Finite, but of no triplet.
        ("TripletHardLoss", SINGLE, np.isfinite),
        ("TripletSemiHardLoss", ONE, np.isfinite),
    ],
)
def test_keras_losses_without_a_triplet(name, labels, theirs_is):
    """Ours is 0, and so is its gradient."""
    points = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    ours, theirs = getattr(losses, name)(), getattr(tfa.losses, name)()
    (value, gradient), (other, _) = face_and_theirs(ours, theirs, labels, points)
    assert value == 0.0 and not gradient.any()
    assert theirs_is(other) and other != 0.0


def test_keras_losses_where_theirs_are_not_finite():
    # The soft margin's exponential overflows.
    points, labels = np.float32([[0.0], [20.0], [1.0], [30.0]]), [0, 0, 1, 1]
    given = {"soft": True, "distance_metric": "squared-L2"}
    ours, theirs = losses.TripletHardLoss(**given), tfa.losses.TripletHardLoss(**given)
    (value, gradient), (other, _) = face_and_theirs(ours, theirs, labels, points)
    assert np.isinf(other) and np.isfinite(gradient).all()
    assert value == pytest.approx((400 - 1 + 400 - 100 + 841 - 1 + 841 - 100) / 4)
    # A row without a class.
    scores = np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)
    ours, theirs = losses.NpairsMultilabelLoss(), tfa.losses.NpairsMultilabelLoss()
    both = face_and_theirs(ours, theirs, [[1, 0], [0, 0], [1, 1]], scores)
    assert np.isnan(both[1][0]) and np.isfinite(both[0][0]) and np.isfinite(both[0][1]).all()


def test_keras_labels_as_a_column():
    """As Keras 2 hands them to a loss in `fit`; theirs makes another number of them."""
    scores = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    flat = np.array([0, 0, 1, 1])
    for labels in (flat, flat[:, None]):
        found = losses.NpairsLoss()(labels, scores)
        assert float(found) == pytest.approx(float(tfa.losses.NpairsLoss()(flat, scores)))
    assert float(tfa.losses.NpairsLoss()(flat[:, None], scores)) != pytest.approx(float(found))
