"""One device or many: the strategy, and what the replicas share within a step."""

import json
import os

import tensorflow as tf

from fir_tf.errors import FirError


def make_strategy(name: str) -> tf.distribute.Strategy:
    """Returns the tf.distribute strategy of `--distribute`.

    Args:
        name: "none", "mirrored" (all GPUs of the machine, or all its logical CPU devices where
            there is no GPU), "multiworker" (the cluster of the environment variable TF_CONFIG),
            "tpu" (the local TPU), or "auto" (mirrored on a machine with several GPUs, otherwise
            none).

    Returns:
        tf.distribute.Strategy.

    Raises:
        FirError: if TF_CONFIG or the TPU is missing.
    """
    if name == "multiworker":
        # Before anything else of TensorFlow: looking for devices would fix the cluster.
        _check_cluster(os.environ.get("TF_CONFIG", ""))
        return tf.distribute.MultiWorkerMirroredStrategy()
    gpus = tf.config.list_logical_devices("GPU")
    if name == "auto":
        name = "mirrored" if len(gpus) > 1 else "none"
    if name == "none":
        return tf.distribute.get_strategy()
    if name == "mirrored":
        devices = gpus or tf.config.list_logical_devices("CPU")
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect(tpu="local")
        return tf.distribute.TPUStrategy(resolver)
    # TensorFlow 2.15 ends in a TypeError of its own where there is no TPU.
    except (TypeError, ValueError, tf.errors.OpError) as error:
        raise FirError(
            "--distribute=tpu needs a machine with a TPU and a TensorFlow built for it "
            f"(pip install tensorflow-tpu). Received: {str(error).splitlines()[0]}"
        ) from error


def _check_cluster(text: str) -> None:
    example = (
        '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, '
        '"task": {"type": "worker", "index": 0}}'
    )
    try:
        cluster = json.loads(text)
        good = cluster["cluster"]["worker"] and cluster["task"]["index"] >= 0
    except (ValueError, KeyError, TypeError):
        good = False
    if not good:
        raise FirError(
            "--distribute=multiworker reads the cluster from the environment variable TF_CONFIG, "
            f"such as {example}. Received: {text!r}"
        )


def worker_index(strategy: tf.distribute.Strategy) -> int:
    """Returns the number of this process among the workers of `strategy`, 0 where it is alone."""
    resolver = strategy.cluster_resolver
    return (resolver.task_id or 0) if resolver and resolver.task_type else 0


def anywhere(strategy: tf.distribute.Strategy, flag: bool) -> bool:
    """Returns whether `flag` holds in any of the processes of `strategy`.

    What the processes do together (save, stop) they must decide together: one that waits for
    the others alone waits for ever. Every process has to call this as often as the others.
    """
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return flag
    mine = tf.constant(1.0 if flag else 0.0)

    def total() -> tf.Tensor:
        context = tf.distribute.get_replica_context()
        return context.all_reduce(tf.distribute.ReduceOp.SUM, mine)

    return float(strategy.experimental_local_results(strategy.run(total))[0]) > 0


def share(value: tf.Tensor) -> tf.Tensor:
    """Returns the rows of all replicas, in the order of the replicas.

    The loss can then be worked out over the global batch on each replica. Only the replica's
    own rows carry a gradient: summed over the replicas, as the optimiser's all-reduce does,
    the gradients are those of one device on the global batch, without any division.

    Args:
        value: tensor [n, ...], the same shape on each replica.

    Returns:
        tensor [replicas * n, ...].
    """
    context = tf.distribute.get_replica_context()
    replicas = context.num_replicas_in_sync
    if replicas == 1:
        return value
    whole = context.all_gather(tf.stop_gradient(value), axis=0)
    if not value.dtype.is_floating:
        return whole
    # A difference that is zero and has the gradient of `value`, at the replica's own rows.
    change = value - tf.stop_gradient(value)
    own = tf.one_hot(context.replica_id_in_sync_group, replicas, dtype=value.dtype)
    spread = tf.reshape(own, [replicas] + [1] * len(value.shape)) * change[None]
    return whole + tf.reshape(spread, tf.shape(whole))
