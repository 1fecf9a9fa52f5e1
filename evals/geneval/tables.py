"""GenEval's scores as tables for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evals.suite import plans
from evals.suite.tables import score_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.table import Table


def tables(scores: Mapping[str, Any]) -> list[Table]:
    """The scores; if any image had a plan, also where wrong images went wrong and how drawings keep to their plans."""
    return [score_table(scores, "GenEval"), *plans.tables(scores)]
