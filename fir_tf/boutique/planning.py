"""Which items there are, which photos each has, and which split they belong to."""

import collections
import dataclasses
from typing import Any

import numpy as np

from fir_tf.boutique.shapes import Rng
from fir_tf.boutique.styles import CATEGORIES, CUTS, PALETTES, PATTERNS
from fir_tf.errors import FirError

LAYOUTS = ("inshop", "category", "consumer2shop")

# Members of a family share category, colours and kind of pattern, so that telling them apart
# takes the details.
_FAMILY = 3

_SHOP_WORDS = ("front", "side", "back", "full")
_WORD_NUMBERS = {"front": 1, "side": 2, "back": 3, "full": 4, "additional": 7}


@dataclasses.dataclass(frozen=True)
class Item:
    """A garment as it hangs in the shop: everything that all its photos have in common.

    Attributes:
        number: int >= 1, unique in the plan.
        category: str, one of `CATEGORIES`.
        cut: dict, the parameters of the silhouette and its details.
        pattern: dict, the kind of pattern and its parameters.
        palettes: list of (base, second, accent) colours as hex strings, one a colour variant.
    """

    number: int
    category: str
    cut: dict[str, Any]
    pattern: dict[str, Any]
    palettes: list[tuple[str, str, str]]


@dataclasses.dataclass(frozen=True)
class Photo:
    """One photo of an item.

    Attributes:
        item: int, the item's number.
        variant: int, the colour variant, an index into the item's palettes.
        domain: "shop" or "consumer".
        view: "front", "side", "back", "full" or "additional" (the consumer photos).
        number: int, tells photos of the same item, variant and view apart; as In-Shop has it,
            1 is front, 2 side, 3 back, 4 full and 7 additional, then 11, 12, ... come.
        split: "train", "query" or "gallery" in In-Shop, otherwise "train", "val" or "test".
        seed: list of ints, the seed of everything that is this photo's alone.
    """

    item: int
    variant: int
    domain: str
    view: str
    number: int
    split: str
    seed: list[int]


def plan(
    items: int = 180, views: int = 6, seed: int = 0, layout: str = "inshop"
) -> tuple[list[Item], list[Photo]]:
    """Decides which items there are, which photos each has and which split they belong to.

    Items go round the categories. Of a category every second item is kept from training; the
    items of two splits are disjoint, but for In-Shop's queries and gallery, which share them.

    - In-Shop: half of the photos of an item (rounded down) are consumer photos. Of a test item
      they are queries and the shop photos are the gallery; from six photos on, one of each
      changes sides, so that neither side is of one domain only.
    - Category: as many photos of either kind, but no siblings: every item has colours and a
      pattern of its own. The items kept from training are validation and test items in turn.
    - Consumer-to-Shop: In-Shop's items. Those kept from training are validation and test items
      in turn, a family of siblings at a time. A third of the photos (rounded down, at least
      one) are shop photos, for the release has many consumer photos to one.

    Args:
        items: int >= 4, how many items. From 12 on every category has one, from 24 on every
            category has a training item and one kept from training.
        views: int in [2, 40], photos an item.
        seed: int >= 0.
        layout: str, one of `LAYOUTS`.

    Returns:
        A list of `Item` and a list of `Photo`, both in the order of the item numbers; of an
        item the shop photos come first.

    Raises:
        FirError: if an argument is out of its range.
    """
    check_integer("items", items, 4, 99_999_999)
    check_integer("views", views, 2, 40)
    check_integer("seed", seed, 0, 2**63 - 1)
    if layout not in LAYOUTS:
        raise FirError(f"`layout` must be one of {', '.join(LAYOUTS)}. Received: {layout!r}")
    garments: list[Item] = []
    photos: list[Photo] = []
    members: collections.Counter[tuple[int, bool]] = collections.Counter()
    for index in range(items):
        category, test = row = _row(index)
        # Siblings are for telling items apart; with them a few patterns would tell the category.
        family, place = divmod(members[row], 1 if layout == "category" else _FAMILY)
        members[row] += 1
        item = _design(seed, index, family, place, views)
        garments.append(item)
        split = "test" if test else "train"
        # Staggered likewise, so that even two items kept from training are one of each.
        if test and layout != "inshop" and (family + category // 2) % 2:
            split = "val"
        photos.extend(_shoot(seed, item, split, views, layout))
    return garments, photos


def check_integer(name: str, value: object, low: int, high: int) -> None:
    """Raises FirError unless `value`, the argument `name`, is an int in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise FirError(f"`{name}` must be an integer. Received: {value!r}")
    if value < low:
        raise FirError(f"`{name}` must be >= {low}. Received: {value}")
    if value > high:
        raise FirError(f"`{name}` must be <= {high}. Received: {value}")


def pick(rng: Rng, spec: Any) -> Any:
    """Draws from a list (choice) or a pair (range); returns all else as it is."""
    if isinstance(spec, list):
        return spec[int(rng.integers(len(spec)))]
    if isinstance(spec, tuple):
        return round(float(rng.uniform(*spec)), 4)
    return spec


def _row(index: int) -> tuple[int, bool]:
    """Returns the category's number of an item, and whether it is kept from training."""
    # The second term staggers the categories, so that even four items have both splits.
    return index % len(CATEGORIES), (index // len(CATEGORIES) + index) % 2 == 1


def _design(seed: int, index: int, family: int, place: int, views: int) -> Item:
    """Returns the item at `place` in a family of a category's training or test items."""
    category, test = _row(index)
    shared = np.random.default_rng([seed, 1, category, int(test), family])
    own = np.random.default_rng([seed, 2, index])
    name = CATEGORIES[category]
    cut = {}
    for key, spec in CUTS[name].items():
        common, different = pick(shared, spec), pick(own, spec)
        # Dealt round the family rather than drawn, so that siblings never share the print.
        if key == "logo" and isinstance(spec, list):
            cut[key] = spec[(int(shared.integers(len(spec))) + place) % len(spec)]
        else:
            cut[key] = common if own.random() < 0.5 else different
    # Dealt from a shuffled deck, so that a small boutique has no favourite pattern.
    deck = np.random.default_rng([seed, 5]).permutation(list(PATTERNS))
    kind = str(deck[(category + 5 * (2 * family + test)) % len(deck)])
    if cut.get("logo", "none") != "none" and shared.random() < 0.3:
        kind = "plain"
    pattern: dict[str, Any] = {"kind": kind}
    pattern["phase"] = [round(float(x), 4) for x in own.random(3)]
    for key, values in PATTERNS[kind].items():
        # Dealt as well: siblings differ in every parameter of the pattern.
        pattern[key] = values[(int(shared.integers(len(values))) + place) % len(values)]
    if kind not in ("plain", "gradient", "blocks"):
        cut["logo"] = "none"
    palettes = [PALETTES[i] for i in shared.permutation(len(PALETTES))[:2]]
    if own.random() < 0.35:
        palettes = [(second, base, accent) for base, second, accent in palettes]
    variants = 1 if views < 4 else int(own.integers(1, 3))
    first = int(own.integers(2))
    palettes = [palettes[(first + i) % 2] for i in range(variants)]
    return Item(index + 1, name, cut, pattern, palettes)


def _shoot(seed: int, item: Item, split: str, views: int, layout: str) -> list[Photo]:
    """Returns the photos of an item, its shop photos first."""
    rng = np.random.default_rng([seed, 3, item.number])
    shops = max(1, views // 3) if layout == "consumer2shop" else views - views // 2
    consumers = views - shops
    # Every colour has a shop photo.
    variants = min(len(item.palettes), shops)
    photos: list[Photo] = []
    taken: collections.Counter[tuple[int, str]] = collections.Counter()
    # The front comes first; which of the other sides a small number of views shows is chance.
    words = ["front"] + [str(word) for word in rng.permutation(_SHOP_WORDS[1:])]
    for index in range(views):
        domain = "shop" if index < shops else "consumer"
        place = index if domain == "shop" else index - shops
        # A consumer photo has the colour of the shop photo at its place, counted round.
        variant = place % shops % variants
        turn = taken[variant, domain]
        taken[variant, domain] += 1
        if domain == "shop":
            view = words[turn % len(words)]
            number = _WORD_NUMBERS[view] + 10 * (turn // len(words))
        else:
            view, number = "additional", _WORD_NUMBERS["additional"] + turn
        side = split
        if layout == "inshop" and split == "test":
            side = "gallery" if domain == "shop" else "query"
            last = (shops if domain == "shop" else consumers) - 1
            if consumers >= 3 and place == last:
                side = "query" if domain == "shop" else "gallery"
        photos.append(
            Photo(item.number, variant, domain, view, number, side, [seed, 4, item.number, index])
        )
    return photos
