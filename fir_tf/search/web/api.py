"""The page's JSON API, declared once: requests are checked by it, and its OpenAPI is made of it."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException

import fir_tf

MOST_RESULTS = 200
"""int, results of one request."""

_TEXT = {"type": "string"}
_WORDS = {"0": False, "false": False, "1": True, "true": True}


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A value in a request's address.

    Attributes:
        name: str.
        schema: dict, JSON Schema: a string, an integer or number with `minimum` and `maximum`, a
            boolean, or an array of strings, which is given once for each of its values.
        text: str, what it means.
        required: bool, whether it must be given, and not be empty.
    """

    name: str
    schema: Mapping[str, Any]
    text: str
    required: bool = False

    def value(self, query: QueryParams) -> Any:
        """Returns what a request says of it, or its default.

        Raises:
            HTTPException: 400, if it does not fit the schema, or is missing.
        """
        kind = self.schema["type"]
        if self.required and not query.get(self.name):
            raise HTTPException(400, f"{self.name} is missing. {self.text}")
        if any("\0" in text for text in query.getlist(self.name)):
            # It ends a text in some databases.
            raise HTTPException(400, f"{self.name} must not have a NUL character.")
        if kind == "array":
            return query.getlist(self.name)
        if self.name not in query:
            return self.schema.get("default", "")
        text = query[self.name]
        if kind == "integer":
            least, most = self.schema["minimum"], self.schema["maximum"]
            number = int(text) if text.isdecimal() and len(text) < 10 else least - 1
            if not least <= number <= most:
                raise HTTPException(400, f"{self.name} must be between {least} and {most}.")
            return number
        if kind == "number":
            least, most = self.schema["minimum"], self.schema["maximum"]
            # Digits alone, no "nan" and no "1_0".
            amount = float(text) if re.fullmatch(r"\d{1,9}(\.\d*)?|\.\d+", text, re.A) else -1.0
            if not least <= amount <= most:
                raise HTTPException(400, f"{self.name} must be between {least} and {most}.")
            return amount
        if kind == "boolean":
            if text.lower() not in _WORDS:
                raise HTTPException(400, f"{self.name} must be 1, true, 0 or false.")
            return _WORDS[text.lower()]
        return text


@dataclasses.dataclass(frozen=True)
class Operation:
    """One thing that can be asked for.

    Attributes:
        path: str.
        text: str, what it does.
        parameters: tuple of Parameter.
        answer: dict, JSON Schema of the answer.
        media: str, the answer's media type.
        body: str, what a request's body is; empty for a GET without one.
        refusals: dict of str by status, when else it is answered so.
        work: bool, whether it asks the index, which takes a place among the requests under way.
    """

    path: str
    text: str
    parameters: tuple[Parameter, ...]
    answer: Mapping[str, Any]
    media: str = "application/json"
    body: str = ""
    refusals: Mapping[int, str] = dataclasses.field(default_factory=dict)
    work: bool = True

    @property
    def method(self) -> str:
        """GET, or POST where there is a body."""
        return "POST" if self.body else "GET"

    def read(self, query: QueryParams) -> dict[str, Any]:
        """Returns a request's values by name, defaults where they are not given.

        Raises:
            HTTPException: 400, for a value that does not fit or a parameter that there is not.
        """
        known = {parameter.name: parameter for parameter in self.parameters}
        for name in query:
            if name not in known:
                raise HTTPException(
                    400,
                    f"There is no parameter {name}. There are: {', '.join(known) or 'none'}.",
                )
        return {name: parameter.value(query) for name, parameter in known.items()}


def _object(**properties: Any) -> dict[str, Any]:
    """Returns the schema of an object that always has these properties."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def _list(of: Any) -> dict[str, Any]:
    return {"type": "array", "items": of}


_CONFIDENCE = {
    "type": "number",
    "minimum": 0,
    "maximum": 1,
    "description": "How often a first answer of this score is right, for a photo of an item that "
    "is in the catalogue; absent where the index does not know.",
}
_RESULT = _object(
    score={"type": "number", "description": "Cosine similarity, -1 to 1."},
    path={"type": "string", "description": "The photo, below the index's folder."},
    item={"type": "string", "description": "Empty where unknown, as category and domain."},
    category=_TEXT,
    domain={"type": "string", "enum": ["", "shop", "consumer"]},
    metadata={
        "type": "object",
        "description": "The columns of the feed or table: text, numbers, booleans, lists of them.",
    },
)
# Not always there.
_RESULT["properties"]["confidence"] = _CONFIDENCE
_COLUMN = {
    "type": "object",
    "properties": {
        "kinds": _list({"type": "string", "enum": ["boolean", "number", "text"]}),
        "range": {
            "type": "array",
            "items": {"type": "number"},
            "minItems": 2,
            "maxItems": 2,
            "description": "The least and the largest number.",
        },
        "values": {
            "type": "object",
            "additionalProperties": {"type": "integer"},
            "description": "How many photos have each text, where these are few.",
        },
    },
    "required": ["kinds"],
}
_GARMENT = _object(
    photo={"type": "string", "description": "The name to search with this garment alone."},
    box={
        "type": "array",
        "items": {"type": "number"},
        "minItems": 4,
        "maxItems": 4,
        "description": "Left, top, width and height in shares of the upright photo.",
    },
    category={"type": "string", "description": "Empty where unknown."},
    score={"type": "number", "description": "How sure it is, 0 to 1."},
)
_SEEN = _object(
    map=_list(
        {
            "type": "array",
            "items": {"type": "number"},
            "description": "What each place adds to the score, a row of places from the left.",
        }
    ),
    window={
        "type": "array",
        "items": {"type": "number"},
        "minItems": 4,
        "maxItems": 4,
        "description": "What of the photo the map is of: left, top, right and bottom in shares of "
        "its width and height, outside of 0 to 1 where there is no photo.",
    },
    picture={
        "type": "string",
        "description": "The photo with the map over it, a JPEG file as a data: address. What "
        "speaks for the score is orange, what speaks against it blue, everything else dark.",
    },
)
# With a header that says after how many seconds to ask again, as /readyz has it too.
_BUSY = {
    429: "Too many requests of this client are under way.",
    503: "Too many requests are under way, or the server starts or stops.",
}
_PATH = "A photo of the index, as results name it."

INFO = Operation(
    "/api/info",
    "What the index holds and what a photo may be.",
    (),
    _object(
        images={"type": "integer"},
        categories=_list(_TEXT),
        domains=_list(_TEXT),
        columns={
            "type": "object",
            "additionalProperties": _COLUMN,
            "description": "What results can be filtered by beside these.",
        },
        explains={
            "type": "boolean",
            "description": "Whether /api/explain can say what a score comes from.",
        },
        samples=_list({"type": "string", "description": "A path to try a search with."}),
        chance={
            "type": ["number", "null"],
            "description": "One in a hundred pairs of photos of different items has this score or "
            "a higher one; null where there are too few photos to say.",
        },
        formats=_list(_TEXT),
        max_upload={"type": "integer", "description": "Bytes of the largest photo taken."},
    ),
)
PHOTO = Operation(
    "/api/photo",
    "Takes a photo, the bytes of an image file, and returns the name to search with it. The name "
    "is known until the server restarts, or 1,000 photos later.",
    (
        Parameter(
            "garments",
            {"type": "boolean", "default": False},
            "Find its garments, the surest first; there are none where the server has no locator.",
        ),
    ),
    _object(
        photo=_TEXT,
        garments=_list(_GARMENT),
        whole={
            "type": "boolean",
            "description": "Whether the surest garment is the whole photo: then it is not among "
            "`garments`, and the photo is best searched with as it is.",
        },
    ),
    body="The image file.",
    refusals={
        408: "The photo is sent too slowly.",
        413: "The photo is too large.",
        415: "The photo cannot be decoded.",
    },
)
GARMENTS = Operation(
    "/api/garments",
    "The garments that were found in a photo when it was uploaded.",
    (Parameter("photo", _TEXT, "The name of a photo that was uploaded.", required=True),),
    _object(garments=_list(_GARMENT)),
    refusals={404: "The photo is not kept here any more."},
)
SEARCH = Operation(
    "/api/search",
    "Finds what looks most like a photo: one of `photo` and `like` is needed.",
    (
        Parameter("photo", _TEXT, "The name of a photo that was uploaded, or of its garment."),
        Parameter("like", _TEXT, _PATH),
        Parameter(
            "k",
            {"type": "integer", "minimum": 1, "maximum": MOST_RESULTS, "default": 24},
            "Results.",
        ),
        Parameter(
            "group",
            {"type": "boolean", "default": True},
            "One result for each item, its best view; otherwise every image.",
        ),
        Parameter("category", _list(_TEXT), "Only these categories."),
        Parameter("domain", _list(_TEXT), "Only shop or only consumer photos."),
        Parameter(
            "where",
            _TEXT,
            "Only what this allows, such as: price < 50 and brand in ('A', 'B'). It is what "
            "`search.py query --where` takes.",
        ),
        Parameter(
            "min_confidence",
            {"type": "number", "minimum": 0, "maximum": 1, "default": 0},
            "Leaves out results of less confidence; no result is nothing alike. Refused where the "
            "index knows of none.",
        ),
    ),
    _object(results=_list(_RESULT)),
    refusals={404: "The photo is not kept here any more, or not in the index."},
)
EXPLAIN = Operation(
    "/api/explain",
    "Says which places of a photo and of a result their score comes from: one of `photo` and "
    "`like` is needed.",
    (
        Parameter("photo", _TEXT, "The name of a photo that was uploaded, or of its garment."),
        Parameter("like", _TEXT, _PATH),
        Parameter("path", _TEXT, "The result: a photo of the index.", required=True),
    ),
    _object(
        score={"type": "number", "description": "Cosine similarity, -1 to 1."},
        exact={
            "type": "boolean",
            "description": "Whether each map sums to the score. It is the gradient's otherwise.",
        },
        query=_SEEN,
        match=_SEEN,
    ),
    refusals={
        404: "A photo is not kept here any more, not in the index, or cannot be read; or scores "
        "of this index cannot be explained.",
    },
)
IMAGE = Operation(
    "/image",
    "A small picture of an uploaded photo, whole for its garments too, or of one of the index.",
    (
        Parameter("photo", _TEXT, "The name of a photo that was uploaded."),
        Parameter("path", _TEXT, _PATH),
    ),
    {"type": "string", "format": "binary"},
    media="image/jpeg",
    refusals={404: "There is no such photo, or its file cannot be read."},
)
HEALTH = Operation("/healthz", "Says that the server lives.", (), _object(status=_TEXT), work=False)
READY = Operation(
    "/readyz",
    "Says that questions are answered.",
    (),
    _object(status=_TEXT),
    refusals={503: "The index is still being opened, or the server stops."},
    work=False,
)
METRICS = Operation(
    "/metrics",
    "What the server counts, as Prometheus reads it.",
    (),
    _TEXT,
    media="text/plain",
    refusals={404: "The package prometheus-client is not installed."},
    work=False,
)
OPERATIONS = {
    "info": INFO,
    "photo": PHOTO,
    "garments": GARMENTS,
    "search": SEARCH,
    "explain": EXPLAIN,
    "image": IMAGE,
    "health": HEALTH,
    "ready": READY,
    "metrics": METRICS,
}
"""dict of Operation by name."""


def openapi() -> dict[str, Any]:
    """Returns the API's description as OpenAPI 3.1 has it, ready for JSON."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Visual search",
            "version": fir_tf.__version__,
            "description": "A photo in, the items of an index that look most like it out.",
        },
        "paths": {
            operation.path: {operation.method.lower(): _described(name, operation)}
            for name, operation in OPERATIONS.items()
        },
    }


def _described(name: str, operation: Operation) -> dict[str, Any]:
    busy = _BUSY if operation.work else {}
    refusals = {400: "A value does not fit.", **operation.refusals, **busy}
    described: dict[str, Any] = {
        "operationId": name,
        "summary": operation.text,
        "responses": {
            "200": _content(operation.media, operation.answer, "The answer."),
            **{
                str(status): _content("application/json", _object(error=_TEXT), text)
                for status, text in refusals.items()
            },
        },
    }
    if operation.parameters:
        described["parameters"] = [
            {
                "name": parameter.name,
                "in": "query",
                "schema": dict(parameter.schema),
                "description": parameter.text,
                "required": parameter.required,
            }
            for parameter in operation.parameters
        ]
    if operation.body:
        binary = {"type": "string", "format": "binary", "minLength": 1}
        content = _content("application/octet-stream", binary, operation.body)
        described["requestBody"] = {**content, "required": True}
    return described


def _content(media: str, schema: Mapping[str, Any], text: str) -> dict[str, Any]:
    return {"description": text, "content": {media: {"schema": dict(schema)}}}
