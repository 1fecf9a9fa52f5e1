"""GenEval's scores as tables for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evals.core.vocabulary import task_title
from evals.metrics import statements
from evals.suite.tables import interval, number, score_table, table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.table import Table


def tables(scores: Mapping[str, Any]) -> list[Table]:
    """The scores; if any image had a plan, also where wrong images went wrong and how drawings keep to their plans."""
    if not scores["overall"]["plan"]["n"]:
        return [score_table(scores, "GenEval")]
    return [score_table(scores, "GenEval"), _fault_table(scores), _layout_table(scores)]


_FAULTS = {
    "plan_wrong": ("plan", "plan: its own boxes, taken as detections, fail the prompt"),
    "drawing_wrong": ("drawing", "drawing: the plan is right, the image is not"),
    "detector_doubt": ("detector\ndoubt", "detector doubt: even an exact drawing of the plan fails"),
    "unchecked": ("unchecked", "unchecked: the plan is right, and no exact drawing of it was looked at"),
    "no_plan": ("no\nplan", "no plan: there is no chain"),
}


def _fault_table(scores: Mapping[str, Any]) -> Table:
    overall = scores["overall"]
    # The last two are rare: a column only where there is something in it.
    shown = [name for index, name in enumerate(_FAULTS) if index < 3 or overall["faults"][name]]
    columns = ["plan\nright ↑", "95 %\ninterval", "wrong\nimages", *(_FAULTS[name][0] for name in shown)]
    columns.append("correct despite\na wrong plan")
    caption = "\n".join(_FAULTS[name][1] for name in shown)
    made = table("Where wrong images went wrong", columns, caption)
    for title, block in _rows(scores):
        faults = block["faults"]
        plan = [number(block["plan"]["value"]), interval(block["plan"])]
        counts = [sum(faults.values()), *(faults[name] for name in shown), block["right_despite_plan"]]
        made.add_row(title, *plan, *(str(count or "·") for count in counts), style=_style(title))
    return made


def _layout_table(scores: Mapping[str, Any]) -> Table:
    measures = {"iou": "box\nIoU ↑", "recall": "recall ↑", "offset": "offset ↓"}
    columns = ["boxes", *(name for title in measures.values() for name in (title, "95 %\ninterval"))]
    caption = "detected against planned boxes, class by class\n"
    caption += "box IoU: 0 where nothing was found; recall: share of boxes with IoU ≥ 0.5\n"
    caption += "offset: distance of the centres as a share of the image's sides"
    named = ((f"{name} ({title})", block["layout"][name]) for title, block in _rows(scores) for name in measures)
    caption += "".join(f"\n{line}" for line in statements.no_intervals(named))
    made = table("How drawings keep to their plans", columns, caption)
    for title, block in _rows(scores):
        cells = [str(block["layout"]["iou"]["n"])]
        for name in measures:
            measure, digits = block["layout"][name], 3 if name == "offset" else 2
            cells += [number(measure["value"], digits), interval(measure, digits)]
        made.add_row(title, *cells, style=_style(title))
    return made


_ALL = "all images"


def _rows(scores: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return [*((task_title(tag), block) for tag, block in scores["tasks"].items()), (_ALL, scores["overall"])]


def _style(title: str) -> str | None:
    return "bold" if title == _ALL else None
