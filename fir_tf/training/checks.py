"""What ends a run early: numbers that are no numbers, and embeddings that are all the same."""

import math
from collections.abc import Mapping

from fir_tf.errors import FirError

_COLLAPSED_DISTANCE = 1e-4
_PATIENCE = 5


class Health:
    """Watches the log's entries and stops a run that cannot recover.

    Args:
        learning_rate: float, for the advice.
    """

    def __init__(self, learning_rate: float) -> None:
        self._learning_rate = learning_rate
        self._collapsed = 0

    def check(self, step: int, values: Mapping[str, float]) -> None:
        """Looks at one entry of the log.

        Args:
            step: int.
            values: {name: float}.

        Raises:
            FirError: if a value is NaN or infinite, or if for several entries in a row the
                embeddings of different items have all been the same point.
        """
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            raise FirError(
                f"training stopped at step {step}: {', '.join(bad)} is {values[bad[0]]}. "
                f"Try a lower --learning_rate (now {self._learning_rate:g}), "
                "--batch_norm=frozen, or look for broken images; the last checkpoint is kept"
            )
        far = values.get("negative_distance")
        stuck = far is not None and far < _COLLAPSED_DISTANCE and values["active"] > 0.99
        self._collapsed = self._collapsed + 1 if stuck else 0
        if self._collapsed >= _PATIENCE:
            raise FirError(
                f"training stopped at step {step}: the embeddings have collapsed (mean squared "
                f"distance between different items {far:.1e}, every triplet at the margin). "
                "Try --triplets=all or semihard, a lower "
                f"--learning_rate (now {self._learning_rate:g}), pretrained --weights, "
                "or a larger --alpha"
            )
