"""GenEval's numbers: from the outcome of each image to ``scores.json``, and from there to tables. Pure."""

from __future__ import annotations

import collections
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from evals.core.records import alike, causes_of, counted_causes, unlabelled
from evals.core.vocabulary import TASKS
from evals.metrics import statements, statistics

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from evals.core.records import Case
    from evals.metrics.layout import LayoutFit
    from evals.metrics.statistics import Estimate

_BOOTSTRAP_SEED = 2310_11513
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
    "score": "higher",
    "prompts_any": "higher",
    "plan": "higher",
    "layout.iou": "higher",
    "layout.recall": "higher",
    "layout.offset": "lower",
}
"""Which way is better."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one image."""

    case: str
    """Id of its case."""
    correct: bool
    plan_correct: bool | None = None
    """Whether the plan passes the case; None without a chain."""
    oracle_correct: bool | None = None
    """Whether an exact drawing of the plan passes; None where none was looked at."""
    fit: LayoutFit | None = None
    """How the image keeps to the plan; None without a chain."""

    @property
    def fault(self) -> str | None:
        """One of :data:`FAULTS`, or None for a correct image.

        >>> Outcome(case="0", correct=False, plan_correct=True, oracle_correct=False).fault
        'detector_doubt'
        """
        if self.correct:
            return None
        if self.plan_correct is None:
            return "no_plan"
        if not self.plan_correct:
            return "plan_wrong"
        return {None: "unchecked", True: "drawing_wrong", False: "detector_doubt"}[self.oracle_correct]


Group: TypeAlias = "tuple[str, list[Outcome]]"
"""The images of a case, under a name that cases of equal content share: these are one cluster of the intervals."""

Clusters: TypeAlias = "tuple[list[float], list[int]]"
"""Sum and number of the values of each cluster."""


def summarize(
    cases: Sequence[Case],
    outcomes: Sequence[Outcome],
    failures: Sequence[dict[str, Any]],
    images_per_prompt: int,
) -> dict[str, Any]:
    """Scores per task and overall.

    Args:
        cases: The run's cases.
        outcomes: One per scored image.
        failures: Log lines of samples without an image or without an observation.
        images_per_prompt: Images each case should have.

    Returns:
        The part of ``scores.json`` that is measured. The overall score is the mean of the task scores, as in
        the paper; ``images`` and ``prompts_any`` pool all images and prompts.
    """
    rng = np.random.default_rng(_BOOTSTRAP_SEED)
    by_case: dict[str, list[Outcome]] = {case.id: [] for case in cases}
    for outcome in outcomes:
        by_case[outcome.case].append(outcome)
    tags = {case.tag for case in cases}
    ordered = [tag for tag in TASKS if tag in tags] + sorted(tags - set(TASKS))
    groups: dict[str, list[Group]] = {tag: [] for tag in ordered}
    first: dict[str, str] = {}
    for case in cases:
        name = first.setdefault(alike(case.prompt, case.metadata), case.id)
        groups[case.tag].append((name, by_case[case.id]))
    every = [group for tag in ordered for group in groups[tag]]
    right = {tag: _clusters(groups[tag], _right) for tag in ordered}
    tasks = {tag: _block(groups[tag], statistics.share(*right[tag]), images_per_prompt, rng) for tag in ordered}
    totals, numbers = ([value for tag in ordered for value in right[tag][part]] for part in (0, 1))
    overall = statistics.share(totals, numbers, [tag for tag in ordered for _ in right[tag][0]])
    return {
        "overall": {
            **_block(every, overall, images_per_prompt, rng),
            **_overall_bounds(list(tasks.values())),
        },
        "images": statistics.share(*_clusters(every, _right)).as_dict(),
        "tasks": tasks,
        "missing": _missing(failures, by_case, images_per_prompt),
        "directions": DIRECTIONS,
        "intervals": statistics.INTERVALS,
    }


def _right(outcome: Outcome) -> Sequence[bool]:
    return [outcome.correct]


def _plan_right(outcome: Outcome) -> Sequence[bool]:
    return [] if outcome.plan_correct is None else [outcome.plan_correct]


def _clusters(groups: Sequence[Group], values: Callable[[Outcome], Sequence[float]]) -> Clusters:
    """The images' values by prompt."""
    named = [(value, name) for name, outcomes in groups for one in outcomes for value in values(one)]
    return statistics.by_cluster([value for value, _ in named], [name for _, name in named])


def _block(
    groups: Sequence[Group], score: Estimate, images_per_prompt: int, rng: np.random.Generator
) -> dict[str, Any]:
    """All numbers of one task, or of all of them."""
    every = [outcome for _, group in groups for outcome in group]
    missing = len(groups) * images_per_prompt - len(every)
    correct = sum(outcome.correct for outcome in every)
    any_right = [(name, any(outcome.correct for outcome in group)) for name, group in groups if group]
    faults = collections.Counter(outcome.fault for outcome in every)
    return {
        "score": score.as_dict(),
        "bounds": list(statistics.bounds(correct, len(every), missing)) if missing > 0 else None,
        "missing": missing,
        "prompts_any": statistics.share(
            *statistics.by_cluster([right for _, right in any_right], [name for name, _ in any_right])
        ).as_dict(),
        "plan": statistics.share(*_clusters(groups, _plan_right)).as_dict(),
        "faults": {name: faults[name] for name in FAULTS},
        "right_despite_plan": sum(o.correct and o.plan_correct is False for o in every),
        "layout": {
            "iou": statistics.ratio(*_clusters(groups, lambda o: o.fit.ious if o.fit else ()), rng).as_dict(),
            "recall": statistics.share(*_clusters(groups, lambda o: o.fit.hits if o.fit else ())).as_dict(),
            "offset": statistics.ratio(*_clusters(groups, lambda o: o.fit.offsets if o.fit else ()), rng).as_dict(),
        },
    }


def _overall_bounds(blocks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean of the tasks' bounds, if any image is missing."""
    if not any(block["missing"] for block in blocks):
        return {"bounds": None}
    ends = [block["bounds"] or [block["score"]["value"]] * 2 for block in blocks]
    return {"bounds": [float(np.mean(side)) for side in zip(*ends, strict=True)]}


def _missing(
    failures: Sequence[dict[str, Any]], by_case: dict[str, list[Outcome]], images_per_prompt: int
) -> dict[str, Any]:
    """Images without a score, counted by cause."""
    total = sum(images_per_prompt - len(group) for group in by_case.values())
    causes = causes_of(failures)
    if total > sum(causes.values()):
        causes["not made yet"] = total - sum(causes.values())
    return {"total": total, "by_cause": dict(causes.most_common()), **unlabelled(failures)}


def headline(scores: dict[str, Any]) -> dict[str, Any]:
    """The few numbers that end a run."""
    score = scores["overall"]["score"]
    unknown = statements.why_no_interval(score)
    return {
        **{name: scores[name] for name in ("suite", "world", "model", "detector")},
        **({"wording": scores["wording"]} if scores.get("wording") else {}),
        "overall": score["value"],
        "interval_95": [score["low"], score["high"]],
        **({"no_interval": unknown} if unknown else {}),
        "images": score["n"],
        "prompts": score["clusters"],
        "tasks": {tag: block["score"]["value"] for tag, block in scores["tasks"].items()},
        "missing": scores["missing"]["total"],
        "bounds": scores["overall"]["bounds"],
        **({"missing_classes": scores["missing"]["classes"]} if "classes" in scores["missing"] else {}),
    }


def nothing_scored(scores: dict[str, Any]) -> str | None:
    """Why no image of a run has a score; None where one has."""
    if scores["overall"]["score"]["n"]:
        return None
    missing = scores["missing"]
    return f"expected {missing['total']} images with a score, found none: {counted_causes(missing['by_cause'])}"


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
