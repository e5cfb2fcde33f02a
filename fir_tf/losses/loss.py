"""What a loss is."""

import abc
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

import tensorflow as tf

from fir_tf.losses.grammar import LABELS, LossSettings

ANY = "uniform"
"""The sampler named by losses that any batch will do for."""

TripletRows: TypeAlias = tuple[slice, slice, slice]
"""The rows of a batch's anchors, their positives and their negatives."""

Scalars: TypeAlias = dict[str, tf.Tensor]
"""What a loss finds, float32: "loss", and what else the log is to have, by its name."""

SWITCH = "true or false"
"""What stands in place of an interval for an option that is one of the two."""

OUTPUTS = ("logits", "features", "embedding")
"""What a loss can read of the model."""


class Loss(abc.ABC):
    """A loss on the batch of all devices: it sees the same numbers on one replica or many.

    A subclass, registered as a "loss", says what it reads and works it out. It runs inside the
    compiled step: TensorFlow operations only, in float32.

    Attributes:
        output: str, the model's output that it reads: "logits" (of the categories), "features"
            (the pooled feature map) or "embedding" (float32 [n, d], L2-normalised; where --neck has
            one on each side of a batch norm, a loss that `has_classes` is given the one behind it,
            another the one before). A term says another by `on=`, where that is possible.
        unit_length: bool, whether it takes its rows to be L2-normalised: it reads no other output.
        labels: tuple of str, the labels it can be by.
        sampler: str, the registered sampler whose batches it needs; any will do for `ANY`.
        needs_triplets: bool, whether the sampler has to say which rows are anchors, positives and
            negatives.
        options: dict of str to str, what a term may tell it in brackets, each with the interval
            that the number lies in, such as {"margin": "[0, inf)"}, or `SWITCH`; see `option`.
        has_classes: bool, whether it has variables by class; labels then count the classes of the
            training images, from 0.
    """

    output = "embedding"
    unit_length: ClassVar[bool] = False
    labels: ClassVar[Sequence[str]] = LABELS
    has_classes: ClassVar[bool] = False
    options: ClassVar[Mapping[str, str]] = {}
    sampler = "pk"
    needs_triplets = False

    def __init__(self, settings: LossSettings) -> None:
        self.settings = settings

    def option(self, name: str, default: float) -> float:
        """Returns what the term says in brackets, 1 for true and 0 for false, or else `default`."""
        return dict(self.settings.options).get(name, default)

    def build(self, classes: int, width: int) -> list[Any]:
        """Makes the variables of its own, which are saved in checkpoints only.

        Those that are trainable are trained. What the loss writes into others is to be the same on
        each replica, see `fir_tf.losses.memory`.

        Args:
            classes: int, of the label it is by.
            width: int, numbers in a row of its output.

        Returns:
            list of keras variables.
        """
        return []

    @abc.abstractmethod
    def __call__(
        self, values: tf.Tensor, labels: tf.Tensor, triplets: TripletRows | None = None
    ) -> Scalars:
        """Works out the loss.

        Args:
            values: float [n, d], the output that it reads.
            labels: int32 [n], -1 where unknown: such a row takes no part.
            triplets: the rows of the anchors, their positives and negatives, where the sampler
                says so.

        Returns:
            dict of float32 scalars: "loss", and what else the log is to have, by its name.
        """
