"""The gate that a change must pass: a run against a baseline, a small file of an earlier run or that run itself.

Only like is compared with like: the same prompts, seeds, detector and scorer. Then the difference is paired by case,
and of three answers one is given:

- *pass*: the score did not fall by more than the margin;
- *regression*: it fell by more, and chance does not explain it, whatever images that are missing would have been;
- *cannot decide*: it fell by more, but so few cases may do that by chance; or images are missing, and it falls by more
  if they are wrong; or the two do not compare.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import numpy as np

from evals.core.run_directory import differences
from evals.core.vocabulary import task_title
from got.util.errors import harmless, visible
from got.util.images import open_if_any
from got.util.tables import code, counted, escaped, markdown, span
from reports import compare
from reports.samples import STAGES, load_samples

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from reports.compare import Outcomes, Row, Verdicts
    from reports.frames import Run
    from reports.samples import SampleRecord

PASS, REGRESSION, UNDECIDED = "pass", "regression", "cannot decide"
EXIT_CODES = {PASS: 0, REGRESSION: 1, UNDECIDED: 2}
_SHOWN = 40
"""Lost images in a summary; a page has them all."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a gate says."""

    answer: str
    """``pass``, ``regression`` or ``cannot decide``."""
    why: str
    rows: tuple[Row, ...]


def decide(baseline: Outcomes, run: Outcomes, max_drop: float, alpha: float) -> Decision:
    """Whether a run may pass. Images that the baseline has and the run has not count as wrong.

    Args:
        baseline: What was reached before.
        run: What is reached now.
        max_drop: The overall score may fall by so much, in [0, 1].
        alpha: Level of the permutation test, in (0, 1).
    """
    if unlike := _unlike(baseline, run):
        return Decision(answer=UNDECIDED, why=f"not comparable: {'; '.join(unlike)}", rows=())
    worst, best = (
        {case: _filled(values, run.right[case], guess) for case, values in baseline.right.items()}
        for guess in (False, True)
    )
    lost = sum(worst[case].count(False) - run.right[case].count(False) for case in worst)
    rows = tuple(compare.compare(baseline, dataclasses.replace(run, right=worst)))
    change = rows[0].difference
    why = f"overall {rows[0].before:.3f} → {rows[0].after:.3f} ({change.value:+.3f}, p = {change.p_value:.4f})"
    if lost:
        verb, they = ("is", "it") if lost == 1 else ("are", "they")
        why = f"{counted(lost, 'images')} that the baseline has {verb} missing; were {they} wrong: {why}"
    elif missing := run.images()[0]:
        why = f"{why}; {counted(missing, 'images', 'are')} missing in the baseline, too"
    if change.value >= -max_drop:
        return Decision(answer=PASS, why=f"{why}; a drop of {max_drop:g} is allowed", rows=rows)
    if lost:
        at_best = compare.compare(baseline, dataclasses.replace(run, right=best))[0].difference
        if at_best.value < -max_drop and at_best.p_value < alpha:
            why = f"{why}; were {they} right: {at_best.value:+.3f}; a drop of {max_drop:g} is allowed"
            return Decision(answer=REGRESSION, why=why, rows=rows)
        return Decision(answer=UNDECIDED, why=f"{why}; more than the allowed {max_drop:g}", rows=rows)
    if change.p_value < alpha:
        return Decision(answer=REGRESSION, why=f"{why}; a drop of {max_drop:g} is allowed", rows=rows)
    size = counted(change.cases, compare.unit(baseline, run), "are")
    why = f"{why}; more than the allowed {max_drop:g}, but {size} too few to be sure"
    return Decision(answer=UNDECIDED, why=f"{why} (python -m reports power says how many it takes)", rows=rows)


def _unlike(baseline: Outcomes, run: Outcomes) -> list[str]:
    """Why two do not compare, first what explains the rest; nothing where they do."""
    one, other = (of.made_by.get("generate", {}) for of in (baseline, run))
    suites = one.get("suite"), other.get("suite")
    if None not in suites and suites[0] != suites[1]:
        return [f"the baseline is of {suites[0]} and the run of {suites[1]}"]
    sizes = [(len(of.right), _images_each(of)) for of in (baseline, run)]
    if sizes[0] != sizes[1]:
        (cases, images), (own, each) = sizes
        size = f"{counted(cases, compare.unit(baseline, run))} with {counted(images, 'images')}"
        how = f"{_tasks_flag(baseline, run)}--limit {cases} --images-per-prompt {images}"
        return [f"the baseline has {size} each, the run {own:,} with {each}: run it with {how}"]
    asked = [{**of.made_by, "generate": {**made, "prompts_sha256": ""}} for of, made in ((baseline, one), (run, other))]
    found = differences(asked[0], asked[1])
    if one.get("prompts_sha256") != other.get("prompts_sha256") or baseline.right.keys() != run.right.keys():
        found.insert(0, f"their {compare.unit(baseline, run)} are not the same")
    return found


def _tasks_flag(baseline: Outcomes, run: Outcomes) -> str:
    """The flag, with a space behind it, that draws a baseline's tasks where a run has more; else nothing."""
    tasks, more = (set(of.tasks.values()) for of in (baseline, run))
    if not tasks < more:
        return ""
    listed = json.dumps(sorted(tasks)) if any("," in task for task in tasks) else ",".join(sorted(tasks))
    return f"--tasks {shlex.quote(listed)} "


def _images_each(of: Outcomes) -> int:
    """Images of each case; an older baseline leaves out those that are missing."""
    return int(of.made_by.get("generate", {}).get("images_per_prompt") or max(map(len, of.right.values()), default=0))


def _filled(before: Verdicts, after: Verdicts, guess: bool) -> Verdicts:
    """A case with a guess for each image that is missing now and was there before."""
    if len(before) == len(after):
        return tuple(guess if y is None and x is not None else y for x, y in zip(before, after, strict=True))
    known = [value for value in after if value is not None]
    return (*known, *[guess] * (len(before) - before.count(None) - len(known)))


# ------------------------------------------------------------------------------------------------------------- summary
def lost(baseline: Outcomes, run: Outcomes, samples: Sequence[SampleRecord]) -> list[SampleRecord]:
    """The images that were right before and are wrong or missing now, in order.

    Args:
        baseline: The earlier outcomes.
        run: The later ones.
        samples: All images of the later run.
    """
    if not (baseline.indexed and run.indexed):
        return []

    def was_right(sample: SampleRecord) -> bool:
        values = baseline.right.get(sample.case, ())
        return sample.index < len(values) and values[sample.index] is True

    gone = [p for p in samples if p.outcome in ("wrong", "missing") and was_right(p)]
    return sorted(gone, key=lambda sample: (sample.case, sample.index))


def summary(
    decision: Decision,
    baseline: Outcomes,
    outcomes: Outcomes,
    run: Run,
    before: Run | None = None,
    *,
    form: str = "markdown",
) -> str:
    """The decision: what changed, by task, and each image that was lost with what opens it.

    Args:
        decision: What the gate says.
        baseline: The earlier outcomes.
        outcomes: The later ones.
        run: The later run.
        before: The earlier run, where its images are at hand.
        form: ``text`` for a terminal, or ``markdown``.
    """
    clean = compare.CLEAN[form]
    answer = clean(f"{decision.answer}: {decision.why}")
    parts = [answer if form == "text" else answer.replace(decision.answer, f"**{decision.answer}**", 1)]
    if not decision.rows:
        return parts[0] + "\n"
    parts.append(compare.changed_settings(baseline, outcomes, form))
    gone = lost(baseline, outcomes, load_samples(run))
    # Here images that are missing count as wrong, so none of their cases is left out.
    left_out = dataclasses.replace(compare.unpaired(baseline, outcomes), without_verdict=0)
    said, ways = left_out.sentences(baseline.name, run.name), ["won"] if gone else ["lost", "won"]
    parts.append(compare.shown(decision.rows, baseline, outcomes, said, ways, form=form))
    if gone:
        files = None if before is None else {sample.key: sample.file for sample in load_samples(before)}
        parts.append(_lost_list(gone, run, files) if form == "text" else _lost_table(gone, run, files))
    if before is not None:
        parts.append(clean(pixels(before, run)))
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _lost_table(gone: Sequence[SampleRecord], run: Run, before: Mapping[str, Path | None] | None) -> str:
    rows = []
    for sample in gone[:_SHOWN]:
        stage = STAGES.get(sample.stage or "", "")
        cells = [sample.key, task_title(sample.task), sample.prompt, sample.reason_line, stage]
        if before is not None:
            cells += [str(before.get(sample.key) or ""), str(sample.file or "no image")]
        rows.append([*map(escaped, cells), code(_opens(sample, run))])
    header = ["image", "task", "prompt", "reason", "failed at", *(["before", "after"] * bool(before)), "open it with"]
    return f"Images lost: {len(gone):,}\n\n" + markdown(header, rows, words=len(header)) + _more(gone)


def _lost_list(gone: Sequence[SampleRecord], run: Run, before: Mapping[str, Path | None] | None) -> str:
    blocks = []
    for sample in gone[:_SHOWN]:
        failed = f" (failed at: {STAGES[sample.stage]})" if sample.stage in STAGES else ""
        lines = [f"{sample.key}: {sample.prompt}", f"{sample.reason_line}{failed}", _opens(sample, run)]
        if before is not None:
            lines += [f"before: {before.get(sample.key) or 'no image'}", f"after: {sample.file or 'no image'}"]
        blocks.append("\n    ".join(map(visible, lines)))
    return "\n".join([f"Images lost: {len(gone):,}", *blocks]) + _more(gone)


def _more(gone: Sequence[SampleRecord]) -> str:
    return f"\n\nand {len(gone) - _SHOWN:,} more" if len(gone) > _SHOWN else ""


def _opens(sample: SampleRecord, run: Run) -> str:
    """The command that draws a sample's way from prompt to verdict."""
    file = f"lost-{sample.case}-{sample.index}.png"
    return shlex.join(["python", "-m", "reports", "teaser", str(run.path), sample.key, "--output", file])


def pixels(before: Run, after: Run) -> str:
    """How far the images of two runs differ: equal ones, and the mean absolute difference of the others' pixels."""
    first = {sample.key: sample.file for sample in load_samples(before)}
    equal, apart = 0, []
    for sample in load_samples(after):
        one, other = open_if_any(first.get(sample.key)), open_if_any(sample.file)
        if one is None or other is None:
            continue
        if one.size != other.size:
            other = other.resize(one.size)
        distance = float(np.mean(np.abs(np.asarray(one, dtype=np.float32) - np.asarray(other, dtype=np.float32)))) / 255
        equal += distance == 0
        apart += [(distance, sample.key)] if distance else []
    total = equal + len(apart)
    if not apart:
        return f"Images: {equal:,} of {total:,} are equal, pixel by pixel."
    middle, (most, key) = float(np.median([distance for distance, _ in apart])), max(apart)
    return (
        f"Images: {equal:,} of {total:,} are equal, pixel by pixel. The others differ by {middle:.4f} in the median, "
        f"{most:.4f} at most ({key}): mean absolute difference of pixels, 0 to 1."
    )


def junit(decision: Decision, suite: str, max_drop: float, gone: Sequence[SampleRecord] = ()) -> bytes:
    """The decision as JUnit XML, for systems that collect tests: a case for the score, and one for each task.

    A task fails where the gate does not pass and the task fell by more than is allowed.

    Args:
        decision: What the gate says.
        suite: Name of the benchmark.
        max_drop: What the gate allows.
        gone: The images that were lost.
    """
    by_task: dict[str, list[str]] = {}
    for sample in gone:
        by_task.setdefault(sample.task, []).append(f"lost {sample.key}: {sample.prompt}: {sample.reason_line}")
    cases = [("overall score", f"{decision.answer}: {decision.why}", decision.answer != PASS)]
    for row in decision.rows[1:]:
        change = row.difference
        said = (
            f"{row.before:.3f} → {row.after:.3f} ({change.value:+z.3f}, {span(change.low, change.high, signed=True)}, "
        )
        said += f"p = {change.p_value:.4f}): {row.words}"
        failed = decision.answer != PASS and change.value < -max_drop
        cases.append((task_title(row.task), "\n".join([said, *by_task.get(row.task, ())]), failed))
    failures = sum(failed for *_, failed in cases)
    kind = "failure" if decision.answer == REGRESSION else "error"
    counts: dict[str, str] = {
        "failures": str(failures * (kind == "failure")),
        "errors": str(failures * (kind == "error")),
    }
    tests = ElementTree.Element("testsuite", {"name": f"{suite} gate", "tests": str(len(cases)), **counts})
    for name, said, failed in cases:
        case = ElementTree.SubElement(tests, "testcase", classname=f"reports.gate.{suite}", name=visible(name))
        if failed:
            message = (
                f"{decision.answer}: more than the allowed drop of {max_drop:g}" if decision.rows else decision.answer
            )
            ElementTree.SubElement(case, kind, message=message).text = harmless(said)
        else:
            ElementTree.SubElement(case, "system-out").text = harmless(said)
    text: bytes = ElementTree.tostring(tests, encoding="utf-8", xml_declaration=True)
    return text
