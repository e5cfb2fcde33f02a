"""One function over many files: in processes, with a progress bar, or in threads."""

import collections
import contextlib
import functools
import importlib
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from tqdm import tqdm

from fir_tf.errors import FirError
from fir_tf.shell import quiet_import

# A process takes ten seconds to import TensorFlow and to build the decoder, as long as some
# hundreds of small photos.
_TASKS_IN_PLACE = 1000
_CHUNK = 16
# Chunks that a worker has in hand or before it.
_AHEAD = 4

Task = TypeVar("Task")
Result = TypeVar("Result")


def cores() -> int:
    """Returns the number of cores this process may use, an int >= 1."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ahead(function: Callable[[Task], Result], arguments: Iterable[Task]) -> Iterator[Result]:
    """Yields `function` of each argument in order; threads work ahead of the reader."""
    count = cores()
    pool = ThreadPoolExecutor(count)
    running: collections.deque[Future[Result]] = collections.deque()
    try:
        for argument in arguments:
            running.append(pool.submit(function, argument))
            if len(running) > count + 2:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def run(
    function: Callable[[Task], Result],
    tasks: Collection[Task] | Iterator[Task],
    workers: int,
    desc: str,
    total: int = 0,
) -> Iterator[Result]:
    """Calls a function on every task and yields the results in the tasks' order.

    Tasks are taken a few ahead of their results.

    Args:
        function: callable of one argument, at the top level of a module.
        tasks: list of arguments, one an image, or an iterator of them.
        workers: int >= 1, processes; 0 for one a core, and none for a few tasks. With more than
            one, a script has to call this under `if __name__ == "__main__":`.
        desc: str, what the progress bar says.
        total: int, how many tasks an iterator yields.

    Yields:
        What the function returned.

    Raises:
        FirError: if `workers` is negative or a process dies.
    """
    if workers < 0:
        raise FirError(f"`workers` must be >= 0 (0 is one a core). Received: {workers}")
    if isinstance(tasks, Collection):
        total = len(tasks)
    if workers == 0:
        workers = 1 if total < _TASKS_IN_PLACE else cores()
    bar = functools.partial(tqdm, total=total, unit="image", desc=desc, disable=None)
    if workers == 1:
        yield from bar(map(function, tasks))
        return
    # Forking a process that runs TensorFlow's threads can hang; spawning cannot.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start_worker, initargs=(function.__module__,)
    )
    try:
        yield from bar(_mapped(pool, function, tasks, workers * _AHEAD))
    except BrokenProcessPool as error:
        raise FirError(
            "`workers` must be 1 in a script that is not guarded by "
            '`if __name__ == "__main__":`, which a new process runs again, and fewer where memory '
            f"is short: a process ended early. Received: {workers}"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _mapped(
    pool: ProcessPoolExecutor,
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    ahead: int,
) -> Iterator[Result]:
    """Yields what the function returns; at most `ahead` chunks of tasks wait for it."""
    rest, window = iter(tasks), collections.deque[Future[list[Result]]]()
    while chunk := list(itertools.islice(rest, _CHUNK)):
        with _interrupts_held_back():
            window.append(pool.submit(_each, function, chunk))
        while window and (len(window) > ahead or window[0].done()):
            yield from window.popleft().result()
    while window:
        yield from window.popleft().result()


def _each(function: Callable[[Task], Result], tasks: Sequence[Task]) -> list[Result]:
    return [function(task) for task in tasks]


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Blocks Ctrl-C: processes that are started inside never get it, this one gets it behind.

    A terminal sends it to all of them, and one that is still importing would show a traceback.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(module: str) -> None:
    """Imports what is called; leaves Ctrl-C to the parent, and ends when the parent is gone.

    A worker whose parent was killed would wait for tasks for ever: it holds both ends of the
    queue.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with quiet_import():
        importlib.import_module(module)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
