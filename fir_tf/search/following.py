"""The generation of an index that answers, question by question: a switch needs no restart.

A question looks which generation is current, and keeps the one it has found to its end. The one
before is closed when its last question has ended. A migration says when the next one is filled:
its model is then opened beside, so that no question waits for it after the switch.
"""

import concurrent.futures
import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Iterator

from fir_tf.search.engines import Generations
from fir_tf.search.engines.generations import State
from fir_tf.search.generation import Generation

log = logging.getLogger(__package__)

# Seconds until a generation that could not be opened is tried again.
_AGAIN = 30.0


@dataclasses.dataclass(eq=False)
class _Held:
    """A generation, and how many questions it is answering."""

    generation: Generation
    users: int = 0
    retired: bool = False


class Following:
    """Hands out the generation that answers.

    Args:
        first: Generation, the one that answers now.
        generations: Generations of its index; None for an index that always stays the same.
        open_other: callable of a name that opens another Generation.

    Attributes:
        prepare: callable of a Generation that was opened, called before it answers.
    """

    def __init__(
        self,
        first: Generation,
        generations: Generations | None = None,
        open_other: Callable[[str], Generation] | None = None,
    ) -> None:
        self._generations, self._open_other = generations, open_other
        self._now = _Held(first)
        # The number of the last state that was followed.
        self._seen = -1
        self._again_at = 0.0
        self._counting, self._changing = threading.Lock(), threading.Lock()
        self._coming: dict[str, concurrent.futures.Future[Generation]] = {}
        self._loader: concurrent.futures.ThreadPoolExecutor | None = None
        self.prepare: Callable[[Generation], None] = lambda generation: None

    @property
    def last(self) -> Generation:
        """The generation that answered last, without a look for another one."""
        return self._now.generation

    @contextlib.contextmanager
    def held(self) -> Iterator[Generation]:
        """Yields the generation that is current now, open to the end of the block."""
        self._look()
        with self._counting:
            held = self._now
            held.users += 1
        try:
            yield held.generation
        finally:
            with self._counting:
                held.users -= 1
            self._close_unused(held)

    def _close_unused(self, held: _Held) -> None:
        with self._counting:
            unused = held.retired and not held.users
        if unused:
            held.generation.close()

    def _look(self) -> None:
        if self._generations is None:
            return
        state = self._generations.state()
        if state.number == self._seen or time.monotonic() < self._again_at:
            return
        # Who comes while the next one is opened waits here, for the old one answers no more.
        with self._changing:
            # A thread that was late has an older state in hand.
            if state.number > self._seen and time.monotonic() >= self._again_at:
                self._follow(state)

    def _follow(self, state: State) -> None:
        if state.current != self.last.name and not self._switch(state.current):
            return
        self._seen = state.number
        coming = set() if state.opening is None else {state.opening} - {state.current}
        for name in self._coming.keys() - coming:
            self._coming.pop(name).add_done_callback(_close_result)
        for name in coming - self._coming.keys():
            self._loader = self._loader or concurrent.futures.ThreadPoolExecutor(1)
            self._coming[name] = self._loader.submit(self._open_coming, name)

    def _switch(self, name: str) -> bool:
        """Goes on with another generation; with the same one where that cannot be opened."""
        loading = self._coming.pop(name, None)
        try:
            after = _Held(loading.result() if loading else self._open(name))
        # A model that does not load has any error; the answers that are there are better than none.
        except Exception as error:
            log.warning(
                f"the index was switched to a generation that cannot be opened here: {error}. "
                "Questions are answered by the one before until it can be"
            )
            self._again_at = time.monotonic() + _AGAIN
            return False
        with self._counting:
            before, self._now = self._now, after
            before.retired = True
        self._close_unused(before)
        return True

    def _open_coming(self, name: str) -> Generation:
        assert self._generations is not None
        # The switch waits for those who have begun, so that their questions need not.
        with self._generations.holding("opening"):
            return self._open(name)

    def _open(self, name: str) -> Generation:
        assert self._open_other is not None
        generation = self._open_other(name)
        try:
            self.prepare(generation)
        except BaseException:
            generation.close()
            raise
        return generation

    def close(self) -> None:
        """Closes what is open."""
        if self._loader is not None:
            self._loader.shutdown()
        for loading in self._coming.values():
            _close_result(loading)
        self._coming.clear()
        self._now.generation.close()
        if self._generations is not None:
            self._generations.close()


def _close_result(loading: concurrent.futures.Future[Generation]) -> None:
    if not loading.exception():
        loading.result().close()
