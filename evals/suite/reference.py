"""Floor and ceiling of a suite with a detector, as ``python -m evals.geneval_reference`` has measured them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection

REFERENCE = Path(__file__).parents[1] / "assets" / "reference_scores.json"


def key(suite: str, detector: str) -> str:
    """The name of a pair in the file.

    >>> key("geneval", "icon")
    'geneval, icon'
    """
    return f"{suite}, {detector}"


def load_reference(suite: str, detector: str, options: dict[str, Any], path: Path = REFERENCE) -> dict[str, Any] | None:
    """Measured floor and ceiling with this detector and these options; None where nobody measured them."""
    if not path.is_file():
        return None
    reference: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")).get(key(suite, detector), {})
    return reference if reference.get("options") == options else None


def reference_of(reference: dict[str, Any] | None, tasks: Collection[str]) -> dict[str, Any] | None:
    """The part of a reference for a run's tasks: their mean is known, the score of all their images is not.

    >>> ends = {end: {"what": end, "a": 0.5, "b": 1.0, "overall": 0.75, "images": 0.7} for end in ("floor", "ceiling")}
    >>> reference_of(ends, {"b"})["floor"]["overall"], reference_of(ends, {"a", "b"})["floor"]["images"]
    (1.0, 0.7)
    """
    if reference is None:
        return None
    ends = {end: reference[end] for end in ("floor", "ceiling")}
    if all(ends[end].keys() - {"what", "overall", "images", "n"} == set(tasks) for end in ends):
        return reference
    means = {end: float(np.mean([values[task] for task in tasks])) for end, values in ends.items()}
    return {**reference, **{end: {**ends[end], "overall": means[end], "images": None} for end in ends}}
