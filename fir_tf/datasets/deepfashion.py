"""The three DeepFashion benchmarks (Liu et al., CVPR 2016) as Catalogues."""

import numpy as np
import pandas as pd

from fir_tf.datasets.annotations import check_values, find_file, find_images, read_table
from fir_tf.datasets.catalogue import CONSUMER, SHOP, UNKNOWN, Catalogue, encode
from fir_tf.errors import FirError

_PARTITION = "list_eval_partition.txt"
_FOLDERS = ("Eval", "Anno", ".")


def _folder_above_item(paths, path, lines):
    """Returns the category folders, `WOMEN/Dresses` of `img/WOMEN/Dresses/id_1/x.jpg`."""
    parts = paths.str.rsplit("/", n=2, expand=True)
    if parts.shape[1] < 3 or parts[2].isna().any():
        row = 0 if parts.shape[1] < 3 else int(np.flatnonzero(parts[2].isna())[0])
        raise FirError(
            f"{path}:{lines.iloc[row]}: the image path must be "
            f"img/<group>/<category>/<item>/<view>.jpg. Received: {paths.iloc[row]!r}"
        )
    return parts[0].str.split("/", n=1).str[-1]


def load_inshop(data_dir):
    """Loads the In-Shop Clothes Retrieval benchmark.

    Category = the two folders above the item (`WOMEN/Dresses`). The item id alone is the item's
    label: in the release 99 items lie under two category folders.

    Args:
        data_dir: str or Path, the folder with `Eval/` (or `Anno/`) and `Img/` (or `img/`), or
            the folder above it.

    Returns:
        Catalogue with the splits train, query and gallery.

    Raises:
        FirError: for a missing folder, a malformed row (file and line named) or an empty split.
    """
    path, base = find_file(data_dir, _PARTITION, _FOLDERS)
    table = read_table(path, ("image_name", "item_id", "evaluation_status"))
    splits = ("train", "query", "gallery")
    check_values(path, table, "evaluation_status", splits)
    for split in splits:
        if not (table["evaluation_status"] == split).any():
            raise FirError(f"{path}: no row has evaluation_status {split!r}; the split is empty")
    item, items = encode(table["item_id"])
    category, categories = encode(_folder_above_item(table["image_name"], path, table["line"]))
    return Catalogue(
        root=find_images(base, table["image_name"].iloc[0]),
        path=table["image_name"].to_numpy(object),
        category=category,
        item=item,
        domain=np.full(len(table), SHOP, np.int8),
        split=table["evaluation_status"].to_numpy(object).astype(str),
        categories=categories,
        items=items,
        source=str(path),
        line=table["line"].to_numpy(np.int32),
    )


def load_category(data_dir):
    """Loads the Category and Attribute Prediction benchmark.

    Labels are 1-based in the order of `list_category_cloth.txt`. There are no item labels, so
    only OC and OS can be trained on it.

    Args:
        data_dir: str or Path, the folder with `Anno/`, `Eval/` and `Img/` (or `img/`).

    Returns:
        Catalogue with the splits train, val and test; item is -1 throughout.

    Raises:
        FirError: for a missing folder, a malformed row or a label out of range (file and line
            named).
    """
    names_path, base = find_file(data_dir, "list_category_cloth.txt", ("Anno", "Anno_coarse", "."))
    labels_path, _ = find_file(data_dir, "list_category_img.txt", ("Anno", "Anno_coarse", "."))
    partition_path, _ = find_file(data_dir, _PARTITION, _FOLDERS)
    names = read_table(names_path, ("category_name", "category_type"))["category_name"]
    labels = read_table(labels_path, ("image_name", "category_label"))
    partition = read_table(partition_path, ("image_name", "evaluation_status"))
    splits = ("train", "val", "test")
    check_values(partition_path, partition, "evaluation_status", splits)
    check_values(
        labels_path, labels, "category_label", [str(1 + index) for index in range(len(names))]
    )
    if len(labels) == len(partition) and (labels["image_name"] == partition["image_name"]).all():
        label = labels["category_label"]
    else:
        label = partition["image_name"].map(
            labels.drop_duplicates("image_name").set_index("image_name")["category_label"]
        )
        if label.isna().any():
            row = partition[label.isna()].iloc[0]
            raise FirError(
                f"{partition_path}:{row['line']}: {row['image_name']} has no category in "
                f"{labels_path}"
            )
    return Catalogue(
        root=find_images(base, partition["image_name"].iloc[0]),
        path=partition["image_name"].to_numpy(object),
        category=label.to_numpy(object).astype(np.int32) - 1,
        item=np.full(len(partition), UNKNOWN, np.int32),
        domain=np.full(len(partition), UNKNOWN, np.int8),
        split=partition["evaluation_status"].to_numpy(object).astype(str),
        categories=tuple(names),
        items=(),
        source=str(partition_path),
        line=partition["line"].to_numpy(np.int32),
    )


def load_consumer2shop(data_dir):
    """Loads the Consumer-to-Shop benchmark.

    The first image of a pair is the consumer photo, the second the shop photo. Test consumer
    photos are the queries, all shop photos of the test set the gallery (the data set's README);
    hits count by item id. An image that stands in several pairs is one row.

    Args:
        data_dir: str or Path, the folder with `Eval/` and `Img/` (or `img/`).

    Returns:
        Catalogue with the splits train, val, query and gallery.

    Raises:
        FirError: for a missing folder or a malformed row (file and line named).
    """
    path, base = find_file(data_dir, _PARTITION, _FOLDERS)
    pairs = read_table(
        path, ("image_pair_name_1", "image_pair_name_2", "item_id", "evaluation_status")
    )
    check_values(path, pairs, "evaluation_status", ("train", "val", "test"))
    sides = []
    for column, domain, test in (
        ("image_pair_name_1", CONSUMER, "query"),
        ("image_pair_name_2", SHOP, "gallery"),
    ):
        side = pairs[[column, "item_id", "evaluation_status", "line"]].rename(
            columns={column: "image_name"}
        )
        side["domain"] = domain
        side["split"] = side["evaluation_status"].replace("test", test)
        sides.append(side)
    table = pd.concat(sides, ignore_index=True).drop_duplicates("image_name", ignore_index=True)
    item, items = encode(table["item_id"])
    category, categories = encode(_folder_above_item(table["image_name"], path, table["line"]))
    return Catalogue(
        root=find_images(base, table["image_name"].iloc[0]),
        path=table["image_name"].to_numpy(object),
        category=category,
        item=item,
        domain=table["domain"].to_numpy(object).astype(np.int8),
        split=table["split"].to_numpy(object).astype(str),
        categories=categories,
        items=items,
        source=str(path),
        line=table["line"].to_numpy(object).astype(np.int32),
    )
