"""GenEval's numbers: from the outcome of each image to ``scores.json``, and from there to tables. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evals.core.vocabulary import TASKS
from evals.geneval.prompts import left_out
from evals.suite import plain, plans
from evals.suite.tables import score_table
from got.util.errors import visible

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.table import Table

    from evals.core.records import Case, Scored


def summarize(
    cases: Sequence[Case],
    scored: Sequence[Scored],
    failures: Sequence[Mapping[str, Any]],
    images_per_prompt: int,
) -> dict[str, Any]:
    """Scores per task and overall, see `evals.suite.plain.summarize`, with plans, faults and layouts."""
    return plain.summarize(
        cases, scored, failures, images_per_prompt, tasks=TASKS, directions=plans.DIRECTIONS, more=plans.summarize
    )


def tables(scores: Mapping[str, Any]) -> list[Table]:
    """The scores; if any image had a plan, also where wrong images went wrong and how drawings keep to their plans."""
    first = score_table(scores, "GenEval")
    if said := left_out(scores):
        first.caption = f"{visible(said)}\n{first.caption}"
    return [first, *plans.tables(scores)]
