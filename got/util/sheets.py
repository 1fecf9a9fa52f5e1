"""Contact sheets: images in rows, and lines of text as an image. Pillow is imported once something is drawn."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from PIL import Image, ImageFont

    Line = tuple[float, float, str, str, int]
    """Left and top in pixels, the words, their colour and the size of their font."""

PAPER, INK, GREY = "#ffffff", "#202020", "#cccccc"


@functools.cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font."""
    from PIL import ImageFont

    return ImageFont.load_default(size)


def written(size_px: tuple[int, int], lines: Iterable[Line]) -> Image.Image:
    """Lines of text on paper."""
    from PIL import Image, ImageDraw

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

    >>> from PIL import Image
    >>> laid_out([Image.new("RGB", size) for size in ((8, 4), (6, 2), (8, 4))], 2, gap_px=1).size
    (19, 11)
    """
    from PIL import Image

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
