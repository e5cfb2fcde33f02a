"""Garments of uploaded photos, for the page to offer each of them."""

import logging

import anyio.to_thread
import numpy as np

from fir_tf.errors import FirError
from fir_tf.images.file import UnreadableImageError
from fir_tf.images.picture import see
from fir_tf.locate import Garment, Locator, cut, open_locator, own_locator, png
from fir_tf.locate.room import is_whole
from fir_tf.search.index import Index
from fir_tf.search.web import told
from fir_tf.search_options import NO_LOCATOR

log = logging.getLogger(__package__)

# Longest side in pixels of what garments are cut from, the one that the page sends: the cuts of a
# larger photo would take much memory, and the model sees less of them.
_LONGEST = 1600
# The score, as a share of the surest garment's, that a garment needs to be offered.
_OUTLINED = 0.3


def opened_locator(text: str, index: Index) -> Locator | None:
    """Opens what `--locator` names; where it names nothing, what the index's model has itself.

    Args:
        text: str, see `fir_tf.locate.open_locator`; empty for the model's own, `NO_LOCATOR` for
            none.
        index: Index.

    Returns:
        Locator or None. That a model has none of its own is a note.

    Raises:
        FirError: what is named cannot be opened.
    """
    if text == NO_LOCATOR:
        return None
    if text:
        return open_locator(text, index.encoder.model)
    try:
        return own_locator(index.encoder.model)
    except FirError as error:
        log.warning(f"note: the page offers no garments of a photo: {error}")
        return None


class Finder:
    """Cuts the garments out of photos, one photo at a time: a locator uses all cores.

    Args:
        locate: Locator; None finds nothing.
    """

    def __init__(self, locate: Locator | None) -> None:
        self._locate = locate
        self._turn = anyio.CapacityLimiter(1)

    def warm(self, contents: bytes) -> None:
        """Looks at a photo, so that no request waits for what is made once."""
        if self._locate:
            self._locate([contents])

    async def find(self, contents: bytes) -> tuple[list[tuple[Garment, bytes]], bool]:
        """Returns the garments of a photo that can be read, the surest first, each with its cut.

        One that is the whole photo is none of them: that can be chosen anyway. Where the surest is
        that, and one other lies in it, both are the same garment, and there is none to choose. Nor
        is one of them with less than .3 of the surest one's score.

        Args:
            contents: bytes, an image file as the model reads it.

        Returns:
            (list of (Garment, bytes: a PNG file of it with some room around), bool: whether the
            surest of all is the whole photo).
        """
        if not self._locate:
            return [], False
        return await anyio.to_thread.run_sync(self._find, contents, limiter=self._turn)

    def _find(self, contents: bytes) -> tuple[list[tuple[Garment, bytes]], bool]:
        assert self._locate
        with told.stage("locate"):
            (garments,) = self._locate([contents])
            try:
                image = see(contents, _LONGEST).image
            # Whoever embeds it refuses it.
            except UnreadableImageError:
                return [], False
            boxes = np.array([garment.box for garment in garments], np.float32).reshape(-1, 4)
            whole = is_whole(boxes, np.array(image.size, np.float32)).numpy().tolist()
            # Of less evidence there are mostly pieces of what is outlined already.
            least = _OUTLINED * max((one.score for one in garments), default=0.0)
            parts = [
                one
                for one, same in zip(garments, whole, strict=True)
                if not same and one.score >= least
            ]
            first = whole[:1] == [True]
            if first and len(parts) == 1:
                parts = []
            return [(part, png(cut(image, part.box))) for part in parts], first


def cut_out(contents: bytes, garment: Garment) -> bytes:
    """Returns a PNG file of a garment with some room around, out of a photo's contents.

    Raises:
        UnreadableImageError: the photo cannot be read.
    """
    return png(cut(see(contents, _LONGEST).image, garment.box))
