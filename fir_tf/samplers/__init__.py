"""Which images are in batch number `step`: pure functions of (seed, step).

No sampler holds a shuffled stream. A run resumes at any step exactly, replicas read shares of the
same global batch, and a batch that went wrong can be made again.
"""

from typing import TYPE_CHECKING

from fir_tf.lazy import lazy

if TYPE_CHECKING:
    from fir_tf.samplers.for_fit import PK, Triplets

__all__ = ["PK", "Triplets"]

__getattr__, __dir__ = lazy(__name__, dict.fromkeys(__all__, "fir_tf.samplers.for_fit"))
