"""Pictures of a run: GenEval's grid per prompt, and a contact sheet per task with planned and detected boxes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from evals.records import Case


def write_grids(run: Path, cases: Sequence[Case], images_per_prompt: int) -> None:
    """grid.png."""


def draw(run: Path, results: list[dict[str, Any]], observations: list[dict[str, Any]]) -> list[Path]:
    """Sheets."""
    return []
