"""One photo of an item: pose, camera, figure and light."""

import numpy as np
from PIL import Image, ImageFilter

from fir_tf.boutique.figure import Pose, Scene, View, draw_person
from fir_tf.boutique.planning import Item, Photo, check_integer, pick
from fir_tf.boutique.scenery import occlude, room, studio
from fir_tf.boutique.shapes import Rng, rgb
from fir_tf.boutique.styles import CUTS, HAIRS, NEUTRALS, PALETTES, SKINS
from fir_tf.boutique.tailor import dress_up

# What is worn with an item has nothing that draws the eye.
_UNADORNED = {
    "logo": "none",
    "trim": False,
    "contrast_sleeves": False,
    "side_stripe": False,
    "yoke": 0.0,
    "cargo": False,
    "closure": "none",
    "hem": "straight",
}


def _frame(rng: Rng, item: Item, photo: Photo, presented: str) -> tuple[float, float, float]:
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


def strike(rng: Rng, consumer: bool, presented: str, back: bool) -> Pose:
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
    return Pose(arms, legs, back, presented == "worn")


def companion_of(rng: Rng, item: Item, consumer: bool) -> tuple[Item, np.ndarray] | None:
    """Returns something plain to wear with an item, and its colours; None if nothing is needed."""
    body = item.cut["body"]
    if body in ("dress", "jumpsuit"):
        return None
    if body in ("pants", "skirt"):
        name = ("MEN/Tees_Tanks", "WOMEN/Sweaters")[int(rng.integers(2))]
    else:
        name = ("MEN/Pants", "WOMEN/Skirts", "MEN/Shorts")[int(rng.integers(3))]
    cut = {key: pick(rng, spec) for key, spec in CUTS[name].items()}
    cut |= _UNADORNED
    source = [p[0] for p in PALETTES] if consumer and rng.random() < 0.6 else NEUTRALS
    colour = rgb(source[int(rng.integers(len(source)))])
    return Item(0, name, cut, {"kind": "plain"}, []), np.stack([colour, colour, 0.6 * colour])


Mesh = list[tuple[tuple[int, ...], tuple[float, ...]]]
"""Where the parts of a bent picture come from, as Pillow's `Image.transform` takes it."""


def bends(rng: Rng, size: int, strength: float, tilt: float) -> Mesh:
    """Draws how a picture is bent: a coarse mesh, random corners (perspective), random waves."""
    cells = 8
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
    mesh: Mesh = []
    for i in range(cells):
        for j in range(cells):
            quad = [*grid[i, j], *grid[i + 1, j], *grid[i + 1, j + 1], *grid[i, j + 1]]
            target = tuple(int(pixel[place]) for place in (j, i, j + 1, i + 1))
            mesh.append((target, tuple(float(size * value) for value in quad)))
    return mesh


def bent(picture: Image.Image, mesh: Mesh) -> Image.Image:
    """Returns a picture bent by `bends` of its size."""
    return picture.transform(picture.size, Image.Transform.MESH, mesh, Image.Resampling.BILINEAR)


class _Shot:
    """A photo in the making; what is drawn by chance is drawn in the order of the calls.

    Args:
        item: `Item`.
        photo: `Photo` of that item.
        size: int, pixels a side.
    """

    def __init__(self, item: Item, photo: Photo, size: int) -> None:
        self.item, self.photo, self.size = item, photo, size
        self.rng = rng = np.random.default_rng(photo.seed)
        self.consumer = photo.domain == "consumer"
        self.presented = "worn"
        if self.consumer:
            self.presented = str(rng.choice(["worn", "flat", "hanger"], p=[0.64, 0.2, 0.16]))
        worn = self.consumer and self.presented == "worn"
        self.turned = photo.view == "side" or (worn and rng.random() < 0.4)
        self.pose = strike(rng, self.consumer, self.presented, photo.view == "back")
        self.scene = Scene(rng, size, self.view())
        self.skin = rgb(SKINS[int(rng.integers(len(SKINS)))])

    def view(self) -> View:
        """Aims the camera and turns the figure."""
        rng = self.rng
        x, y, height = _frame(rng, self.item, self.photo, self.presented)
        angle = rng.normal(0, 0.02)
        if self.consumer:
            flat = self.presented == "flat"
            angle = rng.uniform(-0.6, 0.6) if flat else rng.normal(0, 0.09)
        cos, sin = np.cos(angle), np.sin(angle)
        rotation = self.size / height * np.array([[cos, -sin], [sin, cos]])
        shift = self.size / 2 - rotation @ (x, y)
        if self.turned:
            turn = float(rng.choice([-1, 1]) * rng.uniform(0.22, 0.38))
            squeeze = rng.uniform(0.7, 0.8)
        else:
            turn, squeeze = rng.normal(0, 0.03), 1.0
        fold = rng.uniform(0.1, 0.2) if self.consumer else rng.uniform(0.05, 0.09)
        return View(np.concatenate([rotation, shift[:, None]], axis=1), turn, squeeze, fold)

    def figure(self) -> Image.Image:
        """Draws the item and who or what wears it over transparency."""
        rng, item, scene = self.rng, self.item, self.scene
        if self.presented == "worn":
            style = "long" if item.category.startswith("WOMEN") and rng.random() < 0.6 else "short"
            hair = rgb(HAIRS[int(rng.integers(len(HAIRS)))])
            draw_person(scene, self.pose, self.skin, hair, style)
            companion = companion_of(rng, item, self.consumer)
            if companion is not None:
                dress_up(scene, *companion, self.pose)
        elif self.presented == "hanger":
            hang(scene, 0.82 if item.cut["body"] in ("pants", "skirt") else 0.0)
        palette = np.stack([rgb(text) for text in item.palettes[self.photo.variant]])
        dress_up(scene, item, palette, self.pose)
        figure = scene.image.copy()
        figure.putalpha(scene.alpha)
        strength, tilt = (0.008, 0.07) if self.consumer else (0.003, 0.015)
        return bent(figure, bends(rng, self.size, strength, tilt))

    def picture(self) -> Image.Image:
        """Draws the figure with its shadow on its ground, and what is in front of it."""
        rng, size, figure = self.rng, self.size, self.figure()
        flat = self.presented == "flat"
        back = room(rng, size, flat) if self.consumer else studio(rng, size)
        alpha = figure.getchannel("A")
        picture = Image.fromarray((255 * (back * shadow(rng, alpha))).astype(np.uint8))
        picture.paste(figure.convert("RGB"), mask=alpha)
        if self.consumer:
            for _ in range(int(rng.choice([0, 1, 2], p=[0.35, 0.5, 0.15]))):
                occlude(rng, picture, self.skin)
        return picture


def hang(scene: Scene, level: float) -> None:
    """Draws a hanger."""
    hook = [(0, level), (0, level - 0.2), (0.07, level - 0.26), (0.02, level - 0.32)]
    scene.line(hook, np.array([0.3, 0.3, 0.32]), 0.03)
    wood = [(0, level - 0.1), (0.36, level + 0.1), (-0.36, level + 0.1)]
    scene.fill(wood, np.array([0.45, 0.3, 0.18]), cloth=False)


def shadow(rng: Rng, alpha: Image.Image) -> np.ndarray:
    """Returns what is left of the light on the wall or the floor: float32 (size, size, 1)."""
    size, small = alpha.width, alpha.width // 4
    reach = np.rint(rng.uniform(0.01, 0.04) * size / 4 * np.array([rng.choice([-1, 1]), 1]))
    blur = ImageFilter.GaussianBlur(size * 0.006)
    shade = np.asarray(alpha.resize((small, small)).filter(blur))
    # Moved with its edge repeated: a body that the frame cuts has a shadow up to the frame.
    across, down = (np.clip(np.arange(small) - int(way), 0, small - 1) for way in reach)
    moved = Image.fromarray(shade[down][:, across]).resize((size, size))
    return 1 - rng.uniform(0.15, 0.35) * (np.asarray(moved, np.float32)[..., None] / 255)


def render(item: Item, photo: Photo, size: int = 160) -> np.ndarray:
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
    check_integer("size", size, 32, 1024)
    # Twice the size, halved at the end, makes the edges smooth.
    shot = _Shot(item, photo, 2 * size)
    return develop(shot.rng, shot.picture().reduce(2), shot.consumer)


def develop(rng: Rng, picture: Image.Image, consumer: bool, closer: float = 1.0) -> np.ndarray:
    """Light, colour cast, blur and noise: a picture to uint8 (size, size, 3).

    A consumer's picture is as sharp as one of `closer` times fewer pixels.
    """
    size = picture.size[0]
    if consumer:
        blur = size / closer / 160 * rng.uniform(0.2, 0.9)
        picture = picture.filter(ImageFilter.GaussianBlur(blur))
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
