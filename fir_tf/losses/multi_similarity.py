"""Multi-similarity loss with the mining of pairs (Wang et al. 2019)."""

import tensorflow as tf

from fir_tf.losses.loss import Loss, Scalars, TripletRows
from fir_tf.losses.masked import log_sum_exp, masked_mean
from fir_tf.losses.miners.hard import hardest
from fir_tf.losses.triplet import label_pairs, similarities


class MultiSimilarity(Loss):
    """Multi-similarity loss on the pairs it mines in the batch (Wang et al. 2019).

    Of an anchor's pairs, of similarity s, mining keeps the negatives with
    `s > min(s of its positives) - epsilon` and the positives with
    `s < max(s of its negatives) + epsilon` (Equations 11 and 12): none for an anchor that lacks
    either. The loss is the mean over images of known label of (Equation 15)
    `1/a log(1 + sum_positives exp(-a (s - base))) + 1/b log(1 + sum_negatives exp(b (s - base)))`
    with a the paper's alpha, b its beta and base its lambda.

    Options, with their defaults: `positive_scale` (a; 2), `negative_scale` (b; 50), `base` (0.5)
    and `epsilon` (0.1).
    """

    options = {
        "positive_scale": "(0, inf)",
        "negative_scale": "(0, inf)",
        "base": "[-1, 1]",
        "epsilon": "[0, inf)",
    }

    def __call__(
        self, values: tf.Tensor, labels: tf.Tensor, triplets: TripletRows | None = None
    ) -> Scalars:
        """Returns the loss."""
        similarity = similarities(values)
        positive, negative = label_pairs(labels)
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
        return {"loss": masked_mean(anchors, labels >= 0)}
