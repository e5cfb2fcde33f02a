"""Test-time augmentation: an embedding that is the mean over views of a photo."""

import dataclasses
import functools
from collections.abc import Mapping

import keras
import tensorflow as tf

from fir_tf.config import Config
from fir_tf.evaluation.embedded import OUTPUTS
from fir_tf.evaluation.embedder import Embedder, Network, compiled
from fir_tf.models.fir import build_fir
from fir_tf.options import parse_scales

# The side of a view is a multiple of the backbones' stride.
_STRIDE = 32


def embedder_of(model: keras.Model, config: Config, flip: bool, scales: str) -> Embedder:
    """Returns the Embedder of a run's model.

    Args:
        model: keras.Model, of `config`.
        config: Config.
        flip: bool, whether mirror images are views too.
        scales: str, see `fir_tf.options.parse_scales`.

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
        scales: tuple of float, see `fir_tf.options.parse_scales`; its image size times each, to
            the nearest multiple of 32 pixels except at 1.

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
