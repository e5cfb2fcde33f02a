"""A training run from its parts to its folder."""

import contextlib
import dataclasses
import logging
import os
import signal
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

import keras
import tensorflow as tf
from tqdm import tqdm

from fir_tf.config import InputSettings, LoopSettings
from fir_tf.errors import FirError, StoppedError
from fir_tf.evaluation.pictures import training_curves
from fir_tf.files import write_json
from fir_tf.run import read_history
from fir_tf.shell import draw_or_note
from fir_tf.training import actions
from fir_tf.training.checkpoints import Checkpoints
from fir_tf.training.distribution import anywhere, worker_index
from fir_tf.training.log import RunLog
from fir_tf.training.trainer import Parts, Trainer, build_trainer, distributed_batches

log = logging.getLogger(__package__)


@contextlib.contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """Yields a list that gets the signal by which the process is asked to stop.

    The run then ends with a checkpoint; asked once more by Ctrl-C it ends at once.
    """
    received: list[int] = []
    previous = {}

    def ask(number: int, _: FrameType | None) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)
        with contextlib.suppress(OSError):
            # Printing is not allowed here.
            os.write(2, b"\nstopping at the next step; once more Ctrl-C: at once\n")

    for number in (signal.SIGINT, signal.SIGTERM):
        # Only the main thread of a program may set handlers; a library call goes without.
        with contextlib.suppress(ValueError):
            previous[number] = signal.signal(number, ask)
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def train(
    parts: Parts,
    run: str | Path,
    loop: LoopSettings | None = None,
    inputs: InputSettings | None = None,
) -> Path:
    """Trains a model and writes the run's folder.

    The folder holds labels.json, checkpoints/, logs/ (TensorBoard), log.csv, model.keras (the best
    model on the validation part so far) and training.png. A run that was interrupted goes on from
    its last checkpoint.

    Args:
        parts: Parts.
        run: str or Path, the folder; made where there is none.
        loop: LoopSettings; the paper's when not given.
        inputs: InputSettings; `image_size` is the model's, `test_size` that of `parts.plain`.

    Returns:
        Path of the run's folder.

    Raises:
        FirError: for a model of another image size, bad data, NaN or collapse.
        StoppedError: the process was asked to stop.
    """
    run, loop, inputs = Path(run), loop or LoopSettings(), inputs or InputSettings()
    _check_size("image_size", parts.model, inputs.image_size)
    _check_size("test_size", parts.plain or parts.model, inputs.eval_size)
    run.mkdir(parents=True, exist_ok=True)
    write_json(run / "labels.json", {"categories": list(parts.catalogue.categories)})
    steps_per_epoch = updates_per_epoch(parts, loop)
    trainer = build_trainer(parts, loop, steps_per_epoch)
    with _own_folder(run, trainer.strategy) as folder:
        checkpoints = Checkpoints(
            folder / "checkpoints",
            trainer.model,
            trainer.optimizer,
            trainer.averages,
            [*parts.objective.variables, *parts.objective.state],
        )
        steps = loop.epochs * steps_per_epoch
        if checkpoints.restore(run / "checkpoints"):
            log.info(f"resuming {run} at step {int(checkpoints.step)} of {steps}")
        finished = int(checkpoints.step) >= steps
        if finished or (loop.patience and int(checkpoints.waited) >= loop.patience):
            log.info(f"{run} is finished already ({int(checkpoints.step)} steps)")
            return run
        _Steps(parts, trainer, checkpoints, folder, loop, inputs).run(steps_per_epoch)
        drawn = draw_or_note(
            run / "training.png",
            lambda: training_curves(read_history(folder), folder / "training.png"),
        )
    logs = ", ".join(map(str, [run / "log.csv", *drawn]))
    log.info(f"trained: {run / 'model.keras'} (log: {logs})")
    return run


def _check_size(flag: str, model: keras.Model, size: int) -> None:
    side = model.input_shape[1]
    if side != size:
        raise FirError(f"`{flag}` must be the model's {side}. Received: {size} pixels")


@contextlib.contextmanager
def _own_folder(run: Path, strategy: tf.distribute.Strategy) -> Iterator[Path]:
    """Yields where this worker writes: all take part in saving, the first one's files are the run.

    The others' go when it ends.
    """
    if not worker_index(strategy):
        yield run
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def updates_per_epoch(parts: Parts, loop: LoopSettings) -> int:
    """Returns the number of updates in an epoch."""
    return max(1, round(parts.sampler.steps_per_epoch / loop.accumulate))


def stages(sizes: Sequence[int], steps: int) -> dict[int, int]:
    """Returns {first update: side of the images}, stages of equally many updates of a run.

    Args:
        sizes: sequence of int, the sides in pixels, one a stage (Tan and Le 2021, algorithm 1).
        steps: int, updates of the run.
    """
    return {number * steps // len(sizes): side for number, side in enumerate(sizes)}


class _Steps:
    """The steps of a run and what happens beside them."""

    def __init__(
        self,
        parts: Parts,
        trainer: Trainer,
        checkpoints: Checkpoints,
        folder: Path,
        loop: LoopSettings,
        inputs: InputSettings,
    ) -> None:
        self._parts, self._trainer, self._checkpoints = parts, trainer, checkpoints
        self._folder, self._loop, self._inputs = folder, loop, inputs
        self._stages: dict[int, int] = {}
        self._gather = actions.Gather(parts.sampler.size * loop.accumulate, parts.catalogue)

    def run(self, steps_per_epoch: int) -> None:
        """Goes on from the checkpoints' step to the end."""
        start, steps = int(self._checkpoints.step), self._loop.epochs * steps_per_epoch
        self._stages = stages(self._inputs.training_sizes(), steps)
        with (
            contextlib.closing(RunLog(self._folder, start)) as run_log,
            _stop_requests() as asked,
            tqdm(total=steps, initial=start, desc="training", unit="step", disable=None) as bar,
        ):
            told = (
                actions.validate(self._inputs, self._parts, self._trainer.served, self._gather),
                actions.write_log(run_log, self._trainer.schedule),
                actions.show(bar.write),
            )
            if not start:
                before = actions.Moment(0, steps, 0, self._folder, validates=True)
                for action in told:
                    action(before)
            follow = self._actions(*told)
            self._make(start, steps, steps_per_epoch, follow, bar, asked)
        if self._gather.bad:
            log.warning(f"skipped {len(self._gather.bad)} images that cannot be decoded:")
            for path in self._gather.bad_images():
                log.warning(f"  {path}")

    def _actions(
        self, validate: actions.Action, write_log: actions.Action, show: actions.Action
    ) -> list[actions.Action]:
        loop = self._loop
        follow: list[actions.Action] = [
            self._gather,
            validate,
            write_log,
            actions.check_health(loop.learning_rate),
            actions.keep_best(self._folder / "model.keras", self._checkpoints),
            show,
            *self._parts.actions,
        ]
        if loop.patience:
            follow.append(actions.stop_early(loop.patience, self._checkpoints))
        traced = loop.profiled()
        if traced:
            follow.append(actions.trace(self._folder / "logs", *traced))
        return [*follow, actions.save_checkpoints(self._checkpoints)]

    def _make(
        self,
        step: int,
        steps: int,
        steps_per_epoch: int,
        follow: Sequence[actions.Action],
        bar: tqdm,
        asked: Sequence[int],
    ) -> None:
        loop, trainer, moment = self._loop, self._trainer, None
        every, batches = steps_per_epoch * loop.eval_every, self._batches(step)
        while step < steps and not (moment and moment.stop):
            if moment and step in self._stages:
                batches = self._batches(step)
            count = min(self._until_return(step, every), steps - step)
            self._gather.add(*trainer.update(batches, count, step < trainer.frozen))
            step += count
            bar.update(count)
            validates = step % every == 0 or step == steps
            stopping = anywhere(trainer.strategy, bool(asked))
            moment = actions.Moment(
                step,
                steps,
                step // steps_per_epoch,
                self._folder,
                logs=step % loop.log_every == 0 or validates or stopping,
                validates=validates,
                asked=stopping,
                due=anywhere(trainer.strategy, self._checkpoints.due()),
            )
            for action in follow:
                action(moment)
            if moment.values:
                bar.set_postfix(loss=f"{moment.values['loss']:.3f}")
            if stopping and step < steps:
                raise StoppedError(
                    f"stopped at step {step} of {steps} on request; the same command resumes",
                    *(asked[:1] or [signal.SIGTERM]),
                )
        if moment and moment.stop:
            log.info(f"ended at step {step} of {steps}: {moment.stop}")

    def _batches(self, step: int) -> Iterator[dict[str, tf.Tensor]]:
        """The batches from an update on, of the size of its stage."""
        side = self._stages[max(first for first in self._stages if first <= step)]
        inputs = dataclasses.replace(self._inputs, image_size=side)
        first = step * self._loop.accumulate
        return distributed_batches(self._trainer, self._parts, inputs, first)

    def _until_return(self, step: int, every: int) -> int:
        """How many steps can be made before something is to be done beside them."""
        loop = self._loop
        first, last = loop.profiled() or (1, 0)
        marks = (first - 1, last, self._trainer.frozen, *self._stages)
        return min(
            loop.steps_per_loop,
            loop.log_every - step % loop.log_every,
            every - step % every,
            *(mark - step for mark in marks if mark > step),
        )
