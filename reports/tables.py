"""Paper-style tables: published rows first, then runs; a column says which images a row was measured on."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from evals.records import UserError
from evals.vocabulary import TASKS
from reports.published import published

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd

    from reports.frames import Run

COLUMNS = ("overall", *TASKS)


def geneval_table(runs: Sequence[Run]) -> pd.DataFrame:
    """GenEval scores of the paper's methods and of runs.

    Args:
        runs: Finished GenEval runs, in the order of their rows.

    Returns:
        A row per method. `images` tells icon world and photographs apart: their numbers do not compare. Each score
        has a column `NAME`, and for runs the ends of its 95 % interval in `NAME_low` and `NAME_high`; `n` counts
        scored images. What a source does not give is NaN.
    """
    import pandas as pd

    paper = published("geneval").reset_index()
    paper.insert(1, "images", "photographs (published)")
    return pd.concat([paper, pd.DataFrame([_row(run) for run in runs])], ignore_index=True)


def _row(run: Run) -> dict[str, object]:
    if run.scores.get("suite") != "geneval":
        raise UserError(f"{run.path} is a run of suite {run.scores.get('suite')!r}; this table shows 'geneval'")
    blocks = {"overall": run.scores["overall"], **run.scores["tasks"]}
    row: dict[str, object] = {
        "method": f"{run.scores['model']} ({run.path.name})",
        "images": run.scores["world"],
        "n": run.scores["overall"]["score"]["n"],
    }
    for column in COLUMNS:
        score = blocks[column]["score"] if column in blocks else {}
        for name, key in ((column, "value"), (f"{column}_low", "low"), (f"{column}_high", "high")):
            row[name] = math.nan if score.get(key) is None else score[key]
    return row


def as_cells(table: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Header and rows as text; an interval follows its score."""
    header = ["method", "images", *(column.replace("_", " ") for column in COLUMNS), "n"]
    rows = []
    for record in table.to_dict("records"):
        cells = [str(record["method"]), str(record["images"])]
        cells += [_score(*(record.get(f"{column}{end}") for end in ("", "_low", "_high"))) for column in COLUMNS]
        rows.append([*cells, _number(record.get("n"), "{:.0f}")])
    return header, rows


def _score(value: float | None, low: float | None, high: float | None) -> str:
    """A score with its interval, or a dash.

    >>> _score(0.825, 0.8, 0.85), _score(0.64, None, None), _score(None, None, None)
    ('0.82 (0.80-0.85)', '0.64', '-')
    """
    ends = "" if _missing(low) else f" ({low:.2f}-{high:.2f})"
    return _number(value, "{:.2f}") + ends


def _number(value: float | None, form: str) -> str:
    return "-" if _missing(value) else form.format(value)


def _missing(value: float | None) -> bool:
    return value is None or value != value  # NaN is the one number that differs from itself


def to_markdown(table: pd.DataFrame) -> str:
    """The table for a README or an issue tracker."""
    header, rows = as_cells(table)
    rule = ["---", "---", *["---:"] * (len(header) - 2)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows)) + "\n"


def to_latex(table: pd.DataFrame) -> str:
    """The table for a paper; needs the booktabs package."""
    header, rows = as_cells(table)
    lines = [f"{' & '.join(row)} \\\\".replace("_", r"\_").replace("%", r"\%") for row in (header, *rows)]
    columns = "ll" + "r" * (len(header) - 2)
    body = "\n".join(lines[1:])
    return (
        f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n{lines[0]}\n\\midrule\n{body}\n\\bottomrule\n\\end{{tabular}}\n"
    )


def to_text(table: pd.DataFrame) -> str:
    """The table for a terminal: aligned columns, a rule between sources of images."""
    header, rows = as_cells(table)
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    rule = "  ".join("-" * width for width in widths)

    def line(row: list[str]) -> str:
        text = [
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(text).rstrip()

    lines = [line(header), rule]
    for before, row in zip([None, *rows[:-1]], rows, strict=True):
        if before is not None and before[1] != row[1]:
            lines.append(rule)
        lines.append(line(row))
    return "\n".join(lines) + "\n"


def to_csv(table: pd.DataFrame) -> str:
    """The table for a program: every number unrounded, intervals in columns of their own."""
    return str(table.to_csv(index=False))


FORMATS: dict[str, Callable[[pd.DataFrame], str]] = {
    "text": to_text,
    "markdown": to_markdown,
    "latex": to_latex,
    "csv": to_csv,
}
