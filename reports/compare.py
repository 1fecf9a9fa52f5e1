"""Two runs case by case, and the gate that a change must pass.

A gate compares a run with a baseline: a small file of an earlier run's outcomes. Only like is compared with like: the
same prompts, seeds, detector and scorer. Then the difference is paired by case, and of three answers one is given:

- *pass*: the score did not fall by more than the margin;
- *regression*: it fell by more, and chance does not explain it;
- *cannot decide*: it fell by more, but so few cases may do that by chance; or the two do not compare.
"""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

from evals.metrics import statistics
from evals.records import UserError
from evals.rundir import differences
from reports.frames import load_lines, load_run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

PASS, REGRESSION, UNDECIDED = "pass", "regression", "cannot decide"
EXIT_CODES = {PASS: 0, REGRESSION: 1, UNDECIDED: 2}
_SEED = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """What remains of a run when only the verdicts matter."""

    name: str
    made_by: dict[str, Any]
    """What must be equal in two runs that are compared."""
    tasks: dict[str, str]
    """Task of each case."""
    right: dict[str, tuple[bool, ...]]
    """Verdicts of each case's images, in order; images without a score are left out."""

    def as_dict(self) -> dict[str, Any]:
        """JSON form: a string of 0 and 1 per case."""
        cases = {case: f"{self.tasks[case]} {''.join('01'[v] for v in values)}" for case, values in self.right.items()}
        return {"format": 1, "name": self.name, "made_by": self.made_by, "cases": cases}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of a comparison: a task, or all of them."""

    task: str
    before: float
    after: float
    difference: statistics.Difference
    words: str


def of_run(path: Path) -> Outcomes:
    """The outcomes of a finished run.

    Raises:
        UserError: The folder is no finished run.
    """
    run = load_run(path)
    try:
        identity = {stage: run.spec["identity"][stage] for stage in ("generate", "observe", "verdict")}
        generate = {key: identity["generate"][key] for key in ("suite", "images_per_prompt", "seed", "prompts_sha256")}
    except (KeyError, TypeError) as error:
        raise UserError(f"{path / 'run.json'} does not say how the run was made: {error} is missing") from None
    tasks: dict[str, str] = {}
    right: dict[str, list[bool]] = {}
    for line, seen in zip(load_lines(path / "results.jsonl"), load_lines(path / "observations.jsonl"), strict=True):
        tasks[seen["case"]] = line["tag"]
        right.setdefault(seen["case"], []).append(bool(line["correct"]))
    return Outcomes(
        name=path.name,
        made_by={"generate": generate, "observe": identity["observe"], "verdict": identity["verdict"]},
        tasks=tasks,
        right={case: tuple(values) for case, values in right.items()},
    )


def of_baseline(path: Path) -> Outcomes:
    """The outcomes in a baseline file.

    Raises:
        UserError: The file is missing or no baseline.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        cases = {case: text.split() for case, text in content["cases"].items()}
        return Outcomes(
            name=content["name"],
            made_by=content["made_by"],
            tasks={case: task for case, (task, _) in cases.items()},
            right={case: tuple(value == "1" for value in values) for case, (_, values) in cases.items()},
        )
    except FileNotFoundError:
        raise UserError(f"{path} is missing; `python -m reports baseline RUN --output {path}` makes one") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no baseline: {error}") from None


def compare(a: Outcomes, b: Outcomes) -> list[Row]:
    """Paired differences, b minus a, of each task and (first) of all: the mean over tasks, as in GenEval.

    Raises:
        UserError: The two have no case in common.
    """
    both = sorted(a.right.keys() & b.right.keys())
    if not both:
        raise UserError(f"{a.name} and {b.name} have no case in common")
    tasks = list(dict.fromkeys(a.tasks[case] for case in both))
    groups = {"overall": both} | {task: [case for case in both if a.tasks[case] == task] for task in tasks}
    rows = []
    for name, cases in groups.items():
        before, after = ([float(np.mean(one.right[case])) for case in cases] for one in (a, b))
        strata = [a.tasks[case] for case in cases]
        change = statistics.paired_difference(before, after, np.random.default_rng(_SEED), strata=strata)
        rows.append(
            Row(
                task=name,
                before=_mean_of_tasks(before, strata),
                after=_mean_of_tasks(after, strata),
                difference=change,
                words=statistics.wording(change),
            )
        )
    return rows


def _mean_of_tasks(values: Sequence[float], strata: Sequence[str]) -> float:
    return float(np.mean([np.mean([v for v, s in zip(values, strata, strict=True) if s == t]) for t in set(strata)]))


def flips(a: Outcomes, b: Outcomes) -> dict[str, list[tuple[str, int]]]:
    """Images whose verdict changed, as (case, index): those that were lost, and those that were won."""
    changed: dict[str, list[tuple[str, int]]] = {"lost": [], "won": []}
    for case in sorted(a.right.keys() & b.right.keys()):
        if len(a.right[case]) != len(b.right[case]):
            continue  # an image has no score in one of them: which index is which is not known here
        for index, (before, after) in enumerate(zip(a.right[case], b.right[case], strict=True)):
            if before != after:
                changed["won" if after else "lost"].append((case, index))
    return changed


def markdown(rows: Sequence[Row], a: Outcomes, b: Outcomes) -> str:
    """The comparison as a table, and the images that changed."""
    lines = [
        f"| task | {_cell(a.name)} | {_cell(b.name)} | difference | 95 % interval | p | cases | verdict |",
        "| --- | ---: | ---: | ---: | --- | ---: | ---: | --- |",
    ]
    for row in rows:
        change = row.difference
        lines.append(
            f"| {_cell(row.task)} | {row.before:.3f} | {row.after:.3f} | {change.value:+.3f} "
            f"| {change.low:+.3f} to {change.high:+.3f} | {change.p_value:.4f} | {change.cases} | {row.words} |"
        )
    for name, images in flips(a, b).items():
        shown = ", ".join(f"{case}/{index}" for case, index in images[:20])
        more = f" and {len(images) - 20} more" if len(images) > 20 else ""
        lines += ["", f"{len(images)} images {name}{': ' if images else ''}{shown}{more}"]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a gate says."""

    answer: str
    """``pass``, ``regression`` or ``cannot decide``."""
    why: str
    rows: tuple[Row, ...]


def decide(baseline: Outcomes, run: Outcomes, max_drop: float, alpha: float) -> Decision:
    """Whether a run may pass.

    Args:
        baseline: What was reached before.
        run: What is reached now.
        max_drop: The overall score may fall by so much, in [0, 1].
        alpha: Level of the permutation test, in (0, 1).
    """
    unlike = differences(baseline.made_by, run.made_by)
    if baseline.right.keys() != run.right.keys():
        unlike.append(f"{len(baseline.right.keys() ^ run.right.keys())} cases are in one of the two only")
    if unlike:
        return Decision(answer=UNDECIDED, why=f"not comparable: {'; '.join(unlike)}", rows=())
    rows = tuple(compare(baseline, run))
    change = rows[0].difference
    measured = f"overall {rows[0].before:.3f} -> {rows[0].after:.3f} ({change.value:+.3f}, p = {change.p_value:.4f})"
    if change.value >= -max_drop:
        return Decision(answer=PASS, why=f"{measured}; a drop of {max_drop:g} is allowed", rows=rows)
    if change.p_value < alpha:
        return Decision(answer=REGRESSION, why=f"{measured}; a drop of {max_drop:g} is allowed", rows=rows)
    why = f"{measured}; more than the allowed {max_drop:g}, but {change.cases} cases are too few to be sure"
    return Decision(answer=UNDECIDED, why=why, rows=rows)


def junit(decision: Decision) -> bytes:
    """The decision as JUnit XML, for systems that collect tests."""
    suite = ElementTree.Element("testsuite", name="geneval gate", tests="1")
    case = ElementTree.SubElement(suite, "testcase", classname="reports.gate", name="overall score")
    if decision.answer != PASS:
        kind = "failure" if decision.answer == REGRESSION else "error"
        ElementTree.SubElement(case, kind, message=f"{decision.answer}: {decision.why}")
    text: bytes = ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True)
    return text
