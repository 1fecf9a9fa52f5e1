"""Scores that any suite can have: shares of right images and means of measured values, overall and by task. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from evals.core.records import alike, causes_of, counted_causes, unlabelled
from evals.metrics import statements, statistics
from got.util.tables import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from evals.core.records import Case, Score, Scored
    from evals.metrics.statistics import Estimate

_BOOTSTRAP_SEED = 2310_11513
DIRECTIONS = {"score": "higher", "prompts_any": "higher"}
"""Which way is better."""

Group: TypeAlias = "tuple[str, list[Score]]"
"""The images of a case, under a name that cases of equal content share: these are one cluster of the intervals."""

Clusters: TypeAlias = "tuple[list[float], list[int]]"
"""Sum and number of the values of each cluster."""


def summarize(
    cases: Sequence[Case],
    scored: Sequence[Scored],
    failures: Sequence[Mapping[str, Any]],
    images_per_prompt: int,
    *,
    tasks: Sequence[str] = (),
    pooled: bool = False,
    directions: Mapping[str, str] = DIRECTIONS,
    cluster: Callable[[Case], str] = lambda case: alike(case.prompt, case.metadata),
    more: Callable[[Sequence[Group], np.random.Generator], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Scores per task and overall.

    Args:
        cases: The run's cases.
        scored: Its images that have a score.
        failures: Log lines of samples without an image or without an observation.
        images_per_prompt: Images each case should have.
        tasks: The benchmark's order of its tasks; others come after them.
        pooled: Overall all cases weigh the same, and not all tasks.
        directions: Which way is better, by what is measured.
        cluster: What a case shares with those that are one cluster of the intervals with it.
        more: What a suite measures beside right and wrong, of the images of a task or of all.

    Returns:
        The part of ``scores.json`` that is measured. The overall score is the mean of the task scores unless it is
        pooled; ``images`` and ``prompts_any`` pool all images and prompts.
    """
    rng = np.random.default_rng(_BOOTSTRAP_SEED)
    by_case: dict[str, list[Score]] = {case.id: [] for case in cases}
    for one in scored:
        by_case[one.sample.case.id].append(one.score)
    tags = {case.tag for case in cases}
    ordered = [tag for tag in tasks if tag in tags] + sorted(tags - set(tasks))
    groups: dict[str, list[Group]] = {tag: [] for tag in ordered}
    first: dict[str, str] = {}
    for case in cases:
        name = first.setdefault(cluster(case), case.id)
        groups[case.tag].append((name, by_case[case.id]))
    every = [group for tag in ordered for group in groups[tag]]
    right = {tag: clusters(groups[tag], _right) for tag in ordered}

    def block(of: Sequence[Group], score: Estimate) -> dict[str, Any]:
        extra = values_of(of, rng) if more is None else more(of, rng)
        return {**_block(of, score, images_per_prompt), **extra}

    blocks = {tag: block(groups[tag], statistics.share(*right[tag])) for tag in ordered}
    totals, numbers = ([value for tag in ordered for value in right[tag][part]] for part in (0, 1))
    overall = statistics.share(totals, numbers, None if pooled else [tag for tag in ordered for _ in right[tag][0]])
    return {
        "overall": {**block(every, overall), **({} if pooled else _overall_bounds(list(blocks.values())))},
        "images": statistics.share(*clusters(every, _right)).as_dict(),
        "tasks": blocks,
        "missing": _missing(failures, by_case, images_per_prompt),
        "directions": dict(directions),
        "intervals": statistics.INTERVALS,
    }


def weighs_cases(scores: Mapping[str, Any]) -> bool:
    """Whether all cases weigh the same in a run's overall score; else all tasks do.

    Args:
        scores: The run's ``scores.json``. A judged benchmark's says it of its first metric.

    >>> weighs_cases({"tasks": {}}), weighs_cases({"categories": {}})
    (False, True)
    >>> weighs_cases({"tasks": {}, "metrics": {"names": {"accuracy": {"over": "cases"}}}})
    True
    """
    for how in scores.get("metrics", {}).get("names", {}).values():
        return bool(how["over"] == "cases")
    return "tasks" not in scores


def _right(score: Score) -> Sequence[bool]:
    return [] if score.correct is None else [score.correct]


def clusters(groups: Sequence[Group], values: Callable[[Any], Sequence[float]]) -> Clusters:
    """The images' values by prompt."""
    named = [(value, name) for name, scores in groups for one in scores for value in values(one)]
    return statistics.by_cluster([value for value, _ in named], [name for _, name in named])


def values_of(groups: Sequence[Group], rng: np.random.Generator) -> dict[str, Any]:
    """Means of what a suite measures by name, with intervals; nothing where it measures nothing."""
    names = dict.fromkeys(name for _, scores in groups for one in scores for name in one.values)

    def mean(name: str) -> dict[str, Any]:
        found = clusters(groups, lambda score: [score.values[name]] if name in score.values else [])
        return statistics.ratio(*found, rng).as_dict()

    return {"values": {name: mean(name) for name in names}} if names else {}


def _block(groups: Sequence[Group], score: Estimate, images_per_prompt: int) -> dict[str, Any]:
    """Right and missing images of one task, or of all of them."""
    every = [one for _, scores in groups for one in scores]
    missing = len(groups) * images_per_prompt - len(every)
    correct = sum(bool(one.correct) for one in every)
    judged = [(name, [one.correct for one in scores if one.correct is not None]) for name, scores in groups]
    any_right = [(name, any(right)) for name, right in judged if right]
    return {
        "score": score.as_dict(),
        "bounds": list(statistics.bounds(correct, len(every), missing)) if missing > 0 else None,
        "missing": missing,
        "prompts_any": statistics.share(
            *statistics.by_cluster([right for _, right in any_right], [name for name, _ in any_right])
        ).as_dict(),
    }


def _overall_bounds(blocks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean of the tasks' bounds, if any image is missing; a task of which nothing is known may be any."""
    if not any(block["missing"] for block in blocks):
        return {"bounds": None}
    known = [(block["bounds"], block["score"]["value"]) for block in blocks]
    ends = [bounds or ([0.0, 1.0] if value is None else [value] * 2) for bounds, value in known]
    return {"bounds": [float(np.mean(side)) for side in zip(*ends, strict=True)]}


def _missing(
    failures: Sequence[Mapping[str, Any]], by_case: Mapping[str, Sequence[Score]], images_per_prompt: int
) -> dict[str, Any]:
    """Images without a score, counted by cause."""
    total = sum(images_per_prompt - len(group) for group in by_case.values())
    causes = causes_of(failures)
    if total > sum(causes.values()):
        causes["not made yet"] = total - sum(causes.values())
    return {"total": total, "by_cause": dict(causes.most_common()), **unlabelled(failures)}


def headline(scores: Mapping[str, Any]) -> dict[str, Any]:
    """The few numbers that end a run."""
    overall = scores["overall"]
    score, values = overall["score"], overall.get("values")
    unknown = statements.why_no_interval(score)
    unscored = [tag for tag, block in scores["tasks"].items() if block["score"]["value"] is None]
    return {
        **{name: scores[name] for name in ("suite", "world", "model", "detector")},
        **({"wording": scores["wording"]} if scores.get("wording") else {}),
        "overall": score["value"],
        "interval_95": [score["low"], score["high"]],
        **({"no_interval": unknown} if unknown else {}),
        "images": score["n"],
        "prompts": score["clusters"],
        "tasks": {tag: block["score"]["value"] for tag, block in scores["tasks"].items()},
        **({"unscored_tasks": unscored} if unscored else {}),
        **({"values": {name: one["value"] for name, one in values.items()}} if values else {}),
        "missing": scores["missing"]["total"],
        "bounds": overall["bounds"],
        **({"missing_classes": scores["missing"]["classes"]} if "classes" in scores["missing"] else {}),
    }


def nothing_scored(scores: Mapping[str, Any]) -> str | None:
    """Why no image of a run has a score; None where one has."""
    overall, missing = scores["overall"], scores["missing"]
    if overall["score"]["n"] or overall.get("values"):
        return None
    wanted = counted(missing["total"], "images")
    return f"expected {wanted} with a score, found none: {counted_causes(missing['by_cause'])}"
