"""Supervised contrastive loss (Khosla et al. 2020)."""

import tensorflow as tf

from fir_tf.losses.masked import log_sum_exp, masked_mean
from fir_tf.losses.pairs import PairLoss
from fir_tf.losses.triplet import similarities


class SupCon(PairLoss):
    """Supervised contrastive loss: a softmax over the batch (Khosla et al. 2020, Equation 2).

    For an anchor i with the positives P and all other images A of known label, z the embedding:
    `-1/|P| sum_P log(exp(z_i z_p / temperature) / sum_A exp(z_i z_a / temperature))`, the paper's
    "out". The paper sums over anchors; this is the mean over those with a positive.

    Options, with their defaults: `temperature` (0.1) and `memory` (0 images), see
    `fir_tf.losses.pairs`.
    """

    options = {"temperature": "(0, inf)", **PairLoss.options}
    unit_length = True

    def of_pairs(
        self, rows: tf.Tensor, columns: tf.Tensor, positive: tf.Tensor, negative: tf.Tensor
    ) -> tf.Tensor:
        """Returns the loss, see the class."""
        logits = similarities(rows, columns) / self.option("temperature", 0.1)
        total = log_sum_exp(logits, positive | negative)
        # Before what stands where there is no positive, which is huge, can be multiplied.
        minus_log = tf.where(positive, total[:, None] - logits, 0.0)
        count = tf.reduce_sum(tf.cast(positive, tf.float32), axis=1)
        anchors = tf.math.divide_no_nan(tf.reduce_sum(minus_log, axis=1), count)
        return masked_mean(anchors, count > 0)
