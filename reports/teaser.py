"""One sample on one strip: prompt -> chain with boxes -> image -> detections -> verdict."""

from __future__ import annotations

import itertools
import math
import re
import textwrap
from typing import TYPE_CHECKING

from evals.core.records import UserError
from evals.core.vocabulary import task_title
from got.util.images import ImageError, open_image
from reports import style
from reports.samples import STAGES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from evals.metrics.layout import PlannedObject
    from reports.samples import SampleRecord

_BOX_TOKENS = re.compile(r"<\|box_(?:start|end)\|>")
_MASK_COLOR = re.compile(r"<\|box_end\|> \((\w+)\)")
_OUTLINES = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#42d4f4")


def draw_teaser(run: Path, sample: SampleRecord) -> Figure:
    """The whole way of one sample of a run whose model writes chains.

    Args:
        run: The run directory, for what is said of it.
        sample: One of its samples.

    Raises:
        UserError: The sample has no chain or no image.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not sample.chain:
        raise UserError(f"{run} has no chain for sample {sample.key}; choose a run of a model that writes chains")
    if sample.file is None or not sample.file.is_file():
        raise UserError(f"{run} has no image for sample {sample.key}")
    try:
        image = open_image(sample.file, max_aspect=math.inf)
    except ImageError as error:
        raise UserError(str(error)) from error

    figure = Figure(figsize=(15, 3.85), dpi=110, facecolor="white")
    FigureCanvasAgg(figure)
    titles = ("prompt", "chain with boxes", "image", "detections", "verdict")
    panels = figure.subplots(1, 5, width_ratios=(0.7, 1, 1, 1, 0.7))
    for panel, title in zip(panels, titles, strict=True):
        panel.set_axis_off()
        panel.set(xlim=(0, 1), ylim=(1, 0))
        panel.set_title(title, fontsize=13, fontweight="bold", color="#444444", pad=10)
    prompt = _filled(f"“{sample.prompt}”", 18)
    panels[0].text(0.5, 0.5, prompt, fontsize=14, ha="center", va="center")
    _draw_chain(panels[1], sample.chain, sample.planned)
    panels[2].imshow(image, extent=(0, 1, 1, 0), aspect="auto", interpolation="lanczos")
    panels[3].imshow(image, extent=(0, 1, 1, 0), aspect="auto", interpolation="lanczos")
    _draw_detections(panels[3], sample, image.size)
    _draw_verdict(panels[4], sample)
    figure.subplots_adjust(left=0.005, right=0.995, top=0.9, bottom=0.14, wspace=0.2)
    _draw_arrows(figure, list(panels))
    return figure


def _filled(text: str, width: int) -> str:
    return textwrap.fill(style.drawable(text), width)


def _draw_chain(panel: Axes, chain: str, planned: Sequence[PlannedObject]) -> None:
    """The layout as the model is given it, coloured boxes on black, and the chain's words below."""
    from matplotlib.colors import is_color_like
    from matplotlib.patches import Rectangle

    colors = dict(enumerate(_MASK_COLOR.findall(chain)))
    panel.add_patch(Rectangle((0, 0), 1, 1, color="black"))
    for number, item in enumerate(planned):
        x1, y1, x2, y2 = (value / 1000 for value in item.box_1000)
        color = colors.get(number, "white")
        color = color if is_color_like(color) else "white"  # a word that nobody can draw
        corner, size = (x1, y1), (x2 - x1, y2 - y1)
        panel.add_patch(Rectangle(corner, *size, facecolor=color, alpha=0.55, edgecolor="none"))
        panel.add_patch(Rectangle(corner, *size, fill=False, edgecolor="white", linestyle="--", linewidth=1.5))
        words = " ".join(word for word in (item.color, item.name) if word) or item.text
        label = _filled(words, 12)
        panel.text((x1 + x2) / 2, (y1 + y2) / 2, label, color="white", fontsize=10, ha="center", va="center")
    panel.text(0.5, 1.04, _filled(_BOX_TOKENS.sub("", chain), 54), fontsize=7, ha="center", va="top", color="#444444")


def _draw_detections(panel: Axes, sample: SampleRecord, size: tuple[int, int]) -> None:
    """The detections that counted, with the colour that the encoder named."""
    from matplotlib.patches import Rectangle

    width, height = size
    for number, found in enumerate(sample.seen):
        x1, y1, x2, y2 = found.box_xyxy_px
        color = _OUTLINES[number % len(_OUTLINES)]
        corner = (x1 / width, y1 / height)
        panel.add_patch(
            Rectangle(corner, (x2 - x1) / width, (y2 - y1) / height, fill=False, edgecolor=color, linewidth=2)
        )
        words = " ".join(word for word in (found.color, found.name, f"{found.score:.2f}") if word)
        ground = {"facecolor": color, "edgecolor": "none", "pad": 1.5}
        x, y = corner[0] + 0.01, max(corner[1], 0.06)
        panel.text(x, y, words, va="bottom", color="white", fontsize=8, bbox=ground)


def _draw_verdict(panel: Axes, sample: SampleRecord) -> None:
    word = "correct" if sample.outcome == "right" else sample.outcome
    color = {"right": "#2a8a3e", "wrong": "#c0392b"}.get(sample.outcome, "#444444")
    panel.text(0.5, 0.42, word, fontsize=22, fontweight="bold", color=color, ha="center")
    failed = [f"failed at: {STAGES[sample.stage]}"] if sample.stage in STAGES else []
    reason = "\n".join(_filled(line, 26) for line in [*sample.reason.splitlines(), *failed])
    panel.text(0.5, 0.56, reason or _filled(f"task: {task_title(sample.task)}", 26), fontsize=10, ha="center", va="top")


def _draw_arrows(figure: Figure, panels: list[Axes]) -> None:
    from matplotlib.patches import FancyArrowPatch

    for left, right in itertools.pairwise(panels):
        start, end = left.get_position(), right.get_position()
        y = (start.y0 + start.y1) / 2
        arrow = FancyArrowPatch((start.x1 + 0.003, y), (end.x0 - 0.003, y), transform=figure.transFigure)
        arrow.set(arrowstyle="-|>", mutation_scale=14, color="#888888", linewidth=1.5)
        figure.patches.append(arrow)
