"""What a run needs to go on exactly: saved often, restored from the newest whole one."""

import contextlib
import logging
import os
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from fir_tf.errors import FirError
from fir_tf.files import without_wildcards
from fir_tf.keras_versions import random_states
from fir_tf.shell import first_line

log = logging.getLogger(__package__)

# Writing a checkpoint of a large network takes seconds: not more often than this.
CHECKPOINT_SECONDS = 60
_KEPT = 2

# What TensorFlow's reader raises for damaged files.
_DAMAGE = (tf.errors.OpError, RuntimeError, LookupError, AssertionError, ValueError)


class Checkpoints:
    """The checkpoints of a run: weights, optimiser, averages, random states, and counters.

    A checkpoint is written under a temporary name and then renamed (by TensorFlow), so that a
    process killed while writing leaves the one before it.

    Args:
        folder: Path of the checkpoints, created.
        model: keras.Model.
        optimizer: keras optimizer.
        averages: list of keras variables, or None.
        owned: sequence of keras variables, those that losses have of their own.

    Attributes:
        step: int64 tf.Variable, updates made.
        best: float32 tf.Variable, the best validation so far.
        waited: int64 tf.Variable, validations since then.
    """

    def __init__(
        self,
        folder: Path,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        averages: list | None = None,
        owned: Sequence[Any] = (),
    ) -> None:
        self.step = tf.Variable(0, dtype=tf.int64)
        self.best = tf.Variable(-1.0)
        self.waited = tf.Variable(0, dtype=tf.int64)
        self._state = tf.train.Checkpoint(
            model=model,
            optimizer=optimizer,
            seeds=random_states(model),
            averages=averages or [],
            owned=list(owned),
            step=self.step,
            best=self.best,
            waited=self.waited,
        )
        self._folder = Path(folder)
        # TensorFlow makes it with the first checkpoint only.
        self._folder.mkdir(parents=True, exist_ok=True)
        self._link = contextlib.ExitStack()
        place = self._link.enter_context(without_wildcards(folder))
        self._manager = tf.train.CheckpointManager(self._state, str(place), max_to_keep=_KEPT)
        self._saved = time.monotonic()
        _remove_unfinished(folder)

    def restore(self, folder: Path) -> bool:
        """Restores the newest checkpoint of a folder that is whole; returns whether there was one.

        Args:
            folder: Path.

        Raises:
            FirError: if there are checkpoints and none can be read.
        """
        names = _newest_first(folder)
        with without_wildcards(folder) as place:
            for name in names:
                try:
                    self._state.restore(str(place / name)).assert_consumed()
                    return True
                except _DAMAGE as error:
                    reason = first_line(error)
                    log.warning(f"cannot read the checkpoint {Path(folder) / name}: {reason}")
        if names:
            raise FirError(
                f"no checkpoint in {folder} can be read (reasons above). Delete "
                "the run's folder to start again, or give another --run"
            )
        return False

    def due(self) -> bool:
        """Returns whether the last save is so long ago that another is worth its time."""
        return time.monotonic() - self._saved > CHECKPOINT_SECONDS

    def save(self) -> None:
        """Writes a checkpoint; old ones are deleted afterwards.

        Raises:
            FirError: if it cannot be written (a full disk); the one before it stays.
        """
        try:
            self._manager.save(checkpoint_number=int(self.step))
        except (tf.errors.OpError, OSError) as error:
            _remove_unfinished(self._folder)
            kept = next(iter(_newest_first(self._folder)), "none")
            reason = first_line(error).replace(self._manager.directory, str(self._folder))
            raise FirError(
                f"cannot write a checkpoint into {self._folder}: {reason}. "
                f"Make room there and give the same command again; it resumes from the last "
                f"whole checkpoint ({kept})"
            ) from error
        self._saved = time.monotonic()


def _remove_unfinished(folder: Path) -> None:
    """Removes what a writer that was killed, or ran out of room, has left behind."""
    for name in os.listdir(folder):
        if re.fullmatch(r"ckpt-\d+_temp", name):
            shutil.rmtree(Path(folder) / name, ignore_errors=True)


def _newest_first(folder: Path) -> list[str]:
    """Returns the names of a folder's checkpoints, str such as "ckpt-20".

    The files themselves are asked, not TensorFlow's list of them: where that is damaged the run
    would start again. The index is written last, so it is there for whole checkpoints alone.
    """
    names = os.listdir(folder) if os.path.isdir(folder) else []
    found = [match for name in names if (match := re.fullmatch(r"(ckpt-(\d+))\.index", name))]
    return [match[1] for match in sorted(found, key=lambda match: -int(match[2]))]
