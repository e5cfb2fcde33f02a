"""Which sampler a run needs."""

import numpy as np

from fir_tf.config import Config
from fir_tf.datasets.catalogue import Catalogue
from fir_tf.errors import FirError
from fir_tf.samplers.mixed import MixedSampler
from fir_tf.samplers.pk import PKSampler
from fir_tf.samplers.sampler import Sampler
from fir_tf.samplers.triplets import TripletSampler
from fir_tf.samplers.uniform import UniformSampler


def _drawn_by(config):
    """The labels, "item" or "category", of which an image needs one to be drawn."""
    kinds = config.loss_kinds()
    nouns = [noun for kind, noun in (("IS", "item"), ("OS", "category")) if kind in kinds]
    if config.triplets != "explicit":
        # Batches of P x K come from the groups of one label; the other is mined within them.
        nouns = nouns[:1]
    if "OC" in kinds and (config.category_fraction or not nouns):
        nouns.append("category")
    return list(dict.fromkeys(nouns))


def drawn_rows(catalogue: Catalogue, config: Config) -> np.ndarray:
    """Returns the training rows that the sampler of `make_sampler` can draw.

    Args:
        catalogue: Catalogue; its split `train`.
        config: Config; `losses`, `triplets`, `category_fraction`.

    Returns:
        int array of rows in ascending order.
    """
    known = np.any([getattr(catalogue, noun) >= 0 for noun in _drawn_by(config)], axis=0)
    return np.flatnonzero((catalogue.split == "train") & known)


def describe_undrawn(catalogue: Catalogue, config: Config) -> str:
    """Returns a note on training images that the sampler never draws, an empty string without any.

    Args:
        catalogue: Catalogue.
        config: Config.

    Returns:
        str.
    """
    count = int((catalogue.split == "train").sum())
    left = count - len(drawn_rows(catalogue, config))
    if not left:
        return ""
    return (
        f"note: {left:,} of {count:,} training images are never drawn: they lack the label "
        f"({' or '.join(_drawn_by(config))}) that batches are made by; see --category_fraction"
    )


def make_sampler(catalogue: Catalogue, config: Config) -> Sampler:
    """Builds the sampler that `config` asks for over the training rows of `catalogue`.

    With a similarity loss and `category_fraction` f, the share f of `batch_size` (images; with
    explicit triplets, triplets) is drawn uniformly from all training images with a category,
    whether they have an item or not, and the rest from those with the similarity loss's label.

    Args:
        catalogue: Catalogue; its split `train` is drawn from.
        config: Config; `losses`, `triplets`, `batch_size`, `images_per_item`,
            `category_fraction`, `seed`.

    Returns:
        Sampler.

    Raises:
        FirError: if the catalogue has no training image, lacks the labels a loss needs, or holds
            a source of which no image would be drawn; if `category_fraction` has no effect.
    """
    rows = np.flatnonzero(catalogue.split == "train")
    if not len(rows):
        raise FirError(f"the split 'train' is empty in {catalogue.source}")
    kinds = config.loss_kinds()
    columns = {"IS": ("item", catalogue.item), "OS": ("category", catalogue.category)}
    for kind in ("OC", "OS", "IS"):
        noun, column = columns.get(kind, columns["OS"])
        if kind in kinds and not (column[rows] >= 0).any():
            raise FirError(
                f"the loss {kind} needs {noun} labels, and no training image of "
                f"{catalogue.source} has one. Received: --losses={config.losses}"
            )
    drawn = drawn_rows(catalogue, config)
    for origin in np.unique(catalogue.origin[rows]):
        if not (catalogue.origin[drawn] == origin).any():
            raise FirError(
                f"no image of {catalogue.sources[origin]} would ever be drawn: batches are made "
                f"by {' or '.join(_drawn_by(config))}, and its images have no such label. Take it "
                "out, change --losses, or draw images that have a category only with "
                "--category_fraction, such as 0.25"
            )
    similarity = [columns[kind] for kind in ("IS", "OS") if kind in kinds]
    categorised = rows[catalogue.category[rows] >= 0]
    if not similarity:
        return UniformSampler(categorised, config.batch_size, config.seed)
    extra = round(config.batch_size * config.category_fraction)
    if config.category_fraction and ("OC" not in kinds or not 0 < extra < config.batch_size):
        raise FirError(
            "`category_fraction` must bring at least one image a batch for OC, and leave one for "
            f"triplets. Received: {config.category_fraction} of a batch of {config.batch_size} "
            f"with --losses={config.losses}"
        )
    size = config.batch_size - extra
    if config.triplets == "explicit":
        sampler: Sampler = TripletSampler(
            [column for _, column in similarity],
            rows,
            size,
            config.seed,
            [noun for noun, _ in similarity],
        )
    else:
        noun, column = similarity[0]
        sampler = PKSampler(column, rows, size, config.images_per_item, config.seed, noun)
    if extra:
        sampler = MixedSampler(sampler, UniformSampler(categorised, extra, config.seed + 1))
    return sampler
