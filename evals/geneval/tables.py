"""GenEval's scores as tables for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evals.geneval.prompts import left_out
from evals.suite import plans
from evals.suite.tables import score_table
from got.util.errors import visible

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.table import Table


def tables(scores: Mapping[str, Any]) -> list[Table]:
    """The scores; if any image had a plan, also where wrong images went wrong and how drawings keep to their plans."""
    first = score_table(scores, "GenEval")
    if said := left_out(scores):
        first.caption = f"{visible(said)}\n{first.caption}"
    return [first, *plans.tables(scores)]
