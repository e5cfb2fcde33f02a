"""Image files as they come from phones, shops and broken downloads, made by Pillow."""

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageCms


def picture(seed=0, size=(96, 128)):
    """A PIL RGB image of random colours, coarse and fine, (width, height) in pixels."""
    rng = np.random.default_rng(seed)
    parts = [
        Image.fromarray(rng.integers(0, 256, (*grid, 3), dtype=np.uint8)).resize(
            size, Image.BICUBIC
        )
        for grid in ((6, 5), (20, 15))
    ]
    return Image.blend(*parts, 0.4)


def encoded(image, form, **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def turned(seed=0, size=(96, 128), orientation=6):
    """A phone's JPEG: `picture` stored so that only its EXIF orientation makes it upright."""
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = picture(seed, size).transpose(undo[orientation])
    return encoded(stored, "JPEG", quality=95, exif=exif)


def sixteen_bit(seed=0):
    """A gray PNG of 16 bits: 257 times the brightness, so that 255 becomes 65535."""
    gray = np.asarray(picture(seed).convert("L"))
    return encoded(Image.fromarray(gray.astype(np.uint16) * 257), "PNG")


def transparent(seed=0, size=(96, 128)):
    """An RGBA PNG: `picture` above, black that nobody should see below."""
    pixels = np.zeros((size[1], size[0], 4), np.uint8)
    pixels[..., :3] = np.asarray(picture(seed, size))
    pixels[size[1] // 2 :, :, :3] = 0
    pixels[: size[1] // 2, :, 3] = 255
    return encoded(Image.fromarray(pixels), "PNG")


def animated(seed=0, form="GIF"):
    frames = [picture(seed + number) for number in range(3)]
    return encoded(frames[0], form, save_all=True, append_images=frames[1:], duration=50)


def bomb(side=60_000):
    """A PNG of some kilobytes that says it unpacks to side x side pixels."""

    def chunk(kind, body):
        check = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1_000_000), 9)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def swapped_primaries(seed=0):
    """A JPEG whose colour profile says that its red is green and its green red."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    names = {b"rXYZ": b"gXYZ", b"gXYZ": b"rXYZ"}
    for place in range(132, 132 + 12 * int.from_bytes(profile[128:132], "big"), 12):
        tag = profile[place : place + 4]
        profile = profile[:place] + names.get(tag, tag) + profile[place + 4 :]
    profile = profile.replace("sRGB".encode("utf-16-be"), "own ".encode("utf-16-be"))
    return encoded(picture(seed), "JPEG", quality=95, subsampling=0, icc_profile=profile)


def odd_images():
    """Returns {name: (bytes, kinds that `check` has to find)} of one image each."""
    jpeg = encoded(picture(100), "JPEG")
    return {
        "empty.jpg": (b"", {"empty"}),
        "text.jpg": (b"<html>404 not found</html>", {"unreadable"}),
        "cut.jpg": (encoded(picture(101), "JPEG")[:-400], {"truncated"}),
        "cut.png": (encoded(picture(102), "PNG")[:-4000], {"truncated"}),
        "moving.gif": (animated(103), {"animated"}),
        "moving.png": (animated(106, "PNG"), {"animated"}),
        "ink.jpg": (encoded(picture(109).convert("CMYK"), "JPEG"), {"cmyk"}),
        "deep.png": (sixteen_bit(110), {"sixteen_bit", "grayscale"}),
        "gray.jpg": (encoded(picture(111).convert("L"), "JPEG"), {"grayscale"}),
        "phone.jpg": (turned(112), {"rotated"}),
        "web.webp": (encoded(picture(113), "WEBP"), {"format"}),
        "web.jpg": (encoded(picture(114), "WEBP"), {"format"}),
        "scan.tiff": (encoded(picture(115), "TIFF"), {"format"}),
        "palette.bmp": (encoded(picture(116).convert("P"), "BMP"), {"format"}),
        "plain.bmp": (encoded(picture(117), "BMP"), set()),
        "cutout.png": (transparent(118), {"transparent"}),
        "icon.png": (encoded(picture(119, (32, 40)), "PNG"), {"small"}),
        "poster.jpg": (encoded(picture(120, (4200, 70)), "JPEG"), {"large"}),
        "bomb.png": (bomb(), {"too_large"}),
        "good.jpg": (jpeg, set()),
    }
