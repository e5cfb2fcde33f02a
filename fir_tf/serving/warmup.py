"""Warm-up requests: TF Serving runs them before a version answers its first client.

Without them the first requests pay for tracing, oneDNN's choices and memory. Records are in
`assets.extra/tf_serving_warmup_requests`, a TFRecord file of PredictionLog messages.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from fir_tf.files import replacing

RELATIVE_PATH = "assets.extra/tf_serving_warmup_requests"
BATCH_SIZES = (1, 8)


def warmup_inputs(
    signature: tf.types.experimental.GenericFunction, count: int
) -> dict[str, tf.Tensor | np.ndarray]:
    """Makes one request's inputs.

    Args:
        signature: tf.function of `Servable.signatures`.
        count: int, rows.

    Returns:
        {input name: tensor or array} that the signature accepts and answers as valid.
    """
    inputs: dict[str, tf.Tensor | np.ndarray] = {}
    for spec in signature.input_signature:
        shape = [count, *(64 if side is None else side for side in spec.shape[1:])]
        if spec.name == "image_bytes":
            inputs[spec.name] = tf.fill(shape, _photo())
        elif spec.name == "k":
            inputs[spec.name] = np.full(shape, 10, np.int32)
        elif spec.name == "box":
            inputs[spec.name] = np.tile(np.array([0, 0, 1, 1], np.float32), (count, 1))
        elif spec.dtype == tf.string:
            inputs[spec.name] = tf.fill(shape, "")
        else:
            inputs[spec.name] = np.ones(shape, spec.dtype.as_numpy_dtype)
    return inputs


def write_warmup(
    folder: Path, signatures: Mapping[str, tf.types.experimental.GenericFunction], name: str
) -> bool:
    """Writes a SavedModel's warm-up requests: every signature in batches of 1 and 8.

    Args:
        folder: Path of the version's folder.
        signatures: {name: tf.function}, see `Servable.signatures`.
        name: str, the model's name in TF Serving.

    Returns:
        bool: False where tensorflow-serving-api is not installed, and nothing was written.
    """
    try:
        from tensorflow_serving.apis import predict_pb2, prediction_log_pb2
    except ImportError:
        return False
    path = folder / RELATIVE_PATH
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as temporary, tf.io.TFRecordWriter(str(temporary)) as writer:
        for signature_name, signature in signatures.items():
            for count in BATCH_SIZES:
                request = predict_pb2.PredictRequest()
                request.model_spec.name = name
                request.model_spec.signature_name = signature_name
                for key, value in warmup_inputs(signature, count).items():
                    request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
                log = prediction_log_pb2.PredictionLog()
                log.predict_log.request.CopyFrom(request)
                writer.write(log.SerializeToString())
    return True


def _photo() -> tf.Tensor:
    """A JPEG of a photo's usual size, smooth as photos are."""
    noise = tf.random.stateless_uniform([6, 4, 3], seed=[0, 0], maxval=256.0)
    pixels = tf.cast(tf.image.resize(noise, [533, 400], method="bicubic"), tf.int32)
    return tf.io.encode_jpeg(tf.cast(tf.clip_by_value(pixels, 0, 255), tf.uint8))
