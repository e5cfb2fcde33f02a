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

# What a cheaper form may lose of recall@1 before its export warns of it.
MOST_LOST = 0.005
_PARTS = {"test": "test set", "val": "validation part"}


def compare_networks(
    export: Export, networks: Mapping[str, Network | keras.Model], split: str = "test"
) -> Measures:
    """Measures cheaper forms of the network beside the model in float32, and prints what they cost.

    Both sides of the search are embedded by the same form, as evaluate.py does.

    Args:
        export: Export; its options' `data_dir`, or else its config's, has the photos.
        networks: {form: keras.Model or Network}.
        split: "test" for the run's test set, "val" for its validation part.

    Returns:
        {form: what `report` returns}, or why nothing was measured.
    """
    how = Procedure(split, export.config.gallery_scope, classifies=False)

    def measured(network: Network | keras.Model) -> Measured | None:
        return measure(export.embedder(network), catalogue, how)

    try:
        whole = export.parts() if split == "val" else export.catalogue()
        catalogue = whole.part("query", "gallery", "val")
        reference = measured(export.model)
    except FirError as error:
        log.info(f"note: the loss of recall was not measured: {error}")
        return {"recall": {"text": "not measured: the run's data could not be read"}}
    if reference is None or reference.result is None:
        log.info(f"note: the loss of recall was not measured: the {_PARTS[split]} has no queries")
        return {"recall": {"text": f"not measured: the run's {_PARTS[split]} has no queries"}}
    return {
        form: report(form, {"part": _PARTS[split], **_compare(reference, other)})
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
    """Prints what a cheaper form costs, and warns where it is more than `MOST_LOST`.

    Args:
        form: str.
        found: dict with `queries` and `gallery`, their numbers, what `changes` returns, and
            perhaps `part`, where the queries are from, `cosine_mean` and `cosine_min`.

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
    source = f" of the {found['part']}" if "part" in found else ""
    text = (
        f"{form} against float32, {found['queries']} queries{source} in a gallery of "
        f"{found['gallery']}: {', '.join(parts)}"
    )
    log.info(text)
    before, after = found.get("recall@1", (0.0, 0.0))
    # The rounding of 1 - .995 is not a loss.
    if before - after > MOST_LOST + 1e-9:
        log.warning(
            f"warning: {form} loses {before - after:.4f} of recall@1, more than {MOST_LOST:g}. "
            "Where that is too much, export with the default --precision and --gallery_dtype"
        )
    return {**found, "text": text}
