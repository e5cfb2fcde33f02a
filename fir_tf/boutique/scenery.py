"""What is behind a figure, a studio or a room, and what hides a part of it."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from fir_tf.boutique.shapes import Colour, Rng, ink, rgb, smooth
from fir_tf.boutique.styles import PALETTES

Draw = ImageDraw.ImageDraw
Ink = tuple[int, int, int]

_HUES = [hue for palette in PALETTES for hue in palette]


def studio(rng: Rng, size: int) -> np.ndarray:
    """Returns a shop's background: float32 (size, size, 3)."""
    tone = rgb(["f4f4f2", "ebeaea", "f3ece4", "e4eaee", "f7f1f1", "dcdad6"][rng.integers(6)])
    y, x = np.mgrid[:size, :size].astype(np.float32) / size - 0.5
    light = 1.02 - 0.16 * ((x - rng.uniform(-0.2, 0.2)) ** 2 + (y + 0.1) ** 2) / 0.5
    floor = rng.uniform(0.36, 0.44)
    light = light - 0.06 / (1 + np.exp(-(y - floor) / 0.02))
    return np.clip(tone * light[..., None], 0, 1)


def room(rng: Rng, size: int, flat: bool) -> np.ndarray:
    """Returns a consumer's background, a room or a bed: float32 (size, size, 3)."""
    place = _Room(rng, size)
    if flat:
        place.lay_out()
    else:
        place.put_up()
    for _ in range(int(rng.integers(3, 8))):
        place.add_thing()
    blur = ImageFilter.GaussianBlur(size * rng.uniform(0.001, 0.008))
    light = np.asarray(place.picture.filter(blur), np.float32) / 255
    return np.clip(light * (1 + 0.05 * smooth(rng, size, 5))[..., None], 0, 1)


class _Room:
    """A room that is being furnished."""

    def __init__(self, rng: Rng, size: int) -> None:
        self.rng, self.size = rng, size
        self.picture = Image.new("RGB", (size, size), self.colour(0.6))
        self.draw = ImageDraw.Draw(self.picture)

    def colour(self, white: float) -> Ink:
        """Draws a colour and takes it the share `white` of the way to light grey."""
        tone = rgb(_HUES[int(self.rng.integers(len(_HUES)))])
        return ink(tone + white * (0.85 - tone))

    def boards(self, box: Sequence[float], vertical: bool) -> None:
        """Stripes, planks, tiles: whatever repeats in a room."""
        x0, y0, x1, y1 = box
        step = self.size * self.rng.uniform(0.04, 0.14)
        tone, width = self.colour(0.5), max(1, int(step * self.rng.choice([0.12, 0.5])))
        start, end = (x0, x1) if vertical else (y0, y1)
        for v in np.arange(start, end, step):
            line = [(v, y0), (v, y1)] if vertical else [(x0, v), (x1, v)]
            self.draw.line(line, fill=tone, width=width)

    def lay_out(self) -> None:
        """A bed or a floor, seen from above."""
        if self.rng.random() < 0.5:
            self.boards((0, 0, self.size, self.size), True)
        if self.rng.random() < 0.4:
            self.boards((0, 0, self.size, self.size), False)
        self.picture = self.picture.rotate(
            self.rng.uniform(-40, 40),
            Image.Resampling.BILINEAR,
            fillcolor=self.picture.getpixel((1, 1)),
        )
        self.draw = ImageDraw.Draw(self.picture)

    def put_up(self) -> None:
        """A wall and a floor."""
        rng, size = self.rng, self.size
        floor = int(size * rng.uniform(0.62, 0.9))
        if rng.random() < 0.45:
            self.boards((0, 0, size, floor), bool(rng.random() < 0.7))
        self.draw.rectangle([0, floor, size, size], fill=self.colour(0.2))
        if rng.random() < 0.6:
            self.boards((0, floor, size, size), bool(rng.random() < 0.3))

    def add_thing(self) -> None:
        """A piece of furniture, a lamp, or something without a name."""
        rng, size = self.rng, self.size
        x, y = rng.uniform(-0.1, 0.95, 2) * size
        w, h = rng.uniform(0.08, 0.4, 2) * size
        # Most things stand at the sides, where the figure does not hide them.
        x = x if rng.random() < 0.3 else (x * 0.3 if rng.random() < 0.5 else size - 0.3 * x - w / 2)
        box = [x, y, x + w, y + h]
        kind = rng.random()
        if kind < 0.5:
            fill, outline = self.colour(0.15), self.colour(0.1)
            self.draw.rectangle(box, fill=fill, outline=outline, width=int(rng.integers(1, 7)))
            if rng.random() < 0.5:
                self.boards(box, bool(rng.random() < 0.5))
        elif kind < 0.75:
            self.draw.ellipse(box, fill=self.colour(0.1))
        else:
            points = [(x + w * u, y + h * v) for u, v in rng.uniform(-0.3, 1.3, (5, 2))]
            self.draw.polygon(points, fill=self.colour(0.1))


def occlude(rng: Rng, picture: Image.Image, skin: Colour) -> None:
    """Draws something in front: a bag, the hand with the phone, a plant or a sticker."""
    draw = ImageDraw.Draw(picture)
    tone = ink(rgb(PALETTES[int(rng.integers(len(PALETTES)))][int(rng.integers(3))]))
    kind = rng.random()
    if kind < 0.3:
        _bag(rng, draw, picture.width, tone)
    elif kind < 0.65:
        _phone(rng, draw, picture.width, skin)
    elif kind < 0.85:
        _plant(rng, draw, picture.width)
    else:
        _sticker(rng, draw, picture.width, tone)


def _bag(rng: Rng, draw: Draw, size: int, tone: Ink) -> None:
    x = size * rng.uniform(0.3, 0.7)
    lean = size * rng.uniform(0.1, 0.35) * rng.choice([-1, 1])
    strap = [(x - lean, -5), (x + lean, size * 0.75)]
    draw.line(strap, fill=tone, width=int(size * rng.uniform(0.025, 0.05)))
    w = size * rng.uniform(0.1, 0.17)
    body = [x + lean - w, size * 0.7, x + lean + w, size * 0.7 + 1.6 * w]
    draw.rounded_rectangle(body, radius=w * 0.3, fill=tone)


def _phone(rng: Rng, draw: Draw, size: int, skin: Colour) -> None:
    x, y = size * rng.uniform(0.3, 0.7), size * rng.uniform(0.15, 0.75)
    w = size * rng.uniform(0.05, 0.085)
    arm = [(x, y + w), (x + rng.uniform(-3, 3) * w, size * 1.05)]
    draw.line(arm, fill=ink(skin * 0.9), width=int(1.3 * w))
    draw.ellipse([x - 1.2 * w, y - 0.3 * w, x + 1.2 * w, y + 2.2 * w], fill=ink(skin * 0.93))
    body = [x - w, y - 2 * w, x + w, y + 1.6 * w]
    draw.rounded_rectangle(body, radius=0.3 * w, fill=(22, 22, 26))
    draw.ellipse([x + 0.3 * w, y - 1.7 * w, x + 0.75 * w, y - 1.25 * w], fill=(70, 75, 90))


def _plant(rng: Rng, draw: Draw, size: int) -> None:
    x, y = rng.choice([0, size]), size * rng.uniform(0.3, 1.0)
    for angle in rng.uniform(-0.9, 0.9, 5):
        reach = size * rng.uniform(0.25, 0.42) * (1 if x == 0 else -1)
        tip = (x + reach * np.cos(angle), y + reach * np.sin(angle))
        mid = (x + 0.55 * reach, y + 0.4 * reach * np.sin(angle) + 0.06 * size)
        low = (x + 0.4 * reach, y + 0.5 * reach * np.sin(angle))
        draw.polygon([(x, y), mid, tip, low], fill=(40, int(rng.integers(80, 120)), 55))


def _sticker(rng: Rng, draw: Draw, size: int, tone: Ink) -> None:
    x, y = size * rng.uniform(0.15, 0.7, 2)
    draw.ellipse([x, y, x + 0.17 * size, y + 0.17 * size], fill=tone)
    text = [(x + 0.03 * size, y + 0.085 * size), (x + 0.14 * size, y + 0.085 * size)]
    draw.line(text, fill=(255, 255, 255), width=max(1, size // 50))
