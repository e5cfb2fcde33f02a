"""Which files below a folder are photos: the one rule for training, check, prepare and the index.

A photo is a file whose name ends as JPEG, PNG, GIF and BMP files do, or that begins as one does,
whatever its name. Hidden and system folders and files are skipped. Everything that is skipped is
counted (`Found.notes`); what cannot be looked at is told apart from what is not there
(`Found.unreachable`).
"""

import collections
import contextlib
import dataclasses
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from fir_tf.errors import FirError

_PHOTO_ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".png", ".gif", ".bmp", ".dib")
# Images too, which training cannot read; `python -m fir_tf.datasets prepare` converts them.
_OTHER_ENDINGS = (".webp", ".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2", ".j2k", ".jpx")
_SYSTEM_NAMES = frozenset(
    {
        "__macosx",
        "__pycache__",
        "@eadir",
        "@recycle",
        "@tmp",
        "#recycle",
        "#snapshot",
        "$recycle.bin",
        "recycler",
        "system volume information",
        "lost+found",
        "thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
        "icon\r",
    }
)
# As many endings are counted one by one.
_ENDINGS = 6
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"mif1", b"msf1", b"avif", b"avis")

PHOTO, OTHER = "photo", "other"
# Why a path is skipped.
NO_IMAGE, HIDDEN = "that are no images", "hidden or of the system"
SPECIAL, LINK = "that are neither files nor folders", "links to folders that are read already"


def unreachable(path: str | Path, error: OSError) -> str:
    """Returns why a file or folder cannot be looked at, as text."""
    return f"{path}: {error.strerror or error}"


def existing_folder(data_dir: str | Path) -> Path:
    """Returns `data_dir` as a Path; FirError if it is empty, no folder, or cannot be reached."""
    if not str(data_dir):
        raise FirError("`data_dir` must name the folder of the data set. Received: ''")
    try:
        there = stat.S_ISDIR(os.stat(data_dir).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        there = False
    except (OSError, ValueError) as error:
        raise FirError(
            f"`data_dir` must be a folder that can be reached. Received: {data_dir} ({error})"
        ) from error
    if not there:
        raise FirError(
            f"`data_dir` must be an existing folder. Received: {data_dir} (there is no such folder)"
        )
    return Path(data_dir)


def subfolders(folder: Path) -> list[Path]:
    """Returns the folders in a folder, in order of their names; FirError if it cannot be listed."""
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError as error:
        raise FirError(f"the folder cannot be listed: {unreachable(folder, error)}") from error


def image_kind(start: bytes) -> str:
    """Tells an image by the first 26 bytes of its file.

    Returns:
        `PHOTO` for JPEG, PNG, GIF and BMP, which training reads; `OTHER` for WebP, TIFF, HEIC,
        AVIF and JPEG 2000, which `prepare` converts; empty for anything else.
    """
    if start.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a")):
        return PHOTO
    # Two letters alone may begin a text. Behind them: size, four zeros, offset, header's size.
    if start[:2] == b"BM" and start[6:10] == bytes(4) and start[14:18] in _BMP_HEADERS:
        return PHOTO
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return OTHER
    if start[4:8] == b"ftyp" and start[8:12] in _HEIF_BRANDS:
        return OTHER
    if start.startswith((b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")):
        return OTHER
    return ""


_BMP_HEADERS = {size.to_bytes(4, "little") for size in (12, 40, 52, 56, 64, 108, 124)}


@dataclasses.dataclass
class Found:
    """What is below a folder.

    Attributes:
        root: Path.
        photos: list of str, relative to `root` with forward slashes: the files of a folder in
            order of their names, then those of its subfolders.
        others: list of str, images that training cannot read but `prepare` can.
        by_contents: list of str, those of `photos` that their endings would not have told.
        skipped: dict of list of str, by reason, what is no photo.
        unreachable: dict of str by path, folders that cannot be listed and files that cannot be
            opened, and why. What lies there is unknown: it is not gone.
    """

    root: Path
    photos: list[str] = dataclasses.field(default_factory=list)
    others: list[str] = dataclasses.field(default_factory=list)
    by_contents: list[str] = dataclasses.field(default_factory=list)
    skipped: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    unreachable: dict[str, str] = dataclasses.field(default_factory=dict)

    def skip(self, reason: str, path: str) -> None:
        """Notes a path that is left out."""
        self.skipped.setdefault(reason, []).append(path)

    def notes(self, with_others: bool = False) -> tuple[str, ...]:
        """Returns what a person should know of the folder, a line each.

        Args:
            with_others: bool, whether `others` are taken too.
        """
        parts, others = [], _counted(self.others)
        if others and not with_others:
            how = "`python -m fir_tf.datasets prepare` converts them"
            parts.append(f"{others} ({how}; the first: {printable(self.others[0])})")
        for reason in (NO_IMAGE, HIDDEN, SPECIAL, LINK):
            paths = self.skipped.get(reason)
            if not paths:
                continue
            counted = _counted(paths) if reason == NO_IMAGE else f"{len(paths):,}"
            parts.append(f"{counted} {reason} (the first: {printable(paths[0])})")
        lines = [f"skipped in {self.root}: {'; '.join(parts)}"] if parts else []
        if others and with_others:
            lines.append(f"note: {others} in {self.root} are taken here; training skips them")
        if self.by_contents:
            lines.append(
                f"note: photos by their first bytes, not by their endings, in {self.root}: "
                f"{_counted(self.by_contents)} (the first: {printable(self.by_contents[0])})"
            )
        return tuple(lines)

    def check_names(self) -> None:
        """Raises FirError if the name of an image is not UTF-8: no table could hold it."""
        images = [*self.photos, *self.others]
        try:
            "".join(images).encode()
        except UnicodeEncodeError:
            bad = [path for path in images if not _is_utf8(path)]
            raise FirError(
                f"{self.root}: file names must be UTF-8. Received: {bad[0]!r}"
                f"{f' and {len(bad) - 1:,} more' if len(bad) > 1 else ''}. Rename them"
            ) from None

    def check_reachable(self) -> None:
        """Raises FirError if there is anything below the folder that cannot be looked at."""
        if self.unreachable:
            raise FirError(
                f"{listed(self.unreachable.values(), 'file or folder', 'files or folders')} cannot "
                "be read. What is in there is unknown, so nothing is done without it. Make it "
                "readable, or move it out"
            )


def printable(text: str) -> str:
    """Returns a name as it may stand in a line on a screen: one with line ends is quoted."""
    return text if text.isprintable() else repr(text)


def listed(names: Iterable[str], one: str, many: str, most: int = 5) -> str:
    """Returns "2 files (a.jpg, b.jpg)", of more than `most` names the first."""
    names = [printable(name) for name in names]
    more = ", ..." if len(names) > most else ""
    return f"{len(names):,} {one if len(names) == 1 else many} ({', '.join(names[:most])}{more})"


def _counted(paths: Iterable[str]) -> str:
    """Returns "24 .webp, 2 without an ending"."""
    count = collections.Counter(os.path.splitext(path)[1].lower() for path in paths)
    order = sorted(count, key=lambda ending: (-count[ending], ending))
    first, last = order[:_ENDINGS], order[_ENDINGS:]
    parts = [f"{count[name]:,} {printable(name) or 'without an ending'}" for name in first]
    rest = sum(count[name] for name in last)
    return ", ".join([*parts, *([f"{rest:,} of other endings"] if rest else [])])


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def find_photos(data_dir: str | Path) -> Found:
    """Looks through a folder and all below it. See the module for the rule.

    Links to folders are followed after the folders themselves, each folder is read once, and a
    link to a folder that it lies in is not followed. So the result does not depend on the order
    in which a file system lists its names, and a loop of links ends.

    Args:
        data_dir: str or Path.

    Returns:
        Found. The caller decides about what is unreachable, see `Found.check_reachable`.

    Raises:
        FirError: `data_dir` is no folder, cannot be listed, or holds an image whose name is not
            UTF-8.
    """
    found = Found(existing_folder(data_dir))
    try:
        os.scandir(found.root).close()
    except OSError as error:
        raise FirError(f"`data_dir` cannot be listed: {unreachable(found.root, error)}") from error
    walk = _Walk(found)
    walk.read("", linked=False)
    while walk.links:
        walk.follow(walk.links.popleft())
    for paths in (found.photos, found.others, found.by_contents, *found.skipped.values()):
        paths.sort(key=place)
    found.unreachable = dict(sorted(found.unreachable.items()))
    found.check_names()
    return found


def place(path: str) -> tuple[list[str], str]:
    """Returns what sorts paths: the files of a folder first, then those of its subfolders."""
    folder, _, name = path.rpartition("/")
    return folder.split("/") if folder else [], name


class _Walk:
    """The state of `find_photos`: which folders were read, which links are to be followed."""

    def __init__(self, found: Found) -> None:
        self.found = found
        self.seen: set[tuple[int, int] | str] = set()
        self.links: collections.deque[str] = collections.deque()

    def read(self, folder: str, linked: bool) -> None:
        """Reads a folder and all below it, but for what links lead to."""
        waiting, links = [folder], list[str]()
        while waiting:
            folder = waiting.pop()
            path = os.path.join(self.found.root, folder)
            try:
                key = _identity(path)
                # Only a link leads to a folder twice; ids may repeat on a network's file system.
                if linked and key in self.seen:
                    self.found.skip(LINK, folder)
                    continue
                self.seen.add(key)
                with os.scandir(path) as entries:
                    for entry in sorted(entries, key=lambda entry: entry.name):
                        name = f"{folder}/{entry.name}" if folder else entry.name
                        self._take(entry, name, waiting, links)
            except OSError as error:
                self.found.unreachable[folder] = unreachable(path, error)
        self.links.extend(sorted(links))

    def follow(self, link: str) -> None:
        """Reads the folder a link leads to, unless it was read or the link lies in it."""
        target = os.path.join(self.found.root, link)
        try:
            known = _identity(target) in self.seen
        except OSError as error:
            self.found.unreachable[link] = unreachable(target, error)
            return
        real = os.path.realpath(target)
        above = os.path.realpath(os.path.dirname(target))
        if known or os.path.commonpath([real, above]) == real:
            self.found.skip(LINK, link)
        else:
            self.read(link, linked=True)

    def _take(
        self, entry: os.DirEntry[str], path: str, waiting: list[str], links: list[str]
    ) -> None:
        if entry.name.startswith(".") or entry.name.lower() in _SYSTEM_NAMES:
            self._count_hidden(entry, path)
            return
        try:
            mode = entry.stat().st_mode
        except OSError as error:
            # A link that leads nowhere, perhaps to a share that is offline.
            if _ending_kind(entry.name) and not isinstance(error, PermissionError):
                self._take_image(_ending_kind(entry.name), path)
            else:
                self.found.unreachable[path] = unreachable(entry.path, error)
            return
        if stat.S_ISDIR(mode):
            (links if entry.is_symlink() else waiting).append(path)
        elif stat.S_ISREG(mode):
            self._take_file(entry, path)
        else:
            # To open a pipe would wait for ever.
            self.found.skip(SPECIAL, path)

    def _take_file(self, entry: os.DirEntry[str], path: str) -> None:
        by_name = _ending_kind(entry.name)
        if by_name == PHOTO:
            self._take_image(PHOTO, path)
            return
        try:
            with open(entry.path, "rb") as file:
                kind = image_kind(file.read(26)) or by_name
        except OSError as error:
            self.found.unreachable[path] = unreachable(entry.path, error)
            return
        if kind == PHOTO:
            self.found.by_contents.append(path)
        self._take_image(kind, path)

    def _take_image(self, kind: str, path: str) -> None:
        if kind == PHOTO:
            self.found.photos.append(path)
        elif kind == OTHER:
            self.found.others.append(path)
        else:
            self.found.skip(NO_IMAGE, path)

    def _count_hidden(self, entry: os.DirEntry[str], path: str) -> None:
        if not entry.is_dir(follow_symlinks=False):
            self.found.skip(HIDDEN, path)
            return
        # Nothing in there is wanted: what cannot be listed is no loss. Its folders count as one
        # each, for a file server's snapshots may hold the whole share many times.
        with contextlib.suppress(OSError):
            for name in sorted(os.listdir(entry.path)):
                self.found.skip(HIDDEN, os.path.join(path, name))


def _ending_kind(name: str) -> str:
    name = name.lower()
    if name.endswith(_PHOTO_ENDINGS):
        return PHOTO
    return OTHER if name.endswith(_OTHER_ENDINGS) else ""


def _identity(path: str) -> tuple[int, int] | str:
    """Returns what a folder is known by, through whatever link."""
    status = os.stat(path)
    # Some network file systems number nothing.
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)
