"""GenEval's scores as tables for the terminal."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table

from evals.metrics import statements, statistics

_TITLES = {
    "single_object": "single object",
    "two_object": "two objects",
    "counting": "counting",
    "colors": "colours",
    "position": "position",
    "color_attr": "colour attribution",
}


def tables(scores: dict[str, Any]) -> list[Table]:
    """The scores; if any image had a plan, also where wrong images went wrong and how drawings keep to their plans."""
    if not scores["overall"]["plan"]["n"]:
        return [_score_table(scores)]
    return [_score_table(scores), _fault_table(scores), _layout_table(scores)]


def _score_table(scores: dict[str, Any]) -> Table:
    checkpoint = f" ({scores['checkpoint']})" if scores["checkpoint"] else ""
    columns = ["score ↑", "95 %\ninterval", "images", "prompts", "≥ 1\nright ↑"]
    columns += ["missing", "bounds"] if scores["missing"]["total"] else []
    columns += ["floor", "ceiling"] if scores["reference"] else []
    wording = f" · {scores['wording']}" if scores.get("wording") else ""
    title = f"GenEval, {scores['world']}: {scores['model']}{checkpoint}{wording}"
    table = _table(title, columns, _score_caption(scores))
    for tag, block in scores["tasks"].items():
        table.add_row(_TITLES.get(tag, tag), *_score_cells(block, scores, tag))
    table.add_section()
    table.add_row("mean of tasks", *_score_cells(scores["overall"], scores, "overall"), style="bold")
    pooled = {**scores["overall"], "score": scores["images"], "bounds": None}
    table.add_row("all images", *_score_cells(pooled, scores, "images"))
    return table


def _score_cells(block: dict[str, Any], scores: dict[str, Any], key: str) -> list[str]:
    score = block["score"]
    cells = [_number(score["value"]), _span(score["low"], score["high"])]
    cells += [str(score["n"]), str(score["clusters"]), _number(block["prompts_any"]["value"])]
    if scores["missing"]["total"]:
        cells += [str(block["missing"] or ""), _span(*block["bounds"]) if block["bounds"] else ""]
    if scores["reference"]:
        cells += [_number(scores["reference"][end].get(key)) for end in ("floor", "ceiling")]
    return cells


def _score_caption(scores: dict[str, Any]) -> str:
    lines = [f"detector: {scores['detector']}; intervals: {statistics.method_of(scores)}, clustered by prompt"]
    if scores["reference"]:
        floor, ceiling = (scores["reference"][end]["what"] for end in ("floor", "ceiling"))
        lines.append(f"floor: {floor}; ceiling: {ceiling}")
    if scores["missing"]["total"]:
        causes = list(scores["missing"]["by_cause"].items())
        lines.append("bounds: the score if all missing images were wrong, and if all were right; missing:")
        lines += [f"  {number} × {cause}" for cause, number in causes[:_SHOWN_CAUSES]]
        lines += [f"  and {len(causes) - _SHOWN_CAUSES} more causes"] if len(causes) > _SHOWN_CAUSES else []
        lines += [f"no label for {', '.join(scores['missing']['classes'])}"] if "classes" in scores["missing"] else []
    return "\n".join(lines)


_SHOWN_CAUSES = 8
_FAULTS = {
    "plan_wrong": ("plan", "plan: its own boxes, taken as detections, fail the prompt"),
    "drawing_wrong": ("drawing", "drawing: the plan is right, the image is not"),
    "detector_doubt": ("detector\ndoubt", "detector doubt: even an exact drawing of the plan fails"),
    "unchecked": ("unchecked", "unchecked: the plan is right, and no exact drawing of it was looked at"),
    "no_plan": ("no\nplan", "no plan: there is no chain"),
}


def _fault_table(scores: dict[str, Any]) -> Table:
    overall = scores["overall"]
    # The last two are rare: a column only where there is something in it.
    shown = [name for index, name in enumerate(_FAULTS) if index < 3 or overall["faults"][name]]
    columns = ["plan\nright ↑", "95 %\ninterval", "wrong\nimages", *(_FAULTS[name][0] for name in shown)]
    columns.append("lucky")
    caption = "\n".join([*(_FAULTS[name][1] for name in shown), "lucky: the image is right although its plan is not"])
    table = _table("Where wrong images went wrong", columns, caption)
    for title, block in _rows(scores):
        faults = block["faults"]
        plan = [_number(block["plan"]["value"]), _span(block["plan"]["low"], block["plan"]["high"])]
        counts = [sum(faults.values()), *(faults[name] for name in shown), block["right_despite_plan"]]
        table.add_row(title, *plan, *(str(count or "·") for count in counts), style=_style(title))
    return table


def _layout_table(scores: dict[str, Any]) -> Table:
    measures = {"iou": "box\nIoU ↑", "recall": "recall ↑", "offset": "offset ↓"}
    columns = ["boxes", *(name for title in measures.values() for name in (title, "95 %\ninterval"))]
    caption = "detected against planned boxes, class by class\n"
    caption += "box IoU: 0 where nothing was found; recall: share of boxes with IoU ≥ 0.5\n"
    caption += "offset: distance of the centres as a share of the image's sides"
    named = ((f"{name} ({title})", block["layout"][name]) for title, block in _rows(scores) for name in measures)
    caption += "".join(f"\n{line}" for line in statements.no_intervals(named))
    table = _table("How drawings keep to their plans", columns, caption)
    for title, block in _rows(scores):
        cells = [str(block["layout"]["iou"]["n"])]
        for name in measures:
            measure, digits = block["layout"][name], 3 if name == "offset" else 2
            cells += [_number(measure["value"], digits), _span(measure["low"], measure["high"], digits)]
        table.add_row(title, *cells, style=_style(title))
    return table


_ALL = "all images"


def _rows(scores: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [*((_TITLES.get(tag, tag), block) for tag, block in scores["tasks"].items()), (_ALL, scores["overall"])]


def _style(title: str) -> str | None:
    return "bold" if title == _ALL else None


def _table(title: str, columns: list[str], caption: str) -> Table:
    table = Table(title=title, caption=caption + "\n", box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
    table.title_justify = table.caption_justify = "left"
    table.title_style, table.caption_style = "bold", "dim"
    table.add_column("task", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", style="dim" if name in {"floor", "ceiling"} else None)
    return table


def _number(value: float | None, digits: int = 2) -> str:
    """A score, or a dash where there is none.

    >>> _number(0.8249), _number(None)
    ('0.82', '–')
    """
    return "–" if value is None else f"{value:.{digits}f}"


def _span(low: float | None, high: float | None, digits: int = 2) -> str:
    return "–" if low is None else f"{_number(low, digits)}–{_number(high, digits)}"
