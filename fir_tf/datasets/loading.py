"""A data set by its name, and what a run trains on."""

import inspect
import os
from pathlib import Path

from fir_tf import registry
from fir_tf.config import Config
from fir_tf.datasets.catalogue import Catalogue, check_files, split_off_validation, take_fold
from fir_tf.datasets.feeds import format_of
from fir_tf.datasets.feeds.source import open_source
from fir_tf.datasets.photos import local_photos
from fir_tf.datasets.sources import merge_training, parse_sources
from fir_tf.errors import FirError


def load(dataset: str, data_dir: str | Path, columns: str = "") -> Catalogue:
    """Loads a data set and checks that its image files exist.

    Args:
        dataset: str, a registered data set's name.
        data_dir: str or Path, its folder, or the file of a table or a feed.
        columns: str, other names for a file's columns, see `fir_tf.datasets.naming.parse_columns`.

    Returns:
        Catalogue.

    Raises:
        FirError: for an unknown data set, anything the loader objects to, or missing files.
    """
    catalogue = load_unchecked(dataset, data_dir, columns)
    check_files(catalogue)
    return catalogue


def load_unchecked(
    dataset: str,
    data_dir: str | Path,
    columns: str = "",
    with_addresses: bool = False,
    **asked: bool,
) -> Catalogue:
    """Loads a data set without asking whether its files exist.

    Args:
        dataset: str, a registered data set's name.
        data_dir: str or Path, see `load`.
        columns: str, see `load`.
        with_addresses: bool, whether photos may be at addresses, which are refused otherwise.
        **asked: what the loader is asked for where it has a parameter of the name. `with_others`,
            as of plain folders: images count that training cannot read (WebP, TIFF, HEIC ...).
            `split_by_hash`, as of tables: whether rows without a split get one.

    Returns:
        Catalogue.

    Raises:
        FirError: for an unknown data set, `columns` where it has none, and anything the loader
            objects to.
    """
    loader = registry.get("dataset", dataset)
    known = inspect.signature(loader).parameters
    options = {name: value for name, value in asked.items() if name in known}
    if columns and "columns" not in known:
        raise FirError(
            f"`columns` names those of a table or a feed, and --dataset={dataset} has none. "
            f"Received: {columns!r}"
        )
    catalogue = loader(data_dir, **options, **({"columns": columns} if columns else {}))
    if with_addresses:
        return catalogue
    source = {"dataset": dataset, "data_dir": str(data_dir), "columns": columns}
    return local_photos(catalogue, source | {"plugins": registry.loaded()})


def layout_of(path: str | Path) -> str:
    """Returns the data set's name that a path without one means: of a file what it has in it."""
    if not os.path.isfile(path):
        return "folder"
    try:
        return "feed" if format_of(open_source(Path(path))) else "table"
    except FirError:
        # Loading it says the same.
        return "table"


def load_training(config: Config) -> Catalogue:
    """Loads what a run trains and validates on: the data set, and the extra training images.

    Args:
        config: Config; `dataset`, `data_dir`, `columns`, `crop`, `cv_fold`, `val_fraction`,
            `extra_data`.

    Returns:
        Catalogue: the data set with its validation items split off, so that they are the same
        whatever is added, and the training images of `extra_data` (see `merge_training`). With
        `cv_fold` neither the items of that fold nor the test part are in it. Boxes are in it with
        `crop` box.

    Raises:
        FirError: as `load`, `take_fold`, `split_off_validation` and `merge_training`.
    """
    extras = parse_sources(config.extra_data)
    main = load(config.dataset, config.data_dir, config.columns)
    if not (main.split == "train").any():
        parts = ", ".join(f"{name}: {count[0]}" for name, count in main.counts().items())
        raise FirError(
            f"the split 'train' is empty: {main.source} has no image to train on "
            f"({parts}). Give more items, or rows of that split; evaluate.py measures a run on "
            "such data"
        )
    if config.crop == "box" and not main.has_box().any():
        raise FirError(
            f"`crop` box needs boxes, and {main.source} has none: a list_bbox*.txt of DeepFashion, "
            "a column `box`, Product Search's polygons or COCO's bbox. Received: --crop=box"
        )
    main = training_parts(main.with_crop(config.crop), config)
    if not extras:
        return main
    return merge_training(
        main,
        [
            (f"{dataset}:{path}", load(dataset, path, columns).with_crop(config.crop))
            for dataset, path, columns in extras
        ],
    )


def training_parts(catalogue: Catalogue, config: Config) -> Catalogue:
    """Returns a run's data set as training divides it.

    Args:
        catalogue: Catalogue.
        config: Config; `cv_fold`, `val_fraction`.

    Returns:
        Catalogue whose split `train` was trained on and whose split `val` was validated on. With
        `cv_fold` neither the items of that fold nor the test part are in it.

    Raises:
        FirError: as `take_fold` and `split_off_validation`.
    """
    if config.cv_fold:
        catalogue, _ = take_fold(catalogue, config.cv_fold)
    return split_off_validation(catalogue, config.val_fraction)
