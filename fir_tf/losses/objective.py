"""The objective: the weighted sum of the losses on one batch (PAPER: Equation 1)."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from fir_tf import registry
from fir_tf.errors import FirError
from fir_tf.losses.grammar import LossSettings, Term, parse_losses
from fir_tf.losses.loss import ANY, OUTPUTS, SWITCH, Loss
from fir_tf.settings import check_within


def make_losses(terms: Sequence[Term], settings: LossSettings) -> list[Loss]:
    """Returns the loss of each term.

    Raises:
        FirError: a loss cannot be by its term's label or on its output, or lacks an option of its
            term's.
    """
    losses = []
    for term in terms:
        loss = registry.get("loss", term.loss)(dataclasses.replace(settings, options=term.options))
        if term.output:
            _read(loss, term)
        if loss.output not in OUTPUTS:
            raise FirError(
                f"the loss {term.loss} must read one of {', '.join(OUTPUTS)}. Received: "
                f"{loss.output!r}"
            )
        if term.label not in loss.labels:
            raise FirError(
                f"the loss {term.loss} is by {' or '.join(loss.labels)}. Received: {term.name}"
            )
        for name, value in term.options:
            if name not in loss.options:
                known = f"the options {', '.join(loss.options)}" if loss.options else "no options"
                raise FirError(f"the loss {term.loss} takes {known}. Received: {name}={value:g}")
            _check_option(name, value, loss.options[name])
        losses.append(loss)
    return losses


def _read(loss: Loss, term: Term) -> None:
    """Lets a loss read the output that its term names."""
    fixed = loss.unit_length or loss.output == "logits"
    possible = [loss.output] if fixed else [name for name in OUTPUTS if name != "logits"]
    if term.output not in possible:
        raise FirError(
            f"the loss {term.loss} can be on {' or '.join(possible)}. Received: on={term.output}"
        )
    loss.output = term.output


def _check_option(name: str, value: float, allowed: str) -> None:
    if allowed != SWITCH:
        check_within(name, value, allowed)
    elif value not in (0.0, 1.0):
        raise FirError(f"`{name}` must be {SWITCH}. Received: {value:g}")


def make_objective(losses: str, sampler: Any, settings: LossSettings | None = None) -> "Objective":
    """Returns the Objective of a sum of losses on the batches of a sampler.

    Args:
        losses: str, see `fir_tf.losses.grammar.HELP`; a weight that is not given is 1.
        sampler: Sampler of the batches.
        settings: LossSettings; the paper's margin and all triplets when not given.

    Raises:
        FirError: for a sum that cannot be read, or a label that a loss cannot be by.
    """
    terms = [
        dataclasses.replace(term, weight=1.0 if term.weight is None else term.weight)
        for term in parse_losses(losses)
    ]
    return Objective(terms, make_losses(terms, settings or LossSettings()), sampler)


class Objective:
    """The weighted sum of losses on batches of one sampler.

    Args:
        terms: sequence of Term.
        losses: the loss of each, see `make_losses`.
        sampler: Sampler of the batches; its `classified` and `triplets`.

    Attributes:
        variables: list of keras variables that the losses have of their own and that are trained,
            see `build`.
        state: list of keras variables that the losses write themselves.
        built: bool, whether they are there.
        labels: tuple of str, what is read of the batch.
    """

    def __init__(self, terms: Sequence[Term], losses: Sequence[Loss], sampler: Any) -> None:
        self._terms = list(zip(terms, losses, strict=True))
        self._classified = np.asarray(sampler.classified)
        self._triplets = sampler.triplets
        self._classes: dict[str, np.ndarray] = {}
        self.variables: list[Any] = []
        self.state: list[Any] = []
        self.built = False
        self._reads = [loss.output for loss in losses]
        self.labels = tuple(dict.fromkeys(term.label for term in terms))

    @property
    def outputs(self) -> tuple[str, ...]:
        """Returns what is read of the model; `build` may find more there than the losses name."""
        return tuple(dict.fromkeys(self._reads))

    def build(self, labels: dict[str, np.ndarray], widths: dict[str, int]) -> None:
        """Makes the variables that losses have of their own, `variables` and `state`.

        Args:
            labels: {label: int [m]}, those of the training images, -1 where unknown.
            widths: {output: int}, numbers in a row of it, see `fir_tf.models.fir.training_model`.
        """
        self.built = True
        for place, (term, loss) in enumerate(self._terms):
            side = "behind_batch_norm" if loss.has_classes else "before_batch_norm"
            if loss.output == "embedding" and side in widths:
                self._reads[place] = side
            count = int(labels[term.label].max(initial=-1)) + 1
            if loss.has_classes:
                # The test items' numbers lie between those of the training items.
                used = np.unique(labels[term.label][labels[term.label] >= 0])
                table = np.full(count, -1, np.int32)
                table[used] = np.arange(len(used))
                self._classes[term.name], count = table, len(used)
            for variable in loss.build(count, widths[self._reads[place]]):
                (self.variables if variable.trainable else self.state).append(variable)

    def __call__(
        self, outputs: dict[str, tf.Tensor], labels: dict[str, tf.Tensor]
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Computes the total and its parts.

        Args:
            outputs: {name: float [n, d]} of `fir_tf.models.fir.training_model`.
            labels: {"item", "category": int32 [n]}, -1 where unknown.

        Returns:
            (total, parts): float32 scalar, and dict of float32 scalars for the log: each term's
            loss by its name, and what else the losses tell, averaged over those that tell it.
        """
        total, parts = tf.constant(0.0), {}
        told: dict[str, list[tf.Tensor]] = {}
        for output, (term, loss) in zip(self._reads, self._terms, strict=True):
            found = loss(outputs[output], *self._targets(term, loss, labels[term.label]))
            if "loss" not in found:
                raise FirError(
                    f"the loss {term.loss} must return its value by the name 'loss'. Received: "
                    f"{', '.join(found) or 'nothing'}"
                )
            parts[term.name] = found.pop("loss")
            total += term.weight * parts[term.name]
            for name, value in found.items():
                told.setdefault(name, []).append(value)
        means = {name: tf.add_n(values) / len(values) for name, values in told.items()}
        return total, parts | means

    def _targets(self, term: Term, loss: Loss, labels: tf.Tensor) -> tuple[Any, ...]:
        if term.name in self._classes:
            known = tf.gather(self._classes[term.name], tf.maximum(labels, 0))
            labels = tf.where(labels >= 0, known, -1)
        if loss.sampler == ANY:
            # Positives and negatives were not drawn for it.
            return (tf.where(self._classified, labels, -1),)
        if loss.needs_triplets:
            return labels, self._triplets[term.label]
        return (labels,)
