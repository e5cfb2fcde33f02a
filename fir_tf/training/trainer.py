"""The parts of a run put together: what is trained, on what, and the compiled step."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from fir_tf.config import InputSettings, LoopSettings
from fir_tf.datasets.catalogue import Catalogue
from fir_tf.errors import FirError
from fir_tf.input.batches import training_batches
from fir_tf.losses.objective import Objective
from fir_tf.models.fir import for_any_size, training_model
from fir_tf.samplers.sampler import Sampler
from fir_tf.training.distribution import make_strategy
from fir_tf.training.frozen import backbone_of
from fir_tf.training.optimizer import make_optimizer
from fir_tf.training.schedules import make_schedule
from fir_tf.training.step import TrainStep, make_averages


@dataclasses.dataclass
class Parts:
    """What is trained, on what.

    Attributes:
        model: keras.Model as `fir_tf.models.fir.build_fir` returns it, made in the scope of the
            strategy that trains it.
        objective: Objective of the sampler's batches.
        sampler: Sampler.
        catalogue: Catalogue with the model's categories; `train` is trained on, `val` validated.
        plain: keras.Model, the same network in float32 on one device, of the size that is tested
            at, which is validated and saved; None where `model` is one.
        actions: sequence of callables of a `fir_tf.training.actions.Moment`, called beside the
            steps.
        strategy: tf.distribute.Strategy of the devices; that of one device when not given.
    """

    model: keras.Model
    objective: Objective
    sampler: Sampler
    catalogue: Catalogue
    plain: keras.Model | None = None
    actions: Sequence[Callable[[Any], None]] = ()
    strategy: tf.distribute.Strategy = dataclasses.field(
        default_factory=lambda: make_strategy("none")
    )

    def build(self) -> None:
        """Makes the variables that losses have of their own, once, see `Objective.build`."""
        if self.objective.built:
            return
        training = self.catalogue.part("train")
        outputs = training_model(self.model).output
        with self.strategy.scope():
            self.objective.build(
                {label: getattr(training, label) for label in self.objective.labels},
                {name: output.shape[-1] for name, output in outputs.items()},
            )


@dataclasses.dataclass
class Trainer:
    """What holds the state of a run.

    Attributes:
        strategy: tf.distribute.Strategy.
        model: keras.Model that is trained.
        variables: list of keras variables that are trained.
        optimizer: keras optimizer.
        schedule: learning-rate schedule.
        averages: list of keras variables, or None.
        update: TrainStep.
        frozen: int, updates of the heads alone, before the backbone's first one.
        served: callable giving the float32 keras.Model of one device that is validated and
            saved, with the present weights or their averages.
    """

    strategy: tf.distribute.Strategy
    model: keras.Model
    variables: list
    optimizer: keras.optimizers.Optimizer
    schedule: keras.optimizers.schedules.LearningRateSchedule
    averages: list | None
    update: TrainStep
    frozen: int
    served: Callable[[], keras.Model]


def build_trainer(parts: Parts, loop: LoopSettings, steps_per_epoch: int) -> Trainer:
    """Builds the optimiser and the compiled step.

    Args:
        parts: Parts.
        loop: LoopSettings.
        steps_per_epoch: int, updates in an epoch.

    Raises:
        FirError: if the batch cannot be shared evenly among the devices, or nothing would be
            trained.
    """
    strategy, model = parts.strategy, parts.model
    replicas = strategy.num_replicas_in_sync
    if parts.sampler.size % replicas:
        raise FirError(
            f"a batch of {parts.sampler.size} images cannot be shared evenly among {replicas} "
            "devices. Give a --batch_size that is a multiple of their number"
        )
    schedule = make_schedule(loop, steps_per_epoch)
    with strategy.scope():
        network = for_any_size(training_model(model))
        parts.build()
        variables = _reached(model, network, parts.objective.outputs)
        if not variables:
            raise FirError(
                "nothing would be trained: the whole backbone is frozen (--freeze) and no loss "
                "reaches a head"
            )
        variables += parts.objective.variables
        if loop.freeze_epochs:
            _check_heads(model, variables)
        half = any(layer.compute_dtype == "float16" for layer in model.layers)
        frozen = round(loop.freeze_epochs * steps_per_epoch)
        optimizer = make_optimizer(loop, model, variables, schedule, half, frozen)
        averages = make_averages(variables) if loop.ema else None
        update = TrainStep(network, optimizer, parts.objective, variables, loop, averages)
    served = _copier(parts.plain, model, variables, averages) if parts.plain else lambda: model
    return Trainer(
        strategy, model, variables, optimizer, schedule, averages, update, frozen, served
    )


def _check_heads(model: keras.Model, variables: Sequence[Any]) -> None:
    """Raises FirError if nothing is trained outside of the backbone."""
    body = {id(variable) for variable in backbone_of(model, "freeze_epochs").variables}
    if all(id(variable) in body for variable in variables):
        raise FirError(
            "nothing would be trained in the first --freeze_epochs: no loss reaches a head, or has "
            "variables of its own. Leave it out, or give --embedding_size or another loss"
        )


def _copier(
    plain: keras.Model, model: keras.Model, variables: Sequence[Any], averages: Sequence[Any] | None
) -> Callable[[], keras.Model]:
    """Returns a function that brings `plain` up to date with `model` and returns it."""
    average = {id(v): a for v, a in zip(variables, averages or (), strict=bool(averages))}

    def served() -> keras.Model:
        for target, source in zip(plain.weights, model.weights, strict=True):
            target.assign(average.get(id(source), source).numpy())
        return plain

    return served


def _reached(model: keras.Model, network: keras.Model, outputs: Sequence[str]) -> list[Any]:
    """The model's variables that the losses reach: what none of them reads has no gradient."""
    part = keras.Model(network.inputs, [network.output[name] for name in outputs])
    reached = {id(variable) for variable in part.trainable_variables}
    return [variable for variable in model.trainable_variables if id(variable) in reached]


def distributed_batches(
    trainer: Trainer, parts: Parts, inputs: InputSettings, first: int
) -> Iterator[dict[str, tf.Tensor]]:
    """Returns an iterator over the strategy's batches from batch number `first` on."""
    strategy, catalogue, sampler = trainer.strategy, parts.catalogue, parts.sampler
    replicas = strategy.num_replicas_in_sync
    if replicas == 1:
        return iter(training_batches(catalogue, sampler, inputs, first))
    local = sampler.size // replicas

    def pipeline(context: tf.distribute.InputContext) -> tf.data.Dataset:
        return training_batches(
            catalogue,
            sampler,
            inputs,
            first,
            shard=(context.input_pipeline_id, context.num_input_pipelines),
            batch_size=local,
        )

    return iter(strategy.distribute_datasets_from_function(pipeline))
