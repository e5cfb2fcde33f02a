"""Which sampler a run needs: what its losses say."""

from collections.abc import Iterable, Sequence

import numpy as np

from fir_tf import registry
from fir_tf.config import Config
from fir_tf.datasets.catalogue import Catalogue
from fir_tf.errors import FirError
from fir_tf.losses.grammar import LABELS
from fir_tf.losses.loss import ANY
from fir_tf.losses.objective import make_losses
from fir_tf.samplers.mixed import MixedSampler
from fir_tf.samplers.sampler import Request, Sampler


class Wish:
    """What the losses of a run want of batches.

    Attributes:
        sampler: str, the registered sampler that is asked for.
        by: tuple of str, the labels that its batches are made by.
        single: tuple of str, the labels of the losses on single images.
        formed: list of Term, those that need triplets which the sampler has formed.
    """

    def __init__(self, config: Config) -> None:
        terms = config.terms()
        pairs = list(zip(terms, make_losses(terms, config.loss_settings()), strict=True))
        wanted = list(dict.fromkeys(loss.sampler for _, loss in pairs if loss.sampler != ANY))
        if len(wanted) > 1 and not config.sampler:
            raise FirError(
                f"the losses need batches of {' and '.join(wanted)}: choose one with --sampler. "
                f"Received: --losses={config.losses}"
            )
        self.formed = [term for term, loss in pairs if loss.needs_triplets]
        self.sampler = config.sampler or (wanted[0] if wanted else ANY)
        self.single = _ordered(term.label for term, loss in pairs if loss.sampler == ANY)
        grouped = _ordered(term.label for term, loss in pairs if loss.sampler != ANY)
        self.by = grouped or self.single

    def nouns(self, config: Config) -> tuple[str, ...]:
        """Returns the labels of which an image needs one to be drawn."""
        nouns = self.by
        if getattr(registry.get("sampler", self.sampler), "by_one_label", False):
            # As P x K, from the groups of one label; the others are mined within them.
            nouns = nouns[:1]
        return tuple(dict.fromkeys([*nouns, *(self.single if config.category_fraction else ())]))


def _ordered(labels: Iterable[str]) -> tuple[str, ...]:
    found = set(labels)
    return tuple(label for label in LABELS if label in found)


def drawn_rows(catalogue: Catalogue, labels: Sequence[str]) -> np.ndarray:
    """Returns the training rows that batches made by some labels can draw.

    Args:
        catalogue: Catalogue; its split `train`.
        labels: sequence of str.

    Returns:
        int array of rows in ascending order.
    """
    known = np.any([getattr(catalogue, label) >= 0 for label in labels], axis=0)
    return np.flatnonzero((catalogue.split == "train") & known)


def describe_undrawn(catalogue: Catalogue, config: Config) -> str:
    """Returns a note on training images that are never drawn, an empty string without any.

    Args:
        catalogue: Catalogue.
        config: Config.

    Returns:
        str.
    """
    nouns = Wish(config).nouns(config)
    count = int((catalogue.split == "train").sum())
    left = count - len(drawn_rows(catalogue, nouns))
    if not left:
        return ""
    return (
        f"note: {left:,} of {count:,} training images are never drawn: they lack the label "
        f"({' or '.join(nouns)}) that batches are made by; see --category_fraction"
    )


def make_sampler(catalogue: Catalogue, config: Config) -> Sampler:
    """Builds the sampler that the losses of `config` need over the training rows of `catalogue`.

    With a loss on groups or triplets and `category_fraction` f, the share f of `batch_size`
    (images; with explicit triplets, triplets) is drawn uniformly from all training images with a
    label of the losses on single images, and the rest from those with the other losses' label.

    Args:
        catalogue: Catalogue; its split `train` is drawn from.
        config: Config; `losses`, `triplets`, `sampler`, `batch_size`, `images_per_item`,
            `items_per_category`, `cross_domain`, `category_fraction`, `seed`.

    Returns:
        Sampler.

    Raises:
        FirError: if the catalogue has no training image, lacks the labels a loss needs, or holds
            a source of which no image would be drawn; if `category_fraction` has no effect.
    """
    rows = np.flatnonzero(catalogue.split == "train")
    if not len(rows):
        raise FirError(f"the split 'train' is empty in {catalogue.source}")
    for term in config.terms():
        if not (getattr(catalogue, term.label)[rows] >= 0).any():
            raise FirError(
                f"the loss {term.name} needs {term.label} labels, and no training image of "
                f"{catalogue.source} has one. Received: --losses={config.losses}"
            )
    wish = Wish(config)
    _check_taken(config, wish)
    _check_sources(catalogue, rows, wish.nouns(config))
    extra = 0
    if wish.sampler != ANY:
        extra = _extra(config, wish)

    def make(name: str, labels: Sequence[str], size: int, seed: int) -> Sampler:
        request = Request(
            {label: getattr(catalogue, label) for label in labels},
            rows,
            size,
            config.images_per_item,
            seed,
            config.items_per_category,
            config.cross_domain,
            catalogue.category,
            catalogue.domain,
        )
        return registry.get("sampler", name)(request)

    sampler = make(wish.sampler, wish.by, config.batch_size - extra, config.seed)
    for term in wish.formed:
        if term.label not in sampler.triplets:
            raise FirError(
                f"--triplets=explicit needs a sampler that forms triplets for {term.name}. "
                f"Received: --sampler={wish.sampler}"
            )
    if extra:
        sampler = MixedSampler(sampler, make(ANY, wish.single, extra, config.seed + 1))
    return sampler


def _check_taken(config: Config, wish: Wish) -> None:
    """Raises FirError where an option is given that the sampler does not heed."""
    taken = getattr(registry.get("sampler", wish.sampler), "takes", ())
    asked = [
        name
        for name in ("items_per_category", "cross_domain")
        if getattr(config, name) != getattr(Config, name) and name not in taken
    ]
    if asked:
        raise FirError(
            f"`{asked[0]}` is for batches of P x K, and the losses take others: "
            f"--losses={config.losses}. Received: batches of {wish.sampler}"
        )
    if config.items_per_category > 1 and wish.by[0] != "item":
        raise FirError(
            "`items_per_category` is for batches made by item. Received: "
            f"{config.items_per_category} with --losses={config.losses}, by {wish.by[0]}"
        )


def _extra(config: Config, wish: Wish) -> int:
    """The images of a batch that are drawn for the losses on single images alone."""
    extra = round(config.batch_size * config.category_fraction)
    if config.category_fraction and (not wish.single or not 0 < extra < config.batch_size):
        raise FirError(
            "`category_fraction` must bring at least one image a batch for a loss on single "
            "images, and leave one for the others. Received: "
            f"{config.category_fraction} of a batch of {config.batch_size} with "
            f"--losses={config.losses}"
        )
    return extra


def _check_sources(catalogue: Catalogue, rows: np.ndarray, nouns: Sequence[str]) -> None:
    drawn = drawn_rows(catalogue, nouns)
    for origin in np.unique(catalogue.origin[rows]):
        if not (catalogue.origin[drawn] == origin).any():
            raise FirError(
                f"no image of {catalogue.sources[origin]} would ever be drawn: batches are made "
                f"by {' or '.join(nouns)}, and its images have no such label. Take it "
                "out, change --losses, or draw images that have a category only with "
                "--category_fraction, such as 0.25"
            )
