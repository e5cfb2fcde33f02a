"""SavedModel, for TF Serving."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2

from fir_tf.datasets.catalogue import Catalogue
from fir_tf.errors import FirError
from fir_tf.evaluation.embedder import Embedder
from fir_tf.evaluation.metrics import retrieval_metrics
from fir_tf.locate.category_map import has_map
from fir_tf.serving import quality
from fir_tf.serving.formats import Export, Format, Measures
from fir_tf.serving.gallery import Gallery, GalleryTable, load_gallery, quantise
from fir_tf.serving.servable import Servable
from fir_tf.serving.warmup import write_warmup

log = logging.getLogger(__package__)


def write_saved_model(export: Export, folder: Path) -> Measures:
    """Writes a SavedModel: image bytes in, embedding, categories and items out.

    With assets.extra/tf_serving_warmup_requests where tensorflow-serving-api is installed.

    Raises:
        FirError: if the gallery cannot be loaded.
    """
    options, config, facts = export.options, export.config, export.facts
    network = export.network
    found: Measures = {}
    gallery = None
    if options.precision != "float32":
        found = quality.compare_networks(export, {options.precision: network})
    if options.gallery:
        embedder = export.embedder(network)
        table, queries = load_gallery(
            options.gallery, options.gallery_split, embedder, options.columns
        )
        gallery = Gallery(table, options.gallery_dtype)
        facts["gallery"] = f"{len(table.item_id)} images of {table.source}, {options.gallery_dtype}"
        if options.gallery_dtype != "float32":
            found["gallery"] = _compare_vectors(table, options.gallery_dtype, embedder, queries)
    servable = Servable(
        network,
        config.eval_size,
        config.resize,
        export.categories,
        options.top,
        gallery,
        config.crop_margin,
        locates=config.reads("logits") and has_map(network),
    )
    signatures = servable.signatures()
    tf.saved_model.save(servable, str(folder), signatures=signatures)
    check_operations(folder)
    warm = write_warmup(folder, signatures, export.name)
    facts["warm-up requests"] = "written" if warm else "none"
    if not warm:
        log.info(
            "note: no warm-up requests, they need tensorflow-serving-api: "
            "pip install 'fir_tf[serving]'"
        )
    for text in describe_signatures(folder):
        log.info(text)
    return found


def _compare_vectors(
    table: GalleryTable, dtype: str, embedder: Embedder, queries: Catalogue
) -> dict[str, Any]:
    """Compares quantised vectors of the gallery with those of float32, by the data's queries."""
    known = queries.rows(queries.item >= 0)
    if not len(known):
        log.info("note: the gallery's loss of recall was not measured: its data has no queries")
        return {"text": "not measured: the gallery's data has no queries"}
    found = embedder.catalogue(known, "queries")
    known, embedding = known.rows(found.valid), found.embedding[found.valid]
    number = {item: place for place, item in enumerate(dict.fromkeys(table.item_id))}
    gallery_items = [number[item] for item in table.item_id]
    query_items = [number.get(known.items[item], -1) for item in known.item]
    vectors, scale = quantise(table.embedding, dtype)
    before, after = (
        retrieval_metrics(embedding, side, query_items, gallery_items).values
        for side in (table.embedding, vectors.astype("float32") * scale[:, None])
    )
    sizes = {"queries": len(known), "gallery": len(gallery_items)}
    return quality.report(f"gallery in {dtype}", {**sizes, **quality.changes(before, after)})


def check_operations(folder: str | Path) -> set[str]:
    """Refuses a SavedModel whose graph could read or write a file or run Python.

    Args:
        folder: Path of the version's folder.

    Returns:
        set of str, the operations of the graph and its functions, without the saving and
        restoring of variables that every SavedModel has.

    Raises:
        FirError: naming the operations.
    """
    graph = _read_saved_model(folder).meta_graphs[0].graph_def
    used = {node.op for function in graph.library.function for node in function.node_def}
    used |= {node.op for node in graph.node}
    # The saver's own: they name files below the version's folder.
    used -= {"SaveV2", "RestoreV2", "MergeV2Checkpoints", "ShardedFilename"}
    suspicious = ("File", "PyFunc", "TFRecord", "TextLine", "FixedLengthRecord", "Glob")
    bad = sorted(op for op in used if any(part in op for part in suspicious))
    if bad:
        raise FirError(f"the exported graph must not touch files or Python. Received: {bad}")
    return used


def describe_signatures(folder: str | Path) -> list[str]:
    """Returns a line for each signature of a SavedModel: names, types and shapes."""
    lines = []
    signatures = _read_saved_model(folder).meta_graphs[0].signature_def
    for name in sorted(signatures):
        if not name.startswith("__"):
            sides = [_describe(getattr(signatures[name], side)) for side in ("inputs", "outputs")]
            lines.append(f"  {name}: {sides[0]} -> {sides[1]}")
    return lines


def _describe(tensors: Mapping[str, Any]) -> str:
    texts = []
    for name in sorted(tensors):
        sides = tensors[name].tensor_shape.dim
        shape = ", ".join("n" if side.size < 0 else str(side.size) for side in sides)
        texts.append(f"{name} {tf.as_dtype(tensors[name].dtype).name} [{shape}]")
    return ", ".join(texts)


def _read_saved_model(folder: str | Path) -> saved_model_pb2.SavedModel:
    try:
        content = (Path(folder) / "saved_model.pb").read_bytes()
        return saved_model_pb2.SavedModel.FromString(content)
    except (OSError, DecodeError) as error:
        raise FirError(f"{folder} must be a SavedModel. Received: {error}") from error


SAVED_MODEL = Format(
    "Writes a SavedModel: image bytes in, embedding, categories and items out.",
    write_saved_model,
    takes=("gallery", "bfloat16"),
    folder="fir",
)
