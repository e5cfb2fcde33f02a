"""The FIR model: backbone, relaxation head, embedding."""

from pathlib import Path
from typing import Any

import keras

from fir_tf import registry
from fir_tf.config import Config
from fir_tf.errors import FirError
from fir_tf.keras_versions import layer_of
from fir_tf.models.backbones import build_backbone, freeze_stages, normalisation
from fir_tf.models.batch_norm import set_batch_norm


def build_fir(
    backbone: str,
    image_size: int,
    categories: int,
    *,
    weights: str | Path | None = "imagenet",
    pooling: str = "average",
    neck: str = "linear",
    embedding_size: int = 0,
    relaxation_width: int = 512,
    dropout: float = 0.5,
    batch_norm: str = "auto",
    freeze: int | str = 0,
) -> keras.Model:
    """Builds `images -> {"category", "embedding"}` as a Keras functional model.

    The relaxation module (PAPER: method) stands on the classification path only: 1x1
    convolution, ReLU, dropout, 1x1 convolution with as many channels as categories, global
    average pooling, softmax. The embedding is the backbone's last feature map, pooled, passed
    through the neck and L2-normalised.

    Args:
        backbone: str, a registered backbone's name.
        image_size: int, side of the square input in pixels.
        categories: int, number of categories.
        weights: "imagenet", "none" or the path of a weights file, for the backbone.
        pooling: str, a registered pooling's name.
        neck: str, a registered neck's name.
        embedding_size: int, width that the neck projects to; 0 for none.
        relaxation_width: int, hidden channels of the relaxation module.
        dropout: float in [0, 1), rate inside the relaxation module.
        batch_norm: "frozen" (the statistics stay as loaded, scale and offset train), "batch"
            (each replica takes those of its share of the batch), "synchronized" (those of the
            whole batch), or "auto": frozen for pretrained weights, batch for none.
        freeze: int from 0 (nothing) to 5 (the whole backbone), or "stem", "stage1" ... "stage4":
            the backbone's layers up to there stay as they are. The stages compute at 1/4, 1/8,
            1/16 and 1/32 of the image's size, whatever the backbone.

    Returns:
        keras.Model. Input `images`: float32 [n, image_size, image_size, 3], RGB in [0, 255]
        (normalisation to what the weights expect is the model's first layer). Outputs:
        `category` float32 [n, categories], softmax; `embedding` float32 [n, d], unit length.

    Raises:
        FirError: for an unknown backbone, weights that cannot be loaded, a `batch_norm` or
            `freeze` that means nothing, or no categories.
    """
    if categories < 1:
        raise FirError(f"`categories` must be at least 1. Received: {categories}")
    body = build_backbone(backbone, image_size, None if weights == "none" else weights)
    if batch_norm == "auto":
        batch_norm = "batch" if weights in (None, "none") else "frozen"
    set_batch_norm(body, batch_norm)
    freeze_stages(body, registry.get("backbone", backbone), freeze)

    images = keras.Input((image_size, image_size, 3), name="images")
    features = body(normalisation(backbone)(images))

    hidden = keras.layers.Conv2D(relaxation_width, 1, activation="relu", name="relaxation")(
        features
    )
    hidden = keras.layers.Dropout(dropout, name="relaxation_dropout")(hidden)
    activation_map = keras.layers.Conv2D(categories, 1, name="category_map")(hidden)
    logits = keras.layers.GlobalAveragePooling2D(dtype="float32", name="category_logits")(
        activation_map
    )
    category = keras.layers.Softmax(dtype="float32", name="category")(logits)

    pooled = registry.get("pooling", pooling)(features)
    if layer_of(pooled).name != "features":
        # Under this name, whatever layer they come from.
        pooled = keras.layers.Activation("linear", dtype="float32", name="features")(pooled)
    embedding = registry.get("neck", neck)(pooled, embedding_size)
    embedding = keras.layers.UnitNormalization(dtype="float32", name="embedding")(embedding)
    return keras.Model(images, {"category": category, "embedding": embedding}, name="fir")


def build_from_config(config: Config, categories: int, **changed: Any) -> keras.Model:
    """Builds the model that a run's options describe.

    Args:
        config: Config.
        categories: int, number of categories.
        changed: arguments of `build_fir` in place of the options of the same names.

    Returns:
        keras.Model, see `build_fir`.

    Raises:
        FirError: see `build_fir`.
    """
    names = (
        "backbone",
        "image_size",
        "weights",
        "pooling",
        "neck",
        "embedding_size",
        "relaxation_width",
        "dropout",
        "batch_norm",
        "freeze",
    )
    options = {name: getattr(config, name) for name in names}
    return build_fir(categories=categories, **{**options, **changed})


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
