"""An objective on rows of any kind, without a sampler that draws them."""

import types

import numpy as np

from fir_tf.config import Config
from fir_tf.losses.objective import Objective, make_losses
from fir_tf.samplers.triplets import triplet_rows


def make_objective(losses, classified, **flags):
    """Returns the Objective of `losses` on batches with these rows for single images.

    Args:
        losses: str, as --losses.
        classified: bool [n]; with explicit triplets the rows are [A | P | N | P | N | others].
        **flags: of Config.
    """
    config = Config(losses=losses, **flags)
    terms, classified = config.terms(), np.asarray(classified)
    layout = {}
    if config.triplets == "explicit":
        nouns = [noun for noun in ("item", "category") if f"triplet:{noun}" in as_general(terms)]
        layout = triplet_rows(int((~classified).sum()) // (2 * len(nouns)), nouns)
    rows = types.SimpleNamespace(classified=classified, triplets=layout)
    return Objective(terms, make_losses(terms, config.loss_settings()), rows)


def as_general(terms):
    """Returns the terms as loss:label."""
    return [f"{term.loss}:{term.label}" for term in terms]
