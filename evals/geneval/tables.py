"""GenEval's scores as tables for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evals.suite import plans
from evals.suite.tables import score_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.table import Table

_TITLES = {
    "single_object": "single object",
    "two_object": "two objects",
    "counting": "counting",
    "colors": "colours",
    "position": "position",
    "color_attr": "colour attribution",
}


def tables(scores: Mapping[str, Any]) -> list[Table]:
    """The scores; if any image had a plan, also where wrong images went wrong and how drawings keep to their plans."""
    return [score_table(scores, "GenEval", _TITLES), *plans.tables(scores, _TITLES)]
