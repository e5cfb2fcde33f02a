"""Circle loss (Sun et al. 2020)."""

import tensorflow as tf

from fir_tf.losses.masked import log_sum_exp, masked_mean
from fir_tf.losses.pairs import PairLoss
from fir_tf.losses.triplet import similarities


class Circle(PairLoss):
    """Circle loss: pairs weigh more the farther they are from their optimum (Sun et al. 2020).

    For an anchor with the similarities p of its positives and n of its negatives, m the margin
    and g the scale, the paper's gamma (its Equations 5 and 6, with the one m of its Section 3.2):
    `log(1 + sum_n exp(g w_n (n - m)) sum_p exp(-g w_p (p - (1 - m))))` with the weights
    `w_p = max(0, 1 + m - p)` and `w_n = max(0, n + m)`, through which no gradient runs. The mean
    over anchors that have both.

    Options, with their defaults: `scale` (256) and `margin` (0.25), the paper's for faces; for
    birds, cars and products it takes 80 and 0.4; and `memory` (0 images), see
    `fir_tf.losses.pairs`.
    """

    options = {"scale": "(0, inf)", "margin": "(-1, 1)", **PairLoss.options}
    unit_length = True

    def of_pairs(
        self, rows: tf.Tensor, columns: tf.Tensor, positive: tf.Tensor, negative: tf.Tensor
    ) -> tf.Tensor:
        """Returns the loss, see the class."""
        scale, margin = self.option("scale", 256.0), self.option("margin", 0.25)
        similarity = similarities(rows, columns)
        constant = tf.stop_gradient(similarity)
        near = tf.nn.relu(1.0 + margin - constant) * (similarity - (1.0 - margin))
        far = tf.nn.relu(constant + margin) * (similarity - margin)
        anchors = tf.math.softplus(
            log_sum_exp(-scale * near, positive) + log_sum_exp(scale * far, negative)
        )
        both = tf.reduce_any(positive, axis=1) & tf.reduce_any(negative, axis=1)
        return masked_mean(anchors, both)
