"""Weights between those a run started from and those it ended with (WiSE-FT).

Wortsman et al. 2022, section 4: each weight is 1 - share times the start's plus share times the
end's. Such models often do better on new data than both.
"""

import logging
import shutil
from pathlib import Path

import keras

from fir_tf.config import InputSettings
from fir_tf.datasets.catalogue import Catalogue
from fir_tf.errors import FirError
from fir_tf.evaluation.embedder import Embedder
from fir_tf.evaluation.measure import Procedure, measure
from fir_tf.files import replacing, write_json
from fir_tf.models.saving import load_model
from fir_tf.training.actions import selection_value
from fir_tf.training.frozen import backbone_of

log = logging.getLogger(__package__)

SHARES = tuple(tenth / 10 for tenth in range(11))


def check_interpolation(weights: str, catalogue: Catalogue) -> None:
    """Raises FirError if there is nothing to start from, or nothing to choose the share on.

    Args:
        weights: str, that of `--weights`.
        catalogue: Catalogue.
    """
    if weights == "none":
        raise FirError("--interpolate needs weights to start from. Received: --weights=none")
    if not (catalogue.split == "val").any():
        raise FirError(
            "--interpolate chooses a share of the weights on the validation part, and "
            f"{catalogue.source} has none. Give --val_fraction, or leave it out"
        )


def interpolate(
    run: Path,
    start: keras.Model,
    catalogue: Catalogue,
    inputs: InputSettings,
    procedure: Procedure,
) -> None:
    """Puts the best of eleven models between start and end in the place of a run's model.

    Only the backbone has a start; its batch-norm statistics are weights as well. The share is
    chosen by what the best checkpoint is chosen by, the larger one of equals. The run's model stays
    as model_end.keras, and interpolation.json has the share and all values. Done once: a run that
    has the latter is left alone.

    Args:
        run: Path, the folder of a run that has ended.
        start: keras.Model, the backbone as it was before training.
        catalogue: Catalogue; its split `val` is measured.
        inputs: InputSettings; `eval_size`, `resize`, `crop`, `crop_margin`.
        procedure: Procedure of the run's validation.

    Raises:
        FirError: the validation part tells nothing.
    """
    path, end, told = (run / n for n in ("model.keras", "model_end.keras", "interpolation.json"))
    if told.is_file():
        return
    if not end.is_file():
        with replacing(end) as temporary:
            shutil.copyfile(path, temporary)
    model = load_model(end)
    # Where a layer's flags differ a model has its weights in another order, but not a layer.
    layers = [layer for layer in backbone_of(model, "interpolate").layers if layer.weights]
    firsts = [start.get_layer(layer.name).get_weights() for layer in layers]
    lasts = [layer.get_weights() for layer in layers]

    def take(share: float) -> None:
        for layer, first, last in zip(layers, firsts, lasts, strict=True):
            pairs = zip(first, last, strict=True)
            layer.set_weights([(1 - share) * a + share * b for a, b in pairs])

    how = inputs.eval_size, inputs.resize, inputs.crop, inputs.crop_margin
    embedder, curve = Embedder(model, *how), {}
    for share in SHARES:
        take(share)
        measured = measure(embedder, catalogue, procedure)
        value = selection_value(measured.values) if measured else None
        if value is None:
            raise FirError("--interpolate: the validation part has neither matches nor categories")
        curve[share] = value
    best = max(SHARES, key=lambda share: (curve[share], share))
    take(best)
    with replacing(path) as temporary:
        model.save(temporary)
    write_json(told, {"share": best, "curve": [[share, curve[share]] for share in SHARES]})
    values = ", ".join(f"{share:g}: {value:.3f}" for share, value in curve.items())
    log.info(f"interpolated: share {best:g} of the trained weights (validation by share {values})")
