"""The optimiser: Adam with a rate for the backbone and another for the rest."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from fir_tf.config import LoopSettings
from fir_tf.keras_versions import Adam, path_of, with_loss_scale
from fir_tf.training.frozen import backbone_of

_NO_DECAY = ("bias", "gamma", "beta", "log_exponent")


@keras.saving.register_keras_serializable("fir_tf")
class ReducedAdam(Adam):
    """Adam on gradients that are already summed over the replicas, in one pass over a variable.

    The training step sums them itself, because their norm is to be limited after the sum.
    Keras' own update reads and writes each variable about a dozen times.

    Args:
        factors: dict of str to float, by variable path: what the learning rate is multiplied
            with for that variable; 1 for those not named.
        delays: dict of str to int, by variable path: updates of the others before the first one
            of that variable, from which its bias correction counts.
        **kwargs: of keras.optimizers.Adam.
    """

    def __init__(
        self,
        *args: Any,
        factors: Mapping[str, float] | None = None,
        delays: Mapping[str, int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.factors, self.delays = dict(factors or {}), dict(delays or {})
        self._factor_of_key: dict[str, float] = {}
        self._delay_of_key: dict[str, int] = {}

    def build(self, variables: Sequence[Any]) -> None:
        """Creates the slots of the keras variables."""
        super().build(variables)
        keys = {path_of(variable): self._var_key(variable) for variable in variables}
        self._factor_of_key = {keys[p]: value for p, value in self.factors.items() if p in keys}
        self._delay_of_key = {keys[p]: value for p, value in self.delays.items() if p in keys}

    def update_step(self, gradient: tf.Tensor, variable: Any, learning_rate: tf.Tensor) -> None:
        """Updates one variable, with its own rate."""
        index = self._get_variable_index(variable)
        step = tf.cast(self.iterations + 1, variable.dtype)
        delay = self._delay_of_key.get(self._var_key(variable))
        if delay:
            # Updates that overflowed in float16 are not among the iterations.
            step = tf.maximum(step - delay, 1.0)
        tf.raw_ops.ResourceApplyAdam(
            var=_handle(variable),
            m=_handle(self._momentums[index]),
            v=_handle(self._velocities[index]),
            beta1_power=tf.pow(tf.cast(self.beta_1, variable.dtype), step),
            beta2_power=tf.pow(tf.cast(self.beta_2, variable.dtype), step),
            lr=learning_rate * self._factor_of_key.get(self._var_key(variable), 1.0),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )

    def _all_reduce_sum_gradients(
        self, grads_and_vars: Iterable[tuple[tf.Tensor, Any]]
    ) -> list[tuple[tf.Tensor, Any]]:
        return list(grads_and_vars)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        return {**super().get_config(), "factors": self.factors, "delays": self.delays}


def _handle(variable: Any) -> tf.Tensor:
    """Returns the resource of a Keras or TensorFlow variable, on a replica that replica's."""
    return variable.handle if hasattr(variable, "handle") else variable.value.handle


def make_optimizer(
    loop: LoopSettings,
    model: keras.Model,
    variables: Sequence[Any],
    schedule: keras.optimizers.schedules.LearningRateSchedule,
    half: bool = False,
    frozen: int = 0,
) -> keras.optimizers.Optimizer:
    """Returns the run's optimiser, built on `variables`.

    Adam with Keras' defaults (PAPER: optimiser), and what the flags add to it. In float16 the
    loss is scaled dynamically, so that small gradients do not vanish.

    Args:
        loop: LoopSettings; `learning_rate`, `backbone_learning_rate`, `loss_learning_rate`,
            `weight_decay`.
        model: keras.Model of `fir_tf.models.fir.build_fir`, made in the strategy's scope that
            this is called in.
        variables: list of keras variables to train, of the model and of the losses.
        schedule: learning-rate schedule of the head.
        half: bool, whether the network computes in float16.
        frozen: int, updates before the backbone's first one.

    Returns:
        keras optimizer. It expects gradients that are summed over the replicas.

    Raises:
        FirError: the backbone, the nested network of the model, has a rate or is frozen at first,
            and is not there.
    """
    factors, delays = {}, {}
    if loop.backbone_learning_rate or frozen:
        flag = "backbone_learning_rate" if loop.backbone_learning_rate else "freeze_epochs"
        body = {id(variable) for variable in backbone_of(model, flag).trainable_variables}
        paths = [path_of(variable) for variable in variables if id(variable) in body]
        if loop.backbone_learning_rate:
            factors = dict.fromkeys(paths, loop.backbone_learning_rate / loop.learning_rate)
        delays = dict.fromkeys(paths, frozen)
    if loop.loss_learning_rate:
        network = {id(variable) for variable in model.trainable_variables}
        factor = loop.loss_learning_rate / loop.learning_rate
        factors |= {path_of(v): factor for v in variables if id(v) not in network}
    optimizer = ReducedAdam(
        schedule,
        factors=factors,
        delays=delays,
        weight_decay=loop.weight_decay or None,
        name="adam",
    )
    if loop.weight_decay:
        optimizer.exclude_from_weight_decay(var_names=list(_NO_DECAY))
    if half:
        optimizer = with_loss_scale(optimizer)
    optimizer.build(variables)
    return optimizer
