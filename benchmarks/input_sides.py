"""What both sides of input_pipeline.py share: the task, and how a side is timed."""

import json
import os
import resource
import statistics
import sys
import time
from pathlib import Path

from sides import Side

PHOTOS, IMAGE_SIZE, BATCH, AREA_MIN = 2000, 224, 32, 0.3
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# A side goes on filling its buffers while another has its turn. These batches are not timed.
DRAINED = 16


def cpu_seconds(children):
    """Returns the CPU time that this process and its child processes have used so far."""
    ticks = 0
    for child in children:
        fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def serve_batches(step, children, mean_area):
    """A loader's part of the comparison: answers until the input ends.

    Args:
        step: callable that takes the next batch.
        children: list of int, process ids of its workers.
        mean_area: callable, the mean share of an image's area that a view shows so far.
    """
    step()
    taken = 1
    print("ready", flush=True)
    for line in sys.stdin:
        count = int(line.split()[1])
        for _ in range(DRAINED):
            step()
        taken += DRAINED
        times, cpu = [time.perf_counter()], cpu_seconds(children)
        for _ in range(count):
            step()
            times.append(time.perf_counter())
        gaps = [after - before for before, after in zip(times, times[1:], strict=False)]
        turns_over = [
            gap
            for number, gap in enumerate(gaps, taken)
            if number * BATCH // PHOTOS < (number + 1) * BATCH // PHOTOS
        ]
        taken += count
        turn = {
            "seconds": times[-1] - times[0],
            "cpu": cpu_seconds(children) - cpu,
            "gap": max(gaps),
            "median_gap": statistics.median(gaps),
            "epoch_gap": max(turns_over, default=None),
            "area": mean_area(),
            "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        print("turn " + json.dumps(turn), flush=True)


class Loader(Side):
    """A process that runs `serve_batches`.

    Attributes:
        turns: list of dict, what each turn measured.
    """

    def __init__(self, name, command):
        super().__init__(name, command)
        self.turns = []

    def run(self, count, units):
        """Times `count` batches of `units` images each."""
        self._process.stdin.write(f"run {count}\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("turn "):
                turn = json.loads(line[5:])
                turn["cpu_ms"] = 1000 * turn["cpu"] / (count * units)
                self.turns.append(turn)
                self.rates.append(count * units / turn["seconds"])
                self.memory = turn["memory"]
                return
        raise RuntimeError(f"{self.name} ended early")
