"""Colours, polygons, splines and prints, in body units.

The origin is the base of the neck, y points down, the shoulders are about 0.8 apart and the ankles
at y = 2.65. Colours are floats in [0, 1].
"""

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

Rng = np.random.Generator

Colour = np.ndarray
"""float array of shape (3,): red, green and blue in [0, 1]."""


def rgb(text: str) -> Colour:
    """Turns "rrggbb" into a float32 array of shape (3,) in [0, 1]."""
    return np.array([int(text[i : i + 2], 16) for i in (0, 2, 4)], np.float32) / 255


def ink(colour: ArrayLike) -> tuple[int, int, int]:
    """Turns a colour in [0, 1] into the integer triple Pillow wants."""
    red, green, blue = (int(round(255 * min(max(float(x), 0.0), 1.0))) for x in np.asarray(colour))
    return red, green, blue


def smooth(rng: Rng, size: int, cells: int) -> np.ndarray:
    """Returns smooth noise: float32 of shape (size, size), about normal, `cells` bumps across."""
    grid = rng.standard_normal((cells + 3, cells + 3)).astype(np.float32)
    return np.asarray(Image.fromarray(grid).resize((size, size), Image.Resampling.BICUBIC))


def spline(points: ArrayLike, steps: int = 6) -> np.ndarray:
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


def mirror(points: ArrayLike) -> np.ndarray:
    """Returns `points` reflected at x = 0, in the opposite order."""
    return np.asarray(points, float)[::-1] * (-1, 1)


def ellipse(x: float, y: float, rx: float, ry: float, steps: int = 24) -> np.ndarray:
    """Returns a polygon around (x, y)."""
    angle = np.linspace(0, 2 * np.pi, steps, endpoint=False)
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], axis=1)


def box(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    """Returns a rectangle as a polygon."""
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], float)


def tube(path: ArrayLike, widths: ArrayLike) -> np.ndarray:
    """Returns the outline of a tube around `path`, `widths` to either side."""
    path, widths = np.asarray(path, float), np.asarray(widths, float)[:, None]
    along = np.gradient(path, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True) + 1e-9
    across = np.stack([-along[:, 1], along[:, 0]], axis=1) * widths
    return np.concatenate([path + across, (path - across)[::-1]])


def logo_polygons(kind: str, x: float, y: float, r: float) -> list[np.ndarray]:
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
        outer, inner = ellipse(x, y, r, r, 40), ellipse(x, y, 0.55 * r, 0.55 * r, 40)
        return [np.concatenate([outer, outer[:1], inner[:1], inner[::-1]])]
    if kind == "triangle":
        return [np.array([(x, y - r), (x + r, y + 0.8 * r), (x - r, y + 0.8 * r)])]
    if kind == "bars":
        return [
            box(x - r, y + k * r, x + (1 - 0.3 * i) * r, y + (k + 0.4) * r)
            for i, k in enumerate((-0.8, -0.2, 0.4))
        ]
    if kind == "cross":
        return [
            box(x - r, y - 0.3 * r, x + r, y + 0.3 * r),
            box(x - 0.3 * r, y - r, x + 0.3 * r, y + r),
        ]
    if kind == "moon":
        outer = ellipse(x, y, r, r, 40)[7:34]
        inner = ellipse(x + 0.45 * r, y, 0.75 * r, 0.85 * r, 40)[9:32]
        return [np.concatenate([outer, inner[::-1]])]
    if kind == "bolt":
        shape = [(0.2, -1.1), (-0.6, 0.15), (-0.05, 0.15), (-0.3, 1.1), (0.6, -0.2), (0.05, -0.2)]
        return [np.array(shape) * r + (x, y)]
    if kind == "flower":
        radius = r * (0.72 + 0.28 * np.cos(5 * angle))
        return [np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], axis=1)]
    return [ellipse(x, y, r, r)]
