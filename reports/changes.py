"""The report on two runs: what changed task by task, and every image whose verdict flipped, side by side."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from evals.core.vocabulary import task_title
from got.util.tables import counted, span
from reports import ablation_figures, compare, style
from reports.page import Browser, Fact, Page, Section, record
from reports.report import Report, origin, saved
from reports.run_figures import Drawn
from reports.samples import JUDGED, load_samples
from reports.thumbnails import Album

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reports.frames import Run
    from reports.samples import SampleRecord

_SHOWN = 6
"""Flips each way in the figure; the page has them all."""


def of_two(before: Run, after: Run) -> Report:
    """The report on a run against an earlier one. Call it inside :func:`reports.style.sheet`.

    Raises:
        UserError: One has no verdicts, or they have no case in common.
    """
    a, b = compare.of_run(before), compare.of_run(after)
    rows = compare.compare(a, b)
    said = [f"{words}." for words in compare.unpaired(a, b).sentences(before.name, after.name)]
    said += [note] if (note := compare.wordings(before, after)) else []
    settings = compare.changed_settings(a, b)
    said.append(compare.sentence(rows, a, b))
    comparison = compare.comparison_table(rows, before.name, after.name, compare.unit(a, b), said, [before, after])
    first, second = ({sample.key: sample for sample in load_samples(run)} for run in (before, after))
    flipped = flips(first, second)
    labels = (f"before: {before.name}", f"after: {after.name}")
    pairs = [(way, [first[key], second[key]]) for way, keys in flipped.items() for key in keys]
    with Album(picture for _, pair in pairs for sample in pair for picture in sample.pictures) as album:
        records = [record(pair, album, 0, way, labels) for way, pair in pairs]
    change, unit = rows[0].difference, compare.unit(a, b)
    figures = [_differences(rows), *(_grid(way, keys, labels, first, second) for way, keys in flipped.items())]
    sections, files = saved(
        [Section(id="tasks", title="Task by task", tables=(comparison,))],
        [("tasks", figure) for figure in figures if figure is not None],
    )
    page = Page(
        title=f"{after.name} against {before.name}",
        lead=f"{settings} {counted(change.cases, unit)} of both, compared one by one. "
        f"Overall: {rows[0].words}.".strip(),
        facts=(
            Fact(
                title="overall difference",
                value=f"{change.value:+z.3f}",
                note=span(change.low, change.high, signed=True),
            ),
            Fact(title="images won", value=f"{len(flipped['won']):,}", note="wrong before, right after"),
            Fact(title="images lost", value=f"{len(flipped['lost']):,}", note="right before, wrong after"),
        ),
        sections=tuple(sections),
        browser=Browser(
            title="Images whose verdict changed",
            lead="Before and after, with planned and detected boxes and the reason. Open one for its chain."
            if records
            else "None.",
            records=records,
            runs=(f"{before.name} → {after.name}",),
            studio=(after.studio,),
        ),
        origins=(origin(before), origin(after)),
    )
    return Report(
        page=page,
        figures=files,
        samples=((before.name, tuple(first.values())), (after.name, tuple(second.values()))),
        album=album,
    )


def flips(before: dict[str, SampleRecord], after: dict[str, SampleRecord]) -> dict[str, list[str]]:
    """Samples (case/index) whose verdict changed: those that were lost, those that were won, in order.

    A sample without a verdict in one of the two is neither.
    """
    both = [key for key in before if key in after and {before[key].outcome, after[key].outcome} <= set(JUDGED)]
    changed = sorted(key for key in both if before[key].outcome != after[key].outcome)
    return {
        "lost": [key for key in changed if after[key].outcome == "wrong"],
        "won": [key for key in changed if after[key].outcome == "right"],
    }


def _grid(
    way: str,
    keys: Sequence[str],
    labels: Sequence[str],
    first: dict[str, SampleRecord],
    second: dict[str, SampleRecord],
) -> Drawn | None:
    """Some of the flips as a figure, spread over all of them."""
    if not keys:
        return None
    chosen = [keys[i * len(keys) // min(_SHOWN, len(keys))] for i in range(min(_SHOWN, len(keys)))]
    columns = dict(zip(labels, (list(first.values()), list(second.values())), strict=True))
    return ablation_figures.image_grid(columns, way, f"{len(chosen)} of {len(keys):,} images {way}", chosen)


def _differences(rows: Sequence[compare.Row]) -> Drawn:
    """Paired differences by task; a filled mark where they are distinguishable."""
    figure = style.figure(style.COLUMN_IN, 0.8 + 0.24 * len(rows))
    axes = figure.subplots()
    for place, row in enumerate(rows):
        change = row.difference
        sure = row.words in {"better", "worse"}
        ablation_figures.difference_mark(axes, place, (change.value, change.low, change.high), sure=sure)
    axes.axhline(0.5, color=style.GREY, linewidth=0.7)
    words = [style.words(task_title(row.task), 20) for row in rows]
    ablation_figures.difference_axes(axes, words, "difference, after minus before")
    return Drawn(
        name="differences",
        title="Differences by task",
        text="Paired differences with 95 % intervals. Filled: better or worse; hollow and grey: not distinguishable.",
        figure=figure,
        header=("task", "before", "after", "difference", "low", "high", "p_value", "verdict"),
        rows=tuple(
            (row.task, row.before, row.after, *dataclasses.astuple(row.difference)[:4], row.words) for row in rows
        ),
    )
