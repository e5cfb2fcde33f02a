"""Search engines, chosen by the index's address."""

import re
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from fir_tf.errors import FirError
from fir_tf.retrieval.engines.base import Engine, Filter, Hit, Record

ADDRESSES = """Where an index lies says what searches it:
  FOLDER                             exact search in this process (up to a few million vectors)
  faiss+flat:FOLDER                  the same folder through FAISS: exact,
  faiss+ivfpq:FOLDER                   compressed inverted lists,
  faiss+hnsw:FOLDER                    or a graph (up to tens of millions)
  milvus:FILE.db                     Milvus' embedded mode
  milvus+http://HOST:19530/NAME      a Milvus cluster's collection (https too; the environment
                                       variable MILVUS_TOKEN logs in); ?kind=hnsw for a graph"""


def open_engine(address: str | Path, create: bool = False, effort: float = 1.0) -> Engine:
    """Opens the engine of an index.

    Args:
        address: str, see `ADDRESSES`.
        create: bool, whether to make a new index where there is none.
        effort: float, how far an approximate FAISS index searches, see `FaissEngine`.

    Returns:
        Engine.

    Raises:
        FirError: the address is unknown, or there is no index and `create` is off.
    """
    address = str(address)
    scheme, separator, rest = address.partition(":")
    if not address.strip():
        raise FirError("`index` must be an index's address. Received: nothing")
    # One letter is a drive.
    if not separator or len(scheme) == 1:
        from fir_tf.retrieval.engines.local import LocalEngine

        return LocalEngine(address, create)
    if match := re.fullmatch(r"faiss(?:\+(\w+))?", scheme):
        from fir_tf.retrieval.engines.faiss import FaissEngine

        return FaissEngine(rest, match[1] or "flat", create, effort)
    if scheme in ("milvus", "milvus+http", "milvus+https"):
        return _open_milvus(scheme, rest, create)
    raise FirError(f"`index` must be an index's address. Received: {address!r}.\n{ADDRESSES}")


def _open_milvus(scheme, rest, create):
    from fir_tf.retrieval.engines.milvus import MilvusEngine

    if scheme == "milvus":
        path, _, query = rest.partition("?")
        if not path.endswith(".db"):
            raise FirError(f"`index` must be milvus:FILE.db. Received: milvus:{rest!r}")
        uri, name = path, ""
    else:
        parts = urlsplit(f"{scheme.partition('+')[2]}:{rest}")
        uri, name, query = f"{parts.scheme}://{parts.netloc}", parts.path.strip("/"), parts.query
    kind = parse_qs(query).get("kind", ["flat"])[0]
    return MilvusEngine(uri, name or "catalogue", kind, create)


__all__ = ["ADDRESSES", "Engine", "Filter", "Hit", "Record", "open_engine"]
