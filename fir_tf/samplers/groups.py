"""Rows by label."""

import numpy as np

from fir_tf.errors import FirError


class Groups:
    """Rows sorted by label, so that a group is a start and a length.

    Attributes:
        rows: int32 [m], rows of the catalogue with a known label, sorted by label.
        start, length: int32 [groups], each group's place in `rows`.
        group: int32 [m], the group of each of `rows`.
    """

    def __init__(self, labels, rows):
        rows = np.asarray(rows)[labels[rows] >= 0]
        order = np.argsort(labels[rows], kind="stable")
        self.rows = rows[order].astype(np.int32)
        _, self.start, self.group, self.length = np.unique(
            labels[self.rows], return_index=True, return_inverse=True, return_counts=True
        )
        self.start, self.group, self.length = (
            value.astype(np.int32) for value in (self.start, self.group, self.length)
        )

    def __len__(self):
        return len(self.length)


def plural(noun):
    """Returns the plural of a label's name."""
    return {"category": "categories"}.get(noun, noun + "s")


def check_groups(groups, noun):
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
