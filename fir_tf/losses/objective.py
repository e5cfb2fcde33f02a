"""alpha * OC + beta * (OS | IS), the paper's Equation 1."""

import dataclasses

import numpy as np
import tensorflow as tf

from fir_tf.config import parse_losses
from fir_tf.losses.triplet import explicit_triplet_loss, mined_triplet_loss


def classification_loss(
    logits: tf.Tensor, category: tf.Tensor, mask: tf.Tensor, smoothing: float = 0.0
) -> tuple[tf.Tensor, tf.Tensor]:
    """OC: mean softmax cross-entropy over the images with a known category.

    Args:
        logits: float [n, categories].
        category: int32 [n], -1 where unknown.
        mask: bool [n], the images it applies to (the anchors, in explicit triplets).
        smoothing: float in [0, 1), the share of the target that is spread evenly over all
            categories (Szegedy et al. 2016).

    Returns:
        (loss, accuracy), float32 scalars; 0 where no image takes part.
    """
    logits = tf.cast(logits, tf.float32)
    known = (category >= 0) & mask
    weight = tf.cast(known, tf.float32)
    target = tf.maximum(category, 0)
    values = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=target, logits=logits)
    if smoothing:
        even = -tf.reduce_mean(tf.nn.log_softmax(logits), axis=1)
        values = (1.0 - smoothing) * values + smoothing * even
    right = tf.cast(tf.equal(tf.argmax(logits, axis=1, output_type=tf.int32), target), tf.float32)
    count = tf.reduce_sum(weight)
    return (
        tf.math.divide_no_nan(tf.reduce_sum(values * weight), count),
        tf.math.divide_no_nan(tf.reduce_sum(right * weight), count),
    )


@dataclasses.dataclass(frozen=True)
class Objective:
    """The weighted sum of the losses on one batch.

    Attributes:
        losses: str, a sum of OC, OS and IS.
        alpha: float, the weight of OC.
        beta: float, the weight of each similarity loss.
        delta: float, the margin.
        triplets: "explicit" or a miner ("all", "semihard", "hard").
        label_smoothing: float, of OC.
    """

    losses: str
    alpha: float
    beta: float
    delta: float
    triplets: str
    label_smoothing: float = 0.0

    def __call__(
        self,
        logits: tf.Tensor,
        embedding: tf.Tensor,
        category: tf.Tensor,
        item: tf.Tensor,
        classified: np.ndarray,
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Computes the total and its parts.

        Args:
            logits: float [n, categories].
            embedding: float [n, d], L2-normalised.
            category: int32 [n], -1 where unknown.
            item: int32 [n], -1 where unknown.
            classified: numpy bool [n], where OC applies. With explicit triplets of t anchors the
                rows are [A | P | N], each t long, a second P and N following for a second
                similarity loss (IS first); images after them take part in OC only.

        Returns:
            (total, parts): float32 scalar, and dict of float32 scalars for the log.
        """
        kinds = parse_losses(self.losses)
        parts = {}
        total = tf.constant(0.0)
        if "OC" in kinds:
            parts["OC"], parts["category_accuracy"] = classification_loss(
                logits, category, classified, self.label_smoothing
            )
            total += self.alpha * parts["OC"]
        found = []
        for number, kind in enumerate(kind for kind in ("IS", "OS") if kind in kinds):
            labels = item if kind == "IS" else category
            if self.triplets == "explicit":
                result = self._explicit(embedding, labels, number, classified)
            else:
                result = mined_triplet_loss(embedding, labels, self.delta, self.triplets)
            parts[kind] = result.loss
            total += self.beta * result.loss
            found.append(result)
        if found:
            for name in ("active", "positive_distance", "negative_distance"):
                parts[name] = tf.add_n([getattr(result, name) for result in found]) / len(found)
        return total, parts

    def _explicit(self, embedding, labels, number, classified):
        # The rows that OC leaves out are the positives and the negatives of each kind.
        kinds = len([kind for kind in parse_losses(self.losses) if kind != "OC"])
        anchors = int(np.sum(~np.asarray(classified))) // (2 * kinds)
        at = anchors * (1 + 2 * number)
        anchor, positive, negative = (
            slice(0, anchors),
            slice(at, at + anchors),
            slice(at + anchors, at + 2 * anchors),
        )
        known = (labels[anchor] >= 0) & (labels[positive] >= 0) & (labels[negative] >= 0)
        valid = known & (labels[anchor] == labels[positive]) & (labels[anchor] != labels[negative])
        return explicit_triplet_loss(
            embedding[anchor], embedding[positive], embedding[negative], valid, self.delta
        )
