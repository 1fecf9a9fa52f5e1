"""A sheet of held-out examples while a model is in training: what it should draw, and what it draws."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import torch
from PIL import Image

from got.util.files import write_atomic
from got.util.images import PAPER, laid_out, png_bytes, written

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from got.finetune.feed import Prepared
    from got.pipeline import GoTPipeline

_CELL_PX, _TEXT_PX, _GAP_PX = 192, 32, 6
_TITLES = ("source", "target", "from the true chain", "from its own chain")


def draw_grid(pipeline: GoTPipeline, examples: Sequence[Prepared], seed: int, path: Path) -> None:
    """Draw the first step of each example with the pipeline's defaults, and save a sheet: a row per example."""
    pipeline.set_progress_bar_config(disable=True)
    rows = []
    for one in examples:
        edit = one.example.source is not None
        source = one.images[0] if edit else None
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
        rows.append((one.example.prompt, [source, one.images[int(edit)], *drawn]))
    write_atomic(path, png_bytes(sheet(rows)))


def sheet(rows: Sequence[tuple[str, Sequence[Image.Image | None]]]) -> Image.Image:
    """Images in columns under their titles, each row with its words above it; None leaves a gap."""
    width = len(_TITLES) * (_CELL_PX + _GAP_PX) + _GAP_PX
    titles = [(_GAP_PX + n * (_CELL_PX + _GAP_PX), 4, title, "gray", 10) for n, title in enumerate(_TITLES)]
    strips = []
    for words, images in rows:
        lines = textwrap.wrap(words, width // 7, max_lines=2, placeholder=" ...")
        head = written((width, _TEXT_PX), [(_GAP_PX, 6, "\n".join(lines), "black", 10)])
        cells = [p and p.resize((_CELL_PX, _CELL_PX), Image.Resampling.NEAREST) for p in images]
        strips.append(laid_out(cells, len(_TITLES), gap_px=_GAP_PX, head=head, missing=PAPER))
    return laid_out(strips, 1, head=written((width, 20), titles))
