"""The backbones by name."""

from collections.abc import Callable
from dataclasses import dataclass

import keras

from fir_tf.errors import FirError
from fir_tf.models import pretrained
from fir_tf.models.efficientnet_lite import build_efficientnet_lite0
from fir_tf.models.layers import with_fused_batch_norm
from fir_tf.models.senet import build_seresnet50, build_seresnext50


@dataclass(frozen=True)
class Backbone:
    """A network without its classifier.

    Attributes:
        name: str.
        build: callable from an input shape (height, width, 3) to a keras.Model with random
            weights, from normalised float images to the last feature map
            [batch, h', w', features].
        features: int, channels of the last feature map.
        weights: pretrained.Weights: where the ImageNet weights come from and what normalisation
            they expect. The normalisation holds for random weights too.
    """

    name: str
    build: Callable[[tuple[int, int, int]], keras.Model]
    features: int
    weights: pretrained.Weights


def _build_resnet50(input_shape):
    return keras.applications.ResNet50(include_top=False, weights=None, input_shape=input_shape)


def _build_densenet121(input_shape):
    return keras.applications.DenseNet121(include_top=False, weights=None, input_shape=input_shape)


BACKBONES = {
    backbone.name: backbone
    for backbone in (
        Backbone("resnet50", _build_resnet50, 2048, pretrained.RESNET50),
        Backbone("densenet121", _build_densenet121, 1024, pretrained.DENSENET121),
        Backbone("seresnet50", build_seresnet50, 2048, pretrained.SENET),
        Backbone("seresnext50", build_seresnext50, 2048, pretrained.SENET),
        Backbone(
            "efficientnet_lite0", build_efficientnet_lite0, 1280, pretrained.EFFICIENTNET_LITE0
        ),
    )
}
"""dict of str to Backbone. A further backbone is one more line."""


def get_backbone(name):
    """Returns the Backbone of that name.

    Raises:
        FirError: listing the names, if there is none.
    """
    try:
        return BACKBONES[name]
    except (KeyError, TypeError):
        raise FirError(
            f"`backbone` must be one of {', '.join(BACKBONES)}. Received: {name!r}"
        ) from None


def normalisation(name):
    """Returns a new layer from RGB pixels in [0, 255] to what backbone `name` expects.

    Args:
        name: str, a key of `BACKBONES`.

    Returns:
        fir_tf.models.layers.PixelNormalisation, float32 also under mixed precision.

    Raises:
        FirError: for an unknown name.
    """
    return get_backbone(name).weights.normalisation.layer(name="normalisation")


def build_backbone(name, image_size, weights="imagenet"):
    """Builds a backbone with the faster batch normalisation.

    Random weights depend on `keras.utils.set_random_seed` only.

    Args:
        name: str, a key of `BACKBONES`.
        image_size: int, or (height, width), of at least 32 pixels.
        weights: "imagenet", the path of a weights file (see `pretrained.load_file`), or None or
            "none" for random ones.

    Returns:
        keras.Model named `name`, from normalised images (see `normalisation`), float
        [batch, height, width, 3], to the last feature map, [batch, h', w', features] in the
        compute type of the current Keras policy.

    Raises:
        FirError: for an unknown name, a size too small, or weights that cannot be loaded.
    """
    backbone = get_backbone(name)
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    try:
        height, width = (int(side) for side in size)
    except (TypeError, ValueError):
        height = width = 0
    if min(height, width) < 32:
        raise FirError(
            "`image_size` must be a number of pixels, 32 or more, or (height, width). "
            f"Received: {image_size!r}"
        )
    model = backbone.build((height, width, 3))
    if weights == "imagenet":
        pretrained.load_imagenet(model, backbone.weights)
    elif weights not in (None, "none"):
        pretrained.load_file(model, backbone.weights, weights)
    return with_fused_batch_norm(model)
