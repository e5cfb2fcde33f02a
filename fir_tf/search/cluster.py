"""A catalogue embedded by the workers of a Dask cluster, and stored by the process that asks them.

A worker is given a piece of the catalogue and what the index has of it, and answers with what is
to be stored. So one process writes the index, whichever it is; a piece that a second worker is
given because the first was lost changes nothing; and the next run passes over what is stored.
"""

import asyncio
import contextlib
import dataclasses
import functools
import json
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from fir_tf import registry
from fir_tf.errors import FirError
from fir_tf.extras import require
from fir_tf.search import indexing
from fir_tf.search.encoder import Encoder
from fir_tf.search.engines import Engine, Record
from fir_tf.search.engines.base import in_pieces, shown
from fir_tf.search.indexing import Done, fill
from fir_tf.search.listing import Listing
from fir_tf.search_options import IndexOptions

# Pieces that wait for each thread of the workers, so that none of them waits for this process.
_AHEAD = 2
# Seconds in which a cluster must answer, or a worker come where there is none.
_PATIENCE = 60.0
# A network takes all cores of its machine: of a worker's threads one embeds at a time.
_embedding = threading.Lock()


def build(options: IndexOptions) -> dict[str, Any]:
    """Embeds a catalogue as `fir_tf.search.indexing.build` does, on the workers of a cluster.

    Every worker must have fir_tf installed, and see model and photos at the paths that this
    process does. Photos at addresses are fetched by the workers, each into a cache of its own.

    Args:
        options: IndexOptions, `dask` with the scheduler's address.

    Returns:
        dict: see `fir_tf.search.indexing.build`.

    Raises:
        FirError: as there; no cluster or no worker within a minute, or what a worker raised.
    """
    distributed = require("distributed", "dask")
    try:
        # An address of another form is a ValueError.
        client = distributed.Client(options.dask, timeout=_PATIENCE, set_as_default=False)
    except (OSError, ValueError) as error:
        raise FirError(
            "`dask` must be the address of a Dask scheduler that runs, such as tcp://HOST:8786. "
            f"Received: {options.dask} ({error})"
        ) from error
    with client, client.as_current():
        return indexing.build(options, functools.partial(_spread, client))


def _spread(
    client: Any,
    engine: Engine,
    encoder: Encoder,
    listing: Listing,
    before: Mapping[str, Record],
    options: IndexOptions,
) -> Done:
    """Is a `fir_tf.search.indexing.Fill` by the workers of a cluster."""
    task = Task(options, json.dumps(engine.info()), registry.loaded())
    pieces = (
        (records, {record.path: before[record.path] for record in records if record.path in before})
        for records in in_pieces(listing.records, indexing.PIECE)
    )
    done, start = Done(), time.perf_counter()
    bar_options = {"desc": "embedding", "unit": "image", "disable": None, "leave": False}
    with tqdm(total=len(listing.records), **bar_options) as bar:
        for answer in _answers(client, task, pieces):
            for records, vectors in answer.upserts:
                engine.upsert(records, vectors)
            engine.update(answer.updates)
            done.add(answer.done)
            bar.update(answer.photos)
    place = {record.path: row for row, record in enumerate(listing.records)}
    done.failures.sort(key=lambda failure: place[failure.path])
    done.seconds = time.perf_counter() - start
    return done


@dataclasses.dataclass(frozen=True)
class Task:
    """What a worker must know of a run.

    Attributes:
        options: IndexOptions.
        info: str, what the index says of itself, JSON.
        plugins: str, see `fir_tf.registry.load_plugins`.
    """

    options: IndexOptions
    info: str
    plugins: str


@dataclasses.dataclass
class Answer:
    """What a worker has made of a piece: a `fir_tf.search.indexing.Store` that remembers.

    Attributes:
        photos: int, how many the piece has.
        upserts: list of (list of Record, float32 [n, d]).
        updates: list of Record.
        done: Done.
    """

    photos: int
    upserts: list[tuple[Sequence[Record], np.ndarray]] = dataclasses.field(default_factory=list)
    updates: list[Record] = dataclasses.field(default_factory=list)
    done: Done = dataclasses.field(default_factory=Done)

    def upsert(self, records: Sequence[Record], vectors: np.ndarray) -> None:
        """See `Engine.upsert`."""
        self.upserts.append((records, vectors))

    def update(self, records: Sequence[Record]) -> None:
        """See `Engine.update`."""
        self.updates += records


def work(task: Task, records: list[Record], before: dict[str, Record]) -> Answer:
    """Embeds a piece of a catalogue, on a worker.

    Args:
        task: Task.
        records: list of Record.
        before: dict of Record by path, what the index has of them.

    Returns:
        Answer.

    Raises:
        FirError: photos or model are not there, or the model is another one.
    """
    root = Path(json.loads(task.info)["root"])
    if not root.is_dir():
        raise FirError(f"the photos' folder must be there on every worker. Received: {root}")
    answer = Answer(len(records))
    with _embedding:
        encoder = _opened(task.info, task.plugins)
        answer.done = fill(answer, encoder, Listing(root, records), before, task.options)
    return answer


@functools.lru_cache(1)
def _opened(info: str, plugins: str) -> Encoder:
    """Opens the model an index is made with, once in a worker."""
    registry.load_plugins(plugins)
    known = json.loads(info)
    encoder = Encoder(known["model"]["model"], **known["how"])
    encoder.check(known["model"], "the index")
    return encoder


def _answers(client: Any, task: Task, pieces: Iterable[tuple[Any, Any]]) -> Iterator[Answer]:
    """Yields what workers make of pieces, as it comes; a few pieces are with them at a time."""
    left, waiting = iter(pieces), set[Any]()
    while True:
        with _told(task):
            most = _AHEAD * max(1, sum(client.nthreads().values()))
            while len(waiting) < most and (piece := next(left, None)):
                waiting.add(client.submit(work, task, *piece, pure=False))
            ready = _first_of(waiting, client)
            answers = [future.result() for future in ready]
        if not waiting:
            return
        waiting -= ready
        yield from answers


def _first_of(waiting: set[Any], client: Any) -> set[Any]:
    """Waits for some of the Futures; FirError where nobody is there who could work on them."""
    distributed = require("distributed", "dask")
    while waiting:
        try:
            return distributed.wait(waiting, _PATIENCE, "FIRST_COMPLETED").done
        except TimeoutError as error:
            if not client.nthreads():
                raise FirError(f"no worker has come in {_PATIENCE:.0f} s") from error
    return set()


@contextlib.contextmanager
def _told(task: Task) -> Iterator[None]:
    """Makes a message of what workers ran into, and of a cluster that was lost."""
    try:
        yield
    # Dask raises what a worker has raised, of any kind, and errors of its own.
    except (Exception, asyncio.CancelledError) as error:
        raise FirError(
            f"the cluster {task.options.dask} did not embed all photos: {error or repr(error)}\n"
            f"What the index {shown(task.options.index)} holds stays; the same command goes on "
            "from there"
        ) from error
