"""Figures of ablations: the ladder of paired differences, and images side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from got.util.images import open_if_any
from reports import style
from reports.run_figures import Drawn
from reports.samples import JUDGED
from reports.setting_figures import labels

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes

    from reports.frames import Ablation
    from reports.samples import SampleRecord

SHOWN_PROMPTS = 6
"""Rows of a grid of images."""
SHOWN_CELLS = 9


def ladder(ablation: Ablation) -> Drawn | None:
    """Paired differences to the first cell; a filled mark where they are distinguishable after Holm's correction."""
    cells = [cell for cell in ablation.cells if cell.row["difference"] is not None]
    if not cells:
        return None
    short, settings = labels(ablation)
    figure = style.figure(style.COLUMN_IN, 0.85 + 0.24 * len(cells))
    axes = figure.subplots()
    for place, cell in enumerate(cells):
        change = cell.row["difference"]
        sure = change["verdict"] in {"better", "worse"}
        difference_mark(axes, place, (change["value"], change["low"], change["high"]), sure=sure)
    first = ablation.cells[0]
    what = f"difference to “{style.words(short[first.name], 24, 1)}” ({first.row['overall']['value']:.3f})"
    difference_axes(axes, [style.words(short[cell.name], 26, 2) for cell in cells], what)
    return Drawn(
        name="ladder",
        title=f"{ablation.name}: differences to the first variant{settings}",
        text="Paired differences of the overall score to the first variant, with 95 % intervals. Filled: better or "
        "worse after Holm's correction; hollow and grey: not distinguishable.",
        figure=figure,
        header=("cell", "score", "difference", "low", "high", "p_holm", "verdict"),
        rows=tuple(
            (cell.name, cell.row["overall"]["value"],
             *(cell.row["difference"][key] for key in ("value", "low", "high", "p_holm", "verdict")))
            for cell in cells
        ),
    )  # fmt: skip


def difference_mark(axes: Axes, place: int, change: tuple[float, float, float], *, sure: bool) -> None:
    """A difference with the ends of its interval, on the line `place`."""
    value, low, high = change
    color = style.GREY if not sure else style.GREEN if value > 0 else style.RED
    axes.plot([low, high], [place, place], color=color, linewidth=1.6)
    axes.plot(value, place, marker="D" if sure else "o", color=color, linestyle="none",
              markerfacecolor=color if sure else style.PAPER)  # fmt: skip


def difference_axes(axes: Axes, names: Sequence[str], what: str) -> None:
    """Lines with these names, around a difference of 0; `what` stands below."""
    axes.axvline(0, color=style.INK, linewidth=0.8)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, -0.05), max(high, 0.05))
    axes.xaxis.set_major_locator(style.few_ticks())
    axes.set_xlabel(what)
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)


# ------------------------------------------------------------------------------------------------------------ images
def image_grid(
    columns: Mapping[str, Sequence[SampleRecord]], name: str, title: str, keys: Sequence[str] = ()
) -> Drawn | None:
    """The same prompts drawn by each cell, side by side, with a sign for right or wrong.

    Args:
        columns: Name of each column -> its run's images.
        name: For the files.
        title: Above the figure.
        keys: Which samples (case/index); by default the first images of prompts on which the columns differ, spread
            over the tasks.
    """
    by_key = [{sample.key: sample for sample in samples} for samples in list(columns.values())[:SHOWN_CELLS]]
    chosen = list(keys) or _telling(by_key)
    if len(by_key) < 2 or not chosen:
        return None
    more = len(columns) > len(by_key)
    side = min(0.92, 6.2 / len(by_key))
    figure = style.figure(1.0 + side * len(by_key) + 0.1, 0.42 + side * len(chosen))
    grid = figure.subplots(len(chosen), len(by_key), squeeze=False)
    rows: list[tuple[object, ...]] = []
    for y, key in enumerate(chosen):
        for x, (label, samples) in enumerate(zip(columns, by_key, strict=False)):
            _panel(grid[y, x], samples.get(key))
            if y == 0:
                grid[y, x].set_title(style.words(label, 13, 3), fontsize=7, loc="center", fontweight="normal")
        known = [samples[key] for samples in by_key if key in samples]
        grid[y, 0].set_ylabel(style.words(known[0].prompt.removeprefix("a photo of "), 16, 4), rotation=0, ha="right",
                              va="center", fontsize=7)  # fmt: skip
        rows.append((key, known[0].prompt, *(p[key].outcome if key in p else "" for p in by_key)))
    return Drawn(
        name=name,
        title=title,
        text="The same prompts drawn by each variant, from the same noise where the variants share it. Tick: judged "
        f"right; cross: judged wrong.{f' The first {len(by_key)} of {len(columns)}.' if more else ''}",
        figure=figure,
        header=("sample", "prompt", *list(columns)[: len(by_key)]),
        rows=tuple(rows),
    )


def _telling(by_key: Sequence[Mapping[str, SampleRecord]]) -> list[str]:
    """Samples on which the columns agree least, first images first, the tasks in turn."""
    shared = set.intersection(*(set(samples) for samples in by_key)) if by_key else set()

    def split(key: str) -> float:
        right = sum(samples[key].outcome == "right" for samples in by_key)
        return abs(right - len(by_key) / 2)

    tasks: dict[str, list[str]] = {}
    for key in sorted(shared, key=lambda key: (by_key[0][key].index, split(key), key)):
        tasks.setdefault(by_key[0][key].task, []).append(key)
    turns = [members[i] for i in range(SHOWN_PROMPTS) for members in tasks.values() if i < len(members)]
    return turns[:SHOWN_PROMPTS]


def _panel(axes: Axes, sample: SampleRecord | None) -> None:
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set_color(style.GREY)
    image: Any = None if sample is None else open_if_any(sample.file)
    if sample is None or image is None:
        axes.text(0.5, 0.5, "no image", ha="center", va="center", fontsize=6.5, transform=axes.transAxes)
        axes.set_box_aspect(1)
        return
    axes.imshow(np.asarray(image), interpolation="lanczos")
    if sample.outcome not in JUDGED:
        return
    right = sample.outcome == "right"
    color = style.GREEN if right else style.RED
    for spine in axes.spines.values():
        spine.set(color=color, linewidth=1.6)
    axes.text(0.97, 0.03, "✓" if right else "✗", ha="right", va="bottom", transform=axes.transAxes, fontsize=8,
              color="#ffffff", fontweight="bold",
              bbox={"facecolor": color, "edgecolor": "none", "boxstyle": "round,pad=0.15"})  # fmt: skip
