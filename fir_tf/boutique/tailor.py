"""Draws a garment, part by part, in the pose of the figure that wears it."""

import numpy as np
from numpy.typing import ArrayLike

from fir_tf.boutique.figure import Paint, Pose, Scene, arm_line, leg_joints
from fir_tf.boutique.patterns import weave
from fir_tf.boutique.planning import Item
from fir_tf.boutique.shapes import box, ellipse, logo_polygons, mirror, spline, tube

_NECK_DEPTHS = {
    "crew": 0.11,
    "v": 0.3,
    "deep": 0.62,
    "scoop": 0.24,
    "square": 0.2,
    "boat": 0.07,
    "back": 0.045,
}
_NECK_WIDTHS = {"boat": 0.26, "square": 0.2, "scoop": 0.19}
# Of a logo: x, y, radius.
_LOGO_PLACES = {"centre": (0, 0.5, 0.19), "chest": (-0.18, 0.4, 0.11), "low": (0.14, 0.85, 0.14)}

_HOOD = spline(
    [(-0.26, 0.12), (-0.3, -0.08), (-0.17, -0.2), (0.17, -0.2), (0.3, -0.08), (0.26, 0.12)]
)
_TURTLENECK = spline(
    [(-0.16, 0.06), (-0.13, -0.15), (0.13, -0.15), (0.16, 0.06), (0, 0.12), (-0.16, 0.06)]
)
_COLLAR_BEHIND = spline(
    [(-0.17, 0.03), (-0.13, -0.08), (0.13, -0.08), (0.17, 0.03), (0, 0.1), (-0.17, 0.03)]
)


def dress_up(scene: Scene, item: Item, palette: np.ndarray, pose: Pose) -> None:
    """Draws a garment.

    Args:
        scene: `Scene` to draw on.
        item: `Item`; only cut and pattern are used.
        palette: float array of shape (3, 3): base, second and accent colour.
        pose: `Pose`.
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

    def __init__(self, scene: Scene, item: Item, palette: np.ndarray, pose: Pose) -> None:
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

    def cloth(
        self, origin: ArrayLike = (0.0, 0.5), angle: float = 0.0, palette: np.ndarray | None = None
    ) -> Paint:
        """Returns a paint: the pattern in a frame that hangs on a part of the body."""
        colours_of = self.palette if palette is None else palette
        left, top = np.asarray(origin, np.float32)
        cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))

        def paint(x: np.ndarray, y: np.ndarray) -> np.ndarray:
            x, y = x - left, y - top
            s, t = cos * x - sin * y, sin * x + cos * y
            colours = weave(self.pattern, colours_of, s, t, self.scene.pixel)
            if self.cut["rib"]:
                colours = colours * (1 + 0.06 * np.sin(2 * np.pi * s / 0.07))[..., None]
            return colours

        return paint

    def trimmed(self, shade: float) -> np.ndarray:
        """Returns the accent of a garment with trim, a darker base colour of one without."""
        return self.trim if self.cut["trim"] else shade * self.base

    def both_sides(self, points: ArrayLike, paint: Paint) -> None:
        """Draws a polygon and its mirror image."""
        for side in (-1, 1):
            self.scene.fill(np.asarray(points, float) * (side, 1), paint)

    def top(self) -> None:
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
        if not self.pose.back and not self.pose.worn:
            lining = spline([(neck[-1][0], -0.03), (0, 0.02), (neck[0][0], -0.03)])
            self.scene.fill(np.concatenate([neck, lining]), 0.55 * self.base, line=False)
        strap = cut["sleeve"] == 0
        sleeves_first = any(bend > 1 for _, bend in self.pose.arms)
        if not strap and not sleeves_first:
            self.sleeves()
        wide = self.hip + cut["flare"] if body == "top" else self.waist + 0.02
        self.scene.fill(self.outline(neck, hem, wide), self.cloth())
        if not strap and sleeves_first:
            self.sleeves()
        self.front(neck, depth, hem, wide)

    def outline(self, neck: np.ndarray, hem: float, wide: float) -> np.ndarray:
        """Returns the outline of what covers the trunk, `wide` to either side at the hem."""
        cut, strap = self.cut, self.cut["sleeve"] == 0
        tip = (self.shoulder - (0.06 if strap else 0.0), 0.11)
        under, low = (self.chest, 0.45), (wide, hem)
        waist = (self.waist + 0.3 * cut["flare"], min(0.85, hem - 0.05))
        side = spline([under, waist, low] if hem > 1.0 else [under, low])
        hole = spline([tip, (tip[0] - 0.06, 0.28), under], 4) if strap else [tip, under]
        bottom = [(0, hem + (0.07 if cut["hem"] == "curved" else 0.015))]
        right = np.concatenate([hole, side])
        return np.concatenate([neck, right, bottom, mirror(right)])

    def neckline(self) -> tuple[np.ndarray, float]:
        """Returns the neckline from left to right, (n, 2), and its depth."""
        style = "back" if self.pose.back else self.cut["neck"]
        depth = _NECK_DEPTHS[style]
        if self.cut["collar"] in ("turtle", "hood") and not self.pose.back:
            depth = 0.1
        wide = _NECK_WIDTHS.get(self.cut["neck"], 0.15)
        left, right = (-wide, 0.0), (wide, 0.0)
        if style in ("v", "deep") and depth > 0.1:
            return np.array([left, (0, depth), right]), depth
        if style == "square":
            return np.array([left, (-0.85 * wide, depth), (0.85 * wide, depth), right]), depth
        bow = [(-0.6 * wide, 0.8 * depth), (0, depth), (0.6 * wide, 0.8 * depth)]
        return spline([left, *bow, right]), depth

    def sleeves(self) -> None:
        """Both sleeves, each with the pattern along the arm."""
        cut = self.cut
        palette = self.palette
        if cut["contrast_sleeves"]:
            palette = np.stack([self.second, self.base, self.accent])
        for side in (-1, 1):
            path = arm_line(self.pose, side, cut["sleeve"])
            share = np.linspace(0, 1, len(path))
            width = cut["sleeve_width"] * (1 - 0.3 * cut["sleeve"] * share)
            width = width + cut["puff"] * np.sin(np.pi * np.clip(share * 1.1, 0, 1)) ** 2
            along = path[len(path) // 2] - path[0]
            angle = np.arctan2(along[0], along[1])
            cap = path[0] + (-0.02 * side, -0.05)
            outline = tube(np.concatenate([[cap], path]), np.concatenate([[0.7 * width[0]], width]))
            self.scene.fill(outline, self.cloth(path[0], angle, palette))
            if cut["cuff"] > 0:
                share = cut["cuff"] / (1.07 * cut["sleeve"])
                count = max(2, int(round(share * len(path))) + 1)
                self.scene.fill(tube(path[-count:], 1.04 * width[-count:]), self.trim)

    def hood(self) -> None:
        """The hood behind the neck, or on the back."""
        self.scene.fill(_HOOD, self.cloth(palette=0.88 * self.palette))
        if not self.pose.back:
            self.scene.fill(ellipse(0, -0.03, 0.2, 0.13), 0.5 * self.base, line=False)

    def front(self, neck: np.ndarray, depth: float, hem: float, wide: float) -> None:
        """Everything that is sewn on a top."""
        cut, scene = self.cut, self.scene
        if cut["yoke"] > 0:
            y = cut["yoke"]
            join = self.shoulder + (self.chest - self.shoulder) * (y - 0.11) / 0.34
            below = [(self.shoulder, 0.11), (join, y), (-join, y), (-self.shoulder, 0.11)]
            scene.fill(np.concatenate([neck, below]), self.second)
        if cut["hem"] == "ruffle" and cut["body"] == "top":
            self.ruffle(hem, wide)
        elif cut["band"] > 0:
            upper, lower = hem - cut["band"], hem + 0.01
            scene.fill(
                [(-wide, upper), (wide, upper), (0.95 * wide, lower), (-0.95 * wide, lower)],
                self.trim,
            )
        if not self.pose.back:
            self.closure(depth, hem)
            self.pockets(hem)
            self.logo()
        if cut["collar"] == "none" or cut["collar"] == "bow":
            scene.line(neck, self.trim, 0.045 if cut["trim"] else 0.025)
        self.collar(neck, depth)
        if cut["belt"] != "none":
            self.waistband(0.86)

    def closure(self, top: float, hem: float) -> None:
        """Buttons, zip or an open front."""
        kind, scene = self.cut["closure"], self.scene
        bottom = top + 0.36 if kind == "placket" else hem
        if kind == "open":
            gap, above = 0.12, top - 0.1
            shirt = 0.94 * np.array([0.97, 0.96, 0.94])
            scene.fill([(0, above), (gap, hem + 0.03), (-gap, hem + 0.03)], shirt, line=False)
            edge = [(0, above), (gap, hem), (gap + 0.07, hem), (0.07, above)]
            self.both_sides(edge, self.trim)
        elif kind == "zip":
            scene.fill(box(-0.028, top - 0.02, 0.028, bottom), 0.35 + 0 * self.base)
            scene.line([(0, top), (0, bottom)], np.array([0.85, 0.85, 0.85]), 0.016)
            scene.fill(box(-0.03, top + 0.04, 0.03, top + 0.12), np.array([0.9, 0.9, 0.88]))
        elif kind != "none":
            scene.fill(box(-0.05, top - 0.03, 0.05, bottom), self.trimmed(1.0))
            count = 3 if kind == "placket" else max(3, int((bottom - top) / 0.17))
            for y in np.linspace(top + 0.06, bottom - 0.07, count):
                button = self.second if self.cut["trim"] else self.accent
                scene.fill(ellipse(0, y, 0.03, 0.03, 10), button, cloth=False, round_=0)

    def pockets(self, hem: float) -> None:
        """Pockets of tops and jumpsuits."""
        kind, scene = self.cut["pocket"], self.scene
        paint = self.trimmed(0.86)
        if kind in ("chest", "two"):
            for x in (0.19,) if kind == "chest" else (-0.19, 0.19):
                left, right = x - 0.09, x + 0.09
                scene.fill(
                    [(left, 0.38), (right, 0.38), (right, 0.54), (x, 0.59), (left, 0.54)], paint
                )
        elif kind == "kangaroo":
            top, low = hem - 0.42, hem - 0.1
            hands = [(0.28, low - 0.1), (0.28, low), (-0.28, low), (-0.28, low - 0.1)]
            scene.fill([(-0.15, top), (0.15, top), *hands], paint)
        elif kind == "patch":
            for x in (-0.23, 0.23):
                scene.fill(box(x - 0.11, hem - 0.38, x + 0.11, hem - 0.14), paint)
        elif kind == "slant":
            y = 0.82 if self.cut["body"] == "top" else 1.0
            for side in (-1, 1):
                scene.line([(0.17 * side, y), (0.26 * side, y + 0.2)], paint, 0.04)

    def logo(self) -> None:
        """The print."""
        if self.cut["logo"] == "none":
            return
        x, y, r = _LOGO_PLACES[self.cut["logo_at"]]
        if self.cut["pocket"] == "kangaroo":
            y -= 0.06
        for points in logo_polygons(self.cut["logo"], x, y, r):
            self.scene.fill(points, self.accent, line=False, round_=0)

    def collar(self, neck: np.ndarray, depth: float) -> None:
        """Collars, and the parts of a hood and a bow in front."""
        kind, back, paint = self.cut["collar"], self.pose.back, self.trimmed(0.92)
        if kind == "turtle":
            self.scene.fill(_TURTLENECK, paint)
        elif kind == "stand" and back:
            self.scene.fill(np.concatenate([neck[::-1], [(-0.15, -0.12), (0.15, -0.12)]]), paint)
        elif kind == "stand":
            ends = [(-0.16, 0.02), (-0.14, -0.12)], [(0.14, -0.12), (0.16, 0.02)]
            self.scene.fill([*ends[0], (0, depth - 0.16), *ends[1], (0, depth)], paint)
        elif kind in ("shirt", "polo") and back:
            self.scene.fill(_COLLAR_BEHIND, paint)
        elif kind in ("shirt", "polo"):
            long = 0.34 if kind == "shirt" else 0.24
            tip = [(0.2, long - 0.06), (0.02, long - 0.02)]
            self.both_sides([(0.13, -0.07), (0.17, 0.03), *tip], paint)
        elif kind == "hood" and not back:
            for side in (-1, 1):
                edge = np.array([(0.24, -0.06), (0.25, 0.08), (0.02, 0.22), (0.0, 0.1)])
                self.scene.fill(edge * (side, 1), self.cloth(palette=0.92 * self.palette))
                self.scene.line([(0.06 * side, 0.2), (0.07 * side, 0.42)], self.accent, 0.022)
        elif kind == "bow" and not back:
            y = max(depth, 0.1)
            for side in (-1, 1):
                loop = [(0, y), (0.2 * side, y - 0.1), (0.22 * side, y + 0.07), (0, y)]
                self.scene.fill(spline(loop), self.accent)
                end = [(0, y), (0.1 * side, y + 0.3), (0.02 * side, y + 0.3)]
                self.scene.fill(end, self.accent)

    def ruffle(self, y: float, wide: float) -> None:
        """A frill below a hem."""
        x = np.linspace(-1.12, 1.12, 25) * wide
        wave = y + 0.13 + 0.03 * np.cos(np.arange(25) * np.pi)
        seam = [(-wide, y - 0.05), (wide, y - 0.05)]
        self.scene.fill(np.concatenate([seam, np.stack([x, wave], axis=1)[::-1]]), self.trim)

    def skirt(self, top: float, hem: float) -> None:
        """A skirt from `top` to `hem`."""
        cut, scene = self.cut, self.scene
        wide = self.hip + 0.02 + cut["flare"] * (hem - top)
        sway = 0.3 * (self.pose.legs[1] - self.pose.legs[0]) * (hem - top)
        right = spline(
            [(self.waist + 0.02, top), (self.hip + 0.25 * cut["flare"], 1.2), (wide + sway, hem)]
        )
        left = mirror(right) + np.linspace(1, 0, len(right))[:, None] ** 2 * (2 * sway, 0)
        outline = np.concatenate([right, [(sway, hem + 0.05)], left])
        if cut["hem"] == "ruffle":
            self.ruffle(hem, wide)
        scene.fill(outline, self.cloth((0, 1.2)))
        if cut["hem"] == "band":
            upper, inner = hem - 0.16, wide - 0.16 * cut["flare"]
            above = [(-inner + sway, upper), (sway, upper + 0.05), (inner + sway, upper)]
            below = [(wide + sway, hem), (sway, hem + 0.05), (-wide + sway, hem)]
            scene.fill([*above, *below], self.trim if cut["trim"] else self.second)
        for k in range(cut["pleats"]):
            share = (k + 0.5) / cut["pleats"] * 2 - 1
            pleat = [(share * self.waist, top + 0.05), (share * wide + sway, hem)]
            scene.line(pleat, 0.55 * self.base, 0.02)

    def legs(self) -> None:
        """Trouser legs from the waist down."""
        cut, length, wide = self.cut, self.cut["length"], self.cut["leg"]
        sides = []
        for side in (-1, 1):
            line = leg_joints(self.pose, side) * (side, 1)
            end = np.array([np.interp(length, line[:, 1], line[:, 0]), length])
            outer = spline([(self.waist + 0.02, 0.88), (self.hip, 1.2), end + (0.02 + wide, 0.0)])
            inner = spline([end - (wide - 0.02, -0.01), (0.03, 1.42)], 3)
            sides.append((outer * (side, 1), inner * (side, 1), end[0] * side))
        (outer_l, inner_l, _), (outer_r, inner_r, _) = sides
        self.scene.fill(
            np.concatenate([outer_r, inner_r, inner_l[::-1], outer_l[::-1]]), self.cloth((0, 1.2))
        )
        self.scene.line([(0, 0.95), (0, 1.42)], 0.6 * self.base, 0.015)
        for side, (outer, _, middle) in zip((-1, 1), sides, strict=True):
            if cut.get("side_stripe"):
                stripe = np.concatenate([outer, outer[::-1] - (0.09 * side, 0)])
                self.scene.fill(stripe, self.accent)
            self.leg_details(side, middle)

    def leg_details(self, side: int, middle: float) -> None:
        """What is sewn on the leg of a side whose hem is around x = `middle`."""
        cut, scene = self.cut, self.scene
        if cut.get("knee"):
            x, y = leg_joints(self.pose, side)[1]
            scene.fill(box(x - 0.12, y - 0.16, x + 0.12, y + 0.14), self.second)
        if cut["cuff"] > 0:
            wide, low = cut["leg"], cut["length"]
            left, right = middle - wide - 0.03, middle + wide + 0.03
            scene.fill(box(left, low - cut["cuff"], right, low + 0.015), self.trim)
        if cut.get("cargo"):
            x = side * (self.hip - 0.06)
            scene.fill(box(x - 0.12, 1.46, x + 0.1, 1.72), self.trimmed(0.85))
            scene.fill(box(x - 0.13, 1.44, x + 0.11, 1.52), 0.75 * self.base)

    def waistband(self, y: float) -> None:
        """Belt, sash or plain waistband."""
        kind, scene = self.cut["belt"], self.scene
        wide = self.waist + 0.035
        paint = {"none": 0.85 * self.base, "belt": 0.5 * self.accent, "sash": self.accent}[kind]
        scene.fill(box(-wide, y - 0.05, wide, y + 0.05), paint)
        if kind == "belt" and not self.pose.back:
            scene.fill(box(-0.06, y - 0.055, 0.06, y + 0.055), np.array([0.85, 0.75, 0.45]))
        if kind == "sash" and not self.pose.back:
            for x in (0.08, 0.2):
                scene.fill([(0.1, y), (x + 0.06, y + 0.42), (x - 0.04, y + 0.42)], paint)

    def bottom_details(self) -> None:
        """Pockets, strings and buttons of trousers and skirts."""
        cut, scene = self.cut, self.scene
        paint = self.trimmed(0.7)
        if self.pose.back:
            if cut["body"] == "pants":
                for x in (-0.17, 0.17):
                    scene.fill(box(x - 0.09, 1.1, x + 0.09, 1.27), paint)
            return
        if cut["pocket"] == "slant":
            for side in (-1, 1):
                scene.line([(0.2 * side, 0.97), (0.33 * side, 1.14)], paint, 0.03)
        elif cut["pocket"] == "patch":
            for x in (-0.2, 0.2):
                scene.fill(box(x - 0.1, 1.1, x + 0.1, 1.3), paint)
        if cut["drawstring"]:
            for x in (-0.05, 0.05):
                scene.line([(0, 0.93), (1.3 * x, 1.2)], self.second, 0.025)
        if cut["closure"] == "buttons":
            for y in np.arange(1.02, cut["length"] - 0.05, 0.16):
                scene.fill(ellipse(0, y, 0.032, 0.032, 10), self.accent, cloth=False, round_=0)
