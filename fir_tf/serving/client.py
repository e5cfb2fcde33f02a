"""A client of the exported model in TF Serving: gRPC or REST, typed results::

    client = Client("grpc://localhost:8500")
    for result in client.search([open("photo.jpg", "rb").read()], k=5):
        print(result.error or [match.item_id for match in result.matches])

REST needs `requests`, gRPC `tensorflow-serving-api`: `pip install 'fir_tf[serving]'` brings both.
"""

import base64
import dataclasses
import email.utils
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import numpy as np
from numpy.typing import ArrayLike

from fir_tf.errors import FirError
from fir_tf.serving.both import Both, Differences

# Largest gRPC message in bytes, both ways: TF Serving itself sets no limit.
_MESSAGE_BYTES = 2**30
_BACKOFF_SECONDS = 0.2
# What servers, and the proxies before them, answer that may be gone a moment later.
_BUSY = (429, 502, 503, 504)

_Images = Iterable[bytes | str | Path]
# Left, top, width and height of each image's garment, in shares of its upright sides.
_Boxes = Iterable[ArrayLike]
# The inputs of a signature by name, a value an image, and its outputs, a dict of them an image.
_Inputs = Mapping[str, Sequence[Any]]
_Rows = list[dict[str, Any]]
_Answer = TypeVar("_Answer")


@dataclasses.dataclass(frozen=True, eq=False)
class Embedding:
    """An image's embedding.

    Attributes:
        embedding: float32 [d], unit length; zeros where not valid.
        valid: bool.
        error: str, "" or the reason, see `fir_tf.serving.servable`.
    """

    embedding: np.ndarray
    valid: bool
    error: str


@dataclasses.dataclass(frozen=True)
class Classification:
    """An image's most probable categories.

    Attributes:
        categories: tuple of (name, score), best first; empty where not valid.
        valid: bool.
        error: str.
    """

    categories: tuple[tuple[str, float], ...]
    valid: bool
    error: str


@dataclasses.dataclass(frozen=True)
class Match:
    """A gallery image near the query: its item's id, its path, the inner product."""

    item_id: str
    image_path: str
    score: float


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """What the gallery has for one query.

    Attributes:
        matches: tuple of Match, best first, at most k.
        valid: bool.
        error: str.
    """

    matches: tuple[Match, ...]
    valid: bool
    error: str


class Client:
    """Asks a model server; many images go in batches, failed requests are repeated.

    Every request may be repeated safely: the server changes nothing.

    Args:
        server: str, `grpc://host:port` (TF Serving's 8500) or `http://host:port` (8501), also
            `https://`.
        model: str, the model's name on the server.
        version: int, or None for the server's choice.
        timeout: float, seconds for one request.
        retries: int, repetitions of a request that met a connection error, an answer that broke
            off or a busy server, with a doubling pause between, of 0.2 seconds at first and of
            `timeout` at most. Over REST a `Retry-After` of the server's is kept to; one beyond
            `timeout` ends the request.
        batch_size: int, images in a request.
        label: str, the version that the server calls so, such as "stable"; "" for none.
        also: str, the label of another version, such as "canary", that is asked the same in a
            thread of its own. How it answers otherwise goes to the logger `fir_tf.serving` and to
            `differences`; what is returned is of `label` or `version`.

    Raises:
        FirError: for an address of another form, both a version and a label, or when the package
            of the protocol is missing.
    """

    def __init__(
        self,
        server: str,
        model: str = "fir",
        version: int | None = None,
        timeout: float = 10.0,
        retries: int = 3,
        batch_size: int = 32,
        label: str = "",
        also: str = "",
    ) -> None:
        if batch_size < 1 or retries < 0 or timeout <= 0:
            raise FirError(
                "`batch_size` must be >= 1, `retries` >= 0, `timeout` > 0. "
                f"Received: {batch_size}, {retries}, {timeout}"
            )
        transports: dict[str, Any] = {"grpc": _Grpc, "http": _Rest, "https": _Rest}
        scheme, place = urlsplit(server)[:2]
        if scheme not in transports or not place:
            raise FirError(
                "`server` must be grpc://host:port, http://host:port or https://host:port. "
                f"Received: {server!r}"
            )
        if (label and version is not None) or (also and also == label):
            raise FirError(
                "`label` must be given without `version`, and be another one than `also`. "
                f"Received: label {label!r}, version {version}, also {also!r}"
            )
        asked = _Asked(model, version, timeout, retries, label)
        self._transport = transports[scheme](server.rstrip("/"), place, asked)
        self._batch_size = batch_size
        self._both: Both | None = None
        if also:
            # Asked once: nobody waits for it.
            other = _Asked(model, None, timeout, 0, also)
            self._both = Both(transports[scheme](server.rstrip("/"), place, other), also)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection, when the other version has answered too."""
        try:
            if self._both:
                self._both.close()
        finally:
            self._transport.close()

    def differences(self) -> Differences:
        """Returns how far the other version's answers have differed so far; see `also`."""
        return self._both.told() if self._both else Differences()

    def ready(self) -> bool:
        """Returns whether the server has a version of the model that answers requests.

        Raises:
            FirError: if the server cannot be reached.
        """
        return self._transport.ready()

    def embed(self, images: _Images, boxes: _Boxes | None = None) -> list[Embedding]:
        """Embeds images.

        Args:
            images: iterable of image files' bytes, or of their paths (str or Path).
            boxes: float [n, 4], left, top, width and height of each image's garment, in shares of
                the width and height of the image as it is seen upright; None for whole images.

        Returns:
            list of Embedding, one an image.

        Raises:
            FirError: if the server cannot be reached, or refuses the request.
        """
        rows = self._predict(*_asked_of("embed", images, boxes))
        return [
            Embedding(np.asarray(row["embedding"], np.float32), row["valid"], row["error"])
            for row in rows
        ]

    def classify(self, images: _Images, boxes: _Boxes | None = None) -> list[Classification]:
        """Names the most probable categories of images.

        Args, Raises: see `embed`.

        Returns:
            list of Classification, one an image.
        """
        rows = self._predict(*_asked_of("classify", images, boxes))
        return [
            Classification(
                tuple(zip(row["category"], row["score"], strict=True)) if row["valid"] else (),
                row["valid"],
                row["error"],
            )
            for row in rows
        ]

    def search(
        self,
        images: _Images,
        k: int = 10,
        category: str = "",
        boxes: _Boxes | None = None,
    ) -> list[SearchResult]:
        """Finds the gallery images nearest to images.

        Args:
            images: see `embed`.
            k: int, results wanted.
            category: str, the only category to search; "" for all.
            boxes: see `embed`.

        Returns:
            list of SearchResult, one an image.

        Raises:
            FirError: see `embed`; also if the model was exported without a gallery.
        """
        return self._search(*_asked_of("search", images, boxes), k, category)

    def search_embedding(
        self, embeddings: Iterable[ArrayLike], k: int = 10, category: str = ""
    ) -> list[SearchResult]:
        """Finds the gallery images nearest to embeddings, float [n, d]; otherwise as `search`."""
        vectors = [np.asarray(vector, np.float32) for vector in embeddings]
        return self._search("search_embedding", {"embedding": vectors}, k, category)

    def _search(self, signature: str, inputs: _Inputs, k: int, category: str) -> list[SearchResult]:
        count = len(next(iter(inputs.values())))
        inputs = {**inputs, "k": [np.int32(k)] * count, "category": [category.encode()] * count}
        return [
            SearchResult(
                tuple(
                    Match(*match)
                    for match in zip(row["item_id"], row["image_path"], row["score"], strict=True)
                    # The server fills up rows that have fewer results than others.
                    if match[0]
                ),
                row["valid"],
                row["error"],
            )
            for row in self._predict(signature, inputs)
        ]

    def _predict(self, signature: str, inputs: _Inputs) -> _Rows:
        count = len(next(iter(inputs.values())))
        rows = []
        for start in range(0, count, self._batch_size):
            batch = {
                name: values[start : start + self._batch_size] for name, values in inputs.items()
            }
            answer = self._transport.predict(signature, batch)
            if self._both:
                self._both.ask(signature, batch, answer)
            rows += answer
        return rows


@dataclasses.dataclass(frozen=True)
class _Asked:
    """The model that is asked, and for how long: `Client`'s arguments."""

    model: str
    version: int | None
    timeout: float
    retries: int
    label: str = ""

    def repeat(self, ask: Callable[[], _Answer]) -> _Answer:
        """Returns what `ask` returns, asking again where it raises `_NoAnswer`."""
        attempt, pause = 1, _BACKOFF_SECONDS
        while True:
            try:
                return ask()
            except _NoAnswer as error:
                if error.pause > self.timeout:
                    raise FirError(
                        f"the model server asks for a pause of {error.pause:.0f} s, longer than "
                        f"the timeout of {self.timeout:g} s: {error}. Ask again after that"
                    ) from error
                if attempt > self.retries:
                    raise FirError(
                        f"the model server did not answer in {attempt} attempts: {error}. "
                        "Is it running, and is --server right?"
                    ) from error
                time.sleep(max(error.pause, min(pause, self.timeout)))
            attempt, pause = attempt + 1, 2 * pause


class _NoAnswer(Exception):
    """A failure that may be gone a moment later, or after the `pause` that the server asks for."""

    def __init__(self, why: object, pause: float = 0.0) -> None:
        super().__init__(why)
        self.pause = pause


class _Grpc:
    def __init__(self, server: str, place: str, asked: _Asked) -> None:
        # TensorFlow's C++ log is nothing for a client's screen; set before its import.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        try:
            import grpc
            import tensorflow as tf
            from tensorflow_serving.apis import (
                get_model_status_pb2,
                model_service_pb2_grpc,
                predict_pb2,
                prediction_service_pb2_grpc,
            )
        except ImportError as error:
            raise FirError(
                f"gRPC needs tensorflow-serving-api ({error}): pip install 'fir_tf[serving]', "
                "or use http://"
            ) from error
        self._grpc, self._tf = grpc, tf
        self._request, self._status = predict_pb2, get_model_status_pb2
        limits = [
            ("grpc.max_send_message_length", _MESSAGE_BYTES),
            ("grpc.max_receive_message_length", _MESSAGE_BYTES),
        ]
        self._channel = grpc.insecure_channel(place, options=limits)
        self._predict = prediction_service_pb2_grpc.PredictionServiceStub(self._channel).Predict
        self._get_status = model_service_pb2_grpc.ModelServiceStub(self._channel).GetModelStatus
        self._asked = asked

    def close(self) -> None:
        self._channel.close()

    def _name(self, spec: Any) -> None:
        spec.name = self._asked.model
        if self._asked.version is not None:
            spec.version.value = self._asked.version
        if self._asked.label:
            spec.version_label = self._asked.label

    def _call(self, method: Callable[..., Any], request: Any) -> Any:
        code = self._grpc.StatusCode
        try:
            return method(request, timeout=self._asked.timeout)
        except self._grpc.RpcError as error:
            text = f"{error.code().name}: {error.details()}"
            if error.code() in (code.UNAVAILABLE, code.DEADLINE_EXCEEDED, code.RESOURCE_EXHAUSTED):
                raise _NoAnswer(text) from error
            raise FirError(f"the model server refused the request: {text}") from error

    def ready(self) -> bool:
        request = self._status.GetModelStatusRequest()
        self._name(request.model_spec)
        answer = self._asked.repeat(lambda: self._call(self._get_status, request))
        found = answer.model_version_status
        return any(version.state == version.AVAILABLE for version in found)

    def predict(self, signature: str, inputs: _Inputs) -> _Rows:
        request = self._request.PredictRequest()
        self._name(request.model_spec)
        request.model_spec.signature_name = signature
        for name, values in inputs.items():
            whole = values if isinstance(values[0], bytes) else np.stack(values)
            request.inputs[name].CopyFrom(self._tf.make_tensor_proto(whole))
        outputs = self._asked.repeat(lambda: self._call(self._predict, request)).outputs
        arrays = {name: self._tf.make_ndarray(value) for name, value in outputs.items()}
        texts = {name: _decoded(array.tolist()) for name, array in arrays.items()}
        return [dict(zip(texts, row, strict=True)) for row in zip(*texts.values(), strict=True)]


class _Rest:
    def __init__(self, server: str, place: str, asked: _Asked) -> None:
        try:
            import requests
        except ImportError as error:
            raise FirError(
                f"REST needs requests ({error}): pip install 'fir_tf[serving]'"
            ) from error
        self._errors, self._session = requests.exceptions, requests.Session()
        chosen = "" if asked.version is None else f"/versions/{asked.version}"
        chosen = f"/labels/{quote(asked.label, safe='')}" if asked.label else chosen
        self._url = f"{server}/v1/models/{asked.model}{chosen}"
        self._asked = asked

    def close(self) -> None:
        self._session.close()

    def _call(self, method: str, url: str, wanted: str, body: Any = None) -> Any:
        """Returns `wanted` of the answer's JSON."""
        errors = self._errors
        try:
            answer = self._session.request(method, url, json=body, timeout=self._asked.timeout)
        except (errors.ConnectionError, errors.Timeout, errors.ChunkedEncodingError) as error:
            raise _NoAnswer(error) from error
        # Not answer.text, which guesses an encoding from all of a long answer.
        status, text = answer.status_code, answer.content[:500].decode(errors="replace")
        if status in _BUSY:
            pause = _asked_pause(answer.headers.get("Retry-After", ""))
            raise _NoAnswer(f"status {status}: {text}", pause)
        if status != 200:
            raise FirError(f"the model server refused the request: status {status}, {text}")
        try:
            return answer.json()[wanted]
        except (ValueError, KeyError, TypeError) as error:
            raise FirError(
                f"the model server's answer must be JSON with `{wanted}`. Received: {text!r}. "
                "Is --server right, and no proxy before it that answers?"
            ) from error

    def ready(self) -> bool:
        found = self._asked.repeat(lambda: self._call("GET", self._url, "model_version_status"))
        return any(version["state"] == "AVAILABLE" for version in found)

    def predict(self, signature: str, inputs: _Inputs) -> _Rows:
        names = list(inputs)
        rows = [
            {name: _as_json(name, value) for name, value in zip(names, row, strict=True)}
            for row in zip(*inputs.values(), strict=True)
        ]
        body = {"signature_name": signature, "instances": rows}
        url = f"{self._url}:predict"
        return self._asked.repeat(lambda: self._call("POST", url, "predictions", body))


def _asked_pause(retry_after: str) -> float:
    """Returns the seconds of a `Retry-After`, which has them or a date; 0 where it has neither."""
    if retry_after.isdecimal():
        return float(retry_after)
    try:
        return email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time()
    except (TypeError, ValueError, OverflowError):
        return 0.0


def _as_json(name: str, value: Any) -> Any:
    if name.endswith("_bytes"):
        return {"b64": base64.b64encode(value).decode()}
    return value.decode() if isinstance(value, bytes) else value.tolist()


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_decoded(part) for part in value]
    return value.decode() if isinstance(value, bytes) else value


def _asked_of(
    signature: str, images: _Images, boxes: _Boxes | None
) -> tuple[str, dict[str, list[Any]]]:
    """Returns a signature's name, for boxes that of its form with them, and its inputs."""
    inputs: dict[str, list[Any]] = {"image_bytes": [_content(image) for image in images]}
    if boxes is None:
        return signature, inputs
    inputs["box"] = [np.asarray(box, np.float32) for box in boxes]
    shapes = {box.shape for box in inputs["box"]}
    if shapes - {(4,)} or len(inputs["box"]) != len(inputs["image_bytes"]):
        raise FirError(
            "`boxes` must be left, top, width and height for each image, "
            f"[{len(inputs['image_bytes'])}, 4]. Received: {len(inputs['box'])} of "
            f"{', '.join(map(str, sorted(shapes)))}"
        )
    return f"{signature}_boxes", inputs


def _content(image: bytes | str | Path) -> bytes:
    if isinstance(image, bytes):
        return image
    try:
        return Path(image).read_bytes()
    except OSError as error:
        raise FirError(f"{image} cannot be read: {error.strerror}") from error
