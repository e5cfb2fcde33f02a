"""The picture a figure is drawn on, its pose, and the person that wears the garments."""

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFilter

from fir_tf.boutique.shapes import Colour, Rng, box, ellipse, ink, mirror, smooth, spline, tube

Paint = Colour | Callable[[np.ndarray, np.ndarray], np.ndarray]
"""A colour, or a function of float32 arrays x and y, in body units, that returns colours."""

_FOOT = np.array([0.18, 0.16, 0.16])
_LONG_HAIR = spline(
    [(-0.2, -0.5), (-0.29, -0.2), (-0.3, 0.2), (0, 0.3), (0.3, 0.2), (0.29, -0.2), (0.2, -0.5)]
)
_TORSO = spline([(0.1, -0.05), (0.36, 0.1), (0.32, 0.45), (0.25, 0.85), (0.34, 1.2), (0.2, 1.4)])
# Half of the width of a leg, from the hip down to the ankle.
_LEG_WIDTHS = np.interp(np.linspace(0, 1, 13), [0, 0.5, 0.6, 1], [0.17, 0.11, 0.105, 0.06])


@dataclasses.dataclass(frozen=True)
class View:
    """How a figure is looked at.

    Attributes:
        camera: float array of shape (2, 3), body units to pixels.
        turn: float in (-0.5, 0.5), how far the middle of the front is turned sideways.
        squeeze: float, how much of the width is left by the turn.
        fold: float, the strength of the folds.
    """

    camera: np.ndarray
    turn: float
    squeeze: float
    fold: float


class Scene:
    """A picture of a figure, drawn part by part over transparency.

    Attributes:
        size: int, pixels a side.
        image: RGB picture.
        alpha: L picture, where anything was drawn.
    """

    def __init__(self, rng: Rng, size: int, view: View) -> None:
        """Sets up a view; `rng` is for the folds, `size` in pixels a side."""
        self.size, self.camera = size, view.camera
        self.turn, self.squeeze = view.turn, view.squeeze
        self.image = Image.new("RGB", (size, size))
        self.alpha = Image.new("L", (size, size))
        self.pixel = float(1 / np.sqrt(abs(np.linalg.det(view.camera[:, :2]))))
        inverse = np.linalg.inv(view.camera[:, :2])
        y, x = np.mgrid[:size, :size].astype(np.float32)
        x, y = x - np.float32(view.camera[0, 2]), y - np.float32(view.camera[1, 2])
        across = np.float32(inverse[0, 0]) * x + np.float32(inverse[0, 1]) * y
        self.y = np.float32(inverse[1, 0]) * x + np.float32(inverse[1, 1]) * y
        self.x = self._untwist(across).astype(np.float32)
        self.folds = self._fold(rng, view.fold)

    _WAIST = 0.62

    def _twist(self, x: np.ndarray) -> np.ndarray:
        """Moves the middle of the body sideways and leaves its outline: a turn, seen in front."""
        w, inside = self._WAIST, np.abs(x) < self._WAIST
        return self.squeeze * np.where(inside, x + self.turn * (w - x * x / w), x)

    def _untwist(self, x: np.ndarray) -> np.ndarray:
        """The inverse of `_twist`."""
        x = x / self.squeeze
        if abs(self.turn) < 1e-3:
            return x
        w, k = self._WAIST, self.turn / self._WAIST
        root = np.sqrt(np.maximum(1 + 4 * k * (self.turn * w - x), 0))
        return np.where(np.abs(x) < w, (1 - root) / (2 * k), x)

    def _fold(self, rng: Rng, strength: float) -> np.ndarray:
        """Returns the light and dark of folds: float32 (size, size) around 0."""
        small = max(self.size // 4, 8)
        y, x = np.mgrid[:small, :small].astype(np.float32) / small - 0.5
        folds = 0.35 * smooth(rng, small, 4)
        for _ in range(6):
            angle = rng.normal(0, 0.5)
            cx, cy = rng.uniform(-0.4, 0.4, 2)
            u = np.cos(angle) * (x - cx) + np.sin(angle) * (y - cy)
            v = np.cos(angle) * (y - cy) - np.sin(angle) * (x - cx)
            width = rng.uniform(0.015, 0.04)
            crease = rng.choice([-1.0, 1.0]) * u / width * np.exp(-((u / width) ** 2))
            folds += crease * np.exp(-((v / rng.uniform(0.15, 0.35)) ** 2)) * 1.6
        picture = Image.fromarray(folds.astype(np.float32))
        return strength * np.asarray(picture.resize((self.size,) * 2, Image.Resampling.BICUBIC))

    def points(self, points: ArrayLike) -> np.ndarray:
        """Maps points of shape (n, 2) from body units to pixels."""
        points = np.asarray(points, float)
        x = self._twist(points[:, 0])
        return np.stack([x, points[:, 1]], axis=1) @ self.camera[:, :2].T + self.camera[:, 2]

    def fill(
        self,
        points: ArrayLike,
        paint: Paint,
        line: bool = True,
        cloth: bool = True,
        round_: float = 0.05,
    ) -> None:
        """Draws a polygon.

        Args:
            points: array of shape (n, 2) in body units.
            paint: `Paint`.
            line: bool, whether to draw the outline.
            cloth: bool, whether folds show.
            round_: float, the width of the darker rim that makes it look round.
        """
        pixels = self.points(points)
        low = np.maximum(np.floor(pixels.min(0)).astype(int) - 1, 0)
        high = np.minimum(np.ceil(pixels.max(0)).astype(int) + 2, self.size)
        if np.any(high - low < 2):
            return
        corner = (int(low[0]), int(low[1]))
        mask = Image.new("L", (int(high[0] - low[0]), int(high[1] - low[1])))
        outline = [tuple(p) for p in pixels - low]
        ImageDraw.Draw(mask).polygon(outline, fill=255)
        part = np.s_[low[1] : high[1], low[0] : high[0]]
        colours = paint(self.x[part], self.y[part]) if callable(paint) else paint
        light = 1 + self.folds[part] if cloth else np.ones(mask.size[::-1], np.float32)
        if round_ > 0:
            inside = mask.filter(ImageFilter.BoxBlur(1.6 * round_ / self.pixel))
            light = light * (0.56 + 0.46 * np.asarray(inside, np.float32) / 255)
        lit = np.clip(colours * light[..., None], 0, 1) * 255
        picture = Image.fromarray(lit.astype(np.uint8))
        if line:
            shade = np.mean(np.asarray(picture.resize((1, 1), Image.Resampling.BOX))) / 255
            tone = ink([0.5 * shade] * 3 if callable(paint) else 0.6 * np.asarray(paint))
            ImageDraw.Draw(picture).line(
                outline + outline[:1], fill=tone, width=max(1, self.size // 160)
            )
        self.image.paste(picture, corner, mask)
        self.alpha.paste(255, corner, mask)

    def line(self, points: ArrayLike, colour: Colour, width: float = 0.012) -> None:
        """Draws an open line, `width` in body units."""
        pixels = [tuple(p) for p in self.points(points)]
        ImageDraw.Draw(self.image).line(
            pixels, fill=ink(colour), joint="curve", width=max(1, round(width / self.pixel))
        )


@dataclasses.dataclass(frozen=True)
class Pose:
    """Angles in radians, of the arms from hanging straight, and of the legs.

    Attributes:
        arms: per side (left, right) of the picture: (upper arm, bend of the forearm).
        legs: per side, how far the leg is spread.
        back: bool, seen from behind.
        worn: bool, whether a person is in the garment.
    """

    arms: tuple[tuple[float, float], ...]
    legs: tuple[float, float]
    back: bool
    worn: bool


def arm_line(pose: Pose, side: int, end: float = 1.0) -> np.ndarray:
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


def leg_joints(pose: Pose, side: int) -> np.ndarray:
    """Returns hip, knee and ankle of a leg: array (3, 2)."""
    spread = pose.legs[0 if side < 0 else 1]
    hip = np.array([0.17, 1.22])
    knee = hip + 0.72 * np.array([np.sin(0.5 * spread), 1])
    ankle = knee + 0.72 * np.array([np.sin(spread), 1])
    return np.array([hip, knee, ankle]) * (side, 1)


def draw_person(scene: Scene, pose: Pose, skin: Colour, hair: Colour, style: str) -> None:
    """Draws a person to put garments on; the face is left empty.

    Args:
        scene: Scene.
        pose: Pose.
        skin, hair: colours.
        style: str, of the hair, "long" or "short".
    """
    for side in (-1, 1):
        leg = leg_joints(pose, side)
        scene.fill(tube(spline(leg), _LEG_WIDTHS), skin, cloth=False)
        x, y = leg[-1] + (0.04 * side, 0.09)
        scene.fill(ellipse(x, y, 0.1, 0.075), _FOOT, cloth=False)
    if style == "long":
        scene.fill(_LONG_HAIR, hair, cloth=False)
    scene.fill(np.concatenate([_TORSO, mirror(_TORSO)]), skin, cloth=False)
    for side in (-1, 1):
        path = arm_line(pose, side)
        scene.fill(tube(path, np.linspace(0.09, 0.05, len(path))), skin, cloth=False)
        x, y = path[-1] + (0, 0.05)
        scene.fill(ellipse(x, y, 0.06, 0.085), skin, cloth=False)
    scene.fill(box(-0.1, -0.28, 0.1, 0.06), skin * 0.93, line=False, cloth=False)
    scene.fill(ellipse(0, -0.4, 0.19, 0.25), skin, cloth=False)
    cap = ellipse(0, -0.43, 0.215, 0.26)
    if not pose.back:
        cap = np.concatenate([cap[11:], cap[:2], [(0.1, -0.5), (-0.1, -0.52)]])
    scene.fill(cap, hair, cloth=False)
