"""Images as people have them: every kind is either brought to upright RGB or refused in one line."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, features

from got.util.images import MAX_ASPECT, ImageError, as_rgb, open_image, png_bytes

COLORS = ((200, 40, 20), (20, 160, 60))


def two_pixels():
    """Red on the left, green on the right, 8 x 4 pixels."""
    image = Image.new("RGB", (8, 4), COLORS[0])
    image.paste(COLORS[1], (4, 0, 8, 4))
    return image


def ends(image):
    return image.getpixel((0, 0)), image.getpixel((image.width - 1, 0))


def png(width, height, data=b"", *, bits=8, kind=2):
    """A PNG byte by byte: Pillow writes no colours of 16 bits. Without data it claims a size and holds nothing."""
    parts = {b"IHDR": struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0), b"IDAT": data, b"IEND": b""}
    chunks = (
        struct.pack(">I", len(data)) + (name + data) + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts.items()
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_plain_rgb_is_passed_through_as_the_same_object():
    image = two_pixels()
    assert as_rgb(image) is image


@pytest.mark.parametrize("mode", ["P", "CMYK", "YCbCr", "HSV", "RGBA", "RGBX"])
def test_colours_survive_from_every_mode(mode):
    converted = as_rgb(two_pixels().quantize(2) if mode == "P" else two_pixels().convert(mode))
    assert converted.mode == "RGB"
    np.testing.assert_allclose(ends(converted), COLORS, atol=4)


@pytest.mark.parametrize(("mode", "grey"), [("L", 100), ("1", 255), ("LA", (100, 255)), ("PA", None)])
def test_greys_become_rgb(mode, grey):
    image = Image.new(mode, (2, 2), grey) if grey is not None else Image.new("L", (2, 2), 100).convert("PA")
    value = 255 if mode == "1" else 100
    assert as_rgb(image).getpixel((0, 0)) == (value,) * 3


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    greys = np.array([[0, 32768, 65535]])
    for dtype in (np.uint16, np.int32):
        deep = Image.fromarray(greys.astype(dtype))
        assert [as_rgb(deep).getpixel((x, 0))[0] for x in range(3)] == [0, 127, 255]
    Image.fromarray(greys.astype(np.uint16)).save(tmp_path / "deep.png")
    assert [open_image(tmp_path / "deep.png").getpixel((x, 0))[0] for x in range(3)] == [0, 127, 255]


@pytest.mark.parametrize("alpha", [False, True])
def test_colours_of_sixteen_bits_keep_their_upper_half(tmp_path, alpha):
    deep = np.array([0xFFFF, 0x4000, 0x80FF, *([0xFFFF] if alpha else [])], ">u2")
    row = zlib.compress(b"\0" + deep.tobytes())  # no filter, then the only pixel
    (tmp_path / "deep.png").write_bytes(png(1, 1, row, bits=16, kind=6 if alpha else 2))
    assert open_image(tmp_path / "deep.png").getpixel((0, 0)) == (0xFF, 0x40, 0x80)


@pytest.mark.parametrize("values", [[[0.5]], [[1e9]]])
def test_floating_point_has_no_agreed_range(values):
    with pytest.raises(ImageError, match="8, 16 or 32 bits"):
        as_rgb(Image.fromarray(np.array(values, dtype=np.float32)))


def test_transparent_parts_are_laid_on_white(tmp_path):
    clear = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    clear.putpixel((1, 0), (0, 0, 0, 128))
    assert ends(as_rgb(clear)) == ((255, 255, 255), (127, 127, 127))
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "clear.gif", transparency=0)
    assert ends(open_image(tmp_path / "clear.gif")) == ((255, 255, 255), (200, 100, 50))


@pytest.mark.parametrize(("orientation", "size", "first"), [(1, (8, 4), 0), (3, (8, 4), 1), (6, (4, 8), 0)])
def test_exif_rotation_is_applied(tmp_path, orientation, size, first):
    exif = Image.Exif()
    exif[0x0112] = orientation
    two_pixels().save(tmp_path / "turned.png", exif=exif)
    upright = open_image(tmp_path / "turned.png")
    assert upright.size == size
    assert upright.getpixel((0, 0)) == COLORS[first]


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_the_first_frame_of_an_animation_is_taken(tmp_path, suffix):
    frames = [Image.new("RGB", (8, 8), color) for color in COLORS]
    path = tmp_path / f"moving.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True)
    np.testing.assert_allclose(open_image(path).getpixel((0, 0)), COLORS[0], atol=3)


def test_a_single_pixel_is_a_image(tmp_path):
    Image.new("RGB", (1, 1), COLORS[0]).save(tmp_path / "dot.png")
    assert open_image(tmp_path / "dot.png").getpixel((0, 0)) == COLORS[0]


@pytest.mark.parametrize("size", [(20_000, 20_000), (10_000, 9_500)])
def test_a_decompression_bomb_is_refused_before_it_is_unpacked(tmp_path, size):
    (tmp_path / "bomb.png").write_bytes(png(*size))
    with pytest.raises(ImageError, match="at most 89 million pixels"):
        open_image(tmp_path / "bomb.png")


def test_a_huge_image_in_memory_is_refused_too(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ImageError, match="has 11 x 10"):
        as_rgb(Image.new("RGB", (11, 10)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert as_rgb(Image.new("L", (11, 10))).size == (11, 10)


def test_a_strip_is_refused():
    assert as_rgb(Image.new("RGB", (MAX_ASPECT, 1))).size == (MAX_ASPECT, 1)
    with pytest.raises(ImageError, match="times as long"):
        as_rgb(Image.new("RGB", (1, MAX_ASPECT + 1)))


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "webp", "bmp", "tif"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_a_file_that_breaks_off_is_refused_in_one_line(tmp_path, suffix, share):
    rng = np.random.default_rng(0)
    whole = io.BytesIO()
    noise = Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8))
    noise.save(whole, format=Image.registered_extensions()[f".{suffix}"])
    path = tmp_path / f"torn.{suffix}"
    path.write_bytes(whole.getvalue()[: int(share * len(whole.getvalue()))])
    with pytest.raises(ImageError, match=r"torn\.") as raised:
        open_image(path)
    assert "\n" not in str(raised.value)


def test_a_damaged_avif_is_refused_or_opened_but_never_ends_in_another_error(tmp_path):
    """Its decoder raises errors of its own kind, not only those of other readers."""
    if not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    rng, whole = np.random.default_rng(0), io.BytesIO()
    Image.effect_mandelbrot((64, 64), (-2, -1, 1, 1), 20).convert("RGB").save(whole, format="AVIF")
    refused = 0
    for _ in range(100):
        data = bytearray(whole.getvalue())
        data[int(rng.integers(len(data)))] ^= int(rng.integers(1, 256))
        (tmp_path / "torn.avif").write_bytes(data)
        try:
            open_image(tmp_path / "torn.avif")
        except ImageError as error:
            refused += "damaged: Failed to decode" in str(error)
    assert refused, "no file was damaged in the way that this is about"


def test_what_is_no_image_is_refused(tmp_path):
    (tmp_path / "words.png").write_text("not an image")
    for path, message in [
        ("words.png", "none that can be read"),
        ("nowhere.png", "No such file"),
        (".", "Cannot read"),
    ]:
        with pytest.raises(ImageError, match=message):
            open_image(tmp_path / path)


# ------------------------------------------------------------------------------------------------------------- writing
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (300, 1), (128, 128)])
def test_a_written_image_has_the_same_pixels(size):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    data = png_bytes(Image.fromarray(pixels))
    Image.open(io.BytesIO(data)).verify()  # its checksums
    assert np.array_equal(np.asarray(open_image(data, max_aspect=np.inf)), pixels)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_a_written_image_keeps_its_mode_and_its_transparency(mode):
    image = two_pixels().convert(mode)
    image.info["transparency"] = 0
    with Image.open(io.BytesIO(png_bytes(image))) as again:
        assert (again.mode, again.tobytes()) == (mode, image.tobytes())
        assert again.has_transparency_data
