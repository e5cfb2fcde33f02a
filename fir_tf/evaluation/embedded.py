"""What a network makes of photos, whatever runs it: nothing here needs TensorFlow."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fir_tf.images.file import UnreadableImageError, read
from fir_tf.images.plain import decode_and_fit
from fir_tf.images.window import Boxes, Part
from fir_tf.parallel import ahead

OUTPUTS = ("embedding", "category")
"""The names of what a network puts out."""

Runner = Callable[[Any], Mapping[Any, Any]]
"""Fitted pixels float32 [n, side, side, 3] in [0, 255] -> its `OUTPUTS`, float32; as arrays, or as
what becomes one."""


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


class PlainEmbedder:
    """Embeds photos and files with the preprocessing a network was trained for.

    Args:
        network: Runner.
        image_size: int, side of the network's images in pixels.
        resize: str, how photos are fitted, see `fir_tf.images.decode.fit`.
        crop: "image", or "box" for what crops a catalogue's images to their boxes.
        margin: float, what is added to a box on each side, as a share of its sides.

    Attributes:
        network: Runner.
        crop, margin: as given.
    """

    def __init__(
        self,
        network: Runner,
        image_size: int,
        resize: str,
        crop: str = "image",
        margin: float = 0.0,
    ) -> None:
        self.network, self.crop, self.margin = network, crop, margin
        self._fit = image_size, resize

    def photos(self, contents: Sequence[bytes], boxes: Boxes | None = None) -> Embedded:
        """Embeds photos given as files' contents, or what their boxes hold, all at once."""
        return self._embedded(*self._fitted(contents, boxes))

    def files(
        self, files: Sequence[str], batch_size: int = 64, boxes: Boxes | None = None
    ) -> Iterator[Embedded]:
        """Embeds image files, or what their boxes hold, decoding ahead of the network on all cores.

        Yields:
            Embedded for each batch, in order. A file that is missing or cannot be read, or has no
            area in its box, is not valid.
        """

        def fitted(start: int) -> tuple[np.ndarray, np.ndarray]:
            part = slice(start, start + batch_size)
            own = (boxes[0][part], boxes[1][part]) if boxes else None
            return self._fitted([_contents(file) for file in files[part]], own)

        for pixels, valid in ahead(fitted, range(0, len(files), batch_size)):
            yield self._embedded(pixels, valid)

    def _fitted(
        self, contents: Sequence[bytes], boxes: Boxes | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns (float32 [n, side, side, 3], which of them are photos)."""
        side, resize = self._fit
        pixels = np.zeros((len(contents), side, side, 3), np.float32)
        valid = np.zeros(len(contents), bool)
        for row, photo in enumerate(contents):
            part = Part(boxes[0][row], bool(boxes[1][row]), self.margin) if boxes else None
            try:
                pixels[row] = decode_and_fit(photo, side, resize, part)
            except UnreadableImageError:
                continue
            valid[row] = True
        return pixels, valid

    def _embedded(self, pixels: Any, valid: np.ndarray) -> Embedded:
        outputs, mask = self.network(pixels), valid[:, np.newaxis].astype(np.float32)
        embedding, category = (np.asarray(outputs[name]) * mask for name in OUTPUTS)
        return Embedded(embedding, category, valid)


def _contents(file: str) -> bytes:
    try:
        return read(file)
    except UnreadableImageError:
        return b""
