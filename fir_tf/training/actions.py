"""What happens beside the steps: each action is small, and the loop lists those of a run.

An action is called with a Moment after every return from the compiled step; it may set
`moment.stop` to end the run.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from fir_tf.config import InputSettings
from fir_tf.datasets.catalogue import Catalogue
from fir_tf.errors import FirError
from fir_tf.evaluation.embedder import Embedder, unreadable_message
from fir_tf.evaluation.measure import Procedure, measure
from fir_tf.files import replacing
from fir_tf.hygiene.boxes import described
from fir_tf.hygiene.findings import too_many_unreadable
from fir_tf.training.checkpoints import Checkpoints
from fir_tf.training.checks import Health
from fir_tf.training.log import RunLog
from fir_tf.training.trainer import Parts


@dataclasses.dataclass
class Moment:
    """Where a run stands.

    Attributes:
        step: int, updates made.
        steps: int, updates of the whole run.
        epoch: int, whole epochs made.
        folder: Path of the run.
        logs, validates: bool, whether it is the turn of a log entry and of a validation.
        values: {name: float}, what the log gets.
        found: {metric: float}, the validation's result, empty where it is not its turn.
        model: keras.Model that was validated, None where it is not its turn.
        stop: str, why the run ends here; empty to go on.
        asked: bool, whether the process, or another worker's, was asked to stop.
        due: bool, whether it is time for a checkpoint.
    """

    step: int
    steps: int
    epoch: int
    folder: Path
    logs: bool = False
    validates: bool = False
    values: dict = dataclasses.field(default_factory=dict)
    found: dict = dataclasses.field(default_factory=dict)
    model: keras.Model | None = None
    stop: str = ""
    asked: bool = False
    due: bool = False


Action = Callable[[Moment], None]
"""What is called with a Moment after every return from the compiled step."""


class Gather:
    """Collects what the steps return until the log's turn: one fetch from the device an entry.

    Args:
        images: int, images an update.
        catalogue: Catalogue, for the names of unreadable images; more than 1 % of the training
            images is an error.
    """

    def __init__(self, images: int, catalogue: Catalogue) -> None:
        self._images, self._catalogue = images, catalogue
        self._rows = int((catalogue.split == "train").sum())
        self._pending: list[tuple[dict[str, tf.Tensor], tf.Tensor]] = []
        self._since = time.monotonic()
        self.bad: set[int] = set()

    def add(self, scalars: dict[str, tf.Tensor], bad: tf.Tensor) -> None:
        """Takes the result of a TrainStep."""
        self._pending.append((scalars, bad))

    def restart(self) -> None:
        """Starts the clock again after something that was no training."""
        self._since = time.monotonic()

    def __call__(self, moment: Moment) -> None:
        """Puts the means since the last entry into `moment.values` when it is its turn."""
        if not moment.logs or not self._pending:
            return
        names = self._pending[0][0]
        columns = {
            name: np.concatenate([scalars[name].numpy() for scalars, _ in self._pending])
            for name in names
        }
        for _, rows in self._pending:
            self.bad.update(int(row) for row in rows.numpy().ravel() if row >= 0)
        now = time.monotonic()
        steps = len(columns["loss"])
        moment.values = {name: float(column.mean()) for name, column in columns.items()}
        moment.values["images_per_second"] = self._images * steps / max(now - self._since, 1e-9)
        self._pending, self._since = [], now
        if too_many_unreadable(len(self.bad), self._rows):
            raise FirError(unreadable_message(self._catalogue, sorted(self.bad), self._rows))

    def bad_images(self) -> list[str]:
        """Returns the paths of the images that could not be read so far, or what is wrong."""
        return described(self._catalogue, sorted(self.bad))


def write_log(log: RunLog, schedule: Callable[[int], tf.Tensor]) -> Action:
    """Returns the action that appends the values and the validation to the log."""

    def action(moment: Moment) -> None:
        if moment.values:
            moment.values["learning_rate"] = float(schedule(moment.step - 1))
            log.scalars(moment.step, moment.values)
        if moment.found:
            found = {f"val/{name}": value for name, value in moment.found.items()}
            log.scalars(moment.step, found)

    return action


def check_health(learning_rate: float) -> Action:
    """Returns the action that ends a run of NaN or collapse; see `fir_tf.training.checks`."""
    health = Health(learning_rate)

    def action(moment: Moment) -> None:
        if moment.values:
            health.check(moment.step, moment.values)

    return action


def validate(
    inputs: InputSettings, parts: Parts, served: Callable[[], keras.Model], gather: Gather
) -> Action:
    """Returns the action that measures the validation part.

    Args:
        inputs: InputSettings; `eval_size`, `resize`, `crop`, `crop_margin`.
        parts: Parts.
        served: callable without arguments that brings a keras.Model up to date and returns it,
            always the same one.
        gather: Gather, whose clock does not count the time of it.
    """
    how = inputs.eval_size, inputs.resize, inputs.crop, inputs.crop_margin
    embedder = Embedder(served(), *how)
    procedure = Procedure("val", classifies="logits" in parts.objective.outputs)

    def action(moment: Moment) -> None:
        if not moment.validates:
            return
        moment.model = served()
        measured = measure(embedder, parts.catalogue, procedure)
        moment.found = measured.values if measured else {}
        gather.restart()

    return action


def keep_best(path: Path, checkpoints: Checkpoints) -> Action:
    """Returns the action that writes the validated model if it is the best; a tie goes to it.

    Args:
        path: Path of the model's file.
        checkpoints: Checkpoints, which remember the best value.
    """

    def action(moment: Moment) -> None:
        if moment.model is None:
            return
        value, best = selection_value(moment.found), float(checkpoints.best)
        better = value is None or value > best
        if better or value == best:
            with replacing(path) as temporary:
                moment.model.save(temporary)
            checkpoints.best.assign(-1.0 if value is None else value)
        checkpoints.waited.assign(0 if better else checkpoints.waited + 1)

    return action


def selection_value(found: Mapping[str, float]) -> float | None:
    """Returns the number the best checkpoint is chosen by, None where nothing was measured.

    mAP@R where the validation part has items, otherwise category top-1.
    """
    return found.get("mAP@R", found.get("category_top1"))


def stop_early(patience: int, checkpoints: Checkpoints) -> Action:
    """Returns the action that ends the run after `patience` validations without a better one."""

    def action(moment: Moment) -> None:
        waited = int(checkpoints.waited)
        if moment.validates and waited >= patience:
            moment.stop = f"no better model in {waited} validations"

    return action


def save_checkpoints(checkpoints: Checkpoints) -> Action:
    """Returns the action that saves from time to time, and whenever the run ends."""

    def action(moment: Moment) -> None:
        checkpoints.step.assign(moment.step)
        ends = moment.step == moment.steps or moment.stop or moment.asked
        if ends or moment.due:
            checkpoints.save()

    return action


def trace(folder: Path, first: int, last: int) -> Action:
    """Returns the action that writes a TensorBoard trace of the steps `first` to `last`."""
    running: list[bool] = []

    def action(moment: Moment) -> None:
        ends = moment.step >= min(last, moment.steps) or moment.asked or moment.stop
        if running and ends:
            tf.profiler.experimental.stop()
            running.clear()
        elif not running and moment.step == first - 1:
            tf.profiler.experimental.start(str(folder))
            running.append(True)

    return action


def show(write: Callable[[str], None]) -> Action:
    """Returns the action that prints a line for every validation, and for that before training.

    Args:
        write: callable taking a str, such as that of a progress bar.
    """

    def action(moment: Moment) -> None:
        if not moment.validates:
            return
        shown = ", ".join(
            f"{name} {moment.found[name]:.3f}"
            for name in ("recall@1", "mAP@R", "category_top1")
            if name in moment.found
        )
        if moment.step:
            write(
                f"epoch {moment.epoch}  loss {moment.values['loss']:.4f}  "
                f"{moment.values['images_per_second']:.0f} images/s  "
                f"val: {shown or 'nothing to validate on'}"
            )
        elif shown:
            write(f"before training  val: {shown}")

    return action
