"""Supervised contrastive loss (Khosla et al. 2020)."""

import tensorflow as tf

from fir_tf.losses.loss import Loss, Scalars, TripletRows
from fir_tf.losses.masked import log_sum_exp, masked_mean
from fir_tf.losses.triplet import label_pairs, similarities


class SupCon(Loss):
    """Supervised contrastive loss: a softmax over the batch (Khosla et al. 2020, Equation 2).

    For an anchor i with the positives P and all other images A of known label, z the embedding:
    `-1/|P| sum_P log(exp(z_i z_p / temperature) / sum_A exp(z_i z_a / temperature))`, the paper's
    "out". The paper sums over anchors; this is the mean over those with a positive.

    Options: `temperature`, 0.1 by default.
    """

    options = {"temperature": "(0, inf)"}

    def __call__(
        self, values: tf.Tensor, labels: tf.Tensor, triplets: TripletRows | None = None
    ) -> Scalars:
        """Returns the loss."""
        logits = similarities(values) / self.option("temperature", 0.1)
        positive, negative = label_pairs(labels)
        total = log_sum_exp(logits, positive | negative)
        # Before what stands where there is no positive, which is huge, can be multiplied.
        minus_log = tf.where(positive, total[:, None] - logits, 0.0)
        count = tf.reduce_sum(tf.cast(positive, tf.float32), axis=1)
        anchors = tf.math.divide_no_nan(tf.reduce_sum(minus_log, axis=1), count)
        return {"loss": masked_mean(anchors, count > 0)}
