"""Paths and annotation files of the three DeepFashion benchmarks, as their releases have them."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fir_tf.boutique.planning import Item, Photo

PARTITION = "Eval/list_eval_partition.txt"

# All names of the Category benchmark in its order, by type: 1 upper body, 2 lower body, 3 whole
# body. The labels are 1-based positions in it: Blouse is 3, Tee 18. Not every name is sold here.
_NAMES_BY_TYPE = {
    1: "Anorak Blazer Blouse Bomber Button-Down Cardigan Flannel Halter Henley Hoodie Jacket "
    "Jersey Parka Peacoat Poncho Sweater Tank Tee Top Turtleneck",
    2: "Capris Chinos Culottes Cutoffs Gauchos Jeans Jeggings Jodhpurs Joggers Leggings Sarong "
    "Shorts Skirt Sweatpants Sweatshorts Trunks",
    3: "Caftan Cape Coat Coverup Dress Jumpsuit Kaftan Kimono Nightdress Onesie Robe Romper "
    "Shirtdress Sundress",
}
_CATEGORY_TYPES = {name: kind for kind, text in _NAMES_BY_TYPE.items() for name in text.split()}
_CATEGORY_LABELS = {name: label for label, name in enumerate(_CATEGORY_TYPES, 1)}

# The first words of a folder of the Category benchmark; an entity and an apostrophe are among
# them because the release has such.
_PATTERN_WORDS = {
    "plain": "Classic",
    "stripes": "Sailor's_Stripe",
    "checks": "Checked",
    "tartan": "Tartan",
    "dots": "Polka_Dot",
    "chevron": "Chevron",
    "argyle": "Argyle",
    "flowers": "Floral",
    "blocks": "Colorblock",
    "gradient": "Ombr&eacute;",
    "camouflage": "Camo",
}
# The words behind them: those of the first detail that the cut has.
_DETAIL_WORDS = [
    ("belt", "sash", "Sash-Belted"),
    ("hem", "ruffle", "Ruffled"),
    ("closure", "zip", "Zip-Front"),
    ("pocket", "patch", "Patch-Pocket"),
    ("cargo", True, "Cargo"),
    ("neck", "v", "V-Neck"),
    ("belt", "belt", "Belted"),
    ("closure", "buttons", "Button-Front"),
]

_Shots = Sequence[tuple[Item, Photo]]

# The two folders above an item of Consumer-to-Shop.
_CONSUMER2SHOP_FOLDERS = {
    "WOMEN/Dresses": "DRESSES/Dress",
    "MEN/Tees_Tanks": "TOPS/T_Shirt",
    "WOMEN/Skirts": "DRESSES/Skirt",
    "MEN/Jackets_Vests": "CLOTHING/Jacket",
    "WOMEN/Blouses_Shirts": "TOPS/Blouse",
    "MEN/Pants": "TROUSERS/Pants",
    "WOMEN/Cardigans": "CLOTHING/Cardigan",
    "MEN/Shirts_Polos": "TOPS/Polo_Shirt",
    "WOMEN/Rompers_Jumpsuits": "CLOTHING/Jumpsuit",
    "MEN/Shorts": "TROUSERS/Shorts",
    "WOMEN/Sweaters": "TOPS/Sweater",
    "MEN/Sweatshirts_Hoodies": "CLOTHING/Hoodie",
}


@dataclasses.dataclass(frozen=True)
class Arrangement:
    """Where the photos of a plan go, and the files that describe them.

    Attributes:
        paths: list of str, one a photo, in the order of the plan: `img/...`, below `Img/`.
        annotations: {path below the root: text}.
    """

    paths: list[str]
    annotations: dict[str, str]


def arrange(layout: str, garments: Iterable[Item], photos: Iterable[Photo]) -> Arrangement:
    """Arranges a plan in the layout of a benchmark.

    Args:
        layout: str, one of `LAYOUTS`, the one the plan was made for.
        garments: list of `Item`.
        photos: list of `Photo`.

    Returns:
        Arrangement.

    Reference:
        PAPER: the three benchmarks, as published.
    """
    items = {item.number: item for item in garments}
    return _ARRANGE[layout]([(items[photo.item], photo) for photo in photos])


def _inshop(shots: _Shots) -> Arrangement:
    paths, keys = [], []
    for item, photo in shots:
        name = f"{photo.variant + 1:02d}_{photo.number}_{photo.view}.jpg"
        paths.append(f"img/{item.category}/{_item_id(item.number)}/{name}")
        keys.append((item.number, name))
    rows = []
    for place in sorted(range(len(shots)), key=keys.__getitem__):
        item, photo = shots[place]
        rows.append(f"{paths[place]:<70} {_item_id(item.number)} {photo.split:<10}")
    return Arrangement(paths, {PARTITION: _table("image_name item_id evaluation_status", rows)})


def _category(shots: _Shots) -> Arrangement:
    paths: list[str] = []
    folders: dict[str, list[tuple[str, int, str]]] = {}
    for item, photo in shots:
        name = _category_name(item)
        # One folder for all the garments that its words describe, as in the release.
        words = "_".join([_PATTERN_WORDS[item.pattern["kind"]], *_details(item.cut)[:1], name])
        folder = folders.setdefault(words, [])
        paths.append(f"img/{words}/img_{len(folder) + 1:08d}.jpg")
        folder.append((paths[-1], _CATEGORY_LABELS[name], photo.split))
    rows = [row for folder in folders.values() for row in folder]
    names = [f"{name:<14} {kind}" for name, kind in _CATEGORY_TYPES.items()]
    labels = [f"{path:<70} {label:<3}" for path, label, _ in rows]
    splits = [f"{path:<70} {split:<6}" for path, _, split in rows]
    return Arrangement(
        paths,
        {
            "Anno/list_category_cloth.txt": _table("category_name  category_type", names),
            "Anno/list_category_img.txt": _table("image_name  category_label", labels),
            PARTITION: _table("image_name  evaluation_status", splits),
        },
    )


def _consumer2shop(shots: _Shots) -> Arrangement:
    paths: list[str] = []
    sides: dict[str, dict[str, list[tuple[str, str]]]] = {}
    for item, photo in shots:
        # Every seventh id is left out, for the release's ids have gaps.
        item_id = _item_id(item.number + item.number // 6)
        side = sides.setdefault(item_id, {"shop": [], "consumer": []})[photo.domain]
        # The release spells it so.
        word = "comsumer" if photo.domain == "consumer" else "shop"
        folder = f"img/{_CONSUMER2SHOP_FOLDERS[item.category]}/{item_id}"
        paths.append(f"{folder}/{word}_{len(side) + 1:02d}.jpg")
        side.append((paths[-1], photo.split))
    rows = [
        f"{path:<70} {side['shop'][place % len(side['shop'])][0]:<70} {item_id} {split:<6}"
        for item_id, side in sides.items()
        for place, (path, split) in enumerate(side["consumer"])
    ]
    header = "image_pair_name_1 image_pair_name_2 item_id evaluation_status"
    return Arrangement(paths, {PARTITION: _table(header, rows)})


_ARRANGE = {"inshop": _inshop, "category": _category, "consumer2shop": _consumer2shop}


def _table(header: str, rows: Sequence[str]) -> str:
    """Returns an annotation file: a count line, a header line, the rows."""
    return "\n".join([str(len(rows)), header, *rows]) + "\n"


def _item_id(number: int) -> str:
    """Returns an item id as the releases spell it, e.g. "id_00000002"."""
    return f"id_{number:08d}"


def _category_name(item: Item) -> str:
    """Returns the name among the 50 that suits an item best."""
    cut = item.cut
    return {
        "WOMEN/Dresses": "Dress",
        "MEN/Tees_Tanks": "Tee" if cut.get("sleeve") else "Tank",
        "WOMEN/Skirts": "Skirt",
        "MEN/Jackets_Vests": "Jacket",
        "WOMEN/Blouses_Shirts": "Blouse",
        "MEN/Pants": "Joggers" if cut["cuff"] else "Chinos",
        "WOMEN/Cardigans": "Cardigan",
        "MEN/Shirts_Polos": "Button-Down",
        "WOMEN/Rompers_Jumpsuits": "Romper" if cut["length"] < 2 else "Jumpsuit",
        "MEN/Shorts": "Shorts",
        "WOMEN/Sweaters": "Turtleneck" if cut.get("collar") == "turtle" else "Sweater",
        "MEN/Sweatshirts_Hoodies": "Hoodie" if cut.get("collar") == "hood" else "Sweater",
    }[item.category]


def _details(cut: Mapping[str, Any]) -> list[str]:
    """Returns the words for what is sewn on a garment, the most telling first."""
    return [word for key, value, word in _DETAIL_WORDS if cut.get(key) == value]
