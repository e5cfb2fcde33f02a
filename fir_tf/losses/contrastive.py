"""Contrastive loss (Hadsell et al. 2006)."""

import tensorflow as tf

from fir_tf.losses.masked import masked_mean
from fir_tf.losses.pairs import PairLoss
from fir_tf.losses.triplet import squared_distances


class Contrastive(PairLoss):
    """Contrastive loss: pairs of one label near, others apart (Hadsell et al. 2006).

    For pairs at the squared L2 distance d the mean of `max(0, d - positive_margin)` over those of
    one label plus the mean of `max(0, negative_margin - d)` over those of two, each over the pairs
    that are not 0. Linear in d, as Wang et al. (2020) have it: of unit length, d is 2 - 2 cos, and
    their limit of the cosine of negatives, 0.5, the default. Hadsell et al. square the distance to
    a margin.

    Options, with their defaults: `positive_margin` (0), `negative_margin` (1) and `memory` (0
    images), see `fir_tf.losses.pairs`.
    """

    options = {
        "positive_margin": "[0, inf)",
        "negative_margin": "[0, inf)",
        **PairLoss.options,
    }

    def of_pairs(
        self, rows: tf.Tensor, columns: tf.Tensor, positive: tf.Tensor, negative: tf.Tensor
    ) -> tf.Tensor:
        """Returns the loss, see the class."""
        distance = squared_distances(rows, columns)
        near = tf.nn.relu(distance - self.option("positive_margin", 0.0))
        far = tf.nn.relu(self.option("negative_margin", 1.0) - distance)
        return masked_mean(near, positive & (near > 0)) + masked_mean(far, negative & (far > 0))
