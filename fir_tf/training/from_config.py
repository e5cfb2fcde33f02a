"""A training run from its config: the parts that the flags name, and the folder."""

import dataclasses
import logging
import resource
import sys
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from fir_tf import datasets, registry
from fir_tf.config import Config
from fir_tf.datasets.catalogue import Catalogue
from fir_tf.evaluation.measure import Procedure
from fir_tf.hygiene.findings import quick_check
from fir_tf.losses.objective import Objective, make_losses
from fir_tf.messages import duration
from fir_tf.models.backbones import build_backbone
from fir_tf.models.fir import build_fir
from fir_tf.models.pretrained import imagenet_weights, notice
from fir_tf.models.pretrained.download import not_here
from fir_tf.run import open_run
from fir_tf.samplers.choose import describe_undrawn, make_sampler
from fir_tf.samplers.sampler import Sampler
from fir_tf.training.distribution import make_strategy, worker_index
from fir_tf.training.interpolate import check_interpolation, interpolate
from fir_tf.training.loop import train, updates_per_epoch
from fir_tf.training.precision import choose_precision, policy
from fir_tf.training.trainer import Parts, build_trainer, distributed_batches

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


def make_parts(config: Config, catalogue: Catalogue, sampler: Sampler) -> Parts:
    """Builds the parts that the flags name, in the scope of the current strategy.

    Args:
        config: Config.
        catalogue: Catalogue.
        sampler: Sampler.

    Returns:
        Parts.

    Raises:
        FirError: see `fir_tf.models.fir.build_fir` and `fir_tf.losses.objective.make_losses`.
    """
    precision, categories = choose_precision(config.mixed_precision), len(catalogue.categories)
    keras.utils.set_random_seed(config.seed)
    with policy(precision):
        model = build_fir(config, config.image_size, categories)
    terms = config.terms()
    objective = Objective(terms, make_losses(terms, config.loss_settings()), sampler)
    actions = [registry.get("action", name) for name in config.action_names()]
    strategy = tf.distribute.get_strategy()
    parts = Parts(model, objective, sampler, catalogue, actions=actions, strategy=strategy)
    # Before anything else draws from the seed.
    parts.build()
    return parts


def _needs_plain(config: Config, strategy: tf.distribute.Strategy) -> bool:
    """Whether what is trained is not what is validated and saved."""
    precision = choose_precision(config.mixed_precision)
    other_size = config.eval_size != config.image_size
    return (
        precision != "float32" or strategy.num_replicas_in_sync > 1 or config.ema > 0 or other_size
    )


def train_config(config: Config) -> Path:
    """Trains what the flags say, see `fir_tf.training.loop.train`.

    Beside what it writes the folder holds config.json, plugins.json and versions.json. A folder of
    another config is refused.

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
    if config.interpolate:
        check_interpolation(config.weights, catalogue)
    for line in quick_check(catalogue):
        log.info(line)
    sampler = make_sampler(catalogue, config)
    config = _told_start(config)
    if not config.dry_run:
        open_run(config)
    log.info(describe_plan(catalogue, sampler, config))
    with strategy.scope():
        parts = make_parts(config, catalogue, sampler)
    if _needs_plain(config, strategy):
        plain = dataclasses.replace(config, weights="none")
        parts.plain = build_fir(plain, config.eval_size, len(catalogue.categories))
    if config.dry_run:
        log.info(_try_one_step(parts, config))
        return Path(config.run)
    run = train(parts, config.run, config, config)
    if config.interpolate and not worker_index(strategy):
        start = build_backbone(config.backbone, config.eval_size, config.weights)
        procedure = Procedure("val", classifies=config.reads("logits"))
        interpolate(run, start, catalogue, config, procedure)
    return run


def _told_start(config: Config) -> Config:
    """Says which weights the network starts from.

    Returns:
        Config, that of random weights for a dry run whose weights would have to be fetched first.
    """
    if config.weights != "imagenet":
        return config
    weights = imagenet_weights(config.backbone, registry.get("backbone", config.backbone).weights)
    log.info(notice(weights))
    source = not_here(weights) if config.dry_run else ""
    if not source:
        return config
    count = build_backbone(config.backbone, config.image_size, "none").count_params()
    log.info(
        f"note: they are not here: a run fetches them first, about {4e-6 * count:.0f} MB from "
        f"{source}. This dry run makes its step with random ones"
    )
    mode = "frozen" if config.batch_norm == "auto" else config.batch_norm
    return dataclasses.replace(config, weights="none", batch_norm=mode)


def _try_one_step(parts: Parts, config: Config) -> str:
    """Makes two updates that are thrown away; returns what was measured as text."""
    precision = choose_precision(config.mixed_precision)
    steps_per_epoch = updates_per_epoch(parts, config)
    trainer = build_trainer(parts, config, steps_per_epoch)
    batches = distributed_batches(trainer, parts, config, 0)
    times = []
    for _ in range(2):
        begin = time.monotonic()
        scalars, _ = trainer.update(batches, 1)
        loss = float(scalars["loss"][0])
        times.append(time.monotonic() - begin)
    steps, images = config.epochs * steps_per_epoch, parts.sampler.size * config.accumulate
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    memory = [f"{peak / (2**30 if sys.platform == 'darwin' else 2**20):.1f} GiB of RAM"]
    for device in tf.config.list_logical_devices("GPU"):
        used = tf.config.experimental.get_memory_info(device.name)["peak"]
        memory.append(f"{used / 2**30:.1f} GiB on {device.name}")
    count = sum(int(np.prod(variable.shape)) for variable in trainer.variables)
    return "\n".join(
        [
            f"model: {config.backbone}, {count:,} parameters trained, {precision}, "
            f"{trainer.strategy.num_replicas_in_sync} device(s)",
            f"run: {steps} steps of {images} images, loss of the first {loss:.4f}",
            f"time: {times[0]:.1f} s to compile and make a step, {times[1]:.2f} s a step "
            f"({images / times[1]:.0f} images/s), about {duration(steps * times[1])} "
            "without validation",
            f"memory: {', '.join(memory)}",
            "dry run: nothing was written",
        ]
    )
