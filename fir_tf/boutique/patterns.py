"""The woven and printed patterns of cloth."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class _Cloth:
    """A part of a cloth.

    Attributes:
        pattern: dict of an `Item`.
        palette: float array of shape (3, 3): base, second and accent colour.
        s, t: float32 arrays of the same shape, position across and along the cloth.
        a, b: the same turned by the pattern's angle.
        pixel: float, the size of a pixel in the same unit, for smooth edges.
    """

    pattern: Mapping[str, Any]
    palette: np.ndarray
    s: np.ndarray
    t: np.ndarray
    a: np.ndarray
    b: np.ndarray
    pixel: float

    @property
    def period(self) -> float:
        return self.pattern["period"]

    @property
    def duty(self) -> float:
        return self.pattern["duty"]

    @property
    def phase(self) -> list[float]:
        return self.pattern["phase"]

    def edge(self, x: np.ndarray) -> np.ndarray:
        """1 where x is positive, smooth around 0."""
        return np.clip(x / (1.5 * self.pixel) + 0.5, 0, 1)

    def band(self, x: np.ndarray, share: float, shift: float = 0.0) -> np.ndarray:
        """1 where x is within the middle `share` of its period."""
        near = np.abs((x / self.period + shift) % 1 - 0.5) * self.period
        return self.edge(0.5 * share * self.period - near)

    def second(self, weight: np.ndarray) -> np.ndarray:
        """The second colour on the base."""
        return _mixed(weight, self.palette[1], self.palette[0])

    def accent(self, weight: np.ndarray, ground: np.ndarray) -> np.ndarray:
        """The accent colour on what is there."""
        return _mixed(weight, self.palette[2], ground)


def _mixed(weight: np.ndarray, other: np.ndarray, ground: np.ndarray) -> np.ndarray:
    return ground + weight[..., None] * (other - ground)


def weave(
    pattern: Mapping[str, Any], palette: np.ndarray, s: np.ndarray, t: np.ndarray, pixel: float
) -> np.ndarray:
    """Evaluates a pattern.

    Args:
        pattern: dict of an `Item`.
        palette: float array of shape (3, 3): base, second and accent colour.
        s, t: float32 arrays of the same shape, position across and along the cloth.
        pixel: float, the size of a pixel in the same unit, for smooth edges.

    Returns:
        float32 array of shape s.shape + (3,).
    """
    angle = np.deg2rad(pattern.get("angle", 0))
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    a, b = cos * s + sin * t, cos * t - sin * s
    return _WEAVES[pattern["kind"]](_Cloth(pattern, palette, s, t, a, b, pixel))


def _plain(cloth: _Cloth) -> np.ndarray:
    return np.broadcast_to(cloth.palette[0], (*cloth.s.shape, 3))


def _gradient(cloth: _Cloth) -> np.ndarray:
    return cloth.second(np.clip(cloth.b / (2 * cloth.duty) + 0.35, 0, 1))


def _blocks(cloth: _Cloth) -> np.ndarray:
    # Horizontal joins sit low or high on the body, all others near its middle.
    join = cloth.duty - 0.25 if cloth.pattern["angle"] == 0 else 0.3 * (cloth.duty - 0.55)
    return cloth.accent(
        cloth.edge(0.045 - np.abs(cloth.b - join)), cloth.second(cloth.edge(cloth.b - join))
    )


def _stripes(cloth: _Cloth) -> np.ndarray:
    wide = cloth.second(cloth.band(cloth.b, cloth.duty, cloth.phase[0]))
    if cloth.period <= 0.2:
        return wide
    return cloth.accent(cloth.band(cloth.b, 0.14, cloth.phase[0] + 0.5), wide)


def _crossed(cloth: _Cloth, weight: float) -> np.ndarray:
    """Bands both ways."""
    across = cloth.band(cloth.a, cloth.duty, cloth.phase[0])
    along = cloth.band(cloth.b, cloth.duty, cloth.phase[1])
    return cloth.second(weight * (across + along))


def _checks(cloth: _Cloth) -> np.ndarray:
    return _crossed(cloth, 0.5)


def _tartan(cloth: _Cloth) -> np.ndarray:
    colours = _crossed(cloth, 0.45)
    for x, shift in zip((cloth.a, cloth.b), cloth.phase, strict=False):
        colours = cloth.accent(0.8 * cloth.band(x, 0.1, shift + 0.5), colours)
    return colours


def _chevron(cloth: _Cloth) -> np.ndarray:
    zigzag = np.abs((cloth.a / (2 * cloth.period)) % 1 - 0.5) * 2 * cloth.period
    return cloth.second(cloth.band(cloth.b + zigzag, cloth.duty, cloth.phase[0]))


def _argyle(cloth: _Cloth) -> np.ndarray:
    u, v = cloth.a / cloth.period, cloth.b / (cloth.period * cloth.duty)
    diamond = 0.5 - np.abs(u % 1 - 0.5) - np.abs(v % 1 - 0.5)
    odd = (np.floor(v) % 2)[..., None]
    weight = cloth.edge(diamond * cloth.period)
    return np.where(
        (odd > 0) & (diamond[..., None] > 0),
        cloth.accent(weight, cloth.palette[0]),
        cloth.second(weight),
    )


def _camouflage(cloth: _Cloth) -> np.ndarray:
    period = cloth.period
    u, v = 2 * np.pi * cloth.a / period, 2 * np.pi * cloth.b / period
    turn = 6.2832 * np.array(cloth.phase)
    field = np.sin(u + 1.3 * np.sin(0.7 * v + turn[0]) + turn[1]) + np.sin(
        0.83 * v + 1.5 * np.sin(0.6 * u + turn[2]) + turn[0]
    )
    colours = cloth.second(cloth.edge((field - 1.4 * (1 - 2 * cloth.duty)) * 0.1 * period))
    return cloth.accent(cloth.edge((-field - 1.1) * 0.1 * period), colours)


def _scattered(cloth: _Cloth) -> np.ndarray:
    """Dots and flowers: one in every cell of a grid whose odd rows are shifted by half a cell."""
    period, duty, petals = cloth.period, cloth.duty, cloth.pattern["petals"]
    row = np.floor(cloth.t / period)
    u = cloth.s / period + 0.5 * (row % 2) + cloth.phase[0]
    column = np.floor(u)
    x, y = (u - column - 0.5) * period, (cloth.t / period - row - 0.5) * period
    radius = np.hypot(x, y)
    if petals == 0:
        return cloth.second(cloth.edge(duty * period - radius))
    spin = 2.4 * row + 1.7 * column
    shape = duty * period * (0.68 + 0.42 * np.cos(petals * np.arctan2(y, x) + spin))
    return cloth.accent(
        cloth.edge(0.12 * period - radius), cloth.second(cloth.edge(shape - radius))
    )


_WEAVES: dict[str, Callable[[_Cloth], np.ndarray]] = {
    "plain": _plain,
    "gradient": _gradient,
    "blocks": _blocks,
    "stripes": _stripes,
    "checks": _checks,
    "tartan": _tartan,
    "chevron": _chevron,
    "argyle": _argyle,
    "camouflage": _camouflage,
    "dots": _scattered,
    "flowers": _scattered,
}
