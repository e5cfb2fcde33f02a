"""Data sources: each becomes a Catalogue."""

from fir_tf.datasets.catalogue import Catalogue, check_files
from fir_tf.datasets.deepfashion import load_category, load_consumer2shop, load_inshop
from fir_tf.datasets.folder import load_folder
from fir_tf.errors import FirError

DATASETS = {
    "inshop": load_inshop,
    "category": load_category,
    "consumer2shop": load_consumer2shop,
    "folder": load_folder,
}


def load(dataset, data_dir):
    """Loads a data set and checks that its image files exist.

    Args:
        dataset: str, a key of `DATASETS`.
        data_dir: str or Path, its folder.

    Returns:
        Catalogue.

    Raises:
        FirError: for an unknown data set, anything the loader objects to, or missing files.
    """
    if dataset not in DATASETS:
        raise FirError(f"`dataset` must be one of {', '.join(DATASETS)}. Received: {dataset!r}")
    catalogue = DATASETS[dataset](data_dir)
    check_files(catalogue)
    return catalogue


__all__ = ["DATASETS", "Catalogue", "load"]
