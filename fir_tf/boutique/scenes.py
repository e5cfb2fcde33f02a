"""Scenes: photos of one to three garments, on people and in rooms, and where each garment is."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageChops

from fir_tf.boutique.figure import Scene, View, draw_person
from fir_tf.boutique.planning import Item, Photo, check_integer
from fir_tf.boutique.rendering import (
    bends,
    bent,
    companion_of,
    develop,
    hang,
    shadow,
    strike,
)
from fir_tf.boutique.scenery import occlude, room
from fir_tf.boutique.shapes import Rng, rgb
from fir_tf.boutique.styles import HAIRS, SKINS
from fir_tf.boutique.tailor import dress_up

MOST_GARMENTS = 3
"""int, garments of a scene."""

Box = tuple[float, float, float, float]
"""Left, top, right and bottom, as shares of the picture's width and height."""

# Body units that a figure with its arms is wide.
_FIGURE = 1.35


@dataclasses.dataclass(frozen=True)
class Piece:
    """A garment in a scene.

    Attributes:
        item: int, the item's number.
        variant: int, its colour, an index into the item's palettes.
    """

    item: int
    variant: int


@dataclasses.dataclass(frozen=True)
class ScenePhoto:
    """A photo of several garments by a consumer.

    Attributes:
        figures: tuple of tuples of Piece, from left to right: what one person wears, or a hanger.
        split: "train" for a scene of training items, "query" for one of the others.
        seed: list of ints, the seed of everything that is this photo's alone.
    """

    figures: tuple[tuple[Piece, ...], ...]
    split: str
    seed: list[int]

    @property
    def pieces(self) -> list[Piece]:
        """The garments, from left to right; of one person the lower one first."""
        return [piece for figure in self.figures for piece in figure]


def plan_scenes(
    garments: Sequence[Item], photos: Sequence[Photo], count: int, seed: int
) -> list[ScenePhoto]:
    """Decides which garments are together in which scene.

    The scenes are in turn of training items and of those kept from training, each in turn of one,
    two and three garments. In half of those of several a person wears two of them.

    Args:
        garments: list of Item.
        photos: list of Photo, what `plan` returned with them; a garment has a colour that a shop
            photo shows.
        count: int >= 0, scenes.
        seed: int >= 0.

    Returns:
        list of ScenePhoto. Where a split has fewer items, its scenes have fewer garments.

    Raises:
        FirError: if `count` is out of its range.
    """
    check_integer("scenes", count, 0, 999_999)
    colours: dict[int, set[int]] = {}
    trained: dict[int, bool] = {}
    for photo in photos:
        trained[photo.item] = photo.split == "train"
        if photo.domain == "shop":
            colours.setdefault(photo.item, set()).add(photo.variant)
    scenes = []
    for number in range(count):
        rng = np.random.default_rng([seed, 6, number])
        split = ("train", "query")[number % 2]
        pool = [item for item in garments if trained[item.number] == (split == "train")]
        chosen = _choose(rng, pool, 1 + number // 2 % MOST_GARMENTS)
        pieces = {
            item.number: Piece(item.number, int(rng.choice(sorted(colours[item.number]))))
            for item in chosen
        }
        figures = tuple(
            tuple(pieces[item.number] for item in figure) for figure in _share_out(rng, chosen)
        )
        scenes.append(ScenePhoto(figures, split, [seed, 7, number]))
    return scenes


def _is_bottom(item: Item) -> bool:
    return item.cut["body"] in ("pants", "skirt")


def _choose(rng: Rng, pool: Sequence[Item], count: int) -> list[Item]:
    """Draws items; in half of the draws of several the first two can be worn together."""
    order = [pool[place] for place in rng.permutation(len(pool))]
    if count > 1 and rng.random() < 0.5:
        fitting = [
            next((item for item in order if fits(item)), None)
            for fits in (lambda item: item.cut["body"] == "top", _is_bottom)
        ]
        pair = [item for item in fitting if item is not None]
        order = [*pair, *(item for item in order if item not in pair)]
    return order[:count]


def _share_out(rng: Rng, chosen: Sequence[Item]) -> list[tuple[Item, ...]]:
    """Returns figures from left to right; one may wear two items, the lower one first."""
    first, *others = chosen
    figures: list[tuple[Item, ...]] = [(item,) for item in chosen]
    if others and first.cut["body"] == "top" and _is_bottom(others[0]):
        figures = [(others[0], first), *figures[2:]]
    return [figures[place] for place in rng.permutation(len(figures))]


def render_scene(
    scene: ScenePhoto, items: Mapping[int, Item], size: int = 320
) -> tuple[np.ndarray, list[Box]]:
    """Draws a scene.

    Args:
        scene: ScenePhoto.
        items: {number: Item}.
        size: int >= 32, pixels a side.

    Returns:
        uint8 array of shape (size, size, 3), RGB, and the Boxes of `scene.pieces`: around what the
        other garment of the person leaves to see. What stands in front of it makes no difference.

    Raises:
        FirError: if `size` is out of its range.
    """
    check_integer("size", size, 32, 2048)
    rng = np.random.default_rng(scene.seed)
    # Twice the size, halved at the end, makes the edges smooth.
    side, count = 2 * size, len(scene.figures)
    height = max(rng.uniform(3.3, 4.3), _FIGURE * count * rng.uniform(1.0, 1.15))
    picture = Image.fromarray((255 * room(rng, side, False)).astype(np.uint8))
    skin = rgb(SKINS[int(rng.integers(len(SKINS)))])
    boxes = []
    for place, pieces in enumerate(scene.figures):
        middle = (place + 0.5 + rng.uniform(-0.08, 0.08)) / count
        figure = _Figure(rng, [(items[piece.item], piece.variant) for piece in pieces], skin)
        drawn, masks = figure.draw(side, height, middle)
        alpha = drawn.getchannel("A")
        lit = np.asarray(picture, np.float32) * shadow(rng, alpha)
        picture = Image.fromarray(lit.astype(np.uint8))
        picture.paste(drawn.convert("RGB"), mask=alpha)
        boxes += [_around(mask) for mask in masks]
    if rng.random() < 0.4:
        occlude(rng, picture, skin)
    return develop(rng, picture.reduce(2), consumer=True, closer=2.0), boxes


class _Figure:
    """A person or a hanger with one or two garments."""

    def __init__(self, rng: Rng, garments: Sequence[tuple[Item, int]], skin: np.ndarray) -> None:
        self.rng, self.garments, self.skin = rng, garments, skin
        self.worn = len(garments) > 1 or rng.random() < 0.7
        self.pose = strike(rng, True, "worn" if self.worn else "hanger", False)

    def draw(
        self, side: int, height: float, middle: float
    ) -> tuple[Image.Image, list[Image.Image]]:
        """Draws over transparency, around `middle` of the picture's width.

        Returns:
            The figure, and for each garment a picture of mode L, where it is seen.
        """
        scene = Scene(self.rng, side, self.view(side, height, middle))
        self.support(scene)
        masks: list[Image.Image] = []
        for item, variant in self.garments:
            before, scene.alpha = scene.alpha, Image.new("L", (side, side))
            dress_up(
                scene, item, np.stack([rgb(text) for text in item.palettes[variant]]), self.pose
            )
            masks = [ImageChops.subtract(mask, scene.alpha) for mask in masks] + [scene.alpha]
            scene.alpha = ImageChops.lighter(before, scene.alpha)
        figure = scene.image.copy()
        figure.putalpha(scene.alpha)
        mesh = bends(self.rng, side, 0.004, 0.03)
        return bent(figure, mesh), [bent(mask, mesh) for mask in masks]

    def view(self, side: int, height: float, middle: float) -> View:
        """Aims the camera so that the figure stands around `middle`."""
        rng = self.rng
        centre = 1.05 + rng.uniform(-0.15, 0.15)
        if not self.worn:
            low = 0.8 if _is_bottom(self.garments[0][0]) else -0.12
            # It hangs anywhere in the picture's middle.
            centre = 0.5 * (low + self.garments[0][0].cut["length"]) + rng.uniform(-0.5, 0.5)
        scale = side / height * rng.uniform(0.92, 1.08)
        angle = rng.normal(0, 0.05)
        rotation = scale * np.array(
            [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        )
        shift = side * np.array([middle, 0.5]) - rotation @ (0.0, centre)
        camera = np.concatenate([rotation, shift[:, None]], axis=1)
        return View(camera, rng.normal(0, 0.05), 1.0, rng.uniform(0.1, 0.2))

    def support(self, scene: Scene) -> None:
        """Draws who wears the garments, with what else that takes, or their hanger."""
        rng, (item, *_) = self.rng, [item for item, _ in self.garments]
        if not self.worn:
            hang(scene, 0.82 if _is_bottom(item) else 0.0)
            return
        style = "long" if item.category.startswith("WOMEN") and rng.random() < 0.6 else "short"
        hair = rgb(HAIRS[int(rng.integers(len(HAIRS)))])
        draw_person(scene, self.pose, self.skin, hair, style)
        companion = None if len(self.garments) > 1 else companion_of(rng, item, True)
        if companion is not None:
            dress_up(scene, *companion, self.pose)


def _around(mask: Image.Image) -> Box:
    """Returns the box of what is more than half there of a mask."""
    found = mask.point([0] * 128 + [255] * 128).getbbox() or (0, 0, 0, 0)
    left, top, right, bottom = (round(edge / mask.width, 4) for edge in found)
    return left, top, right, bottom
