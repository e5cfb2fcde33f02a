"""The losses for `model.compile`, with tensorflow-addons' names and meanings where it had them.

Each is a `keras.losses.Loss` of labels and what the model puts out. All compute in float32
whatever the model's precision is, and return float32.

What a loss of pairs or triplets sees is the batch it is given. Under a `tf.distribute` strategy
that is a replica's share of the global batch: let `batch_size / replicas` rows hold what a loss
needs (a P x K batch each), or the triplets are few. The gradient is the mean over the replicas.

All take `name`, how logs call it, and `reduction`, as Keras has it; by default the mean over the
rows. A row is an anchor or, of `ContrastiveLoss`, a pair: `sample_weight` weighs what it adds, and
says nothing about it as another's positive or negative.

Embeddings or distances that are not finite are refused when run eagerly; in a graph they give a
loss that is not finite either, see `keras.callbacks.TerminateOnNaN`.
"""

from typing import Any

import keras
import tensorflow as tf

from fir_tf import registry
from fir_tf.errors import FirError
from fir_tf.keras.arguments import (
    check_below,
    check_binary,
    check_number,
    classes_of,
    distances_of,
    embeddings_of,
    labels_of,
    similarities_of,
)
from fir_tf.keras.distances import Metric, check_metric, pairwise
from fir_tf.keras_versions import RowLoss
from fir_tf.losses.grammar import LossSettings, Term
from fir_tf.losses.miners.hard import hardest
from fir_tf.losses.miners.semihard import semihard_gap
from fir_tf.losses.normface import SCALE, ClassCentreLoss
from fir_tf.losses.objective import make_losses
from fir_tf.losses.triplet import label_pairs, mined_triplet_loss

MEAN = "sum_over_batch_size"
"""Keras' name of the mean over the rows."""

NEVER = tf.float32.min / 4
"""A logarithm of nothing that can be added up: its exponential is 0, and so is its gradient."""


def row_shares(values: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """Returns rows with the mean `sum(values) / count`, zeros where the count is 0."""
    rows = tf.cast(tf.shape(values)[0], tf.float32)
    return tf.math.divide_no_nan(values * rows, tf.cast(count, tf.float32))


def all_pairs(labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns (positive, negative), bool [n, n] each; every label is known, -1 as well."""
    return label_pairs(labels, known=tf.ones_like(labels, tf.bool))


class _Metric(RowLoss):
    """A loss with a margin in a distance of choice."""

    def __init__(self, margin: float, distance_metric: Metric, name: str | None, reduction: str):
        super().__init__(name=name, reduction=reduction)
        self.margin = check_number("margin", margin)
        self.distance_metric = check_metric(distance_metric)

    def _look(self, y_true: Any, y_pred: Any) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The distances of the batch and its pairs, (distance, positive, negative)."""
        embedding = embeddings_of(y_pred)
        positive, negative = all_pairs(labels_of(y_true, embedding))
        return pairwise(embedding, self.distance_metric), positive, negative

    def get_config(self) -> dict[str, Any]:
        """Returns what the loss is made again from."""
        metric = self.distance_metric
        if callable(metric):
            metric = keras.saving.serialize_keras_object(metric)
        return {**super().get_config(), "margin": self.margin, "distance_metric": metric}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "_Metric":
        """Returns the loss that `get_config` described."""
        metric = config["distance_metric"]
        if not isinstance(metric, str):
            metric = keras.saving.deserialize_keras_object(metric)
        return cls(**{**config, "distance_metric": metric})


@keras.saving.register_keras_serializable(package="fir_tf")
class TripletSemiHardLoss(_Metric):
    """Triplet loss over each pair's nearest negative beyond the positive (Schroff et al. 2015).

    `max(0, margin + d(a, p) - d(a, n))` with the nearest negative n farther than p, or the
    farthest negative where none is; mean over the pairs (a, p) of the batch. 0 in a batch without
    a triplet.

    `y_true`: integers [n] or [n, 1]; every value is a class. `y_pred`: float [n, d], embeddings,
    L2-normalised as a rule (`keras.layers.UnitNormalization`).

    Args:
        margin: float, in units of the distance.
        distance_metric: "L2" (the length of the difference), "squared-L2", "angular" (1 - the
            cosine), or a callable from embeddings float32 [n, d] to distances [n, n]. A model with
            a callable is saved if that is registered with Keras.
        name: see the module.
        reduction: see the module.

    Raises:
        FirError: an argument is none of these; labels or embeddings of another shape.
    """

    def __init__(
        self,
        margin: float = 1.0,
        distance_metric: Metric = "L2",
        name: str | None = None,
        reduction: str = MEAN,
    ) -> None:
        super().__init__(margin, distance_metric, name, reduction)

    def call(self, y_true: Any, y_pred: Any) -> tf.Tensor:
        """Returns float32 [n], what each anchor adds."""
        gap, usable = semihard_gap(*self._look(y_true, y_pred))
        hinge, usable = tf.nn.relu(gap + self.margin), tf.cast(usable, tf.float32)
        return row_shares(tf.reduce_sum(hinge * usable, axis=1), tf.reduce_sum(usable))


@keras.saving.register_keras_serializable(package="fir_tf")
class TripletHardLoss(_Metric):
    """Triplet loss over each anchor's farthest positive and nearest negative (Hermans et al. 2017).

    `max(0, margin + d(a, p) - d(a, n))`, or `log(1 + exp(d(a, p) - d(a, n)))` if `soft`; mean over
    the anchors. As in tensorflow-addons an anchor without a positive counts, with the least
    distance of its row, which is 0, to itself. 0 in a batch without a triplet.

    `y_true` and `y_pred` as for `TripletSemiHardLoss`.

    Args:
        margin: float, in units of the distance; not used if `soft`.
        soft: bool, whether to take the soft margin.
        distance_metric: as for `TripletSemiHardLoss`.
        name: see the module.
        reduction: see the module.

    Raises:
        FirError: an argument is none of these; labels or embeddings of another shape.
    """

    def __init__(
        self,
        margin: float = 1.0,
        soft: bool = False,
        distance_metric: Metric = "L2",
        name: str | None = None,
        reduction: str = MEAN,
    ) -> None:
        super().__init__(margin, distance_metric, name, reduction)
        self.soft = bool(soft)

    def call(self, y_true: Any, y_pred: Any) -> tf.Tensor:
        """Returns float32 [n], what each anchor adds."""
        distance, positive, negative = self._look(y_true, y_pred)
        far, near = hardest(distance, positive, negative)
        paired = ~tf.math.is_inf(far)
        far = tf.where(paired, far, tf.reduce_min(distance, axis=1))
        rows = tf.nn.softplus(far - near) if self.soft else tf.nn.relu(far - near + self.margin)
        return tf.where(tf.reduce_any(paired), rows, 0.0)

    def get_config(self) -> dict[str, Any]:
        """Returns what the loss is made again from."""
        return {**super().get_config(), "soft": self.soft}


@keras.saving.register_keras_serializable(package="fir_tf")
class LiftedStructLoss(RowLoss):
    """Lifted structured loss (Song et al. 2016), in the length of the difference.

    Mean over the pairs (i, j) of `max(0, J)^2 / 2` with `J = d(i, j) + log(sum exp(margin -
    d(i, k)) + sum exp(margin - d(j, k)))` over the negatives k of i and of j. 0 in a batch
    without a triplet.

    `y_true`: integers [n] or [n, 1]; every value is a class. `y_pred`: float [n, d], embeddings,
    not L2-normalised as a rule.

    Args:
        margin: float, a distance.
        name: see the module.
        reduction: see the module.

    Raises:
        FirError: `margin` is no number; labels or embeddings of another shape.
    """

    def __init__(self, margin: float = 1.0, name: str | None = None, reduction: str = MEAN) -> None:
        super().__init__(name=name, reduction=reduction)
        self.margin = check_number("margin", margin)

    def call(self, y_true: Any, y_pred: Any) -> tf.Tensor:
        """Returns float32 [n], what each example adds by its pairs."""
        embedding = embeddings_of(y_pred)
        positive, negative = all_pairs(labels_of(y_true, embedding))
        distance = pairwise(embedding, "L2")
        near = tf.reduce_logsumexp(tf.where(negative, self.margin - distance, NEVER), axis=1)
        lifted = near[:, None] + tf.nn.softplus(near[None, :] - near[:, None]) + distance
        positive = tf.cast(positive, tf.float32)
        pairs = tf.square(tf.nn.relu(lifted)) * positive
        return row_shares(tf.reduce_sum(pairs, axis=1), 2.0 * tf.reduce_sum(positive))

    def get_config(self) -> dict[str, Any]:
        """Returns what the loss is made again from."""
        return {**super().get_config(), "margin": self.margin}


@keras.saving.register_keras_serializable(package="fir_tf")
class ContrastiveLoss(RowLoss):
    """Contrastive loss of pairs (Hadsell et al. 2006).

    `d^2` for a pair of one class, `max(0, margin - d)^2` for another.

    `y_true`: [n] or [n, 1], 1 for a pair of one class, else 0. `y_pred`: float [n] or [n, 1], the
    distance of each pair.

    Args:
        margin: float, a distance.
        reduction: see the module.
        name: see the module.

    Raises:
        FirError: `margin` is no number; labels or distances of another shape.
    """

    def __init__(
        self, margin: float = 1.0, reduction: str = MEAN, name: str = "contrastive_loss"
    ) -> None:
        super().__init__(name=name, reduction=reduction)
        self.margin = check_number("margin", margin)

    def call(self, y_true: Any, y_pred: Any) -> tf.Tensor:
        """Returns float32 [n], the loss of each pair."""
        distance = distances_of(y_pred)
        same = tf.cast(labels_of(y_true, distance), tf.float32)
        check_binary(same, "1 for a pair of one class, else 0")
        apart = tf.square(tf.nn.relu(self.margin - distance))
        return same * tf.square(distance) + (1.0 - same) * apart

    def get_config(self) -> dict[str, Any]:
        """Returns what the loss is made again from."""
        return {**super().get_config(), "margin": self.margin}


@keras.saving.register_keras_serializable(package="fir_tf")
class NpairsLoss(RowLoss):
    """N-pairs loss (Sohn 2016): cross-entropy of similarities against who is of one class.

    Row i's target is spread evenly over the columns of its class, i among them.

    `y_true`: integers [n] or [n, 1]; every value is a class. `y_pred`: float [n, n], the
    similarities of n examples to n others of the same labels, such as
    `tf.matmul(a, b, transpose_b=True)`.

    Args:
        name: see the module.
        reduction: see the module.

    Raises:
        FirError: labels or similarities of another shape.
    """

    def __init__(self, name: str = "npairs_loss", reduction: str = MEAN) -> None:
        super().__init__(name=name, reduction=reduction)

    def call(self, y_true: Any, y_pred: Any) -> tf.Tensor:
        """Returns float32 [n], the cross-entropy of each row."""
        similarity = similarities_of(y_pred)
        labels = labels_of(y_true, similarity)
        same = tf.cast(labels[:, None] == labels[None, :], tf.float32)
        target = same / tf.reduce_sum(same, axis=1, keepdims=True)
        return tf.nn.softmax_cross_entropy_with_logits(target, similarity)


@keras.saving.register_keras_serializable(package="fir_tf")
class NpairsMultilabelLoss(RowLoss):
    """N-pairs loss of examples with several classes each, or none.

    Row i's target is spread over the columns by the number of classes that they share with i.
    A row without a class takes no part.

    `y_true`: 0 and 1, [n, classes], a tensor or a tf.SparseTensor. `y_pred`: float [n, n], as for
    `NpairsLoss`.

    Args:
        name: see the module.
        reduction: see the module.

    Raises:
        FirError: labels or similarities of another shape.
    """

    def __init__(self, name: str = "npairs_multilabel_loss", reduction: str = MEAN) -> None:
        super().__init__(name=name, reduction=reduction)

    def call(self, y_true: Any, y_pred: Any) -> tf.Tensor:
        """Returns float32 [n], the cross-entropy of each row."""
        similarity = similarities_of(y_pred)
        classes = classes_of(y_true, similarity)
        shared = tf.matmul(classes, classes, transpose_b=True)
        total = tf.reduce_sum(shared, axis=1, keepdims=True)
        target = tf.math.divide_no_nan(shared, total)
        labelled = tf.cast(total[:, 0] > 0.0, tf.float32)
        rows = tf.nn.softmax_cross_entropy_with_logits(target, similarity)
        return row_shares(rows * labelled, tf.reduce_sum(labelled))


class _BatchLoss(RowLoss):
    """A loss that is one number for a batch, in which rows have no weights."""

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> tf.Tensor:
        """Returns the loss of a batch, float32.

        Raises:
            FirError: for weights of rows.
        """
        if sample_weight is not None:
            raise FirError(
                f"{type(self).__name__} takes no `sample_weight`: leave rows out by the label -1"
            )
        return super().__call__(y_true, y_pred)


@keras.saving.register_keras_serializable(package="fir_tf")
class TripletLoss(_BatchLoss):
    """The triplet loss that fir_tf trains with, in squared L2 distance.

    `max(0, margin + d(a, p) - d(a, n))`, or `log(1 + exp(d(a, p) - d(a, n)))` if `soft`, over the
    triplets that a miner finds in the batch; 0 where there is none.

    `y_true`: integers [n] or [n, 1], below 0 where unknown: such a row takes no part. `y_pred`:
    float [n, d], embeddings, L2-normalised as a rule (`keras.layers.UnitNormalization`). Takes no
    `sample_weight`.

    Args:
        margin: float, a squared distance; not used if `soft`.
        miner: str, a registered one: "all" takes the mean over the triplets that are not 0
            (Hermans et al. 2017), "semihard" and "hard" one triplet for each pair or anchor.
        soft: bool, whether to take the soft margin.
        name: see the module.
        reduction: see the module.

    Raises:
        FirError: an argument is none of these; labels or embeddings of another shape.
    """

    def __init__(
        self,
        margin: float = 0.3,
        miner: str = "all",
        soft: bool = False,
        name: str = "triplet_loss",
        reduction: str = MEAN,
    ) -> None:
        super().__init__(name=name, reduction=reduction)
        self.margin = check_number("margin", margin)
        registry.check("miner", miner, "miner")
        self.miner, self.soft = miner, bool(soft)

    def call(self, y_true: Any, y_pred: Any) -> tf.Tensor:
        """Returns float32 [n], the loss of the batch for each row."""
        embedding = embeddings_of(y_pred)
        labels = labels_of(y_true, embedding)
        margin = None if self.soft else self.margin
        loss = mined_triplet_loss(embedding, labels, margin, self.miner).loss
        return tf.fill(tf.shape(labels), loss)

    def get_config(self) -> dict[str, Any]:
        """Returns what the loss is made again from."""
        config = {"margin": self.margin, "miner": self.miner, "soft": self.soft}
        return {**super().get_config(), **config}


@keras.saving.register_keras_serializable(package="fir_tf")
class RegisteredLoss(_BatchLoss):
    """A loss that fir_tf trains with, by its name: "supcon", "circle", "arcface" or a plugin's.

    `python -m fir_tf parts` lists them; each says its formula, source and options in the API.

    `y_true`: integers [n] or [n, 1], below 0 where unknown: such a row takes no part. `y_pred`:
    float [n, d], L2-normalised embeddings (`keras.layers.UnitNormalization`); for losses with class
    centres, such as "arcface", float [n, classes], what `fir_tf.keras.layers.ClassCentres` puts
    out. Takes no `sample_weight`.

    Args:
        loss: str, a registered loss on embeddings.
        options: dict of float or bool by name, the loss's options; its defaults for those not
            given. No `memory`: a Keras loss has no place for one that is saved with the model, and
            it would take in the batches of `evaluate` too. `train.py` has it.
        name: see the module; the loss's name when not given.
        reduction: see the module.

    Raises:
        FirError: there is no such loss, it reads no embeddings, an option that it lacks, or a
            memory.
    """

    def __init__(
        self,
        loss: str,
        options: dict[str, float] | None = None,
        name: str | None = None,
        reduction: str = MEAN,
    ) -> None:
        super().__init__(name=name or loss, reduction=reduction)
        self.loss = loss
        self.options = {key: check_number(key, value) for key, value in (options or {}).items()}
        if self.options.get("memory"):
            raise FirError(
                "`memory` needs train.py (--losses), which saves it: a Keras loss has nothing that "
                f"is saved with the model. Received: {self.options['memory']:g}"
            )
        label = registry.get("loss", loss).labels[0]
        term = Term(loss, loss, label, options=tuple(self.options.items()))
        (self._part,) = make_losses([term], LossSettings())
        centres = isinstance(self._part, ClassCentreLoss)
        if self._part.output != "embedding" or (self._part.has_classes and not centres):
            raise FirError(
                f"`loss` must be one on embeddings, or on class centres. Received: {loss!r}"
            )

    def call(self, y_true: Any, y_pred: Any) -> tf.Tensor:
        """Returns float32 [n], the loss of the batch for each row."""
        values = embeddings_of(y_pred)
        labels = tf.cast(labels_of(y_true, values), tf.int32)
        if isinstance(self._part, ClassCentreLoss):
            check_below(labels, values.shape[1])
            loss = self._part.of_cosines(values, labels)
        else:
            loss = self._part(values, labels)["loss"]
        return tf.fill(tf.shape(labels), loss)

    def get_config(self) -> dict[str, Any]:
        """Returns what the loss is made again from."""
        return {**super().get_config(), "loss": self.loss, "options": self.options}


@keras.saving.register_keras_serializable(package="fir_tf")
class NormFaceLoss(RegisteredLoss):
    """Softmax over cosines to learned class centres (Wang et al. 2017; Zhai and Wu 2019).

    `y_true`: integers [n] or [n, 1] below the number of classes; below 0 where unknown: such a row
    takes no part. `y_pred`: float [n, classes], what `fir_tf.keras.layers.ClassCentres` puts out.
    Takes no `sample_weight`.

    Args:
        scale: float, what cosines are multiplied with.
        label_smoothing: float in [0, 1), the share of the target spread evenly over all classes.
        name: see the module.
        reduction: see the module.

    Raises:
        FirError: an argument is none of these; labels or cosines of another shape.
    """

    def __init__(
        self,
        scale: float = SCALE,
        label_smoothing: float = 0.0,
        name: str = "normface_loss",
        reduction: str = MEAN,
    ) -> None:
        smoothing = check_number("label_smoothing", label_smoothing, least=0.0)
        options = {"scale": scale, "label_smoothing": smoothing}
        super().__init__("normface", options, name, reduction)

    def get_config(self) -> dict[str, Any]:
        """Returns what the loss is made again from."""
        return {**_BatchLoss.get_config(self), **self.options}
