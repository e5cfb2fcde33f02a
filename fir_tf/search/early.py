"""Mistakes of search.py that are told before TensorFlow is imported, which takes seconds."""

import contextlib
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

from fir_tf.datasets.catalogue import is_address
from fir_tf.errors import FirError
from fir_tf.search.engines import is_default, open_engine


def check_photos(photos: Sequence[str]) -> None:
    """Raises FirError if no photo is given, or one that is neither a file nor an address."""
    if not photos:
        raise FirError("no photo was given: python search.py query photo.jpg --index=...")
    for photo in photos:
        if not (is_address(photo) or Path(photo).is_file()):
            raise FirError(f"{photo} is no file. Give the photo to search with")


def check_index(address: str) -> None:
    """Raises FirError if a folder is to be an index and is none.

    That is told in milliseconds. Other engines may take as long to open as TensorFlow does.

    Args:
        address: str, see `fir_tf.search.engines.open_engine`.
    """
    if is_default(address):
        open_engine(address).close()


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
