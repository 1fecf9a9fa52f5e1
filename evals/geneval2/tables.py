"""GenEval 2's scores as tables for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evals.suite import plans
from evals.suite.tables import score_table, table
from got.util.tables import number, span

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.table import Table


def tables(scores: Mapping[str, Any]) -> list[Table]:
    """Scores by number of atoms and by skill, and what became of plans."""
    return [score_table(scores, scores["title"]), _skill_table(scores), *plans.tables(scores)]


def _skill_table(scores: Mapping[str, Any]) -> Table:
    skills = scores["overall"]["skills"]
    shown = [name for name in plans.FAULTS if any(block["faults"][name] for block in skills.values())]
    columns = ["right ↑", "95 %\ninterval", "soft ↑", "95 %\ninterval", "questions", "wrong"]
    columns += [name.replace("_", "\n") for name in shown]
    caption = "pooled over all questions of a skill; soft: mean probability of the right answer\n"
    caption += "a number of one is no atom, but it is asked, as in the published set"
    made = table("Questions by skill", columns, caption, first="skill")
    for name, block in skills.items():
        hard, soft, faults = block["hard"], block["soft"], block["faults"]
        cells = [number(hard["value"]), span(hard["low"], hard["high"]), number(soft["value"])]
        cells += [span(soft["low"], soft["high"]), str(hard["n"]), str(sum(faults.values()) or "·")]
        style = "dim" if "," in name else None
        made.add_row(name, *cells, *(str(faults[each] or "·") for each in shown), style=style)
    return made
