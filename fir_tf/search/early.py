"""Mistakes of search.py that are told before TensorFlow is imported, which takes seconds."""

import contextlib
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from fir_tf.datasets.catalogue import is_address
from fir_tf.errors import FirError
from fir_tf.remote.fetch import FetchError
from fir_tf.remote.guard import check_public
from fir_tf.search.engines import is_default, open_engine


def check_photos(photos: Sequence[str], allow_private: bool) -> None:
    """Raises FirError unless there are photos, each a file or an address that may be fetched from.

    Args:
        photos: list of str.
        allow_private: bool, whether addresses may lead to machines that are not public ones. What
            a host's name leads to is seen when it is asked.
    """
    if not photos:
        raise FirError("no photo was given: python search.py query photo.jpg --index=...")
    for photo in photos:
        if not (is_address(photo) or Path(photo).is_file()):
            raise FirError(f"{photo} is no file. Give the photo to search with")
        if not allow_private:
            _check_host(photo)


def _check_host(photo: str) -> None:
    """Raises FirError if a photo is at a web address with the number of a private machine."""
    try:
        address = urlsplit(photo)
        if address.scheme.lower() in ("http", "https"):
            host = address.hostname or ""
            check_public("127.0.0.1" if host == "localhost" else host)
    except FetchError as error:
        raise FirError(f"{photo} cannot be fetched: {error}") from error
    # A name, or no address at all: who fetches it says so.
    except ValueError:
        pass


def check_index(address: str) -> None:
    """Raises FirError if a folder is to be an index and is none.

    That is told in milliseconds. Other engines may take as long to open as TensorFlow does.

    Args:
        address: str, see `fir_tf.search.engines.open_engine`.
    """
    if is_default(address):
        open_engine(address).close()


def check_model(folder: str) -> None:
    """Raises FirError if a model's folder is named that is not there."""
    if folder and not Path(folder).is_dir():
        raise FirError(
            f"`model` must be the folder of a run or of an export. Received: {folder}, which is "
            "not there"
        )


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """Opens a socket that is bound, but does not listen yet.

    Args:
        host: str, the address to listen at.
        port: int, 0 for a free one.

    Raises:
        FirError: the port is taken, or the address is none of this machine.
    """
    with contextlib.closing(socket.socket()) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise FirError(f"`port` must be free at {host}. Received: {port} ({error})") from error
        yield listener
