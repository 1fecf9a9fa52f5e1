"""Tables of suites that this package knows nothing of: their scores by task, and what they measure by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evals.core.vocabulary import task_title
from reports import editing, judged, tables
from reports.escape import file_name
from reports.published import Rows
from reports.tables import Cell, Column, Row, Table, estimate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reports.frames import Run


def is_plain(run: Run) -> bool:
    """Whether a run's scores have the form that `evals.suite.Suite` gives them, and no table of their own here."""
    overall = run.scores.get("overall") or {}
    return run.scores.get("suite") != "geneval" and "tasks" in run.scores and "score" in overall


def table_of(runs: Sequence[Run], reported: Rows = None) -> Table:
    """The table of some runs: GenEval's, that of measured edits, or a plain one of one suite.

    Raises:
        UserError: They are of several suites, or of one whose scores have another form.
    """
    suites = {run.scores.get("suite") for run in runs}
    if any(run.judged_as for run in runs):
        return judged.judged_table(runs, reported)
    if all(editing.is_measured(run) for run in runs):
        return editing.measured_table(runs)
    return plain_table(runs) if len(suites) == 1 and all(map(is_plain, runs)) else tables.geneval_table(runs, reported)


def plain_table(runs: Sequence[Run]) -> Table:
    """Scores of runs of one suite, in the order of their rows."""
    tasks = list(dict.fromkeys(task for run in runs for task in run.scores["tasks"]))
    values = list(dict.fromkeys(name for run in runs for name in run.scores["overall"].get("values", ())))
    rows = []
    for run in runs:
        overall, blocks = run.scores["overall"], run.scores["tasks"]
        cells = [estimate(overall["score"]), *(estimate((blocks.get(task) or {}).get("score")) for task in tasks)]
        cells += [estimate(overall.get("values", {}).get(name)) for name in values]
        rows.append(Row(label=run.label, images=run.images, cells=(*cells, Cell(value=overall["score"]["n"]))))
    columns = [Column(key=name, title=task_title(name)) for name in ("overall", *tasks)]
    columns += [Column(key=file_name(name, set()), title=name, best=None) for name in values]
    return Table(
        name=file_name(str(runs[0].scores["suite"]), set()),
        caption=f"{title_of(runs[0])}: share of right images; overall is the mean of the tasks.",
        columns=(*columns, Column(key="n", title="n", best=None, digits=0)),
        rows=tuple(rows),
        notes=(
            *tables.marks(rows, "", tables.measured_note("prompt", [run.scores for run in runs])),
            *([f"{', '.join(values)}: {tables.measured_note('prompt', [])}"] if values else []),
        ),
        origins=tuple(tables.run_notes(runs)),
    )


def title_of(run: Run) -> str:
    """What a run's suite is called."""
    return str(run.scores.get("title") or run.scores.get("suite"))
