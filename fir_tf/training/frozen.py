"""A backbone that stays as it is while the heads on it learn."""

import contextlib
from collections.abc import Iterator

import keras

from fir_tf.errors import FirError


def backbone_of(model: keras.Model, flag: str) -> keras.Model:
    """Returns the backbone, the nested network of a model.

    Args:
        model: keras.Model as `fir_tf.models.fir.build_fir` returns it, or on its layers.
        flag: str, what needs it, for the message.

    Raises:
        FirError: there is none.
    """
    nested = [layer for layer in model.layers if isinstance(layer, keras.Model)]
    if not nested:
        raise FirError(f"`{flag}` needs a model with a backbone as a nested model")
    return nested[0]


@contextlib.contextmanager
def frozen(backbone: keras.Model) -> Iterator[None]:
    """Within it a backbone is traced as it is in evaluation: no batch enters its statistics."""
    # A model's flag is set in all its layers, so the outer ones go first.
    flags = [(layer, layer.trainable) for layer in backbone._flatten_layers()]
    backbone.trainable = False
    try:
        yield
    finally:
        for layer, trainable in flags:
            layer.trainable = trainable
