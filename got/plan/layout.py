"""The layout: one black image per box of a chain, with that box filled in its colour.

The rectangles follow the released code to the pixel: a corner is ``value / 1000 * size`` truncated to a whole pixel,
both corners are painted, and what lies outside the image is cut off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from got.plan.chain import Box1000, Chain

# Pillow's drawing takes 32-bit coordinates; from twice the image on, a corner is outside whatever its value.
_FAR_OUTSIDE_1000 = 2000


def draw_layout(chain: Chain, width_px: int, height_px: int) -> list[Image.Image]:
    """Draw one RGB mask per region, in order; a chain without regions gives one black mask.

    >>> from got.plan.chain import Chain
    >>> masks = draw_layout(Chain.parse("a dog <|box_start|>(0,0),(500,500)<|box_end|> (red)"), 64, 64)
    >>> len(masks), masks[0].getpixel((32, 32)), masks[0].getpixel((33, 33))
    (1, (255, 0, 0), (0, 0, 0))
    """
    if not chain.regions:
        return [black_image(width_px, height_px)]
    return [draw_mask(region.box_1000, region.color, width_px, height_px) for region in chain.regions]


def draw_overview(chain: Chain, width_px: int, height_px: int) -> Image.Image:
    """All boxes in one image, for people: smaller ones on top of larger ones.

    >>> from got.plan.chain import Chain
    >>> draw_overview(Chain.parse("a dog <|box_start|>(0,0),(500,500)<|box_end|> (red)"), 64, 64).getpixel((9, 9))
    (255, 0, 0)
    """
    overview = black_image(width_px, height_px)
    pen = ImageDraw.Draw(overview)

    def area(box: Box1000) -> int:
        return (box[2] - box[0]) * (box[3] - box[1])

    for region in sorted(chain.regions, key=lambda region: -area(region.box_1000)):
        pen.rectangle(_corners(region.box_1000, width_px, height_px), fill=region.color)
    return overview


def draw_mask(box_1000: Box1000, color: str, width_px: int, height_px: int) -> Image.Image:
    """Draw one box on black.

    Args:
        box_1000: Sorted corners in thousandths of width and height; they may lie outside the image.
        color: A colour word of Pillow's, in any case.
        width_px: Width of the mask.
        height_px: Height of the mask.

    Returns:
        An RGB image. A box without extent paints one pixel, a box outside none.

    >>> draw_mask((120, 300, 480, 660), "lime", 64, 64).getbbox()  # right and bottom as Pillow gives them: one behind
    (7, 19, 31, 43)
    """
    mask = black_image(width_px, height_px)
    ImageDraw.Draw(mask).rectangle(_corners(box_1000, width_px, height_px), fill=color)
    return mask


def black_image(width_px: int, height_px: int) -> Image.Image:
    """A black RGB image: the layout of a chain without boxes, and the reference of text-to-image.

    >>> black_image(64, 32).getextrema()
    ((0, 0), (0, 0), (0, 0))
    """
    return Image.new("RGB", (width_px, height_px))


def _corners(box_1000: Box1000, width_px: int, height_px: int) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (min(value, _FAR_OUTSIDE_1000) / 1000 for value in box_1000)
    return x1 * width_px, y1 * height_px, x2 * width_px, y2 * height_px
