"""What a cheaper form of the network or of the gallery costs: cosine and recall@k."""

import logging
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from fir_tf.errors import FirError
from fir_tf.evaluation.embedder import Network
from fir_tf.evaluation.measure import Procedure, measure
from fir_tf.evaluation.measured import Measured
from fir_tf.serving.formats import Export, Measures

log = logging.getLogger(__package__)

RECALLS = ("recall@1", "recall@5", "recall@10", "recall@20")


def compare_networks(export: Export, networks: Mapping[str, Network | keras.Model]) -> Measures:
    """Measures cheaper forms of the network beside the model in float32, and prints what they cost.

    Both sides of the search are embedded by the same form. It is measured on the run's test set,
    as evaluate.py does.

    Args:
        export: Export; its options' `data_dir`, or else its config's, has the test set.
        networks: {form: keras.Model or Network}.

    Returns:
        {form: what `report` returns}, or why nothing was measured.
    """
    how = Procedure(gallery_scope=export.config.gallery_scope, classifies=False)

    def measured(network: Network | keras.Model) -> Measured | None:
        return measure(export.embedder(network), catalogue, how)

    try:
        catalogue = export.catalogue().part("query", "gallery", "val")
        reference = measured(export.model)
    except FirError as error:
        log.info(f"note: the loss of recall was not measured: {error}")
        return {"recall": {"text": "not measured: the run's data could not be read"}}
    if reference is None or reference.result is None:
        log.info("note: the loss of recall was not measured: the data set has no queries")
        return {"recall": {"text": "not measured: the run's data has no queries"}}
    return {
        form: report(form, _compare(reference, other))
        for form, network in networks.items()
        if (other := measured(network))
    }


def _compare(reference: Measured, other: Measured) -> dict[str, Any]:
    before, after = (
        np.concatenate([side.query_embedding, side.gallery_embedding])
        for side in (reference, other)
    )
    lengths = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
    cosine = (before * after).sum(axis=1) / np.maximum(lengths, 1e-12)
    return {
        "queries": len(reference.query),
        "gallery": len(reference.gallery),
        "cosine_mean": float(cosine.mean()),
        "cosine_min": float(cosine.min()),
        **changes(reference.values, other.values),
    }


def changes(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, list[float]]:
    """Returns {recall@k: [before, after]}, empty where no query has an image of its item."""
    return {name: [before[name], after[name]] for name in RECALLS if name in before}


def report(form: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """Prints what a cheaper form costs.

    Args:
        form: str.
        found: dict with `queries` and `gallery`, their numbers, what `changes` returns, and
            perhaps `cosine_mean` and `cosine_min`.

    Returns:
        dict: `found` and the printed line as `text`.
    """
    parts = [
        f"{recall} {found[recall][0]:.3f} -> {found[recall][1]:.3f}"
        for recall in RECALLS
        if recall in found
    ] or ["recall not measured: no query has an image of its item in the gallery"]
    if "cosine_mean" in found:
        parts.insert(0, f"cosine {found['cosine_mean']:.5f} (lowest {found['cosine_min']:.5f})")
    text = (
        f"{form} against float32, {found['queries']} queries in a gallery of "
        f"{found['gallery']}: {', '.join(parts)}"
    )
    log.info(text)
    return {**found, "text": text}
