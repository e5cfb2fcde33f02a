"""Variants of a training run, each with several seeds on several folds, trained and evaluated."""

import concurrent.futures
import contextlib
import dataclasses
import datetime
import itertools
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from tqdm import tqdm

from fir_tf import parallel
from fir_tf.errors import FirError
from fir_tf.files import read_json, write_json
from fir_tf.messages import duration

# What a grid gives each run itself.
_OWN = ("run", "seed", "cv_fold", "resume", "dry_run")
_AGAIN = "Remove it, and the same command makes it anew"
# A script that ends with this process, however that ends: its standard input is closed then.
_SCRIPT = """
import importlib, os, sys, threading
def follow():
    os.read(0, 1)
    os._exit(1)
threading.Thread(target=follow, daemon=True).start()
del sys.argv[0]
importlib.import_module("fir_tf.cli." + sys.argv[0].removesuffix(".py")).run()
"""


@dataclasses.dataclass(frozen=True)
class Variant:
    """What is compared with others.

    Attributes:
        name: str.
        flags: tuple of str, of train.py.
    """

    name: str
    flags: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a grid.

    Attributes:
        variant: Variant.
        seed: int.
        fold: str, such as "1/3"; empty for all training items, measured on the test part.
        folder: Path of the run; beside it `.json` (what it took) and `.log` (what was printed).
    """

    variant: Variant
    seed: int
    fold: str
    folder: Path

    @property
    def name(self) -> str:
        """What a person calls it."""
        return f"{self.variant.name}, seed {self.seed}" + (self.fold and f", fold {self.fold}")

    @property
    def flags(self) -> list[str]:
        """The flags of train.py but for the folder."""
        own = [f"--seed={self.seed}", *([f"--cv_fold={self.fold}"] if self.fold else [])]
        return [*self.variant.flags, *own]

    @property
    def finished(self) -> bool:
        """Whether it was trained and evaluated."""
        return bool(self.record.get("finished"))

    @property
    def record(self) -> dict[str, Any]:
        """What was written about it so far: flags, processor_seconds, seconds, finished ..."""
        path = self.folder.with_suffix(".json")
        return read_json(path, _AGAIN) if path.exists() else {}

    @property
    def log(self) -> Path:
        """What its scripts print."""
        return self.folder.with_suffix(".log")

    @property
    def processor_seconds(self) -> float | None:
        """What its training took; None where that is not known to the end."""
        record = self.record
        known = record.get("trained") and record["begun"] == record["ended"]
        return record["processor_seconds"] if known else None

    def metrics(self) -> dict[str, Any]:
        """Returns what metrics.json holds."""
        return read_json(self.folder / "metrics.json", _AGAIN)


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a script ended.

    Attributes:
        status: int, the exit status.
        processor_seconds: float.
    """

    status: int
    processor_seconds: float


Launch: TypeAlias = Callable[[list[str], Path], Ended]
"""What runs a script: its name and flags, and the file for what it prints."""


def parse_variant(text: str) -> Variant:
    """Reads "NAME: FLAGS", flags as a shell takes them.

    Raises:
        FirError: it is anything else, or sets what a grid sets.
    """
    name, colon, flags = text.partition(":")
    try:
        words = tuple(shlex.split(flags, comments=True))
    except ValueError as error:
        raise FirError(
            f"a variant's flags must be as in a shell ({error}). Received: {text}"
        ) from error
    if not colon or not name.strip() or name.strip().startswith("-"):
        raise FirError(
            f'a variant must be "NAME: FLAGS", such as "small: --epochs=5". Received: {text!r}'
        )
    return Variant(name.strip(), check_flags(words))


def check_flags(words: Sequence[str]) -> tuple[str, ...]:
    """Returns flags of train.py; FirError for one that a grid sets."""
    for word in words:
        if re.fullmatch(rf"--?(no)?({'|'.join(_OWN)})(=.*)?", word):
            if word.endswith("dry_run"):
                raise FirError(
                    f"`--dry_run` is of all runs together. Give it before `--`. Received: {word}"
                )
            raise FirError(f"every run gets its own {word.split('=')[0]}. Leave out: {word}")
    return tuple(words)


def read_variants(path: str | Path) -> list[Variant]:
    """Reads a file of variants: lines of "NAME: FLAGS", and of flags that all of them get.

    What stands behind a `#` is a comment.

    Raises:
        FirError: it cannot be read, or a line is anything else; names file and line.
    """
    shared: list[str] = []
    variants = []
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FirError(f"`variants` must be a text file. Received: {path} ({error})") from error
    for number, line in enumerate(map(str.strip, lines), 1):
        try:
            if line.startswith("-"):
                shared += check_flags(shlex.split(line, comments=True))
            elif line and not line.startswith("#"):
                variants.append(parse_variant(line))
        except (FirError, ValueError) as error:
            raise FirError(f"{path}:{number}: {error}") from error
    return [Variant(variant.name, (*shared, *variant.flags)) for variant in variants]


def make_grid(
    out: Path, variants: Sequence[Variant], seeds: Sequence[int], folds: Sequence[str]
) -> list[Run]:
    """Returns the runs: all variants with a seed on a fold, then with the next.

    A comparison that is stopped has then seen all variants.

    Args:
        out: Path, the folder that they go to.
        variants: sequence of Variant.
        seeds: sequence of int.
        folds: sequence of str, see `Run`.

    Raises:
        FirError: two variants of one name, or one that was run with other flags before.
    """
    folders = [re.sub(r"[^\w.+=-]+", "_", variant.name) for variant in variants]
    for name, count in ((name, folders.count(name)) for name in folders):
        if count > 1:
            raise FirError(f"variants must have different names. Received: {name} {count} times")
    runs = [
        Run(
            variant,
            seed,
            fold,
            out / "runs" / folder / (f"seed{seed}" + (fold and f"_fold{fold.replace('/', 'of')}")),
        )
        for seed, fold in itertools.product(seeds, folds)
        for variant, folder in zip(variants, folders, strict=True)
    ]
    for run in runs:
        before = run.record.get("flags", run.flags)
        if before != run.flags:
            raise FirError(
                f"{run.folder} was run with other flags: {shlex.join(before)}\nnow: "
                f"{shlex.join(run.flags)}\nGive the variant another name, or another --out"
            )
    return runs


class Failed(Exception):
    """A run that ended in an error; the message says which."""


class Processes:
    """A Launch: each script is a process, which ends with this one.

    Args:
        threads: int, that each may use for its computations.
    """

    def __init__(self, threads: int) -> None:
        names = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")
        self._environment = os.environ | dict.fromkeys(names, str(threads))
        self._alive: set[int] = set()
        self._stopped = False

    def __call__(self, words: list[str], log: Path) -> Ended:
        """Runs a script to its end."""
        if self._stopped:
            raise Failed("it was not begun")
        with open(log, "ab") as file:
            process = subprocess.Popen(
                [sys.executable, "-c", _SCRIPT, *words],
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=self._environment,
            )
        self._alive.add(process.pid)
        # The processor time of this one and of what it started, not of those beside it.
        _, status, usage = os.wait4(process.pid, 0)
        self._alive.discard(process.pid)
        process.returncode = os.waitstatus_to_exitcode(status)
        process.communicate()
        return Ended(process.returncode, usage.ru_utime + usage.ru_stime)

    def stop(self) -> None:
        """Asks those that run to end, which leaves a checkpoint, and begins no more."""
        self._stopped = True
        for number in list(self._alive):
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGTERM)


def run_grid(runs: Sequence[Run], jobs: int = 0, launch: Launch | None = None) -> dict[Run, str]:
    """Trains and evaluates what is not finished, with a progress bar.

    A run that fails does not keep the others from being made; a run that was interrupted goes on.

    Args:
        runs: sequence of Run.
        jobs: int, runs side by side; 0 for one for every two cores.
        launch: optional Launch, what runs a script; by default processes, which share the cores.

    Returns:
        {Run: what went wrong, str} of those that failed.

    Raises:
        FirError: `jobs` is negative.
    """
    if jobs < 0:
        raise FirError(f"`jobs` must be >= 0 (0 is one for every two cores). Received: {jobs}")
    jobs = jobs or max(1, parallel.cores() // 2)
    processes = Processes(max(1, parallel.cores() // jobs))
    waiting = [run for run in runs if not run.finished]
    bad = {}
    done = len(runs) - len(waiting)
    with (
        tqdm(total=len(runs), initial=done, desc="runs", unit="run", disable=None) as bar,
        concurrent.futures.ThreadPoolExecutor(jobs) as pool,
        contextlib.ExitStack() as at_the_end,
    ):
        # Where all went well there is nothing to stop. What waits is not begun any more.
        at_the_end.callback(processes.stop)
        at_the_end.callback(pool.shutdown, wait=False, cancel_futures=True)
        tasks = {pool.submit(run_one, run, launch or processes): run for run in waiting}
        for task in concurrent.futures.as_completed(tasks):
            run = tasks[task]
            try:
                task.result()
                line = _result(run)
            except Failed as failed:
                line = bad[run] = str(failed)
            bar.write(f"{run.name}: {line}")
            sys.stdout.flush()
            bar.update()
    return bad


def run_one(run: Run, launch: Launch) -> None:
    """Trains and evaluates a run, or goes on with it; its record says what that took."""
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    place = f"--run={run.folder}"
    if not run.record.get("trained"):
        # What a process took that was killed with this one is not known.
        _note(run, flags=run.flags, begun=run.record.get("begun", 0) + 1)
        ended = _step(run, launch, ["train.py", *run.flags, place])
        record = run.record
        took = record.get("processor_seconds", 0.0) + ended.processor_seconds
        _note(run, processor_seconds=took, ended=record.get("ended", 0) + 1)
        _check(run, "train.py", ended)
        _note(run, trained=True)
    if not run.fold:
        _count_test_part(run)
    split = ["--split=cv_fold"] if run.fold else []
    _check(run, "evaluate.py", _step(run, launch, ["evaluate.py", place, *split]))
    _note(run, finished=True)


def _step(run: Run, launch: Launch, words: list[str]) -> Ended:
    begin = time.monotonic()
    ended = launch(words, run.log)
    _note(run, seconds=run.record.get("seconds", 0.0) + time.monotonic() - begin)
    return ended


def _note(run: Run, **values: Any) -> None:
    write_json(run.folder.with_suffix(".json"), {**run.record, **values})


def _check(run: Run, script: str, ended: Ended) -> None:
    if ended.status:
        reason = f"{script} ended with status {ended.status}: {_last_line(run.log)}"
        raise Failed(f"{reason} ({run.log})")


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    return lines[-1] if lines else "it printed nothing"


def _result(run: Run) -> str:
    metrics = run.metrics()
    names = [name for name in ("recall@1", "mAP@R", "category_top1") if name in metrics]
    return ", ".join(f"{name} {metrics[name]:.3f}" for name in names) or "nothing was measured"


_LOCK = threading.Lock()


def _test_part(out: Path) -> Path:
    return out / "test_part.json"


def _count_test_part(run: Run) -> None:
    """Notes that the test part is looked at, before it is."""
    out = run.folder.parents[2]
    with _LOCK:
        looks = looked_at_test_part(out)
        at = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        looks.append({"variant": run.variant.name, "seed": run.seed, "at": at})
        write_json(_test_part(out), {"scored": looks})


def looked_at_test_part(out: Path) -> list[dict[str, Any]]:
    """Returns which runs below a folder were scored on the test part, in order, and when."""
    path = _test_part(out)
    return read_json(path, "It counts; do not lose it")["scored"] if path.exists() else []


def describe(runs: Sequence[Run]) -> str:
    """Returns the plan as text: each run, and the time that is left by that of the finished."""
    lines, took = [], [run.record["seconds"] for run in runs if run.finished]
    for run in runs:
        state = "finished" if run.finished else "goes on" if run.record else "to be run"
        lines.append(f"{run.name}: {state}\n  {shlex.join(run.flags)}")
    left = len(runs) - len(took)
    lines.append(f"{len(runs)} runs, {len(took)} finished, {left} left")
    if left and took:
        told = duration(left * sum(took) / len(took))
        lines.append(f"about {told} one after another, by those that are finished")
    return "\n".join(lines)
