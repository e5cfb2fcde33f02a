"""One decoder decides: what is checked, prepared, shown, indexed, served and trained on.

The expected pixels are made by hand or by Pillow, never by the decoder under test.
"""

import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from odd_images import animated, encoded, picture, sixteen_bit, swapped_primaries, turned
from PIL import Image, ImageOps

from fir_tf.config import Config
from fir_tf.evaluation.pictures import _photo
from fir_tf.hygiene.check import inspect
from fir_tf.hygiene.copying import convert
from fir_tf.images.claimed import claimed_size
from fir_tf.images.decode import decode_and_fit, guarded_rows
from fir_tf.images.file import UnreadableImageError
from fir_tf.images.picture import see
from fir_tf.images.thumbnail import thumbnail
from fir_tf.input.augment import DRAWS, training_view
from fir_tf.serving.servable import Servable

SIZE = 32
ERRORS = {"missing", "empty", "truncated", "unreadable", "too_large", "format"}


# Files made by hand.


def chunk(name, body, checksum=None):
    right = zlib.crc32(name + body)
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", checksum or right)


def png(rows, size, depth, kind, before=b"", after=b"", interlaced=0):
    """A PNG of packed rows (list of bytes), with more chunks before and behind its data."""
    head = struct.pack(">IIBBBBB", *size, depth, kind, 0, 0, interlaced)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + before
        + chunk(b"IDAT", data)
        + after
        + chunk(b"IEND", b"")
    )


def with_chunks(contents, *chunks, last=False):
    """A PNG with further chunks in front of its data, or behind them."""
    place = contents.index(b"IEND" if last else b"IDAT") - 4
    return contents[:place] + b"".join(chunks) + contents[place:]


def packed(values, depth):
    """Rows of a PNG or BMP: numbers of 1 to 16 bits [height, width], the first the highest."""
    bits = (values[..., None] >> np.arange(depth)[::-1]) & 1
    return [np.packbits(row.ravel().astype(np.uint8)).tobytes() for row in bits]


def tiff(orientation, order="<"):
    start = b"II*\0" if order == "<" else b"MM\0*"
    entry = struct.pack(order + "HHIHH", 0x0112, 3, 1, orientation, 0)
    return start + struct.pack(order + "IH", 8, 1) + entry + bytes(4)


def gif(indices, palette, screen, corner=(0, 0), clear=None, own_table=False):
    """A GIF of one frame, (width, height) and (left, top), without compression."""
    colours = palette.astype(np.uint8).tobytes()
    colours += bytes(3 * 128 - len(colours))
    head = b"GIF89a" + struct.pack("<HHBBB", *screen, 0 if own_table else 0x86, 0, 0)
    control = b"" if clear is None else bytes([0x21, 0xF9, 4, 1, 0, 0, clear, 0])
    comment = b"\x21\xfe\x03abc\x00"
    place = struct.pack("<BHHHHB", 0x2C, *corner, *indices.shape[::-1], 0x86 if own_table else 0)
    # Codes of 8 bits stay so if the table of 128 colours begins anew (128) soon enough; 129 ends.
    raw = indices.astype(np.uint8).tobytes()
    codes = b"".join(b"\x80" + raw[first : first + 100] for first in range(0, len(raw), 100))
    codes += b"\x81"
    blocks = [codes[first : first + 255] for first in range(0, len(codes), 255)]
    data = b"\x07" + b"".join(bytes([len(block)]) + block for block in blocks) + b"\0;"
    shared, own = (b"", colours) if own_table else (colours, b"")
    return head + shared + comment + control + place + own + data


def bmp(rows, size, bits, packing=0, palette=b"", masks=b"", header=40):
    """A BMP of packed rows in the order of the file, `size` (width, height)."""
    rows = b"".join(row + bytes(-len(row) % 4) for row in rows)
    fields = (header, *size, 1, bits, packing, len(rows), 2835, 2835, len(palette) // 4, 0)
    info = struct.pack("<IiiHHIIiiII", *fields) + masks
    info += bytes(max(header - len(info), 0)) + palette
    start = 14 + len(info)
    return b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + info + rows


# (bytes, uint8 [height, width, 3] that has to be seen) of every kind.

RNG = np.random.default_rng(3)
PHOTO = Image.fromarray(RNG.integers(0, 256, (4, 5, 3), np.uint8)).resize((40, 32), Image.BICUBIC)
RGB = np.asarray(PHOTO)
GRAY = np.asarray(PHOTO.convert("L"))
ALPHA = RNG.integers(0, 256, GRAY.shape).astype(np.uint8)
# Large areas, so that resizing by other filters still agrees.
AREAS = np.kron(RNG.integers(0, 2, (4, 5)), np.ones((8, 8), int)).astype(np.uint8)


def on_white(rgb, alpha):
    part = alpha[..., None] / 255
    return np.round(rgb * part + 255 * (1 - part)).astype(np.uint8)


def three(gray):
    return np.repeat(gray[..., None], 3, axis=2).astype(np.uint8)


def jpegs():
    for name, options in {
        "baseline": {},
        "progressive": {"progressive": True},
        "full colour": {"subsampling": 0},
        "restarts": {"restart_marker_blocks": 2},
        "profile": {"icc_profile": b"no profile" * 50},
    }.items():
        yield name, encoded(PHOTO, "JPEG", quality=95, **options), RGB
    plain = encoded(PHOTO, "JPEG", quality=95)
    yield "gray", encoded(PHOTO.convert("L"), "JPEG", quality=95), three(GRAY)
    yield "CMYK", encoded(PHOTO.convert("CMYK"), "JPEG", quality=95), RGB
    yield "MPO", encoded(PHOTO, "MPO", quality=95, append_images=[PHOTO], save_all=True), RGB
    yield "something behind", plain + b"\xff\xd8 and a film" * 99, RGB
    yield "one row", encoded(PHOTO.crop((0, 9, 40, 10)), "JPEG", quality=98), RGB[9:10]
    long = PHOTO.resize((4000, 3), Image.BICUBIC)
    yield "long and thin", encoded(long, "JPEG", quality=98, subsampling=0), np.asarray(long)
    yield "one column", encoded(PHOTO.crop((7, 0, 8, 32)), "JPEG", quality=98), RGB[:, 7:8]
    yield "swapped profile", swapped_primaries(1), np.asarray(picture(1))


def pngs():
    size = GRAY.shape[::-1]
    rows = [row.tobytes() for row in RGB]
    plain = png(rows, size, 8, 2)
    for depth in (1, 2, 4, 8):
        steps = GRAY >> (8 - depth)
        yield (
            f"gray {depth}",
            png(packed(steps, depth), size, depth, 0),
            three(steps.astype(int) * 255 // (2**depth - 1)),
        )
        palette = RNG.integers(0, 256, (2**depth, 3)).astype(np.uint8)
        areas = AREAS * (2**depth - 1)
        chunks = chunk(b"PLTE", palette.tobytes())
        yield f"palette {depth}", png(packed(areas, depth), size, depth, 3, chunks), palette[areas]
        chunks += chunk(b"tRNS", b"\x80")
        seen = on_white(palette[areas], np.where(areas == 0, 0x80, 255))
        yield f"palette {depth} tRNS", png(packed(areas, depth), size, depth, 3, chunks), seen
    deep = GRAY.astype(np.int64) * 256 + ALPHA
    yield "gray 16", png(packed(deep, 16), size, 16, 0), three(GRAY)
    clear = chunk(b"tRNS", struct.pack(">H", 0))
    yield (
        "gray tRNS",
        png(packed(AREAS * 200, 8), size, 8, 0, clear),
        three(np.where(AREAS == 0, 255, 200)),
    )
    wide = np.stack([RGB.astype(np.int64) * 256 + 77], -1).reshape(len(RGB), -1)
    yield "RGB 16", png(packed(wide, 16), size, 16, 2), RGB
    first = chunk(b"tRNS", struct.pack(">HHH", *RGB[0, 0]))
    same = (RGB[0, 0] == RGB).all(axis=2)
    yield "RGB tRNS", png(rows, size, 8, 2, first), on_white(RGB, np.where(same, 0, 255))
    both = np.dstack([RGB, ALPHA])
    seen = on_white(RGB, ALPHA)
    yield "RGBA", png([row.tobytes() for row in both], size, 8, 6), seen
    wide = (both.astype(np.int64) * 256 + 9).reshape(len(RGB), -1)
    yield "RGBA 16", png(packed(wide, 16), size, 16, 6), seen
    two = np.dstack([GRAY, ALPHA])
    yield (
        "gray alpha",
        png([row.tobytes() for row in two], size, 8, 4),
        on_white(three(GRAY), ALPHA),
    )
    opaque = np.dstack([RGB, np.full_like(ALPHA, 255)])
    yield "opaque RGBA", png([row.tobytes() for row in opaque], size, 8, 6), RGB
    # Of Adam7's passes, an image of one pixel has the first only.
    yield (
        "interlaced",
        png([bytes([9, 200, 30])], (1, 1), 8, 2, interlaced=1),
        np.uint8([[[9, 200, 30]]]),
    )
    text = chunk(b"tEXt", b"Comment\0" + b"x" * 2_000_000)
    yield "huge text", with_chunks(plain, text), RGB
    packed_text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(9_000_000)))
    yield "huge packed text", with_chunks(plain, packed_text), RGB
    yield "bad checksum of a text", with_chunks(plain, chunk(b"tEXt", b"a\0b", 5)), RGB
    yield "gamma", with_chunks(plain, chunk(b"gAMA", struct.pack(">I", 100_000))), RGB
    yield "no profile", with_chunks(plain, chunk(b"iCCP", b"x\0\0rubbish")), RGB
    yield "animated", animated(106, "PNG"), np.asarray(picture(106))
    yield "sixteen", sixteen_bit(5), three(np.asarray(picture(5).convert("L")))
    for name, column in (("row", False), ("column", True)):
        line = np.transpose(RGB[:1], (1, 0, 2)) if column else RGB[:1]
        raw = png([row.tobytes() for row in line], line.shape[1::-1], 8, 2)
        yield f"one {name}", raw, line
    for order in "<>":
        for number in range(1, 9):
            exif = chunk(b"eXIf", tiff(number, order))
            seen = np.asarray(ImageOps.exif_transpose(exif_image(number)))
            contents = with_chunks(plain, exif, last=order == ">")
            yield f"eXIf {number} {order}", contents, seen
    named = chunk(b"eXIf", b"Exif\0\0" + tiff(6))
    yield "named eXIf", with_chunks(plain, text, named), np.rot90(RGB, -1)
    yield "eXIf in a text", with_chunks(plain, chunk(b"tEXt", b"a\0eXIf" + tiff(6))), RGB


def exif_image(number):
    """`PHOTO` as Pillow has it with an orientation."""
    image = PHOTO.copy()
    image.getexif()[0x0112] = number
    return image


def gifs():
    palette = RNG.integers(0, 255, (4, 3)).astype(np.uint8)
    areas = AREAS * 2 + AREAS[::-1]
    colours = palette[areas]
    for own in (False, True):
        name = "own table" if own else "shared table"
        yield name, gif(areas, palette, (40, 32), own_table=own), colours
        seen = np.where(areas[..., None] == 2, 255, colours)
        yield f"transparent, {name}", gif(areas, palette, (40, 32), (0, 0), 2, own), seen
        canvas = np.full((50, 64, 3), 255, np.uint8)
        canvas[5:37, 11:51] = seen
        yield f"odd frame, {name}", gif(areas, palette, (64, 50), (11, 5), 2, own), canvas
    beyond = np.full((42, 43, 3), 255, np.uint8)
    beyond[10:, 3:] = colours
    yield "beyond the screen", gif(areas, palette, (8, 9), (3, 10)), beyond
    yield "no such transparent colour", gif(areas, palette, (40, 32), (0, 0), 200), colours
    with Image.open(io.BytesIO(animated(6))) as image:
        yield "animated", animated(6), np.asarray(image.convert("RGB"))


def bmps():
    size = GRAY.shape[::-1]
    blue_first = RGB[..., ::-1]
    rows = [row.tobytes() for row in blue_first]
    yield "24", bmp(rows[::-1], size, 24), RGB
    yield "top-down", bmp(rows, (size[0], -size[1]), 24), RGB
    nothing = [row.tobytes() for row in np.dstack([blue_first, np.zeros_like(GRAY)])]
    yield "32", bmp(nothing[::-1], size, 32), RGB
    masks = struct.pack("<III", 0xFF0000, 0xFF00, 0xFF)
    yield "32 in fields", bmp(nothing[::-1], size, 32, 3, masks=masks), RGB
    masks += struct.pack("<I", 0xFF000000)
    both = [row.tobytes() for row in np.dstack([blue_first, ALPHA])]
    yield "alpha", bmp(both[::-1], size, 32, 3, masks=masks, header=108), on_white(RGB, ALPHA)


SEEN = {
    f"{form} {name}": (contents, pixels)
    for form, makers in (("JPEG", jpegs), ("PNG", pngs), ("GIF", gifs), ("BMP", bmps))
    for name, contents, pixels in makers()
}


def refused():
    """{name: bytes} of what training does not read."""
    size = GRAY.shape[::-1]
    plain = png([row.tobytes() for row in RGB], size, 8, 2)
    place = plain.index(b"IDAT") + 40
    palette = bytes(range(256)) * 4
    eight = [row.tobytes() for row in GRAY]
    swapped = struct.pack("<III", 0xFF, 0xFF00, 0xFF0000)
    os2 = b"BM" + struct.pack("<IHHIIHHHH", 26 + 12, 0, 0, 26, 12, 1, 1, 1, 24) + bytes(12)
    jpeg = encoded(PHOTO, "JPEG")
    deep = bytearray(jpeg)
    deep[jpeg.index(b"\xff\xc0") + 4] = 12
    files = {
        "PNG bad checksum of the data": plain.replace(plain[place : place + 3], b"\0\1\2"),
        "PNG bad checksum of the head": plain[:29] + b"\0\0\0\0" + plain[33:],
        "PNG cut off": plain[: len(plain) // 2],
        "JPEG cut off": jpeg[:-300],
        "JPEG cut off, something behind": jpeg[:-300] + b"film",
        "JPEG of 12 bits": bytes(deep),
        "JPEG head alone": jpeg[:30],
        "GIF without a frame": b"GIF89a" + struct.pack("<HHBBB", 9, 9, 0, 0, 0) + b";",
        "BMP 1": bmp(packed(AREAS, 1), size, 1, palette=palette[:8]),
        "BMP 4": bmp(packed(AREAS * 9, 4), size, 4, palette=palette[:64]),
        "BMP 8": bmp(eight, size, 8, palette=palette),
        "BMP 16": bmp([row + row for row in eight], size, 16),
        "BMP packed": bmp([b"\x28\x01\0\0" * 32], size, 8, 1, palette=palette),
        "BMP odd fields": bmp([4 * row for row in eight], size, 32, 3, masks=swapped),
        "BMP OS/2": os2,
        "WebP": encoded(PHOTO, "WEBP"),
        "TIFF": encoded(PHOTO, "TIFF"),
        "text": b"<html>",
        "empty": b"",
    }
    huge = bytearray(plain)
    huge[16:24] = struct.pack(">II", 8193, 8192)
    return files | {"PNG too large": bytes(huge)}


REFUSED = refused()


# What the six of them say.


class Network:
    """Stands for a model: its embedding is the image in 8 x 8 pixels."""

    weights = ()

    def __call__(self, pixels, training):
        small = tf.nn.avg_pool2d(pixels, SIZE // 8, SIZE // 8, "VALID")
        rows = tf.shape(pixels)[0]
        return {"embedding": tf.reshape(small, [-1, 192]), "category": tf.zeros([rows, 1])}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The `embed` of a saved and loaded graph: list of bytes -> (pixels [n, 8, 8, 3], valid)."""
    folder = str(tmp_path_factory.mktemp("model"))
    servable = Servable(Network(), SIZE, "squash", ["dress"], 1)
    tf.saved_model.save(servable, folder, servable.signatures())
    loaded = tf.saved_model.load(folder)

    def embed(files):
        found = loaded.signatures["embed"](image_bytes=tf.constant(files))
        return found["embedding"].numpy().reshape(-1, 8, 8, 3), found["valid"].numpy()

    return embed


FILES = tf.TensorSpec([None], tf.string)


def evaluation(resize):
    @tf.function(input_signature=[FILES])
    def run(files):
        return guarded_rows(lambda file: decode_and_fit(file, SIZE, resize), files, (SIZE, SIZE, 3))

    return run


EVALUATED = {resize: evaluation(resize) for resize in ("squash", "crop", "pad")}


def training(area_min):
    config = Config(image_size=SIZE, crop_area_min=area_min, colour_jitter=0.0, grayscale=0.0)

    @tf.function(input_signature=[FILES, tf.TensorSpec([None, DRAWS], tf.float32)])
    def run(files, draws):
        view = (lambda file, draws: training_view(file, draws, config), (files, draws))
        return guarded_rows(*view, (SIZE, SIZE, 3))

    return run


# The whole image, not mirrored; or a window of it.
WHOLE, WINDOW = training(1.0), training(0.05)


def windows(files, draws=4):
    """bool [draws, n]: for which views and files training succeeds."""
    return np.stack(
        [
            WINDOW(files, tf.random.stateless_uniform([len(files), DRAWS], [seed, 1]))[1].numpy()
            for seed in range(draws)
        ]
    )


def checked(contents, path):
    path.write_bytes(contents)
    return not ERRORS & set(inspect((str(path), True, None)).kinds)


def seen(contents):
    return np.asarray(see(contents).image)


def readable(contents):
    try:
        return see(contents, 8) is not None
    except UnreadableImageError:
        return False


def resized(pixels, size=(8, 8)):
    return np.asarray(Image.fromarray(pixels).resize(size, Image.BOX), np.float32)


def difference(one, other):
    return np.abs(np.asarray(one, np.float32) - np.asarray(other, np.float32)).mean()


@pytest.mark.parametrize("name", SEEN)
def test_every_kind_is_seen_as_it_is(name):
    contents, expected = SEEN[name]
    found = seen(contents)
    assert found.shape == expected.shape
    # The chain of a JPEG loses a little; a swapped channel is 60.
    assert difference(found, expected) < (5 if name.startswith("JPEG") else 0.6)


@pytest.mark.slow
def test_evaluation_training_and_serving_see_the_same(served):
    """Resized to a few pixels; odd proportions are left to `test_every_kind_is_seen_as_it_is`."""
    names = [
        name
        for name, (_, pixels) in SEEN.items()
        if 0.75 <= pixels.shape[0] / pixels.shape[1] <= 4 / 3
    ]
    assert len(names) > 50
    files = [SEEN[name][0] for name in names]
    evaluated, valid = (value.numpy() for value in EVALUATED["squash"](files))
    assert valid.all()
    pooled = evaluated.reshape(-1, 8, SIZE // 8, 8, SIZE // 8, 3).mean(axis=(2, 4))
    pixels, valid = served(files)
    assert valid.all()
    np.testing.assert_allclose(pixels, pooled, atol=1e-2)
    draws = np.full((len(files), DRAWS), 0.5, np.float32)
    trained, valid = (value.numpy() for value in WHOLE(files, draws))
    assert valid.all()
    for row, name in enumerate(names):
        expected = resized(SEEN[name][1])
        assert difference(pooled[row], expected) < 10, name
        assert difference(resized(trained[row].astype(np.uint8)), expected) < 10, name


@pytest.mark.parametrize(
    "resize",
    [kind if kind == "crop" else pytest.param(kind, marks=pytest.mark.slow) for kind in EVALUATED],
)
def test_what_is_refused_is_refused_by_all_and_the_rest_by_none(resize, served, tmp_path):
    files = {**{name: contents for name, (contents, _) in SEEN.items()}, **REFUSED}
    expected = [name in SEEN for name in files]
    contents = list(files.values())
    assert EVALUATED[resize](contents)[1].numpy().tolist() == expected
    if resize == "squash":
        assert served(contents)[1].tolist() == expected
        assert (windows(contents) == expected).all()
        assert [checked(file, tmp_path / "file") for file in contents] == expected
        assert [readable(file) for file in contents] == expected


def test_headers_tell_what_is_refused_for_its_format_or_size():
    for name, contents in REFUSED.items():
        kind = ""
        try:
            claimed_size(contents)
        except UnreadableImageError as error:
            kind = error.kind
        wanted = "format" if name.startswith(("BMP", "WebP", "TIFF", "text")) else kind
        wanted = {"empty": "empty", "PNG too large": "too_large"}.get(name, wanted)
        assert kind == wanted, name
    for name, (contents, _) in SEEN.items():
        assert claimed_size(contents)[0] > 0, name


def damaged(contents, rng):
    """Changes, cuts off, takes out or puts in some bytes."""
    place, kind = int(rng.integers(len(contents))), rng.integers(5)
    if kind == 0:
        return contents[:place]
    if kind == 1:
        return contents[:place] + contents[place + int(rng.integers(1, 200)) :]
    if kind == 2:
        return contents[:place] + rng.bytes(9) + contents[place:]
    changed = bytearray(contents)
    for where in rng.integers(0, len(contents), rng.integers(1, 5)):
        changed[where] = rng.integers(256)
    return bytes(changed)


FUZZED = (
    *("JPEG baseline", "JPEG progressive", "JPEG restarts", "JPEG something behind", "PNG RGBA"),
    *(
        "PNG palette 4 tRNS",
        "PNG eXIf 6 >",
        "GIF odd frame, own table",
        "GIF animated",
        "BMP alpha",
    ),
)


@pytest.mark.slow
@pytest.mark.parametrize("name", FUZZED)
def test_all_agree_on_damaged_files(name, served, tmp_path):
    rng = np.random.default_rng(FUZZED.index(name))
    files = [damaged(SEEN[name][0], rng) for _ in range(40)]
    expected = np.array([readable(file) for file in files])
    assert not expected.all()
    for resize, run in EVALUATED.items():
        pixels, valid = (value.numpy() for value in run(files))
        assert (valid == expected).all(), resize
        assert not pixels[~valid].any()
    assert (served(files)[1] == expected).all()
    assert [checked(file, tmp_path / "file") for file in files] == expected.tolist()
    assert (windows(files) == expected).all()


def damaged_inside(jpeg, rng):
    """Changes, takes out or puts in bytes of a JPEG's data; its end mark stays."""
    place = int(rng.integers(jpeg.index(b"\xff\xda") + 14, len(jpeg) - 20))
    rest = jpeg[place + int(rng.choice([0, 0, 1, 7, 200])) : -2]
    # A marker stops the decoder, where other bytes only change the picture.
    marker = b"\xff" + bytes([int(rng.choice([0xC4, 0xD0, 0xD3, 0xD8, 0xD9, 0xDA, 0xDB]))])
    wrong = rng.bytes(int(rng.integers(1, 6))) if rng.random() < 0.5 else marker
    return jpeg[:place] + wrong + rest + b"\xff\xd9"


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("size", [(96, 128), (301, 203)])
def test_training_finds_damage_inside_a_jpeg_wherever_its_window_lies(options, size, tmp_path):
    rng = np.random.default_rng(size[0])
    jpeg = encoded(picture(4, size), "JPEG", quality=90, **options)
    files = [damaged_inside(jpeg, rng) for _ in range(60)]
    expected = np.array([checked(file, tmp_path / "file") for file in files])
    assert (~expected).sum() > 10 and expected.any()
    assert (windows(files) == expected).all()
    assert (EVALUATED["crop"](files)[1].numpy() == expected).all()


def test_a_jpeg_cut_off_anywhere_is_refused_for_every_window():
    jpeg = encoded(picture(2, (90, 120)), "JPEG", quality=80)
    files = [jpeg[:end] + tail for end in range(700, len(jpeg) - 20, 97) for tail in (b"", b"end")]
    assert len(files) > 20
    assert not windows(files).any()
    assert not EVALUATED["crop"](files)[1].numpy().any()


def test_a_bad_image_leaves_its_neighbours_alone(served):
    good = SEEN["PNG RGBA"][0]
    alone, _ = served([good])
    pixels, valid = served([file for bad in REFUSED.values() for file in (bad, good)])
    assert valid.tolist() == [False, True] * len(REFUSED)
    assert (pixels[1::2] == alone).all() and not pixels[::2].any()


@pytest.mark.parametrize("name", SEEN)
def test_the_prepared_copy_is_the_same_picture(name):
    contents, expected = SEEN[name]
    copy, width, height = convert(contents, 4096, 95)
    found = np.asarray(Image.open(io.BytesIO(copy)).convert("RGB"))
    assert found.shape == expected.shape == (height, width, 3)
    assert difference(resized(found), resized(expected)) < 12
    assert difference(found, seen(contents)) < 18
    small, width, height = convert(contents, 16, 95)
    assert max(width, height) <= 16
    # What a long thin image has across itself is gone in one line of pixels.
    shrunk = Image.fromarray(expected).resize((width, height), Image.Resampling.BOX)
    assert difference(resized(seen(small)), resized(np.asarray(shrunk))) < 20


@pytest.mark.parametrize("name", ["PNG RGBA", "PNG eXIf 6 <", "GIF odd frame, shared table"])
def test_what_is_shown_is_what_the_model_sees(name, tmp_path):
    contents, expected = SEEN[name]
    path = tmp_path / "photo"
    path.write_bytes(contents)
    for shown in (thumbnail(path, 144, convert=True), thumbnail(contents, 480)):
        with Image.open(io.BytesIO(shown.jpeg(quality=80))) as image:
            assert image.size == expected.shape[1::-1]
            assert difference(resized(np.asarray(image)), resized(expected)) < 8
    tile = np.asarray(_photo(path, expected.shape[1::-1]))
    assert difference(resized(tile), resized(expected)) < 3


def test_what_the_model_does_not_see_is_not_shown(tmp_path):
    path = tmp_path / "photo"
    for name in ("PNG bad checksum of the data", "JPEG cut off", "WebP"):
        path.write_bytes(REFUSED[name])
        # A photo that asks is converted, and so a sheet shows it.
        if name != "WebP":
            tile = np.asarray(_photo(path, (60, 60)))
            assert (tile[:9] == 176).all(), name
        with pytest.raises(UnreadableImageError):
            thumbnail(path, 480)


def test_a_turned_photo_is_turned_everywhere(served):
    upright = np.asarray(picture(3))
    for number in range(2, 9):
        photo = turned(3, orientation=number)
        assert difference(seen(photo), upright) < 9
        assert difference(served([photo])[0][0], resized(upright)) < 9
