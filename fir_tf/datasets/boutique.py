"""A rendered fashion data set in the layout of DeepFashion's In-Shop benchmark.

DeepFashion's images need a licence and a GPU. The boutique needs neither: it draws garments of
twelve categories on mannequins, hangers and beds, each item in several photos, and writes them as
JPEG files that everything which reads In-Shop reads. It is made so that the instance has to be
learned: items come in families of the same category, cut, colours and kind of pattern, an item
comes in colour variants, and consumer photos (cluttered rooms, odd light, occlusion, noise) have
to find shop photos.

Three steps, each usable alone:

1. `plan` decides which items, photos and splits there are,
2. `render` draws one photo of one item,
3. `write` puts the photos and the annotation file on the disk.

Another layout is another `write` over the same plan. Nothing here imports TensorFlow.

Lengths in the drawing code are in body units: the origin is the base of the neck, y points down,
the shoulders are about 0.8 apart and the ankles at y = 2.65. Colours are floats in [0, 1].
"""

import argparse
import dataclasses
import json
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from tqdm import tqdm

from fir_tf import files
from fir_tf.errors import FirError

MANIFEST = "boutique.json"
CONTACT = "boutique.png"
PARTITION = "Eval/list_eval_partition.txt"

# Raised whenever the pixels or the plan change, so that an old folder is not taken for a new one.
VERSION = 1

_TOP = {
    "body": "top",
    "length": (1.12, 1.24),
    "ease": (0.03, 0.09),
    "flare": (0.0, 0.05),
    "sleeve": 0.3,
    "sleeve_width": 0.13,
    "puff": 0.0,
    "neck": "crew",
    "collar": "none",
    "closure": "none",
    "pocket": "none",
    "band": 0.0,
    "cuff": 0.0,
    "hem": "straight",
    "yoke": 0.0,
    "contrast_sleeves": False,
    "trim": False,
    "logo": "none",
    "logo_at": "centre",
    "belt": "none",
    "rib": False,
}
_BOTTOM = {
    "body": "pants",
    "length": (2.4, 2.62),
    "ease": (0.02, 0.06),
    "leg": (0.13, 0.2),
    "side_stripe": False,
    "cargo": False,
    "cuff": 0.0,
    "belt": ["none", "belt"],
    "trim": False,
    "pocket": "slant",
    "drawstring": False,
    "flare": 0.0,
    "pleats": 0,
    "hem": "straight",
    "closure": "none",
    "rib": False,
    "knee": False,
}
_LOGOS = ["star", "heart", "disc", "ring", "triangle", "bars", "cross", "moon", "bolt", "flower"]

# What varies within a category. A list is a choice, a tuple of two a range, all else is fixed.
# The names are folders of In-Shop.
_CUTS = {
    "WOMEN/Dresses": _TOP
    | {
        "body": "dress",
        "length": (1.75, 2.25),
        "flare": (0.12, 0.4),
        "sleeve": [0.0, 0.3, 0.55],
        "neck": ["v", "scoop", "square", "boat"],
        "belt": ["none", "belt", "sash"],
        "hem": ["straight", "band", "ruffle"],
        "puff": [0.0, 0.06],
        "trim": [True, False],
        "closure": ["none", "none", "placket"],
        "pleats": 0,
    },
    "MEN/Tees_Tanks": _TOP
    | {
        "sleeve": [0.0, 0.3, 0.36],
        "neck": ["crew", "crew", "v", "scoop"],
        "trim": [True, False],
        "pocket": ["none", "none", "chest"],
        "contrast_sleeves": [True, False],
        "yoke": [0.0, 0.0, 0.32],
        "sleeve_width": (0.13, 0.17),
        "logo": _LOGOS,
        "logo_at": ["centre", "chest", "low"],
    },
    "WOMEN/Skirts": _BOTTOM
    | {
        "body": "skirt",
        "length": (1.5, 2.15),
        "flare": (0.02, 0.42),
        "pleats": [0, 0, 5, 8],
        "hem": ["straight", "band", "ruffle"],
        "closure": ["none", "buttons"],
        "belt": ["none", "belt", "sash"],
        "pocket": ["none", "patch"],
    },
    "MEN/Jackets_Vests": _TOP
    | {
        "length": (1.12, 1.36),
        "ease": (0.1, 0.16),
        "sleeve": [0.0, 1.0, 1.0],
        "sleeve_width": (0.15, 0.18),
        "neck": "v",
        "collar": ["stand", "shirt", "hood"],
        "closure": ["zip", "buttons"],
        "pocket": ["slant", "two", "patch"],
        "band": [0.0, 0.1],
        "cuff": [0.0, 0.09],
        "yoke": [0.0, 0.3],
        "contrast_sleeves": [True, False],
        "trim": [True, False],
    },
    "WOMEN/Blouses_Shirts": _TOP
    | {
        "flare": (0.04, 0.16),
        "sleeve": [0.45, 0.7, 1.0],
        "sleeve_width": (0.15, 0.2),
        "puff": [0.05, 0.1],
        "neck": ["v", "square", "boat"],
        "collar": ["none", "none", "bow"],
        "closure": ["none", "placket", "buttons"],
        "hem": ["straight", "ruffle", "curved"],
        "cuff": [0.0, 0.08],
        "trim": [True, False],
        "belt": ["none", "none", "sash"],
    },
    "MEN/Pants": _BOTTOM
    | {
        "side_stripe": [True, False, False],
        "cargo": [True, False],
        "cuff": [0.0, 0.1],
        "drawstring": [True, False],
        "knee": [True, False, False],
        "trim": [True, False],
    },
    "WOMEN/Cardigans": _TOP
    | {
        "length": (1.15, 1.6),
        "ease": (0.06, 0.12),
        "sleeve": [0.6, 1.0],
        "neck": "deep",
        "sleeve_width": (0.14, 0.17),
        "closure": ["open", "buttons"],
        "band": [0.08, 0.12],
        "cuff": [0.08, 0.12],
        "pocket": ["none", "patch"],
        "trim": True,
        "rib": True,
        "belt": ["none", "none", "sash"],
        "contrast_sleeves": [True, False, False],
    },
    "MEN/Shirts_Polos": _TOP
    | {
        "length": (1.18, 1.32),
        "sleeve": [0.32, 0.38, 1.0],
        "neck": "v",
        "collar": ["shirt", "polo"],
        "closure": ["buttons", "placket"],
        "pocket": ["none", "chest", "two"],
        "hem": ["straight", "curved"],
        "cuff": [0.0, 0.07],
        "trim": [True, False],
        "yoke": [0.0, 0.0, 0.3],
        "contrast_sleeves": [True, False, False],
    },
    "WOMEN/Rompers_Jumpsuits": _TOP
    | {
        "body": "jumpsuit",
        "length": (1.65, 2.55),
        "leg": (0.17, 0.27),
        "flare": 0.0,
        "sleeve": [0.0, 0.0, 0.3],
        "neck": ["v", "square", "scoop"],
        "belt": ["belt", "sash", "none"],
        "closure": ["none", "buttons", "zip"],
        "pocket": ["slant", "chest"],
        "trim": [True, False],
    },
    "MEN/Shorts": _BOTTOM
    | {
        "length": (1.6, 1.92),
        "leg": (0.24, 0.31),
        "side_stripe": [True, False, False],
        "cargo": [True, False],
        "cuff": [0.0, 0.08],
        "drawstring": [True, False],
        "trim": [True, False],
    },
    "WOMEN/Sweaters": _TOP
    | {
        "ease": (0.07, 0.14),
        "sleeve": 1.0,
        "sleeve_width": (0.15, 0.19),
        "neck": ["crew", "v", "boat"],
        "collar": ["none", "turtle"],
        "band": [0.08, 0.14],
        "cuff": [0.08, 0.14],
        "yoke": [0.0, 0.36],
        "trim": [True, False],
        "rib": True,
        "contrast_sleeves": [True, False, False],
    },
    "MEN/Sweatshirts_Hoodies": _TOP
    | {
        "ease": (0.08, 0.14),
        "sleeve": 1.0,
        "sleeve_width": (0.15, 0.19),
        "collar": ["hood", "hood", "none"],
        "closure": ["none", "zip"],
        "band": 0.1,
        "cuff": 0.1,
        "pocket": ["kangaroo", "kangaroo", "none"],
        "contrast_sleeves": [True, False],
        "trim": [True, False],
        "logo": _LOGOS,
        "logo_at": ["centre", "chest"],
        "yoke": [0.0, 0.0, 0.32],
    },
}
CATEGORIES = tuple(_CUTS)

# Base, second and accent colour of a garment.
_PALETTES = [
    ("1f2a44", "f2efe6", "c8102e"),
    ("f4f1ea", "23395b", "d9a441"),
    ("7a1f2b", "f0d9b5", "1d1d1f"),
    ("2f5d50", "f5e9d3", "e07a5f"),
    ("d8c3a5", "5b4636", "2a9d8f"),
    ("111418", "f7f7f7", "ffb703"),
    ("8fb8de", "ffffff", "1d3557"),
    ("e9c46a", "264653", "e76f51"),
    ("f4acb7", "6d2e46", "fff1e6"),
    ("5a6b3b", "e8e4c9", "bc4b28"),
    ("6c7a89", "eceff1", "f25f5c"),
    ("b5651d", "fbe8d3", "14342b"),
    ("3d348b", "f7b801", "f18701"),
    ("a8dadc", "e63946", "1d3557"),
    ("c9ada7", "4a4e69", "f2e9e4"),
    ("005f73", "e9d8a6", "ca6702"),
    ("e5e5e5", "14213d", "fca311"),
    ("9d4edd", "f8edff", "240046"),
    ("dd6e42", "e8dab2", "4f6d7a"),
    ("283618", "dda15e", "fefae0"),
    ("ffffff", "1b1b1e", "3a86ff"),
    ("4a6fa5", "dbe9ee", "c0d6df"),
    ("bc6c75", "fff0f3", "590d22"),
    ("0b3d2e", "b7e4c7", "ffd166"),
]
_SKINS = ["f1c9a5", "e0ac82", "c68a5e", "9a6240", "6f4530", "f6d7bf"]
_HAIRS = ["1c1512", "3b2417", "6b4423", "a9763f", "d9b36c", "7d7d80"]
_NEUTRALS = ["f5f5f2", "17181b", "3a4a63", "8c8f94", "c9b79c", "5c4a3d"]

_PATTERNS = {
    # Repeats are coarse: at 128 pixels a garment is drawn at 50 to 90 pixels a body unit.
    "plain": {},
    "stripes": {
        "period": [0.11, 0.17, 0.25, 0.36],
        "angle": [0, 90, 45, 0, -45, 90],
        "duty": [0.25, 0.5, 0.72],
    },
    "checks": {"period": [0.15, 0.22, 0.32], "angle": [0, 45, 0], "duty": [0.3, 0.5]},
    "tartan": {"period": [0.3, 0.42, 0.56], "angle": [0, 45, 0], "duty": [0.3, 0.5, 0.65]},
    "dots": {"period": [0.13, 0.19, 0.28, 0.4], "duty": [0.22, 0.32, 0.4], "petals": [0]},
    "chevron": {"period": [0.16, 0.24, 0.34], "angle": [0, 90], "duty": [0.3, 0.5, 0.7]},
    "argyle": {"period": [0.24, 0.34, 0.46], "duty": [0.7, 1.0, 1.6]},
    "flowers": {"period": [0.22, 0.32, 0.44], "petals": [3, 5, 4, 6, 2], "duty": [0.32, 0.42]},
    "blocks": {"angle": [0, 90, 45, -45, 0], "duty": [0.25, 0.45, 0.65, 0.9]},
    "gradient": {"angle": [0, 180, 90], "duty": [0.4, 0.8]},
    "camouflage": {"period": [0.3, 0.45, 0.65], "duty": [0.35, 0.5, 0.6]},
}

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
    cut: dict
    pattern: dict
    palettes: list

    @property
    def name(self):
        """The item id as In-Shop spells it, e.g. "id_00000002"."""
        return f"id_{self.number:08d}"


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
        split: "train", "query" or "gallery".
        seed: list of ints, the seed of everything that is this photo's alone.
    """

    item: int
    variant: int
    domain: str
    view: str
    number: int
    split: str
    seed: list

    @property
    def name(self):
        """The file name as In-Shop spells it, e.g. "01_1_front.jpg"."""
        return f"{self.variant + 1:02d}_{self.number}_{self.view}.jpg"


# ---------------------------------------------------------------------------------- the plan


def plan(items=180, views=6, seed=0):
    """Decides which items there are, which photos each has and which split they belong to.

    Items go round the categories. Of a category every second item is a test item; training and
    test items are disjoint. Half of the photos of an item (rounded down) are consumer photos. Of
    a test item the consumer photos are queries and the shop photos are the gallery; from six
    photos on, one of each changes sides, so that neither side is of one domain only.

    Args:
        items: int >= 4, how many items. From 12 on every category has one, from 24 on every
            category has a training and a test item.
        views: int in [2, 40], photos an item.
        seed: int >= 0.

    Returns:
        A list of `Item` and a list of `Photo`, both in the order of the item numbers.

    Raises:
        FirError: if an argument is out of its range.
    """
    _check("items", items, 4, 99_999_999)
    _check("views", views, 2, 40)
    _check("seed", seed, 0, 2**63 - 1)
    garments, photos, counts = [], [], {}
    for index in range(items):
        category = index % len(CATEGORIES)
        # The second term staggers the categories, so that even four items have both splits.
        test = (index // len(CATEGORIES) + index) % 2 == 1
        member = counts.get((category, test), 0)
        counts[category, test] = member + 1
        item = _design(seed, index, category, test, member, views)
        garments.append(item)
        photos.extend(_shoot(seed, item, test, views))
    return garments, photos


def _check(name, value, low, high):
    """Raises FirError unless `value` is an int in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise FirError(f"`{name}` must be an integer. Received: {value!r}")
    if value < low:
        raise FirError(f"`{name}` must be >= {low}. Received: {value}")
    if value > high:
        raise FirError(f"`{name}` must be <= {high}. Received: {value}")


def _pick(rng, spec):
    """Draws from a list (choice) or a pair (range); returns all else as it is."""
    if isinstance(spec, list):
        return spec[int(rng.integers(len(spec)))]
    if isinstance(spec, tuple):
        return round(float(rng.uniform(*spec)), 4)
    return spec


def _design(seed, index, category, test, member, views):
    """Returns member number `member` of a category's training or test items."""
    family, place = divmod(member, _FAMILY)
    shared = np.random.default_rng([seed, 1, category, int(test), family])
    own = np.random.default_rng([seed, 2, index])
    name = CATEGORIES[category]
    cut = {}
    for key, spec in _CUTS[name].items():
        common, different = _pick(shared, spec), _pick(own, spec)
        # Dealt round the family rather than drawn, so that siblings never share the print.
        if key == "logo" and isinstance(spec, list):
            cut[key] = spec[(int(shared.integers(len(spec))) + place) % len(spec)]
        else:
            cut[key] = common if own.random() < 0.5 else different
    # Dealt from a shuffled deck, so that a small boutique has no favourite pattern.
    deck = np.random.default_rng([seed, 5]).permutation(list(_PATTERNS))
    kind = str(deck[(category + 5 * (2 * family + test)) % len(deck)])
    if cut.get("logo", "none") != "none" and shared.random() < 0.3:
        kind = "plain"
    pattern = {"kind": kind, "phase": [round(float(x), 4) for x in own.random(3)]}
    for key, values in _PATTERNS[kind].items():
        # Dealt as well: siblings differ in every parameter of the pattern.
        pattern[key] = values[(int(shared.integers(len(values))) + place) % len(values)]
    if kind not in ("plain", "gradient", "blocks"):
        cut["logo"] = "none"
    palettes = [_PALETTES[i] for i in shared.permutation(len(_PALETTES))[:2]]
    if own.random() < 0.35:
        palettes = [(second, base, accent) for base, second, accent in palettes]
    variants = 1 if views < 4 else int(own.integers(1, 3))
    first = int(own.integers(2))
    palettes = [palettes[(first + i) % 2] for i in range(variants)]
    return Item(index + 1, name, cut, pattern, palettes)


def _shoot(seed, item, test, views):
    """Returns the photos of an item."""
    rng = np.random.default_rng([seed, 3, item.number])
    variants = len(item.palettes)
    consumers = views // 2
    photos, taken = [], {}
    # The front comes first; which of the other sides a small number of views shows is chance.
    words = ["front"] + [str(word) for word in rng.permutation(_SHOP_WORDS[1:])]
    for index in range(views):
        domain = "shop" if index < views - consumers else "consumer"
        place = index if domain == "shop" else index - (views - consumers)
        variant = place % variants
        turn = taken.get((variant, domain), 0)
        taken[variant, domain] = turn + 1
        if domain == "shop":
            view = words[turn % len(words)]
            number = _WORD_NUMBERS[view] + 10 * (turn // len(words))
        else:
            view, number = "additional", _WORD_NUMBERS["additional"] + turn
        split = "train"
        if test:
            split = "gallery" if domain == "shop" else "query"
            last = (views - consumers if domain == "shop" else consumers) - 1
            if consumers >= 3 and place == last:
                split = "query" if domain == "shop" else "gallery"
        photos.append(
            Photo(item.number, variant, domain, view, number, split, [seed, 4, item.number, index])
        )
    return sorted(photos, key=lambda photo: photo.name)


# ------------------------------------------------------------------------------- the drawing


def _rgb(text):
    """Turns "rrggbb" into a float32 array of shape (3,) in [0, 1]."""
    return np.array([int(text[i : i + 2], 16) for i in (0, 2, 4)], np.float32) / 255


def _ink(colour):
    """Turns a colour in [0, 1] into the integer triple Pillow wants."""
    return tuple(int(round(255 * min(max(float(x), 0.0), 1.0))) for x in colour)


def _smooth(rng, size, cells):
    """Returns smooth noise: float32 of shape (size, size), about normal, `cells` bumps across."""
    grid = rng.standard_normal((cells + 3, cells + 3)).astype(np.float32)
    return np.asarray(Image.fromarray(grid).resize((size, size), Image.BICUBIC))


def _spline(points, steps=6):
    """Returns an open Catmull-Rom spline through `points`: float array of shape (n, 2)."""
    points = np.asarray(points, float)
    padded = np.concatenate([points[:1], points, points[-1:]])
    t = np.linspace(0, 1, steps, endpoint=False)[:, None]
    pieces = []
    for a, b, c, d in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        pieces.append(
            0.5
            * (
                2 * b
                + (c - a) * t
                + (2 * a - 5 * b + 4 * c - d) * t**2
                + (3 * b - a - 3 * c + d) * t**3
            )
        )
    return np.concatenate([*pieces, points[-1:]])


def _mirror(points):
    """Returns `points` reflected at x = 0, in the opposite order."""
    return np.asarray(points, float)[::-1] * (-1, 1)


def _ellipse(x, y, rx, ry, steps=24):
    """Returns a polygon around (x, y)."""
    angle = np.linspace(0, 2 * np.pi, steps, endpoint=False)
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], axis=1)


def _box(x0, y0, x1, y1):
    """Returns a rectangle as a polygon."""
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], float)


def _tube(path, widths):
    """Returns the outline of a tube around `path`, `widths` to either side."""
    path, widths = np.asarray(path, float), np.asarray(widths, float)[:, None]
    along = np.gradient(path, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True) + 1e-9
    across = np.stack([-along[:, 1], along[:, 0]], axis=1) * widths
    return np.concatenate([path + across, (path - across)[::-1]])


def _logo(kind, x, y, r):
    """Returns the polygons of a print, about 2 r wide, around (x, y)."""
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    if kind == "star":
        radius = np.where(np.arange(10) % 2 == 0, r, 0.42 * r)
        turn = np.arange(10) * np.pi / 5 - np.pi / 2
        return [np.stack([x + radius * np.cos(turn), y + radius * np.sin(turn)], axis=1)]
    if kind == "heart":
        hx = np.sin(angle) ** 3
        hy = (13 * np.cos(angle) - 5 * np.cos(2 * angle) - 2 * np.cos(3 * angle)) / 16
        return [np.stack([x + r * hx, y - r * hy], axis=1)]
    if kind == "ring":
        outer, inner = _ellipse(x, y, r, r, 40), _ellipse(x, y, 0.55 * r, 0.55 * r, 40)
        return [np.concatenate([outer, outer[:1], inner[:1], inner[::-1]])]
    if kind == "triangle":
        return [np.array([(x, y - r), (x + r, y + 0.8 * r), (x - r, y + 0.8 * r)])]
    if kind == "bars":
        return [
            _box(x - r, y + k * r, x + (1 - 0.3 * i) * r, y + (k + 0.4) * r)
            for i, k in enumerate((-0.8, -0.2, 0.4))
        ]
    if kind == "cross":
        return [
            _box(x - r, y - 0.3 * r, x + r, y + 0.3 * r),
            _box(x - 0.3 * r, y - r, x + 0.3 * r, y + r),
        ]
    if kind == "moon":
        outer = _ellipse(x, y, r, r, 40)[7:34]
        inner = _ellipse(x + 0.45 * r, y, 0.75 * r, 0.85 * r, 40)[9:32]
        return [np.concatenate([outer, inner[::-1]])]
    if kind == "bolt":
        shape = [(0.2, -1.1), (-0.6, 0.15), (-0.05, 0.15), (-0.3, 1.1), (0.6, -0.2), (0.05, -0.2)]
        return [np.array(shape) * r + (x, y)]
    if kind == "flower":
        radius = r * (0.72 + 0.28 * np.cos(5 * angle))
        return [np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], axis=1)]
    return [_ellipse(x, y, r, r)]


def _weave(pattern, palette, s, t, pixel):
    """Evaluates a pattern.

    Args:
        pattern: dict of an `Item`.
        palette: float array of shape (3, 3): base, second and accent colour.
        s, t: float32 arrays of the same shape, position across and along the cloth.
        pixel: float, the size of a pixel in the same unit, for smooth edges.

    Returns:
        float32 array of shape s.shape + (3,).
    """
    kind = pattern["kind"]
    base, second, accent = palette

    def edge(x):
        return np.clip(x / (1.5 * pixel) + 0.5, 0, 1)

    def mixed(weight, other, ground):
        return ground + weight[..., None] * (other - ground)

    if kind == "plain":
        return np.broadcast_to(base, (*s.shape, 3))
    phase = pattern["phase"]
    angle = np.deg2rad(pattern.get("angle", 0))
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    a, b = cos * s + sin * t, cos * t - sin * s
    duty = pattern["duty"]
    if kind == "gradient":
        return mixed(np.clip(b / (2 * duty) + 0.35, 0, 1), second, base)
    if kind == "blocks":
        # Horizontal joins sit low or high on the body, all others near its middle.
        join = duty - 0.25 if pattern["angle"] == 0 else 0.3 * (duty - 0.55)
        cloth = mixed(edge(b - join), second, base)
        return mixed(edge(0.045 - np.abs(b - join)), accent, cloth)
    period = pattern["period"]

    def band(x, share, shift=0.0):
        """1 where x is within the middle `share` of its period."""
        near = np.abs((x / period + shift) % 1 - 0.5) * period
        return edge(0.5 * share * period - near)

    if kind == "stripes":
        cloth = mixed(band(b, duty, phase[0]), second, base)
        return mixed(band(b, 0.14, phase[0] + 0.5), accent, cloth) if period > 0.2 else cloth
    if kind == "checks":
        return mixed(0.5 * (band(a, duty, phase[0]) + band(b, duty, phase[1])), second, base)
    if kind == "tartan":
        cloth = mixed(0.45 * (band(a, duty, phase[0]) + band(b, duty, phase[1])), second, base)
        cloth = mixed(0.8 * band(a, 0.1, phase[0] + 0.5), accent, cloth)
        return mixed(0.8 * band(b, 0.1, phase[1] + 0.5), accent, cloth)
    if kind == "chevron":
        zigzag = np.abs((a / (2 * period)) % 1 - 0.5) * 2 * period
        return mixed(band(b + zigzag, duty, phase[0]), second, base)
    if kind == "argyle":
        u, v = a / period, b / (period * duty)
        diamond = 0.5 - np.abs(u % 1 - 0.5) - np.abs(v % 1 - 0.5)
        odd = (np.floor(v) % 2)[..., None]
        cloth = mixed(edge(diamond * period), second, base)
        cloth = np.where(
            (odd > 0) & (diamond[..., None] > 0), mixed(edge(diamond * period), accent, base), cloth
        )
        return cloth
    if kind == "camouflage":
        u, v = 2 * np.pi * a / period, 2 * np.pi * b / period
        turn = 6.2832 * np.array(phase)
        field = np.sin(u + 1.3 * np.sin(0.7 * v + turn[0]) + turn[1]) + np.sin(
            0.83 * v + 1.5 * np.sin(0.6 * u + turn[2]) + turn[0]
        )
        cloth = mixed(edge((field - 1.4 * (1 - 2 * duty)) * 0.1 * period), second, base)
        return mixed(edge((-field - 1.1) * 0.1 * period), accent, cloth)
    # Dots and flowers: one in every cell of a grid whose odd rows are shifted by half a cell.
    row = np.floor(t / period)
    u = s / period + 0.5 * (row % 2) + phase[0]
    column = np.floor(u)
    x, y = (u - column - 0.5) * period, (t / period - row - 0.5) * period
    radius = np.hypot(x, y)
    petals = pattern["petals"]
    if petals == 0:
        return mixed(edge(duty * period - radius), second, base)
    spin = 2.4 * row + 1.7 * column
    shape = duty * period * (0.68 + 0.42 * np.cos(petals * np.arctan2(y, x) + spin))
    cloth = mixed(edge(shape - radius), second, base)
    return mixed(edge(0.12 * period - radius), accent, cloth)


class _Scene:
    """A picture of a figure, drawn part by part over transparency.

    Attributes:
        size: int, pixels a side.
        image: RGB picture.
        alpha: L picture, where anything was drawn.
    """

    def __init__(self, rng, size, camera, turn, squeeze, fold):
        """Sets up a view.

        Args:
            rng: numpy Generator, for the folds.
            size: int, pixels a side.
            camera: float array of shape (2, 3), body units to pixels.
            turn: float in (-0.5, 0.5), how far the middle of the front is turned sideways.
            squeeze: float, how much of the width is left by the turn.
            fold: float, the strength of the folds.
        """
        self.size, self.camera, self.turn, self.squeeze = size, camera, turn, squeeze
        self.image = Image.new("RGB", (size, size))
        self.alpha = Image.new("L", (size, size))
        self.pixel = float(1 / np.sqrt(abs(np.linalg.det(camera[:, :2]))))
        inverse = np.linalg.inv(camera[:, :2])
        y, x = np.mgrid[:size, :size].astype(np.float32)
        x, y = x - np.float32(camera[0, 2]), y - np.float32(camera[1, 2])
        across = np.float32(inverse[0, 0]) * x + np.float32(inverse[0, 1]) * y
        self.y = np.float32(inverse[1, 0]) * x + np.float32(inverse[1, 1]) * y
        self.x = self._untwist(across).astype(np.float32)
        self.folds = self._fold(rng, fold)

    _WAIST = 0.62

    def _twist(self, x):
        """Moves the middle of the body sideways and leaves its outline: a turn, seen in front."""
        w, inside = self._WAIST, np.abs(x) < self._WAIST
        return self.squeeze * np.where(inside, x + self.turn * (w - x * x / w), x)

    def _untwist(self, x):
        """The inverse of `_twist`."""
        x = x / self.squeeze
        if abs(self.turn) < 1e-3:
            return x
        w, k = self._WAIST, self.turn / self._WAIST
        root = np.sqrt(np.maximum(1 + 4 * k * (self.turn * w - x), 0))
        return np.where(np.abs(x) < w, (1 - root) / (2 * k), x)

    def _fold(self, rng, strength):
        """Returns the light and dark of folds: float32 (size, size) around 0."""
        small = max(self.size // 4, 8)
        y, x = np.mgrid[:small, :small].astype(np.float32) / small - 0.5
        folds = 0.35 * _smooth(rng, small, 4)
        for _ in range(6):
            angle = rng.normal(0, 0.5)
            cx, cy = rng.uniform(-0.4, 0.4, 2)
            u = np.cos(angle) * (x - cx) + np.sin(angle) * (y - cy)
            v = np.cos(angle) * (y - cy) - np.sin(angle) * (x - cx)
            width = rng.uniform(0.015, 0.04)
            folds += (
                rng.choice([-1.0, 1.0])
                * u
                / width
                * np.exp(-((u / width) ** 2))
                * np.exp(-((v / rng.uniform(0.15, 0.35)) ** 2))
                * 1.6
            )
        folds = Image.fromarray(folds.astype(np.float32)).resize((self.size,) * 2, Image.BICUBIC)
        return strength * np.asarray(folds)

    def points(self, points):
        """Maps points of shape (n, 2) from body units to pixels."""
        points = np.asarray(points, float)
        x = self._twist(points[:, 0])
        return np.stack([x, points[:, 1]], axis=1) @ self.camera[:, :2].T + self.camera[:, 2]

    def fill(self, points, paint, line=True, cloth=True, round_=0.05):
        """Draws a polygon.

        Args:
            points: array of shape (n, 2) in body units.
            paint: colour of shape (3,), or a function of (x, y) that returns colours.
            line: bool, whether to draw the outline.
            cloth: bool, whether folds show.
            round_: float, the width of the darker rim that makes it look round.
        """
        pixels = self.points(points)
        low = np.maximum(np.floor(pixels.min(0)).astype(int) - 1, 0)
        high = np.minimum(np.ceil(pixels.max(0)).astype(int) + 2, self.size)
        if np.any(high - low < 2):
            return
        mask = Image.new("L", tuple(int(v) for v in high - low))
        outline = [tuple(p) for p in pixels - low]
        ImageDraw.Draw(mask).polygon(outline, fill=255)
        part = np.s_[low[1] : high[1], low[0] : high[0]]
        colours = paint(self.x[part], self.y[part]) if callable(paint) else paint
        light = 1 + self.folds[part] if cloth else np.ones(mask.size[::-1], np.float32)
        if round_ > 0:
            inside = mask.filter(ImageFilter.BoxBlur(1.6 * round_ / self.pixel))
            light = light * (0.56 + 0.46 * np.asarray(inside, np.float32) / 255)
        picture = np.clip(colours * light[..., None], 0, 1) * 255
        picture = Image.fromarray(picture.astype(np.uint8))
        if line:
            shade = np.mean(picture.resize((1, 1), Image.BOX).getpixel((0, 0))) / 255
            tone = _ink([0.5 * shade] * 3 if callable(paint) else 0.6 * np.asarray(paint))
            ImageDraw.Draw(picture).line(
                outline + outline[:1], fill=tone, width=max(1, self.size // 160)
            )
        self.image.paste(picture, tuple(int(v) for v in low), mask)
        self.alpha.paste(255, tuple(int(v) for v in low), mask)

    def line(self, points, colour, width=0.012):
        """Draws an open line, `width` in body units."""
        pixels = [tuple(p) for p in self.points(points)]
        ImageDraw.Draw(self.image).line(
            pixels, fill=_ink(colour), joint="curve", width=max(1, round(width / self.pixel))
        )


@dataclasses.dataclass(frozen=True)
class _Pose:
    """Angles in radians, of the arms from hanging straight, and of the legs.

    Attributes:
        arms: per side (left, right) of the picture: (upper arm, bend of the forearm).
        legs: per side, how far the leg is spread.
        back: bool, seen from behind.
        worn: bool, whether a person is in the garment.
    """

    arms: tuple
    legs: tuple
    back: bool
    worn: bool


def _arm(pose, side, end=1.0):
    """Returns the middle line of an arm up to the share `end`: array (n, 2), side is -1 or 1."""
    upper, bend = pose.arms[0 if side < 0 else 1]
    shoulder = np.array([0.37, 0.17])
    elbow = shoulder + 0.55 * np.array([np.sin(upper), np.cos(upper)])
    wrist = elbow + 0.52 * np.array([np.sin(upper - bend), np.cos(upper - bend)])
    share = np.linspace(0, end, max(3, int(12 * end)))[:, None]
    path = np.where(
        share < 0.514,
        shoulder + (elbow - shoulder) * share / 0.514,
        elbow + (wrist - elbow) * (share - 0.514) / 0.486,
    )
    return path * (side, 1)


def _leg(pose, side):
    """Returns hip, knee and ankle of a leg: array (3, 2)."""
    spread = pose.legs[0 if side < 0 else 1]
    hip = np.array([0.17, 1.22])
    knee = hip + 0.72 * np.array([np.sin(0.5 * spread), 1])
    ankle = knee + 0.72 * np.array([np.sin(spread), 1])
    return np.array([hip, knee, ankle]) * (side, 1)


def _person(scene, pose, skin, hair, style):
    """Draws a person to put garments on; the face is left empty."""
    for side in (-1, 1):
        leg = _leg(pose, side)
        scene.fill(
            _tube(
                _spline(leg),
                np.interp(np.linspace(0, 1, 13), [0, 0.5, 0.6, 1], [0.17, 0.11, 0.105, 0.06]),
            ),
            skin,
            cloth=False,
        )
        foot = leg[-1] + (0.04 * side, 0.09)
        scene.fill(_ellipse(*foot, 0.1, 0.075), np.array([0.18, 0.16, 0.16]), cloth=False)
    if style == "long":
        scene.fill(
            _spline(
                [
                    (-0.2, -0.5),
                    (-0.29, -0.2),
                    (-0.3, 0.2),
                    (0, 0.3),
                    (0.3, 0.2),
                    (0.29, -0.2),
                    (0.2, -0.5),
                ]
            ),
            hair,
            cloth=False,
        )
    torso = _spline(
        [(0.1, -0.05), (0.36, 0.1), (0.32, 0.45), (0.25, 0.85), (0.34, 1.2), (0.2, 1.4)]
    )
    scene.fill(np.concatenate([torso, _mirror(torso)]), skin, cloth=False)
    for side in (-1, 1):
        path = _arm(pose, side)
        scene.fill(_tube(path, np.linspace(0.09, 0.05, len(path))), skin, cloth=False)
        scene.fill(_ellipse(*(path[-1] + (0, 0.05)), 0.06, 0.085), skin, cloth=False)
    scene.fill(_box(-0.1, -0.28, 0.1, 0.06), skin * 0.93, line=False, cloth=False)
    scene.fill(_ellipse(0, -0.4, 0.19, 0.25), skin, cloth=False)
    cap = _ellipse(0, -0.43, 0.215, 0.26)
    scene.fill(
        cap if pose.back else np.concatenate([cap[11:], cap[:2], [(0.1, -0.5), (-0.1, -0.52)]]),
        hair,
        cloth=False,
    )


def _dress_up(scene, item, palette, pose):
    """Draws a garment.

    Args:
        scene: `_Scene` to draw on.
        item: `Item`; only cut and pattern are used.
        palette: float array of shape (3, 3): base, second and accent colour.
        pose: `_Pose`.
    """
    cut, body = item.cut, item.cut["body"]
    tailor = _Tailor(scene, item, palette, pose)
    if body in ("pants", "skirt"):
        tailor.legs() if body == "pants" else tailor.skirt(0.9, cut["length"])
        tailor.waistband(0.9)
        tailor.bottom_details()
    else:
        tailor.top()


class _Tailor:
    """Draws the parts of one garment in one pose."""

    def __init__(self, scene, item, palette, pose):
        self.scene, self.cut, self.pattern, self.pose = scene, item.cut, item.pattern, pose
        self.palette = palette
        base, second, accent = palette
        self.trim = accent if self.cut["trim"] else 0.8 * base
        self.base, self.second, self.accent = base, second, accent
        ease = self.cut["ease"]
        self.shoulder, self.chest = 0.4 + 0.4 * ease, 0.34 + ease
        self.hip = 0.355 + ease
        # Menswear is cut straight.
        self.waist = (0.32 if item.category.startswith("MEN") else 0.27) + 1.1 * ease

    def cloth(self, origin=(0.0, 0.5), angle=0.0, palette=None):
        """Returns a paint: the pattern in a frame that hangs on a part of the body."""
        palette = self.palette if palette is None else palette
        cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))

        def paint(x, y):
            x, y = x - np.float32(origin[0]), y - np.float32(origin[1])
            s, t = cos * x - sin * y, sin * x + cos * y
            colours = _weave(self.pattern, palette, s, t, self.scene.pixel)
            if self.cut["rib"]:
                colours = colours * (1 + 0.06 * np.sin(2 * np.pi * s / 0.07))[..., None]
            return colours

        return paint

    def top(self):
        """Tops, dresses and jumpsuits."""
        cut, body = self.cut, self.cut["body"]
        if cut["collar"] == "hood":
            self.hood()
        hem = cut["length"] if body == "top" else 0.87
        if body == "dress":
            self.skirt(hem - 0.03, cut["length"])
        elif body == "jumpsuit":
            self.legs()
        neck, depth = self.neckline()
        if not self.pose.back:
            inside = np.concatenate(
                [neck, _spline([(neck[-1][0], -0.03), (0, 0.02), (neck[0][0], -0.03)])]
            )
            if not self.pose.worn:
                self.scene.fill(inside, 0.55 * self.base, line=False)
        strap = cut["sleeve"] == 0
        tip = (self.shoulder - (0.06 if strap else 0.0), 0.11)
        under = (self.chest, 0.45)
        low = (self.hip + cut["flare"], hem) if body == "top" else (self.waist + 0.02, hem)
        side = _spline(
            [under, (self.waist + 0.3 * cut["flare"], min(0.85, hem - 0.05)), low]
            if hem > 1.0
            else [under, low]
        )
        hole = _spline([tip, (tip[0] - 0.06, 0.28), under], 4) if strap else [tip, under]
        bottom = [(0, hem + (0.07 if cut["hem"] == "curved" else 0.015))]
        right = np.concatenate([hole, side])
        outline = np.concatenate([neck, right, bottom, _mirror(right)])
        sleeves_first = strap or any(bend > 1 for _, bend in self.pose.arms)
        if not strap and not sleeves_first:
            self.sleeves()
        self.scene.fill(outline, self.cloth())
        if not strap and sleeves_first:
            self.sleeves()
        self.front(neck, depth, hem, low[0])

    def neckline(self):
        """Returns the neckline from left to right, (n, 2), and its depth."""
        style = "back" if self.pose.back else self.cut["neck"]
        depth = {
            "crew": 0.11,
            "v": 0.3,
            "deep": 0.62,
            "scoop": 0.24,
            "square": 0.2,
            "boat": 0.07,
            "back": 0.045,
        }[style]
        if self.cut["collar"] in ("turtle", "hood") and not self.pose.back:
            depth = 0.1
        wide = {"boat": 0.26, "square": 0.2, "scoop": 0.19}.get(self.cut["neck"], 0.15)
        left = (-wide, 0.0)
        if style in ("v", "deep") and depth > 0.1:
            points = [left, (0, depth), (wide, 0.0)]
        elif style == "square":
            points = [left, (-0.85 * wide, depth), (0.85 * wide, depth), (wide, 0.0)]
        else:
            points = _spline(
                [
                    left,
                    (-0.6 * wide, 0.8 * depth),
                    (0, depth),
                    (0.6 * wide, 0.8 * depth),
                    (wide, 0.0),
                ]
            )
        return np.asarray(points, float), depth

    def sleeves(self):
        """Both sleeves, each with the pattern along the arm."""
        cut = self.cut
        palette = self.palette
        if cut["contrast_sleeves"]:
            palette = np.stack([self.second, self.base, self.accent])
        for side in (-1, 1):
            path = _arm(self.pose, side, cut["sleeve"])
            share = np.linspace(0, 1, len(path))
            width = cut["sleeve_width"] * (1 - 0.3 * cut["sleeve"] * share)
            width = width + cut["puff"] * np.sin(np.pi * np.clip(share * 1.1, 0, 1)) ** 2
            along = path[len(path) // 2] - path[0]
            angle = np.arctan2(along[0], along[1])
            cap = path[0] + (-0.02 * side, -0.05)
            outline = _tube(
                np.concatenate([[cap], path]), np.concatenate([[0.7 * width[0]], width])
            )
            self.scene.fill(outline, self.cloth(path[0], angle, palette))
            if cut["cuff"] > 0:
                share = cut["cuff"] / (1.07 * cut["sleeve"])
                count = max(2, int(round(share * len(path))) + 1)
                self.scene.fill(_tube(path[-count:], 1.04 * width[-count:]), self.trim)

    def hood(self):
        """The hood behind the neck, or on the back."""
        shape = _spline(
            [(-0.26, 0.12), (-0.3, -0.08), (-0.17, -0.2), (0.17, -0.2), (0.3, -0.08), (0.26, 0.12)]
        )
        self.scene.fill(shape, self.cloth(palette=0.88 * self.palette))
        if not self.pose.back:
            self.scene.fill(_ellipse(0, -0.03, 0.2, 0.13), 0.5 * self.base, line=False)

    def front(self, neck, depth, hem, wide):
        """Everything that is sewn on a top."""
        cut, scene, back = self.cut, self.scene, self.pose.back
        if cut["yoke"] > 0:
            y = cut["yoke"]
            join = self.shoulder + (self.chest - self.shoulder) * (y - 0.11) / 0.34
            scene.fill(
                np.concatenate(
                    [neck, [(self.shoulder, 0.11), (join, y), (-join, y), (-self.shoulder, 0.11)]]
                ),
                self.second,
            )
        if cut["hem"] == "ruffle" and cut["body"] == "top":
            self.ruffle(hem, wide)
        elif cut["band"] > 0:
            h = cut["band"]
            scene.fill(
                np.array(
                    [
                        (-wide, hem - h),
                        (wide, hem - h),
                        (0.95 * wide, hem + 0.01),
                        (-0.95 * wide, hem + 0.01),
                    ]
                ),
                self.trim,
            )
        if not back:
            self.closure(depth, hem, wide)
            self.pockets(hem)
            self.logo()
        if cut["collar"] == "none" or cut["collar"] == "bow":
            scene.line(neck, self.trim, 0.045 if cut["trim"] else 0.025)
        self.collar(neck, depth)
        if cut["belt"] != "none":
            self.waistband(0.86)

    def closure(self, depth, hem, wide):
        """Buttons, zip or an open front."""
        cut, scene = self.cut, self.scene
        kind = cut["closure"]
        if kind == "none":
            return
        top = depth
        if kind == "open":
            gap = 0.12
            scene.fill(
                np.array([(0, top - 0.1), (gap, hem + 0.03), (-gap, hem + 0.03)]),
                0.94 * np.array([0.97, 0.96, 0.94]),
                line=False,
            )
            for side in (-1, 1):
                scene.fill(
                    np.array(
                        [
                            (0, top - 0.1),
                            (side * gap, hem),
                            (side * (gap + 0.07), hem),
                            (side * 0.07, top - 0.1),
                        ]
                    ),
                    self.trim,
                )
            return
        bottom = top + 0.36 if kind == "placket" else hem
        if kind == "zip":
            scene.fill(_box(-0.028, top - 0.02, 0.028, bottom), 0.35 + 0 * self.base)
            scene.line([(0, top), (0, bottom)], np.array([0.85, 0.85, 0.85]), 0.016)
            scene.fill(_box(-0.03, top + 0.04, 0.03, top + 0.12), np.array([0.9, 0.9, 0.88]))
            return
        strip = self.trim if cut["trim"] else self.base
        scene.fill(_box(-0.05, top - 0.03, 0.05, bottom), strip)
        count = 3 if kind == "placket" else max(3, int((bottom - top) / 0.17))
        for y in np.linspace(top + 0.06, bottom - 0.07, count):
            button = self.second if cut["trim"] else self.accent
            scene.fill(_ellipse(0, y, 0.03, 0.03, 10), button, cloth=False, round_=0)

    def pockets(self, hem):
        """Pockets of tops and jumpsuits."""
        kind, scene = self.cut["pocket"], self.scene
        paint = self.trim if self.cut["trim"] else 0.86 * self.base
        if kind in ("chest", "two"):
            for x in (0.19,) if kind == "chest" else (-0.19, 0.19):
                scene.fill(
                    np.array(
                        [
                            (x - 0.09, 0.38),
                            (x + 0.09, 0.38),
                            (x + 0.09, 0.54),
                            (x, 0.59),
                            (x - 0.09, 0.54),
                        ]
                    ),
                    paint,
                )
        elif kind == "kangaroo":
            top, low = hem - 0.42, hem - 0.1
            scene.fill(
                np.array(
                    [
                        (-0.15, top),
                        (0.15, top),
                        (0.28, low - 0.1),
                        (0.28, low),
                        (-0.28, low),
                        (-0.28, low - 0.1),
                    ]
                ),
                paint,
            )
        elif kind == "patch":
            for x in (-0.23, 0.23):
                scene.fill(_box(x - 0.11, hem - 0.38, x + 0.11, hem - 0.14), paint)
        elif kind == "slant":
            y = 0.82 if self.cut["body"] == "top" else 1.0
            for side in (-1, 1):
                scene.line([(0.17 * side, y), (0.26 * side, y + 0.2)], paint, 0.04)

    def logo(self):
        """The print."""
        if self.cut["logo"] == "none":
            return
        x, y, r = {
            "centre": (0, 0.5, 0.19),
            "chest": (-0.18, 0.4, 0.11),
            "low": (0.14, 0.85, 0.14),
        }[self.cut["logo_at"]]
        if self.cut["pocket"] == "kangaroo":
            y -= 0.06
        for points in _logo(self.cut["logo"], x, y, r):
            self.scene.fill(points, self.accent, line=False, round_=0)

    def collar(self, neck, depth):
        """Collars."""
        kind, scene, back = self.cut["collar"], self.scene, self.pose.back
        paint = self.trim if self.cut["trim"] else 0.92 * self.base
        if kind == "turtle":
            scene.fill(
                _spline(
                    [
                        (-0.16, 0.06),
                        (-0.13, -0.15),
                        (0.13, -0.15),
                        (0.16, 0.06),
                        (0, 0.12),
                        (-0.16, 0.06),
                    ]
                ),
                paint,
            )
        elif kind == "stand":
            scene.fill(
                np.concatenate([neck[::-1], [(-0.15, -0.12), (0.15, -0.12)]])
                if back
                else np.array(
                    [
                        (-0.16, 0.02),
                        (-0.14, -0.12),
                        (0, depth - 0.16),
                        (0.14, -0.12),
                        (0.16, 0.02),
                        (0, depth),
                    ]
                ),
                paint,
            )
        elif kind in ("shirt", "polo") and back:
            scene.fill(
                _spline(
                    [
                        (-0.17, 0.03),
                        (-0.13, -0.08),
                        (0.13, -0.08),
                        (0.17, 0.03),
                        (0, 0.1),
                        (-0.17, 0.03),
                    ]
                ),
                paint,
            )
        elif kind in ("shirt", "polo"):
            long = 0.34 if kind == "shirt" else 0.24
            for side in (-1, 1):
                scene.fill(
                    np.array([(0.13, -0.07), (0.17, 0.03), (0.2, long - 0.06), (0.02, long - 0.02)])
                    * (side, 1),
                    paint,
                )
        elif kind == "hood" and not back:
            for side in (-1, 1):
                scene.fill(
                    np.array([(0.24, -0.06), (0.25, 0.08), (0.02, 0.22), (0.0, 0.1)]) * (side, 1),
                    self.cloth(palette=0.92 * self.palette),
                )
                scene.line([(0.06 * side, 0.2), (0.07 * side, 0.42)], self.accent, 0.022)
        elif kind == "bow" and not back:
            y = max(depth, 0.1)
            for side in (-1, 1):
                scene.fill(
                    _spline([(0, y), (0.2 * side, y - 0.1), (0.22 * side, y + 0.07), (0, y)]),
                    self.accent,
                )
                scene.fill(
                    np.array([(0, y), (0.1 * side, y + 0.3), (0.02 * side, y + 0.3)]), self.accent
                )

    def ruffle(self, y, wide):
        """A frill below a hem."""
        x = np.linspace(-1.12, 1.12, 25) * wide
        wave = y + 0.13 + 0.03 * np.cos(np.arange(25) * np.pi)
        points = np.concatenate(
            [[(-wide, y - 0.05), (wide, y - 0.05)], np.stack([x, wave], axis=1)[::-1]]
        )
        self.scene.fill(points, self.trim)

    def skirt(self, top, hem):
        """A skirt from `top` to `hem`."""
        cut, scene = self.cut, self.scene
        wide = self.hip + 0.02 + cut["flare"] * (hem - top)
        sway = 0.3 * (self.pose.legs[1] - self.pose.legs[0]) * (hem - top)
        right = _spline(
            [(self.waist + 0.02, top), (self.hip + 0.25 * cut["flare"], 1.2), (wide + sway, hem)]
        )
        left = _mirror(right) + np.linspace(1, 0, len(right))[:, None] ** 2 * (2 * sway, 0)
        outline = np.concatenate([right, [(sway, hem + 0.05)], left])
        if cut["hem"] == "ruffle":
            self.ruffle(hem, wide)
        scene.fill(outline, self.cloth((0, 1.2)))
        if cut["hem"] == "band":
            h, inner = 0.16, wide - 0.16 * cut["flare"]
            scene.fill(
                np.array(
                    [
                        (-inner + sway, hem - h),
                        (sway, hem - h + 0.05),
                        (inner + sway, hem - h),
                        (wide + sway, hem),
                        (sway, hem + 0.05),
                        (-wide + sway, hem),
                    ]
                ),
                self.trim if cut["trim"] else self.second,
            )
        for k in range(cut["pleats"]):
            share = (k + 0.5) / cut["pleats"] * 2 - 1
            scene.line(
                [(share * self.waist, top + 0.05), (share * wide + sway, hem)],
                0.55 * self.base,
                0.02,
            )

    def legs(self):
        """Trouser legs from the waist down."""
        cut, scene = self.cut, self.scene
        length = cut["length"]
        sides = []
        for side in (-1, 1):
            hip, knee, ankle = _leg(self.pose, side) * (side, 1)
            line = np.array([hip, knee, ankle])
            end = np.array([np.interp(length, line[:, 1], line[:, 0]), length])
            wide = cut["leg"]
            outer = _spline([(self.waist + 0.02, 0.88), (self.hip, 1.2), end + (0.02 + wide, 0.0)])
            inner = _spline([end - (wide - 0.02, -0.01), (0.03, 1.42)], 3)
            sides.append((outer * (side, 1), inner * (side, 1), end, wide))
        (outer_l, inner_l, *_), (outer_r, inner_r, *_) = sides
        scene.fill(
            np.concatenate([outer_r, inner_r, inner_l[::-1], outer_l[::-1]]), self.cloth((0, 1.2))
        )
        scene.line([(0, 0.95), (0, 1.42)], 0.6 * self.base, 0.015)
        for side, (outer, _, end, wide) in zip((-1, 1), sides, strict=True):
            middle = end * (side, 1)
            if cut.get("side_stripe"):
                scene.fill(np.concatenate([outer, outer[::-1] - (0.09 * side, 0)]), self.accent)
            if cut.get("knee"):
                x, y = _leg(self.pose, side)[1]
                scene.fill(_box(x - 0.12, y - 0.16, x + 0.12, y + 0.14), self.second)
            if cut["cuff"] > 0:
                scene.fill(
                    _box(
                        middle[0] - wide - 0.03,
                        length - cut["cuff"],
                        middle[0] + wide + 0.03,
                        length + 0.015,
                    ),
                    self.trim,
                )
            if cut.get("cargo"):
                x = side * (self.hip - 0.06)
                scene.fill(
                    _box(x - 0.12, 1.46, x + 0.1, 1.72),
                    self.trim if cut["trim"] else 0.85 * self.base,
                )
                scene.fill(_box(x - 0.13, 1.44, x + 0.11, 1.52), 0.75 * self.base)

    def waistband(self, y):
        """Belt, sash or plain waistband."""
        kind, scene = self.cut["belt"], self.scene
        wide = self.waist + 0.035
        paint = {"none": 0.85 * self.base, "belt": 0.5 * self.accent, "sash": self.accent}[kind]
        scene.fill(_box(-wide, y - 0.05, wide, y + 0.05), paint)
        if kind == "belt" and not self.pose.back:
            scene.fill(_box(-0.06, y - 0.055, 0.06, y + 0.055), np.array([0.85, 0.75, 0.45]))
        if kind == "sash" and not self.pose.back:
            for x in (0.08, 0.2):
                scene.fill(np.array([(0.1, y), (x + 0.06, y + 0.42), (x - 0.04, y + 0.42)]), paint)

    def bottom_details(self):
        """Pockets, strings and buttons of trousers and skirts."""
        cut, scene = self.cut, self.scene
        paint = self.trim if cut["trim"] else 0.7 * self.base
        if self.pose.back:
            if cut["body"] == "pants":
                for x in (-0.17, 0.17):
                    scene.fill(_box(x - 0.09, 1.1, x + 0.09, 1.27), paint)
            return
        if cut["pocket"] == "slant":
            for side in (-1, 1):
                scene.line([(0.2 * side, 0.97), (0.33 * side, 1.14)], paint, 0.03)
        elif cut["pocket"] == "patch":
            for x in (-0.2, 0.2):
                scene.fill(_box(x - 0.1, 1.1, x + 0.1, 1.3), paint)
        if cut["drawstring"]:
            for x in (-0.05, 0.05):
                scene.line([(0, 0.93), (1.3 * x, 1.2)], self.second, 0.025)
        if cut["closure"] == "buttons":
            for y in np.arange(1.02, cut["length"] - 0.05, 0.16):
                scene.fill(_ellipse(0, y, 0.032, 0.032, 10), self.accent, cloth=False, round_=0)


# -------------------------------------------------------------------------------- the photos


def _frame(rng, item, photo, presented):
    """Returns the middle (x, y) of the picture and its height, in body units."""
    body, length = item.cut["body"], item.cut["length"]
    low = {"pants": 0.8, "skirt": 0.8}.get(body, -0.12)
    if photo.view == "full" or (
        photo.domain == "consumer" and presented == "worn" and rng.random() < 0.25
    ):
        return 0.0, 1.05, 3.7
    height = length - low
    share = rng.uniform(0.72, 0.82) if photo.domain == "shop" else rng.uniform(0.62, 0.95)
    middle = low + 0.5 * height
    wide = 1.45 if body in ("top",) else 1.2
    view = max(height, wide) / share
    if photo.domain == "consumer":
        middle += rng.uniform(-0.1, 0.1) * view
        return rng.uniform(-0.1, 0.1) * view, middle, view
    return rng.uniform(-0.02, 0.02), middle + rng.uniform(-0.03, 0.03), view


def _strike(rng, consumer, presented, back):
    """Returns a pose."""
    if presented == "flat":
        arms = tuple((rng.uniform(0.35, 1.0), rng.uniform(-0.2, 0.5)) for _ in range(2))
    elif presented == "hanger":
        arms = tuple((rng.uniform(0.08, 0.25), rng.uniform(-0.05, 0.1)) for _ in range(2))
    else:
        arms = tuple(
            (rng.uniform(0.75, 0.95), rng.uniform(1.5, 1.9))
            if rng.random() < 0.2
            else (rng.uniform(0.16, 0.5 if consumer else 0.36), rng.uniform(-0.1, 0.4))
            for _ in range(2)
        )
    spread = 0.22 if consumer else 0.12
    legs = (rng.uniform(-0.02, spread), rng.uniform(-0.02, spread))
    return _Pose(arms, legs, back, presented == "worn")


def _companion(rng, item, consumer):
    """Returns something plain to wear with an item, and its colours; None if nothing is needed."""
    body = item.cut["body"]
    if body in ("dress", "jumpsuit"):
        return None
    if body in ("pants", "skirt"):
        name = ("MEN/Tees_Tanks", "WOMEN/Sweaters")[int(rng.integers(2))]
    else:
        name = ("MEN/Pants", "WOMEN/Skirts", "MEN/Shorts")[int(rng.integers(3))]
    cut = {key: _pick(rng, spec) for key, spec in _CUTS[name].items()}
    cut |= {
        "logo": "none",
        "trim": False,
        "contrast_sleeves": False,
        "side_stripe": False,
        "yoke": 0.0,
        "cargo": False,
        "closure": "none",
        "hem": "straight",
    }
    source = [p[0] for p in _PALETTES] if consumer and rng.random() < 0.6 else _NEUTRALS
    colour = _rgb(source[int(rng.integers(len(source)))])
    return Item(0, name, cut, {"kind": "plain"}, []), np.stack([colour, colour, 0.6 * colour])


def _studio(rng, size):
    """Returns a shop's background: float32 (size, size, 3)."""
    tone = _rgb(["f4f4f2", "ebeaea", "f3ece4", "e4eaee", "f7f1f1", "dcdad6"][rng.integers(6)])
    y, x = np.mgrid[:size, :size].astype(np.float32) / size - 0.5
    light = 1.02 - 0.16 * ((x - rng.uniform(-0.2, 0.2)) ** 2 + (y + 0.1) ** 2) / 0.5
    floor = rng.uniform(0.36, 0.44)
    light = light - 0.06 / (1 + np.exp(-(y - floor) / 0.02))
    return np.clip(tone * light[..., None], 0, 1)


def _room(rng, size, flat):
    """Returns a consumer's background, a room or a bed: float32 (size, size, 3)."""
    hues = [p[k] for p in _PALETTES for k in range(3)]

    def colour(white=0.45):
        tone = _rgb(hues[int(rng.integers(len(hues)))])
        return tone + white * (0.85 - tone)

    picture = Image.new("RGB", (size, size), _ink(colour(0.6)))
    draw = ImageDraw.Draw(picture)

    def boards(box, vertical):
        """Stripes, planks, tiles: whatever repeats in a room."""
        x0, y0, x1, y1 = box
        step = size * rng.uniform(0.04, 0.14)
        tone, width = _ink(colour(0.5)), max(1, int(step * rng.choice([0.12, 0.5])))
        start, end = (x0, x1) if vertical else (y0, y1)
        for v in np.arange(start, end, step):
            line = [(v, y0), (v, y1)] if vertical else [(x0, v), (x1, v)]
            draw.line(line, fill=tone, width=width)

    if flat:
        if rng.random() < 0.5:
            boards((0, 0, size, size), True)
        if rng.random() < 0.4:
            boards((0, 0, size, size), False)
        picture = picture.rotate(
            rng.uniform(-40, 40), Image.BILINEAR, fillcolor=picture.getpixel((1, 1))
        )
        draw = ImageDraw.Draw(picture)
    else:
        floor = int(size * rng.uniform(0.62, 0.9))
        if rng.random() < 0.45:
            boards((0, 0, size, floor), bool(rng.random() < 0.7))
        draw.rectangle([0, floor, size, size], fill=_ink(colour(0.2)))
        if rng.random() < 0.6:
            boards((0, floor, size, size), bool(rng.random() < 0.3))
    for _ in range(int(rng.integers(3, 8))):
        x, y = rng.uniform(-0.1, 0.95, 2) * size
        w, h = rng.uniform(0.08, 0.4, 2) * size
        # Most things stand at the sides, where the figure does not hide them.
        x = x if rng.random() < 0.3 else (x * 0.3 if rng.random() < 0.5 else size - 0.3 * x - w / 2)
        box = [x, y, x + w, y + h]
        kind = rng.random()
        if kind < 0.5:
            draw.rectangle(
                box,
                fill=_ink(colour(0.15)),
                outline=_ink(colour(0.1)),
                width=int(rng.integers(1, 7)),
            )
            if rng.random() < 0.5:
                boards(box, bool(rng.random() < 0.5))
        elif kind < 0.75:
            draw.ellipse(box, fill=_ink(colour(0.1)))
        else:
            points = [(x + w * u, y + h * v) for u, v in rng.uniform(-0.3, 1.3, (5, 2))]
            draw.polygon(points, fill=_ink(colour(0.1)))
    picture = picture.filter(ImageFilter.GaussianBlur(size * rng.uniform(0.001, 0.008)))
    room = np.asarray(picture, np.float32) / 255
    return np.clip(room * (1 + 0.05 * _smooth(rng, size, 5))[..., None], 0, 1)


def _occlude(rng, picture, skin):
    """Draws something over a consumer photo: a strap, a phone, a hand, a leaf, a sticker."""
    size = picture.size[0]
    draw = ImageDraw.Draw(picture)
    tone = _ink(_rgb(_PALETTES[int(rng.integers(len(_PALETTES)))][int(rng.integers(3))]))
    kind = rng.random()
    if kind < 0.3:
        x = size * rng.uniform(0.3, 0.7)
        lean = size * rng.uniform(0.1, 0.35) * rng.choice([-1, 1])
        draw.line(
            [(x - lean, -5), (x + lean, size * 0.75)],
            fill=tone,
            width=int(size * rng.uniform(0.025, 0.05)),
        )
        w = size * rng.uniform(0.1, 0.17)
        draw.rounded_rectangle(
            [x + lean - w, size * 0.7, x + lean + w, size * 0.7 + 1.6 * w],
            radius=w * 0.3,
            fill=tone,
        )
    elif kind < 0.65:
        x, y = size * rng.uniform(0.3, 0.7), size * rng.uniform(0.15, 0.75)
        w = size * rng.uniform(0.05, 0.085)
        draw.line(
            [(x, y + w), (x + rng.uniform(-3, 3) * w, size * 1.05)],
            fill=_ink(skin * 0.9),
            width=int(1.3 * w),
        )
        draw.ellipse([x - 1.2 * w, y - 0.3 * w, x + 1.2 * w, y + 2.2 * w], fill=_ink(skin * 0.93))
        draw.rounded_rectangle(
            [x - w, y - 2 * w, x + w, y + 1.6 * w], radius=0.3 * w, fill=(22, 22, 26)
        )
        draw.ellipse([x + 0.3 * w, y - 1.7 * w, x + 0.75 * w, y - 1.25 * w], fill=(70, 75, 90))
    elif kind < 0.85:
        x, y = rng.choice([0, size]), size * rng.uniform(0.3, 1.0)
        for angle in rng.uniform(-0.9, 0.9, 5):
            reach = size * rng.uniform(0.25, 0.42) * (1 if x == 0 else -1)
            tip = (x + reach * np.cos(angle), y + reach * np.sin(angle))
            mid = (x + 0.55 * reach, y + 0.4 * reach * np.sin(angle) + 0.06 * size)
            draw.polygon(
                [(x, y), mid, tip, (x + 0.4 * reach, y + 0.5 * reach * np.sin(angle))],
                fill=(40, int(rng.integers(80, 120)), 55),
            )
    else:
        x, y = size * rng.uniform(0.15, 0.7, 2)
        draw.ellipse([x, y, x + 0.17 * size, y + 0.17 * size], fill=tone)
        draw.line(
            [(x + 0.03 * size, y + 0.085 * size), (x + 0.14 * size, y + 0.085 * size)],
            fill=(255, 255, 255),
            width=max(1, size // 50),
        )


def _warp(rng, picture, strength, tilt):
    """Bends a picture: a coarse mesh with random corners (perspective) and random waves."""
    size, cells = picture.size[0], 8
    u = np.linspace(0, 1, cells + 1)
    corners = rng.uniform(-tilt, tilt, (2, 2, 2))
    v = u[:, None, None]
    w = u[None, :, None]
    shift = (
        (1 - v) * (1 - w) * corners[0, 0]
        + (1 - v) * w * corners[0, 1]
        + v * (1 - w) * corners[1, 0]
        + v * w * corners[1, 1]
    )
    waves = rng.uniform(0, 6.3, (2, 2))
    shift[..., 0] += strength * np.sin(6 * u[:, None] + waves[0, 0] + 3 * u + waves[0, 1])
    shift[..., 1] += strength * np.sin(6 * u + waves[1, 0] + 4 * u[:, None] + waves[1, 1])
    # Outside the picture there is nothing to sample: without the clip a head that the frame cuts
    # would end below the frame.
    grid = np.clip(np.stack(np.meshgrid(u, u), axis=-1) + shift, 0, 1)
    pixel = np.rint(u * size).astype(int)
    mesh = []
    for i in range(cells):
        for j in range(cells):
            quad = [*grid[i, j], *grid[i + 1, j], *grid[i + 1, j + 1], *grid[i, j + 1]]
            mesh.append(
                (
                    (int(pixel[j]), int(pixel[i]), int(pixel[j + 1]), int(pixel[i + 1])),
                    tuple(float(size * value) for value in quad),
                )
            )
    return picture.transform(picture.size, Image.MESH, mesh, Image.BILINEAR)


def render(item, photo, size=160):
    """Draws one photo of an item.

    Args:
        item: `Item`.
        photo: `Photo` of that item.
        size: int >= 32, pixels a side.

    Returns:
        uint8 array of shape (size, size, 3), RGB: a function of the arguments alone.

    Raises:
        FirError: if `size` is out of its range.
    """
    _check("size", size, 32, 1024)
    rng = np.random.default_rng(photo.seed)
    consumer = photo.domain == "consumer"
    # Twice the size, halved at the end, makes the edges smooth.
    big = 2 * size
    presented = "worn"
    if consumer:
        presented = str(rng.choice(["worn", "flat", "hanger"], p=[0.64, 0.2, 0.16]))
    turned = photo.view == "side" or (consumer and presented == "worn" and rng.random() < 0.4)
    pose = _strike(rng, consumer, presented, photo.view == "back")
    x, y, height = _frame(rng, item, photo, presented)
    angle = rng.normal(0, 0.02)
    if consumer:
        angle = rng.uniform(-0.6, 0.6) if presented == "flat" else rng.normal(0, 0.09)
    scale = big / height
    rotation = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    camera = np.concatenate([rotation, (big / 2 - rotation @ (x, y))[:, None]], axis=1)
    turn = float(rng.choice([-1, 1]) * rng.uniform(0.22, 0.38)) if turned else rng.normal(0, 0.03)
    scene = _Scene(
        rng,
        big,
        camera,
        turn,
        rng.uniform(0.7, 0.8) if turned else 1.0,
        rng.uniform(0.1, 0.2) if consumer else rng.uniform(0.05, 0.09),
    )
    skin = _rgb(_SKINS[int(rng.integers(len(_SKINS)))])
    if presented == "worn":
        style = "long" if item.category.startswith("WOMEN") and rng.random() < 0.6 else "short"
        _person(scene, pose, skin, _rgb(_HAIRS[int(rng.integers(len(_HAIRS)))]), style)
        companion = _companion(rng, item, consumer)
        if companion is not None:
            _dress_up(scene, *companion, pose)
    elif presented == "hanger":
        level = 0.82 if item.cut["body"] in ("pants", "skirt") else 0.0
        scene.line(
            [(0, level), (0, level - 0.2), (0.07, level - 0.26), (0.02, level - 0.32)],
            np.array([0.3, 0.3, 0.32]),
            0.03,
        )
        scene.fill(
            np.array([(0, level - 0.1), (0.36, level + 0.1), (-0.36, level + 0.1)]),
            np.array([0.45, 0.3, 0.18]),
            cloth=False,
        )
    palette = np.stack([_rgb(text) for text in item.palettes[photo.variant]])
    _dress_up(scene, item, palette, pose)

    figure = scene.image.copy()
    figure.putalpha(scene.alpha)
    figure = _warp(rng, figure, 0.008 if consumer else 0.003, 0.07 if consumer else 0.015)
    back = _room(rng, big, presented == "flat") if consumer else _studio(rng, big)
    # The shadow on the wall or the floor.
    reach = np.rint(rng.uniform(0.01, 0.04) * big / 4 * np.array([rng.choice([-1, 1]), 1]))
    alpha = figure.getchannel("A")
    shade = alpha.resize((big // 4,) * 2).filter(ImageFilter.GaussianBlur(big * 0.006))
    # Moved with its edge repeated: a body that the frame cuts has a shadow up to the frame.
    index = np.arange(big // 4)
    shade = np.asarray(shade)[np.clip(index - int(reach[1]), 0, index[-1])]
    shade = Image.fromarray(shade[:, np.clip(index - int(reach[0]), 0, index[-1])])
    shade = np.asarray(shade.resize((big, big)), np.float32)[..., None] / 255
    back = back * (1 - rng.uniform(0.15, 0.35) * shade)
    picture = Image.fromarray((255 * back).astype(np.uint8))
    picture.paste(figure.convert("RGB"), mask=alpha)
    if consumer:
        for _ in range(int(rng.choice([0, 1, 2], p=[0.35, 0.5, 0.15]))):
            _occlude(rng, picture, skin)
    return _develop(rng, picture.reduce(2), consumer)


def _develop(rng, picture, consumer):
    """Light, colour cast, blur and noise: a picture to uint8 (size, size, 3)."""
    size = picture.size[0]
    if consumer:
        picture = picture.filter(ImageFilter.GaussianBlur(size / 160 * rng.uniform(0.2, 0.9)))
    light = np.asarray(picture, np.float32) / 255
    warm = rng.normal(0, 0.11 if consumer else 0.012)
    gain = rng.uniform(0.68, 1.2) if consumer else rng.uniform(0.97, 1.03)
    light = light * (gain * np.array([1 + warm, 1 + rng.normal(0, 0.015), 1 - warm], np.float32))
    if consumer:
        y, x = np.mgrid[:size, :size].astype(np.float32) / size - 0.5
        way = rng.uniform(0, 2 * np.pi)
        slope = 1 + rng.uniform(0, 0.5) * (np.cos(way) * x + np.sin(way) * y)
        light = light * (slope - rng.uniform(0, 0.5) * (x * x + y * y))[..., None]
        light = 0.5 + (light - 0.5) * rng.uniform(0.75, 1.1)
    sigma = rng.uniform(0.025, 0.055) if consumer else 0.006
    light = light + sigma * rng.standard_normal(light.shape, np.float32)
    return (np.clip(light, 0, 1) * 255 + 0.5).astype(np.uint8)


# ------------------------------------------------------------------------------- the folder


def _develop_file(task):
    """Renders one photo into a file. Top level, so that a spawned process finds it."""
    item, photo, size, path = task
    # The quality is the photo's: consumer photos went through a messenger.
    rng = np.random.default_rng([*photo.seed, 1])
    quality = int(rng.integers(50, 80)) if photo.domain == "consumer" else 92
    Image.fromarray(render(item, photo, size)).save(path, "JPEG", quality=quality)


def write(root, *, items=180, views=6, size=160, seed=0, workers=None):
    """Writes a boutique in the layout of DeepFashion's In-Shop benchmark.

    The folder then holds `Eval/list_eval_partition.txt`, `Img/img/<category>/<item>/<photo>.jpg`,
    the manifest `boutique.json` and the contact picture `boutique.png` (rows are items, columns
    are photos). The consumer photos are those whose names end in "additional": training items
    have both kinds, queries are mostly consumer photos, the gallery is mostly shop photos.

    The folder is written under a temporary name and renamed, so an interrupted call leaves
    nothing behind. With the same versions of Pillow and NumPy the files are the same byte for byte
    for the same arguments, whatever `workers` is.

    Args:
        root: str or Path, the folder to create. When it holds a boutique of the same arguments,
            nothing is done.
        items: int >= 4, how many items; see `plan`.
        views: int in [2, 40], photos an item.
        size: int in [32, 1024], pixels a side.
        seed: int >= 0.
        workers: int >= 1, processes to render with; by default as many as there are cores, and
            one for small boutiques. With more than one, a script has to call this under
            `if __name__ == "__main__":`.

    Returns:
        Path of the folder.

    Raises:
        FirError: if an argument is out of its range, if `root` exists and holds anything else,
            or if a rendering process dies.

    Reference:
        Liu et al., DeepFashion: Powering Robust Clothes Recognition and Retrieval with Rich
        Annotations, CVPR 2016: the In-Shop Clothes Retrieval Benchmark.
    """
    _check("size", size, 32, 1024)
    if workers is not None:
        _check("workers", workers, 1, 4096)
    garments, photos = plan(items, views, seed)
    root = Path(root)
    manifest = {
        "version": VERSION,
        "items": int(items),
        "views": int(views),
        "size": int(size),
        "seed": int(seed),
        "photos": len(photos),
    }
    if root.exists():
        found = _read_manifest(root)
        if found == manifest:
            print(f"{root} already holds this boutique: nothing to do.", file=sys.stderr)
            return root
        what = "something else than a boutique" if found is None else f"another boutique: {found}"
        raise FirError(
            f"`root` must not exist, or hold the boutique asked for. Received: {root}, which holds "
            f"{what}. Remove it or choose another folder."
        )
    by_number = {item.number: item for item in garments}
    with files.replacing(root) as folder:
        tasks = []
        for photo in photos:
            item = by_number[photo.item]
            path = folder / "Img" / _image_name(item, photo)
            path.parent.mkdir(parents=True, exist_ok=True)
            tasks.append((item, photo, size, str(path)))
        _render_all(tasks, workers)
        lines = [str(len(photos)), "image_name item_id evaluation_status"]
        for photo in photos:
            item = by_number[photo.item]
            lines.append(f"{_image_name(item, photo):<70} {item.name} {photo.split:<10}")
        partition = folder / PARTITION
        partition.parent.mkdir()
        partition.write_text("\n".join(lines) + "\n", encoding="utf-8")
        _contact(folder, garments, photos).save(folder / CONTACT)
        text = json.dumps(manifest, indent=2) + "\n"
        (folder / MANIFEST).write_text(text, encoding="utf-8")
    return root


def _image_name(item, photo):
    """Returns the path of a photo as the annotation file has it."""
    return f"img/{item.category}/{item.name}/{photo.name}"


def _read_manifest(root):
    """Returns the manifest in a folder, None if there is none that can be read."""
    try:
        return json.loads((root / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _render_all(tasks, workers):
    """Renders every task, in processes when it pays."""
    bar = {"total": len(tasks), "unit": "photo", "desc": "boutique", "disable": None}
    if workers is None:
        # A process takes a second to start, as long as some dozens of photos.
        workers = 1 if len(tasks) < 100 else os.cpu_count() or 1
    if workers == 1:
        for task in tqdm(tasks, **bar):
            _develop_file(task)
        return
    # Forking a process that runs TensorFlow's threads can hang; spawning cannot.
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            for _ in tqdm(pool.map(_develop_file, tasks, chunksize=8), **bar):
                pass
    except BrokenProcessPool as error:
        raise FirError(
            f"`workers` must be 1 in a script that is not guarded by `if __name__ == "
            f'"__main__":`, which a new process runs again, or where memory is short: a process '
            f"ended early. Received: {workers}"
        ) from error


def _contact(folder, garments, photos, rows=12, columns=10, tile=112):
    """Returns a picture of the first items (rows) and their photos (columns), shop first."""
    album = {}
    for photo in photos:
        album.setdefault(photo.item, []).append(photo)
    chosen = garments[:rows]
    columns = min(columns, max(len(album[item.number]) for item in chosen))
    sheet = Image.new("RGB", (columns * tile, len(chosen) * tile), "white")
    for row, item in enumerate(chosen):
        ordered = sorted(album[item.number], key=lambda photo: (photo.domain != "shop", photo.name))
        for column, photo in enumerate(ordered[:columns]):
            with Image.open(folder / "Img" / _image_name(item, photo)) as picture:
                small = picture.resize((tile - 4, tile - 4), Image.LANCZOS)
            sheet.paste(small, (column * tile + 2, row * tile + 2))
    return sheet


def main(argv=None):
    """The command line of this module; `argv` is a list of str, by default that of the process.

    Returns:
        int, 0 when the folder is there, 1 after bad input, whose message went to stderr.
    """
    parser = argparse.ArgumentParser(
        prog="python -m fir_tf.datasets boutique",
        description="Writes rendered garments in the layout of DeepFashion's In-Shop benchmark: "
        "a data set to try everything on, without a licence or a download.",
    )
    parser.add_argument("--out", required=True, help="folder to create")
    for name, value, text in (
        ("items", 180, "items; half of them are for tests"),
        ("views", 6, "photos an item, half of them by consumers"),
        ("size", 160, "pixels a side of a photo"),
        ("seed", 0, "another seed, another boutique"),
    ):
        parser.add_argument(f"--{name}", type=int, default=value, help=f"{text} (%(default)s)")
    parser.add_argument(
        "--workers", type=int, help="processes (one a core); the files do not depend on it"
    )
    args = parser.parse_args(argv)
    try:
        root = write(
            args.out,
            items=args.items,
            views=args.views,
            size=args.size,
            seed=args.seed,
            workers=args.workers,
        )
    except FirError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{args.items} items, {args.items * args.views} photos: {root}")
    print(f"A look at them: {root / CONTACT}")
    return 0
