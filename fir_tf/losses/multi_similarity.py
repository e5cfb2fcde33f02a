"""Multi-similarity loss with the mining of pairs (Wang et al. 2019)."""

import tensorflow as tf

from fir_tf.losses.masked import log_sum_exp, masked_mean
from fir_tf.losses.miners.hard import hardest
from fir_tf.losses.pairs import PairLoss
from fir_tf.losses.triplet import similarities


class MultiSimilarity(PairLoss):
    """Multi-similarity loss on the pairs it mines in the batch (Wang et al. 2019).

    Of an anchor's pairs, of similarity s, mining keeps the negatives with
    `s > min(s of its positives) - epsilon` and the positives with
    `s < max(s of its negatives) + epsilon` (its paragraph on pair mining): none for an anchor that
    lacks either. The loss is the mean over images of known label of (that on pair weighting)
    `1/a log(1 + sum_positives exp(-a (s - base))) + 1/b log(1 + sum_negatives exp(b (s - base)))`
    with a the paper's alpha, b its beta and base its lambda.

    Options, with their defaults: `positive_scale` (a; 2), `negative_scale` (b; 50), `base` (0.5),
    `epsilon` (0.1) and `memory` (0 images), see `fir_tf.losses.pairs`.
    """

    options = {
        "positive_scale": "(0, inf)",
        "negative_scale": "(0, inf)",
        "base": "[-1, 1]",
        "epsilon": "[0, inf)",
        **PairLoss.options,
    }

    unit_length = True

    def of_pairs(
        self, rows: tf.Tensor, columns: tf.Tensor, positive: tf.Tensor, negative: tf.Tensor
    ) -> tf.Tensor:
        """Returns the loss, see the class."""
        similarity = similarities(rows, columns)
        # Each image of known label is in a pair with every other one.
        known = tf.reduce_any(positive | negative, axis=1)
        epsilon = self.option("epsilon", 0.1)
        farthest, nearest = (-limit for limit in hardest(-similarity, positive, negative))
        positive &= similarity < nearest[:, None] + epsilon
        negative &= similarity > farthest[:, None] - epsilon
        above = similarity - self.option("base", 0.5)
        anchors = tf.add_n(
            [
                tf.math.softplus(log_sum_exp(scale * above, mask)) / abs(scale)
                for scale, mask in (
                    (-self.option("positive_scale", 2.0), positive),
                    (self.option("negative_scale", 50.0), negative),
                )
            ]
        )
        return masked_mean(anchors, known)
