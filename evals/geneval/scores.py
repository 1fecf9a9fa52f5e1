"""GenEval's numbers: from the outcome of each image to ``scores.json``, and from there to tables and words. Pure."""

from __future__ import annotations

import re
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


# ---------------------------------------------------------------------------------------------------------- near misses
_COUNT = re.compile(r"expected (?P<name>.+)>=(?P<wanted>\d+), found (?P<found>\d+)")
_NEAR = 0.5
"""A score is a near miss from this share of the threshold up; below it is noise that every detector has."""
_ORDINALS = {1: "st", 2: "nd", 3: "rd"}


def explained(reason: str, tag: str, detections: Sequence[Mapping[str, Any]], options: Mapping[str, Any]) -> str:
    """A reason of GenEval's verdict with the near misses behind each count that is too low.

    The public schema's reason does not have them, so they are said where people read, and computed from the log.

    Args:
        reason: Of ``results.jsonl``, a line per fault.
        tag: The case's task: counting has a threshold of its own.
        detections: All that the log has of the image.
        options: The scorer's, of ``scores.json``.

    >>> lights = [{"name": "traffic light", "score": score} for score in (0.97, 0.95, 0.93, 0.68, 0.06)]
    >>> options = {"threshold": 0.3, "counting_threshold": 0.9}
    >>> explained("expected traffic light>=4, found 3", "counting", lights, options)
    'expected traffic light>=4, found 3 (a 4th at 0.68, below 0.9)'
    >>> explained("expected traffic light>=4, found 3", "two_object", lights[:3], options)
    'expected traffic light>=4, found 3'
    """
    threshold = float(options["counting_threshold" if tag == "counting" else "threshold"])
    return "\n".join(_line(line, detections, threshold) for line in reason.split("\n"))


def _line(line: str, detections: Sequence[Mapping[str, Any]], threshold: float) -> str:
    fault = _COUNT.fullmatch(line)
    if fault is None:
        return line
    wanted, found = int(fault["wanted"]), int(fault["found"])
    scores = sorted((one["score"] for one in detections if one["name"] == fault["name"]), reverse=True)
    near = [score for score in scores if _NEAR * threshold <= score <= threshold][: wanted - found]
    named = " and ".join(f"a{'n' * (n in (8, 11, 18))} {ordinal(n)} at {_shown(score, threshold)}"
                         for n, score in enumerate(near, start=found + 1))  # fmt: skip
    return f"{line} ({named}, below {threshold:g})" if near else line


def _shown(score: float, threshold: float) -> str:
    """A score with as many digits as tell it from the threshold.

    >>> _shown(0.68, 0.9), _shown(0.8996, 0.9), _shown(0.9, 0.9)
    ('0.68', '0.8996', '0.9')
    """
    digits = 2
    while digits < 6 and round(score, digits) >= threshold > score:
        digits += 1
    return f"{score:.{digits}f}" if score < threshold else f"{score:g}"


def ordinal(number: int) -> str:
    """A number as an ordinal.

    >>> [ordinal(number) for number in (1, 2, 3, 4, 11, 12, 21)]
    ['1st', '2nd', '3rd', '4th', '11th', '12th', '21st']
    """
    teens = number % 100 in (11, 12, 13)
    return f"{number}{'th' if teens else _ORDINALS.get(number % 10, 'th')}"
