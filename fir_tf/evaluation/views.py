"""Test-time augmentation: an embedding that is the mean over views of a photo."""

import dataclasses
import functools
from collections.abc import Mapping

import keras
import tensorflow as tf

from fir_tf.config import Config
from fir_tf.errors import FirError
from fir_tf.evaluation.embedder import OUTPUTS, Embedder, Network, compiled
from fir_tf.models.fir import build_fir

# The side of a view is a multiple of the backbones' stride.
_STRIDE = 32


def parse_scales(text: str) -> tuple[float, ...]:
    """Reads a flag such as "1,1.5".

    Args:
        text: str, positive numbers separated by commas.

    Returns:
        tuple of float.

    Raises:
        FirError: it is empty or holds anything else.
    """
    try:
        scales = tuple(float(part) for part in text.split(","))
    except ValueError:
        scales = ()
    if not scales or not all(0 < scale < 10 for scale in scales):
        raise FirError(
            "`scales` must be numbers above 0 and below 10, separated by commas, such as 1,1.5. "
            f"Received: {text!r}"
        )
    return scales


def embedder_of(model: keras.Model, config: Config, flip: bool, scales: str) -> Embedder:
    """Returns the Embedder of a run's model.

    Args:
        model: keras.Model, of `config`.
        config: Config.
        flip: bool, whether mirror images are views too.
        scales: str, see `parse_scales`.

    Raises:
        FirError: `scales` is wrong.
    """
    network = averaged(networks_at(model, config, parse_scales(scales)), flip)
    return Embedder(
        compiled(network, config.eval_size),
        config.eval_size,
        config.resize,
        config.crop,
        config.crop_margin,
    )


def networks_at(
    model: keras.Model, config: Config, scales: tuple[float, ...]
) -> dict[int, Network]:
    """Makes a model's networks for several image sizes, with the same weights.

    Args:
        model: keras.Model, of `config`.
        config: Config.
        scales: tuple of float, see `parse_scales`; its image size times each, to the nearest
            multiple of 32 pixels except at 1.

    Returns:
        {side in pixels: function float32 [n, side, side, 3] -> dict of tensors}.
    """
    networks: dict[int, Network] = {}
    for scale in scales:
        side = max(_STRIDE, round(config.eval_size * scale / _STRIDE) * _STRIDE)
        if scale == 1 or side == config.eval_size:
            networks[config.eval_size] = functools.partial(model, training=False)
            continue
        categories = model.output["category"].shape[-1]
        twin = build_fir(dataclasses.replace(config, weights="none"), side, categories)
        twin.set_weights(model.get_weights())
        networks[side] = functools.partial(twin, training=False)
    return networks


def averaged(networks: Mapping[int, Network], flip: bool) -> Network:
    """Returns the network whose outputs are the means over views of the images.

    Embeddings are averaged and normalised again, category scores averaged. An image is resized
    from its fitted pixels (bilinear, antialiased), as is usual for multi-scale descriptors
    (Radenovic et al. 2018, section 5.2).

    Args:
        networks: see `networks_at`.
        flip: bool, whether mirror images are views too.

    Returns:
        function float32 [n, s, s, 3] -> {"embedding", "category"}.
    """

    def forward(pixels: tf.Tensor) -> Mapping[str, tf.Tensor]:
        found = []
        for side, network in networks.items():
            view = pixels
            if pixels.shape[1] != side:
                view = tf.image.resize(pixels, [side, side], antialias=True)
            found.append(network(view))
            if flip:
                found.append(network(tf.reverse(view, axis=[2])))
        if len(found) == 1:
            return found[0]
        total = {name: tf.add_n([outputs[name] for outputs in found]) for name in OUTPUTS}
        return {
            "embedding": tf.math.l2_normalize(total["embedding"], axis=1),
            "category": total["category"] / len(found),
        }

    return forward
