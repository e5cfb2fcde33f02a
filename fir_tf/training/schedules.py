"""Learning rates over a run."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from fir_tf.config import LoopSettings


@keras.saving.register_keras_serializable("fir_tf")
class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, then a constant rate, steps of 0.1, or half a cosine down to 0.

    Args:
        kind: "step", "cosine" or "constant".
        learning_rate: float, the rate after the warm-up.
        steps: int, updates in the whole run.
        boundaries: list of int, the updates from which on a "step" schedule is 0.1 of before.
        warmup: int, updates of the warm-up; update number s has (s + 1) / (warmup + 1) of the
            rate.
    """

    def __init__(
        self,
        kind: str,
        learning_rate: float,
        steps: int,
        boundaries: Sequence[int] = (),
        warmup: int = 0,
    ) -> None:
        super().__init__()
        self.kind, self.learning_rate, self.steps = kind, learning_rate, steps
        self.boundaries, self.warmup = list(boundaries), warmup

    def __call__(self, step: tf.Tensor | int) -> tf.Tensor:
        """Returns the rate of update number `step` (from 0), a float32 scalar."""
        step = tf.cast(step, tf.float32)
        rate = tf.constant(self.learning_rate, tf.float32)
        if self.kind == "step":
            passed = [tf.cast(step >= boundary, tf.float32) for boundary in self.boundaries]
            rate *= tf.pow(0.1, tf.add_n(passed)) if passed else 1.0
        elif self.kind == "cosine":
            share = (step - self.warmup) / max(self.steps - self.warmup, 1)
            rate *= 0.5 * (1.0 + tf.cos(math.pi * tf.clip_by_value(share, 0.0, 1.0)))
        if self.warmup:
            rate *= tf.minimum(1.0, (step + 1.0) / (self.warmup + 1.0))
        return rate

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        names = ("kind", "learning_rate", "steps", "boundaries", "warmup")
        return {name: getattr(self, name) for name in names}


def make_schedule(loop: LoopSettings, steps_per_epoch: int) -> Schedule:
    """Returns the run's learning-rate schedule.

    The paper's: 1e-4, times 0.1 after epochs 100 and 150 of 200 (PAPER: optimiser).

    Args:
        loop: LoopSettings; `schedule`, `learning_rate`, `decay_epochs`, `warmup_epochs`, `epochs`.
        steps_per_epoch: int, updates in an epoch.

    Returns:
        Schedule.
    """
    return Schedule(
        loop.schedule,
        loop.learning_rate,
        loop.epochs * steps_per_epoch,
        [epoch * steps_per_epoch for epoch in loop.decays()],
        round(loop.warmup_epochs * steps_per_epoch),
    )
