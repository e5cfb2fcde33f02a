"""A training run from its config to its folder."""

import contextlib
import dataclasses
import logging
import os
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from fir_tf import datasets, registry
from fir_tf.config import Config
from fir_tf.datasets.catalogue import Catalogue
from fir_tf.datasets.findings import quick_check
from fir_tf.errors import FirError, StoppedError
from fir_tf.files import write_json
from fir_tf.input.batches import training_batches
from fir_tf.losses.objective import Objective, make_losses
from fir_tf.models.fir import build_from_config, training_model
from fir_tf.models.pretrained import notice
from fir_tf.retrieval.pictures import training_curves
from fir_tf.samplers.choose import describe_undrawn, make_sampler
from fir_tf.samplers.sampler import Sampler
from fir_tf.shell import draw_or_note
from fir_tf.training import actions
from fir_tf.training.checkpoints import Checkpoints
from fir_tf.training.distribution import anywhere, make_strategy, worker_index
from fir_tf.training.log import RunLog, read_history
from fir_tf.training.optimizer import make_optimizer
from fir_tf.training.precision import choose_precision, policy
from fir_tf.training.run import open_run
from fir_tf.training.schedules import make_schedule
from fir_tf.training.step import TrainStep, make_averages

log = logging.getLogger(__package__)


def describe_plan(catalogue: Catalogue, sampler: Sampler, config: Config) -> str:
    """Returns what is about to be trained, as text for the screen."""
    lines = [
        catalogue.describe(),
        f"batches: {sampler.describe()}; {sampler.steps_per_epoch} steps an epoch, "
        f"{config.epochs} epochs",
    ]
    undrawn = describe_undrawn(catalogue, config)
    if undrawn:
        lines.append(undrawn)
    return "\n".join(lines)


@dataclasses.dataclass
class _Engine:
    """The parts of a run that hold its state.

    Attributes:
        strategy: tf.distribute.Strategy.
        precision: str.
        model: keras.Model that is trained.
        variables: list of keras variables that are trained.
        optimizer: keras optimizer.
        schedule: learning-rate schedule.
        averages: list of keras variables, or None.
        update: TrainStep.
        served: callable giving the float32 keras.Model of one device that is validated and
            saved, with the present weights or their averages.
    """

    strategy: tf.distribute.Strategy
    precision: str
    model: keras.Model
    variables: list
    optimizer: keras.optimizers.Optimizer
    schedule: keras.optimizers.schedules.LearningRateSchedule
    averages: list | None
    update: TrainStep
    served: object


def build_engine(
    config: Config,
    catalogue: Catalogue,
    sampler: Sampler,
    steps_per_epoch: int,
    strategy: tf.distribute.Strategy | None = None,
) -> _Engine:
    """Builds the model, the optimiser and the compiled step.

    Args:
        config: Config.
        catalogue: Catalogue, for the categories.
        sampler: see `fir_tf.samplers.choose.make_sampler`.
        steps_per_epoch: int, updates in an epoch.
        strategy: tf.distribute.Strategy, see `make_strategy`; None for one device.

    Raises:
        FirError: if the batch cannot be shared evenly among the devices, or see `build_fir`.
    """
    strategy = strategy or make_strategy("none")
    replicas = strategy.num_replicas_in_sync
    if sampler.size % replicas:
        raise FirError(
            f"a batch of {sampler.size} images cannot be shared evenly among {replicas} devices. "
            "Give a --batch_size that is a multiple of their number"
        )
    precision = choose_precision(config.mixed_precision)

    categories = len(catalogue.categories)
    keras.utils.set_random_seed(config.seed)
    schedule = make_schedule(config, steps_per_epoch)
    with strategy.scope():
        with policy(precision):
            model = build_from_config(config, categories)
        network = training_model(model)
        objective = _build_objective(config, catalogue, sampler, network)
        variables = _reached(model, network, objective.outputs)
        if not variables:
            raise FirError(
                "nothing would be trained: `freeze` is 5 and no loss reaches the head. Received: "
                f"losses={config.losses}, embedding_size={config.embedding_size}"
            )
        variables += objective.variables
        optimizer = make_optimizer(config, model, variables, schedule, precision)
        averages = make_averages(variables) if config.ema else None
    update = TrainStep(
        network,
        optimizer,
        objective,
        variables,
        strategy,
        config.accumulate,
        config.clip_norm,
        averages,
        config.ema,
    )
    if precision == "float32" and replicas == 1 and averages is None:
        served = lambda: model  # noqa: E731
    else:
        served = _copier(
            build_from_config(config, categories, weights="none"), model, variables, averages
        )
    return _Engine(
        strategy, precision, model, variables, optimizer, schedule, averages, update, served
    )


def _copier(plain, model, variables, averages):
    """Returns a function that brings `plain` up to date with `model` and returns it."""
    average = {id(v): a for v, a in zip(variables, averages or (), strict=bool(averages))}

    def served():
        for target, source in zip(plain.weights, model.weights, strict=True):
            target.assign(average.get(id(source), source).numpy())
        return plain

    return served


def _build_objective(config, catalogue, sampler, network):
    terms = config.terms()
    objective = Objective(terms, make_losses(terms, config.loss_settings()), sampler)
    training = catalogue.part("train")
    objective.build(
        {label: getattr(training, label) for label in objective.labels},
        {name: output.shape[-1] for name, output in network.output.items()},
    )
    return objective


def _reached(model, network, outputs):
    """The model's variables that the losses reach: what none of them reads has no gradient."""
    part = keras.Model(network.inputs, [network.output[name] for name in outputs])
    reached = {id(variable) for variable in part.trainable_variables}
    return [variable for variable in model.trainable_variables if id(variable) in reached]


def _distributed_batches(engine, catalogue, sampler, config, start):
    """Returns an iterator over the strategy's batches from update number `start` on."""
    strategy, first = engine.strategy, start * config.accumulate
    replicas = strategy.num_replicas_in_sync
    if replicas == 1:
        return iter(training_batches(catalogue, sampler, config, first))
    local = sampler.size // replicas

    def pipeline(context):
        return training_batches(
            catalogue,
            sampler,
            config,
            first,
            shard=(context.input_pipeline_id, context.num_input_pipelines),
            batch_size=local,
        )

    return iter(strategy.distribute_datasets_from_function(pipeline))


@contextlib.contextmanager
def _stop_requests():
    """Yields a list that gets the signal by which the process is asked to stop.

    The run then ends with a checkpoint; asked once more by Ctrl-C it ends at once.
    """
    received = []
    previous = {}

    def ask(number, _):
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


def train(config: Config) -> Path:
    """Trains a model and writes the run's folder.

    The folder holds config.json, versions.json, labels.json, checkpoints/, logs/ (TensorBoard),
    log.csv, model.keras (the best model on the validation part so far, in float32) and
    training.png. A run that was interrupted goes on from its last checkpoint.

    Args:
        config: Config.

    Returns:
        Path of the run's folder.

    Raises:
        FirError: for bad data, a folder that belongs to another run, NaN or collapse.
        StoppedError: the process was asked to stop.
    """
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    strategy = make_strategy(config.distribute)
    catalogue = datasets.load_training(config)
    if not catalogue.categories:
        # The network has its category output whether or not a loss trains it.
        catalogue = catalogue.with_categories(["unknown"])
    for line in quick_check(catalogue):
        log.info(line)
    sampler = make_sampler(catalogue, config)
    if config.weights == "imagenet":
        log.info(notice(registry.get("backbone", config.backbone).weights))
    steps_per_epoch = max(1, round(sampler.steps_per_epoch / config.accumulate))
    if config.dry_run:
        log.info(describe_plan(catalogue, sampler, config))
        engine = build_engine(config, catalogue, sampler, steps_per_epoch, strategy)
        log.info(_try_one_step(engine, catalogue, sampler, config, steps_per_epoch))
        return Path(config.run)
    run = open_run(config)
    log.info(describe_plan(catalogue, sampler, config))
    write_json(run / "labels.json", {"categories": list(catalogue.categories)})
    engine = build_engine(config, catalogue, sampler, steps_per_epoch, strategy)
    with contextlib.ExitStack() as stack:
        folder = run
        if worker_index(engine.strategy):
            # Every worker has to take part in saving; only the first one's files are the run's.
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        checkpoints = Checkpoints(
            folder / "checkpoints",
            engine.model,
            engine.optimizer,
            engine.averages,
            engine.update.objective.variables,
        )
        steps = config.epochs * steps_per_epoch
        if checkpoints.restore(run / "checkpoints"):
            log.info(f"resuming {run} at step {int(checkpoints.step)} of {steps}")
        finished = int(checkpoints.step) >= steps
        if finished or (config.patience and int(checkpoints.waited) >= config.patience):
            log.info(f"{run} is finished already ({int(checkpoints.step)} steps)")
            return run
        _run_steps(config, folder, catalogue, sampler, engine, checkpoints, steps_per_epoch)
        drawn = draw_or_note(
            run / "training.png",
            lambda: training_curves(read_history(folder), folder / "training.png"),
        )
    log.info(
        f"trained: {run / 'model.keras'} (log: {', '.join(map(str, [run / 'log.csv', *drawn]))})"
    )
    return run


def _run_steps(config, folder, catalogue, sampler, engine, checkpoints, steps_per_epoch):
    start, steps = int(checkpoints.step), config.epochs * steps_per_epoch
    every = steps_per_epoch * config.eval_every
    gather = actions.Gather(sampler.size * config.accumulate, catalogue)
    batches = _distributed_batches(engine, catalogue, sampler, config, start)
    with (
        contextlib.closing(RunLog(folder, start)) as run_log,
        _stop_requests() as asked,
        tqdm(total=steps, initial=start, desc="training", unit="step", disable=None) as bar,
    ):
        follow = [
            gather,
            actions.validate(config, catalogue, engine.served, gather),
            actions.write_log(run_log, engine.schedule),
            actions.check_health(config),
            actions.keep_best(folder / "model.keras", checkpoints),
            actions.show(bar.write),
            *(registry.get("action", name) for name in config.action_names()),
        ]
        if config.patience:
            follow.append(actions.stop_early(config.patience, checkpoints))
        if config.profiled():
            follow.append(actions.trace(folder / "logs", *config.profiled()))
        follow.append(actions.save_checkpoints(checkpoints))
        step, moment = start, None
        first, last = config.profiled() or (1, 0)
        traced = (first - 1, last)
        while step < steps and not (moment and moment.stop):
            count = min(
                config.steps_per_loop,
                steps - step,
                config.log_every - step % config.log_every,
                every - step % every,
                *(mark - step for mark in traced if mark > step),
            )
            gather.add(*engine.update(batches, count))
            step += count
            bar.update(count)
            validates = step % every == 0 or step == steps
            stopping = anywhere(engine.strategy, bool(asked))
            moment = actions.Moment(
                step,
                steps,
                step // steps_per_epoch,
                folder,
                logs=step % config.log_every == 0 or validates or stopping,
                validates=validates,
                asked=stopping,
                due=anywhere(engine.strategy, checkpoints.due()),
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
    if gather.bad:
        log.info(f"skipped {len(gather.bad)} images that cannot be decoded:")
        for path in gather.bad_paths():
            log.info(f"  {path}")


def _try_one_step(engine, catalogue, sampler, config, steps_per_epoch):
    """Makes two updates that are thrown away; returns what was measured as text."""
    batches = _distributed_batches(engine, catalogue, sampler, config, 0)
    times, scalars = [], {}
    for _ in range(2):
        begin = time.monotonic()
        scalars, _ = engine.update(batches, 1)
        loss = float(scalars["loss"][0])
        times.append(time.monotonic() - begin)
    steps, images = config.epochs * steps_per_epoch, sampler.size * config.accumulate
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    memory = [f"{peak / (2**30 if sys.platform == 'darwin' else 2**20):.1f} GiB of RAM"]
    for device in tf.config.list_logical_devices("GPU"):
        used = tf.config.experimental.get_memory_info(device.name)["peak"]
        memory.append(f"{used / 2**30:.1f} GiB on {device.name}")
    count = sum(int(np.prod(variable.shape)) for variable in engine.variables)
    return "\n".join(
        [
            f"model: {config.backbone}, {count:,} parameters trained, {engine.precision}, "
            f"{engine.strategy.num_replicas_in_sync} device(s)",
            f"run: {steps} steps of {images} images, loss of the first {loss:.4f}",
            f"time: {times[0]:.1f} s to compile and make a step, {times[1]:.2f} s a step "
            f"({images / times[1]:.0f} images/s), about {steps * times[1] / 3600:.1f} hours "
            "without validation",
            f"memory: {', '.join(memory)}",
            "dry run: nothing was written",
        ]
    )
