"""Run by test_distribution.py in processes of 2 and 4 logical CPU devices.

Trains a small network on the same global batches, on one device or shared among all, and writes
the losses and the weights of some cases as an .npz file.
"""

import json
import os
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import numpy as np
import tensorflow as tf
from objectives import make_objective

from fir_tf import registry
from fir_tf.config import Config
from fir_tf.keras_versions import path_of
from fir_tf.models.batch_norm import FusedBatchNormalization
from fir_tf.training.distribution import make_strategy
from fir_tf.training.optimizer import make_optimizer
from fir_tf.training.step import TrainStep, make_averages

SIZE, STEPS = 16, 3
# A memory that is full after the second step; what the cases below do not have.
TOLD = {"contrastive": "(memory=24)", "triplet": "(soft=true, on=features)"}
CASES = {
    "OC": ("OC", "all", {}),
    "OS-all": ("OS", "all", {}),
    "IS-all": ("IS", "all", {}),
    "OC+IS-semihard": ("OC+IS", "semihard", {}),
    "OC+IS-hard": ("OC+IS", "hard", {}),
    "OC+OS-hard": ("OC+OS", "hard", {}),
    "OC+IS+OS-all": ("OC+IS+OS", "all", {}),
    "OC+IS-explicit": ("OC+IS", "explicit", {}),
    "OC+normface": ("OC+normface:item", "all", {"loss_learning_rate": 0.2}),
    "every loss": (
        "+".join(f"0.1*{name}{TOLD.get(name, '')}" for name in registry.KINDS["loss"].own),
        "all",
        {"loss_learning_rate": 0.2},
    ),
    "clipped": ("OC+IS", "all", {"clip_norm": 0.05}),
    "decayed": ("OC+IS", "all", {"weight_decay": 0.1, "ema": 0.9}),
    "accumulated": ("OC+IS", "all", {"accumulate": 2}),
    "float16": ("OC+IS", "all", {"mixed_precision": "float16"}),
    "batch_norm": ("OC+IS", "all", {}),
    "batch_norm again": ("OC+IS", "all", {"remat": True}),
    "heads first": ("OC+IS", "all", {"freeze_epochs": 1.0}),
}


def network(batch_norm):
    keras.utils.set_random_seed(3)
    images = keras.Input((6, 6, 3))
    # Batch norm takes the gradient off a bias before it; Adam would make much of what is left.
    features = keras.layers.Conv2D(8, 3, use_bias=not batch_norm, name="conv")(images)
    if batch_norm:
        features = FusedBatchNormalization(synchronized=True, name="bn")(features)
    body = keras.Model(images, keras.layers.ReLU()(features))
    images = keras.Input((6, 6, 3))
    features = body(images)
    pooled = keras.layers.GlobalAveragePooling2D()(features)
    logits = keras.layers.Dense(4, name="logits")(pooled)
    embedding = keras.layers.Dense(5, name="projection")(pooled)
    embedding = keras.layers.UnitNormalization()(embedding)
    return keras.Model(images, {"logits": logits, "features": pooled, "embedding": embedding})


def batches(count):
    rng = np.random.default_rng(0)
    item = np.repeat(np.arange(4), 4)
    item[5] = -1
    return {
        "images": rng.normal(size=(count, SIZE, 6, 6, 3)).astype(np.float32),
        "category": np.tile(np.where(item >= 0, item % 2, -1), (count, 1)).astype(np.int32),
        "item": np.tile(item, (count, 1)).astype(np.int32),
        "row": np.tile(np.arange(SIZE), (count, 1)).astype(np.int32),
        "valid": np.tile(np.arange(SIZE) != 5, (count, 1)),
    }


def explicit(data):
    """4 anchors, positives and negatives, and 4 further images."""
    data["item"][:] = np.array([0, 1, 2, 3] + [0, 1, 2, 3] + [1, 2, 3, 0] + [-1] * 4)
    data["category"][:] = np.arange(SIZE) % 4
    classified = np.ones(SIZE, bool)
    classified[4:12] = False
    return data, classified


def run(name, strategy):
    losses, triplets, flags = CASES[name]
    config = Config(losses=losses, triplets=triplets, learning_rate=0.05, **flags)
    data, classified = batches(STEPS * config.accumulate), np.ones(SIZE, bool)
    if triplets == "explicit":
        data, classified = explicit(data)
    with strategy.scope():
        model = network(name.startswith("batch_norm"))
        unused = {"OC": ["projection"], "OS": ["logits"], "IS": ["logits"]}.get(losses, [])
        variables = [v for v in model.trainable_variables if path_of(v).split("/")[0] not in unused]
        objective = make_objective(losses, classified, beta=0.5, triplets=triplets)
        objective.build(
            {"item": np.arange(4), "category": np.arange(4)},
            {"logits": 4, "features": 8, "embedding": 5},
        )
        variables += objective.variables
        half, heads_only = config.mixed_precision == "float16", config.freeze_epochs > 0
        optimizer = make_optimizer(config, model, variables, 0.05, half, int(heads_only))
        averages = make_averages(variables) if config.ema else None
        step = TrainStep(model, optimizer, objective, variables, config, averages)
    local = SIZE // strategy.num_replicas_in_sync
    flat = {key: value.reshape(-1, *value.shape[2:]) for key, value in data.items()}
    dataset = tf.data.Dataset.from_tensor_slices(flat).batch(local, drop_remainder=True)
    if strategy.num_replicas_in_sync > 1:
        dataset = strategy.distribute_datasets_from_function(lambda _: dataset)
    data = iter(dataset)
    phases = [(1, True), (STEPS - 1, False)] if heads_only else [(STEPS, False)]
    parts = [step(data, count, heads) for count, heads in phases]
    result = {
        f"scalar/{key}": np.concatenate([scalars[key] for scalars, _ in parts])
        for key in parts[0][0]
    }
    result["bad"] = np.concatenate([bad for _, bad in parts])
    own = objective.variables + objective.state
    for index, variable in enumerate(model.variables + own + (averages or [])):
        result[f"variable/{index}/{path_of(variable)}"] = variable.numpy()
    return result


def main(folder, wanted):
    cpu = tf.config.list_physical_devices("CPU")[0]
    devices = max(map(int, wanted))
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * devices
    )
    for count, cases in wanted.items():
        # One device runs what the others have compiled; test_training.py compiles it for one.
        tf.config.run_functions_eagerly(count == "1")
        strategy, values = make_strategy("none" if count == "1" else "mirrored"), {}
        for name in cases:
            for key, value in run(name, strategy).items():
                values[f"{name}|{key}"] = value
        np.savez(f"{folder}/{count}.npz", **values)


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
