"""The form in which images are sent. What a model answers depends on it, so it is part of a judge's name."""

from __future__ import annotations

import dataclasses
import io
import math
from typing import TYPE_CHECKING

from got.vlm.messages import ImageFile

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("PNG", "JPEG")
MAX_PIXELS = 1024 * 1024
"""Of an image that is sent, where nobody asks for another limit: as much as most vision models look at, or more."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """How images go out."""

    format: str = "PNG"
    """One of `FORMATS`."""
    quality: int = 75
    """Of JPEG, 1 to 95."""
    longest_px: int | None = None
    """Images with a longer side are scaled down to it; None: never."""
    max_pixels: int | None = None
    """Images with more pixels are scaled down to so many; None: never."""
    detail: str | None = None
    """What an endpoint is told, ``"high"`` or ``"low"``; None leaves it to the endpoint."""

    @property
    def name(self) -> str:
        """All of it in a word; empty for PNG files of the images as they are.

        >>> Encoding(format="JPEG", longest_px=768).name, Encoding(max_pixels=1024 * 1024).name, Encoding().name
        ('jpeg75-768', '1048576px', '')
        """
        parts = [
            f"jpeg{self.quality}" if self.format == "JPEG" else "",
            "" if self.longest_px is None else str(self.longest_px),
            "" if self.max_pixels is None else f"{self.max_pixels}px",
            self.detail or "",
        ]
        return "-".join(part for part in parts if part)


def encoded(image: Image.Image, how: Encoding) -> ImageFile:
    """An RGB image as it is sent."""
    from PIL import Image

    from got.util.images import png_bytes

    if how.longest_px is not None and max(image.size) > how.longest_px:
        image = image.copy()
        image.thumbnail((how.longest_px, how.longest_px))
    if how.max_pixels is not None and image.width * image.height > how.max_pixels:
        scale = math.sqrt(how.max_pixels / (image.width * image.height))
        size = max(1, int(image.width * scale)), max(1, int(image.height * scale))
        image = image.resize(size, Image.Resampling.BICUBIC)
    if how.format == "PNG":
        return ImageFile(data=png_bytes(image), detail=how.detail)
    buffer = io.BytesIO()
    image.save(buffer, how.format, quality=how.quality)
    return ImageFile(data=buffer.getvalue(), mime="image/jpeg", detail=how.detail)
