"""Files that matter are written to a temporary name and renamed."""

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Bytes; a temporary name is at most this long, or shorter than its file's.
_LONG_NAME = 100


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; renames it to `path` when the block succeeds.

    A killed or failing block leaves `path` as it was, never half-written. Works for a file and
    for a folder that does not exist yet.

    Args:
        path: str or Path, the final name. Its parent folders are created.

    Yields:
        Path with the suffix of `path`, which the block has to create.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name may be as long as the file system allows, and no letter longer.
    name = path.name if len(os.fsencode(path.name)) <= _LONG_NAME else path.suffix[-16:]
    temporary = path.with_name(f".{uuid.uuid4().hex[:8]}.{name.removeprefix('.')}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        elif temporary.exists():
            temporary.unlink()


def write_text(path: str | Path, text: str) -> None:
    """Writes a string to `path` (UTF-8) by way of a temporary name."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Writes `value` as indented JSON to `path` by way of a temporary name."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
