"""The FIR model: backbone, relaxation head, embedding."""

import keras
import tensorflow as tf

from fir_tf import registry
from fir_tf.config import ModelSettings
from fir_tf.errors import FirError
from fir_tf.keras_versions import layer_of
from fir_tf.models.backbones import build_backbone, freeze_stages, normalisation
from fir_tf.models.batch_norm import FusedBatchNormalization, set_batch_norm
from fir_tf.models.necks import Split


def build_fir(settings: ModelSettings, image_size: int, categories: int) -> keras.Model:
    """Builds `images -> {"category", "embedding"}` as a Keras functional model.

    The relaxation module (PAPER: method) stands on the classification path only: 1x1
    convolution, ReLU, dropout, 1x1 convolution with as many channels as categories, global
    average pooling, softmax. The embedding is the backbone's last feature map, pooled, passed
    through the neck and L2-normalised.

    A neck may give some losses another vector than search, see `fir_tf.models.necks.Split`: one
    output more, "before_batch_norm" or "behind_batch_norm". Batch normalisation of the neck is
    always trained; it takes the statistics of the whole batch where `batch_norm` says synchronized.

    Args:
        settings: ModelSettings, such as a Config.
        image_size: int, side of the square input in pixels.
        categories: int, number of categories.

    Returns:
        keras.Model. Input `images`: float32 [n, image_size, image_size, 3], RGB in [0, 255]
        (normalisation to what the weights expect is the model's first layer). Outputs:
        `category` float32 [n, categories], softmax; `embedding` float32 [n, d], unit length;
        with a `Split` also the other side of the batch normalisation, likewise.

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
    category = _category(settings, features, categories)
    outputs = {"category": category, **_embeddings(settings, features)}
    model = keras.Model(images, outputs, name="fir")
    for layer in model.layers:
        if isinstance(layer, FusedBatchNormalization):
            layer.synchronized = mode == "synchronized"
    return model


def _category(settings: ModelSettings, features: tf.Tensor, categories: int) -> tf.Tensor:
    layers = keras.layers
    hidden = layers.Conv2D(settings.relaxation_width, 1, activation="relu", name="relaxation")
    dropped = layers.Dropout(settings.dropout, name="relaxation_dropout")(hidden(features))
    activation_map = layers.Conv2D(categories, 1, name="category_map")(dropped)
    logits = layers.GlobalAveragePooling2D(dtype="float32", name="category_logits")(activation_map)
    return layers.Softmax(dtype="float32", name="category")(logits)


def _embeddings(settings: ModelSettings, features: tf.Tensor) -> dict[str, tf.Tensor]:
    pooled = registry.get("pooling", settings.pooling)(features)
    if layer_of(pooled).name != "features":
        # Under this name, whatever layer they come from.
        pooled = keras.layers.Activation("linear", dtype="float32", name="features")(pooled)
    vectors = registry.get("neck", settings.neck)(pooled, settings.embedding_size)
    if not isinstance(vectors, Split):
        return {"embedding": _unit(vectors, "embedding")}
    searched, other, name = vectors.behind, vectors.before, "before_batch_norm"
    if vectors.search_before:
        searched, other, name = vectors.before, vectors.behind, "behind_batch_norm"
    return {"embedding": _unit(searched, "embedding"), name: _unit(other, name)}


def _unit(vectors: tf.Tensor, name: str) -> tf.Tensor:
    return keras.layers.UnitNormalization(dtype="float32", name=name)(vectors)


def training_model(model: keras.Model) -> keras.Model:
    """Returns the same network with the outputs that losses read, sharing all variables.

    They are "logits", "features" (pooled, before the projection), "embedding", and where the neck
    has such a one "before_batch_norm" or "behind_batch_norm", see `build_fir`.

    Cross-entropy on logits is exact where the softmax has rounded to 0 or 1.
    """
    return keras.Model(
        model.inputs,
        {
            "logits": model.get_layer("category_logits").output,
            "features": model.get_layer("features").output,
            **{name: output for name, output in model.output.items() if name != "category"},
        },
    )


def search_model(model: keras.Model) -> keras.Model:
    """Returns the same network without what only losses read, sharing all variables.

    Its outputs are "category" and "embedding".
    """
    outputs = {name: model.output[name] for name in ("category", "embedding")}
    return keras.Model(model.input, outputs, name=model.name)


def for_any_size(network: keras.Model) -> keras.Model:
    """Lets a network take images of other sizes than it was built for; returns it.

    The layers take any, since nothing in them knows the size but the padding, which is right
    where each halving finds an even or an odd side as in the network's own size. Keras refuses
    them at the doors of the model and of its backbone.

    Args:
        network: keras.Model on the layers of one that `build_fir` returned, such as
            `training_model`; its backbone takes them too from then on.
    """
    for model in [network, *(part for part in network.layers if isinstance(part, keras.Model))]:
        shapes = [(*[None] * (len(given.shape) - 1), given.shape[-1]) for given in model.inputs]
        model.input_spec = [keras.layers.InputSpec(shape=shape) for shape in shapes]
    return network
