"""Boxes between a model's frame and a chain's, the images that a model is shown, and boxes written into prose.

Models disagree on what a box's numbers mean. Qwen2.5-VL counts pixels of the image as its processor has resized it,
Qwen2-VL and Qwen3-VL thousandths of width and height, others parts of one. A wrong guess still gives boxes that look
like boxes, so nothing is guessed: the convention is an option. With pixels, images are brought to a size that the
processor leaves alone before they are sent, so that both sides mean the same pixels.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

from PIL import Image

from got.plan.chain import MASK_COLORS, format_box
from got.util.images import MAX_ASPECT
from got.vlm.json_replies import BadReply
from got.vlm.messages import Encoding, encoded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from got.plan.chain import Box1000
    from got.vlm.messages import ImageFile

CONVENTIONS = ("pixels", "thousandths", "unit")
_SLACK = 0.01
"""Share of a side by which a corner may lie outside, as rounding brings it about."""
_LAST = 999
"""Largest coordinate of a chain."""
_FACTOR = 28
"""Qwen2.5-VL sees squares of 28 pixels; a side that is a multiple of it stays as it is."""
_LEAST_PIXELS = 56 * 56
_CROP_MARGIN = 0.1
_SMALLEST_CROP_PX = 28


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """An image as a model gets it."""

    file: ImageFile
    size_px: tuple[int, int]
    """Width and height of what is sent."""


def shown(image: Image.Image, convention: str, max_pixels: int, encoding: Encoding | None = None) -> Shown:
    """An image in the form in which a model with that convention is to see it; large ones are scaled down."""
    width, height = size_to_send(image.size, convention, max_pixels)
    resized = image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BICUBIC)
    return Shown(file=encoded(resized, encoding or Encoding()), size_px=(width, height))


def size_to_send(size_px: tuple[int, int], convention: str, max_pixels: int) -> tuple[int, int]:
    """Width and height of the image to send.

    >>> size_to_send((128, 128), "unit", 10**6), size_to_send((4000, 1000), "thousandths", 10**6)
    ((128, 128), (2000, 500))
    """
    width, height = size_px
    if convention == "pixels":
        from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

        height, width = smart_resize(height, width, _FACTOR, _LEAST_PIXELS, max(max_pixels, _LEAST_PIXELS))
        return width, height
    scale = min(1.0, math.sqrt(max_pixels / (width * height)))
    return max(1, round(width * scale)), max(1, round(height * scale))


def to_box_1000(box: Sequence[Any], convention: str, size_px: tuple[int, int]) -> Box1000:
    """A model's box x1, y1, x2, y2 as a chain's, in [0, 1000).

    Args:
        box: Four numbers; what lies outside by more than rounding is an error, not a box at the edge.
        convention: One of `CONVENTIONS`.
        size_px: Width and height of the image that the model saw.

    Raises:
        BadReply: If it is no box of that image.

    >>> to_box_1000([14, 0, 70, 140], "pixels", (140, 140))
    (100, 0, 500, 999)
    >>> to_box_1000([100, 0, 500, 1000], "thousandths", (140, 140))
    (100, 0, 500, 999)
    """
    if len(box) != 4 or any(isinstance(v, bool) or not isinstance(v, int | float) or not math.isfinite(v) for v in box):
        raise BadReply("illegal box", f"expected four numbers but got {box}")
    wide, high = {"pixels": size_px, "thousandths": (1000, 1000), "unit": (1, 1)}[convention]
    x1, y1, x2, y2 = parts = [value / side for value, side in zip(box, (wide, high, wide, high), strict=True)]
    if min(parts) < -_SLACK or max(parts) > 1 + _SLACK:
        raise BadReply("box outside", f"expected {convention} of an image of {wide} x {high} but got {box}")
    x1, y1, x2, y2 = (min(max(round(part * 1000), 0), _LAST) for part in parts)
    if x1 >= x2 or y1 >= y2:
        raise BadReply("illegal box", f"expected x1 < x2 and y1 < y2 but got {box}")
    return x1, y1, x2, y2


def frame_in_words(convention: str, size_px: tuple[int, int]) -> str:
    """What a prompt says of the numbers.

    >>> frame_in_words("pixels", (640, 480))
    'pixels of this picture, which is 640 wide and 480 high'
    """
    if convention == "pixels":
        return f"pixels of this picture, which is {size_px[0]} wide and {size_px[1]} high"
    if convention == "thousandths":
        return "thousandths of the picture's width and height, whole numbers from 0 to 1000"
    return "parts of the picture's width and height, decimal numbers from 0 to 1"


def cropped(image: Image.Image, box_1000: Box1000) -> Image.Image:
    """What a box shows, with a tenth of its sides around it, and no strip: as wide and high as models take images.

    That is 28 pixels and a twentieth of the other side at least, as far as the image has them.
    """
    (width, height), (x1, y1, x2, y2) = image.size, box_1000
    sides = ((x1, x2, width), (y1, y2, height))
    halves = [(high - low) / 2000 * side * (1 + 2 * _CROP_MARGIN) for low, high, side in sides]
    least = math.ceil(max(_SMALLEST_CROP_PX, 2 * max(halves) / MAX_ASPECT))
    spans = []
    for (low, high, side), half in zip(sides, halves, strict=True):
        middle, reach = (low + high) / 2000 * side, max(half, least / 2)
        start, end = max(0, math.floor(middle - reach)), min(side, math.ceil(middle + reach))
        if end - start < least:  # at the image's edge
            start = max(0, min(start, side - least))
            end = min(side, start + least)
        spans.append((start, end))
    return image.crop((spans[0][0], spans[1][0], spans[0][1], spans[1][1]))


def merged(description: str, places: Sequence[tuple[int, Box1000 | None]]) -> str:
    """A description with boxes behind its objects' names: a chain.

    Args:
        description: Prose without the model's own tokens.
        places: Per object, in order, the offset behind its name and its box, or None where it has none.

    >>> merged("A dog on grass.", [(5, (100, 200, 500, 800)), (14, None)])
    'A dog <|box_start|>(100,200),(500,800)<|box_end|> (red) on grass.'
    """
    text, done, colors = "", 0, iter(MASK_COLORS)
    for end, box_1000 in places:
        if box_1000 is not None:
            text += f"{description[done:end]} {format_box(box_1000, next(colors))}"
            done = end
    return text + description[done:]
