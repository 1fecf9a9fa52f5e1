"""A sheet of held-out examples while a model is in training: what it should draw, and what it draws."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import torch
from PIL import Image, ImageDraw

from got.util.files import write_atomic
from got.util.images import png_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from got.finetune.feed import Prepared
    from got.pipeline import GoTPipeline

_CELL_PX, _TEXT_PX, _GAP_PX = 192, 44, 6
_TITLES = ("source", "target", "from the true chain", "from its own chain")


def draw_grid(pipeline: GoTPipeline, examples: Sequence[Prepared], seed: int, path: Path) -> None:
    """Draw the first step of each example with the pipeline's defaults, and save a sheet: a row per example."""
    pipeline.set_progress_bar_config(disable=True)
    rows = []
    for one in examples:
        edit = one.example.source is not None
        source = one.pictures[0] if edit else None
        drawn = [
            pipeline(
                one.example.prompt,
                image=source,
                chain=chain,
                generator=torch.Generator().manual_seed(seed + one.sample),
                max_turns=1,
            ).images[0]
            for chain in (one.example.chains[0], None)
        ]
        rows.append((one.example.prompt, [source, one.pictures[int(edit)], *drawn]))
    write_atomic(path, png_bytes(sheet(rows)))


def sheet(rows: Sequence[tuple[str, Sequence[Image.Image | None]]]) -> Image.Image:
    """Pictures in columns under their titles, each row with its words above it; None leaves a gap."""
    width = len(_TITLES) * (_CELL_PX + _GAP_PX) + _GAP_PX
    height = 20 + len(rows) * (_CELL_PX + _TEXT_PX)
    page = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(page)
    for column, title in enumerate(_TITLES):
        pen.text((_GAP_PX + column * (_CELL_PX + _GAP_PX), 4), title, fill="gray")
    for row, (words, pictures) in enumerate(rows):
        top = 20 + row * (_CELL_PX + _TEXT_PX)
        lines = textwrap.wrap(words, width // 7, max_lines=2, placeholder=" ...")
        pen.text((_GAP_PX, top + 6), "\n".join(lines), fill="black")
        for column, picture in enumerate(pictures):
            place = (_GAP_PX + column * (_CELL_PX + _GAP_PX), top + _TEXT_PX - 8)
            if picture is not None:
                page.paste(picture.resize((_CELL_PX, _CELL_PX), Image.Resampling.NEAREST), place)
    return page
