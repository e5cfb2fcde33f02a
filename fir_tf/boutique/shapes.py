"""Polygons, splines, prints and woven patterns, in body units.

The origin is the base of the neck, y points down, the shoulders are about 0.8 apart and the ankles
at y = 2.65. Colours are floats in [0, 1].
"""

import numpy as np
from PIL import Image


def rgb(text):
    """Turns "rrggbb" into a float32 array of shape (3,) in [0, 1]."""
    return np.array([int(text[i : i + 2], 16) for i in (0, 2, 4)], np.float32) / 255


def ink(colour):
    """Turns a colour in [0, 1] into the integer triple Pillow wants."""
    return tuple(int(round(255 * min(max(float(x), 0.0), 1.0))) for x in colour)


def smooth(rng, size, cells):
    """Returns smooth noise: float32 of shape (size, size), about normal, `cells` bumps across."""
    grid = rng.standard_normal((cells + 3, cells + 3)).astype(np.float32)
    return np.asarray(Image.fromarray(grid).resize((size, size), Image.BICUBIC))


def spline(points, steps=6):
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


def mirror(points):
    """Returns `points` reflected at x = 0, in the opposite order."""
    return np.asarray(points, float)[::-1] * (-1, 1)


def ellipse(x, y, rx, ry, steps=24):
    """Returns a polygon around (x, y)."""
    angle = np.linspace(0, 2 * np.pi, steps, endpoint=False)
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], axis=1)


def box(x0, y0, x1, y1):
    """Returns a rectangle as a polygon."""
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], float)


def tube(path, widths):
    """Returns the outline of a tube around `path`, `widths` to either side."""
    path, widths = np.asarray(path, float), np.asarray(widths, float)[:, None]
    along = np.gradient(path, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True) + 1e-9
    across = np.stack([-along[:, 1], along[:, 0]], axis=1) * widths
    return np.concatenate([path + across, (path - across)[::-1]])


def logo_polygons(kind, x, y, r):
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


def weave(pattern, palette, s, t, pixel):
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
