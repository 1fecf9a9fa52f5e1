"""Figures of ablations over settings: curves over one, maps over two, and the score against the time that it costs."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from reports import style
from reports.run_figures import Drawn, end_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reports.frames import Ablation, Cell


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Varied:
    """The settings that differ between the cells of a grid of settings."""

    numbers: dict[str, list[float]]
    """Flags with numbers -> their values in order."""
    words: dict[str, list[str]]
    """Flags with words, such as a sampler -> their values, as the cells have them first."""

    def __bool__(self) -> bool:
        return bool(self.numbers or self.words)

    def label(self, cell: Cell) -> str:
        """The cell's values of these settings, words first."""
        values = [cell.settings[key] for key in self.words]
        return " / ".join([*values, *(f"{float(cell.settings[key]):g}" for key in self.numbers)])


def settings_of(ablation: Ablation) -> Varied:
    """What varies; nothing if the cells do not all have the same flags."""
    names = sorted({name for cell in ablation.cells for name in cell.settings})
    numbers: dict[str, list[float]] = {}
    words: dict[str, list[str]] = {}
    if not all(name in cell.settings for name in names for cell in ablation.cells):
        return Varied(numbers={}, words={})
    for name in names:
        values = list(dict.fromkeys(cell.settings[name] for cell in ablation.cells))
        if len(values) == 1:
            continue
        try:
            parsed = sorted({float(value) for value in values})
        except ValueError:
            parsed = []
        if parsed and name != "seed":  # nothing lies between two seeds
            numbers[name] = parsed
        else:
            words[name] = values
    return Varied(numbers=numbers, words=words)


def labels(ablation: Ablation) -> tuple[dict[str, str], str]:
    """A short label for each cell, and what a title must add to explain them.

    Returns:
        Name of each cell -> its label: the values of the settings where two or more settings vary, else the name.
        The names of those settings, as in `` (semantic scale / spatial scale)``, or nothing.
    """
    varied = settings_of(ablation)
    keys = [*varied.words, *varied.numbers]
    if len(keys) < 2:
        return {cell.name: cell.name for cell in ablation.cells}, ""
    return {c.name: varied.label(c) for c in ablation.cells}, f" ({' / '.join(key.replace('-', ' ') for key in keys)})"


def over_settings(ablation: Ablation) -> Drawn | None:
    """A curve over one number, one for each word of another setting, a map over two numbers; else None."""
    varied = settings_of(ablation)
    if len(varied.numbers) == 1 and len(varied.words) <= 1:
        name = next(iter(varied.numbers))
        return _curves(
            ablation, varied, [float(cell.settings[name]) for cell in ablation.cells], name.replace("-", " ")
        )
    return _map(ablation, varied.numbers) if len(varied.numbers) == 2 and not varied.words else None


def against_time(ablation: Ablation) -> Drawn | None:
    """Score against the time that an image takes; None where settings are no numbers or a time is not known."""
    varied = settings_of(ablation)
    times = [cell.row["seconds_per_image"] for cell in ablation.cells if cell.row.get("seconds_per_image")]
    if len(varied.numbers) != 1 or len(varied.words) > 1 or len(set(times)) < 2 or len(times) < len(ablation.cells):
        return None
    return _curves(ablation, varied, [float(t) for t in times], "seconds per image", named="time")


def _curves(ablation: Ablation, varied: Varied, x: Sequence[float], what: str, named: str = "curve") -> Drawn:
    """Scores over `x`, one value per cell; a line for each word that varies."""
    key = next(iter(varied.words), None)
    lines: dict[str, list[tuple[float, Cell]]] = {}
    for place, cell in zip(x, ablation.cells, strict=True):
        lines.setdefault("" if key is None else cell.settings[key], []).append((place, cell))
    figure = style.figure(style.COLUMN_IN, 2.2 if key is None else 2.6)
    axes = figure.subplots()
    rows: list[tuple[object, ...]] = []
    for number, (label, points) in enumerate(lines.items()):
        points.sort(key=lambda point: point[0])
        color, marker = style.SERIES[number % len(style.SERIES)], style.MARKERS[number % len(style.MARKERS)]
        places, scores = [place for place, _ in points], [cell.row["overall"] for _, cell in points]
        if key is None:
            low, high = ([end_of(score, end) for score in scores] for end in ("low", "high"))
            axes.fill_between(places, low, high, color=color, alpha=0.2, linewidth=0)
        under = len(lines) - 1 - number  # lines of equal scores lie within each other, the later ones narrower
        axes.plot(
            places,
            [score["value"] for score in scores],
            color=color,
            marker=marker,
            linewidth=1.4 + 0.9 * under,
            markersize=4.5 + 1.6 * under,
            markeredgecolor=style.PAPER,
            label=style.words(label, 24, 1),
        )
        rows += [
            (*([label] if key else []), varied.label(cell), place, *(cell.row["overall"][k] for k in _SCORE))
            for place, cell in points
        ]
    if key is not None:
        axes.legend(title=key.replace("-", " "), loc="lower right", title_fontsize=7.5)
    axes.set_xlabel(style.words(what, 40))
    axes.set_ylabel("overall score")
    if named == "curve":
        axes.set_xticks(sorted(set(x)))
    lowest = min(end_of(cell.row["overall"], "low" if key is None else "value") for cell in ablation.cells)
    bottom = max(0.0, np.floor(lowest * 10 - 0.5) / 10)
    axes.set_ylim(bottom, 1 + 0.03 * (1 - bottom))
    axes.set_xlim(left=0)
    axes.grid()
    band = "the band is the 95 % interval of each score" if key is None else "intervals are in the table"
    return Drawn(
        name=named,
        title=f"{ablation.name}: score against {what}",
        text=f"Overall score against {what}; {band}.",
        figure=figure,
        header=(*([key] if key else []), "settings", what, *("score", "low", "high")),
        rows=tuple(rows),
    )


_SCORE = ("value", "low", "high")


def _map(ablation: Ablation, axes_values: dict[str, list[float]]) -> Drawn:
    import matplotlib
    from matplotlib.patches import Rectangle

    (across, xs), (up, ys) = axes_values.items()
    scores = np.full((len(ys), len(xs)), np.nan)
    for cell in ablation.cells:
        scores[ys.index(float(cell.settings[up])), xs.index(float(cell.settings[across]))] = cell.row["overall"][
            "value"
        ]
    figure = style.figure(style.COLUMN_IN, 0.9 + 0.42 * len(ys))
    axes = figure.subplots()
    shades = matplotlib.colormaps[style.SHADES]
    low, high = float(np.nanmin(scores)), float(np.nanmax(scores))
    mesh = axes.pcolormesh(scores, cmap=shades, vmin=low, vmax=max(high, low + 1e-6),
                           edgecolors=style.PAPER, linewidth=1.2)  # fmt: skip
    for cell in ablation.cells:
        x, y = xs.index(float(cell.settings[across])), ys.index(float(cell.settings[up]))
        color = style.readable_on(mesh.to_rgba(scores[y, x]))
        axes.text(
            x + 0.5, y + 0.5, f"{scores[y, x]:.3f}{_sign(cell)}", ha="center", va="center", color=color, fontsize=8
        )
    first = ablation.cells[0].settings
    corner = (xs.index(float(first[across])) + 0.06, ys.index(float(first[up])) + 0.06)
    ink = style.readable_on(mesh.to_rgba(ablation.cells[0].row["overall"]["value"]))
    axes.add_patch(Rectangle(corner, 0.88, 0.88, fill=False, edgecolor=ink, linewidth=1.4, linestyle="--"))
    axes.set_xticks(np.arange(len(xs)) + 0.5, [f"{x:g}" for x in xs])
    axes.set_yticks(np.arange(len(ys)) + 0.5, [f"{y:g}" for y in ys])
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.set_xlabel(style.words(across.replace("-", " "), 40))
    axes.set_ylabel(style.words(up.replace("-", " "), 24))
    bar = figure.colorbar(mesh, ax=axes, fraction=0.06, pad=0.03)
    bar.outline.set_visible(False)
    bar.set_label("overall score")
    return Drawn(
        name="map",
        title=f"{ablation.name}: score over two settings",
        text="Overall score for each pair of settings. Dashed: what the others are compared with. "
        "− or +: worse or better than it after Holm's correction; without a sign: not distinguishable.",
        figure=figure,
        header=(across, up, "score", "low", "high", "verdict"),
        rows=tuple(
            (cell.settings[across], cell.settings[up], *(cell.row["overall"][k] for k in ("value", "low", "high")),
             (cell.row["difference"] or {"verdict": "baseline"})["verdict"])
            for cell in ablation.cells
        ),
    )  # fmt: skip


def _sign(cell: Cell) -> str:
    verdict = (cell.row["difference"] or {}).get("verdict")
    return {"worse": "\n−", "better": "\n+"}.get(str(verdict), "")
