"""Tables of judged benchmarks: one for each edition, wording and judge, because no two of these share a column."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evals.core.records import UserError
from evals.core.vocabulary import task_title
from reports import tables
from reports.escape import file_name
from reports.tables import Cell, Column, Row, Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reports.frames import Run


def judged_table(runs: Sequence[Run]) -> Table:
    """Judged runs of one edition, wording and judge, each with its floor.

    Raises:
        UserError: They are of several.
    """
    kinds = sorted({run.judged_as or "no judge" for run in runs})
    if len(kinds) > 1:
        raise UserError(f"numbers of {' and '.join(kinds)} share no table: editions, wordings and judges differ")
    names: dict[str, Any] = runs[0].scores["metrics"]["names"]
    tasks = list(dict.fromkeys(task for run in runs for task in run.scores["metrics"]["tasks"]))
    first = next(iter(names))
    rows = []
    for run in runs:
        metrics, shown = run.scores["metrics"], run.scores["judge"]["headline"]
        cells = [_cell(metrics["all"][name] if shown or name != first else None, how) for name, how in names.items()]
        cells += [_cell(metrics["tasks"].get(task, {}).get(first), names[first]) for task in tasks]
        counts = [Cell(value=metrics["all"][first]["n"]), Cell(value=metrics["all"][first]["missing"])]
        rows.append(Row(label=run.label, images=run.images, cells=(*cells, *counts)))
        floor = [_cell(metrics["floor"][name], how) for name, how in names.items()]
        count = Cell(value=next(iter(metrics["floor"].values()))["n"])
        rows.append(
            Row(label=f"{run.label}, floor", images=run.images, cells=(*floor, *[Cell()] * len(tasks), count, Cell()))
        )
    columns = [Column(key=file_name(name, set()), title=name, digits=how["digits"]) for name, how in names.items()]
    columns += [Column(key=task, title=task_title(task), digits=names[first]["digits"]) for task in tasks]
    columns += [Column(key=key, title=key, best=None, digits=0) for key in ("images", "missing")]
    edition, _, judge = runs[0].judged_as.partition(" by ")
    by_tasks = [name for name, how in names.items() if how["over"] == "tasks"]
    means = (
        f"{', '.join(by_tasks)}: plain mean of the tasks; all others: of the cases." if by_tasks else "Means of cases."
    )
    return Table(
        name=file_name(f"{runs[0].scores['suite']} {edition} {judge}", set()),
        caption=f"{runs[0].scores['title']}, edition {edition}, judged by {judge}; tasks: {first}.",
        columns=tuple(columns),
        rows=tuple(rows),
        notes=(
            f"{means} 95 % intervals of shares: {runs[0].scores['intervals']}; else bootstrap.",
            "Floor: the untouched source, or a blank image, of some cases of each task.",
            *(f"{run.label}: {number} × {cause}." for run in runs for cause, number in _failed(run)),
        ),
        origins=tuple(tables.run_notes(runs)),
    )


def _failed(run: Run) -> list[tuple[str, int]]:
    return list(run.scores["judge"]["failed"].items())


def _cell(block: dict[str, Any] | None, how: dict[str, Any]) -> Cell:
    if not block:
        return Cell()
    value, low, high = (
        None if block.get(end) is None else block[end] * how["times"] for end in ("value", "low", "high")
    )
    return Cell(value=value, low=low, high=high)
