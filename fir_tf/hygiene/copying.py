"""One image -> its training copy."""

import contextlib
import dataclasses
import hashlib
from typing import Any

from fir_tf.files import replacing
from fir_tf.images.file import UnreadableImageError, opened, read
from fir_tf.images.picture import see_or_convert

Entry = dict[str, Any]
"""What the journal has of an image, see `convert_file`; its settings alike."""


def convert(contents: bytes, max_side: int, quality: int) -> tuple[bytes, int, int]:
    """Makes the training copy of one image: the picture that training sees in the original.

    A JPEG that is upright, of three colours and small enough already is passed on as it is:
    encoding it again would only lose detail.

    Args:
        contents: bytes, the image file.
        max_side: int, bound of the longest side in pixels; smaller images are not enlarged.
        quality: int, of JPEG, 1 to 100.

    Returns:
        (bytes of a JPEG, its width, its height).

    Raises:
        UnreadableImageError: if it cannot be decoded whole.
    """
    picture, fault = see_or_convert(contents, max_side)
    sides = (picture.width, picture.height)
    if not fault and picture.orientation == 1 and max(sides) <= max_side and _is_plain(contents):
        return contents, *sides
    copy = picture.jpeg(quality=quality, subsampling="4:2:0", optimize=True)
    return copy, *picture.image.size


def _is_plain(contents: bytes) -> bool:
    """Returns whether a file is one RGB JPEG and nothing else."""
    with contextlib.suppress(UnreadableImageError), opened(contents) as (_, header):
        return header.single and header.mode == "RGB"
    return False


def sha256(contents: bytes) -> str:
    """Returns the digest that the table of a copy has, in hex."""
    return hashlib.sha256(contents).hexdigest()


@dataclasses.dataclass(frozen=True)
class Task:
    """One copy that is wanted.

    Attributes:
        source: str, the image file.
        target: str, the copy.
        max_side, quality: int, see `convert`.
        known: the journal's entry of the source, None without one.
    """

    source: str
    target: str
    max_side: int
    quality: int
    known: Entry | None

    def is_there(self) -> bool:
        """Returns whether the copy is what the journal says, or there can be none."""
        if not self.known or "error" in self.known:
            return bool(self.known)
        try:
            with open(self.target, "rb") as file:
                return sha256(file.read()) == self.known["sha256"]
        except OSError:
            return False


def convert_file(task: Task) -> Entry:
    """Makes one copy, unless it is there already.

    Args:
        task: Task.

    Returns:
        dict, the entry for the journal without the path: `source_sha256` with `sha256`, `width`
        and `height`, or with `error`; `done`, whether anything was written; and `held`, why the
        source cannot be read now, where an earlier copy stays for that reason.

    Raises:
        OSError: if the copy cannot be written.
    """
    known = task.known or {}
    try:
        contents = read(task.source)
    except UnreadableImageError as error:
        # The share may be offline: a copy is no reason to believe that its source is gone.
        if "error" not in known and task.is_there():
            return known | {"done": False, "held": error.reason}
        return {"source_sha256": "", "error": error.reason, "done": False}
    digest = sha256(contents)
    up_to_date = known.get("source_sha256") == digest and not known.get("outdated")
    if up_to_date and task.is_there():
        return known | {"done": False}
    try:
        copy, width, height = convert(contents, task.max_side, task.quality)
    except UnreadableImageError as error:
        return {"source_sha256": digest, "error": error.reason, "done": False}
    with replacing(task.target) as temporary:
        temporary.write_bytes(copy)
    size = {"width": width, "height": height}
    return {"source_sha256": digest, "sha256": sha256(copy), **size, "done": True}
