"""Layers the backbones are built from: the pixels' normalisation, the grouped convolution."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from fir_tf.errors import FirError

# Of a tensor: None where a side is not known yet.
Shape = Sequence[int | None]


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

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        bgr: bool = False,
        dtype: str = "float32",
        **kwargs: Any,
    ) -> None:
        super().__init__(dtype=dtype, **kwargs)
        for name, value in (("mean", mean), ("std", std)):
            if len(value) != 3 or (name == "std" and min(value) <= 0):
                raise FirError(f"`{name}` must be three numbers, `std` positive. Received: {value}")
        self.mean = tuple(float(value) for value in mean)
        self.std = tuple(float(value) for value in std)
        self.bgr = bool(bgr)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Normalises a batch of images."""
        pixels = tf.cast(inputs, self.compute_dtype)
        if self.bgr:
            pixels = tf.reverse(pixels, axis=[-1])
        mean = tf.constant(self.mean, pixels.dtype)
        return (pixels - mean) * tf.constant([1.0 / std for std in self.std], pixels.dtype)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """The input's shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The arguments, as Keras saves them."""
        return {**super().get_config(), "mean": self.mean, "std": self.std, "bgr": self.bgr}


@functools.cache
def _grouped_gradient_is_native() -> bool:
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


def _grouped_convolution_with_split_gradient(
    images: tf.Tensor, kernel: tf.Tensor, groups: int, strides: int, padding: str
) -> tf.Tensor:
    """A grouped convolution whose gradient is computed one group at a time."""

    @tf.custom_gradient
    def convolution(
        images: tf.Tensor, kernel: tf.Tensor
    ) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]]:
        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            options = {"strides": [1, strides, strides, 1], "padding": padding}
            of_images, of_kernel = [], []
            parts = (tf.split(whole, groups, -1) for whole in (images, kernel, upstream))
            for image, weight, up in zip(*parts, strict=True):
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
        filters: int,
        kernel_size: int,
        groups: int,
        strides: int = 1,
        padding: str = "valid",
        use_bias: bool = False,
        kernel_initializer: Any = "glorot_uniform",
        **kwargs: Any,
    ) -> None:
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

    def build(self, input_shape: Shape) -> None:
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

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
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

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """[batch, h', w', filters]."""
        lost = self.kernel_size - 1 if self.padding == "valid" else 0
        sides = [
            None if side is None else -(-(side - lost) // self.strides) for side in input_shape[1:3]
        ]
        return (input_shape[0], *sides, self.filters)

    def get_config(self) -> dict[str, Any]:
        """The arguments, as Keras saves them."""
        names = ("filters", "kernel_size", "groups", "strides", "padding", "use_bias")
        return {
            **super().get_config(),
            **{name: getattr(self, name) for name in names},
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
