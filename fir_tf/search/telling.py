"""What a command found, on the screen and in files."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fir_tf.files import json_text, write_json

log = logging.getLogger(__package__)


def tell(values: dict[str, Any], text: str, json: str, written: Sequence[str | Path] = ()) -> None:
    """Shows a result as text, or as JSON and nothing else, and says what was written.

    Args:
        values: dict, ready for JSON.
        text: str, the same to read.
        json: str, the file to write it to as JSON; "-" for JSON in place of the text, "" for none.
        written: sequence of str or Path, the files that were written before.
    """
    if json == "-":
        print(json_text(values))
    else:
        log.info(text)
    files = list(map(str, written))
    if json not in ("", "-"):
        write_json(json, values)
        files.append(json)
    if files:
        log.info("wrote " + ", ".join(files))
