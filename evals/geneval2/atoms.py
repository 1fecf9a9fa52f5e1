"""The atoms of a prompt of the icon edition, answered from detections: yes or no, and how probable yes is. Pure.

A detection's score is taken as the probability that the object is there, independently of the others. So the soft
answer to "how many" is the probability that exactly so many of the detections are real; where all scores are 0 or 1,
soft answers and hard ones agree.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from evals.metrics.boxes import enclosing, relations

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from evals.core.records import Detection

SKILLS = ("object", "attribute", "count", "position", "verb")
"""In the order in which GenEval 2 prints them."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of one question about one image."""

    skill: str
    """One of :data:`SKILLS`."""
    wanted: str
    """The right answer: ``"Yes"``, or a number in words."""
    right: bool
    probability: float
    """Probability of the right answer, in [0, 1]."""
    reason: str = ""
    """What is wrong; empty where nothing is."""

    @property
    def is_one(self) -> bool:
        """Whether the question is about a number of one, as two fifths of GenEval 2's are; such a number is no atom."""
        return self.wanted == "one"


def answers(
    metadata: Mapping[str, Any], detections: Sequence[Detection], threshold: float, position_threshold: float
) -> tuple[Answer, ...]:
    """The answer to each question of a prompt, in their order.

    Args:
        metadata: The prompt's line, with ``include``, ``vqa_list`` and ``skills``.
        detections: Everything detected, with colours where one is asked for.
        threshold: A detection counts if its score is above this.
        position_threshold: Share of the summed sides by which centres must be apart.
    """
    found: list[tuple[bool, float, str]] = []
    include = metadata["include"]
    of = [[one for one in detections if one.name == item["class"]] for item in include]
    kept = [[one for one in some if one.score > threshold] for some in of]
    for i, item in enumerate(include):
        name, number = item["class"], len(kept[i])
        found.append((number > 0, _any(of[i]), f"expected {name}, found none"))
        counted = float(number_of([one.score for one in of[i]])[item["count"] :][:1].sum())
        found.append((number == item["count"], counted, f"expected {item['count']} {name}, found {number}"))
        if "color" in item:
            found.append(_color(item, of[i], kept[i]))
        if "position" in item:
            relation, target = item["position"]
            holds = stands(kept[i], relation, kept[target], position_threshold)
            other = include[target]["class"]
            said = f"expected {name} {relation} {other}" + ("" if kept[i] and kept[target] else ", found none of one")
            found.append((holds, _any(kept[i]) * _any(kept[target]) if holds else 0.0, said))
    return tuple(
        Answer(skill=skill, wanted=wanted, right=right, probability=probability, reason="" if right else reason)
        for skill, (_, wanted), (right, probability, reason) in zip(
            metadata["skills"], metadata["vqa_list"], found, strict=True
        )
    )


def _any(detections: Sequence[Detection]) -> float:
    """Probability that at least one of the detections is real."""
    return 1 - math.prod(1 - one.score for one in detections)


def _color(item: Mapping[str, Any], every: Sequence[Detection], kept: Sequence[Detection]) -> tuple[bool, float, str]:
    """Whether there is an object and all have the colour; probability that one is real and none of another colour."""
    right = [one for one in every if one.color == item["color"]]
    others = [one.score for one in every if one.color != item["color"]]
    seen = ", ".join(str(one.color) for one in kept) or "none"
    said = f"expected {item['color']} {item['class']}, found {seen}"
    good = bool(kept) and all(one.color == item["color"] for one in kept)
    return good, _any(right) * math.prod(1 - score for score in others), said


def number_of(scores: Sequence[float]) -> NDArray[np.float64]:
    """Probability of each number of real objects among detections, (n + 1,): the Poisson binomial distribution.

    >>> number_of([0.5, 0.5]).tolist(), number_of([]).tolist()
    ([0.25, 0.5, 0.25], [1.0])
    """
    spread: NDArray[np.float64] = np.ones(1)
    for score in scores:
        spread = np.convolve(spread, np.array([1 - score, score]))
    return spread


def stands(group: Sequence[Detection], relation: str, other: Sequence[Detection], position_threshold: float) -> bool:
    """Whether a group of objects stands so to another one; of single objects, GenEval's rule.

    Every object is on that side of every other one, by `position_threshold` of their summed sides, and the boxes
    around both groups stand so by GenEval's rule.

    >>> from evals.core.records import Detection
    >>> a, b = (Detection(name="dog", score=1.0, box_xyxy_px=(x, 0, x + 10, 10)) for x in (0, 50))
    >>> stands([a], "left of", [b], 0.1), stands([b], "left of", [a], 0.1), stands([], "left of", [b], 0.1)
    (True, False, False)
    """
    if not group or not other:
        return False
    axis, sign = (0 if relation in ("left of", "right of") else 1), (-1 if relation in ("left of", "above") else 1)
    for a in (one.box_xyxy_px for one in group):
        for b in (one.box_xyxy_px for one in other):
            offset = sign * (a[axis] + a[axis + 2] - b[axis] - b[axis + 2]) / 2
            if offset <= position_threshold * (a[axis + 2] - a[axis] + b[axis + 2] - b[axis]):
                return False
    around, target = (enclosing([one.box_xyxy_px for one in some]) for some in (group, other))
    return relation in relations(around, target, position_threshold)


def arithmetic(probabilities: Sequence[float]) -> float:
    """Arithmetic mean of at least one number."""
    return float(np.mean(probabilities))


def geometric(probabilities: Sequence[float]) -> float:
    """Geometric mean of at least one number, exactly 0 if any is 0; rounding may exceed 1.

    >>> round(geometric([0.5, 0.125]), 9), geometric([1.0, 0.0]), geometric([1.0, 1.0])
    (0.25, 0.0, 1.0)
    """
    if min(probabilities) <= 0:
        return 0.0
    return math.exp(math.fsum(math.log(p) for p in probabilities) / len(probabilities))
