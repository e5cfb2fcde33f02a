"""Reading orientation and size from a file's header, against Pillow."""

import functools
import io
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps
from reading import guarded

from fir_tf.images import header
from fir_tf.images.exif import orientation, upright

ORIENTATIONS = range(1, 9)


def picture(size=(24, 16), mode="RGB"):
    """A Pillow image in which no two corners are alike."""
    width, height = size
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([255 * x // width, 255 * y // height, 0 * x], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8)).convert(mode)


def encoded(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def tiff(value, order="<", kind=3, before=2):
    """A TIFF structure whose first directory holds other entries, then the orientation."""
    entries = [struct.pack(order + "HHII", 0x0100 + i, 4, 1, 77) for i in range(before)]
    code = (
        struct.pack(order + "H", value) + b"\0\0" if kind == 3 else struct.pack(order + "I", value)
    )
    entries.append(struct.pack(order + "HHI", 0x0112, kind, 1) + code)
    start = b"II*\0" if order == "<" else b"MM\0*"
    head = start + struct.pack(order + "I", 12) + b"pad!"
    return head + struct.pack(order + "H", len(entries)) + b"".join(entries) + b"\0" * 4


def segment(marker, data):
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def with_segments(jpeg, *segments):
    """A JPEG with further segments right behind its first two bytes."""
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


def exif_segment(value, **options):
    return segment(0xE1, b"Exif\0\0" + tiff(value, **options))


def pillow_orientation(contents):
    with Image.open(io.BytesIO(contents)) as image:
        return image.getexif().get(0x0112, 1)


@tf.function(input_signature=[tf.TensorSpec([], tf.string)])
def read(contents):
    return orientation(contents)


@tf.function(
    input_signature=[tf.TensorSpec([None, None, 3], tf.uint8), tf.TensorSpec([], tf.int32)]
)
def turn(pixels, value):
    return upright(pixels, value)


@pytest.mark.parametrize("value", ORIENTATIONS)
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", [3, 4])
def test_orientation_is_read_as_pillow_reads_it(value, order, kind):
    plain = encoded(picture(), "JPEG")
    contents = with_segments(plain, exif_segment(value, order=order, kind=kind))
    assert pillow_orientation(contents) == value
    assert int(read(contents)) == value


def test_what_cameras_put_before_it_is_stepped_over():
    plain = encoded(picture(), "JPEG")
    xmp = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + b"x" * 3000)
    contents = with_segments(
        plain, segment(0xE0, b"JFIF\0" + b"\0" * 9), segment(0xFE, b"hello"), xmp, exif_segment(6)
    )
    assert int(read(contents)) == pillow_orientation(contents) == 6


@pytest.mark.parametrize(
    "contents",
    [
        b"",
        b"\xff",
        b"\xff\xd8\xff",
        b"\xff\xd8\xff\xe1",
        b"no image at all",
        encoded(picture(), "PNG"),
        encoded(picture(), "JPEG"),
        with_segments(encoded(picture(), "JPEG"), exif_segment(0)),
        with_segments(encoded(picture(), "JPEG"), exif_segment(9)),
        with_segments(encoded(picture(), "JPEG"), exif_segment(0x10006, kind=4)),
        with_segments(encoded(picture(), "JPEG"), segment(0xE1, b"Exif\0\0" + tiff(6)[:20])),
        with_segments(encoded(picture(), "JPEG"), segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff")),
    ],
)
def test_without_a_readable_orientation_the_image_stays(contents):
    assert int(read(contents)) == 1


def test_mutated_metadata_never_fails():
    contents = with_segments(encoded(picture(), "JPEG"), exif_segment(6))
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(300):
        changed = bytearray(contents)
        for place in rng.integers(2, 80, rng.integers(1, 5)):
            changed[place] = rng.integers(256)
        seen.add(int(read(bytes(changed[: rng.integers(0, len(changed))]))))
    assert seen <= set(ORIENTATIONS) and 6 in seen


@pytest.mark.parametrize("value", ORIENTATIONS)
def test_upright_turns_as_pillow_does(value):
    image = picture()
    exif = Image.Exif()
    exif[0x0112] = value
    contents = encoded(image, "JPEG", exif=exif, quality=95)
    with Image.open(io.BytesIO(contents)) as stored:
        expected = np.asarray(ImageOps.exif_transpose(stored))
        pixels = np.asarray(stored)
    turned = turn(pixels, read(contents))
    np.testing.assert_array_equal(turned.numpy(), expected)


@pytest.mark.parametrize("size", [(24, 16), (7, 300), (1, 1)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP"])
def test_dimensions_are_read_as_pillow_reads_them(kind, size):
    contents = encoded(picture(size), kind)
    assert header.dimensions(tf.constant(contents)).numpy().tolist() == [size[1], size[0]]


def test_dimensions_of_odd_files():
    def sides(contents):
        return header.dimensions(tf.constant(contents)).numpy().tolist()

    assert sides(b"") == sides(b"RIFF....WEBP") == sides(encoded(picture(), "TIFF")) == [0, 0]
    assert sides(encoded(picture(mode="P"), "BMP")) == [0, 0]
    upside_down = bytearray(encoded(picture((24, 16)), "BMP"))
    upside_down[22:26] = struct.pack("<i", -16)
    assert sides(bytes(upside_down)) == [16, 24]
    cmyk = encoded(picture(mode="CMYK"), "JPEG")
    assert sides(cmyk) == [16, 24]
    # A frame larger than the screen.
    gif = bytearray(encoded(picture((24, 16)), "GIF"))
    place = bytes(gif).index(b"\x2c", 13 + 3 * 2 ** ((gif[10] & 7) + 1))
    gif[place + 5 : place + 9] = struct.pack("<HH", 60000, 50000)
    assert sides(bytes(gif)) == [50000, 60000]


@functools.cache
def _checked(bounds):
    """The graph of `checked`; it is built anew for other bounds."""

    def as_numbers(value):
        raw = tf.io.decode_raw(header.decodable.__wrapped__(value), tf.uint8)
        padded = tf.pad(tf.cast(raw, tf.float32), [[0, 4096 - tf.size(raw)]])
        return tf.concat([padded, [tf.cast(tf.size(raw), tf.float32)]], axis=0)

    return tf.function(
        lambda contents: guarded(as_numbers, contents, (4097,)),
        input_signature=[tf.TensorSpec([], tf.string)],
    )


def checked(contents):
    """(whether `decodable` passes the file, the bytes it passes)."""
    numbers, valid = _checked((header.MAX_PIXELS, header.MAX_BYTES))(tf.constant(contents))
    numbers = numbers.numpy()
    passed = numbers[: int(numbers[-1])].astype(np.uint8).tobytes()
    return bool(valid) and passed != b"", passed


@pytest.mark.slow
def test_claimed_size_is_bounded_before_decoding(monkeypatch):
    small = encoded(picture((24, 16)), "PNG")
    assert checked(small) == (True, small)
    bomb = bytearray(small)
    for sides in ((2**31 - 1, 2**31 - 1), (9000, 9000), (2**32 - 1, 2**32 - 1), (0, 5)):
        bomb[16:24] = struct.pack(">II", *sides)
        assert checked(bytes(bomb))[0] is False, sides
    bomb[16:24] = struct.pack(">II", 8192, 8192)
    assert checked(bytes(bomb))[0] is True
    for kind in ("JPEG", "GIF", "BMP"):
        # Of one length, so that one graph serves all.
        contents = encoded(picture((24, 16)), kind).ljust(4000, b"\0")
        assert checked(contents)[0] is True
        with monkeypatch.context() as patch:
            patch.setattr(header, "MAX_PIXELS", 24 * 16 - 1)
            assert checked(contents)[0] is False, kind
        with monkeypatch.context() as patch:
            patch.setattr(header, "MAX_BYTES", len(contents) - 1)
            assert checked(contents)[0] is False, kind


def test_of_an_animation_only_the_first_frame_is_kept():
    first, other = picture((24, 16)), picture((24, 16)).rotate(180)
    frames = [other.rotate(90 * turn) for turn in range(6)]
    contents = encoded(
        first, "GIF", save_all=True, append_images=frames, duration=40, loop=0, comment=b"x" * 700
    )
    valid, kept = checked(contents)
    assert valid and len(kept) < len(contents) / 2
    expected = tf.io.decode_image(contents, channels=3, expand_animations=False)
    np.testing.assert_array_equal(tf.io.decode_gif(kept)[0].numpy(), expected.numpy())
    assert tf.io.decode_gif(kept).shape[0] == 1
