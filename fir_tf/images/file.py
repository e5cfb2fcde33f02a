"""One image file as it comes from the world, as Pillow reads it.

Pillow reads more formats than training does, and says more about a file. What training reads is
decoded by `fir_tf.images.picture`.
"""

import contextlib
import dataclasses
import io
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

from fir_tf.files import NO_FILE, open_file
from fir_tf.images.limits import CONVERTIBLE_BYTES, CONVERTIBLE_PIXELS

_ORIENTATION_TAG = 0x0112
_TURNS = {
    2: (Image.Transpose.FLIP_LEFT_RIGHT,),
    3: (Image.Transpose.ROTATE_180,),
    4: (Image.Transpose.FLIP_TOP_BOTTOM,),
    5: (Image.Transpose.TRANSPOSE,),
    6: (Image.Transpose.ROTATE_270,),
    7: (Image.Transpose.TRANSVERSE,),
    8: (Image.Transpose.ROTATE_90,),
}

with contextlib.suppress(ImportError):
    import pi_heif

    pi_heif.register_heif_opener()


class UnreadableImageError(Exception):
    """An image file that gives no pixels.

    Args:
        kind: str, "missing", "empty", "truncated", "too_large", "format" or "unreadable".
        reason: str, in words.
    """

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason


@dataclasses.dataclass(frozen=True)
class Header:
    """What a file says of itself.

    Attributes:
        format: str, Pillow's name of the format; "JPEG" also for the multi-picture files of
            phones, whose first picture is a JPEG.
        mode: str, Pillow's name of the pixels' kind.
        width: int, pixels, as stored.
        height: int, pixels, as stored.
        orientation: int, 1 to 8 (EXIF 2.3, section 4.6.4: Orientation); 1 is upright.
        animated: bool, whether there is more than one frame.
        sixteen_bit: bool, whether a channel has 16 bits.
        single: bool, whether the file is exactly one JPEG.
    """

    format: str
    mode: str
    width: int
    height: int
    orientation: int
    animated: bool
    sixteen_bit: bool
    single: bool


def read(path: str | Path) -> bytes:
    """Returns a file's bytes.

    Raises:
        UnreadableImageError: if it is missing, empty, too large or cannot be read.
    """
    try:
        with open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > CONVERTIBLE_BYTES:
                raise UnreadableImageError(
                    "too_large",
                    f"{size:,} bytes, more than the {CONVERTIBLE_BYTES:,} that are read",
                )
            contents = file.read()
    except (FileNotFoundError, NotADirectoryError) as error:
        reason = NO_FILE if os.path.exists(path) else "there is no such file"
        raise UnreadableImageError("missing", reason) from error
    except (OSError, ValueError) as error:
        raise UnreadableImageError("unreadable", str(error)) from error
    if not contents:
        raise UnreadableImageError("empty", "the file has no bytes")
    return contents


@contextlib.contextmanager
def opened(contents: bytes) -> Iterator[tuple[Image.Image, Header]]:
    """Opens an image file without unpacking its pixels.

    Whatever a decoder objects to inside the block becomes an UnreadableImageError.

    Args:
        contents: bytes, the file.

    Yields:
        (PIL.Image.Image, Header).

    Raises:
        UnreadableImageError: if the file is no image, is cut off, or would unpack to more than
            CONVERTIBLE_PIXELS pixels (a decompression bomb).
    """
    with warnings.catch_warnings():
        # Pillow warns of odd metadata and of sizes below our own bound.
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(contents)) as image:
                if image.width * image.height > CONVERTIBLE_PIXELS:
                    raise Image.DecompressionBombError
                yield image, _header(image, contents)
        except UnreadableImageError:
            raise
        except Image.DecompressionBombError as error:
            raise UnreadableImageError(
                "too_large",
                f"it would unpack to more than the {CONVERTIBLE_PIXELS:,} pixels allowed",
            ) from error
        except Exception as error:
            # Decoders raise OSError, SyntaxError, ValueError, struct.error and more: whichever it
            # is, it says that this file cannot be read.
            text = str(error) or type(error).__name__
            if "BytesIO" in text:
                text = "it is no image of a known format"
            cut = isinstance(error, EOFError) or "truncat" in text.lower()
            raise UnreadableImageError("truncated" if cut else "unreadable", text) from error


def _header(image: Image.Image, contents: bytes) -> Header:
    multi = image.format == "MPO"
    deep = image.mode.startswith(("I", "F")) or (
        image.format == "PNG" and len(contents) > 24 and contents[24] == 16
    )
    return Header(
        format="JPEG" if multi else image.format or "",
        mode=image.mode,
        width=image.width,
        height=image.height,
        orientation=_orientation(image),
        animated=not multi and _is_animated(image),
        sixteen_bit=deep,
        single=image.format == "JPEG",
    )


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:
        # Broken metadata does not make a photo unreadable; it is then taken as it stands.
        return 1
    return value if value in _TURNS else 1


def _is_animated(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:
        # Only the frames after the first are broken, which nobody reads.
        return True


def has_transparency(image: Image.Image) -> bool:
    """Returns whether any pixel of a PIL image (loaded) is not opaque."""
    if not image.has_transparency_data:
        return False
    return bool(np.asarray(image.convert("RGBA").getchannel("A")).min() < 255)


def is_srgb(image: Image.Image) -> bool:
    """Returns whether a PIL image's colours are sRGB, or nothing says otherwise."""
    profile = _profile(image)
    return profile is None or "srgb" in ImageCms.getProfileDescription(profile).lower()


def _profile(image: Image.Image) -> ImageCms.ImageCmsProfile | None:
    """The embedded colour profile, None if there is none that fits the pixels."""
    raw = image.info.get("icc_profile")
    space = {"RGB": "RGB", "CMYK": "CMYK"}.get(image.mode)
    if not raw or space is None:
        return None
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(raw))
        return profile if profile.profile.xcolor_space.strip() == space else None
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """Returns a PIL image turned as its EXIF orientation (int, 1 to 8) asks for."""
    for turn in _TURNS.get(orientation, ()):
        image = image.transpose(turn)
    return image


def bounded(image: Image.Image, max_side: int | None, sides: tuple[int, int]) -> Image.Image:
    """Resizes a PIL image whose longest side is over `max_side` pixels (None for any) to that.

    Args:
        image: PIL.Image.Image.
        max_side: int or None.
        sides: (width, height) of the original, whose shape the result has as exactly as it can.

    Returns:
        PIL.Image.Image.
    """
    if max_side is None or max(image.size) <= max_side:
        return image
    scale = max_side / max(sides)
    width, height = (max(1, round(side * scale)) for side in sides)
    return image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)


def to_rgb(image: Image.Image, orientation: int, max_side: int | None = None) -> Image.Image:
    """Turns any opened image into upright RGB of a bounded size.

    Transparent parts become white, the ground of most catalogue photos. 16-bit gray is scaled to
    8 bits; CMYK and wide-gamut RGB go to sRGB by the embedded profile. Of an animation the first
    frame is taken.

    Args:
        image: PIL.Image.Image as `opened` gives it.
        orientation: int, 1 to 8.
        max_side: int, the longest side in pixels; smaller images are not enlarged. None for any.

    Returns:
        PIL.Image.Image of mode RGB.

    Raises:
        ValueError: for pixels that are no photo (32-bit samples).
    """
    if max_side is not None:
        # A JPEG decoder can leave out detail that would be resized away. Twice the size is kept,
        # so that the last step is a proper filter.
        image.draft(None, (2 * max_side, 2 * max_side))
    image.load()
    profile = image.info.get("icc_profile")
    image = _flat(image)
    image = bounded(image, max_side, image.size)
    if profile:
        image.info["icc_profile"] = profile
    return upright(_srgb(image), orientation)


def _flat(image: Image.Image) -> Image.Image:
    """Returns the image as L, RGB or CMYK: 8 bits a channel and nothing to see through."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        if image.mode == "F" or values.min() < 0 or values.max() > 65535:
            raise ValueError(f"32-bit samples (mode {image.mode}) are no photo")
        # 65535 / 257 is 255 exactly.
        return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(ground, image).convert("RGB")
    return image if image.mode in ("L", "RGB", "CMYK") else image.convert("RGB")


def _srgb(image: Image.Image) -> Image.Image:
    profile, converted = _profile(image), None
    if profile is not None and not is_srgb(image):
        # A profile that cannot be used leaves the plain conversion.
        with contextlib.suppress(ImageCms.PyCMSError):
            target = ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(image, profile, target, outputMode="RGB")
    return converted or image.convert("RGB")
