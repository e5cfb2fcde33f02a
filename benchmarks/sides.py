"""Compares programs side by side in one run.

Each side is a process of its own that gets ready, then waits: the comparison asks one after the
other for a few rounds, so that a busy moment of the machine hits all of them. Take the ratios of
the medians, not the absolute numbers.

A side reads lines "run N", or "run N TASK", from its standard input and answers "took SECONDS
MEMORY_MB CPU_SECONDS" on its standard output; see `serve`.
"""

import resource
import statistics
import subprocess
import sys
import time


def serve(work):
    """The side's part: answers until the input ends.

    Args:
        work: callable taking the number of repetitions, and the task where one is named.
    """
    print("ready", flush=True)
    for line in sys.stdin:
        _, count, *task = line.split()
        begin, used = time.perf_counter(), time.process_time()
        work(int(count), *task)
        seconds, cpu = time.perf_counter() - begin, time.process_time() - used
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"took {seconds} {memory} {cpu}", flush=True)


class Side:
    """A process that serves.

    Args:
        name: str, its row in the results.
        command: list of str.
        environment: dict of str, the process' environment; None: this one's.
    """

    def __init__(self, name, command, environment=None):
        self.name, self.rates, self.cpu, self.memory = name, [], [], 0.0
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def wait(self):
        """Returns whether the process got ready."""
        return any(line.strip() == "ready" for line in self._process.stdout)

    def run(self, count, units, task=""):
        """Times `count` repetitions of `units` units each.

        Kept are units per second, and the processor's seconds a unit, which other work on the
        machine lengthens less.
        """
        self._process.stdin.write(f"run {count} {task}\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("took"):
                _, seconds, memory, cpu = line.split()
                self.rates.append(count * units / float(seconds))
                self.cpu.append(float(cpu) / count / units)
                self.memory = float(memory)
                return
        raise RuntimeError(f"{self.name} ended early")

    def median(self):
        """Returns the median rate."""
        return statistics.median(self.rates)

    def close(self):
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait()


def compare(sides, units, rounds, count):
    """Runs the sides in turn.

    Args:
        sides: list of Side.
        units: float, units of one repetition (images in a batch).
        rounds: int, how often each side has its turn.
        count: int, repetitions a turn.

    Returns:
        {name: (median units per second, peak memory in MB)} of the sides that got ready.
    """
    ready = [side for side in sides if side.wait()]
    for side in ready:
        side.run(1, units)
        side.rates.clear()
        side.cpu.clear()
    for _ in range(rounds):
        for side in ready:
            side.run(count, units)
    for side in ready:
        side.close()
    return {side.name: (side.median(), side.memory) for side in ready}
