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
        source: str, the image file; of an address empty where it is not needed or not to be had.
        target: str, the copy.
        max_side, quality: int, see `convert`.
        known: the journal's entry of the source, None without one.
        address: str, where the image is fetched from; empty for a file.
        contents: str, what tells the image that the address leads to from others; empty where it
            cannot be had.
        fault: str, why it cannot be had.
    """

    source: str
    target: str
    max_side: int
    quality: int
    known: Entry | None
    address: str = ""
    contents: str = ""
    fault: str = ""

    def is_there(self) -> bool:
        """Returns whether the copy is what the journal says, or there can be none."""
        if not self.known or "error" in self.known:
            return bool(self.known)
        try:
            with open(self.target, "rb") as file:
                return sha256(file.read()) == self.known["sha256"]
        except OSError:
            return False

    def is_up_to_date(self) -> bool:
        """Returns whether nothing is to be done if the address leads to what it led to before."""
        known = self.known or {}
        return "contents" in known and "outdated" not in known and self.is_there()

    def read(self) -> bytes:
        """Returns the image file's bytes, or raises UnreadableImageError."""
        if self.fault:
            raise UnreadableImageError("missing", self.fault)
        return read(self.source)

    def without_copy(self, reason: str, digest: str = "") -> Entry:
        """Returns the entry of an image that cannot be read, or whose earlier copy stays.

        Args:
            reason: str.
            digest: str, of the file, empty where there is none.
        """
        known = self.known or {}
        # The share or the server may be down: a copy is no reason to believe that its source is
        # gone. A server in trouble may also send anything.
        if (self.address or not digest) and "error" not in known and self.is_there():
            return known | {"done": False, "held": reason}
        found = {"contents": self.contents} if self.address and digest else {}
        return {"source_sha256": digest, "error": reason, **found, "done": False}

    def origin(self, contents: bytes) -> Entry:
        """Returns what an entry keeps of an image at an address, which is not read again."""
        if not self.address:
            return {}
        return {"contents": self.contents, "source_sides": upright_sides(contents)}


def upright_sides(contents: bytes) -> list[int] | None:
    """Returns width and height of an image file as it is seen, None where they are unknown."""
    try:
        with opened(contents) as (_, header):
            sides = [header.width, header.height]
    except UnreadableImageError:
        return None
    return sides[::-1] if header.orientation >= 5 else sides


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
    if task.contents and not task.source:
        return known | {"done": False}
    try:
        contents = task.read()
    except UnreadableImageError as error:
        return task.without_copy(error.reason)
    digest = sha256(contents)
    up_to_date = known.get("source_sha256") == digest and not known.get("outdated")
    if up_to_date and task.is_there():
        return known | {"done": False}
    try:
        copy, width, height = convert(contents, task.max_side, task.quality)
    except UnreadableImageError as error:
        return task.without_copy(error.reason, digest)
    with replacing(task.target) as temporary:
        temporary.write_bytes(copy)
    size = {"width": width, "height": height, **task.origin(contents)}
    return {"source_sha256": digest, "sha256": sha256(copy), **size, "done": True}
