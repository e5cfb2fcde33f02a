"""What a network makes of photos."""

import dataclasses

import numpy as np

OUTPUTS = ("embedding", "category")
"""The names of what a network puts out."""


@dataclasses.dataclass(frozen=True)
class Embedded:
    """What a network makes of photos, row by row.

    Attributes:
        embedding: float32 [n, d], unit length; zeros where not valid.
        category: float32 [n, categories], softmax scores; zeros where not valid.
        valid: bool [n], whether the photo could be read.
    """

    embedding: np.ndarray
    category: np.ndarray
    valid: np.ndarray


def masked(outputs: dict[str, np.ndarray], valid: np.ndarray) -> Embedded:
    """Returns a network's outputs, float32 [n, ...] by name, with zeros where not `valid`."""
    embedding, category = (
        outputs[name] * valid[:, np.newaxis].astype(np.float32) for name in OUTPUTS
    )
    return Embedded(embedding, category, valid)
