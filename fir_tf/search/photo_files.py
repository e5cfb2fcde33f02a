"""A catalogue's photos as files that can be read now, wherever they lie."""

import contextlib
import dataclasses
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from fir_tf.datasets.catalogue import is_address
from fir_tf.errors import FirError
from fir_tf.files import open_file
from fir_tf.options import FetchOptions
from fir_tf.remote.opened import open_photos, photo_folder
from fir_tf.remote.photos import Found, RemotePhotos
from fir_tf.search.cropped import known_contents, with_contents
from fir_tf.search.engines import Record
from fir_tf.search.failures import UNOPENED, Failure
from fir_tf.search.remembered import FileChecksums


@dataclasses.dataclass(frozen=True)
class Seen:
    """A photo as it is now.

    Attributes:
        record: Record with the checksum of its contents, empty where they cannot be had.
        file: Path, to read it from.
        failure: Failure, why it cannot be had, or None.
        found: Found, where it was fetched, to be let go of; None for a local file.
    """

    record: Record
    file: Path
    failure: Failure | None = None
    found: Found | None = None


class PhotoFiles:
    """The photos of a catalogue or an index: files of a folder, and those at addresses.

    What fetches and keeps photos is opened when the first address comes. Methods may be called
    from several threads.

    Args:
        root: Path, the folder that paths are relative to.
        options: FetchOptions.
    """

    def __init__(self, root: Path, options: FetchOptions) -> None:
        self._root, self._options = root, options
        self._lock = threading.Lock()
        self._opened: RemotePhotos | None = None

    @property
    def _remote(self) -> RemotePhotos:
        with self._lock:
            if self._opened is None:
                self._opened = open_photos(self._options)
            return self._opened

    def look(
        self, records: Sequence[Record], before: Mapping[str, Record], max_age: float, again: bool
    ) -> Iterator[list[Seen]]:
        """Finds out what the photos are now: first of all files, then of a few addresses at a time.

        Args:
            records: list of Record.
            before: dict of Record by path, what an index has. What is as it was is not fetched.
            max_age: float, seconds for which a server's answer holds without asking.
            again: bool, whether to read and fetch all, whatever is known of them.

        Yields:
            list of Seen.
        """
        local = [record for record in records if not is_address(record.path)]
        yield self._look_at_files(local, again)
        remote = {record.path: record for record in records if is_address(record.path)}
        if not remote:
            return
        had = {path: known_contents(each, before.get(path)) for path, each in remote.items()}
        bar = {"total": len(remote), "desc": "photos", "unit": "image", "disable": None}
        for found in tqdm(self._remote.look(had, max_age, again), leave=False, **bar):
            yield [_seen(remote[found.address], found)]

    def _look_at_files(self, records: Sequence[Record], again: bool) -> list[Seen]:
        files = [self._root / record.path for record in records]
        bar = {"total": len(files), "desc": "checksums", "unit": "image", "disable": None}
        table = _table(self._options)
        with contextlib.closing(FileChecksums(table, again)) as checksums:
            sums = list(tqdm(checksums.of(files), leave=False, **bar))
        return [
            Seen(
                with_contents(record, total),
                file,
                None if total else Failure(record.path, UNOPENED, why_unopened(file)),
            )
            for record, file, total in zip(records, files, sums, strict=True)
        ]

    def let_go(self, seen: Iterable[Seen]) -> None:
        """Lets the cache have the fetched files of these back."""
        found = [each.found for each in seen if each.found]
        if found:
            self._remote.let_go(found)

    @contextlib.contextmanager
    def pictures(self, paths: Iterable[str]) -> Iterator[dict[str, Path]]:
        """Yields files to show photos from; whatever the cache has of an address is good enough.

        Args:
            paths: iterable of str, as an index's records have them.

        Yields:
            dict of Path by path, for the length of the block. There is no file where a photo
            cannot be had.
        """
        files = {path: self._root / path for path in paths}
        addresses = dict.fromkeys(filter(is_address, files), "")
        found = list(self._remote.look(addresses, float("inf"))) if addresses else []
        try:
            yield files | {each.address: each.file for each in found if each.file}
        finally:
            if found:
                self._remote.let_go(found)

    def close(self) -> None:
        """Ends what is being fetched."""
        if self._opened is not None:
            self._opened.close()

    def __enter__(self) -> "PhotoFiles":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _seen(record: Record, found: Found) -> Seen:
    seen = with_contents(record, found.checksum)
    if found.error:
        return Seen(seen, Path(), Failure(record.path, found.error.kind, found.error.reason))
    return Seen(seen, found.file or Path(), None, found if found.file else None)


def _table(options: FetchOptions) -> Path | None:
    """Returns where checksums of files are remembered; without a home folder they are not."""
    try:
        return photo_folder(options) / "files.sqlite"
    except FirError:
        return None


def why_unopened(path: Path) -> str:
    """Returns why a file cannot be opened, empty where it can."""
    try:
        open_file(path).close()
    # A path that no file can have is a ValueError.
    except (OSError, ValueError) as error:
        return (error.strerror if isinstance(error, OSError) else "") or str(error)
    return ""
