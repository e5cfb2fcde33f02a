"""Proxy-Anchor loss (Kim et al. 2020)."""

import tensorflow as tf

from fir_tf.losses.masked import log_sum_exp, masked_mean
from fir_tf.losses.normface import ClassCentreLoss


class ProxyAnchor(ClassCentreLoss):
    """Proxy-Anchor loss: learned proxies of classes against the batch (Kim et al. 2020).

    The mean over the proxies that have an image in the batch of
    `log(1 + sum_own exp(-scale (cos - margin)))`, plus the mean over all proxies of
    `log(1 + sum_others exp(scale (cos + margin)))`, with the cosines of the proxy to the images of
    its class and of other classes (its Equation 4; its alpha is the scale, its delta the margin).

    Options, with their defaults: `scale` (32) and `margin` (0.1).
    """

    options = {"scale": "(0, inf)", "margin": "[0, inf)"}

    def of_cosines(self, cosine: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """Returns the loss, see the class."""
        scale, margin = self.option("scale", 32.0), self.option("margin", 0.1)
        own = tf.one_hot(labels, tf.shape(cosine)[1], on_value=True, off_value=False)
        other = ~own & (labels >= 0)[:, None]
        pulled = tf.math.softplus(log_sum_exp(-scale * (cosine - margin), own, axis=0))
        pushed = tf.math.softplus(log_sum_exp(scale * (cosine + margin), other, axis=0))
        return masked_mean(pulled, tf.reduce_any(own, axis=0)) + tf.reduce_mean(pushed)
