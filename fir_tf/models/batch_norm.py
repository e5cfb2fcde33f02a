"""Batch normalisation over TensorFlow's fused operation, and what it does in training."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from fir_tf.errors import FirError

# Of a thread: replicas are traced in one each, which take turns in the midst of a layer.
_statistics_kept = contextvars.ContextVar("statistics_kept", default=False)


@keras.saving.register_keras_serializable(package="fir_tf")
class FusedBatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` over TensorFlow's fused operation.

    The same arguments, variables and outputs; Keras 3 composes the layer of about eight passes
    over memory, the fused operation needs two (Ioffe and Szegedy 2015). The moving variance is
    that of torch, of Keras 2 and of the paper (algorithm 2): each batch enters it by its unbiased
    estimate, divided by n - 1 where Keras 3 divides by n. What the operation cannot do (input that
    is not 4-D with the channels last, a mask, renormalisation, float64) is left to the parent
    class, statistics and all.

    Args:
        frozen_statistics: bool. If True the layer normalises with the moving statistics and
            leaves them alone even when called with `training=True`, while gamma and beta stay
            trainable (`trainable = False` would freeze those as well). May be set at any time
            before a training step is traced.
        **kwargs: those of `keras.layers.BatchNormalization`. With `synchronized` the mean and
            variance in training are those of the batch over all replicas of a `tf.distribute`
            strategy. It may be set before a training step is traced, too.

    Input: float [batch, height, width, channels] or [batch, channels]; an empty batch leaves the
    statistics alone.
    Output: the same shape in the compute type; the statistics are float32 under mixed precision.
    """

    def __init__(self, *args: Any, frozen_statistics: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.frozen_statistics = bool(frozen_statistics)

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Makes the variables; the statistics of several replicas are averaged when read.

        Stock Keras lets every replica of a `tf.distribute` strategy keep its own and saves
        those of the first.
        """

        def averaged(create: Callable[..., tf.Variable], **kwargs: Any) -> tf.Variable:
            if not kwargs.get("trainable", True):
                kwargs["synchronization"] = tf.VariableSynchronization.ON_READ
                kwargs["aggregation"] = tf.VariableAggregation.MEAN
            return create(**kwargs)

        with tf.variable_creator_scope(averaged):
            super().build(input_shape)

    def call(
        self, inputs: tf.Tensor, training: bool | None = None, mask: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Normalises a batch of feature maps, or of features, which are maps of one place."""
        training = bool(training) and self.trainable and not self.frozen_statistics
        if mask is not None or not self._can_fuse(inputs):
            return super().call(inputs, training=training, mask=mask)
        if len(inputs.shape) == 2:
            return self._fused(inputs[:, None, None, :], training)[:, 0, 0, :]
        return self._fused(inputs, training)

    def _fused(self, inputs: tf.Tensor, training: bool) -> tf.Tensor:
        channels = inputs.shape[-1]
        mean = tf.cast(self.moving_mean, tf.float32)
        variance = tf.cast(self.moving_variance, tf.float32)
        scale = tf.cast(self.gamma, tf.float32) if self.scale else tf.ones((channels,))
        offset = tf.cast(self.beta, tf.float32) if self.center else tf.zeros((channels,))
        count = tf.cast(tf.size(inputs, tf.int64) // channels, tf.float32)
        if training and self.synchronized:
            images = tf.cast(inputs, tf.float32)
            count, batch_mean, batch_variance = _moments_over_replicas(images, count)
            outputs = tf.nn.batch_normalization(
                images, batch_mean, batch_variance, offset, scale, self.epsilon
            )
            batch_variance *= count / tf.maximum(count - 1.0, 1.0)
        else:
            outputs, batch_mean, batch_variance, *_ = tf.raw_ops.FusedBatchNormV3(
                x=inputs,
                scale=scale,
                offset=offset,
                # Empty in training: the operation then returns the statistics of the batch.
                mean=tf.zeros((0,)) if training else mean,
                variance=tf.zeros((0,)) if training else variance,
                epsilon=self.epsilon,
                is_training=training,
            )
        if training and not _statistics_kept.get():
            for moving, old, new in (
                (self.moving_mean, mean, batch_mean),
                (self.moving_variance, variance, batch_variance),
            ):
                updated = old * self.momentum + new * (1.0 - self.momentum)
                # Of nothing the operation makes NaN.
                moving.assign(tf.where(count > 0, updated, old))
        return tf.cast(outputs, self.compute_dtype)

    def _can_fuse(self, inputs: tf.Tensor) -> bool:
        last = len(inputs.shape) - 1
        return (
            last in (1, 3)
            # Keras 2 makes it a list.
            and self.axis in (-1, last, [last])
            and inputs.shape[-1] is not None
            and inputs.dtype in ("float32", "bfloat16", "float16")
            # Keras has had it since 3.12 only.
            and not getattr(self, "renorm", False)
        )

    def get_config(self) -> dict[str, Any]:
        """The arguments, as Keras saves them."""
        return {**super().get_config(), "frozen_statistics": self.frozen_statistics}


def _moments_over_replicas(
    images: tf.Tensor, count: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Statistics of a batch that is spread over the replicas, differentiable.

    Args:
        images: float32 [batch, height, width, channels], this replica's share.
        count: float32, the values of a channel in it.

    Returns:
        count: float32, the values of a channel on all replicas.
        mean, variance: float32 [channels], the biased variance. Zero if there is nothing.
    """
    context = tf.distribute.get_replica_context()

    def total(value: tf.Tensor) -> tf.Tensor:
        # Outside of `Strategy.run` there is one share, the whole.
        return context.all_reduce(tf.distribute.ReduceOp.SUM, value) if context else value

    count = total(count)
    divisor = tf.maximum(count, 1.0)
    mean = total(tf.reduce_sum(images, (0, 1, 2))) / divisor
    # Around the mean of all: the difference of two large sums would lose the digits.
    variance = total(tf.reduce_sum(tf.square(images - mean), (0, 1, 2))) / divisor
    return count, mean, variance


@contextlib.contextmanager
def statistics_kept() -> Iterator[None]:
    """Within it batches that `FusedBatchNormalization` normalises do not enter its statistics.

    They are normalised with their own mean and variance all the same.
    """
    token = _statistics_kept.set(True)
    try:
        yield
    finally:
        _statistics_kept.reset(token)


def set_batch_norm(model: keras.Model, mode: str) -> int:
    """Sets what every `FusedBatchNormalization` of `model` does in training.

    gamma and beta stay trainable. Call it before a training step is traced.

    Args:
        model: keras.Model; nested models are entered.
        mode: "frozen" normalises with the moving statistics and leaves them alone; "batch" takes
            the statistics of each replica's share of the batch, "synchronized" those of the whole
            batch, and both update the moving ones.

    Returns:
        int, the number of layers found.

    Raises:
        FirError: for another mode, or if there is a stock batch normalisation layer, which cannot
            be set so.
    """
    if mode not in ("frozen", "batch", "synchronized"):
        raise FirError(
            f"`batch_norm` must be one of frozen, batch, synchronized. Received: {mode!r}"
        )
    found = 0
    for layer in model._flatten_layers():
        if isinstance(layer, FusedBatchNormalization):
            layer.frozen_statistics = mode == "frozen"
            layer.synchronized = mode == "synchronized"
            found += 1
        elif isinstance(layer, keras.layers.BatchNormalization):
            raise FirError(
                "`model` must have no keras.layers.BatchNormalization: "
                f"call with_faster_layers first. Received: a model with layer {layer.name}"
            )
    return found
