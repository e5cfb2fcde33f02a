"""The one table every data source becomes."""

import dataclasses
import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from fir_tf.datasets.labels import composed
from fir_tf.datasets.metadata import Column, Value
from fir_tf.datasets.walk import listed, printable, unreachable
from fir_tf.errors import FirError
from fir_tf.files import NO_FILE

SPLITS = ("train", "val", "query", "gallery", "test")
UNKNOWN = -1
SHOP, CONSUMER = 0, 1
GALLERY_SCOPES = ("test", "val+test")

_VAL, _TEST = 0.1, 0.3
# Of an image each, beside its path.
_COLUMNS = ("category", "item", "domain", "split", "line", "origin", "product", "box") + (
    "box_in_shares",
)
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@dataclasses.dataclass(frozen=True, eq=False)
class Catalogue:
    """A table of images with their labels, column by column.

    Nothing downstream of it knows which data set it came from.

    Attributes:
        root: Path, the folder that `path` is relative to.
        path: str array [n], image files relative to `root`, with forward slashes. A loader may
            leave addresses (`https://...`), see `fir_tf.datasets.photos.local_photos`.
        category: int32 array [n], index into `categories`, -1 where unknown.
        item: int32 array [n], index into `items`, -1 where unknown.
        domain: int8 array [n], 0 for shop photos, 1 for consumer photos, -1 where unknown.
        split: str array [n], one of `SPLITS`. `query` and `gallery` are the two sides of the
            retrieval test; `test` is the classification test.
        categories: tuple of str, the category names.
        items: tuple of str, the item names.
        source: str, where the rows came from, for messages.
        line: int32 array [n], the line each row stood on, 0 where there is none.
        notes: tuple of str, what the person who trains or evaluates should know about the data,
            a line each: which images were taken, how the counts compare with published ones.
        sources: tuple of str, the files or folders that rows came from; (`source`,) by default.
        origin: int16 array [n], index into `sources`; 0 by default.
        columns: dict of Column by name, all of one length: what else is said of the products, see
            `metadata`. Empty by default.
        product: int32 array [n], each image's place in the columns, -1 where it has none. Images of
            one product share it.
        box: float32 array [n, 4], where in its photo the garment is: left, top, width and height
            in pixels of the upright photo; NaN where it is the whole photo, as by default.
        box_in_shares: bool array [n], whether the box is in shares of the upright photo's width
            and height, from 0 to 1, instead; False by default.
    """

    root: Path
    path: np.ndarray
    category: np.ndarray
    item: np.ndarray
    domain: np.ndarray
    split: np.ndarray
    categories: tuple[str, ...]
    items: tuple[str, ...]
    source: str
    line: np.ndarray
    notes: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    origin: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int16))
    columns: Mapping[str, Column] = dataclasses.field(default_factory=dict)
    product: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int32))
    box: np.ndarray = dataclasses.field(default_factory=lambda: no_boxes(0))
    box_in_shares: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, bool))

    def __post_init__(self) -> None:
        if not self.sources:
            object.__setattr__(self, "sources", (self.source,))
            object.__setattr__(self, "origin", np.zeros(len(self.path), np.int16))
        if not self.columns:
            object.__setattr__(self, "product", np.full(len(self.path), UNKNOWN, np.int32))
        if not len(self.box):
            object.__setattr__(self, "box", no_boxes(len(self.path)))
        if not len(self.box_in_shares):
            object.__setattr__(self, "box_in_shares", np.zeros(len(self.path), bool))
        for name in _COLUMNS:
            if len(getattr(self, name)) != len(self.path):
                raise FirError(
                    f"`{name}` must have one value per image ({len(self.path)}). "
                    f"Received: {len(getattr(self, name))} values"
                )

    def __len__(self) -> int:
        return len(self.path)

    def rows(self, mask: ArrayLike) -> "Catalogue":
        """Returns the Catalogue of the rows where `mask` (bool [n] or int rows) selects."""
        parts = {name: getattr(self, name)[mask] for name in ("path", *_COLUMNS)}
        return dataclasses.replace(self, **parts)

    def part(self, *splits: str) -> "Catalogue":
        """Returns the Catalogue of the rows whose split is one of `splits`."""
        return self.rows(np.isin(self.split, splits))

    def files(self) -> list[str]:
        """Returns the image files' full paths, a list of str."""
        root = str(self.root)
        return [os.path.join(root, path) for path in self.path]

    def has_box(self) -> np.ndarray:
        """Returns which images have a box and are not meant whole, bool [n]."""
        return ~np.isnan(self.box[:, 0])

    def boxes(self, crop: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Returns what images are cropped to: `box` and `box_in_shares`; None with "image"."""
        return (self.box, self.box_in_shares) if crop == "box" else None

    def with_crop(self, crop: str) -> "Catalogue":
        """Returns the same table with the boxes that are used: with "image" none.

        Where there is none to crop to, with "box", a note says so.
        """
        if self.has_box().any():
            return self if crop == "box" else dataclasses.replace(self, box=no_boxes(len(self)))
        if crop != "box":
            return self
        note = f"note: {self.source} has no boxes to crop to: its images are taken whole"
        return dataclasses.replace(self, notes=(*self.notes, note))

    def metadata(self, row: int) -> dict[str, Value]:
        """Returns what is known of an image's product, by column: title, price, link and so on."""
        place = int(self.product[row])
        if place < 0:
            return {}
        cells = {name: column[place] for name, column in self.columns.items()}
        return {name: cell for name, cell in cells.items() if cell is not None}

    def location(self, row: int) -> str:
        """Returns `file:line` of a row, for messages."""
        source = self.sources[self.origin[row]]
        return f"{source}:{self.line[row]}" if self.line[row] else source

    def with_categories(self, categories: Sequence[str]) -> "Catalogue":
        """Returns the same table with its category column numbered after `categories`.

        Args:
            categories: sequence of str, for instance those a model was trained on. Images of
                a category that is not among them become unknown (-1).
        """
        position = {composed(name): index for index, name in enumerate(categories)}
        table = [position.get(composed(name), UNKNOWN) for name in self.categories]
        # The last place is that of an unknown category, -1.
        category = np.array([*table, UNKNOWN], np.int32)[self.category]
        return dataclasses.replace(self, category=category, categories=tuple(categories))

    def counts(self) -> dict[str, tuple[int, int, int]]:
        """Returns {split: (images, known items, known categories)} for the splits present."""
        result = {}
        for split in SPLITS:
            part = self.split == split
            if part.any():
                items, categories = self.item[part], self.category[part]
                result[split] = (
                    int(part.sum()),
                    len(np.unique(items[items >= 0])),
                    len(np.unique(categories[categories >= 0])),
                )
        return result

    def describe(self) -> str:
        """Returns the table's sizes, a line a split, and its notes, as text."""
        lines = [f"{len(self)} images under {self.root}"]
        for split, (images, items, categories) in self.counts().items():
            lines.append(
                f"  {split:8s}{images:8d} images{items:8d} items{categories:5d} categories"
            )
        boxes = int(self.has_box().sum())
        if boxes:
            lines.append(f"  boxes of {boxes:,} images")
        return "\n".join([*lines, *self.notes])


def no_boxes(count: int) -> np.ndarray:
    """Returns the boxes of images that are meant whole, float32 [count, 4]: NaN."""
    return np.full((count, 4), np.nan, np.float32)


def is_address(path: str) -> bool:
    """Whether an image's path is an address, `scheme://...`, and no file's."""
    return _ADDRESS.match(path) is not None


def encode(names: ArrayLike) -> tuple[np.ndarray, tuple[str, ...]]:
    """Numbers a column of names in sorted order.

    Args:
        names: sequence of str; an empty name is unknown. Names that differ in their Unicode form
            alone (NFC, NFD) are one.

    Returns:
        codes: int32 array, index into `values`, -1 where unknown.
        values: tuple of str, sorted.
    """
    # As long to import as an exported network takes to answer a photo.
    import pandas as pd

    names = np.array(names, dtype=object)
    names[names == ""] = None
    codes, values = pd.factorize(names, sort=True)
    forms = [composed(name) for name in values]
    if forms != values.tolist():
        place, values = pd.factorize(np.array(forms, object), sort=True)
        codes = np.append(place, -1)[codes]
    return codes.astype(np.int32), tuple(values.tolist())


def unit_hash(name: str, salt: str) -> float:
    """Returns a number in [0, 1) that depends on `name` and `salt` alone.

    A split by this number never moves an old name when new ones are added, and is the same on
    systems that write names in another Unicode form.
    """
    digest = hashlib.blake2b(f"{salt}/{composed(name)}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _unit_hashes(names: Iterable[str], salt: str) -> np.ndarray:
    return np.array([unit_hash(name, salt) for name in names], np.float64)


def hash_split(
    paths: np.ndarray, item: np.ndarray, items: Sequence[str], source: str
) -> np.ndarray:
    """Splits a catalogue that brings no split, by a hash of names alone.

    60 % of the items train, 10 % val, 30 % test; adding items never moves old ones. The images of
    a test item are divided into query and gallery by a hash of their paths, at least one on each
    side; a test item with one image goes to the gallery. Images without an item are split one by
    one by their paths, into train, val and test.

    Args:
        paths: str array [n].
        item: int32 array [n], index into `items`, -1 where unknown.
        items: sequence of str.
        source: str, for the message.

    Returns:
        str array [n] of `SPLITS`.

    Raises:
        FirError: if there are so few items that none is left to test with.
    """
    known = item >= 0
    score = np.empty(len(paths))
    score[known] = _unit_hashes(items, "split")[item[known]]
    score[~known] = _unit_hashes(paths[~known], "split")
    split = np.select([score < _VAL, score < _VAL + _TEST], ["val", "test"], "train").astype("U7")

    rows = np.flatnonzero((split == "test") & known)
    view = _unit_hashes(paths[rows], "view")
    order = np.lexsort((view, item[rows]))
    rows, view = rows[order], view[order]
    _, group, count = np.unique(item[rows], return_inverse=True, return_counts=True)
    queries = np.bincount(group, view < 0.5, len(count)).astype(np.int64)
    queries = np.where(count > 1, np.clip(queries, 1, np.maximum(count - 1, 1)), 0)
    rank = np.arange(len(rows)) - (np.cumsum(count) - count)[group]
    split[rows] = np.where(rank < queries[group], "query", "gallery")

    # Whether there is anything to train on is asked where something is trained.
    if not np.isin(split, ("test", "query")).any():
        raise FirError(
            f"the split 'query' is empty: {source} has {len(paths)} images of {len(items)} items, "
            "and the split by hash left none for it. Give more (about 20 items are enough), or a "
            "table with a column `split`"
        )
    return split


def split_off_validation(catalogue: Catalogue, fraction: float, salt: str = "val") -> Catalogue:
    """Moves a part of the training items (all of their images) to the split `val`.

    The best checkpoint is chosen on these items, never on query or gallery. A catalogue that
    already has a `val` split stays as it is. Which items go is decided by a hash of the item's
    name, so adding items never moves old ones. Training images without an item are split image
    by image.

    Args:
        catalogue: Catalogue.
        fraction: float in [0, 0.9], the expected share of the items.
        salt: str, another salt gives another selection.

    Returns:
        Catalogue.

    Raises:
        FirError: if `fraction` is out of range or leaves nothing to train on.
    """
    if not 0 <= fraction <= 0.9:
        raise FirError(f"`val_fraction` must be between 0 and 0.9. Received: {fraction}")
    train = catalogue.split == "train"
    if fraction == 0 or (catalogue.split == "val").any() or not train.any():
        return catalogue
    score = _row_hashes(catalogue, train, salt)
    chosen = train & (score < fraction)
    if not chosen.any():
        # A handful of items can all miss the threshold; one is still needed to validate on.
        chosen = train & (score == score[train].min())
    if chosen[train].all():
        raise FirError(
            f"no training image is left after splitting off validation items "
            f"(`val_fraction`={fraction} of {train.sum()} images in {catalogue.source}). "
            "Give more items or set --val_fraction=0"
        )
    split = catalogue.split.copy()
    split[chosen] = "val"
    return dataclasses.replace(catalogue, split=split)


def _row_hashes(catalogue: Catalogue, rows: np.ndarray, salt: str) -> np.ndarray:
    """Returns the hash of each image's item, of its path where it has none; 1 beside `rows`."""
    known, loose = rows & (catalogue.item >= 0), rows & (catalogue.item < 0)
    score = np.ones(len(catalogue))
    score[known] = _unit_hashes(catalogue.items, salt)[catalogue.item[known]]
    score[loose] = _unit_hashes(catalogue.path[loose], salt)
    return score


def parse_fold(text: str) -> tuple[int, int]:
    """Reads a fold of a cross-validation, such as "1/3".

    Args:
        text: str, the number of the fold, from 1, and how many there are.

    Returns:
        (int, int).

    Raises:
        FirError: it is anything else.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    number, folds = map(int, found.groups()) if found else (0, 0)
    if not 1 <= number <= folds or folds < 2:
        raise FirError(
            f"`cv_fold` must be a fold and their number, such as 1/3. Received: {text!r}"
        )
    return number, folds


def take_fold(catalogue: Catalogue, fold: str) -> tuple[Catalogue, Catalogue]:
    """Divides the training items for one fold of a cross-validation; test images take no part.

    The items are put into folds of equal numbers in the order of a hash of their names, training
    images without an item one by one.

    Args:
        catalogue: Catalogue.
        fold: str, see `parse_fold`.

    Returns:
        (Catalogue of the other folds and of the catalogue's own validation part, Catalogue of the
        other folds and of this one, which takes the place of the validation part).

    Raises:
        FirError: if there are fewer training items than folds.
    """
    number, folds = parse_fold(fold)
    train = catalogue.split == "train"
    names, place = np.unique(_row_hashes(catalogue, train, "fold")[train], return_inverse=True)
    if len(names) < folds:
        raise FirError(
            f"`cv_fold` must name no more folds than there are training items: {catalogue.source} "
            f"has {len(names)}. Received: {fold}"
        )
    chosen = np.zeros(len(catalogue), bool)
    chosen[train] = place.ravel() % folds == number - 1
    split = np.where(chosen, "val", catalogue.split)
    measured = dataclasses.replace(catalogue, split=split).rows(train)
    return catalogue.rows((train & ~chosen) | (catalogue.split == "val")), measured


def check_paths(catalogue: Catalogue) -> None:
    """Raises FirError naming file and line of a path that leaves the root or stands twice."""
    import pandas as pd

    for row, path in enumerate(catalogue.path):
        outside = not path or path[0] == "/" or "\0" in path or ".." in path.split("/")
        if outside and not is_address(path):
            raise FirError(
                f"{catalogue.location(row)}: an image path must stay below {catalogue.root}: "
                f"relative to it and without `..`. Received: {path!r}"
            )
    twice = pd.Series(catalogue.path, dtype=object).duplicated().to_numpy()
    if twice.any():
        row = int(np.argmax(twice))
        first = int(np.argmax(catalogue.path == catalogue.path[row]))
        raise FirError(
            f"{catalogue.location(row)}: the image {catalogue.path[row]} is listed already at "
            f"{catalogue.location(first)}. List it once, with all its labels"
        )


def shared_item(catalogue: Catalogue) -> str | None:
    """Says which item is in more than one of train, val and test (query, gallery, test).

    Args:
        catalogue: Catalogue.

    Returns:
        str naming the first such row and the one it disagrees with, None where there is none.
    """
    known = np.flatnonzero(catalogue.item >= 0)
    split = catalogue.split[known]
    side = np.select([split == "train", split == "val"], [0, 1], 2)
    _, first, group = np.unique(catalogue.item[known], return_index=True, return_inverse=True)
    differs = side != side[first[group]]
    if not differs.any():
        return None
    place = int(np.argmax(differs))
    row, other = known[place], known[first[group[place]]]
    return (
        f"{catalogue.location(row)}: the item {catalogue.items[catalogue.item[row]]} is in "
        f"the split {catalogue.split[row]}, but at {catalogue.location(other)} in "
        f"{catalogue.split[other]}. An item must be in one of train, val and test (query and "
        "gallery) only, or the result says nothing about unseen items"
    )


def check_items(catalogue: Catalogue) -> None:
    """Raises FirError if an item is in more than one of train, val and test."""
    problem = shared_item(catalogue)
    if problem:
        raise FirError(problem)


def check_files(catalogue: Catalogue) -> None:
    """Raises FirError naming the rows whose image file does not exist or cannot be looked up.

    Folders are listed once each, which is much faster than asking for every file.
    """
    root, listing = str(catalogue.root), dict[str, frozenset[str]]()
    missing, closed = [], []
    for row, path in enumerate(catalogue.path):
        folder, _, name = path.rpartition("/")
        if folder not in listing:
            below = os.path.join(root, folder)
            try:
                with os.scandir(below) as entries:
                    listing[folder] = frozenset(entry.name for entry in entries if _is_file(entry))
            except (FileNotFoundError, NotADirectoryError, ValueError):
                listing[folder] = frozenset()
            except OSError as error:
                listing[folder] = frozenset()
                closed.append(unreachable(below, error))
        if name not in listing[folder]:
            missing.append(row)
    if closed:
        raise FirError(
            f"{listed(closed, 'folder of images', 'folders of images')} cannot be listed. Make "
            "them readable; whether their images are there is unknown"
        )
    if missing:
        shown = "\n".join(
            f"  {catalogue.location(row)}: {printable(str(catalogue.root / catalogue.path[row]))}"
            f"{f' ({NO_FILE})' if os.path.exists(catalogue.root / catalogue.path[row]) else ''}"
            for row in missing[:5]
        )
        more = f"\n  ... and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise FirError(
            f"{len(missing)} of {len(catalogue)} image files do not exist:\n{shown}{more}\n"
            "Unpack the images again, or take the rows out of the annotation file"
        )


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Whether a name in a folder is a file's, or a link's that does not lead to something else."""
    try:
        return entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))
    except OSError:
        return True


def retrieval_sides(
    catalogue: Catalogue, split: str = "test", gallery_scope: str = "test"
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the queries and the gallery of a retrieval test, as row numbers.

    `test`: the splits `query` and `gallery`; with the gallery scope `val+test` the shop photos of
    the split `val` join the gallery, where they match no query. `val`: consumer photos against
    shop photos where the validation part has both domains; otherwise every validation image is a
    query against all the others (the image itself is left out by its id).

    Args:
        catalogue: Catalogue.
        split: "test" or "val".
        gallery_scope: "test" or "val+test" (PAPER: Consumer-to-Shop's README has the first, some
            papers take the second). Without effect on "val".

    Returns:
        (query rows, gallery rows), int arrays, either possibly empty.

    Raises:
        FirError: for another split or scope, or if `val+test` finds no shop photo in `val`.
    """
    if gallery_scope not in GALLERY_SCOPES:
        raise FirError(
            f"`gallery_scope` must be one of {', '.join(GALLERY_SCOPES)}. "
            f"Received: {gallery_scope!r}"
        )
    if split == "test":
        gallery = catalogue.split == "gallery"
        if gallery_scope == "val+test":
            val = (catalogue.split == "val") & (catalogue.domain == SHOP)
            if not val.any():
                raise FirError(
                    f"`gallery_scope` val+test needs shop photos in the split 'val'; "
                    f"{catalogue.source} has none. Set --gallery_scope=test"
                )
            gallery |= val
        return np.flatnonzero(catalogue.split == "query"), np.flatnonzero(gallery)
    if split != "val":
        raise FirError(f"`split` must be 'test' or 'val'. Received: {split!r}")
    rows = np.flatnonzero((catalogue.split == "val") & (catalogue.item >= 0))
    domain = catalogue.domain[rows]
    if (domain == SHOP).any() and (domain == CONSUMER).any():
        return rows[domain == CONSUMER], rows[domain == SHOP]
    return rows, rows
