"""A run's best model for serving: image bytes in, embedding, categories and item ids out."""

import dataclasses
from pathlib import Path

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2

from fir_tf import __version__
from fir_tf.errors import FirError
from fir_tf.files import replacing, write_json, write_text
from fir_tf.options import ExportOptions, find_run
from fir_tf.retrieval.embed import embed, make_embedder
from fir_tf.retrieval.encoder import FACTS
from fir_tf.retrieval.evaluate import load_model
from fir_tf.serving import quality
from fir_tf.serving.card import model_card
from fir_tf.serving.fold import inference_model
from fir_tf.serving.formats import compare_all, write_format
from fir_tf.serving.gallery import Gallery, load_gallery, quantise
from fir_tf.serving.servable import Servable
from fir_tf.serving.warmup import write_warmup

CARD = "MODEL_CARD.md"


def export(options: ExportOptions) -> Path:
    """Writes a version of a run's model.

    The folder is `<name>/<version>/` as TF Serving watches it. Beside the model it holds
    MODEL_CARD.md and assets.extra/export.json (what was measured); a SavedModel also
    assets.extra/tf_serving_warmup_requests.

    Args:
        options: ExportOptions.

    Returns:
        Path of the version's folder, `<output>/<version>`.

    Raises:
        FirError: if the run has no model, the version exists, the gallery cannot be loaded or a
            package that the format needs is missing.
    """
    run = find_run(options.run)
    model, config, categories = load_model(run)
    name = "fir" if options.format == "saved_model" else f"fir_{options.format}"
    base = Path(options.output) if options.output else run / "export" / name
    target = base / str(options.version or _next_version(base))
    if target.exists():
        raise FirError(
            f"`version` must be a new one. Received: {options.version}, and {target} exists"
        )
    network = inference_model(model, options.fold, options.precision)
    facts = {
        "format": options.format,
        "precision": options.precision,
        "batch_norm": "folded into the convolutions" if options.fold else "kept",
        "embedding": f"{model.output['embedding'].shape[-1]} numbers, unit length",
        "versions": f"fir_tf {__version__}, tensorflow {tf.__version__}",
    }
    with replacing(target) as temporary:
        if options.format == "saved_model":
            measured = _write_saved_model(
                options, config, categories, model, network, temporary, base.resolve().name, facts
            )
        else:
            runners = write_format(options.format, network, temporary, config, options.data_dir)
            measured = _measured(
                config,
                options.data_dir,
                lambda test_set: compare_all(
                    runners, test_set.embed(make_embedder(model)), test_set
                ),
            )
        for form, found in measured.items():
            facts[f"measured: {form}"] = found["text"]
        extra = temporary / FACTS
        extra.parent.mkdir(exist_ok=True)
        write_json(
            extra,
            {
                **facts,
                "image_size": config.image_size,
                "resize": config.resize,
                "categories": categories if config.reads("logits") else [],
                "measured": measured,
                "options": dataclasses.asdict(options),
            },
        )
        write_text(temporary / CARD, model_card(run, config, categories, facts))
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    print(f"{options.format}: {target} ({size / 1e6:.0f} MB)\nmodel card: {target / CARD}")
    return target


def _write_saved_model(options, config, categories, model, network, folder, name, facts):
    """Writes the SavedModel into `folder`; adds to `facts`; returns what was measured."""
    measured, gallery = {}, None
    if options.precision != "float32":
        measured.update(
            _measured(
                config,
                options.data_dir,
                lambda test_set: _compare_networks(options.precision, model, network, test_set),
            )
        )
    if options.gallery:
        table, queries = load_gallery(
            options.gallery, options.gallery_split, make_embedder(network), config
        )
        gallery = Gallery(table, options.gallery_dtype)
        facts["gallery"] = f"{len(table.item_id)} images of {table.source}, {options.gallery_dtype}"
        if options.gallery_dtype != "float32":
            measured["gallery"] = _compare_vectors(options, config, network, table, queries)
    servable = Servable(network, config, categories, options.top, gallery)
    signatures = servable.signatures()
    tf.saved_model.save(servable, str(folder), signatures=signatures)
    check_operations(folder)
    warm = write_warmup(folder, signatures, name)
    facts["warm-up requests"] = "written" if warm else "none"
    if not warm:
        print(
            "note: no warm-up requests, they need tensorflow-serving-api: "
            "pip install 'fir_tf[serving]'"
        )
    for text in describe_signatures(folder):
        print(text)
    return measured


def _measured(config, data_dir, compare):
    """Returns what `compare(test set)` does, or why there is nothing to measure on."""
    try:
        test_set = quality.TestSet(config, data_dir)
    except FirError as error:
        print(f"note: the loss of recall was not measured: {error}")
        return {"recall": {"text": "not measured: the run's data could not be read"}}
    if not all(test_set.size):
        print("note: the loss of recall was not measured: the data set has no queries")
        return {"recall": {"text": "not measured: the run's data has no queries"}}
    return compare(test_set)


def _compare_networks(name, model, network, test_set):
    reference = test_set.embed(make_embedder(model))
    found = test_set.compare(reference, test_set.embed(make_embedder(network)))
    return {name: quality.report(name, found)}


def _compare_vectors(options, config, network, table, queries):
    """Compares quantised vectors of the gallery with those of float32, by the data's queries."""
    known = queries.rows(queries.item >= 0)
    if not len(known):
        print("note: the gallery's loss of recall was not measured: its data has no queries")
        return {"text": "not measured: the gallery's data has no queries"}
    found = embed(make_embedder(network), known, config.image_size, config.resize, label="queries")
    known, embedding = known.rows(found.valid), found.embedding[found.valid]
    number = {item: place for place, item in enumerate(dict.fromkeys(table.item_id))}
    gallery_items = [number[item] for item in table.item_id]
    query_items = [number.get(known.items[item], -1) for item in known.item]
    vectors, scale = quantise(table.embedding, options.gallery_dtype)
    restored = vectors.astype("float32") * scale[:, None]
    before, after = (
        quality.recalls(embedding, side, query_items, gallery_items)
        for side in (table.embedding, restored)
    )
    return quality.report(
        f"gallery in {options.gallery_dtype}",
        {
            "queries": len(known),
            "gallery": len(gallery_items),
            **{name: [before[name], after[name]] for name in before},
        },
    )


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


def _describe(tensors):
    texts = []
    for name in sorted(tensors):
        sides = tensors[name].tensor_shape.dim
        shape = ", ".join("n" if side.size < 0 else str(side.size) for side in sides)
        texts.append(f"{name} {tf.as_dtype(tensors[name].dtype).name} [{shape}]")
    return ", ".join(texts)


def _read_saved_model(folder):
    try:
        content = (Path(folder) / "saved_model.pb").read_bytes()
        return saved_model_pb2.SavedModel.FromString(content)
    except (OSError, DecodeError) as error:
        raise FirError(f"{folder} must be a SavedModel. Received: {error}") from error


def _next_version(base):
    taken = [int(path.name) for path in base.glob("*") if path.name.isdecimal()]
    return max(taken, default=0) + 1
