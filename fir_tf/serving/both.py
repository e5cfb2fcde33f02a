"""The same question to another version of the model, and how far its answers differ."""

import collections
import concurrent.futures
import dataclasses
import logging
import math
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from fir_tf.errors import FirError

log = logging.getLogger(__package__)

# Requests that wait for the other version; it is left out where it is slower than its clients.
_WAITING = 16
# Vectors of a model that was computed otherwise, such as in bfloat16, are closer than that.
_SAME_COSINE = 0.999

Rows = Sequence[Mapping[str, Any]]


class Transport(Protocol):
    """A connection to one version of the model."""

    def predict(self, signature: str, inputs: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
        """Returns the outputs of each image, dicts by name."""

    def close(self) -> None:
        """Closes it."""


@dataclasses.dataclass
class Differences:
    """How far the answers of two versions differ.

    Attributes:
        images: int, those that both have answered.
        alike: float, the sum over them of the share of answers, items or categories, that both
            have; of embeddings their cosine, 0 where their lengths differ.
        first: int, how many have the same first answer, or the same embedding.
        validity: int, how many one version can read and the other cannot.
        failed, skipped: int, requests that the other version did not answer, and those it was not
            asked because others waited for it, or it was still to be asked at the end.
    """

    images: int = 0
    alike: float = 0.0
    first: int = 0
    validity: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, other: "Differences") -> "Differences":
        """Returns those of both."""
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return Differences(*(own + more for own, more in pairs))

    def told(self) -> dict[str, Any]:
        """Returns them ready for JSON, `alike` and `first` as shares; None without an image."""
        share = {
            name: getattr(self, name) / self.images if self.images else None
            for name in ("alike", "first")
        }
        return {**dataclasses.asdict(self), **share}


def differences(rows: Rows, others: Rows) -> Differences:
    """Compares the answers of two versions to the same images, dicts of outputs by name."""
    found = Differences(images=len(rows))
    for row, other in zip(rows, others, strict=True):
        if row["valid"] != other["valid"]:
            found.validity += 1
            continue
        alike, same = (1.0, True) if not row["valid"] else _compared(row, other)
        found.alike += alike
        found.first += same
    return found


def _compared(row: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[float, bool]:
    """Returns (how alike two answers are, whether the first one is the same)."""
    if "embedding" in row:
        first, second = (np.asarray(each["embedding"], np.float64) for each in (row, other))
        cosine = float(first @ second) if first.shape == second.shape else 0.0
        # One embedding of a broken version must not hide what the others tell.
        cosine = cosine if math.isfinite(cosine) else 0.0
        return cosine, cosine >= _SAME_COSINE
    name = "item_id" if "item_id" in row else "category"
    # The server fills up rows that have fewer answers than others.
    own, others = ([text for text in each[name] if text] for each in (row, other))
    longest = max(len(set(own)), len(set(others)))
    alike = len(set(own) & set(others)) / longest if longest else 1.0
    return alike, own[:1] == others[:1]


class Both:
    """Asks another version what was asked already, in a thread of its own: nobody waits for it.

    Its failures are counted, and never the client's. The log has the first of those in a row, and
    when it answers again.

    Args:
        transport: Transport to the other version, which is closed with this.
        name: str, what it is called in the log.
        grace: float, seconds that `close` waits for what has not begun.
    """

    def __init__(self, transport: Transport, name: str, grace: float = 5.0) -> None:
        self._transport, self._name, self._grace = transport, name, grace
        self._pool = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="both")
        self._room = threading.Semaphore(_WAITING)
        self._found, self._lock = Differences(), threading.Lock()
        # In a row, by signature: it may have one and not the other.
        self._failures: collections.Counter[str] = collections.Counter()

    def ask(self, signature: str, inputs: Mapping[str, Sequence[Any]], rows: Rows) -> None:
        """Asks; `rows` is what was answered already."""
        if self._room.acquire(blocking=False):
            asked = self._pool.submit(self._ask, signature, inputs, rows)
            asked.add_done_callback(self._left_out)
        else:
            self._add(Differences(skipped=1))

    def _ask(self, signature: str, inputs: Mapping[str, Sequence[Any]], rows: Rows) -> None:
        try:
            found = differences(rows, self._transport.predict(signature, inputs))
        # A version without this signature, or of other outputs, too: nobody else would hear of it.
        except Exception as error:
            found = Differences(failed=1)
            self._note_failure(signature, error)
        else:
            if failed := self._failures.pop(signature, 0):
                log.warning(f"{signature}: {self._name} answers again, {failed} requests later")
        finally:
            self._room.release()
        self._add(found)
        if found.alike < _SAME_COSINE * found.images:
            log.info(
                f"{signature}, {found.images} images: {self._name} has {found.alike:.2f} of their "
                f"answers in common and {found.first} first ones; {found.validity} that one of "
                "them alone can read"
            )

    def _note_failure(self, signature: str, error: Exception) -> None:
        self._failures[signature] += 1
        if self._failures[signature] == 1:
            reason = str(error) if isinstance(error, FirError) else repr(error)
            log.warning(
                f"{signature}: {self._name} did not answer: {reason}. Said once, until it does"
            )

    def _left_out(self, asked: concurrent.futures.Future[None]) -> None:
        if asked.cancelled():
            self._add(Differences(skipped=1))

    def _add(self, more: Differences) -> None:
        with self._lock:
            self._found += more

    def told(self) -> Differences:
        """Returns what was found so far."""
        with self._lock:
            return self._found

    def close(self) -> None:
        """Closes the connection; what has not begun some seconds later is left out."""
        last = self._pool.submit(lambda: None)
        concurrent.futures.wait([last], self._grace)
        self._pool.shutdown(cancel_futures=True)
        self._transport.close()
