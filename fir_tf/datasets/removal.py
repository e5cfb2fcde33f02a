"""How much that is listed no more may be removed unasked, of an index and of a copy alike."""

from collections.abc import Sequence

from fir_tf.datasets.walk import listed
from fir_tf.errors import FirError


def check_removal(
    gone: Sequence[str], count: int, max_removed: float, what: str, source: str
) -> None:
    """Raises FirError if too much would be removed: a share that is not mounted looks like that.

    Args:
        gone: sequence of str, the paths that are listed no more.
        count: int, how many there are with them.
        max_removed: float in [0, 1], the largest share that may go.
        what: str, what they are removed from, such as "the copy".
        source: str, where they are not listed any more.
    """
    if len(gone) <= max_removed * count:
        return
    raise FirError(
        f"{len(gone):,} of the {count:,} images of {what} are not in {source} any more, over "
        f"--max_removed={max_removed:g} of them: {listed(gone, 'image', 'images')}. Is {source} "
        "whole and in its place? Nothing was changed. --remove takes them out"
    )
