"""Photos at addresses on their way into a training copy."""

import collections
import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from tqdm import tqdm

from fir_tf.hygiene.copying import Task
from fir_tf.options import RefreshOptions
from fir_tf.parallel import cores
from fir_tf.remote.opened import open_photos
from fir_tf.remote.photos import Found, RemotePhotos

# Tasks that are given to threads at a time.
_PIECE = 10_000


class FetchedTasks:
    """Tasks in their order, those of addresses with the photos they lead to now.

    What fetches is opened when there are addresses. A photo's file stays until its task is done.

    Args:
        tasks: sequence of Task.
        options: RefreshOptions.
    """

    def __init__(self, tasks: Sequence[Task], options: RefreshOptions) -> None:
        self._tasks, self._options = tasks, options
        self._exit = contextlib.ExitStack()
        self._held = collections.deque[Found]()
        self._remote: RemotePhotos | None = None
        self._done = 0

    def __iter__(self) -> Iterator[Task]:
        wanted = [task for task in self._tasks if task.address]
        if not wanted:
            yield from self._tasks
            return
        self._remote = open_photos(self._options)
        self._exit.callback(self._remote.close)
        max_age = self._options.photo_max_age * 3600
        looked = self._remote.look(_contents_before(wanted), max_age)
        for task in self._tasks:
            yield self._with_photo(task, next(looked)) if task.address else task

    def __len__(self) -> int:
        return len(self._tasks)

    def _with_photo(self, task: Task, found: Found) -> Task:
        self._held.append(found)
        return dataclasses.replace(
            task,
            source=str(found.file or ""),
            contents=found.checksum,
            fault=str(found.error or ""),
        )

    def done(self) -> Task:
        """Returns the next task, whose result is here, and lets go of its photo."""
        task = self._tasks[self._done]
        self._done += 1
        if task.address and self._remote:
            self._remote.let_go([self._held.popleft()])
        return task

    def __enter__(self) -> "FetchedTasks":
        return self

    def __exit__(self, *error: object) -> None:
        self._exit.close()


def _contents_before(tasks: Sequence[Task]) -> dict[str, str]:
    """Returns the checksum of the photo that each address led to, where that need not be read."""
    bar = {"total": len(tasks), "desc": "copies", "unit": "image", "disable": None}
    with ThreadPoolExecutor(cores()) as pool:
        same = (
            each
            for start in range(0, len(tasks), _PIECE)
            for each in pool.map(Task.is_up_to_date, tasks[start : start + _PIECE])
        )
        return {
            task.address: task.known["contents"] if there and task.known else ""
            for task, there in zip(tasks, tqdm(same, leave=False, **bar), strict=True)
        }
