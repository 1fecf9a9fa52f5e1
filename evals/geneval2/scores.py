"""GenEval 2's numbers: from the answers about each image to ``scores.json``, and from there to tables. Pure."""

from __future__ import annotations

import collections
import dataclasses
from typing import TYPE_CHECKING, Any

from evals.geneval2.atoms import SKILLS
from evals.metrics import statistics
from evals.suite import plain, plans
from evals.suite.tables import score_table, table
from got.util.tables import number, span

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    from rich.table import Table

    from evals.core.records import Case, Score, Scored
    from evals.geneval2.atoms import Answer
    from evals.suite.plain import Group

DIRECTIONS = {**plans.DIRECTIONS, **dict.fromkeys(("am", "soft_am", "soft_gm"), "higher")}
"""Which way is better."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome(plans.Outcome):
    """What became of one image."""

    answers: tuple[Answer, ...]
    in_plan: tuple[Answer, ...] | None = None
    """The same of the chain's own boxes, taken as detections; None without a chain."""
    in_exact: tuple[Answer, ...] | None = None
    """The same of an exact drawing of the plan; None where none was looked at."""

    @property
    def answer_faults(self) -> list[str | None]:
        """For each answer one of `evals.suite.plans.FAULTS`, or None for a right one."""
        found = []
        for i, answer in enumerate(self.answers):
            exact = None if self.in_exact is None else self.in_exact[i].right
            plan = None if self.in_plan is None else self.in_plan[i].right
            found.append(plans.Outcome(correct=answer.right, plan_correct=plan, oracle_correct=exact).fault)
        return found


def as_line(score: Score) -> dict[str, Any]:
    """What a line of results.jsonl says of the answers, in the order of the questions."""
    assert isinstance(score, Outcome)
    return {
        "answers": [one.right for one in score.answers],
        "probabilities": [one.probability for one in score.answers],
        "answer_faults": score.answer_faults,
    }


def summarize(
    cases: Sequence[Case], scored: Sequence[Scored], failures: Sequence[Mapping[str, Any]], images_per_prompt: int
) -> dict[str, Any]:
    """Scores by number of atoms and overall, see `evals.suite.plain.summarize`, with skills, faults and layouts."""
    how: dict[str, Any] = {"directions": DIRECTIONS, "more": _more}
    return plain.summarize(cases, scored, failures, images_per_prompt, **how)


def _more(groups: Sequence[Group], rng: np.random.Generator) -> dict[str, Any]:
    return {**plain.values_of(groups, rng), **plans.summarize(groups, rng), "skills": by_skill(groups, rng)}


COUNT_PARTS: dict[str, Callable[[Answer], bool]] = {
    "count, one": lambda answer: answer.skill == "count" and answer.is_one,
    "count, more": lambda answer: answer.skill == "count" and not answer.is_one,
}
"""Questions about numbers, told apart by whether the number is one."""


def by_skill(groups: Sequence[Group], rng: np.random.Generator) -> dict[str, Any]:
    """Answers pooled over all questions of a skill, not means of prompts; those about "one" apart, too."""
    tests: dict[str, Callable[[Answer], bool]] = {}
    for skill in SKILLS:
        tests[skill] = lambda answer, skill=skill: answer.skill == skill  # type: ignore[misc]
        tests |= COUNT_PARTS if skill == "count" else {}
    return {name: block for name, of in tests.items() if (block := _skill(groups, of, rng))["hard"]["n"]}


def _skill(groups: Sequence[Group], of: Callable[[Answer], bool], rng: np.random.Generator) -> dict[str, Any]:
    every = [one for _, outcomes in groups for one in outcomes if isinstance(one, Outcome)]
    faults = collections.Counter(
        fault for one in every for answer, fault in zip(one.answers, one.answer_faults, strict=True) if of(answer)
    )
    right = plain.clusters(groups, lambda one: [answer.right for answer in one.answers if of(answer)])
    soft = plain.clusters(groups, lambda one: [answer.probability for answer in one.answers if of(answer)])
    return {
        "hard": statistics.share(*right).as_dict(),
        "soft": statistics.ratio(*soft, rng).as_dict(),
        "faults": {name: faults[name] for name in plans.FAULTS},
    }


def tables(scores: Mapping[str, Any]) -> list[Table]:
    """Scores by number of atoms and by skill, and what became of plans."""
    return [score_table(scores, scores["title"]), _skill_table(scores), *plans.tables(scores)]


def _skill_table(scores: Mapping[str, Any]) -> Table:
    skills = scores["overall"]["skills"]
    shown = [name for name in plans.FAULTS if any(block["faults"][name] for block in skills.values())]
    columns = ["right ↑", "95 %\ninterval", "soft ↑", "95 %\ninterval", "questions", "wrong"]
    columns += [name.replace("_", "\n") for name in shown]
    caption = "pooled over all questions of a skill; soft: mean probability of the right answer\n"
    caption += "a number of one is no atom, but it is asked, as in the published set"
    made = table("Questions by skill", columns, caption, first="skill")
    for name, block in skills.items():
        hard, soft, faults = block["hard"], block["soft"], block["faults"]
        cells = [number(hard["value"]), span(hard["low"], hard["high"]), number(soft["value"])]
        cells += [span(soft["low"], soft["high"]), str(hard["n"]), str(sum(faults.values()) or "·")]
        style = "dim" if "," in name else None
        made.add_row(name, *cells, *(str(faults[each] or "·") for each in shown), style=style)
    return made
