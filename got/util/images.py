"""Images: those from outside opened safely and brought to the one form that the model knows, upright 8-bit RGB.

What is done to each kind: EXIF orientation is applied, and nothing else of EXIF is looked at; palettes, greys, CMYK and
other colour spaces are converted (without colour profiles); transparent parts are laid on white, as a page shows them;
greys of more than 8 bits are scaled by the range that their file states, not clipped; of an animation the first frame
counts. HEIC takes an extra library. Floating-point images and those with more pixels than Pillow's
`Image.MAX_IMAGE_PIXELS` are refused, and so are files that break off. Any size from 1 x 1 on will do, as long as one
side is at most `MAX_ASPECT` times the other. Below: images in rows, and lines of text as an image.
"""

from __future__ import annotations

import functools
import io
import math
import struct
import warnings
import zlib
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageCms, ImageDraw, ImageFont, UnidentifiedImageError

from got.util.errors import one_line
from got.util.weight_files import LFS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    Line = tuple[float, float, str, str, int]
    """Left and top in pixels, the words, their colour and the size of their font."""

MAX_ASPECT = 20
"""Longest side over shortest: what is drawn has the source's aspect, and must stay an image."""
_BACKGROUND = (255, 255, 255)
_ORIENTATION, _BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 0x0112, 258, 262, 339
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what brings the image upright."""
_SAYS_ORIENTATION = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")
"""The places from which Pillow reads the orientation."""
_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
"""Brands of HEIC files, behind ``ftyp``."""
_PNG, _PNG_UP, _PNG_RGB = b"\x89PNG\r\n\x1a\n", 2, 2
"""How a PNG file begins, and its numbers for rows that differ from the one above, and for RGB."""
_HEAD = 64
"""So many bytes tell what a file is."""


class ImageError(ValueError):
    """An image cannot be used; the message says which one and why, in one line."""


def open_image(source: str | Path | bytes, name: str = "", *, max_aspect: float = MAX_ASPECT) -> Image.Image:
    """Read an image as upright RGB.

    Args:
        source: The file, or its content.
        name: What errors call it; by default its path.
        max_aspect: Longest side over shortest at most; infinity where the image is only looked at.

    Raises:
        ImageError: If there is no such file, it is no image, it breaks off, or it is too large or too narrow.
    """
    name = name or ("the image" if isinstance(source, bytes) else str(source))
    return as_rgb(decode(source, name), name, max_aspect=max_aspect)


def open_if_any(path: Path | None) -> Image.Image | None:
    """The image in a file, for people to look at; None where there is none that can be read."""
    try:
        return None if path is None else open_image(path, max_aspect=math.inf)
    except ImageError:
        return None


def decode(source: str | Path | bytes, name: str) -> Image.Image:
    """Read an image as it is stored: its palette, its transparency and its orientation.

    Raises:
        ImageError: If there is no such file, it is no image, it breaks off, or it is too large.
    """
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb") as file:
            head = file.read(_HEAD)
            file.seek(0)
            if head[4:8] == b"ftyp" and head[8:12] in _HEIC:
                _prepare_heic(name)
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                # Harmless oddities inside a file are not the reader's business.
                warnings.simplefilter("ignore", UserWarning)
                with _opened(file, is_jpeg=head.startswith(b"\xff\xd8")) as image:
                    _check_size(image, name)
                    tiles = getattr(image, "tile", None)
                    stored = str(tiles[0][3]) if tiles else ""
                    image.load()
                    _scale_transparent_value(image, stored)
                    return image
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ImageError(f"Expected at most {_limit()} but {name} has more") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"Expected an image but {name} {_stand_in(head)}") from error
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        dangling = isinstance(error, FileNotFoundError) and not isinstance(source, bytes) and Path(source).is_symlink()
        raise ImageError(f"Cannot read {name}: {'a link to nothing' if dangling else error.strerror}") from error
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # Pillow's readers raise any kind on files that are cut short or damaged
        raise ImageError(f"Expected a whole image but {name} is damaged: {one_line(error)}") from error


def as_rgb(image: Image.Image, name: str = "the image", *, max_aspect: float = MAX_ASPECT) -> Image.Image:
    """An image as upright 8-bit RGB; one that is so already is returned as it is.

    Args:
        image: Any of Pillow's.
        name: What errors call it.
        max_aspect: As of `open_image`.

    Raises:
        ImageError: If its numbers have no agreed range, or it is too large or too narrow.

    >>> as_rgb(Image.new("LA", (2, 1), (0, 128))).getpixel((0, 0))  # half transparent black, on white
    (127, 127, 127)
    """
    _check_size(image, name)
    if max(image.size) > max_aspect * min(image.size):
        width, height = image.size
        raise ImageError(
            f"Expected an image at most {max_aspect:g} times as long as wide but {name} has {width} x {height}"
        )
    turn = _TURNS.get(_orientation(image))  # a converted image may say it no more
    try:
        return _turned(_on_background(image, name), turn)
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        raise ImageError(
            f"Expected an image with colours but {name} has mode {image.mode}: {one_line(error)}"
        ) from error


def turned(image: Image.Image) -> Image.Image:
    """An image upright by its EXIF orientation, in its own mode."""
    return _turned(image, _TURNS.get(_orientation(image)))


def _turned(image: Image.Image, turn: Image.Transpose | None) -> Image.Image:
    """The image turned, and without the EXIF by which others would turn it once more."""
    if turn is None:
        return image
    upright = image.transpose(turn)
    upright.info = {name: value for name, value in upright.info.items() if name not in _SAYS_ORIENTATION}
    return upright


def _on_background(image: Image.Image, name: str) -> Image.Image:
    """8-bit RGB, transparent parts on white."""
    if image.mode == "LAB":
        lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted: Any = ImageCms.profileToProfile(image, lab, rgb, outputMode="RGB")
        return converted
    if image.mode.startswith("I") or image.mode == "F":
        image = _to_eight_bits(image, name)
    if image.has_transparency_data:
        coloured = image.convert("RGBA")
        background = Image.new("RGBA", coloured.size, (*_BACKGROUND, 255))
        image = Image.alpha_composite(background, coloured)
    return image if image.mode == "RGB" else image.convert("RGB")


def png_bytes(image: Image.Image) -> bytes:
    """A losslessly compressed file of an image, made fast: our files are small anyway.

    Each row is written as what differs from the one above. Pillow tries five ways for every row, which takes twice as
    long for a file that is a twentieth smaller; it is left what is more than RGB.
    """
    if image.mode != "RGB" or image.info:
        buffer = io.BytesIO()
        image.save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()
    pixels = np.asarray(image).reshape(image.height, -1)
    rows = np.empty((image.height, 1 + pixels.shape[1]), np.uint8)
    rows[:, 0], rows[0, 1:] = _PNG_UP, pixels[0]
    np.subtract(pixels[1:], pixels[:-1], out=rows[1:, 1:])  # modulo 256, as PNG has it
    deflate = zlib.compressobj(1, strategy=zlib.Z_RLE)
    header = struct.pack(">IIBBBBB", *image.size, 8, _PNG_RGB, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", deflate.compress(rows.data) + deflate.flush()), (b"IEND", b""))
    return _PNG + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def _check_size(image: Image.Image, name: str) -> None:
    width, height = image.size
    if min(width, height) < 1:
        raise ImageError(f"Expected an image with pixels but {name} has {width} x {height}")
    if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
        raise ImageError(f"Expected at most {_limit()} but {name} has {width} x {height}")


def _limit() -> str:
    return f"{(Image.MAX_IMAGE_PIXELS or 0) / 1e6:.0f} million pixels (Pillow's Image.MAX_IMAGE_PIXELS)"


def _orientation(image: Image.Image) -> int:
    """How the image lies, from 1 (upright) to 8; 1 where EXIF does not say it, or cannot be read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            return int(image.getexif().get(_ORIENTATION, 1))
        except Exception:  # any kind: its reader follows whatever offsets and types a file claims
            return 1


def _stand_in(head: bytes) -> str:
    """What a file is that no reader of images knows, by its first bytes."""
    if head.startswith(LFS):
        return "is a Git LFS pointer, not the image: `git lfs pull` fetches it"
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "is a web page: download the image itself"
    return "is none that can be read" if head else "is empty"


def _opened(file: IO[bytes], *, is_jpeg: bool) -> Image.Image:
    """Pillow's image, not read yet; of a JPEG file also where its EXIF has a resolution that Pillow stumbles over."""
    try:
        return Image.open(file)
    except UnidentifiedImageError:
        if not is_jpeg:
            raise
    file.seek(0)
    data = file.read()
    exif, start = b"", 2
    while data[start : start + 1] == b"\xff" and data[start + 1] in range(0xE0, 0xF0):
        end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        if data[start + 4 : start + 8] == b"Exif":
            exif, data = data[start + 4 : end], data[:start] + data[end:]
        else:
            start = end
    image = Image.open(io.BytesIO(data))
    image.info["exif"] = exif
    return image


def _prepare_heic(name: str) -> None:
    """Lets Pillow read HEIC, if the library for it is there."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError as error:
        raise ImageError(f"{name} is a HEIC file; pip install 'got-bench[heic]' reads it") from error
    register_heif_opener()


def _scale_transparent_value(image: Image.Image, stored: str) -> None:
    """Brings a PNG's transparent value to the range of the pixels, which Pillow has scaled from what was stored."""
    value = image.info.get("transparency")
    if stored in ("L;2", "L;4") and isinstance(value, int):
        image.info["transparency"] = value * (255 // (2 ** int(stored[-1]) - 1))
    elif stored == "RGB;16B" and isinstance(value, tuple):
        image.info["transparency"] = tuple(part >> 8 for part in value)


def _to_eight_bits(image: Image.Image, name: str) -> Image.Image:
    """Greys of 16 or 32 bits as greys of 8, by the range that a TIFF file states, or else by that of 16 bits."""
    values, tags = np.asarray(image), getattr(image, "tag_v2", {})
    bits, kind = (int(np.ravel(tags.get(tag, usual))[0]) for tag, usual in ((_BITS, 16), (_SAMPLE_FORMAT, 1)))
    full = 2 ** (bits - (kind == 2)) - 1
    if values.dtype == np.int32 and bits == 32 and kind == 1:
        values = values.view(np.uint32)
    if values.dtype.kind == "f" or int(values.min()) < 0 or int(values.max()) > full:
        raise ImageError(f"Expected 8, 16 or 32 bits per channel but {name} has mode {image.mode}")
    wide = np.uint64 if bits > 16 else np.uint32
    greys = (values.astype(wide) * 255 // full).astype(np.uint8)
    if tags.get(_PHOTOMETRIC) == 0:  # white is zero
        greys = 255 - greys
    if isinstance(clear := image.info.get("transparency"), int):
        greys[values == clear] = _BACKGROUND[0]
    return Image.fromarray(greys)


# --------------------------------------------------------------------------------------------------------------- sheets
PAPER, INK, GREY = "#ffffff", "#202020", "#cccccc"


@functools.cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font."""
    return ImageFont.load_default(size)


def written(size_px: tuple[int, int], lines: Iterable[Line]) -> Image.Image:
    """Lines of text on paper."""
    strip = Image.new("RGB", size_px, PAPER)
    pen = ImageDraw.Draw(strip)
    for left, top, words, color, size in lines:
        pen.text((left, top), words, color, font(size))
    return strip


def fitted(image: Image.Image, side_px: int, resample: int | None = None) -> Image.Image:
    """An image whose longer side has so many pixels."""
    scale = side_px / max(image.size)
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), resample)


def laid_out(
    images: Sequence[Image.Image | None],
    columns: int,
    *,
    gap_px: int = 0,
    head: Image.Image | None = None,
    paper: str = PAPER,
    missing: str = GREY,
) -> Image.Image:
    """Images row by row, each column as wide as the widest image and each row as high as its highest.

    Args:
        images: None leaves a cell as large as any in the colour `missing`.
        columns: Images in a row.
        gap_px: Between the cells, and around them.
        head: Stands above them.
        paper: Colour of the gaps, and of what an image does not fill.
        missing: Colour of a cell without image.

    >>> laid_out([Image.new("RGB", size) for size in ((8, 4), (6, 2), (8, 4))], 2, gap_px=1).size
    (19, 11)
    """
    there = [image.size for image in images if image is not None]
    largest = max(width for width, _ in there), max(height for _, height in there)
    rows = [images[start : start + columns] for start in range(0, len(images), columns)]
    heights = [max(largest[1] if image is None else image.height for image in row) for row in rows]
    top = gap_px + (head.height if head else 0)
    sheet = Image.new("RGB", (columns * (largest[0] + gap_px) + gap_px, top + sum(heights) + gap_px * len(rows)), paper)
    if head:
        sheet.paste(head, (0, 0))
    for row, height in zip(rows, heights, strict=True):
        for column, image in enumerate(row):
            cell = Image.new("RGB", largest, missing) if image is None else image
            sheet.paste(cell, (gap_px + column * (largest[0] + gap_px), top))
        top += height + gap_px
    return sheet
