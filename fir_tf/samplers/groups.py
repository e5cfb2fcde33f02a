"""Rows by label."""

import numpy as np
from numpy.typing import ArrayLike

from fir_tf.errors import FirError


class Groups:
    """Rows sorted by label, so that a group is a start and a length.

    Attributes:
        rows: int32 [m], rows of the catalogue with a known label, sorted by label.
        start, length: int32 [groups], each group's place in `rows`.
        group: int32 [m], the group of each of `rows`.
    """

    def __init__(self, labels: np.ndarray, rows: ArrayLike) -> None:
        drawn = np.asarray(rows, np.int32)
        drawn = drawn[labels[drawn] >= 0]
        self.rows = drawn[np.argsort(labels[drawn], kind="stable")]
        _, *places = np.unique(
            labels[self.rows], return_index=True, return_inverse=True, return_counts=True
        )
        self.start, self.group, self.length = (value.astype(np.int32) for value in places)

    def __len__(self) -> int:
        return len(self.length)


def plural(noun: str) -> str:
    """Returns the plural of a label's name."""
    return {"category": "categories"}.get(noun, noun + "s")


def check_groups(groups: Groups, noun: str) -> None:
    """Raises FirError unless a triplet can be formed: a second image of a group, a second group.

    Args:
        groups: Groups.
        noun: str, what a group is.
    """
    if len(groups) < 2:
        raise FirError(
            f"a triplet needs images of at least 2 {plural(noun)}. Received: {len(groups)}"
        )
    if not (groups.length > 1).any():
        raise FirError(
            f"a triplet needs two images of one {noun}; each of the {len(groups)} "
            f"{plural(noun)} has one. Give more photos of a {noun}, or train with --losses=OC"
        )
