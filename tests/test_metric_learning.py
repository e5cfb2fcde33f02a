"""The losses against pytorch-metric-learning, which has them too: the oracle, and where it differs.

Theirs normalise what they are given to unit length. So do the functions here before our losses,
that gradients are of the same numbers.
"""

import functools

import numpy as np
import pytest
import tensorflow as tf
from objectives import make_objective

from fir_tf import registry
from fir_tf.keras_versions import tensor_of

torch = pytest.importorskip("torch", reason="torch is not installed: extra `oracle`")
reason = "pytorch-metric-learning is not installed: extra `oracle`"
theirs = pytest.importorskip("pytorch_metric_learning", reason=reason)
from pytorch_metric_learning import distances, losses, miners, reducers  # noqa: E402
from pytorch_metric_learning.utils import loss_and_miner_utils as pairs  # noqa: E402

WIDTH, CLASSES = 5, 4
LABELS = [0, 1, 0, 1, 2, 1, 0, 3, 2, 0]
# Two of each class. Their "semihard" has one triplet for an anchor, ours one for each of its
# positives; and theirs leaves out an anchor with no negative beyond the positive, for which ours
# takes the farthest one, as tensorflow-addons does.
TWOS = [0, 0, 1, 1, 2, 2, 3, 3]
SQUARED = distances.LpDistance(power=2)

mean_triplets = functools.partial(
    losses.TripletMarginLoss, distance=SQUARED, reducer=reducers.MeanReducer()
)
hard = miners.BatchHardMiner(distance=SQUARED)
semihard = miners.BatchEasyHardMiner(pos_strategy="easy", neg_strategy="semihard", distance=SQUARED)
# Ours as a term with the flag's miner; their loss, which makes its centres, and their miner.
CASES = {
    "triplet all": (
        "triplet(margin=0.3)",
        "all",
        lambda: losses.TripletMarginLoss(margin=0.3, distance=SQUARED),
        None,
    ),
    "triplet hard": ("triplet(margin=0.3)", "hard", lambda: mean_triplets(margin=0.3), hard),
    "triplet semihard": (
        "triplet(margin=1)",
        "semihard",
        lambda: mean_triplets(margin=1),
        semihard,
    ),
    "soft all": ("triplet(soft=true)", "all", lambda: mean_triplets(0, smooth_loss=True), None),
    "soft hard": ("triplet(soft=true)", "hard", lambda: mean_triplets(0, smooth_loss=True), hard),
    "soft semihard": (
        "triplet(soft=true)",
        "semihard",
        lambda: mean_triplets(0, smooth_loss=True),
        semihard,
    ),
    "contrastive": (
        "contrastive(positive_margin=0.2,negative_margin=1.5)",
        "all",
        lambda: losses.ContrastiveLoss(0.2, 1.5, distance=SQUARED),
        None,
    ),
    "supcon": ("supcon(temperature=0.2)", "all", lambda: losses.SupConLoss(0.2), None),
    "multi_similarity": (
        "multi_similarity",
        "all",
        lambda: losses.MultiSimilarityLoss(2, 50, 0.5),
        miners.MultiSimilarityMiner(0.1),
    ),
    "circle": ("circle(scale=80,margin=0.4)", "all", lambda: losses.CircleLoss(0.4, 80), None),
    "normface": (
        "normface(scale=20)",
        "all",
        lambda: losses.NormalizedSoftmaxLoss(CLASSES, WIDTH, temperature=1 / 20),
        None,
    ),
    "arcface": (
        "arcface(scale=30,margin=0.5)",
        "all",
        lambda: losses.ArcFaceLoss(CLASSES, WIDTH, margin=np.rad2deg(0.5), scale=30),
        None,
    ),
    "cosface": (
        "cosface(scale=30,margin=0.35)",
        "all",
        lambda: losses.CosFaceLoss(CLASSES, WIDTH, margin=0.35, scale=30),
        None,
    ),
    "proxy_anchor": (
        "proxy_anchor(scale=32,margin=0.1)",
        "all",
        lambda: losses.ProxyAnchorLoss(CLASSES, WIDTH, margin=0.1, alpha=32),
        None,
    ),
}
PAIRS = ["contrastive", "supcon", "multi_similarity", "circle"]
each = pytest.mark.parametrize("case", CASES)


def points_of(seed, count):
    """Not of unit length; classes overlap."""
    return np.random.default_rng(seed).normal(size=(count, WIDTH)).astype(np.float32)


def batch_of(case, seed):
    """(points, labels) of which theirs and ours take the same triplets."""
    if "semihard" not in case:
        return points_of(seed, len(LABELS)), LABELS
    return 0.5 * points_of(seed, len(TWOS)) + np.eye(CLASSES, WIDTH, dtype=np.float32)[TWOS], TWOS


def our_loss(term, miner="all", centres=None):
    """Function of (points, labels) to the value, and the loss's own variables."""
    objective = make_objective(f"{term}:item", True, triplets=miner)
    objective.build({"item": np.arange(CLASSES)}, {"embedding": WIDTH})
    for variable in objective.variables:
        variable.assign(centres)

    def value(points, labels):
        embedding = tf.math.l2_normalize(points, axis=1)
        return objective({"embedding": embedding}, {"item": tf.cast(labels, tf.int32)})[0]

    return value, [tensor_of(variable) for variable in objective.variables]


def our_value(value, points, labels, variables=()):
    """(value, gradients by the points and the variables)."""
    points = tf.constant(points)
    with tf.GradientTape() as tape:
        tape.watch(points)
        loss = value(points, labels)
    return float(loss), [np.asarray(g) for g in tape.gradient(loss, [points, *variables])]


def their_value(case, points, labels, centres):
    *_, make, miner = CASES[case]
    loss, points = make(), torch.tensor(points, requires_grad=True)
    labels = torch.tensor(labels)
    parameters = list(loss.parameters())
    for parameter in parameters:
        # Theirs are columns but for the proxies.
        own = centres if parameter.shape == centres.shape else centres.T
        parameter.data = torch.tensor(own.copy())
    value = loss(points, labels, *([miner(points, labels)] if miner else []))
    value.backward()
    gradients = [points.grad.numpy()]
    for parameter in parameters:
        own = parameter.grad.numpy()
        gradients.append(own if own.shape == centres.shape else own.T)
    return float(value.detach()), gradients


def assert_equal(ours, other):
    assert ours[0] == pytest.approx(other[0], rel=1e-4, abs=1e-6)
    for one, two in zip(ours[1], other[1], strict=True):
        np.testing.assert_allclose(one, two, rtol=2e-3, atol=2e-4 * np.abs(two).max() + 1e-7)


def test_all_of_ours_that_they_have():
    """Theirs have no softmax on logits alone."""
    assert {term.split("(")[0] for term, *_ in CASES.values()} == set(
        registry.KINDS["loss"].own
    ) - {"softmax"}


@each
@pytest.mark.parametrize("seed", range(3))
def test_values_and_gradients_are_theirs(case, seed):
    (points, labels), centres = batch_of(case, seed), points_of(9 + seed, CLASSES)
    term, miner, *_ = CASES[case]
    value, variables = our_loss(term, miner, centres)
    found = our_value(value, points, labels, variables)
    assert_equal(found, their_value(case, points, labels, centres))
    assert found[0] > 0 and all(gradient.any() for gradient in found[1])


@each
def test_images_of_unknown_label_are_left_out(case):
    """To theirs -1 is a class like others, or an error: the same as they give without them."""
    (points, labels), centres = batch_of(case, 4), points_of(5, CLASSES)
    hidden = points_of(6, len(labels) + 2)
    hidden[1:-1] = points
    term, miner, *_ = CASES[case]
    value, variables = our_loss(term, miner, centres)
    loss, (by_points, *others) = our_value(value, hidden, [-1, *labels, -1], variables)
    assert not by_points[[0, -1]].any()
    assert_equal((loss, [by_points[1:-1], *others]), their_value(case, points, labels, centres))


@each
@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [1, 1, 1, 1]], ids=["no positive", "no negative"])
def test_batches_without_pairs_of_one_kind(case, labels):
    points, centres = points_of(7, 4), points_of(8, CLASSES)
    term, miner, *_ = CASES[case]
    value, variables = our_loss(term, miner, centres)
    loss, gradients = our_value(value, points, labels, variables)
    assert np.isfinite(loss) and all(np.isfinite(gradient).all() for gradient in gradients)
    other = their_value(case, points, labels, centres)
    if case == "supcon" and labels[0] == labels[1]:
        # Theirs is 0; the paper's sum over all other images is one over positives then.
        assert loss > 0 == other[0]
    else:
        assert_equal((loss, gradients), other)


@pytest.mark.parametrize("case", PAIRS)
def test_a_memory_is_their_cross_batch_memory(case):
    """Theirs has room for the batch as well, which it stores before it works out the loss.

    The gradient is another on purpose: theirs flows into the anchor of a pair only, as their
    images of the batch are taken from the memory too; ours into both images of a pair in the batch.
    Theirs of a batch beside a memory without a gradient is the same.
    """
    term, _, make, miner = CASES[case]
    inside = f"{term[:-1]},memory=8)" if term.endswith(")") else f"{term}(memory=8)"
    value, _ = our_loss(inside)
    memory, loss = losses.CrossBatchMemory(make(), WIDTH, 12, miner=miner), make()
    stored, stored_labels = np.zeros((0, WIDTH), np.float32), []
    for step, labels in enumerate([[0, 0, 1, 1], [1, 1, 2, 2], [0, 0, 2, 2], [3, 3, 1, 1]] * 2):
        points = points_of(20 + step, 4)
        found = our_value(value, points, labels)
        their_points, their_labels = torch.tensor(points), torch.tensor(labels)
        # The memory of theirs holds what it is given: of unit length, as ours.
        unit = torch.nn.functional.normalize(their_points)
        assert found[0] == pytest.approx(float(memory(unit, their_labels)), rel=1e-4)
        their_points.requires_grad_()
        columns = torch.cat([their_points, torch.tensor(stored)])
        column_labels = torch.tensor([*labels, *stored_labels])
        chosen = (
            miner(their_points, their_labels, columns, column_labels)
            if miner
            else pairs.get_all_pairs_indices(their_labels, column_labels)
        )
        chosen = pairs.remove_self_comparisons(chosen, torch.arange(4), len(columns))
        other = loss(their_points, their_labels, chosen, columns, column_labels)
        other.backward()
        assert_equal(found, (float(other.detach()), [their_points.grad.numpy()]))
        stored = np.concatenate([stored, unit.numpy()])[-8:]
        stored_labels = [*stored_labels, *labels][-8:]
