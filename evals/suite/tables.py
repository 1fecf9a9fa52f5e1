"""Scores as tables for the terminal: what any suite can show, and the parts that other tables are made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evals.core.vocabulary import task_title
from evals.metrics import statistics
from got.util.errors import visible
from got.util.tables import number, span

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.table import Table


_SHOWN_CAUSES = 8
_ENDS = ("floor", "ceiling", "untouched", "true")
"""Columns of floor and ceiling, which no model drew."""


def score_table(scores: Mapping[str, Any], name: str) -> Table:
    """Scores by task, their mean, and that of all images; means of measured values, where a suite has any.

    Args:
        scores: As `evals.suite.plain.summarize` has them, and what they are of.
        name: The benchmark's, for people.
    """
    checkpoint = f" ({scores['checkpoint']})" if scores["checkpoint"] else ""
    columns = ["score ↑", "95 %\ninterval", "images", "prompts", "≥ 1\nright ↑"]
    columns += ["missing", "bounds"] if scores["missing"]["total"] else []
    columns += ["floor", "ceiling"] if scores.get("reference") else []
    columns += list(scores["overall"].get("values", ()))
    wording = f" · {scores['wording']}" if scores.get("wording") else ""
    title = f"{name}, {scores['world']}: {scores['model']}{checkpoint}{wording}"
    made = table(visible(title), columns, _score_caption(scores))
    for tag, block in scores["tasks"].items():
        made.add_row(visible(task_title(tag)), *_score_cells(block, scores, tag))
    made.add_section()
    made.add_row("mean of tasks", *_score_cells(scores["overall"], scores, "overall"), style="bold")
    pooled = {**scores["overall"], "score": scores["images"], "bounds": None}
    made.add_row("all images", *_score_cells(pooled, scores, "images"))
    return made


def _score_cells(block: Mapping[str, Any], scores: Mapping[str, Any], key: str) -> list[str]:
    score = block["score"]
    cells = [number(score["value"]), span(score["low"], score["high"])]
    cells += [str(score["n"]), str(score["clusters"]), number(block["prompts_any"]["value"])]
    if scores["missing"]["total"]:
        cells += [str(block["missing"] or ""), span(*block["bounds"]) if block["bounds"] else ""]
    if scores.get("reference"):
        cells += [number(scores["reference"][end].get(key)) for end in ("floor", "ceiling")]
    measured = block.get("values", {})
    return cells + [number(measured.get(name, {}).get("value")) for name in scores["overall"].get("values", ())]


def _score_caption(scores: Mapping[str, Any]) -> str:
    lines = [f"detector: {scores['detector']}; intervals: {statistics.method_of(scores)}, clustered by prompt"]
    if scores.get("reference"):
        floor, ceiling = (scores["reference"][end]["what"] for end in ("floor", "ceiling"))
        lines.append(f"floor: {floor}; ceiling: {ceiling}")
    if scores["missing"]["total"]:
        causes = list(scores["missing"]["by_cause"].items())
        lines.append("bounds: the score if all missing images were wrong, and if all were right; missing:")
        lines += [f"  {times} × {visible(cause)}" for cause, times in causes[:_SHOWN_CAUSES]]
        lines += [f"  and {len(causes) - _SHOWN_CAUSES} more causes"] if len(causes) > _SHOWN_CAUSES else []
        lines += [f"no label for {', '.join(scores['missing']['classes'])}"] if "classes" in scores["missing"] else []
    return "\n".join(lines)


def interval(block: Mapping[str, Any], digits: int = 3) -> str:
    """The interval of an estimate in scores.json; a word in its place where all values are equal.

    >>> interval({"value": 0.5, "low": 0.4, "high": 0.6})
    '0.400–0.600'
    >>> interval({"value": 1.0, "low": None, "high": None, "clusters": 40}), interval({"value": None, "low": None})
    ('all equal', '–')
    """
    equal = block["low"] is None and block["value"] is not None and block.get("clusters", 0) > 1
    return "all equal" if equal else span(block["low"], block.get("high"), digits)


def table(title: str, columns: Sequence[str], caption: str, first: str = "task") -> Table:
    """An empty table with a column of names, `first`, and columns of numbers."""
    from rich import box
    from rich.table import Table

    made = Table(title=title, caption=f"\n{caption}\n", box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    made.title_justify = made.caption_justify = "left"
    made.title_style, made.caption_style = "bold", "dim"
    made.add_column(first, no_wrap=True)
    for name in columns:
        style = "dim" if name.startswith(_ENDS) else None
        made.add_column(name, justify="right", style=style, overflow="fold")  # a narrow terminal cuts no number
    return made


# ---------------------------------------------------------------------------------------------------- floor and ceiling
_NO_TASKS = {"what", "overall", "images", "n", "prompts"}
REFERENCE = Path(__file__).parents[1] / "assets" / "reference_scores.json"


def reference_key(suite: str, detector: str) -> str:
    """The name of a pair in the file.

    >>> reference_key("geneval", "icon")
    'geneval, icon'
    """
    return f"{suite}, {detector}"


def load_reference(suite: str, detector: str, options: dict[str, Any], path: Path = REFERENCE) -> dict[str, Any] | None:
    """Measured floor and ceiling with this detector and these options; None where nobody measured them."""
    if not path.is_file():
        return None
    reference: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")).get(reference_key(suite, detector), {})
    return reference if reference.get("options") == options else None


def reference_of(reference: dict[str, Any] | None, tags: Sequence[str]) -> dict[str, Any] | None:
    """The part of a reference for a run's tasks: their mean is known, the score of all their images is not.

    Args:
        reference: Of all prompts.
        tags: The task of each prompt of the run; of a part of them, the reference says that it is of all.

    >>> values = {"a": 0.5, "b": 1.0, "overall": 0.75, "images": 0.7, "prompts": 3}
    >>> ends = {end: {"what": end, **values} for end in ("floor", "ceiling")}
    >>> reference_of(ends, ["b"])["floor"]["overall"], reference_of(ends, ["a", "a", "b"])["floor"]["images"]
    (1.0, 0.7)
    >>> reference_of(ends, ["a", "b"])["ceiling"]["what"], reference_of(ends, ["b"])["floor"]["what"]
    ('ceiling, of all 3 prompts', 'floor, of all prompts of these tasks')
    """
    if reference is None:
        return None
    tasks, made = set(tags), dict(reference)
    for end in ("floor", "ceiling"):
        values, what = reference[end], reference[end]["what"]
        if values.keys() - _NO_TASKS == tasks:
            part = f", of all {values['prompts']} prompts" if len(tags) < values["prompts"] else ""
            made[end] = {**values, "what": what + part}
        else:
            mean = float(np.mean([values[task] for task in sorted(tasks)]))
            made[end] = {**values, "what": f"{what}, of all prompts of these tasks", "overall": mean, "images": None}
    return made
