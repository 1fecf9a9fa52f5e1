"""Image files as phones, scanners and damage make them: odd EXIF, deep greys, transparent values, HEIC."""

import importlib.util
import io
import os
import random
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image
from test_images import COLORS, two_pixels

from got.util.images import ImageError, as_rgb, open_image

EXAMPLES = int(os.environ.get("GOT_FUZZ_EXAMPLES", "300"))
ORIENTATION, X_RESOLUTION = 0x0112, 0x011A


def exif_block(*entries, after=0, tail=b""):
    """An EXIF block with these ``(tag, type, count, four bytes)``."""
    body = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + body + struct.pack("<I", after) + tail


def saved(kind, exif):
    buffer = io.BytesIO()
    two_pixels().save(buffer, kind, exif=exif)
    return buffer.getvalue()


TURNED = (ORIENTATION, 3, 1, struct.pack("<HH", 6, 0))


# ----------------------------------------------------------------------------------------------------------------- EXIF
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "odd",
    [
        (X_RESOLUTION, 10, 1, struct.pack("<I", 50)),  # SRATIONAL where RATIONAL is due, -72/1 at offset 50
        (X_RESOLUTION, 5, 0, bytes(4)),
        (X_RESOLUTION, 2, 4, b"abc\0"),
        (X_RESOLUTION, 12, 2**31, bytes(4)),
        (0x8769, 4, 1, struct.pack("<I", 8)),  # a part of EXIF that lies in itself
        (0x9999, 77, 3, b"\xff" * 4),
    ],
)
def test_an_image_is_turned_whatever_else_its_exif_holds(kind, odd):
    image = open_image(saved(kind, exif_block(TURNED, odd, tail=struct.pack("<ii", -72, 1))))
    assert image.size == (4, 8)
    np.testing.assert_allclose(image.getpixel((0, 0)), COLORS[0], atol=60)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_brought_upright_once(orientation, kind):
    upright = Image.effect_noise((6, 4), 90).convert("RGB")
    back = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]  # what undoes the turn
    stored = upright if back is None else upright.transpose(Image.Transpose(back))
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[ORIENTATION] = orientation
    stored.save(buffer, kind, exif=exif)
    opened = open_image(buffer.getvalue())
    assert opened.tobytes() == upright.tobytes()
    assert as_rgb(opened) is opened, "the pipeline and conversations ask for upright images, too"


def random_exif(rng):
    order = rng.choice("<>")
    known = (ORIENTATION, X_RESOLUTION, 0x0128, 0x8769, 0x8825, 0xA005, 0x927C, 0x0201, 0x02BC)
    count = rng.randrange(12)
    body = b"".join(
        struct.pack(
            order + "HHI",
            rng.choice([*known, rng.randrange(65536)]),
            rng.choice([*range(14), 129, rng.randrange(65536)]),
            rng.choice([0, 1, 1, 2, rng.randrange(2**32)]),
        )
        + rng.choice([struct.pack(order + "HH", rng.randrange(10), 0), rng.randbytes(4), struct.pack(order + "I", 8)])
        for _ in range(count)
    )
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", rng.choice([8, 8, 8, rng.randrange(99)]))
    said = struct.pack(order + "H", rng.choice([count, count, rng.randrange(65536)]))
    after = struct.pack(order + "I", rng.choice([0, 8, rng.randrange(2**32)]))
    block = head + said + body + after + rng.randbytes(rng.randrange(60))
    block = rng.randbytes(rng.randrange(80)) if rng.random() < 0.1 else block
    block = block[: rng.randrange(len(block) + 1)] if rng.random() < 0.1 else block
    return (b"Exif\0\0" if rng.random() < 0.95 else b"") + block


def test_random_exif_never_ends_in_an_error_or_changes_a_colour():
    """`GOT_FUZZ_EXAMPLES=4000` tries more."""
    refused = 0
    for seed in range(EXAMPLES):
        rng = random.Random(seed)
        data = saved(rng.choice(["JPEG", "PNG", "WEBP"]), random_exif(rng))
        try:
            image = open_image(data)
        except ImageError:
            refused += 1
            continue
        assert image.size in ((8, 4), (4, 8)), seed
        assert {
            tuple(abs(a - b) < 90 for a, b in zip(image.getpixel((0, 0)), color, strict=True)) for color in COLORS
        } & {(True, True, True)}, seed
    assert refused == 0


@pytest.mark.parametrize("error", [struct.error("x"), ZeroDivisionError(), KeyError(3), AssertionError()])
def test_whatever_a_reader_raises_is_an_image_error(monkeypatch, error):
    def broken(*_):
        raise error

    data = saved("PNG", b"")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", broken)
    with pytest.raises(ImageError, match=r"the image is damaged"):
        open_image(data)


# ----------------------------------------------------------------------------------------- greys and transparent values
def png(rows, width, bits, kind, key):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, 1, bits, kind, 0, 0, 0)
    parts = (
        chunk(b"IHDR", head),
        chunk(b"tRNS", key),
        chunk(b"IDAT", zlib.compress(b"\0" + rows)),
        chunk(b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(
    ("data", "second"),
    [
        (png(struct.pack(">HH", 1000, 40000), 2, 16, 0, struct.pack(">H", 1000)), 40000 * 255 // 65535),
        (png(bytes([7, 200]), 2, 8, 0, struct.pack(">H", 7)), 200),
        (png(bytes([0x84]), 2, 4, 0, struct.pack(">H", 8)), 4 * 17),
        (png(bytes([0b01100000]), 2, 2, 0, struct.pack(">H", 1)), 2 * 85),
        (png(bytes([1, 0, 2, 0, 3, 0, 9, 0, 9, 0, 9, 0]), 2, 16, 2, bytes([1, 0, 2, 0, 3, 0])), 9),
        (png(bytes([1, 2, 3, 9, 9, 9]), 2, 8, 2, struct.pack(">3H", 1, 2, 3)), 9),
    ],
)  # fmt: skip
def test_a_transparent_value_is_white_at_every_depth(data, second):
    image = open_image(data)
    assert [image.getpixel((x, 0)) for x in range(2)] == [(255, 255, 255), (second,) * 3]


def tiff(values, bits, sample_format=1, photometric=1):
    """An uncompressed grey TIFF file."""
    data, (high, wide) = values.tobytes(), values.shape
    tags = {256: wide, 257: high, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: high, 279: len(data),
            339: sample_format}  # fmt: skip
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


@pytest.mark.parametrize(
    ("values", "bits", "how", "greys"),
    [
        (np.array([[0, 2**31, 2**32 - 1]], "<u4"), 32, (1, 1), [0, 127, 255]),
        (np.array([[0, 2**30, 2**31 - 1]], "<i4"), 32, (2, 1), [0, 127, 255]),
        (np.array([[0, 2**14, 2**15 - 1]], "<i2"), 16, (2, 1), [0, 127, 255]),
        (np.array([[0, 2**15, 2**16 - 1]], "<u2"), 16, (1, 1), [0, 127, 255]),
        (np.array([[0, 2**15, 2**16 - 1]], "<u2"), 16, (1, 0), [255, 128, 0]),
        (np.array([[0, 128, 255]], "u1"), 8, (1, 0), [255, 127, 0]),
    ],
)
def test_greys_of_a_tiff_file_are_scaled_by_the_range_that_it_states(values, bits, how, greys):
    image = open_image(tiff(values, bits, *how))
    assert [image.getpixel((x, 0)) for x in range(3)] == [(grey,) * 3 for grey in greys]


@pytest.mark.parametrize(("values", "kind"), [(np.array([[0, -5]], "<i4"), 2), (np.array([[0, 0.5]], "<f4"), 3)])
def test_numbers_without_an_agreed_range_are_refused(values, kind):
    with pytest.raises(ImageError, match="8, 16 or 32 bits"):
        open_image(tiff(values, 32, kind))


def test_lab_colours_are_converted():
    from PIL import ImageCms

    lab = ImageCms.profileToProfile(
        two_pixels(), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    np.testing.assert_allclose(as_rgb(lab).getpixel((0, 0)), COLORS[0], atol=6)


# ----------------------------------------------------------------------------------------------------------------- HEIC
def test_heic_is_read_with_the_extra_and_named_without_it(monkeypatch):
    heic = b"\0\0\0\x1cftypheic\0\0\0\0mif1heic"
    if importlib.util.find_spec("pillow_heif") is not None:
        from pillow_heif import from_pillow

        buffer = io.BytesIO()
        from_pillow(two_pixels().resize((64, 32), Image.Resampling.NEAREST)).save(buffer, quality=95)
        heic = buffer.getvalue()
        np.testing.assert_allclose(open_image(heic).getpixel((2, 16)), COLORS[0], atol=12)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageError, match=r"is a HEIC file; pip install 'got-bench\[heic\]' reads it"):
        open_image(heic)
