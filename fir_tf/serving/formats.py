"""The network alone in other runtimes' formats: fitted pixels -> embedding and categories.

Decoding and fitting stay with the caller (`fir_tf.images.decode`, or `fir_tf.serving.client` for a
server), because none of these runtimes has TensorFlow's decoders.
"""

import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from fir_tf import datasets
from fir_tf.datasets.catalogue import unit_hash
from fir_tf.errors import FirError
from fir_tf.extras import require
from fir_tf.input.batches import ordered_batches
from fir_tf.keras_versions import tensor_of
from fir_tf.serving.quality import report

REPRESENTATIVE_IMAGES = 200


def network_function(network, batch=None):
    """Returns a tf.function, `pixels` float32 [batch, s, s, 3] -> embedding and category."""
    shape = [batch, *network.input_shape[1:]]

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32, name="pixels")], autograph=False)
    def forward(pixels):
        outputs = network(pixels, training=False)
        return {name: tf.identity(outputs[name], name) for name in ("embedding", "category")}

    return forward


def write_openvino(network, folder):
    """Writes `model.xml` and `model.bin`, as OpenVINO Model Server loads them.

    Args:
        network: keras.Model, folded.
        folder: Path, created.

    Returns:
        {"model.xml": function float32 [n, s, s, 3] -> {"embedding", "category"}}, running it.
    """
    openvino = require("openvino", "openvino")
    with tempfile.TemporaryDirectory() as saved:
        module = tf.Module()
        module.weights = [tensor_of(weight) for weight in network.weights]
        module.forward = network_function(network)
        tf.saved_model.save(module, saved, signatures=module.forward)
        model = openvino.convert_model(saved)
    folder.mkdir()
    # In float32: where the processor has bfloat16 OpenVINO uses it by itself.
    openvino.save_model(model, str(folder / "model.xml"), compress_to_fp16=False)
    compiled = openvino.Core().compile_model(str(folder / "model.xml"), "CPU")

    def run(pixels):
        found = compiled(np.asarray(pixels))
        return {name: tf.constant(found[name]) for name in ("embedding", "category")}

    return {"model.xml": run}


def write_onnx(network, folder):
    """Writes `model.onnx` with tf2onnx.

    Args, Returns: as `write_openvino`; the file runs in onnxruntime.

    Raises:
        FirError: if tf2onnx or onnxruntime is missing or cannot convert the network.
    """
    tf2onnx = require("tf2onnx", "onnx")
    runtime = require("onnxruntime", "onnx")
    forward = network_function(network)
    folder.mkdir()
    path = folder / "model.onnx"
    try:
        tf2onnx.convert.from_function(
            forward, input_signature=forward.input_signature, opset=17, output_path=str(path)
        )
    except Exception as error:
        raise FirError(f"tf2onnx could not convert the network: {error}") from error
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (name,) = (value.name for value in session.get_inputs())

    def run(pixels):
        embedding, category = session.run(["embedding", "category"], {name: np.asarray(pixels)})
        return {"embedding": tf.constant(embedding), "category": tf.constant(category)}

    return {"model.onnx": run}


def write_tflite(network, folder, config, data_dir):
    """Writes `fir_float16.tflite` and `fir_int8.tflite` for LiteRT, one image at a time.

    int8 computes in whole numbers between float inputs and outputs; its ranges are read off
    200 training images, or others where there are none.

    Args:
        network: keras.Model, folded.
        folder: Path, created.
        config: Config of the run.
        data_dir: str, the data set's folder; the config's own if "".

    Returns:
        As `write_openvino`, for both files.

    Raises:
        FirError: if the training images cannot be read.
    """
    require("ai_edge_litert.interpreter", "edge")
    folder.mkdir()
    with tempfile.TemporaryDirectory() as saved:
        _save_frozen(network, saved)
        return _convert_tflite(saved, folder, config, data_dir)


def _save_frozen(network, folder):
    """Saves the network without variables: LiteRT's own freezing leaves some to be read."""
    frozen = convert_variables_to_constants_v2(
        network_function(network, batch=1).get_concrete_function()
    )

    @tf.function(
        input_signature=[tf.TensorSpec([1, *network.input_shape[1:]], name="pixels")],
        autograph=False,
    )
    def forward(pixels):
        # The outputs in the order of their names.
        category, embedding = tf.nest.flatten(frozen(pixels))
        return {"category": category, "embedding": embedding}

    module = tf.Module()
    module.forward = forward
    tf.saved_model.save(module, folder, signatures=forward.get_concrete_function())


def _convert_tflite(saved, folder, config, data_dir):
    found = {}
    for kind in ("float16", "int8"):
        converter = tf.lite.TFLiteConverter.from_saved_model(saved)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if kind == "float16":
            converter.target_spec.supported_types = [tf.float16]
        else:
            converter.representative_dataset = _representative(config, data_dir)
        path = folder / f"fir_{kind}.tflite"
        path.write_bytes(converter.convert())
        found[path.name] = _tflite_runner(path)
    return found


def _representative(config, data_dir):
    """Returns what the converter calls for sample inputs: training images, one at a time."""
    catalogue = datasets.load(config.dataset, data_dir or config.data_dir)
    train = catalogue.part("train")
    catalogue = train if len(train) else catalogue
    # The same images in every export, from all over the set.
    order = np.argsort([unit_hash(str(path), "representative") for path in catalogue.path])
    chosen = catalogue.rows(order[:REPRESENTATIVE_IMAGES])

    def images():
        batches, _ = ordered_batches(chosen.files(), config.image_size, config.resize, 1)
        for batch in batches:
            yield [batch["images"]]

    return images


def _tflite_runner(path):
    interpreter = require("ai_edge_litert.interpreter", "edge").Interpreter(str(path))
    signature = interpreter.get_signature_runner()

    def run(pixels):
        rows = [signature(pixels=image[None]) for image in np.asarray(pixels)]
        return {
            name: tf.constant(np.concatenate([row[name] for row in rows]))
            for name in ("embedding", "category")
        }

    return run


def write_format(kind, network, folder, config, data_dir):
    """Writes the network in a format other than SavedModel.

    Args:
        kind: "openvino", "tflite" or "onnx".
        network: keras.Model, see `fir_tf.serving.fold.inference_model`.
        folder: Path, created.
        config: Config of the run.
        data_dir: str, the data set's folder; the config's own if "".

    Returns:
        {file name: function from pixels to outputs}, see `write_openvino`.
    """
    folder = Path(folder)
    if kind == "tflite":
        return write_tflite(network, folder, config, data_dir)
    return {"openvino": write_openvino, "onnx": write_onnx}[kind](network, folder)


def compare_all(runners, reference, test_set):
    """Measures each written file against the network in float32, and prints it.

    Args:
        runners: see `write_format`.
        reference: float32 [queries + gallery, d], see `TestSet.embed`.
        test_set: TestSet.

    Returns:
        {file name: what `report` returns}.
    """
    found = {}
    for name, run in runners.items():
        found[name] = report(name, test_set.compare(reference, test_set.embed(run)))
    return found
