"""The FIR model: backbone, relaxation head, embedding."""

import keras
import tensorflow as tf

from fir_tf import registry
from fir_tf.config import ModelSettings
from fir_tf.errors import FirError
from fir_tf.keras_versions import layer_of
from fir_tf.models.backbones import build_backbone, freeze_stages, normalisation
from fir_tf.models.batch_norm import set_batch_norm


def build_fir(settings: ModelSettings, image_size: int, categories: int) -> keras.Model:
    """Builds `images -> {"category", "embedding"}` as a Keras functional model.

    The relaxation module (PAPER: method) stands on the classification path only: 1x1
    convolution, ReLU, dropout, 1x1 convolution with as many channels as categories, global
    average pooling, softmax. The embedding is the backbone's last feature map, pooled, passed
    through the neck and L2-normalised.

    Args:
        settings: ModelSettings, such as a Config.
        image_size: int, side of the square input in pixels.
        categories: int, number of categories.

    Returns:
        keras.Model. Input `images`: float32 [n, image_size, image_size, 3], RGB in [0, 255]
        (normalisation to what the weights expect is the model's first layer). Outputs:
        `category` float32 [n, categories], softmax; `embedding` float32 [n, d], unit length.

    Raises:
        FirError: for weights that cannot be loaded, or no categories.
    """
    if categories < 1:
        raise FirError(f"`categories` must be at least 1. Received: {categories}")
    body = build_backbone(settings.backbone, image_size, settings.weights, settings.last_stride)
    mode = settings.batch_norm
    if mode == "auto":
        mode = "batch" if settings.weights == "none" else "frozen"
    set_batch_norm(body, mode)
    freeze_stages(body, registry.get("backbone", settings.backbone), settings.freeze)
    images = keras.Input((image_size, image_size, 3), name="images")
    features = body(normalisation(settings.backbone)(images))
    category, embedding = _category(settings, features, categories), _embedding(settings, features)
    return keras.Model(images, {"category": category, "embedding": embedding}, name="fir")


def _category(settings: ModelSettings, features: tf.Tensor, categories: int) -> tf.Tensor:
    layers = keras.layers
    hidden = layers.Conv2D(settings.relaxation_width, 1, activation="relu", name="relaxation")
    dropped = layers.Dropout(settings.dropout, name="relaxation_dropout")(hidden(features))
    activation_map = layers.Conv2D(categories, 1, name="category_map")(dropped)
    logits = layers.GlobalAveragePooling2D(dtype="float32", name="category_logits")(activation_map)
    return layers.Softmax(dtype="float32", name="category")(logits)


def _embedding(settings: ModelSettings, features: tf.Tensor) -> tf.Tensor:
    pooled = registry.get("pooling", settings.pooling)(features)
    if layer_of(pooled).name != "features":
        # Under this name, whatever layer they come from.
        pooled = keras.layers.Activation("linear", dtype="float32", name="features")(pooled)
    projected = registry.get("neck", settings.neck)(pooled, settings.embedding_size)
    return keras.layers.UnitNormalization(dtype="float32", name="embedding")(projected)


def training_model(model: keras.Model) -> keras.Model:
    """Returns the same network with the outputs that losses read, sharing all variables.

    They are "logits", "features" (pooled, before the projection) and "embedding".

    Cross-entropy on logits is exact where the softmax has rounded to 0 or 1.
    """
    return keras.Model(
        model.inputs,
        {
            "logits": model.get_layer("category_logits").output,
            "features": model.get_layer("features").output,
            "embedding": model.get_layer("embedding").output,
        },
    )
