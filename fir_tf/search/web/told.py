"""What is known of a request while it is worked on, wherever that happens."""

import contextlib
import contextvars
import dataclasses
import time
from collections.abc import Iterator
from typing import Any

STAGES = ("decode", "picture", "locate", "queue", "embed", "search", "explain", "answer")
"""tuple of str: what a request's time goes to. `picture` makes a small one, `locate` finds
garments, `queue` waits for the model, `explain` asks it what a score comes from, `answer` writes
JSON."""


@dataclasses.dataclass
class Told:
    """What a request's handler tells of it.

    Attributes:
        seconds: dict of float by stage, of those that it went through.
        k: int or None, results that were asked for.
        results: int or None, results that were found.
        top_score: float or None, the first one's.
        query: dict or None, what is kept of a photo that was asked with, see
            `fir_tf.search.asked_log.entry`.
    """

    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    k: int | None = None
    results: int | None = None
    top_score: float | None = None
    query: dict[str, Any] | None = None

    def add(self, stage: str, seconds: float) -> None:
        """Adds to the time of a stage, one of `STAGES`."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds


_CURRENT: contextvars.ContextVar[Told | None] = contextvars.ContextVar("told", default=None)


def current() -> Told:
    """Returns the Told of the request that is worked on; of none, one that nobody reads.

    Threads that a request's handler hands its work to know it too.
    """
    return _CURRENT.get() or Told()


@contextlib.contextmanager
def telling() -> Iterator[Told]:
    """Yields the Told of a request for as long as it is worked on."""
    told = Told()
    token = _CURRENT.set(told)
    try:
        yield told
    finally:
        _CURRENT.reset(token)


@contextlib.contextmanager
def stage(name: str) -> Iterator[None]:
    """Counts the time of the block to a stage of the request."""
    begin = time.perf_counter()
    try:
        yield
    finally:
        current().add(name, time.perf_counter() - begin)
