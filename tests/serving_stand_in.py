"""A small model server for the tests: TF Serving's two interfaces over a loaded export.

It stands in for `tensorflow_model_server`, which is in no Python package; nothing of it is shipped.
"""

import base64
import contextlib
import json
import threading
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)


class StandIn(
    prediction_service_pb2_grpc.PredictionServiceServicer,
    model_service_pb2_grpc.ModelServiceServicer,
):
    """Answers Predict and GetModelStatus; `fail` requests are refused first.

    `labels` has other models by the labels of their versions.
    """

    def __init__(self, model, name, labels):
        self.model, self.labels = model, labels
        self.name = name
        self.fail = 0
        self.batches = []

    def run(self, signature, inputs, label=""):
        model = self.labels[label] if label else self.model
        function = model.signatures[signature]
        self.batches.append(len(next(iter(inputs.values()))))
        return {name: value.numpy() for name, value in function(**inputs).items()}

    def busy(self):
        self.fail -= 1
        return self.fail >= 0

    def Predict(self, request, context):
        if self.busy():
            context.abort(grpc.StatusCode.UNAVAILABLE, "busy")
        if request.model_spec.name != self.name:
            context.abort(grpc.StatusCode.NOT_FOUND, f"no model {request.model_spec.name}")
        label = request.model_spec.version_label
        if label and label not in self.labels:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"Unrecognized label {label}")
        inputs = {name: tf.constant(tf.make_ndarray(v)) for name, v in request.inputs.items()}
        answer = predict_pb2.PredictResponse()
        for name, value in self.run(request.model_spec.signature_name, inputs, label).items():
            answer.outputs[name].CopyFrom(tf.make_tensor_proto(value))
        return answer

    def GetModelStatus(self, request, context):
        answer = get_model_status_pb2.GetModelStatusResponse()
        answer.model_version_status.add(version=1, state=30)
        return answer


def _rest(stand_in):
    class Handler(BaseHTTPRequestHandler):
        def answer(self, status, value):
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self):
            self.answer(200, {"model_version_status": [{"version": "1", "state": "AVAILABLE"}]})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if stand_in.busy():
                return self.answer(503, {"error": "busy"})
            place, _, label = self.path.removesuffix(":predict").partition("/labels/")
            known = not label or label in stand_in.labels
            if place != f"/v1/models/{stand_in.name}" or not known:
                return self.answer(404, {"error": "no such model"})
            signature = body["signature_name"]
            _, specs = stand_in.model.signatures[signature].structured_input_signature
            rows = body["instances"]
            inputs = {}
            for name, spec in specs.items():
                values = [row[name] for row in rows]
                if name.endswith("_bytes"):
                    values = [base64.b64decode(value["b64"]) for value in values]
                inputs[name] = tf.constant(values, spec.dtype)
            outputs = stand_in.run(signature, inputs, label)
            predictions = [
                {
                    name: np.vectorize(bytes.decode, otypes=[object])(value[row]).tolist()
                    if value.dtype == object
                    else value[row].tolist()
                    for name, value in outputs.items()
                }
                for row in range(len(rows))
            ]
            return self.answer(200, {"predictions": predictions})

        def log_message(self, *_):
            pass

    return Handler


@contextlib.contextmanager
def serving(model, name="fir", labels=None):
    """Yields (StandIn, gRPC address, REST address) of a server of a loaded SavedModel."""
    stand_in = StandIn(model, name, labels or {})
    server = grpc.server(futures.ThreadPoolExecutor(2))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(stand_in, server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(stand_in, server)
    port = server.add_insecure_port("localhost:0")
    server.start()
    web = ThreadingHTTPServer(("localhost", 0), _rest(stand_in))
    thread = threading.Thread(target=web.serve_forever, daemon=True)
    thread.start()
    try:
        yield stand_in, f"grpc://localhost:{port}", f"http://localhost:{web.server_port}"
    finally:
        server.stop(0).wait()
        web.shutdown()
        web.server_close()
        thread.join()
