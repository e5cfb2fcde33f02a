"""Layers the backbones are built from, faster or wider than stock Keras ones."""

import functools

import keras
import tensorflow as tf

from fir_tf.errors import FirError


@keras.saving.register_keras_serializable(package="fir_tf")
class PixelNormalisation(keras.layers.Layer):
    """Maps RGB pixels in [0, 255] to what a backbone's weights expect.

    output = (pixels - mean) / std, channel by channel, after reversing the channels to BGR if
    `bgr`. Computes in float32 also under mixed precision: bfloat16 keeps 8 bits, the pixels'
    differences would be gone before the first convolution.

    Args:
        mean: 3 floats on the 0..255 scale, in the order of the output channels.
        std: 3 positive floats, likewise.
        bgr: bool, whether the output channels are blue, green, red.

    Input: [batch, height, width, 3], any number type. Output: the same shape, float32.
    """

    def __init__(self, mean, std, bgr=False, dtype="float32", **kwargs):
        super().__init__(dtype=dtype, **kwargs)
        for name, value in (("mean", mean), ("std", std)):
            if len(value) != 3 or (name == "std" and min(value) <= 0):
                raise FirError(f"`{name}` must be three numbers, `std` positive. Received: {value}")
        self.mean = tuple(float(value) for value in mean)
        self.std = tuple(float(value) for value in std)
        self.bgr = bool(bgr)

    def call(self, inputs):
        """Normalises a batch of images."""
        pixels = tf.cast(inputs, self.compute_dtype)
        if self.bgr:
            pixels = tf.reverse(pixels, axis=[-1])
        mean = tf.constant(self.mean, pixels.dtype)
        return (pixels - mean) * tf.constant([1.0 / std for std in self.std], pixels.dtype)

    def compute_output_shape(self, input_shape):
        """The input's shape."""
        return input_shape

    def get_config(self):
        """The arguments, as Keras saves them."""
        return {**super().get_config(), "mean": self.mean, "std": self.std, "bgr": self.bgr}


@functools.cache
def _grouped_gradient_is_native():
    """Whether TensorFlow can differentiate a grouped convolution on the devices of this process.

    GPU and TPU kernels can. On CPU the oneDNN kernels can, while the plain ones compute the
    convolution but refuse its gradient (other processors, TF_ENABLE_ONEDNN_OPTS=0).
    """
    with tf.init_scope():
        if any(device.device_type != "CPU" for device in tf.config.list_logical_devices()):
            return True
        images, kernel = tf.ones((1, 3, 3, 4)), tf.ones((3, 3, 2, 4))
        options = {"out_backprop": images, "strides": [1, 1, 1, 1], "padding": "SAME"}
        # The operations themselves: nothing is recorded for a tape in an init_scope.
        try:
            tf.raw_ops.Conv2DBackpropInput(input_sizes=(1, 3, 3, 4), filter=kernel, **options)
            tf.raw_ops.Conv2DBackpropFilter(input=images, filter_sizes=(3, 3, 2, 4), **options)
        except tf.errors.OpError:
            return False
        return True


def _grouped_convolution_with_split_gradient(images, kernel, groups, strides, padding):
    """A grouped convolution whose gradient is computed one group at a time."""

    @tf.custom_gradient
    def convolution(images, kernel):
        def gradient(upstream):
            options = {"strides": [1, strides, strides, 1], "padding": padding}
            of_images, of_kernel = [], []
            for image, weight, up in zip(
                tf.split(images, groups, -1),
                tf.split(kernel, groups, -1),
                tf.split(upstream, groups, -1),
                strict=True,
            ):
                of_images.append(
                    tf.raw_ops.Conv2DBackpropInput(
                        input_sizes=tf.shape(image), filter=weight, out_backprop=up, **options
                    )
                )
                of_kernel.append(
                    tf.raw_ops.Conv2DBackpropFilter(
                        input=image, filter_sizes=tf.shape(weight), out_backprop=up, **options
                    )
                )
            return tf.concat(of_images, -1), tf.concat(of_kernel, -1)

        return tf.nn.conv2d(images, kernel, strides, padding), gradient

    return convolution(images, kernel)


@keras.saving.register_keras_serializable(package="fir_tf")
class GroupedConv2D(keras.layers.Layer):
    """Convolution in groups of channels (Xie et al. 2017, section 3), without XLA.

    Output channels of group g see the input channels of group g only. `keras.layers.Conv2D`
    compiles grouped convolutions with XLA wherever it runs, also in the saved graph; TensorFlow's
    own operation computes them, and on most machines differentiates them, several times faster.
    Where it cannot be differentiated the gradient is computed group by group.

    Args:
        filters: int, output channels, a multiple of `groups`.
        kernel_size: int, side of the window.
        groups: int, a divisor of the input channels.
        strides: int.
        padding: "valid" or "same" (TensorFlow's rule).
        use_bias: bool.
        kernel_initializer: anything `keras.initializers.get` takes.

    Input: float [batch, height, width, channels]. Output: float [batch, h', w', filters].
    The kernel has shape [kernel_size, kernel_size, channels / groups, filters].

    Raises:
        FirError: if the channels cannot be split evenly.
    """

    def __init__(
        self,
        filters,
        kernel_size,
        groups,
        strides=1,
        padding="valid",
        use_bias=False,
        kernel_initializer="glorot_uniform",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if groups < 1 or filters % groups:
            raise FirError(
                f"`filters` must be a multiple of `groups`. Received: {filters} and {groups}"
            )
        if padding not in ("valid", "same"):
            raise FirError(f'`padding` must be "valid" or "same". Received: {padding!r}')
        self.filters = filters
        self.kernel_size = kernel_size
        self.groups = groups
        self.strides = strides
        self.padding = padding
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, input_shape):
        """Makes the kernel."""
        channels = input_shape[-1]
        if channels is None or channels % self.groups:
            raise FirError(
                f"input channels must be a multiple of `groups` = {self.groups}. "
                f"Received: input of shape {tuple(input_shape)}"
            )
        self.kernel = self.add_weight(
            shape=(self.kernel_size, self.kernel_size, channels // self.groups, self.filters),
            initializer=self.kernel_initializer,
            name="kernel",
        )
        if self.use_bias:
            self.bias = self.add_weight(shape=(self.filters,), initializer="zeros", name="bias")
        self.built = True

    def call(self, inputs):
        """Convolves a batch of feature maps."""
        kernel = tf.convert_to_tensor(self.kernel)
        padding = self.padding.upper()
        if self.groups == 1 or _grouped_gradient_is_native():
            outputs = tf.nn.conv2d(inputs, kernel, self.strides, padding)
        else:
            outputs = _grouped_convolution_with_split_gradient(
                inputs, kernel, self.groups, self.strides, padding
            )
        return tf.nn.bias_add(outputs, self.bias) if self.use_bias else outputs

    def compute_output_shape(self, input_shape):
        """[batch, h', w', filters]."""
        lost = self.kernel_size - 1 if self.padding == "valid" else 0
        sides = [
            None if side is None else -(-(side - lost) // self.strides) for side in input_shape[1:3]
        ]
        return (input_shape[0], *sides, self.filters)

    def get_config(self):
        """The arguments, as Keras saves them."""
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "groups": self.groups,
            "strides": self.strides,
            "padding": self.padding,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }


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

    Input: float [batch, height, width, channels]; an empty batch leaves the statistics alone.
    Output: the same shape in the compute type; the statistics are float32 under mixed precision.
    """

    def __init__(self, *args, frozen_statistics=False, **kwargs):
        super().__init__(*args, **kwargs)
        self.frozen_statistics = bool(frozen_statistics)

    def build(self, input_shape):
        """Makes the variables; the statistics of several replicas are averaged when read.

        Stock Keras lets every replica of a `tf.distribute` strategy keep its own and saves
        those of the first.
        """

        def averaged(create, **kwargs):
            if not kwargs.get("trainable", True):
                kwargs["synchronization"] = tf.VariableSynchronization.ON_READ
                kwargs["aggregation"] = tf.VariableAggregation.MEAN
            return create(**kwargs)

        with tf.variable_creator_scope(averaged):
            super().build(input_shape)

    def call(self, inputs, training=None, mask=None):
        """Normalises a batch of feature maps."""
        training = bool(training) and self.trainable and not self.frozen_statistics
        if mask is not None or not self._can_fuse(inputs):
            return super().call(inputs, training=training, mask=mask)
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
        if training:
            for moving, old, new in (
                (self.moving_mean, mean, batch_mean),
                (self.moving_variance, variance, batch_variance),
            ):
                updated = old * self.momentum + new * (1.0 - self.momentum)
                # Of nothing the operation makes NaN.
                moving.assign(tf.where(count > 0, updated, old))
        return tf.cast(outputs, self.compute_dtype)

    def _can_fuse(self, inputs):
        return (
            len(inputs.shape) == 4
            # Keras 2 makes it a list.
            and self.axis in (-1, 3, [3])
            and inputs.shape[-1] is not None
            and inputs.dtype in ("float32", "bfloat16", "float16")
            # Keras has had it since 3.12 only.
            and not getattr(self, "renorm", False)
        )

    def get_config(self):
        """The arguments, as Keras saves them."""
        return {**super().get_config(), "frozen_statistics": self.frozen_statistics}


def _moments_over_replicas(images, count):
    """Statistics of a batch that is spread over the replicas, differentiable.

    Args:
        images: float32 [batch, height, width, channels], this replica's share.
        count: float32, the values of a channel in it.

    Returns:
        count: float32, the values of a channel on all replicas.
        mean, variance: float32 [channels], the biased variance. Zero if there is nothing.
    """
    context = tf.distribute.get_replica_context()

    def total(value):
        # Outside of `Strategy.run` there is one share, the whole.
        return context.all_reduce(tf.distribute.ReduceOp.SUM, value) if context else value

    count = total(count)
    divisor = tf.maximum(count, 1.0)
    mean = total(tf.reduce_sum(images, (0, 1, 2))) / divisor
    # Around the mean of all: the difference of two large sums would lose the digits.
    variance = total(tf.reduce_sum(tf.square(images - mean), (0, 1, 2))) / divisor
    return count, mean, variance


def rebuilt(model, make):
    """Returns a functional copy of `model` with other layers in its places.

    Args:
        model: keras.Model, functional or of a subclass built as one, without nested models.
        make: callable from a layer of `model` to the new layer that takes its place. All together
            they have variables of the same shapes in the same order as those of `model`.

    Returns:
        keras.Model with the same values in its variables.
    """
    # A backbone of keras-cv would be rebuilt from its own arguments if it were cloned as it is.
    plain = keras.Model(model.input, model.output, name=model.name)
    images = keras.Input(plain.input.shape[1:], dtype=plain.input.dtype, name=plain.layers[0].name)
    copy = keras.models.clone_model(plain, input_tensors=images, clone_function=make)
    copy.set_weights(plain.get_weights())
    return copy


def with_faster_layers(model, momentum=None):
    """Returns a functional copy of `model` that computes the same in less time.

    Batch normalisation is fused. Depthwise convolutions of a model in bfloat16 are in float32
    where they will run on a CPU: their gradients there take twice as long in bfloat16
    (benchmarks/README.md, "Training step").

    Args:
        model: keras.Model, see `rebuilt`.
        momentum: float, that of all batch normalisation in the copy; None keeps each layer's.

    Returns:
        keras.Model of new layers with the same names and the same values in their variables;
        every stock `keras.layers.BatchNormalization` has become a `FusedBatchNormalization`.
    """
    on_cpu = not (tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("TPU"))

    def make(layer):
        kind = type(layer)
        kind = FusedBatchNormalization if kind is keras.layers.BatchNormalization else kind
        config = layer.get_config()
        if momentum is not None and kind is FusedBatchNormalization:
            config["momentum"] = momentum
        if kind is keras.layers.DepthwiseConv2D and layer.compute_dtype == "bfloat16" and on_cpu:
            config["dtype"] = "float32"
        return kind.from_config(config)

    return rebuilt(model, make)


def set_batch_norm(model, mode):
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
