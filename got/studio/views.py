"""What the page is told of chains, entries and sessions: plain JSON. Seeds are text: JavaScript has no such numbers."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

from PIL import ImageColor

from got.studio import again

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from PIL import Image

    from got.conversation import Conversation, Entry
    from got.plan.chain import Chain

_PREVIEW_PX = 512


def plan(chain: Chain) -> dict[str, Any]:
    """A chain: its text, its regions with their places in the text, and what could not be read.

    >>> from got.plan.chain import Chain
    >>> view = plan(Chain.parse("a dog <|box_start|>(0,0),(500,500)<|box_end|> (red) and <|box_end|>"))
    >>> view["regions"][0]["css"], view["faults"]
    ('#ff0000', [[56, 67, 'malformed box left out at character 56: <|box_end|>']])
    """
    regions = [
        {
            "text": region.text,
            "box": region.box_1000,
            "color": region.color,
            "css": "#{:02x}{:02x}{:02x}".format(*ImageColor.getrgb(region.color)[:3]),
            "span": span,
        }
        for region, span in zip(chain.regions, chain.spans, strict=True)
    ]
    return {"text": chain.text, "regions": regions, "faults": [list(fault) for fault in chain.faults]}


def entry(one: Entry, talk: Conversation, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """An image and how it came about."""
    device = "cpu" if talk.pipeline is None else str(talk.pipeline._execution_device)
    return {
        "number": one.number,
        "kind": one.kind,
        "source": one.source,
        "instruction": one.instruction,
        "seed": None if one.seed is None else str(one.seed),
        "options": one.options,
        "warnings": one.warnings,
        "plan": plan(one.plan),
        "command": again.command(one, talk.entries, folder, arguments),
        "python": again.python(one, talk.entries, folder, arguments, device),
    }


def session(name: str, talk: Conversation, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """A whole conversation."""
    return {
        "name": name,
        "folder": str(folder),
        "current": None if talk.entry is None else talk.entry.number,
        "undo": talk.can_undo,
        "redo": talk.can_redo,
        "entries": [entry(one, talk, folder, arguments) for one in talk.entries],
    }


def data_url(image: Image.Image) -> str:
    """An image in a line of JSON: small, and fast to make."""
    image = image.copy()
    image.thumbnail((_PREVIEW_PX, _PREVIEW_PX))
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
