"""Exports in whole numbers of 8 bits: what is in them, what they read, and what is said of the loss."""

import dataclasses
import json
import sys
from pathlib import Path

import keras
import numpy as np
import onnx
import pytest
from shallow import shallow_backbones
from small_sets import inshop_rows, write_inshop

from fir_tf import datasets
from fir_tf.config import Config
from fir_tf.datasets.loading import training_parts
from fir_tf.errors import FirError
from fir_tf.evaluation.embedder import as_network
from fir_tf.files import write_json
from fir_tf.models.fir import build_fir, search_model
from fir_tf.options import ExportOptions
from fir_tf.run import load_run
from fir_tf.search.encoder import Encoder
from fir_tf.serving import quality
from fir_tf.serving.export import export
from fir_tf.serving.fold import inference_model
from fir_tf.serving.formats import Export, representative
from fir_tf.serving.formats.int8 import int8_photos
from fir_tf.serving.formats.openvino import convert_openvino

SIZE = 64
CATEGORIES = ["MEN/Denim", "WOMEN/Dresses"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run with an untrained network, on a small In-Shop set."""
    root = tmp_path_factory.mktemp("int8")
    data = write_inshop(root / "inshop", inshop_rows())
    config = Config(
        run=str(root / "run"),
        data_dir=str(data),
        backbone="efficientnet_lite0",
        weights="none",
        image_size=SIZE,
        val_fraction=0.3,
    )
    keras.utils.set_random_seed(1)
    with shallow_backbones():
        model = build_fir(config, SIZE, len(CATEGORIES))
    folder = root / "run"
    folder.mkdir()
    config.save(folder / "config.json")
    write_json(folder / "labels.json", {"categories": CATEGORIES})
    write_json(folder / "versions.json", {})
    model.save(folder / "model.keras")
    return folder


@pytest.fixture(scope="module")
def quantised(run):
    """{format: (folder of its int8 export, what was printed)}, made when it is asked for."""
    pytest.importorskip("nncf")
    made = {}

    def export_once(kind):
        if kind not in made:
            made[kind] = export(ExportOptions(run=str(run), format=kind, precision="int8"))
        return made[kind]

    return export_once


def catalogue_of(run):
    return datasets.load("inshop", Config.load(run / "config.json").data_dir)


def job_of(run, **options):
    """The Export of a run."""
    model, config, categories = load_run(run)
    asked = ExportOptions(run=str(run), format="openvino", precision="int8", **options)
    network = inference_model(search_model(model))
    return Export(asked, config, categories, model, network, "fir", {})


def photos_of(run):
    return [Path(path).read_bytes() for path in catalogue_of(run).part("query").files()]


def convolutions_of(folder):
    """Returns [(whether its kernel is int8, channels it reads)] of an export, from pixels on."""
    if (folder / "model.onnx").is_file():
        graph = onnx.load(str(folder / "model.onnx")).graph
        made = {name: node for node in graph.node for name in node.output}
        held = {tensor.name: tensor for tensor in graph.initializer}
        found = []
        for node in graph.node:
            if node.op_type == "Conv":
                source = made.get(node.input[1])
                kernel = held[source.input[0] if source else node.input[1]]
                found.append((kernel.data_type == onnx.TensorProto.INT8, kernel.dims[1]))
        return found
    import openvino

    found = []
    for node in openvino.Core().read_model(str(folder / "model.xml")).get_ordered_ops():
        if node.get_type_name() in ("Convolution", "GroupConvolution"):
            kernel = node.input_value(1).get_node()
            # From its scale back to the constant.
            while kernel.get_input_size():
                kernel = kernel.input_value(0).get_node()
            small = kernel.get_element_type().get_type_name() == "i8"
            found.append((small, node.get_input_partial_shape(1)[-3].get_length()))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", [pytest.param("openvino", marks=pytest.mark.bfloat16), "onnx"])
def test_kernels_are_int8_but_those_that_hurt(quantised, kind):
    found = convolutions_of(quantised(kind))
    (first, pixels), *others = found
    assert not first and pixels == 3 and len(others) > 10
    assert {(small, channels > 1) for small, channels in others} == {(True, True), (False, False)}


@pytest.mark.slow
@pytest.mark.bfloat16
def test_an_int8_export_is_searched_with_and_is_another_model(run, quantised):
    ours, theirs = Encoder(run), Encoder(quantised("openvino").parent)
    photos = [*photos_of(run), b"no image"]
    expected, found = ours.encode(photos), theirs.encode(photos)
    assert found.valid.tolist() == expected.valid.tolist() == [True] * (len(photos) - 1) + [False]
    cosine = (expected.embedding * found.embedding).sum(axis=1)[:-1]
    assert cosine.min() > 0.98
    np.testing.assert_allclose(np.linalg.norm(found.embedding[:-1], axis=1), 1, atol=1e-5)
    assert theirs.fingerprint()["name"] != ours.fingerprint()["name"]
    # A stricter bound than any rounding: these are other numbers.
    assert 1 - cosine.min() > 1e-6


@pytest.mark.slow
def test_onnx_in_int8_embeds_as_the_network_does(run, quantised):
    import onnxruntime

    file = quantised("onnx") / "model.onnx"
    session = onnxruntime.InferenceSession(str(file))
    job = job_of(run)
    (name,) = (value.name for value in session.get_inputs())

    def in_int8(pixels):
        return dict(
            zip(
                ("embedding", "category"),
                session.run(["embedding", "category"], {name: pixels}),
                strict=True,
            )
        )

    part = catalogue_of(run).part("gallery")
    expected, found = (
        job.embedder(network).catalogue(part).embedding
        for network in (job.model, as_network(in_int8))
    )
    assert 0.98 < (expected * found).sum(axis=1).min() < 1 - 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("kind", [pytest.param("openvino", marks=pytest.mark.bfloat16), "onnx"])
def test_the_loss_is_measured_on_the_validation_part(run, quantised, kind, capsys):
    folder = quantised(kind)
    facts = json.loads((folder / "assets.extra" / "export.json").read_text())
    found = facts["measured"]["int8"]
    items = training_parts(catalogue_of(run), Config.load(run / "config.json")).part("val")
    assert facts["precision"] == "int8" and found["queries"] == found["gallery"] == len(items)
    assert found["cosine_min"] > 0.97 and len(found["recall@1"]) == 2
    text = f"int8 against float32, {len(items)} queries of the validation part in a gallery of "
    assert found["text"].startswith(text) and "recall@1 " in found["text"]
    assert found["text"] in (folder / "MODEL_CARD.md").read_text()


@pytest.mark.slow
@pytest.mark.bfloat16
def test_the_file_is_about_a_quarter(tmp_path):
    """Of a network whose kernels are most of it."""
    pytest.importorskip("nncf")
    images = keras.Input((32, 32, 3))
    maps = keras.layers.Conv2D(64, 3, strides=4, activation="relu")(images)
    for _ in range(4):
        maps = keras.layers.Conv2D(128, 3, padding="same", activation="relu")(maps)
    pooled = keras.layers.GlobalAveragePooling2D()(maps)
    outputs = {
        "embedding": keras.layers.UnitNormalization()(pooled),
        "category": keras.layers.Softmax()(pooled[:, :4]),
    }
    network, rng = keras.Model(images, outputs), np.random.default_rng(0)
    photos = [rng.uniform(0, 255, (1, 32, 32, 3)).astype(np.float32) for _ in range(4)]
    sizes, found = [], []
    for name, shown in (("float32", ()), ("int8", photos)):
        runner = convert_openvino(network, tmp_path / name, shown)
        sizes.append((tmp_path / name / "model.bin").stat().st_size)
        found.append(np.concatenate([runner(photo)["embedding"] for photo in photos]))
    assert 0.24 < sizes[1] / sizes[0] < 0.3
    assert (found[0] * found[1]).sum(axis=1).min() > 0.98


def test_ranges_are_read_off_training_photos_alone(run, monkeypatch):
    pytest.importorskip("nncf")
    read = []

    def told(files, *how):
        read.extend(files)
        return real(files, *how)

    real = representative.ordered_batches
    monkeypatch.setattr(representative, "ordered_batches", told)
    monkeypatch.setattr(representative, "PHOTOS", 10)
    photos = int8_photos(job_of(run))
    parts = training_parts(catalogue_of(run), Config.load(run / "config.json"))
    train, held_out = set(parts.part("train").files()), set(parts.part("val").files())
    assert len(read) == len(photos) == 10 and set(read) <= train and held_out
    assert {photo.shape for photo in photos} == {(1, SIZE, SIZE, 3)}
    again = list(representative.representative_photos(job_of(run), parts.part("train")))
    np.testing.assert_array_equal(photos, again)


def test_broken_photos_are_left_out_and_none_is_an_error(run, tmp_path):
    pytest.importorskip("nncf")
    rows = inshop_rows(train_items=2, test_items=2)
    data = write_inshop(tmp_path / "inshop", rows)
    files = training_parts(datasets.load("inshop", data), Config(val_fraction=0.3)).part("train")
    first, *others = files.files()
    Path(first).write_bytes(b"no image")
    assert len(int8_photos(job_of(run, data_dir=str(data)))) == len(others)
    for path in others:
        Path(path).write_bytes(b"no image")
    with pytest.raises(FirError, match="int8 reads the range .* training photos, .* none can be"):
        int8_photos(job_of(run, data_dir=str(data)))


def test_without_nncf_the_extra_is_named(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "nncf", None)
    for kind in ("openvino", "onnx"):
        with pytest.raises(FirError, match=r"nncf is needed .*pip install 'fir_tf\[int8\]'"):
            export(
                ExportOptions(run=str(run), format=kind, precision="int8", output=str(run / "x"))
            )
    assert not list(run.glob("x/*"))


def test_a_loss_above_the_limit_is_warned_of(capsys):
    def said(before, after):
        found = {"queries": 10, "gallery": 10, "recall@1": [before, after]}
        quality.report("int8", found)
        return "warning" in (text := capsys.readouterr().out) and text

    assert "warning: int8 loses 0.0060 of recall@1, more than 0.005" in said(0.806, 0.8)
    # Exactly the limit is none, whatever the subtraction rounds to.
    assert not said(1.0, 0.995) and not said(0.8, 0.806)


def test_without_a_validation_part_the_loss_is_not_measured(run, capsys):
    job = job_of(run)
    job.config = dataclasses.replace(job.config, val_fraction=0.0)
    found = quality.compare_networks(job, {"int8": job.model}, "val")
    assert found == {"recall": {"text": "not measured: the run's validation part has no queries"}}
    assert "not measured: the validation part has no queries" in capsys.readouterr().out
