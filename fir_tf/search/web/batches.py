"""Photos that come one by one, embedded together: batches of what waits while the model works."""

import collections
import dataclasses
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import numpy as np

from fir_tf.search.opened import Encoded


@dataclasses.dataclass(frozen=True)
class Embedded:
    """What became of one photo.

    Attributes:
        vector: float32 [d], unit length; zeros where not valid.
        valid: bool, whether the photo could be read.
        waited: float, seconds until its batch was begun.
        took: float, seconds of its batch.
        generation: str, whose model it was embedded by.
    """

    vector: np.ndarray
    valid: bool
    waited: float
    took: float
    generation: str


@dataclasses.dataclass(frozen=True)
class _Waiting:
    contents: bytes
    arrived: float
    future: "Future[Embedded]"


class Batcher:
    """Embeds photos in a thread of its own, as many at a time as wait for it.

    Args:
        encode: callable, list of bytes -> (Encoded, one row for each; str, the name of the
            generation whose model it was): all of a batch are embedded by one.
        most: int, photos in a batch.
        wait: float, seconds that a photo may wait for others although nothing is being embedded.
        seen: callable of an int, told the size of each batch.
    """

    def __init__(
        self,
        encode: Callable[[Sequence[bytes]], tuple[Encoded, str]],
        most: int,
        wait: float,
        seen: Callable[[int], None],
    ) -> None:
        self._encode, self._most, self._wait, self._seen = encode, most, wait, seen
        self._waiting: collections.deque[_Waiting] = collections.deque()
        self._changed = threading.Condition()
        self._closed = False
        # A daemon, so that a model that hangs keeps no process from ending.
        self._thread = threading.Thread(target=self._work, name="batches", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many photos wait for a batch."""
        return len(self._waiting)

    def submit(self, contents: bytes) -> "Future[Embedded]":
        """Returns the Future of a photo's Embedded; cancelled before its batch, it is left out.

        It raises what the model raises for this photo alone.
        """
        one = _Waiting(contents, time.monotonic(), Future())
        with self._changed:
            if self._closed:
                one.future.cancel()
            self._waiting.append(one)
            self._changed.notify()
        return one.future

    def close(self) -> None:
        """Embeds what waits, and takes no more."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while batch := self._next():
            kept = [one for one in batch if one.future.set_running_or_notify_cancel()]
            if kept:
                self._seen(len(kept))
                self._embed(kept)

    def _next(self) -> list[_Waiting]:
        """Returns the next batch; an empty one when there is none any more."""
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            if self._waiting:
                until = self._waiting[0].arrived + self._wait
                while len(self._waiting) < self._most and not self._closed:
                    if not self._changed.wait(max(0.0, until - time.monotonic())):
                        break
            count = min(self._most, len(self._waiting))
            return [self._waiting.popleft() for _ in range(count)]

    def _embed(self, batch: list[_Waiting]) -> None:
        begin = time.monotonic()
        try:
            found, name = self._encode([one.contents for one in batch])
        # Whatever it is, it is for whom it concerns: the others are embedded without it.
        except Exception as error:
            if len(batch) == 1:
                batch[0].future.set_exception(error)
                return
            for one in batch:
                self._embed([one])
            return
        took = time.monotonic() - begin
        for row, one in enumerate(batch):
            vector, valid = found.embedding[row], bool(found.valid[row])
            one.future.set_result(Embedded(vector, valid, begin - one.arrived, took, name))
