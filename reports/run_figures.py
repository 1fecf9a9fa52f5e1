"""Figures of runs: scores by task, where wrong images went wrong, layout, and what is taken for what.

Each function draws inside :func:`reports.style.sheet` and returns None where the runs hold nothing to draw.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import operator
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from evals.core.vocabulary import COLORS, task_title
from evals.metrics.boxes import iou
from evals.metrics.layout import as_detections
from reports import style
from reports.samples import JUDGED, STAGES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from reports.frames import Run
    from reports.samples import SampleRecord


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A figure with its words and its numbers."""

    name: str
    """For its files."""
    title: str
    text: str
    """What it shows, in words: its caption, and for those who cannot see it."""
    figure: Figure
    header: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]
    """The numbers that are drawn."""


def score_by_task(runs: Sequence[Run]) -> Drawn | None:
    """Scores with intervals, a line of marks per task; runs stand below each other in it."""
    if not runs:
        return None
    tasks = list(dict.fromkeys(task for run in runs for task in run.scores["tasks"]))
    series = {
        run.label: {
            name: block["score"] for name, block in [("overall", run.scores["overall"]), *run.scores["tasks"].items()]
        }
        for run in runs
    }
    figure, rows = estimates_by_line(series, ["overall", *tasks], "score (share of right images)")
    worlds = " and ".join(dict.fromkeys(str(run.scores["world"]) for run in runs))
    return Drawn(
        name="score-by-task",
        title="Score by task",
        text=f"Share of right images with 95 % intervals, overall and by task ({worlds}).",
        figure=figure,
        header=("run", "task", "score", "low", "high", "images"),
        rows=rows,
    )


_ATOMS = re.compile(r"(\d+)_atoms")


def score_by_atoms(runs: Sequence[Run]) -> Drawn | None:
    """Scores of GenEval 2's icon edition against the number of atoms of a prompt; a line with its band per run."""
    of_runs = {run.label: _by_atoms(run.scores["tasks"]) for run in runs}
    if not all(of_runs.values()):
        return None
    measures = {"score": "share of images with all atoms right", "am": "share of right answers"}
    figure = style.figure(style.PAGE_IN, 2.6 + 0.15 * len(runs))
    rows: list[tuple[object, ...]] = []
    for axes, (measure, title) in zip(figure.subplots(1, len(measures), sharey=True), measures.items(), strict=True):
        for number, (label, blocks) in enumerate(of_runs.items()):
            estimates = [block["score"] if measure == "score" else block["values"][measure] for _, block in blocks]
            atoms, values = [atoms for atoms, _ in blocks], [each["value"] for each in estimates]
            low, high = ([end_of(each, end) for each in estimates] for end in ("low", "high"))
            mark = _mark(number)
            axes.fill_between(atoms, low, high, color=mark["color"], alpha=0.15, linewidth=0)
            axes.plot(atoms, values, **mark, label=style.words(label, 40, 1) if measure == "score" else None)
            rows += zip([label] * len(atoms), [measure] * len(atoms), atoms, values, low, high, strict=True)
        axes.set(xlabel="atoms of the prompt", title=title, ylim=(-0.02, 1.02))
        axes.grid()
    figure.legend(loc="outside lower left", ncols=len(runs))
    return Drawn(
        name="score-by-atoms",
        title="Score against the number of atoms",
        text="Share of images that have every atom of their prompt right, and share of right answers, against the "
        "number of atoms; the bands are 95 % intervals.",
        figure=figure,
        header=("run", "measure", "atoms", "value", "low", "high"),
        rows=tuple(rows),
    )


def _by_atoms(tasks: Mapping[str, Any]) -> list[tuple[int, Mapping[str, Any]]]:
    """Blocks of scores by number of atoms; nothing where tasks are others, or one has no score."""
    named = [(_ATOMS.fullmatch(name), block) for name, block in tasks.items()]
    if any(name is None or block["score"]["value"] is None for name, block in named):
        return []
    return [(int(name[1]), block) for name, block in named if name is not None]


def estimates_by_line(
    series: Mapping[str, Mapping[str, dict[str, Any]]], names: Sequence[str], xlabel: str
) -> tuple[Figure, tuple[tuple[object, ...], ...]]:
    """Marks with intervals: a line for each name, the first one set off, and in it a mark for each series.

    Args:
        series: Label -> name -> estimate of scores.json, a share.
        names: The lines from top to bottom.
        xlabel: What the marks are.

    Returns:
        The figure, and (label, name, value, low, high, n) of each mark.
    """
    figure = style.figure(style.COLUMN_IN, 0.75 + len(names) * (0.14 + 0.1 * len(series)) + 0.16 * len(series))
    axes = figure.subplots()
    rows: list[tuple[Any, ...]] = []
    for number, (label, blocks) in enumerate(series.items()):
        estimates = [blocks.get(name) or {} for name in names]
        known = [(i, each) for i, each in enumerate(estimates) if each.get("value") is not None]
        places = [i + (number - (len(series) - 1) / 2) * 0.7 / len(series) for i, _ in known]
        values = np.array([each["value"] for _, each in known])
        below, above = (np.abs(values - [end_of(each, end) for _, each in known]) for end in ("low", "high"))
        axes.errorbar(values, places, xerr=[below, above], **_mark(number), linestyle="none", capsize=2,
                      label=style.words(label, 40, 1))  # fmt: skip
        rows += [(label, names[i], each["value"], each["low"], each["high"], each["n"]) for i, each in known]
    axes.set_yticks(range(len(names)), [style.words(task_title(name), 20) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.axhline(0.5, color=style.GREY, linewidth=0.7)
    lowest = min((float(row[2] if row[3] is None else row[3]) for row in rows), default=0.0)
    start = 0.0 if lowest < 0.5 else math.floor(lowest * 10 - 0.2) / 10
    axes.set_xlim(start - 0.02 * (1 - start), 1 + 0.02 * (1 - start))
    axes.set_xlabel(xlabel)
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
    if len(series) > 1:
        figure.legend(loc="outside lower left", ncols=1)
    return figure, tuple(rows)


def end_of(estimate: Mapping[str, Any], end: str) -> float:
    """The end ``low`` or ``high`` of an interval; the value itself where no interval is known.

    >>> end_of({"value": 0.5, "low": 0.25, "high": 0.75}, "low"), end_of({"value": 0.5, "low": None}, "low")
    (0.25, 0.5)
    """
    return float(estimate["value"] if estimate[end] is None else estimate[end])


def _mark(number: int) -> dict[str, Any]:
    color = style.SERIES[number % len(style.SERIES)]
    return {"color": color, "marker": style.MARKERS[number % len(style.MARKERS)], "markeredgecolor": style.PAPER,
            "markeredgewidth": 0.5}  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- faults
def failure_split(groups: Mapping[str, Sequence[SampleRecord]], name: str, title: str) -> Drawn | None:
    """Bars of wrong and missing images, stacked by the stage that failed.

    Args:
        groups: Label of each bar -> all of its images, right ones included.
        name: For the files.
        title: Above the figure.
    """
    counts = {label: collections.Counter(p.stage for p in samples if p.stage) for label, samples in groups.items()}
    stages = [stage for stage in STAGES if any(count[stage] for count in counts.values())]
    if not stages or set(stages) <= {"no_plan", "untraced"}:
        return None
    totals = {label: len(samples) for label, samples in groups.items()}
    figure = style.figure(style.COLUMN_IN, 0.95 + 0.24 * len(groups))
    axes = figure.subplots()
    left = np.zeros(len(groups))
    for stage in stages:
        shares = np.array([counts[label][stage] / max(totals[label], 1) for label in groups])
        axes.barh(range(len(groups)), shares, left=left, height=0.72, color=style.STAGE_COLORS[stage],
                  edgecolor=style.PAPER, linewidth=0.6, label=STAGES[stage])  # fmt: skip
        left += shares
    reach = max(float(left.max()), 1e-9)
    for place, label in enumerate(groups):
        wrong = sum(counts[label].values())
        axes.text(left[place] + 0.015 * reach, place, f"{wrong:,} of {totals[label]:,}", va="center", fontsize=7)
    axes.set_yticks(range(len(groups)), [style.words(task_title(label), 24, 1) for label in groups])
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.set_xlim(0, reach * 1.3)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}" if reach > 0.08 else f"{value:.1%}")
    axes.set_xticks([tick for tick in style.few_ticks().tick_values(0, reach) if tick <= 1])
    axes.set_xlabel("share of images that are wrong")
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
    figure.legend(loc="outside lower left", ncols=3, handlelength=1.0, columnspacing=1.2)
    return Drawn(
        name=name,
        title=title,
        text="Wrong images by the stage that failed: the plan (or none was written), the drawing of a right plan, or "
        "perhaps the detector, which rejects even an exact drawing of the plan.",
        figure=figure,
        header=("group", *stages, "images"),
        rows=tuple((label, *(counts[label][stage] for stage in stages), totals[label]) for label in groups),
    )


# ------------------------------------------------------------------------------------------------------------- layout
def layout_fit(groups: Mapping[str, Sequence[SampleRecord]], name: str, title: str) -> Drawn | None:
    """How much detected boxes overlap planned ones: the share of planned boxes that reach each IoU."""
    ious = {}
    for label, samples in groups.items():
        fits = [fit for fit in (sample.fit() for sample in samples if sample.outcome in JUDGED) if fit]
        found = np.sort([iou for fit in fits for iou in fit.ious])
        if len(found):
            ious[label] = found
    if not ious:
        return None
    figure = style.figure(style.COLUMN_IN, 2.2 + 0.15 * len(ious))
    axes = figure.subplots()
    rows: list[tuple[object, ...]] = []
    steps = np.linspace(0, 1, 101)
    for number, (label, found) in enumerate(ious.items()):
        reached = 1 - np.searchsorted(found, np.maximum(steps, 1e-9)) / len(found)
        dash = ("-", "--", ":")[number // len(style.SERIES) % 3]
        shown = f"{style.words(task_title(label), 24, 1)} ({reached[50]:.2f})"
        axes.plot(steps, reached, color=style.SERIES[number % len(style.SERIES)], linestyle=dash, label=shown)
        rows += [(label, float(step), float(share), len(found)) for step, share in zip(steps, reached, strict=True)]
    axes.axvline(0.5, color=style.GREY, linestyle=":", linewidth=1)
    axes.set(xlim=(0, 1), ylim=(0, 1.03), xlabel="IoU of planned and detected box", ylabel="share of boxes at least so")
    axes.grid()
    columns = 1 if max(len(label) for label in ious) > 15 else 2
    figure.legend(loc="outside lower left", ncols=columns, title="in brackets: share with IoU of 0.5 or more",
                  title_fontsize=7, alignment="left", handlelength=1.6)  # fmt: skip
    return Drawn(
        name=name,
        title=title,
        text="Distribution of the overlap of planned and detected boxes, matched by class: share of planned boxes "
        "that reach each IoU. A box without a detection has IoU 0.",
        figure=figure,
        header=("group", "iou", "share_of_boxes", "boxes"),
        rows=tuple(rows),
    )


# --------------------------------------------------------------------------------------------------------- confusions
def color_confusion(samples: Sequence[SampleRecord], name: str, title: str) -> Drawn | None:
    """Which colour was named for objects whose colour the prompt gives: a row per colour asked for."""
    columns = [*COLORS, "not found"]
    counts = np.zeros((len(COLORS), len(columns)), dtype=int)
    for asked, named in _asked_colors(samples):
        counts[COLORS.index(asked), columns.index(named)] += 1
    if not counts.sum():
        return None
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = style.figure(style.COLUMN_IN, 2.95)
    axes = figure.subplots()
    _shade(axes, shares, counts)
    middles = np.arange(len(columns)) + 0.5
    axes.set_xticks(middles, columns, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(middles[: len(COLORS)], COLORS)
    axes.set_xlabel("named by the encoder")
    axes.set_ylabel("asked for")
    return Drawn(
        name=name,
        title=title,
        text="Objects by the colour that the prompt asks for (rows) and the colour that was named (columns): counts; "
        "shading is the share of the row.",
        figure=figure,
        header=("asked", *columns),
        rows=tuple((color, *map(int, counts[i])) for i, color in enumerate(COLORS)),
    )


def _asked_colors(samples: Sequence[SampleRecord]) -> Iterator[tuple[str, str]]:
    for sample in samples:
        if sample.outcome not in JUDGED:
            continue
        for item in sample.metadata.get("include", ()):
            if item.get("color") not in COLORS:
                continue
            count = int(item.get("count", 1))
            named = [seen.color for seen in sample.seen if seen.name == item.get("class") and seen.color][:count]
            yield from ((item["color"], color) for color in named if color in COLORS)
            yield from [(item["color"], "not found")] * max(0, min(count, 100) - len(named))


def _shade(axes: Axes, shares: NDArray[np.float64], counts: NDArray[np.int_]) -> None:
    """A matrix of rectangles with their counts; empty cells stay empty."""
    import matplotlib

    shades = matplotlib.colormaps[style.SHADES]
    axes.pcolormesh(
        np.where(shares > 0, shares, np.nan), cmap=shades, vmin=0, vmax=1, edgecolors=style.PAPER, linewidth=0.8
    )
    for y, x in zip(*np.nonzero(counts), strict=True):
        axes.text(x + 0.5, y + 0.5, f"{counts[y, x]}", ha="center", va="center", fontsize=6.5,
                  color=style.readable_on(shades(float(shares[y, x]))))  # fmt: skip
    axes.set(xlim=(0, counts.shape[1]), ylim=(counts.shape[0], 0))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_tick_params(length=0)


_SAME_PLACE_IOU = 0.3
_SHOWN_PAIRS = 15


def class_confusion(samples: Sequence[SampleRecord], name: str, title: str) -> Drawn | None:
    """What stands most often where a planned object should stand, if that object was not found."""
    pairs: collections.Counter[tuple[str, str]] = collections.Counter()
    planned: collections.Counter[str] = collections.Counter()
    for sample in samples:
        for wanted, instead in _mistaken(sample):
            planned[wanted] += 1
            if instead is not None:
                pairs[wanted, instead] += 1
    if not pairs:
        return None
    shown = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))[:_SHOWN_PAIRS]
    figure = style.figure(style.COLUMN_IN, 0.65 + 0.2 * len(shown))
    axes = figure.subplots()
    values = [count for _, count in shown]
    colors = [style.GREY if instead == _NOTHING else style.BLUE for (_, instead), _ in shown]
    axes.barh(range(len(shown)), values, height=0.72, color=colors)
    for place, ((wanted, _), count) in enumerate(shown):
        axes.text(count + 0.015 * max(values), place, f"{count} of {planned[wanted]}", va="center", fontsize=7)
    axes.set_yticks(range(len(shown)), [style.words(f"{wanted} → {instead}", 32) for (wanted, instead), _ in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlim(0, max(values) * 1.3)
    axes.xaxis.set_major_locator(style.few_ticks(integer=True))
    axes.set_xlabel("objects not found")
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
    most = f"; the {len(shown)} most frequent pairs of {len(pairs)}" if len(shown) < len(pairs) else ""
    return Drawn(
        name=name,
        title=title,
        text="Planned objects that were not found, and what the detector saw in their place (IoU of 0.3 or more) "
        f"instead{most}.",
        figure=figure,
        header=("planned", "seen_instead", "objects", "planned_objects"),
        rows=tuple((wanted, instead, count, planned[wanted]) for (wanted, instead), count in pairs.most_common()),
    )


_NOTHING = "nothing"


def _mistaken(sample: SampleRecord) -> Iterator[tuple[str, str | None]]:
    """Each planned object and what stands in its place instead; None where it was found."""
    if not sample.has_plan or not sample.width:
        return
    wanted = as_detections(sample.planned, sample.width, sample.height)
    for item in wanted:
        overlaps = [(iou(item.box_xyxy_px, seen.box_xyxy_px), seen.name) for seen in sample.seen]
        there = [one for one in overlaps if one[0] >= _SAME_PLACE_IOU]
        if any(name == item.name for _, name in there):
            yield item.name, None
        else:
            yield item.name, max(there, key=operator.itemgetter(0), default=(0.0, _NOTHING))[1]
