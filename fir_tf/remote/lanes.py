"""Work on many hosts, some at a time and fewer of them on each: no host waits for another."""

import collections
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


class Lanes:
    """Threads that work on hosts.

    A process ends without waiting for them, as an interrupted one should.

    Args:
        threads: int, calls at a time.
        per_host: int, calls at a time of one host.
    """

    def __init__(self, threads: int, per_host: int) -> None:
        self._per_host = per_host
        self._lock = threading.Lock()
        self._busy: collections.Counter[str] = collections.Counter()
        self._waiting: dict[str, collections.deque[Callable[[], None]]] = {}
        self._ready: queue.SimpleQueue[tuple[str, Callable[[], None]] | None] = queue.SimpleQueue()
        self._threads = threads
        for _ in range(threads):
            threading.Thread(target=self._work, daemon=True).start()

    def submit(self, host: str, function: Callable[..., Any], *args: Any) -> Future:
        """Calls a function in one of the threads, when it is the host's turn; returns a Future."""
        future: Future = Future()

        def call() -> None:
            try:
                future.set_result(function(*args))
            # Whatever it is, it belongs to the one who waits.
            except BaseException as error:
                future.set_exception(error)

        with self._lock:
            if self._busy[host] < self._per_host:
                self._busy[host] += 1
                self._ready.put((host, call))
            else:
                self._waiting.setdefault(host, collections.deque()).append(call)
        return future

    def close(self) -> None:
        """Lets the threads end when they have done what they do; what waits is never done."""
        with self._lock:
            self._waiting.clear()
        for _ in range(self._threads):
            self._ready.put(None)

    def _work(self) -> None:
        while (task := self._ready.get()) is not None:
            host, call = task
            call()
            with self._lock:
                if self._waiting.get(host):
                    self._ready.put((host, self._waiting[host].popleft()))
                    continue
                self._busy[host] -= 1
                if not self._busy[host]:
                    # A feed may name more hosts than should be remembered.
                    del self._busy[host]
                    self._waiting.pop(host, None)
