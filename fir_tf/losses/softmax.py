"""Cross-entropy on the model's category output: the paper's OC."""

import tensorflow as tf

from fir_tf.losses.loss import ANY, Loss, Scalars, TripletRows
from fir_tf.losses.masked import masked_mean


def accuracy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Returns the share of rows whose largest logit is their label's, 0 where none is known.

    Args:
        logits: float [n, classes].
        labels: int32 [n], -1 where unknown.
    """
    return masked_mean(
        tf.cast(tf.equal(tf.argmax(logits, axis=1, output_type=tf.int32), labels), tf.float32),
        labels >= 0,
    )


def cross_entropy(
    logits: tf.Tensor, labels: tf.Tensor, smoothing: float = 0.0
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean softmax cross-entropy over the rows with a known label.

    Args:
        logits: float [n, classes].
        labels: int32 [n], -1 where unknown.
        smoothing: float in [0, 1), the share of the target that is spread evenly over all
            classes (Szegedy et al. 2016).

    Returns:
        (loss, accuracy), float32 scalars; 0 where no row takes part.
    """
    logits = tf.cast(logits, tf.float32)
    target = tf.maximum(labels, 0)
    values = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=target, logits=logits)
    if smoothing:
        even = -tf.reduce_mean(tf.nn.log_softmax(logits), axis=1)
        values = (1.0 - smoothing) * values + smoothing * even
    return masked_mean(values, labels >= 0), accuracy(logits, labels)


class Softmax(Loss):
    """Softmax cross-entropy on the relaxation head's logits (PAPER: Equation 1)."""

    output = "logits"
    labels = ("category",)
    options = {"label_smoothing": "[0, 1)"}
    sampler = ANY

    def __call__(
        self, values: tf.Tensor, labels: tf.Tensor, triplets: TripletRows | None = None
    ) -> Scalars:
        """Returns the loss and the share of the images that are classified right."""
        smoothing = self.option("label_smoothing", self.settings.label_smoothing)
        loss, accuracy = cross_entropy(values, labels, smoothing)
        return {"loss": loss, "category_accuracy": accuracy}
