"""One photo of an item: pose, scenery, camera and light."""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from fir_tf.boutique.figure import Pose, Scene, draw_person
from fir_tf.boutique.planning import Item, check_integer, pick
from fir_tf.boutique.shapes import ink, rgb, smooth
from fir_tf.boutique.styles import CUTS, HAIRS, NEUTRALS, PALETTES, SKINS
from fir_tf.boutique.tailor import dress_up


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
    return Pose(arms, legs, back, presented == "worn")


def _companion(rng, item, consumer):
    """Returns something plain to wear with an item, and its colours; None if nothing is needed."""
    body = item.cut["body"]
    if body in ("dress", "jumpsuit"):
        return None
    if body in ("pants", "skirt"):
        name = ("MEN/Tees_Tanks", "WOMEN/Sweaters")[int(rng.integers(2))]
    else:
        name = ("MEN/Pants", "WOMEN/Skirts", "MEN/Shorts")[int(rng.integers(3))]
    cut = {key: pick(rng, spec) for key, spec in CUTS[name].items()}
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
    source = [p[0] for p in PALETTES] if consumer and rng.random() < 0.6 else NEUTRALS
    colour = rgb(source[int(rng.integers(len(source)))])
    return Item(0, name, cut, {"kind": "plain"}, []), np.stack([colour, colour, 0.6 * colour])


def _studio(rng, size):
    """Returns a shop's background: float32 (size, size, 3)."""
    tone = rgb(["f4f4f2", "ebeaea", "f3ece4", "e4eaee", "f7f1f1", "dcdad6"][rng.integers(6)])
    y, x = np.mgrid[:size, :size].astype(np.float32) / size - 0.5
    light = 1.02 - 0.16 * ((x - rng.uniform(-0.2, 0.2)) ** 2 + (y + 0.1) ** 2) / 0.5
    floor = rng.uniform(0.36, 0.44)
    light = light - 0.06 / (1 + np.exp(-(y - floor) / 0.02))
    return np.clip(tone * light[..., None], 0, 1)


def _room(rng, size, flat):
    """Returns a consumer's background, a room or a bed: float32 (size, size, 3)."""
    hues = [p[k] for p in PALETTES for k in range(3)]

    def colour(white=0.45):
        tone = rgb(hues[int(rng.integers(len(hues)))])
        return tone + white * (0.85 - tone)

    picture = Image.new("RGB", (size, size), ink(colour(0.6)))
    draw = ImageDraw.Draw(picture)

    def boards(box, vertical):
        """Stripes, planks, tiles: whatever repeats in a room."""
        x0, y0, x1, y1 = box
        step = size * rng.uniform(0.04, 0.14)
        tone, width = ink(colour(0.5)), max(1, int(step * rng.choice([0.12, 0.5])))
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
        draw.rectangle([0, floor, size, size], fill=ink(colour(0.2)))
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
                fill=ink(colour(0.15)),
                outline=ink(colour(0.1)),
                width=int(rng.integers(1, 7)),
            )
            if rng.random() < 0.5:
                boards(box, bool(rng.random() < 0.5))
        elif kind < 0.75:
            draw.ellipse(box, fill=ink(colour(0.1)))
        else:
            points = [(x + w * u, y + h * v) for u, v in rng.uniform(-0.3, 1.3, (5, 2))]
            draw.polygon(points, fill=ink(colour(0.1)))
    picture = picture.filter(ImageFilter.GaussianBlur(size * rng.uniform(0.001, 0.008)))
    room = np.asarray(picture, np.float32) / 255
    return np.clip(room * (1 + 0.05 * smooth(rng, size, 5))[..., None], 0, 1)


def _occlude(rng, picture, skin):
    """Draws something over a consumer photo: a strap, a phone, a hand, a leaf, a sticker."""
    size = picture.size[0]
    draw = ImageDraw.Draw(picture)
    tone = ink(rgb(PALETTES[int(rng.integers(len(PALETTES)))][int(rng.integers(3))]))
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
            fill=ink(skin * 0.9),
            width=int(1.3 * w),
        )
        draw.ellipse([x - 1.2 * w, y - 0.3 * w, x + 1.2 * w, y + 2.2 * w], fill=ink(skin * 0.93))
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
    check_integer("size", size, 32, 1024)
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
    scene = Scene(
        rng,
        big,
        camera,
        turn,
        rng.uniform(0.7, 0.8) if turned else 1.0,
        rng.uniform(0.1, 0.2) if consumer else rng.uniform(0.05, 0.09),
    )
    skin = rgb(SKINS[int(rng.integers(len(SKINS)))])
    if presented == "worn":
        style = "long" if item.category.startswith("WOMEN") and rng.random() < 0.6 else "short"
        draw_person(scene, pose, skin, rgb(HAIRS[int(rng.integers(len(HAIRS)))]), style)
        companion = _companion(rng, item, consumer)
        if companion is not None:
            dress_up(scene, *companion, pose)
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
    palette = np.stack([rgb(text) for text in item.palettes[photo.variant]])
    dress_up(scene, item, palette, pose)

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
