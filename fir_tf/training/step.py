"""The compiled training step."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from fir_tf.config import LoopSettings
from fir_tf.errors import FirError
from fir_tf.keras_versions import make_variable, tensor_of
from fir_tf.losses.objective import Objective
from fir_tf.training.distribution import share
from fir_tf.training.frozen import backbone_of, frozen
from fir_tf.training.remat import with_remat

Batch = Mapping[str, tf.Tensor]
# The loss, scalars to log, and a gradient for each variable.
Gradients = tuple[tf.Tensor, dict[str, tf.Tensor], list[tf.Tensor]]


class TrainStep:
    """One update of the weights, compiled; several in a row without a return to Python.

    On each replica the forward pass sees the replica's share of a batch; the loss is that of the
    global batch (`fir_tf.training.distribution`). To be made, like what it is given, in the scope
    of the strategy whose batches it reads.

    Args:
        network: keras.Model, images -> {"logits", "embedding"}.
        optimizer: keras optimizer built on `variables`, see
            `fir_tf.training.optimizer.make_optimizer`.
        objective: Objective of the sampler whose batches are read.
        variables: list of keras variables to train.
        loop: LoopSettings; `accumulate`, `clip_norm`, `jit`, `remat`, and `ema` for `averages`.
        averages: list of keras variables beside `variables`, their moving averages, or None.

    Raises:
        FirError: XLA is asked for, and there are several devices.
    """

    def __init__(
        self,
        network: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        objective: Objective,
        variables: list,
        loop: LoopSettings,
        averages: list | None = None,
    ) -> None:
        self._network, self._optimizer, self.objective = network, optimizer, objective
        self._variables, self._averages, self._loop = variables, averages, loop
        self._strategy = tf.distribute.get_strategy()
        self._names: list[str] = []
        self._jit = _compiles(loop.jit, self._strategy)
        self._forward = (
            with_remat(network) if loop.remat else functools.partial(network, training=True)
        )
        # Nothing here is for AutoGraph, whose conversion takes longer than the tracing itself.
        self._run = tf.function(self._updates, autograph=False)

    def __call__(
        self, batches: Iterator[Batch], steps: int, heads_only: bool = False
    ) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """Makes `steps` updates.

        Args:
            batches: iterator over the strategy's distributed batches.
            steps: int >= 1.
            heads_only: bool, whether the backbone, the nested network of the model, stays as it
                is. Compiled once for either.

        Returns:
            (scalars, bad): {name: float32 [steps]}, and int32 [steps, accumulate * n], the row
            of each image that could not be read, -1 for the good ones.
        """
        scalars, bad = self._run(batches, tf.constant(steps), heads_only)
        return dict(zip(self._names, tf.unstack(scalars, axis=1), strict=True)), bad

    def _updates(
        self, batches: Iterator[Batch], steps: tf.Tensor, heads_only: bool
    ) -> tuple[tf.Tensor, tf.Tensor]:
        variables = self._variables
        scope: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if heads_only:
            backbone = backbone_of(self._network, "freeze_epochs")
            body = {id(variable) for variable in backbone.variables}
            variables = [variable for variable in variables if id(variable) not in body]
            scope = frozen(backbone)
        with scope:
            return self._repeat(batches, steps, variables)

    def _repeat(
        self, batches: Iterator[Batch], steps: tf.Tensor, variables: Sequence[Any]
    ) -> tuple[tf.Tensor, tf.Tensor]:
        def body(
            number: tf.Tensor, scalars: tf.TensorArray, bad: tf.TensorArray
        ) -> tuple[tf.Tensor, tf.TensorArray, tf.TensorArray]:
            values, rows = self._update(batches, variables)
            return number + 1, scalars.write(number, values), bad.write(number, rows)

        empty = tf.TensorArray(tf.float32, steps), tf.TensorArray(tf.int32, steps)
        _, scalars, bad = tf.while_loop(lambda number, *_: number < steps, body, (0, *empty))
        return scalars.stack(), bad.stack()

    def _update(self, batches: Iterator[Batch], variables: Sequence[Any]) -> tuple[tf.Tensor, ...]:
        parts = [next(batches) for _ in range(self._loop.accumulate)]
        found = self._strategy.run(lambda given: self._replica_update(given, variables), (parts,))
        if self._averages is not None:
            for variable, average in zip(self._variables, self._averages, strict=True):
                old, new = tensor_of(average), tf.cast(tensor_of(variable), tf.float32)
                old.assign(old + (1.0 - self._loop.ema) * (new - old))
        # Every replica worked out the same numbers.
        return tuple(self._strategy.experimental_local_results(value)[0] for value in found)

    def _replica_update(
        self, parts: Sequence[Batch], variables: Sequence[Any]
    ) -> tuple[tf.Tensor, tf.Tensor]:
        # One program for all parts.
        differentiated = self._differentiated(variables)
        gradients, values, bad = None, [], []
        for batch in parts:
            images = batch["images"]
            if gradients is not None:
                # One batch after the other: their activations need not be held together.
                with tf.control_dependencies(gradients):
                    images = tf.identity(images)
            labels = {label: batch[label] for label in self.objective.labels}
            loss, scalars, own = differentiated(images, labels)
            gradients = (
                own if gradients is None else [a + b for a, b in zip(gradients, own, strict=True)]
            )
            values.append(tf.stack([loss, *scalars.values()]))
            self._names = ["loss", *scalars]
            bad.append(share(tf.where(batch["valid"], -1, batch["row"])))
        context = tf.distribute.get_replica_context()
        if context.num_replicas_in_sync > 1:
            gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        if self._loop.clip_norm:
            limit = self._optimizer.scale_loss(tf.constant(self._loop.clip_norm))
            gradients, _ = tf.clip_by_global_norm(gradients, limit)
        self._optimizer.apply(gradients, variables)
        return tf.reduce_mean(tf.stack(values), axis=0), tf.concat(bad, axis=0)

    def _differentiated(self, variables: Sequence[Any]) -> Callable[[tf.Tensor, Batch], Gradients]:
        """Returns `_gradients` of these variables, compiled by XLA where that is asked for."""

        def compute(images: tf.Tensor, labels: Batch) -> Gradients:
            return self._gradients(images, labels, variables)

        return tf.function(compute, autograph=False, jit_compile=True) if self._jit else compute

    def _gradients(self, images: tf.Tensor, labels: Batch, variables: Sequence[Any]) -> Gradients:
        own = {id(variable) for variable in self.objective.variables}
        replicas = tf.distribute.get_replica_context().num_replicas_in_sync
        with tf.GradientTape() as tape:
            outputs = self._forward(images)
            loss, scalars = self.objective(
                {name: share(outputs[name]) for name in self.objective.outputs},
                {label: share(value) for label, value in labels.items()},
            )
            scaled = self._optimizer.scale_loss(loss / self._loop.accumulate)
        gradients = tape.gradient(scaled, [tensor_of(v) for v in variables])
        for variable, gradient in zip(variables, gradients, strict=True):
            if gradient is None and id(variable) in own:
                raise FirError(
                    f"the loss's variable {variable.name} gets no gradient: use it in the loss, or "
                    "make it one that is not trained"
                )
        return (
            loss,
            scalars,
            [
                # Every replica has the whole gradient of what the losses own, and they are summed.
                tf.convert_to_tensor(gradient) / replicas if id(variable) in own else gradient
                for variable, gradient in zip(variables, gradients, strict=True)
            ],
        )


def _compiles(jit: str, strategy: tf.distribute.Strategy) -> bool:
    """Whether the step is compiled with XLA, which a TPU does without being asked.

    Several GPUs exchange their embeddings in the middle of it, which XLA's programs cannot.
    """
    replicas = strategy.num_replicas_in_sync
    if jit == "on" and replicas > 1:
        raise FirError(
            f"`jit` must be auto or off with several devices. Received: on, with {replicas}"
        )
    gpu = replicas == 1 and bool(tf.config.list_logical_devices("GPU"))
    return jit == "on" or (jit == "auto" and gpu)


def make_averages(variables: Sequence[Any]) -> list[Any]:
    """Returns a copy of each variable, to hold its moving average."""
    return [make_variable(variable.numpy(), "average") for variable in variables]
