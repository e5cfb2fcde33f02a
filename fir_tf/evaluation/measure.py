"""A network and a part of a catalogue -> what it is worth there."""

import dataclasses

import numpy as np

from fir_tf.datasets.catalogue import Catalogue, retrieval_sides
from fir_tf.evaluation.embedder import Embedder, check_readable
from fir_tf.evaluation.measured import Measured
from fir_tf.evaluation.metrics import (
    RetrievalResult,
    classification_accuracy,
    classification_protocol,
    retrieval_metrics,
)
from fir_tf.evaluation.rerank import whiten
from fir_tf.neighbours import SearchFunction, top_k

CLASSIFIED = {"val": ("val",), "test": ("test", "query", "gallery")}
"""{part: splits whose images are classified}"""


@dataclasses.dataclass(frozen=True)
class Procedure:
    """How a part of a catalogue is measured.

    Attributes:
        split: "test", or "val" for the validation part.
        gallery_scope: see `fir_tf.datasets.catalogue.retrieval_sides`.
        classifies: bool, whether the categories were trained.
        whitening: what `fir_tf.evaluation.rerank.whitening` learned, None for the network's own
            embeddings.
        find: what ranks the gallery, see `fir_tf.evaluation.rerank.better_search`.
        batch_size: int, images embedded at a time.
    """

    split: str = "test"
    gallery_scope: str = "test"
    classifies: bool = True
    whitening: tuple[np.ndarray, np.ndarray] | None = None
    find: SearchFunction = top_k
    batch_size: int = 64


def measure(
    embedder: Embedder, catalogue: Catalogue, procedure: Procedure | None = None
) -> Measured | None:
    """Measures a part of a catalogue; each of its images is embedded once.

    Args:
        embedder: Embedder.
        catalogue: Catalogue; with the categories of the model where these are measured.
        procedure: Procedure; its defaults when not given.

    Returns:
        Measured, None where the part has no image.

    Raises:
        FirError: too many of the images cannot be read.
    """
    how = procedure or Procedure()
    sides = [
        *retrieval_sides(catalogue, how.split, how.gallery_scope),
        np.flatnonzero(np.isin(catalogue.split, CLASSIFIED[how.split])),
    ]
    rows = np.unique(np.concatenate(sides)).astype(np.int64)
    if not len(rows):
        return None
    part = catalogue.rows(rows)
    embedded = embedder.catalogue(part, how.split, how.batch_size)
    skipped = check_readable(part, embedded.valid)
    read = rows[embedded.valid]
    query, gallery, classified = (side[np.isin(side, read)] for side in sides)
    vectors = whiten(embedded.embedding, *how.whitening) if how.whitening else embedded.embedding
    queries, shown = (vectors[np.searchsorted(rows, side)] for side in (query, gallery))
    scores = embedded.category[np.searchsorted(rows, classified)] if how.classifies else None
    found = Measured(
        values={},
        protocol={},
        reasons={},
        result=None,
        query=query,
        gallery=gallery,
        query_embedding=queries,
        gallery_embedding=shown,
        classified=classified,
        category_scores=scores,
        skipped=skipped,
        reordered=how.find is not top_k,
    )
    _classify(found, catalogue)
    found = dataclasses.replace(found, result=_retrieve(found, catalogue, how.find))
    if "mAP@R" not in found.values:
        why = _why_not_retrieved(found, how.split, len(sides[0]), len(sides[1]))
        found.reasons.update(dict.fromkeys(("recall@k", "mAP@R", "R-precision"), why))
    return found


def _classify(found: Measured, catalogue: Catalogue) -> None:
    if found.category_scores is None:
        found.reasons["category_topk"] = "no loss of the run reads the categories"
        return
    labels = catalogue.category[found.classified]
    found.values.update(classification_accuracy(found.category_scores, labels))
    found.protocol.update(classification_protocol(labels))
    if "category_top1" in found.values:
        return
    found.reasons["category_topk"] = "no image to classify could be read"
    if len(labels):
        names = ", ".join([*catalogue.categories[:5], *["..."] * (len(catalogue.categories) > 5)])
        found.reasons["category_topk"] = (
            f"none of the {len(labels)} images has one of the model's categories ({names})"
        )


def _retrieve(
    found: Measured, catalogue: Catalogue, find: SearchFunction
) -> RetrievalResult | None:
    if not len(found.query) or not len(found.gallery):
        return None
    result = retrieval_metrics(
        found.query_embedding,
        found.gallery_embedding,
        catalogue.item[found.query],
        catalogue.item[found.gallery],
        query_ids=found.query,
        gallery_ids=found.gallery,
        find=find,
    )
    found.values.update(result.values)
    found.protocol.update(result.protocol)
    return result


def _why_not_retrieved(found: Measured, split: str, queries: int, gallery: int) -> str:
    """Says why there is no recall, from the numbers of images there are on each side."""
    for name, part, count, read in (
        ("queries", "query", queries, found.query),
        ("gallery images", "gallery", gallery, found.gallery),
    ):
        if not count and split == "val":
            return "no validation image (split `val`) has an item"
        if not count:
            return f"there are no {name}: no image of the data set is in the split `{part}`"
        if not len(read):
            return f"none of the {count} {name} can be read"
    unknown = found.protocol["queries_of_unknown_item"]
    text = f"none of the {len(found.query)} queries has another image of its item in the gallery"
    return f"{text} ({unknown} queries are of unknown item)" if unknown else text
