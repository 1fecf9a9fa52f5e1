"""What the page is told of chains and images: plain JSON."""

from __future__ import annotations

import base64
import dataclasses
import functools
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageChops

from got.util.images import png_bytes

if TYPE_CHECKING:
    from got.plan.chain import Chain

_PREVIEW_PX = 512
_CHANGED = 24
"""Grey levels, in any channel, that the autoencoder may move a pixel by without having changed it."""


def plan(chain: Chain) -> dict[str, Any]:
    """A chain: its text, its regions with their places in the text, and what could not be read.

    >>> from got.plan.chain import Chain
    >>> view = plan(Chain.parse("a dog <|box_start|>(0,0),(500,500)<|box_end|> (red) and <|box_end|>"))
    >>> view["regions"][0]["span"], view["faults"]
    ((0, 5, 6, 51), ((56, 67, 'malformed box left out at character 56: <|box_end|>'),))
    """
    regions = [dataclasses.asdict(one) | {"span": span} for one, span in zip(chain.regions, chain.spans, strict=True)]
    return {"text": chain.text, "regions": regions, "faults": chain.faults}


def data_url(image: Image.Image) -> str:
    """An image in a line of JSON: small, and fast to make."""
    image = image.copy()
    image.thumbnail((_PREVIEW_PX, _PREVIEW_PX))
    return "data:image/png;base64," + base64.b64encode(png_bytes(image)).decode()


def changed(before: Image.Image, after: Image.Image) -> Image.Image:
    """Which pixels of an edit differ from its source: white ones, clear elsewhere."""
    differences = ImageChops.difference(before.resize(after.size), after).split()
    mask = functools.reduce(ImageChops.lighter, differences).point(lambda value: 255 if value > _CHANGED else 0)
    return Image.merge("LA", (Image.new("L", after.size, 255), mask))
