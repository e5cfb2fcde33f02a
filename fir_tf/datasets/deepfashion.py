"""The three DeepFashion benchmarks (Liu et al., CVPR 2016) as Catalogues."""

import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from fir_tf.datasets.annotations import (
    asked_for,
    check_listed_once,
    check_values,
    find_file,
    find_images,
    has_file,
    read_lines,
    read_table,
)
from fir_tf.datasets.catalogue import (
    CONSUMER,
    SHOP,
    UNKNOWN,
    Catalogue,
    check_items,
    check_paths,
    encode,
    shared_item,
)
from fir_tf.datasets.deepfashion_boxes import with_aligned_boxes, with_boxes
from fir_tf.datasets.published import (
    BOUTIQUE,
    PUBLISHED,
    compare_with_published,
    describe_boutique,
)
from fir_tf.errors import FirError

_PARTITION = "list_eval_partition.txt"
_FOLDERS = ("Eval", "Anno", ".")
_LABELS = "list_category_img.txt"
_NAMES = "list_category_cloth.txt"
_LABEL_FOLDERS = ("Anno", "Anno_coarse", ".")
_FINE_FOLDERS = ("Anno_fine", "Anno", ".")


def _folder_above_item(
    paths: Iterable[str], path: Path, lines: np.ndarray
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Encodes the category folders, `WOMEN/Dresses` of `img/WOMEN/Dresses/id_1/x.jpg`."""
    folders = []
    for name, line in zip(paths, lines, strict=True):
        parts = name.rsplit("/", 2)
        if len(parts) < 3:
            raise FirError(
                f"{path}:{line}: the image path must be "
                f"img/<group>/<category>/<item>/<view>.jpg. Received: {name!r}"
            )
        folders.append(parts[0].split("/", 1)[-1])
    return encode(folders)


def _finish(
    benchmark: str,
    catalogue: Catalogue,
    data_dir: str | Path,
    notes: Iterable[str],
    **counted: int,
) -> Catalogue:
    """Adds boxes, notes and the comparison with the published counts, after all checks."""
    check_paths(catalogue)
    catalogue = with_boxes(benchmark, catalogue, data_dir)
    root = Path(os.path.abspath(catalogue.root))
    if any((folder / BOUTIQUE).is_file() for folder in (root, root.parent)):
        line = describe_boutique(benchmark, catalogue)
    else:
        line = compare_with_published(benchmark, catalogue, **counted)
    return dataclasses.replace(catalogue, notes=(*notes, *catalogue.notes, line))


def load_inshop(data_dir: str | Path) -> Catalogue:
    """Loads the In-Shop Clothes Retrieval benchmark.

    Category = the two folders above the item (`WOMEN/Dresses`). The item id alone is the item's
    label: in the release 99 items lie under two category folders.

    Args:
        data_dir: str or Path, the folder with `Eval/` (or `Anno/`) and `Img/` (or `img/`), or
            the folder above it; or the image folder itself, such as `Img/img_highres`, to take
            that one.

    Returns:
        Catalogue with those of the splits train, query and gallery that are there.

    Raises:
        FirError: for a missing folder, a malformed row, an image that is listed twice, an item
            in train and test (file and line named).
    """
    path, base = find_file(data_dir, _PARTITION, _FOLDERS)
    table = read_table(path, ("image_name", "item_id", "evaluation_status"))
    check_values(path, table, "evaluation_status", ("train", "query", "gallery"))
    names, lines = table["image_name"].to_numpy(object), table["line"].to_numpy(np.int32)
    item, items = encode(table["item_id"])
    category, categories = _folder_above_item(names, path, lines)
    root, names, notes = find_images(base, data_dir, names)
    catalogue = Catalogue(
        root=root,
        path=names,
        category=category,
        item=item,
        domain=np.full(len(table), SHOP, np.int8),
        split=table["evaluation_status"].to_numpy(object).astype(str),
        categories=categories,
        items=items,
        source=str(path),
        line=lines,
    )
    check_items(catalogue)
    return _finish("inshop", catalogue, data_dir, notes)


def load_category(data_dir: str | Path) -> Catalogue:
    """Loads the Category and Attribute Prediction benchmark.

    Labels are 1-based in the order of `list_category_cloth.txt`. There are no item labels, so
    only OC and OS can be trained on it. The release has two annotations: all 289,222 images, and
    20,000 of them in `Anno_fine`. Where both are there, all images are taken.

    Args:
        data_dir: str or Path, the folder with `Anno/` (or `Anno_coarse/`), `Eval/` and `Img/`
            (or `img/`), or the folder above it; or `Anno_fine` or `Img/img_highres` in it, to
            take that one.

    Returns:
        Catalogue with the splits train, val and test; item is -1 throughout.

    Raises:
        FirError: for a missing folder, a malformed row, an image that is listed twice or a label
            out of range (file and line named).
    """
    fine = has_file(data_dir, "train_cate.txt", _FINE_FOLDERS)
    if fine and (
        asked_for(data_dir, ("Anno_fine",)) or not has_file(data_dir, _LABELS, _LABEL_FOLDERS)
    ):
        return _load_category_fine(data_dir)
    names_path, base = find_file(data_dir, _NAMES, _LABEL_FOLDERS)
    labels_path, _ = find_file(data_dir, _LABELS, _LABEL_FOLDERS)
    partition_path, _ = find_file(data_dir, _PARTITION, _FOLDERS)
    categories = _category_names(names_path)
    labels = read_table(labels_path, ("image_name", "category_label"))
    partition = read_table(partition_path, ("image_name", "evaluation_status"))
    check_values(partition_path, partition, "evaluation_status", ("train", "val", "test"))
    check_values(labels_path, labels, "category_label", _label_values(categories))
    place, notes = _places(labels_path, labels, partition_path, partition)
    partition["category_label"] = labels["category_label"].to_numpy()[place]
    if fine:
        folder = find_file(data_dir, "train_cate.txt", _FINE_FOLDERS)[0].parent
        notes += (f"labels: {labels_path.parent} (for {folder} give that folder as --data_dir)",)
    catalogue, found = _without_items(base, data_dir, partition, categories, str(partition_path))
    return _finish("category", catalogue, data_dir, (*found, *notes))


def _places(
    labels_path: Path, labels: pd.DataFrame, partition_path: Path, partition: pd.DataFrame
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns the row of `labels` of each image of `partition`, and notes."""
    if labels["image_name"].equals(partition["image_name"]):
        return np.arange(len(labels)), ()
    check_listed_once(labels_path, labels, "image_name")
    place = pd.Index(labels["image_name"]).get_indexer(partition["image_name"])
    if (place < 0).any():
        row = partition[place < 0].iloc[0]
        raise FirError(
            f"{partition_path}:{row['line']}: {row['image_name']} has no category in {labels_path}"
        )
    left_out = len(labels) - len(np.unique(place))
    if not left_out:
        return place, ()
    note = f"note: {left_out:,} images of {labels_path} are in no split and left out"
    return place, (note,)


def _without_items(
    base: Path, data_dir: str | Path, table: pd.DataFrame, categories: tuple[str, ...], source: str
) -> tuple[Catalogue, tuple[str, ...]]:
    """Returns (Catalogue, notes) of a table of `image_name`, `category_label` and more."""
    root, names, notes = find_images(base, data_dir, table["image_name"].to_numpy(object))
    catalogue = Catalogue(
        root=root,
        path=names,
        category=table["category_label"].to_numpy(object).astype(np.int32) - 1,
        item=np.full(len(table), UNKNOWN, np.int32),
        domain=np.full(len(table), UNKNOWN, np.int8),
        split=table["evaluation_status"].to_numpy(object).astype(str),
        categories=categories,
        items=(),
        source=source,
        line=table["line"].to_numpy(np.int32),
    )
    return catalogue, notes


def _category_names(path: Path) -> tuple[str, ...]:
    table = read_table(path, ("category_name", "category_type"))
    check_listed_once(path, table, "category_name")
    return tuple(table["category_name"])


def _label_values(categories: Sequence[str]) -> list[str]:
    return [str(1 + index) for index in range(len(categories))]


def _load_category_fine(data_dir: str | Path) -> Catalogue:
    """Loads `Anno_fine`: `train.txt` and `train_cate.txt`, aligned by row, and so on."""
    _, base = find_file(data_dir, "train_cate.txt", _FINE_FOLDERS)
    categories = _category_names(find_file(data_dir, _NAMES, (*_FINE_FOLDERS, *_LABEL_FOLDERS))[0])
    parts: list[pd.DataFrame] = []
    sources: list[str] = []
    for split in ("train", "val", "test"):
        path, _ = find_file(data_dir, f"{split}.txt", _FINE_FOLDERS)
        labels_path = path.with_name(f"{split}_cate.txt")
        names, labels = read_lines(path), read_lines(labels_path)
        if len(names) != len(labels):
            raise FirError(
                f"{path} and {labels_path} belong together row by row. Received: {len(names)} and "
                f"{len(labels)} rows. Unpack them again"
            )
        part = pd.DataFrame({"image_name": names, "category_label": labels})
        part["evaluation_status"] = split
        part["line"] = part.index + 1
        check_values(labels_path, part, "category_label", _label_values(categories))
        part["origin"] = len(sources)
        parts.append(part)
        sources.append(str(path))
    table = pd.concat(parts, ignore_index=True)
    origin = table["origin"].to_numpy(np.int16)
    catalogue, notes = _without_items(base, data_dir, table, categories, ", ".join(sources))
    catalogue = dataclasses.replace(catalogue, sources=tuple(sources), origin=origin)
    return _finish("category_fine", with_aligned_boxes(catalogue), data_dir, notes)


def load_consumer2shop(data_dir: str | Path) -> Catalogue:
    """Loads the Consumer-to-Shop benchmark.

    The first image of a pair is the consumer photo, the second the shop photo. Test consumer
    photos are the queries, all shop photos of the test set the gallery (the data set's README;
    see `retrieval_sides` for the wider scope); hits count by item id. An image that stands in
    several pairs is one row.

    An image with two item ids, splits or sides, and an item in two splits, is an error. Only in
    the file as published (told by its number of pairs) it is a warning, the first row counts.

    Args:
        data_dir: str or Path, the folder with `Eval/` (or `Anno/`) and `Img/` (or `img/`), or
            the folder above it; or the image folder itself, such as `Img/img_highres`, to take
            that one.

    Returns:
        Catalogue with the splits train, val, query and gallery.

    Raises:
        FirError: for a missing folder or a malformed or contradictory row (file and line named).
    """
    path, base = find_file(data_dir, _PARTITION, _FOLDERS)
    pairs = read_table(
        path, ("image_pair_name_1", "image_pair_name_2", "item_id", "evaluation_status")
    )
    check_values(path, pairs, "evaluation_status", ("train", "val", "test"))
    pairs["item"], items = encode(pairs["item_id"])
    released = len(pairs) == PUBLISHED["consumer2shop"].counts["pairs"]
    sides = [
        pairs.assign(image_name=pairs[f"image_pair_name_{number}"], side=side)
        for number, side in ((1, "consumer"), (2, "shop"))
    ]
    table = pd.concat(sides, ignore_index=True)
    table["image"], _ = pd.factorize(table["image_name"])
    notes = _warnings(_contradictions(path, table), released)
    table = table[~table["image"].duplicated()]
    names, lines = table["image_name"].to_numpy(object), table["line"].to_numpy(np.int32)
    category, categories = _folder_above_item(names, path, lines)
    consumer = (table["side"] == "consumer").to_numpy()
    split = table["evaluation_status"].to_numpy(object).astype("U7")
    split = np.where(split == "test", np.where(consumer, "query", "gallery"), split)
    root, names, places = find_images(base, data_dir, names)
    catalogue = Catalogue(
        root=root,
        path=names,
        category=category,
        item=table["item"].to_numpy(np.int32),
        domain=np.where(consumer, CONSUMER, SHOP).astype(np.int8),
        split=split,
        categories=categories,
        items=items,
        source=str(path),
        line=lines,
    )
    notes += _warnings(filter(None, [shared_item(catalogue)]), released)
    return _finish("consumer2shop", catalogue, data_dir, (*places, *notes), pairs=len(pairs))


def _warnings(problems: Iterable[str], released: bool) -> list[str]:
    """Returns notes on problems of the file as released; FirError for the first of another's."""
    notes = []
    for problem in problems:
        if not released:
            raise FirError(problem)
        notes.append(f"warning: {problem}")
    return notes


def _contradictions(path: Path, table: pd.DataFrame) -> Iterator[str]:
    """Yields what an image has two of, though it can have one; names the first such image."""
    image = table["image"].to_numpy()
    first = np.flatnonzero(~table["image"].duplicated())
    for what, column in (
        ("the item", "item_id"),
        ("the split", "evaluation_status"),
        ("the side", "side"),
    ):
        values = table[column].to_numpy(object)
        differs = values != values[first][image]
        if differs.any():
            row = int(np.argmax(differs))
            name, before = table["image_name"][row], first[image[row]]
            yield (
                f"{path}:{table['line'][row]}: {name} has {what} {values[row]}, on line "
                f"{table['line'][before]} it has {values[before]}. An image has one of each"
            )
