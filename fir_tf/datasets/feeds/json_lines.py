"""JSON Lines: a JSON object a line, its names those of Google Merchant's feed or of a table."""

import json
import math
from collections.abc import Iterator
from typing import Any

from fir_tf.datasets.feeds.format import Format, Row, column_name
from fir_tf.datasets.feeds.source import Source
from fir_tf.datasets.metadata import Cell
from fir_tf.errors import FirError


def _recognises(source: Source) -> bool:
    return source.head.lstrip().startswith(("{", "["))


def _rows(source: Source) -> Iterator[Row]:
    for number, line in enumerate(map(str.strip, source.lines()), 1):
        if not line:
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise FirError(
                f"{source.path}:{number}: a line must be a JSON object. Received: {error}"
            ) from error
        if not isinstance(value, dict):
            raise FirError(
                f"{source.path}:{number}: a line must be a JSON object, such as "
                f'{{"id": "7", "image_link": "7.jpg"}}. Received: {line:.60}'
            )
        cells = {str(as_cell(name)): as_cell(cell) for name, cell in value.items()}
        yield number, {column_name(name): cell for name, cell in cells.items()}


def as_cell(value: Any) -> Cell:
    """Returns a value of JSON as a cell; what is deeper than a list stays JSON."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, str):
        # Half of a pair of UTF-16, which only an escape can write, is no text.
        return value.strip().encode(errors="backslashreplace").decode()
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, list):
        return [str(as_cell(part)) if isinstance(part, str) else json.dumps(part) for part in value]
    return json.dumps(value)


FORMAT = Format("JSON Lines", _recognises, _rows, required=("path",), typed=True)
