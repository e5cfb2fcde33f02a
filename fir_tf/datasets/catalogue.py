"""The one table every data source becomes."""

import dataclasses
import hashlib
import os
from pathlib import Path

import numpy as np

from fir_tf.errors import FirError

SPLITS = ("train", "val", "query", "gallery", "test")
UNKNOWN = -1
SHOP, CONSUMER = 0, 1


@dataclasses.dataclass(frozen=True, eq=False)
class Catalogue:
    """A table of images with their labels, column by column.

    Nothing downstream of it knows which data set it came from.

    Attributes:
        root: Path, the folder that `path` is relative to.
        path: str array [n], image files relative to `root`, with forward slashes.
        category: int32 array [n], index into `categories`, -1 where unknown.
        item: int32 array [n], index into `items`, -1 where unknown.
        domain: int8 array [n], 0 for shop photos, 1 for consumer photos, -1 where unknown.
        split: str array [n], one of `SPLITS`. `query` and `gallery` are the two sides of the
            retrieval test; `test` is the classification test.
        categories: tuple of str, the category names.
        items: tuple of str, the item names.
        source: str, where the rows came from, for messages.
        line: int32 array [n], the line of `source` each row stood on, 0 where there is none.
    """

    root: Path
    path: np.ndarray
    category: np.ndarray
    item: np.ndarray
    domain: np.ndarray
    split: np.ndarray
    categories: tuple
    items: tuple
    source: str
    line: np.ndarray

    def __post_init__(self):
        for name in ("category", "item", "domain", "split", "line"):
            if len(getattr(self, name)) != len(self.path):
                raise FirError(
                    f"`{name}` must have one value per image ({len(self.path)}). "
                    f"Received: {len(getattr(self, name))} values"
                )

    def __len__(self):
        return len(self.path)

    def rows(self, mask):
        """Returns the Catalogue of the rows where `mask` (bool [n] or int rows) selects."""
        columns = ("path", "category", "item", "domain", "split", "line")
        return dataclasses.replace(self, **{name: getattr(self, name)[mask] for name in columns})

    def part(self, *splits):
        """Returns the Catalogue of the rows whose split is one of `splits`."""
        return self.rows(np.isin(self.split, splits))

    def files(self):
        """Returns the image files' full paths, a list of str."""
        root = str(self.root)
        return [os.path.join(root, path) for path in self.path]

    def location(self, row):
        """Returns `source:line` of a row, for messages."""
        return f"{self.source}:{self.line[row]}" if self.line[row] else self.source

    def with_categories(self, categories):
        """Returns the same table with its category column numbered after `categories`.

        Args:
            categories: sequence of str, for instance those a model was trained on. Images of
                a category that is not among them become unknown (-1).
        """
        position = {name: index for index, name in enumerate(categories)}
        table = np.array([position.get(name, UNKNOWN) for name in self.categories], np.int32)
        category = np.where(self.category >= 0, _take(table, self.category), UNKNOWN)
        return dataclasses.replace(
            self, category=category.astype(np.int32), categories=tuple(categories)
        )

    def counts(self):
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

    def describe(self):
        """Returns the table's sizes as text, a line a split."""
        lines = [f"{len(self)} images under {self.root}"]
        for split, (images, items, categories) in self.counts().items():
            lines.append(
                f"  {split:8s}{images:8d} images{items:8d} items{categories:5d} categories"
            )
        return "\n".join(lines)


def _take(table, index):
    return table[index] if len(table) else np.full(len(index), UNKNOWN)


def encode(names):
    """Numbers a column of names in sorted order.

    Args:
        names: sequence of str.

    Returns:
        codes: int32 array, index into `values`.
        values: tuple of str, sorted.
    """
    values, codes = np.unique(np.asarray(names, dtype=object).astype(str), return_inverse=True)
    return codes.astype(np.int32), tuple(values.tolist())


def unit_hash(name, salt):
    """Returns a number in [0, 1) that depends on `name` and `salt` alone.

    A split by this number never moves an old name when new ones are added.
    """
    digest = hashlib.blake2b(f"{salt}/{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def split_off_validation(catalogue, fraction, salt="val"):
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
    by_item = np.array([unit_hash(name, salt) for name in catalogue.items] or [1.0])
    score = np.where(catalogue.item >= 0, by_item[catalogue.item], 1.0)
    loose = np.flatnonzero(train & (catalogue.item < 0))
    score[loose] = [unit_hash(catalogue.path[row], salt) for row in loose]
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


def check_files(catalogue):
    """Raises FirError naming the rows whose image file does not exist.

    Folders are listed once each, which is much faster than asking for every file.
    """
    listing = {}
    missing = []
    for row, path in enumerate(catalogue.path):
        folder, _, name = path.rpartition("/")
        if folder not in listing:
            try:
                with os.scandir(catalogue.root / folder) as entries:
                    listing[folder] = {entry.name for entry in entries}
            except OSError:
                listing[folder] = frozenset()
        if name not in listing[folder]:
            missing.append(row)
    if missing:
        shown = "\n".join(
            f"  {catalogue.location(row)}: {catalogue.root / catalogue.path[row]}"
            for row in missing[:5]
        )
        more = f"\n  ... and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise FirError(
            f"{len(missing)} of {len(catalogue)} image files do not exist:\n{shown}{more}\n"
            "Unpack the images again, or take the rows out of the annotation file"
        )


def retrieval_sides(catalogue, split="test"):
    """Returns the queries and the gallery of a retrieval test, as row numbers.

    `test`: the splits `query` and `gallery`. `val`: consumer photos against shop photos where
    the validation part has both domains; otherwise every validation image is a query against
    all the others (the image itself is left out by its id).

    Args:
        catalogue: Catalogue.
        split: "test" or "val".

    Returns:
        (query rows, gallery rows), int arrays, either possibly empty.
    """
    if split == "test":
        return (
            np.flatnonzero(catalogue.split == "query"),
            np.flatnonzero(catalogue.split == "gallery"),
        )
    if split != "val":
        raise FirError(f"`split` must be 'test' or 'val'. Received: {split!r}")
    rows = np.flatnonzero((catalogue.split == "val") & (catalogue.item >= 0))
    domain = catalogue.domain[rows]
    if (domain == SHOP).any() and (domain == CONSUMER).any():
        return rows[domain == CONSUMER], rows[domain == SHOP]
    return rows, rows
