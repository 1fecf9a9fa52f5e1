"""Images from outside: opened safely and brought to the one form that the model knows, upright 8-bit RGB.

What is done to each kind: EXIF orientation is applied; palettes, greys, CMYK and other colour spaces are converted
(without colour profiles); transparent parts are laid on white, as a page shows them; 16-bit greys are scaled to 8 bits,
not clipped; of an animation the first frame counts. Floating-point images and those with more pixels than Pillow's
`Image.MAX_IMAGE_PIXELS` are refused, and so are files that break off. Any size from 1 x 1 on will do, as long as one
side is at most `MAX_ASPECT` times the other.
"""

from __future__ import annotations

import io
import math
import warnings
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from got.util.errors import one_line

if TYPE_CHECKING:
    from pathlib import Path

MAX_ASPECT = 20
"""Longest side over shortest: what is drawn has the source's aspect, and must stay an image."""
_BACKGROUND = (255, 255, 255)


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
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            # Harmless oddities inside a file are not the reader's business.
            warnings.simplefilter("ignore", UserWarning)
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
                _check_size(image, name)
                image.load()
                return image
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ImageError(f"Expected at most {_limit()} but {name} has more") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"Expected an image but {name} is none that can be read") from error
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise ImageError(f"Cannot read {name}: {error.strerror}") from error
    except ImageError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, RuntimeError) as error:
        # Pillow's readers raise all of these on files that are cut short or damaged.
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
    if image.mode == "RGB" and not image.info.get("transparency") and not _is_turned(image):
        return image
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I") or upright.mode == "F":
        upright = _to_eight_bits(upright, name)
    if upright.has_transparency_data:
        coloured = upright.convert("RGBA")
        ground = Image.new("RGBA", coloured.size, (*_BACKGROUND, 255))
        upright = Image.alpha_composite(ground, coloured)
    return upright.convert("RGB")


def png_bytes(image: Image.Image) -> bytes:
    """A losslessly compressed file of an image; the fast setting, our files are small anyway."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _check_size(image: Image.Image, name: str) -> None:
    width, height = image.size
    if min(width, height) < 1:
        raise ImageError(f"Expected an image with pixels but {name} has {width} x {height}")
    if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
        raise ImageError(f"Expected at most {_limit()} but {name} has {width} x {height}")


def _limit() -> str:
    return f"{(Image.MAX_IMAGE_PIXELS or 0) / 1e6:.0f} million pixels (Pillow's Image.MAX_IMAGE_PIXELS)"


def _is_turned(image: Image.Image) -> bool:
    return image.getexif().get(0x0112, 1) != 1


def _to_eight_bits(image: Image.Image, name: str) -> Image.Image:
    """Greys of 16 bits, as greys of 8."""
    values = np.asarray(image)
    if values.dtype.kind == "f" or int(values.min()) < 0 or int(values.max()) > 65535:
        raise ImageError(f"Expected 8 or 16 bits per channel but {name} has mode {image.mode}")
    return Image.fromarray((values.astype(np.uint32) * 255 // 65535).astype(np.uint8))
