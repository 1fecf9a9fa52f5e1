"""GenEval's scores as tables for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable

_TITLES = {
    "single_object": "single object",
    "two_object": "two objects",
    "counting": "counting",
    "colors": "colours",
    "position": "position",
    "color_attr": "colour attribution",
}
_ARROWS = {"higher": "↑", "lower": "↓"}


def tables(scores: dict[str, Any]) -> list[Table]:
    """The scores, and where wrong images went wrong if any image had a plan."""
    found = [_score_table(scores)]
    if scores["overall"]["plan"]["n"]:
        found.append(_fault_table(scores))
    return found


def _score_table(scores: dict[str, Any]) -> Table:
    reference = scores["reference"]
    up = _ARROWS[scores["directions"]["score"]]
    checkpoint = f" ({scores['checkpoint']})" if scores["checkpoint"] else ""
    table = _table(f"GenEval, {scores['world']}: {scores['model']}{checkpoint}", _score_caption(scores))
    table.add_column("task")
    for name in (f"score {up}", "95 % interval", "images", "prompts", f"≥ 1 right {up}"):
        table.add_column(name, justify="right")
    if scores["missing"]["total"]:
        table.add_column("missing", justify="right")
        table.add_column("bounds", justify="right")
    if reference:
        table.add_column("floor", justify="right", style="dim")
        table.add_column("ceiling", justify="right", style="dim")
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
    lines = [f"detector {scores['detector']}; interval: bootstrap over prompts"]
    if scores["reference"]:
        lines.append(
            f"floor: {scores['reference']['floor']['what']}; ceiling: {scores['reference']['ceiling']['what']}"
        )
    if scores["missing"]["total"]:
        lines.append("bounds: the score if every missing image were wrong, or right. Missing because of:")
        lines += [f"{number} × {cause}" for cause, number in scores["missing"]["by_cause"].items()]
    return "\n".join(lines)


_FAULT_TITLES = {
    "plan_wrong": "plan",
    "drawing_wrong": "drawing",
    "detector_doubt": "detector?",
    "unchecked": "unchecked",
    "no_plan": "no plan",
}


def _fault_table(scores: dict[str, Any]) -> Table:
    overall = scores["overall"]
    # The last two are rare: a column only where there is something in it.
    shown = [n for i, n in enumerate(_FAULT_TITLES) if i < 3 or overall["faults"][n]]
    caption = "wrong images by cause: the plan fails its prompt; the plan is right, the drawing is not; "
    caption += "even an exact drawing of the plan fails, so the detector is in doubt.\n"
    caption += "box IoU, recall (IoU ≥ 0.5), offset (share of the image side): detected against planned boxes"
    table = _table("Where wrong images went wrong, and how the drawing keeps to the plan", caption)
    table.add_column("task")
    directions = {key: _ARROWS[direction] for key, direction in scores["directions"].items()}
    columns: dict[str, Callable[[dict[str, Any]], str]] = {
        "wrong": lambda block: str(sum(block["faults"].values())),
        **{_FAULT_TITLES[name]: lambda block, name=name: str(block["faults"][name] or "·") for name in shown},
        f"plan right {directions['plan']}": lambda block: _number(block["plan"]["value"]),
        f"box IoU {directions['layout.iou']}": lambda block: _number(block["layout"]["iou"]["value"]),
        f"recall {directions['layout.recall']}": lambda block: _number(block["layout"]["recall"]["value"]),
        f"offset {directions['layout.offset']}": lambda block: _number(block["layout"]["offset"]["value"], digits=3),
    }
    for name in columns:
        table.add_column(name, justify="right")
    for tag, block in scores["tasks"].items():
        table.add_row(_TITLES.get(tag, tag), *(cell(block) for cell in columns.values()))
    table.add_section()
    table.add_row("all images", *(cell(overall) for cell in columns.values()), style="bold")
    return table


def _table(title: str, caption: str) -> Table:
    return Table(title=title, caption=caption, title_justify="left", caption_justify="left", title_style="bold")


def _number(value: float | None, digits: int = 2) -> str:
    """A score, or a dash where there is none.

    >>> _number(0.8249), _number(None)
    ('0.82', '–')
    """
    return "–" if value is None else f"{value:.{digits}f}"


def _span(low: float | None, high: float | None) -> str:
    return "–" if low is None else f"{_number(low)}–{_number(high)}"
