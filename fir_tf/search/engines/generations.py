"""The generations of an index: whole indexes of one model each, side by side; one answers.

A generation is an index of its own, in a folder, table or collection beside the first one, so an
engine knows nothing of them. Which of them answers is one small record, replaced in one step: a
reader sees the state before it or the state after it, whenever a writer dies.
"""

import abc
import contextlib
import dataclasses
import fcntl
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fir_tf.errors import FirError
from fir_tf.files import write_json
from fir_tf.search.engines.base import Engine

log = logging.getLogger(__package__)

FIRST = ""
"""str, the name of the generation that every index begins with."""

_FILE = "generations.json"

_LOCKS = {"migrating": "migrate.lock", "opening": "open.lock"}
# What is said while others hold a lock.
_WAITING = {
    "writing": "another process writes to the index: waiting for it to end",
    "opening": "others open the next model to answer with it: waiting for them",
}
# Seconds between two looks at a lock.
_PAUSE = 0.1


@dataclasses.dataclass(frozen=True)
class State:
    """Which generations an index has, by name.

    Attributes:
        current: str, the one that answers.
        coming: str or None, the one that a migration fills.
        opening: str or None, the one that is about to answer: readers open its model ahead.
        previous: str or None, the one that answered before, kept to go back to.
        leaving: str or None, one that nobody asks any more and whose vectors are being removed.
        named: int, how many names were given, so that none is given twice.
        number: int, of this state; every change counts one up.
    """

    current: str = FIRST
    coming: str | None = None
    opening: str | None = None
    previous: str | None = None
    leaving: str | None = None
    named: int = 0
    number: int = 0


class Generations(abc.ABC):
    """The generations of the index at one address, of one engine.

    An engine that has them gives them as `Scheme.generations`.
    """

    @abc.abstractmethod
    def stored(self) -> Mapping[str, Any]:
        """Returns what `store` stored last, whole; an empty dict where it never was called."""

    @abc.abstractmethod
    def store(self, values: dict[str, Any]) -> None:
        """Stores a dict ready for JSON in one step, lastingly."""

    @abc.abstractmethod
    def engine(self, name: str, create: bool, effort: float) -> Engine:
        """Opens the engine of a generation, see `fir_tf.search.engines.open_engine`."""

    @abc.abstractmethod
    def drop(self, name: str) -> None:
        """Removes a generation's vectors and records, also what is left of them."""

    @contextlib.contextmanager
    def holding(self, what: str, alone: bool = False, seconds: float = math.inf) -> Iterator[None]:
        """Holds a lock of the index for the length of the block; a dead process holds none.

        Args:
            what: str, "writing" to the current generation, "opening" the one that is about
                to answer, or "migrating".
            alone: bool, whether nobody else may hold it.
            seconds: float, how long others are waited for.

        Raises:
            FirError: another process migrates. Others are waited for.
            TimeoutError: others hold it all that time.
        """
        yield

    def close(self) -> None:  # noqa: B027
        """Releases connections."""

    def state(self) -> State:
        """Returns which generations there are."""
        values = self.stored()
        fields = {field.name for field in dataclasses.fields(State)}
        return State(**{name: value for name, value in values.items() if name in fields})

    def change(self, **changes: Any) -> State:
        """Changes the state in one step, by fields of `State`; returns the new one."""
        before = self.state()
        after = dataclasses.replace(before, **changes, number=before.number + 1)
        self.store(dataclasses.asdict(after))
        return after

    def open(self, name: str | None = None, create: bool = False, effort: float = 1.0) -> Engine:
        """Opens the engine of a generation, of the one that answers where None."""
        if name is None:
            return self._open_current(create, effort)
        engine = self.engine(name, create, effort)
        engine.generation = name
        return engine

    def _open_current(self, create: bool, effort: float) -> Engine:
        while True:
            name = self.state().current
            try:
                return self.open(name, create and name == FIRST, effort)
            except FirError:
                # It may have been switched and dropped in between.
                if self.state().current == name:
                    raise

    def __enter__(self) -> "Generations":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class FolderGenerations(Generations):
    """Generations of an index in a folder: folders in it, and a file that names the current one.

    Args:
        folder: str or Path.
        open_folder: callable of (str, bool, float): folder, create and effort -> Engine.
    """

    # Of the first generation, which has no folder of its own; the last are of engines beside it.
    _FIRST_FILES = ("records.sqlite*", "vectors-*.f32", "faiss-*")

    def __init__(
        self, folder: str | Path, open_folder: Callable[[str, bool, float], Engine]
    ) -> None:
        self._folder, self._open_folder = Path(folder), open_folder

    def stored(self) -> Mapping[str, Any]:
        """See `Generations`."""
        path = self._folder / _FILE
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except ValueError as error:
            values = error
        if not isinstance(values, dict) or not isinstance(values.get("current"), str):
            raise FirError(
                f"{path} must name the index's generations. Received: {values}. Write "
                '{"current": "gen-1"} into it, or whichever folder beside it is to answer'
            )
        return values

    def store(self, values: dict[str, Any]) -> None:
        """See `Generations`."""
        write_json(self._folder / _FILE, values)

    def engine(self, name: str, create: bool, effort: float) -> Engine:
        """See `Generations`."""
        return self._open_folder(str(self._folder / name if name else self._folder), create, effort)

    def drop(self, name: str) -> None:
        """See `Generations`."""
        if name:
            shutil.rmtree(self._folder / name, ignore_errors=True)
        patterns = () if name else self._FIRST_FILES
        for path in [path for pattern in patterns for path in self._folder.glob(pattern)]:
            path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def holding(self, what: str, alone: bool = False, seconds: float = math.inf) -> Iterator[None]:
        """See `Generations`."""
        if what == "writing":
            # A folder can be locked itself, so that no other file lies in it.
            number = os.open(self._folder, os.O_RDONLY)
        else:
            # Readers may have no right to write: a migration makes the file before they need it.
            access = os.O_RDWR if alone else os.O_RDONLY
            number = os.open(self._folder / _LOCKS[what], access | os.O_CREAT, 0o644)
        how = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
        try:
            acquire(lambda: _locked(number, how), what, seconds)
            yield
        finally:
            # A process that was forked meanwhile has the file open too.
            fcntl.flock(number, fcntl.LOCK_UN)
            os.close(number)


def _locked(number: int, how: int) -> bool:
    try:
        fcntl.flock(number, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def acquire(tried: Callable[[], bool], what: str, seconds: float) -> None:
    """Tries to get a lock until it is had; who migrates a second time is refused instead.

    Args:
        tried: callable that returns whether it was got.
        what: str, see `Generations.holding`.
        seconds: float, how long it is tried.

    Raises:
        FirError: another process migrates.
        TimeoutError: the seconds are over.
    """
    if tried():
        return
    if what == "migrating":
        raise FirError(
            "one process at a time migrates an index. Received: a second one. Wait for the other"
        )
    log.info(_WAITING[what])
    end = time.monotonic() + seconds
    while not tried():
        if time.monotonic() >= end:
            raise TimeoutError
        time.sleep(_PAUSE)
