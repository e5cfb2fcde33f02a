"""The photos to index: a folder, a table or a benchmark's layout -> records."""

import dataclasses
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from fir_tf.datasets.catalogue import SPLITS, Catalogue, is_address
from fir_tf.datasets.folder import labels_of
from fir_tf.datasets.labels import composed
from fir_tf.datasets.loading import layout_of, load_unchecked
from fir_tf.datasets.walk import NO_IMAGE, SPECIAL, find_photos
from fir_tf.errors import FirError
from fir_tf.search.columns import check_names, plain_metadata
from fir_tf.search.cropped import with_box
from fir_tf.search.engines import Record
from fir_tf.search.engines.base import DOMAIN_NAMES


@dataclasses.dataclass(frozen=True)
class Listing:
    """The photos to index.

    Attributes:
        root: Path, the folder their paths are relative to.
        records: list of Record; the checksums are empty, labels as far as known.
        notes: tuple of str, what a person should know of the catalogue, a line each.
        unreachable: dict of str by path, folders and files that cannot be looked at, and why.
            What lies there is unknown: it is not gone.
        unread: frozenset of str, files that are there, but are no photos that can be read.
        lines: dict of int by path, the line of a photo in its table or feed.
        boxes: dict of (float32 [4], bool) by path, those of the photos that have one, and whether
            in shares, see `Catalogue`.
        walked: bool, whether all that is in the folder is listed; otherwise what a file names.
    """

    root: Path
    records: list[Record]
    notes: tuple[str, ...] = ()
    unreachable: dict[str, str] = dataclasses.field(default_factory=dict)
    unread: frozenset[str] = frozenset()
    lines: dict[str, int] = dataclasses.field(default_factory=dict)
    boxes: dict[str, tuple[np.ndarray, bool]] = dataclasses.field(default_factory=dict)
    walked: bool = False

    def cropped(self) -> "Listing":
        """Returns the Listing whose records bear the boxes that their photos are cropped to."""
        notes = self.notes
        if not self.boxes:
            notes += ("note: there are no boxes to crop to: the photos are taken whole",)
        records = [
            with_box(record, *self.boxes[record.path]) if record.path in self.boxes else record
            for record in self.records
        ]
        return dataclasses.replace(self, records=records, notes=notes)

    @property
    def addresses(self) -> int:
        """How many of the photos are at addresses."""
        return sum(is_address(record.path) for record in self.records)

    def gone(self, paths: Iterable[str]) -> list[str]:
        """Returns those of an index's paths that are not listed, where they could be looked up."""
        own = {record.path for record in self.records}
        paths = [path for path in paths if path not in own and not self.out_of_reach(path)]
        if not paths:
            return []
        # Which blanks and Unicode form a table's path means, its file tells while it is there.
        forms = {composed(path).strip(): path for path in own}
        same = [forms.get(composed(path).strip()) for path in paths]
        return [
            path
            for path, other in zip(paths, same, strict=True)
            if other is None or is_address(other) or os.path.lexists(self.root / other)
        ]

    def out_of_reach(self, path: str) -> bool:
        """Whether a path may be there, although it cannot be read, or looked at in its folder."""
        if path in self.unread:
            return True
        while path and path not in self.unreachable:
            path = path.rpartition("/")[0]
        return path in self.unreachable


def read_catalogue(
    images: str | Path, dataset: str = "", split: str = "", columns: str = ""
) -> Listing:
    """Lists the photos to index.

    Args:
        images: str or Path, a folder, a table or a feed.
        dataset: str, a benchmark's layout (a registered data set's name); empty for a table, a
            feed or photos in folders of any depth, see `fir_tf.datasets.folder.labels_of`.
        split: str, parts to take, separated by commas; empty for all.
        columns: str, other names for a file's columns, see `fir_tf.datasets.loading.load`.

    Returns:
        Listing.

    Raises:
        FirError: there is no photo, an unknown split, or anything the loader objects to.
    """
    if dataset or os.path.isfile(images):
        # Files that are missing are listed with those that cannot be read.
        name = dataset or layout_of(images)
        catalogue = load_unchecked(name, images, columns, split_by_hash=False, with_addresses=True)
        part = catalogue.part(*_splits(split))
        lines = dict(zip(part.path, part.line.tolist(), strict=True))
        boxes = {
            str(part.path[row]): (part.box[row], bool(part.box_in_shares[row]))
            for row in np.flatnonzero(part.has_box())
        }
        listing = Listing(part.root, _labelled(part), part.notes, lines=lines, boxes=boxes)
    else:
        for what, value in (("split", split), ("columns", columns)):
            if value:
                raise FirError(f"`{what}` needs --dataset, a table or a feed. Received: {value!r}")
        found = find_photos(images)
        records = [_from_path(path) for path in found.photos]
        skipped = [path for why in (NO_IMAGE, SPECIAL) for path in found.skipped.get(why, ())]
        unread = frozenset([*found.others, *skipped])
        listing = Listing(
            found.root, records, found.notes(), found.unreachable, unread, walked=True
        )
    if not listing.records:
        more = [*listing.notes, *listing.unreachable.values()]
        raise FirError("\n".join([f"no photo was found in {images}", *more]))
    return listing


def _splits(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip()) or SPLITS
    for name in names:
        if name not in SPLITS:
            raise FirError(f"`split` must be among {', '.join(SPLITS)}. Received: {name!r}")
    return names


def _labelled(part: Catalogue) -> list[Record]:
    check_names(part.columns)
    # In Consumer-to-Shop a photo can stand in several rows.
    rows = {}
    for row, (path, item, category, domain) in enumerate(
        zip(part.path, part.item, part.category, part.domain, strict=True)
    ):
        rows[str(path)] = Record(
            str(path),
            part.items[item] if item >= 0 else "",
            part.categories[category] if category >= 0 else "",
            DOMAIN_NAMES[domain + 1],
            "",
            plain_metadata(part.metadata(row)),
        )
    return list(rows.values())


def _from_path(path: str) -> Record:
    category, item = labels_of(path)
    return Record(path, item, category, "", "")
