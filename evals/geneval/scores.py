"""GenEval's numbers: from the outcome of each image to ``scores.json``, and from there to tables. Pure."""

from __future__ import annotations

import collections
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evals.core.records import Score
from evals.core.vocabulary import TASKS
from evals.metrics import statistics
from evals.suite import plain

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from evals.core.records import Case, Scored
    from evals.metrics.layout import LayoutFit
    from evals.suite.plain import Group

REFERENCE = Path(__file__).parents[1] / "assets" / "reference_scores.json"
"""Measured floor and ceiling, by detector; written by ``python -m evals.geneval_reference``."""

FAULTS = ("plan_wrong", "drawing_wrong", "detector_doubt", "unchecked", "no_plan")
"""Where a wrong image went wrong:

- plan_wrong: the chain's own boxes, taken as detections, fail the case;
- drawing_wrong: the plan is right, the image is not, and an exact drawing of the plan passes;
- detector_doubt: the plan is right, but even its exact drawing fails: the detector may be to blame;
- unchecked: the plan is right, the image is not, and there was no exact drawing to look at;
- no_plan: the model wrote no chain.
"""

DIRECTIONS = {
    **plain.DIRECTIONS,
    "plan": "higher",
    "layout.iou": "higher",
    "layout.recall": "higher",
    "layout.offset": "lower",
}
"""Which way is better."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome(Score):
    """What became of one image."""

    plan_correct: bool | None = None
    """Whether the plan passes the case; None without a chain."""
    oracle_correct: bool | None = None
    """Whether an exact drawing of the plan passes; None where none was looked at."""
    fit: LayoutFit | None = None
    """How the image keeps to the plan; None without a chain."""

    @property
    def fault(self) -> str | None:
        """One of :data:`FAULTS`, or None for a correct image.

        >>> Outcome(correct=False, plan_correct=True, oracle_correct=False).fault
        'detector_doubt'
        """
        if self.correct:
            return None
        if self.plan_correct is None:
            return "no_plan"
        if not self.plan_correct:
            return "plan_wrong"
        return {None: "unchecked", True: "drawing_wrong", False: "detector_doubt"}[self.oracle_correct]


def summarize(
    cases: Sequence[Case],
    scored: Sequence[Scored],
    failures: Sequence[Mapping[str, Any]],
    images_per_prompt: int,
) -> dict[str, Any]:
    """Scores per task and overall, see `evals.suite.plain.summarize`, with plans, faults and layouts."""
    return plain.summarize(cases, scored, failures, images_per_prompt, tasks=TASKS, directions=DIRECTIONS, more=_plans)


def _plan_right(outcome: Outcome) -> Sequence[bool]:
    return [] if outcome.plan_correct is None else [outcome.plan_correct]


def _plans(groups: Sequence[Group], rng: np.random.Generator) -> dict[str, Any]:
    """Plans, faults and layouts of one task, or of all of them."""
    every = [one for _, outcomes in groups for one in outcomes if isinstance(one, Outcome)]
    faults = collections.Counter(outcome.fault for outcome in every)
    clusters = plain.clusters
    return {
        "plan": statistics.share(*clusters(groups, _plan_right)).as_dict(),
        "faults": {name: faults[name] for name in FAULTS},
        "right_despite_plan": sum(bool(one.correct) and one.plan_correct is False for one in every),
        "layout": {
            "iou": statistics.ratio(*clusters(groups, lambda o: o.fit.ious if o.fit else ()), rng).as_dict(),
            "recall": statistics.share(*clusters(groups, lambda o: o.fit.hits if o.fit else ())).as_dict(),
            "offset": statistics.ratio(*clusters(groups, lambda o: o.fit.offsets if o.fit else ()), rng).as_dict(),
        },
    }


def load_reference(detector: str, options: dict[str, Any], path: Path = REFERENCE) -> dict[str, Any] | None:
    """Measured floor and ceiling with this detector and these options; None where nobody measured them."""
    if not path.is_file():
        return None
    reference: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")).get(detector, {})
    return reference if reference.get("options") == options else None


def reference_of(reference: dict[str, Any] | None, tasks: Collection[str]) -> dict[str, Any] | None:
    """A reference for a run of some tasks: the mean is that of these, and of all their images nobody knows it.

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
