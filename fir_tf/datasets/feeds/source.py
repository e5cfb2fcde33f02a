"""The file of a feed or a table: unpacked, decoded, its lines of a bounded length."""

import codecs
import contextlib
import dataclasses
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO

from tqdm import tqdm

from fir_tf.datasets.walk import image_kind
from fir_tf.errors import FirError
from fir_tf.files import open_file

# Letters of a line, and bytes that a format is told by.
_LINE_MAX, _HEAD = 1 << 20, 1 << 16
# Seconds before a progress bar appears.
_PATIENCE = 3
_GZIP = b"\x1f\x8b"
# What begins so: what it is, and what to do.
_OTHERS = {
    b"PK\x03\x04": ("a ZIP file or an Excel workbook", "Unpack it, or save the sheet as CSV"),
    b"PK\x05\x06": ("an empty ZIP file", "Give the feed itself"),
    b"BZh": ("packed by bzip2", "Unpack it, or pack it by gzip"),
    b"\xfd7zXZ\0": ("packed by xz", "Unpack it, or pack it by gzip"),
    b"\x28\xb5\x2f\xfd": ("packed by zstd", "Unpack it, or pack it by gzip"),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", "Unpack it"),
    b"Rar!\x1a\x07": ("a RAR archive", "Unpack it"),
    b"\xd0\xcf\x11\xe0": ("an old Excel or Office file", "Save the sheet as CSV"),
    b"%PDF-": ("a PDF", "Give the feed itself"),
}
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class _Counted(io.RawIOBase):
    """A file that tells a progress bar how much of it was read."""

    def __init__(self, file: BinaryIO, bar: Any) -> None:
        self._file, self._bar = file, bar

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part = self._file.read(len(buffer))
        buffer[: len(part)] = part
        self._bar.update(len(part))
        return len(part)


@dataclasses.dataclass(frozen=True)
class Source:
    """A file of rows.

    Attributes:
        path: Path.
        packed: bool, whether it is gzip by its contents, whatever its name.
        encoding: str, that its byte-order mark tells; UTF-8 without one.
        head: str, what it begins with, for telling its format.
    """

    path: Path
    packed: bool
    encoding: str
    head: str

    @contextlib.contextmanager
    def bytes(self) -> Iterator[IO[bytes]]:
        """Yields the file's bytes, unpacked where it is gzip; with a progress bar if it takes long.

        Raises:
            FirError: it is damaged, or cannot be opened.
        """
        with _told(self.path), open_file(self.path) as file:
            size = self.path.stat().st_size
            bar = tqdm(
                total=size,
                desc=f"reading {self.path.name}",
                unit="B",
                unit_scale=True,
                delay=_PATIENCE,
                disable=None,
                leave=False,
            )
            with bar:
                yield _unpacked(io.BufferedReader(_Counted(file, bar), _HEAD), self.packed)

    def lines(self) -> Iterator[str]:
        """Yields the lines with their ends, as `csv.reader` takes them.

        Raises:
            FirError: naming the line that is no text, or too long.
        """
        number = 0
        try:
            with self.bytes() as file:
                text = io.TextIOWrapper(file, encoding=self.encoding, newline="")
                while line := text.readline(_LINE_MAX):
                    number += 1
                    if len(line) == _LINE_MAX:
                        raise FirError(
                            f"{self.path}:{number}: a line must be shorter than {_LINE_MAX:,} "
                            "letters. Is this a table or a feed?"
                        )
                    if "\0" in line:
                        raise FirError(
                            f"{self.path}:{number}: there is a zero byte. Save the file as UTF-8"
                        )
                    yield line
        except UnicodeDecodeError as error:
            raise self._no_text(error) from error

    def _no_text(self, error: UnicodeDecodeError) -> FirError:
        """Returns the FirError of a file in another encoding than it should be."""
        place = str(self.path)
        if self.encoding.startswith("utf-8"):
            # Text is decoded ahead of its lines: which one it is, the bytes tell.
            with self.bytes() as file:
                for number, line in enumerate(iter(lambda: file.readline(_LINE_MAX), b""), 1):
                    try:
                        line.decode()
                    except UnicodeDecodeError as found:
                        place, error = f"{self.path}:{number}", found
                        break
        return FirError(
            f"{place} must be text in UTF-8. Received: {error}. Save it anew; spreadsheets call it "
            '"CSV UTF-8"'
        )


def open_source(path: Path) -> Source:
    """Looks at the beginning of a file of rows.

    Raises:
        FirError: it cannot be opened, is empty, an image, packed in another way than gzip, or a
            web page.
    """
    with _told(path), open_file(path) as file:
        packed = file.read(len(_GZIP)) == _GZIP
        file.seek(0)
        start = _unpacked(file, packed).read(_HEAD)
    if not start.strip(b"\xef\xbb\xbf\xff\xfe \t\r\n\0"):
        raise FirError(f"{path} is empty: it has no rows and no header")
    if image_kind(start[:26]):
        raise FirError(
            f"{path} is an image, no table. Give the folder it lies in, or a table of images"
        )
    for mark, (what, advice) in _OTHERS.items():
        if start.startswith(mark):
            raise FirError(f"{path} is {what}, which is not read. {advice}; .gz is read")
    encoding = next((name for mark, name in _MARKS if start.startswith(mark)), "utf-8")
    head = start.decode(encoding, errors="replace").lstrip("\ufeff")
    if head.lstrip()[:14].lower().startswith(("<!doctype html", "<html")):
        raise FirError(
            f"{path}:1: this is a web page (HTML), no feed. Was it downloaded without a login, or "
            "from a wrong address? Download the feed again"
        )
    return Source(path, packed, encoding, head)


def _unpacked(file: Any, packed: bool) -> IO[bytes]:
    found: Any = gzip.GzipFile(fileobj=file) if packed else file
    return found


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turns what a damaged or forbidden file raises into a FirError."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise FirError(
            f"{path} is gzip and damaged or cut off. Received: {error}. Download it again"
        ) from error
    except OSError as error:
        raise FirError(f"{path} cannot be read: {error.strerror or error}") from error
