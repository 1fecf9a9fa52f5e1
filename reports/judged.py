"""Tables of judged benchmarks: one for each edition, wording and judge, because no two of these share a column.

What others report of the same edition stands above the runs as rows of its own, with who judged it; in what a run
differs is said below.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from evals.core.records import UserError
from evals.core.vocabulary import task_title
from evals.judged import reported as others
from evals.judged.records import Reported
from reports import tables
from reports.escape import file_name
from reports.names import in_words, settings_of
from reports.tables import Cell, Column, Row, Table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from reports.frames import Run
    from reports.published import Rows

_SAID = ("judge", "wording", "reading", "script", "anomaly_question")
"""Settings that a caption says: the judge, whose wording it is asked in, and what an edition's name tells."""


def judged_table(runs: Sequence[Run], reported: Rows = None) -> Table:
    """Judged runs of one edition, wording and judge, each with its floor, below what others report of the edition.

    Args:
        runs: Finished runs, in the order of their rows.
        reported: Models whose reported rows are shown; None shows the best ones.

    Raises:
        UserError: They are of several.
    """
    runs = _called(runs)
    kinds = sorted({run.judged_as or "no judge" for run in runs})
    if len(kinds) > 1:
        raise UserError(f"numbers of {' and '.join(kinds)} share no table: editions, wordings and judges differ")
    names: Mapping[str, Any] = runs[0].scores["metrics"]["names"]
    tasks = list(dict.fromkeys(task for run in runs for task in run.scores["metrics"]["tasks"]))
    levels = list(dict.fromkeys(level for run in runs for level in run.scores["metrics"].get("levels", ())))
    first = next(iter(names))
    beside = _beside(runs[0], reported)
    whose = "published" if runs[0].scores["wording"] == "published" else "our"
    judge = others.judge_of(runs[0].scores)
    asked = Cell(text=f"{judge}, {whose} wording")
    rows = [_reported(row, [*names, *tasks, *levels]) for row in others.shown(beside)]
    for run in runs:
        metrics, shown = run.scores["metrics"], run.scores["judge"]["headline"]
        cells = [_cell(metrics["all"][name] if shown or name != first else None, how) for name, how in names.items()]
        groups = {**metrics["tasks"], **metrics.get("levels", {})}
        cells += [_cell(groups.get(group, {}).get(first), names[first]) for group in (*tasks, *levels)]
        counts = [Cell(value=metrics["all"][first]["n"]), Cell(value=metrics["all"][first]["missing"])]
        rows.append(Row(label=run.label, images=run.images, cells=(asked, *cells, *counts)))
        # A floor is the best of nothing, of two floors neither.
        floor = [_cell(metrics["floor"][name], how, basis=f"floor of {run.path}") for name, how in names.items()]
        count = Cell(value=next(iter(metrics["floor"].values()))["n"])
        cells = [asked, *floor, *[Cell()] * len([*tasks, *levels]), count, Cell()]
        rows.append(Row(label=f"{run.label}, floor", images=run.images, cells=tuple(cells)))
    columns = [Column(key=file_name(name, set()), title=name, digits=how["digits"]) for name, how in names.items()]
    columns += [Column(key=task, title=task_title(task), digits=names[first]["digits"]) for task in (*tasks, *levels)]
    columns = [
        dataclasses.replace(column, reported_digits=_digits(beside, name))
        for column, name in zip(columns, [*names, *tasks, *levels], strict=True)
    ]
    columns += [Column(key=key, title=key, best=None, digits=0) for key in ("n", "missing")]
    if any(row.reported for row in rows):  # else all rows have one, which stands in the caption
        columns.insert(0, Column(key="judge", title="judge", best=None))
    else:
        rows = [dataclasses.replace(row, cells=row.cells[1:]) for row in rows]
    edition = str(runs[0].scores.get("edition", ""))
    unit, means = others.unit_of(runs[0].scores), others.means(runs[0].scores)
    return Table(
        name=file_name(f"{runs[0].scores['suite']} {edition} {judge}", set()),
        caption=f"{runs[0].scores['title']}, edition {edition}, judged by {judge} in {whose} wording; columns of tasks "
        f"show {first}.",
        columns=tuple(columns),
        rows=tuple(rows),
        notes=(
            f"{means[0].upper()}{means[1:]}. 95 % intervals of shares: {runs[0].scores['intervals']}; else bootstrap.",
            f"Floor: the untouched source, or a blank image, of some {unit} of each task.",
            *_about(beside, runs),
            *_rewritten(runs),
            *(
                f"{run.label} has no headline: {why}; {others.ALL_THE_SAME}."
                for run in runs
                if (why := others.no_headline(run.scores))
            ),
            *(f"{run.label}: {number} × {cause}." for run in runs for cause, number in _failed(run)),
        ),
        origins=tuple(tables.run_notes(runs)),
    )


def _called(runs: Sequence[Run]) -> list[Run]:
    """The runs, called without what the table's caption says of all of them, where that still tells them apart."""
    told = [settings_of(run.spec) for run in runs]
    said = [{in_words(key, settings[key]) for key in _SAID if key in settings} for settings in told]
    of_all = "|".join(map(re.escape, sorted(set.intersection(*said)))) or "(?!)"
    labels = [re.sub(rf", ({of_all})(?=, | \(|$)", "", run.label) for run in runs]
    if len(set(labels)) < len(runs):
        return list(runs)
    return [dataclasses.replace(run, label=label) for run, label in zip(runs, labels, strict=True)]


def _beside(run: Run, reported: Rows) -> list[Reported]:
    """What others report of a run's edition, as the run has it; an older one has nothing."""
    rows = [Reported(**row) for row in run.scores.get("reported", ())]
    return [row for row in rows if reported is None or row.model in reported]


def _reported(row: Reported, names: Sequence[str]) -> Row:
    values = [Cell(value=float(row.cells[name]), basis=row.judge) if name in row.cells else Cell() for name in names]
    images = ", ".join(filter(None, (tables.PHOTOGRAPHS, row.apart)))
    cells = (Cell(text=row.judge), *values, Cell(), Cell())
    return Row(label=row.model, images=images, cells=cells, reported=True)


def _digits(rows: Sequence[Reported], name: str) -> int:
    """As many as the sources print."""
    return max((len(row.cells[name].partition(".")[2]) for row in rows if name in row.cells), default=2)


def _about(rows: Sequence[Reported], runs: Sequence[Run]) -> Iterator[str]:
    """What rows of others are, which of them do not follow from their parts, and which runs compare with none."""
    if not rows:
        return
    which = f", {left}" if (left := others.left_out(rows)) else ""
    editions = ", ".join(dict.fromkeys(row.edition for row in rows))
    yield f"† as reported by others of {editions}, not measured here{which}."
    yield from (f"{row.model} †: {row.note}, not its {row.value}." for row in others.shown(rows) if row.note)
    said: dict[str, list[str]] = {}
    for run in runs:
        said.setdefault("; ".join(others.differs(run.scores, rows)), []).append(run.label)
    yield from (f"{', '.join(labels)} and † do not compare: {words}." for words, labels in said.items() if words)


def _rewritten(runs: Sequence[Run]) -> Iterator[str]:
    """Which runs drew from other prompts than the benchmark's."""
    for run in runs:
        if path := run.scores.get("rewritten_from"):
            yield f"{run.label}: drawn from rewritten prompts ({PurePath(path).name}), judged by the original ones."


def _failed(run: Run) -> list[tuple[str, int]]:
    return list(run.scores["judge"]["failed"].items())


def _cell(block: dict[str, Any] | None, how: dict[str, Any], basis: str = "") -> Cell:
    if not block:
        return Cell()
    value, low, high = (
        None if block.get(end) is None else block[end] * how["times"] for end in ("value", "low", "high")
    )
    return Cell(value=value, low=low, high=high, basis=basis)
