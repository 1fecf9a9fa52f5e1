"""Editing runs as tables and figures: the paper's Table 2, and what a detector says of edits of the icon world."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

from evals.metrics import images, statements
from reports import tables
from reports.published import METRICS, Rows, published
from reports.run_figures import Drawn, estimates_by_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reports.frames import Run

_EDITING = (
    tables.Column(key="emu_edit_clip_i", title="Emu-Edit CLIP-I", reported_digits=3),
    tables.Column(key="emu_edit_clip_t", title="Emu-Edit CLIP-T", reported_digits=3),
    tables.Column(key="imagenhub_judge", title="ImagenHub judge", reported_digits=3),
    tables.Column(key="reason_edit_judge", title="Reason-Edit judge", reported_digits=3),
)


def editing_table(runs: Sequence[Run], only: Rows = None) -> tables.Table | None:
    """The paper's Table 2 with runs of the editing suites below; None where none has a number for it.

    A measured number stands under the metric that it is; the encoder or judge it was made with is part of its row,
    since scores of two encoders or two judges do not compare. A judge that does not follow the paper's protocol has a
    column of its own.

    Args:
        runs: Finished runs of the editing suites.
        only: Which of the paper's rows.
    """
    paper = published("editing", only)
    columns = [*_EDITING, *_judge_columns(runs)]
    blank = (tables.Cell(),) * (len(columns) - len(_EDITING))
    keys = [column.key for column in _EDITING]
    reported = (tables.reported_row(method, line, keys) for method, line in paper.items())
    rows = [dataclasses.replace(row, cells=(*row.cells, *blank)) for row in reported]
    measured = [row for run in runs for row in _editing_rows(run, columns)]
    if not measured:
        return None
    rows += measured
    return tables.Table(
        name="editing",
        caption="Image editing: CLIP similarities on Emu-Edit, and a judge's scores on ImagenHub and Reason-Edit.",
        columns=tuple(columns),
        rows=tuple(rows),
        notes=(
            *tables.marks(rows, "Table 2", tables.measured_note("source image", [])),
            "Behind the comma of a row: what measured it, an encoder of CLIP or a judge.",
            *_editing_notes(runs),
        ),
        origins=tuple(tables.run_notes(runs)),
    )


_PROTOCOLS = ("got", "got-verbatim")
"""The paper's: what has to stand in front of the ``@`` in a judge's name."""


def _judged(run: Run) -> dict[str, Any] | None:
    """A run's judge. One that failed too often is none here: its mean over what is left would flatter or shame."""
    judge = run.scores["overall"]["judge"]
    there = judge and judge["headline"] is not None and (run.scores["suite"], "judge") in METRICS
    return dict(judge) if there else None


def _judge_key(run: Run, judge: dict[str, Any]) -> str:
    """The column of a judge's scores."""
    protocol = judge["judge"].partition("@")[0]
    key = METRICS[run.scores["suite"], "judge"]
    return key if protocol in _PROTOCOLS else f"{key}_{protocol}"


def _judge_columns(runs: Sequence[Run]) -> list[tables.Column]:
    """Columns beside the paper's: a suite's judges by other protocols."""
    known = {column.key: column for column in _EDITING}
    for run in runs:
        judge = _judged(run)
        if judge is not None:
            protocol, key = judge["judge"].partition("@")[0], _judge_key(run, judge)
            title = f"{known[METRICS[run.scores['suite'], 'judge']].title} ({protocol})"
            known.setdefault(key, tables.Column(key=key, title=title))
    return list(known.values())[len(_EDITING) :]


def _editing_rows(run: Run, columns: Sequence[tables.Column]) -> list[tables.Row]:
    """A row for each encoder (``clip_t@ViT-B-32`` is CLIP-T by ViT-B-32) or judge."""
    overall, suite, data = run.scores["overall"], run.scores["suite"], run.scores.get("data") or {}
    found: dict[str, dict[str, tables.Cell]] = {}
    # Older runs describe the whole set, of which they may have run a part: hence the number of images, too.
    of_data = [data.get(name) for name in ("name", "variant", "ids_sha256")]
    cases = [*of_data, overall["images"] + overall.get("missing", 0)]
    for name, block in overall["metrics"].items():
        metric, _, encoder = name.partition("@")
        if (suite, metric) in METRICS:
            cell = tables.estimate(block, json.dumps([*cases, encoder]))
            found.setdefault(encoder, {})[METRICS[suite, metric]] = cell
    judge = _judged(run)
    if judge is not None:
        cell = tables.estimate(judge["score"], json.dumps([*cases, judge["judge"]]))
        found.setdefault(judge["judge"], {})[_judge_key(run, judge)] = cell
    rows = []
    for tool, cells in found.items():
        ordered = tuple(cells.get(column.key, tables.Cell()) for column in columns)
        rows.append(tables.Row(label=f"{run.label}, {tool}", images=run.images, cells=ordered))
    return rows


def _editing_notes(runs: Sequence[Run]) -> list[str]:
    """What the same encoder makes of the untouched source and of the true target; judgements that failed."""
    notes = []
    for run in runs:
        overall, suite = run.scores["overall"], run.scores["suite"]
        for name, block in overall["metrics"].items():
            ends = [
                (what, block.get(key)) for what, key in (("untouched source", "identity"), ("true target", "target"))
            ]
            known = ", ".join(f"{what} {value:.3f}" for what, value in ends if value is not None)
            if known and (suite, name.partition("@")[0]) in METRICS:
                notes.append(f"{run.label}, {name}: {known}.")
        shown = [
            (name, block) for name, block in overall["metrics"].items() if (suite, name.partition("@")[0]) in METRICS
        ]
        shown += [(judge["judge"], judge["score"])] if (judge := _judged(run)) else []
        notes += [f"{run.label}: {words}." for words in statements.no_intervals(shown)]
        notes += _failed_judgements(run)
    return notes


def _failed_judgements(run: Run) -> list[str]:
    judge = run.scores["overall"]["judge"] or {}
    failed = sum((judge.get("failed") or {}).values())
    if not failed:
        return []
    low, high = judge["bounds"]
    said = f"{failed:,} judgements failed; with them the score lies between {low:.3f} and {high:.3f}"
    return [f"{run.label}, {judge['judge']}: {said}."]


# ------------------------------------------------------------------------------------------------------------ measured
_MEASURED = ("edit done", "rest untouched", "both")


def is_measured(run: Run) -> bool:
    """Whether a detector said of this run's edits whether they are done."""
    return bool(run.scores["overall"].get("measured"))


def measured_table(runs: Sequence[Run]) -> tables.Table:
    """Edits done, the rest untouched, both, and plans right; a row per run, between its floor and its ceiling.

    Args:
        runs: Finished runs for which `is_measured`.
    """
    rows, notes = [], []
    for run in runs:
        found = run.scores["overall"]["measured"]
        title = f"{run.scores['title']}: {run.label}"
        shares = [tables.estimate(found["shares"][name]) for name in _MEASURED]
        rows.append(
            tables.Row(label=title, images=run.images, cells=(*shares, tables.Cell(value=found["plans_right"])))
        )
        ends = []
        for what, side in (("untouched source", "identity"), ("true target", "target")):
            values = ", ".join(f"{name} {found['shares'][name][side]:.3f}" for name in _MEASURED)
            ends.append(f"{what} {values}")
        notes.append(f"{title}: {'; '.join(ends)}.")
    return tables.Table(
        name="edits-measured",
        caption="Edits that a detector finds done with everything else unmoved and uncoloured; plans that are right.",
        columns=tuple(
            tables.Column(key=name.replace(" ", "_"), title=name, best=None) for name in (*_MEASURED, "plans right")
        ),
        rows=tuple(rows),
        notes=(tables.measured_note("source image", [run.scores for run in runs]), *notes),
        origins=tuple(tables.run_notes(runs)),
    )


def metrics_table(runs: Sequence[Run], name: str) -> tables.Table:
    """Every metric of CLIP, DINO and pixels of runs of one suite: a row per metric, with what it means below.

    Args:
        runs: Finished runs of one editing suite.
        name: For its files.
    """
    blocks = [run.scores["overall"]["metrics"] for run in runs]
    names = list(dict.fromkeys(metric for block in blocks for metric in block))
    world = " and ".join(dict.fromkeys(run.images for run in runs))
    ends = {"identity": "untouched source", "target": "true target"}
    rows = []
    for metric in names:
        found = [block.get(metric, {}) for block in blocks]
        # Runs of other cases have other ends: then there is none to show.
        known = [{one.get(end) for one in found if one} for end in ends]
        shown = (tables.Cell(value=next(iter(values))) if len(values) == 1 else tables.Cell() for values in known)
        cells = (*map(tables.estimate, found), *shown)
        rows.append(tables.Row(label=f"{metric} {images.arrow(metric)}", images=world, cells=cells))
    every = [(metric, block[metric]) for metric in names for block in blocks if metric in block]
    return tables.Table(
        name=name,
        caption=f"{runs[0].scores['title']}: what changed and what did not, in embeddings and pixels.",
        columns=tuple(
            tables.Column(key=key, title=title, best=None)
            for key, title in [*((run.label, run.label) for run in runs), *ends.items()]
        ),
        rows=tuple(rows),
        notes=(
            *images.meanings(names),
            tables.measured_note("source image", []),
            *(f"{words}." for words in statements.no_intervals(every)),
            *(note for run in runs for note in _failed_judgements(run)),
        ),
        origins=tuple(tables.run_notes(runs)),
    )


def by_category(run: Run) -> Drawn:
    """Done, untouched and both, by kind of edit."""
    blocks = {"all": run.scores["overall"], **run.scores["categories"]}
    series = {
        name: {tag: block["measured"]["shares"][name] for tag, block in blocks.items() if block["measured"]}
        for name in _MEASURED
    }
    figure, rows = estimates_by_line(series, list(blocks), "share of edits")
    return Drawn(
        name="edits",
        title=f"{run.scores['title']}, {run.label}: edits done and rests untouched",
        text=f"Share of edits with 95 % intervals, by kind of edit, as a detector sees them ({run.scores['world']}).",
        figure=figure,
        header=("measure", "kind", "share", "low", "high", "images"),
        rows=rows,
    )
