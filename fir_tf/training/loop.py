"""The training loop: one compiled step, checkpoints, validation, the best model."""

import contextlib
import dataclasses
import signal
import time

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from fir_tf import datasets
from fir_tf.datasets.catalogue import split_off_validation
from fir_tf.errors import FirError
from fir_tf.files import replacing, write_json
from fir_tf.input.batches import training_batches
from fir_tf.input.plans import make_plan
from fir_tf.losses.objective import Objective
from fir_tf.models.fir import build_fir, head_variables, training_model
from fir_tf.retrieval.embed import BAD_SHARE_MAX, make_embedder, unreadable_message
from fir_tf.retrieval.evaluate import measure
from fir_tf.retrieval.pictures import training_curves
from fir_tf.training.checks import Health
from fir_tf.training.log import RunLog, read_history
from fir_tf.training.run import open_run

# Writing a checkpoint of a large network takes seconds: not more often than this.
CHECKPOINT_SECONDS = 60


def make_schedule(config, steps_per_epoch):
    """Returns the learning-rate schedule: times 0.1 after each of `decay_epochs`.

    The paper's: 1e-4, after epochs 100 and 150 of 200 (PAPER: optimiser).

    Args:
        config: Config; `learning_rate`, `decay_epochs`.
        steps_per_epoch: int.

    Returns:
        keras LearningRateSchedule.
    """
    boundaries = [epoch * steps_per_epoch for epoch in config.decays()]
    values = [config.learning_rate * 0.1**power for power in range(len(boundaries) + 1)]
    if not boundaries:
        boundaries, values = [1], [config.learning_rate] * 2
    # Keras applies the new value after the boundary step; ours counts from 0.
    return keras.optimizers.schedules.PiecewiseConstantDecay(
        [boundary - 1 for boundary in boundaries], values
    )


def make_train_step(network, optimizer, objective, variables, classified):
    """Returns the compiled training step.

    Args:
        network: keras.Model, images -> {"logits", "embedding"}.
        optimizer: keras optimizer, built on `variables`.
        objective: Objective.
        variables: list of keras variables to train.
        classified: numpy bool [n], the rows OC applies to.

    Returns:
        callable batch -> (scalars, bad): dict of float32 scalars, and int32 [n], the row of
        each image that could not be read, -1 for the good ones.
    """

    @tf.function
    def train_step(batch):
        with tf.GradientTape() as tape:
            outputs = network(batch["images"], training=True)
            total, parts = objective(
                outputs["logits"],
                outputs["embedding"],
                batch["category"],
                batch["item"],
                classified,
            )
        gradients = tape.gradient(total, [variable.value for variable in variables])
        optimizer.apply(gradients, variables)
        return {"loss": total, **parts}, tf.where(batch["valid"], -1, batch["row"])

    return train_step


@dataclasses.dataclass
class _Progress:
    """Gathers what the steps return until the next entry of the log."""

    rows: int
    pending: list = dataclasses.field(default_factory=list)
    bad: set = dataclasses.field(default_factory=set)
    since: float = dataclasses.field(default_factory=time.monotonic)

    def add(self, scalars, bad):
        self.pending.append((scalars, bad))

    def entry(self, images):
        """Returns the means since the last entry, and images/s; fetches from the device once."""
        scalars = [{name: float(value) for name, value in item[0].items()} for item in self.pending]
        for _, rows in self.pending:
            self.bad.update(int(row) for row in rows.numpy() if row >= 0)
        now = time.monotonic()
        values = {name: float(np.mean([item[name] for item in scalars])) for name in scalars[0]}
        values["images_per_second"] = images * len(self.pending) / max(now - self.since, 1e-9)
        self.pending, self.since = [], now
        return values


@contextlib.contextmanager
def _stop_requests():
    """Yields a list that becomes non-empty when the process is asked to stop."""
    received = []
    previous = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        # Only the main thread of a program may set handlers; a library call goes without.
        with contextlib.suppress(ValueError):
            previous[number] = signal.signal(number, lambda number, _: received.append(number))
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def load_training_catalogue(config):
    """Loads the config's data set and splits off the validation items.

    Args:
        config: Config; `dataset`, `data_dir`, `val_fraction`.

    Returns:
        Catalogue.
    """
    return split_off_validation(datasets.load(config.dataset, config.data_dir), config.val_fraction)


def describe_plan(catalogue, plan, config):
    """Returns what is about to be trained, as text for the screen."""
    train = catalogue.part("train")
    items, counts = np.unique(train.item[train.item >= 0], return_counts=True)
    lines = [
        catalogue.describe(),
        f"batches: {plan.describe()}; {plan.steps_per_epoch} steps an epoch, "
        f"{config.epochs} epochs",
    ]
    single = int((counts == 1).sum())
    if single and "IS" in config.loss_kinds():
        lines.append(
            f"note: {single} of {len(items)} training items have one image; they serve as "
            "negatives only"
        )
    return "\n".join(lines)


def train(config):
    """Trains a model and writes the run's folder.

    The folder holds config.json, versions.json, labels.json, checkpoints/, logs/ (TensorBoard),
    log.csv, model.keras (the best model on the validation part so far) and training.png. A run
    that was interrupted goes on from its last checkpoint.

    Args:
        config: Config.

    Returns:
        Path of the run's folder.

    Raises:
        FirError: for bad data, a folder that belongs to another run, NaN or collapse.
    """
    catalogue = load_training_catalogue(config)
    plan = make_plan(catalogue, config)
    run = open_run(config)
    print(describe_plan(catalogue, plan, config), flush=True)
    write_json(run / "labels.json", {"categories": list(catalogue.categories)})

    keras.utils.set_random_seed(config.seed)
    model = build_fir(
        config.backbone,
        config.image_size,
        len(catalogue.categories),
        weights=config.weights,
        embedding_size=config.embedding_size,
        relaxation_width=config.relaxation_width,
        dropout=config.dropout,
        batch_norm=config.batch_norm,
    )
    steps = plan.steps_per_epoch * config.epochs
    schedule = make_schedule(config, plan.steps_per_epoch)
    optimizer = keras.optimizers.Adam(schedule)
    variables = _trained_variables(model, config)
    optimizer.build(variables)
    state = tf.train.Checkpoint(
        model=model,
        optimizer=optimizer,
        # Keras does not track its dropout layers' random states for checkpoints.
        seeds=[variable for variable in model.variables if "seed_generator" in variable.path],
        step=tf.Variable(0, dtype=tf.int64),
        best=tf.Variable(-1.0),
    )
    manager = tf.train.CheckpointManager(state, str(run / "checkpoints"), max_to_keep=2)
    if manager.latest_checkpoint:
        state.restore(manager.latest_checkpoint).assert_consumed()
        print(f"resuming {run} at step {int(state.step)} of {steps}", flush=True)
    if int(state.step) >= steps:
        print(f"{run} is finished already ({steps} steps)")
        return run

    train_step = make_train_step(
        training_model(model),
        optimizer,
        Objective(config.losses, config.alpha, config.beta, config.delta, config.triplets),
        variables,
        plan.classified,
    )
    _run_steps(config, run, catalogue, plan, steps, model, schedule, state, manager, train_step)
    training_curves(read_history(run), run / "training.png")
    print(f"trained: {run / 'model.keras'} (log: {run / 'log.csv'}, {run / 'training.png'})")
    return run


def _trained_variables(model, config):
    """The variables the losses reach: without OC the relaxation head, without OS and IS the
    projection has no gradient."""
    left_out = head_variables(model) if "OC" not in config.loss_kinds() else []
    if config.embedding_size and config.loss_kinds() == ("OC",):
        left_out = left_out + model.get_layer("projection").trainable_variables
    ids = {id(variable) for variable in left_out}
    return [variable for variable in model.trainable_variables if id(variable) not in ids]


def _run_steps(config, run, catalogue, plan, steps, model, schedule, state, manager, train_step):
    start = int(state.step)
    log, health = RunLog(run, start), Health(config)
    embedder = make_embedder(model)
    progress = _Progress(int((catalogue.split == "train").sum()))
    batches = iter(training_batches(catalogue, plan, config, start))
    every = plan.steps_per_epoch * config.eval_every
    saved = time.monotonic()
    with (
        contextlib.closing(log),
        _stop_requests() as stop,
        tqdm(total=steps, initial=start, desc="training", unit="step", disable=None) as bar,
    ):
        for step in range(start, steps):
            progress.add(*train_step(next(batches)))
            done = step + 1
            bar.update()
            validate = done % every == 0 or done == steps
            if done % config.log_every == 0 or validate or stop:
                values = progress.entry(plan.size)
                _check_bad(catalogue, progress)
                values["learning_rate"] = float(schedule(step))
                log.scalars(done, values)
                health.check(done, values)
                bar.set_postfix(loss=f"{values['loss']:.3f}")
            if validate:
                found = measure(embedder, catalogue, "val", config)
                _keep_best(config, run, model, state, found)
                log.scalars(done, {f"val/{name}": value for name, value in found.items()})
                bar.write(_epoch_line(done, plan, config, values, found))
                progress.since = time.monotonic()
            state.step.assign(done)
            if done == steps or stop or time.monotonic() - saved > CHECKPOINT_SECONDS:
                manager.save(checkpoint_number=done)
                saved = time.monotonic()
            if stop and done < steps:
                raise FirError(
                    f"stopped at step {done} of {steps} on request; the same command resumes"
                )
    if progress.bad:
        print(f"skipped {len(progress.bad)} images that cannot be decoded:")
        for row in sorted(progress.bad):
            print(f"  {catalogue.root / catalogue.path[row]}")


def _check_bad(catalogue, progress):
    if len(progress.bad) > max(1, BAD_SHARE_MAX * progress.rows):
        paths = [str(catalogue.root / catalogue.path[row]) for row in sorted(progress.bad)]
        raise FirError(unreadable_message(paths, progress.rows))


def _keep_best(config, run, model, state, found):
    """Writes model.keras when the validation says it is the best; a tie goes to the later."""
    value = selection_value(found)
    if value is None or value >= float(state.best):
        with replacing(run / "model.keras") as temporary:
            model.save(temporary)
        state.best.assign(-1.0 if value is None else value)


def selection_value(found):
    """Returns the number the best checkpoint is chosen by, None where nothing was measured.

    mAP@R where the validation part has items, otherwise category top-1.
    """
    return found.get("mAP@R", found.get("category_top1"))


def _epoch_line(done, plan, config, values, found):
    shown = [
        f"{name} {found[name]:.3f}"
        for name in ("recall@1", "mAP@R", "category_top1")
        if name in found
    ]
    text = ", ".join(shown) or "nothing to validate on"
    return (
        f"epoch {done // plan.steps_per_epoch}/{config.epochs}  loss {values['loss']:.4f}  "
        f"{values['images_per_second']:.0f} images/s  val: {text}"
    )
