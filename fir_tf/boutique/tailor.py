"""Draws a garment, part by part, in the pose of the figure that wears it."""

import numpy as np

from fir_tf.boutique.figure import arm_line, leg_joints
from fir_tf.boutique.shapes import box, ellipse, logo_polygons, mirror, spline, tube, weave


def dress_up(scene, item, palette, pose):
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
            colours = weave(self.pattern, palette, s, t, self.scene.pixel)
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
                [neck, spline([(neck[-1][0], -0.03), (0, 0.02), (neck[0][0], -0.03)])]
            )
            if not self.pose.worn:
                self.scene.fill(inside, 0.55 * self.base, line=False)
        strap = cut["sleeve"] == 0
        tip = (self.shoulder - (0.06 if strap else 0.0), 0.11)
        under = (self.chest, 0.45)
        low = (self.hip + cut["flare"], hem) if body == "top" else (self.waist + 0.02, hem)
        side = spline(
            [under, (self.waist + 0.3 * cut["flare"], min(0.85, hem - 0.05)), low]
            if hem > 1.0
            else [under, low]
        )
        hole = spline([tip, (tip[0] - 0.06, 0.28), under], 4) if strap else [tip, under]
        bottom = [(0, hem + (0.07 if cut["hem"] == "curved" else 0.015))]
        right = np.concatenate([hole, side])
        outline = np.concatenate([neck, right, bottom, mirror(right)])
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
            points = spline(
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

    def hood(self):
        """The hood behind the neck, or on the back."""
        shape = spline(
            [(-0.26, 0.12), (-0.3, -0.08), (-0.17, -0.2), (0.17, -0.2), (0.3, -0.08), (0.26, 0.12)]
        )
        self.scene.fill(shape, self.cloth(palette=0.88 * self.palette))
        if not self.pose.back:
            self.scene.fill(ellipse(0, -0.03, 0.2, 0.13), 0.5 * self.base, line=False)

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
            scene.fill(box(-0.028, top - 0.02, 0.028, bottom), 0.35 + 0 * self.base)
            scene.line([(0, top), (0, bottom)], np.array([0.85, 0.85, 0.85]), 0.016)
            scene.fill(box(-0.03, top + 0.04, 0.03, top + 0.12), np.array([0.9, 0.9, 0.88]))
            return
        strip = self.trim if cut["trim"] else self.base
        scene.fill(box(-0.05, top - 0.03, 0.05, bottom), strip)
        count = 3 if kind == "placket" else max(3, int((bottom - top) / 0.17))
        for y in np.linspace(top + 0.06, bottom - 0.07, count):
            button = self.second if cut["trim"] else self.accent
            scene.fill(ellipse(0, y, 0.03, 0.03, 10), button, cloth=False, round_=0)

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
                scene.fill(box(x - 0.11, hem - 0.38, x + 0.11, hem - 0.14), paint)
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
        for points in logo_polygons(self.cut["logo"], x, y, r):
            self.scene.fill(points, self.accent, line=False, round_=0)

    def collar(self, neck, depth):
        """Collars."""
        kind, scene, back = self.cut["collar"], self.scene, self.pose.back
        paint = self.trim if self.cut["trim"] else 0.92 * self.base
        if kind == "turtle":
            scene.fill(
                spline(
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
                spline(
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
                    spline([(0, y), (0.2 * side, y - 0.1), (0.22 * side, y + 0.07), (0, y)]),
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
        right = spline(
            [(self.waist + 0.02, top), (self.hip + 0.25 * cut["flare"], 1.2), (wide + sway, hem)]
        )
        left = mirror(right) + np.linspace(1, 0, len(right))[:, None] ** 2 * (2 * sway, 0)
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
            hip, knee, ankle = leg_joints(self.pose, side) * (side, 1)
            line = np.array([hip, knee, ankle])
            end = np.array([np.interp(length, line[:, 1], line[:, 0]), length])
            wide = cut["leg"]
            outer = spline([(self.waist + 0.02, 0.88), (self.hip, 1.2), end + (0.02 + wide, 0.0)])
            inner = spline([end - (wide - 0.02, -0.01), (0.03, 1.42)], 3)
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
                x, y = leg_joints(self.pose, side)[1]
                scene.fill(box(x - 0.12, y - 0.16, x + 0.12, y + 0.14), self.second)
            if cut["cuff"] > 0:
                scene.fill(
                    box(
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
                    box(x - 0.12, 1.46, x + 0.1, 1.72),
                    self.trim if cut["trim"] else 0.85 * self.base,
                )
                scene.fill(box(x - 0.13, 1.44, x + 0.11, 1.52), 0.75 * self.base)

    def waistband(self, y):
        """Belt, sash or plain waistband."""
        kind, scene = self.cut["belt"], self.scene
        wide = self.waist + 0.035
        paint = {"none": 0.85 * self.base, "belt": 0.5 * self.accent, "sash": self.accent}[kind]
        scene.fill(box(-wide, y - 0.05, wide, y + 0.05), paint)
        if kind == "belt" and not self.pose.back:
            scene.fill(box(-0.06, y - 0.055, 0.06, y + 0.055), np.array([0.85, 0.75, 0.45]))
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
