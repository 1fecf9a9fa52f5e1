"""One record per image of a run: what was asked, planned, seen and judged, and at which stage it went wrong."""

from __future__ import annotations

import dataclasses
import functools
import json
from typing import TYPE_CHECKING, Any

from evals.core.records import Detection, UserError
from evals.core.run_directory import key_of
from evals.geneval import scores
from evals.metrics import layout
from got.util.files import inside, read_object
from reports import public_scores
from reports.frames import as_written, load_lines

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from evals.core.run_directory import Key
    from reports.frames import Run

STAGES = {
    "plan_wrong": "plan",
    "drawing_wrong": "drawing",
    "detector_doubt": "detector in doubt",
    "unchecked": "unchecked",
    "no_plan": "no plan",
    "failed": "no image or no verdict",
    "untraced": "not recorded",
}
"""Where a wrong image went wrong; the first five are the scorer's, the others say that it cannot be known."""

JUDGED = ("right", "wrong")
NOT_JUDGED = "not judged"
GRADED = "judged"
OUTCOMES = (*JUDGED, "missing", NOT_JUDGED, GRADED)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SampleRecord:
    """One image of a run with everything that was found out about it."""

    case: str
    index: int
    task: str
    prompt: str
    outcome: str
    """One of :data:`OUTCOMES`; missing where there is no image or nothing was measured, not judged where nothing tells
    right from wrong, judged where a judge gave it a score of more than two values."""
    stage: str | None
    """One of :data:`STAGES`; None for an image that is right or not judged."""
    reason: str
    """What is wrong, a line each; of GenEval with the detections that nearly counted."""
    chain: str
    file: Path | None
    """The image; None if its place is not inside the run directory."""
    width: int
    height: int
    planned: tuple[layout.PlannedObject, ...]
    seen: tuple[Detection, ...]
    """Detections that counted, with their colours where one was asked for."""
    metadata: dict[str, Any]
    """What the benchmark asks for."""
    has_plan: bool
    source: Path | None = None
    """Copy of the image that an edit starts from, where the run keeps one."""
    target: Path | None = None
    """Copy of the image that it should lead to."""
    group: str | None = None
    """What it shares with other edits that are alike: their source image."""
    judge_score: float | None = None
    """What a judge gave it, in [0, 1]: the mean over repeats; None without a judge."""

    @property
    def reason_line(self) -> str:
        """The reason where there is one line for it."""
        return "; ".join(self.reason.splitlines())

    @property
    def key(self) -> str:
        """Case and index, as in ``00042/1``."""
        return f"{self.case}/{self.index}"

    @property
    def pictures(self) -> tuple[Path, ...]:
        """The images that show it, without those whose place is not known."""
        return tuple(file for file in (self.file, self.source, self.target) if file is not None)

    def fit(self) -> layout.LayoutFit | None:
        """How the image keeps to its plan; None without a plan."""
        if not self.has_plan or not self.width:
            return None
        boxes = layout.as_detections(self.planned, self.width, self.height)
        return layout.fit(boxes, self.seen, self.width, self.height)


def load_samples(run: Run) -> list[SampleRecord]:
    """All images of a run, those that failed last.

    Raises:
        UserError: The run's logs are missing, damaged, or not of one run.
    """
    with as_written(run.path):
        return _images(run)


def find_sample(samples: Iterable[SampleRecord], named: str, run: str) -> SampleRecord:
    """The sample that a person names by case and index (``00042/1``), or the first one of a case (``00042``).

    Raises:
        UserError: There is none.
    """
    samples = list(samples)
    for sample in samples:
        if named in (sample.key, sample.case):
            return sample
    case = named.rpartition("/")[0]
    known = [s.key for s in samples if s.case == case] or sorted({sample.case for sample in samples}) or ["none"]
    raise UserError(f"{run} has no sample {named[:40]!r}; it has {known[0]} to {known[-1]}")


def _images(run: Run) -> list[SampleRecord]:
    if run.public_scores is not None:
        lines = public_scores.checked(load_lines(run.public_scores), run.public_scores)
        return [_public(run, key, line) for key, line in lines]
    results, observations = (load_lines(run.path / f"{name}.jsonl") for name in ("results", "observations"))
    if len(results) != len(observations):
        raise UserError(f"{run.path} has {len(results)} results but {len(observations)} observations; score it again")
    chains = {key_of(line): line for line in _lines_if_any(run.path / "chains.jsonl")}
    faults = run.scores.get("faults") or {}
    copies = functools.cache(functools.partial(_copies, run.path))
    samples = []
    for result, seen in zip(results, observations, strict=True):
        key = key_of(seen)
        if result["correct"] and not run.tells_right_from_wrong:
            result = {**result, "correct": None}  # an older run, which called right whatever is not black
        options = run.scores.get("options")
        if options and run.scores.get("suite") == "geneval":
            detections = seen.get("detections", ())
            said = scores.explained(str(result["reason"]), str(result["tag"]), detections, options)
            result = {**result, "reason": said}
        sample = _judged(run.path, key, result, seen, chains.get(key, {}), faults, copies(key[0]))
        samples.append(_graded(sample, result["values"], run) if run.judged_as and "values" in result else sample)
    judged = {key_of(line) for line in observations}
    metadata = {seen["case"]: result for result, seen in zip(results, observations, strict=True)}
    failures = {key_of(line): line for line in _lines_if_any(run.path / "failures.jsonl")}
    for key, line in failures.items():
        if key not in judged:
            sibling = metadata.get(key[0])
            samples.append(_failed(run.path, key, line, chains.get(key, {}), sibling, copies(key[0])))
    if not any(sample.has_plan for sample in samples):  # of a model that writes none, its lack is no failure
        return [dataclasses.replace(p, stage=None) if p.stage == "no_plan" else p for p in samples]
    return samples


def _public(run: Run, key: Key, line: dict[str, Any]) -> SampleRecord:
    """An image of which only the public scorer's verdict is known."""
    seen, result = {"width": 0, "height": 0}, {**line, "metadata": json.dumps(line["metadata"])}
    sample = _judged(run.path, key, result, seen, {}, run.scores["faults"], {})
    there = sample.file is not None and sample.file.is_file()
    return sample if there else dataclasses.replace(sample, file=None)


def _lines_if_any(path: Path) -> list[dict[str, Any]]:
    return load_lines(path) if path.is_file() else []


def _judged(
    run: Path,
    key: Key,
    result: dict[str, Any],
    seen: dict[str, Any],
    chain: dict[str, Any],
    faults: dict[str, str],
    copies: dict[str, Path],
) -> SampleRecord:
    plan = seen.get("plan")
    outcome = {True: "right", False: "wrong", None: NOT_JUDGED}[result["correct"]]
    judged = [float(value) for value in result.get("judge", ()) if value is not None]
    score = sum(judged) / len(judged) if judged else None
    fault = faults.get(f"{key[0]}/{key[1]}", "untraced" if plan else "no_plan")
    colors = {(item["name"], *item["box_xyxy_px"]): item.get("color") for item in seen.get("detections", ())}
    details = json.loads(result.get("details", "{}"))  # an editing suite logs none
    return SampleRecord(
        case=key[0],
        index=key[1],
        task=_first(result, ("tag", "category")),
        prompt=_first(result, ("prompt", "instruction")),
        outcome=outcome,
        stage=(fault if fault in STAGES else "untraced") if outcome == "wrong" else None,
        reason=str(result["reason"]) or (f"judge: {score:.3f}" if outcome == NOT_JUDGED and score is not None else ""),
        chain=str(chain.get("chain") or ""),
        file=inside(run, str(result["filename"])),
        width=int(seen["width"]),
        height=int(seen["height"]),
        planned=tuple(layout.PlannedObject.from_dict(item) for item in (plan or {}).get("objects", ())),
        seen=tuple(
            Detection(name=str(name), score=float(score), box_xyxy_px=(x1, y1, x2, y2),
                      color=colors.get((name, x1, y1, x2, y2)))
            for name, boxes in details.items()
            for x1, y1, x2, y2, score in boxes
        ),
        metadata=json.loads(result.get("metadata", "{}")),
        has_plan=plan is not None,
        source=copies.get("source"),
        target=copies.get("target"),
        group=seen.get("group"),
        judge_score=score,
    )  # fmt: skip


def _graded(sample: SampleRecord, values: dict[str, float], run: Run) -> SampleRecord:
    """With what the judge of a judged benchmark gave it, as tables have it."""
    names = run.scores["metrics"]["names"]
    single = {how["of"][0]: (name, how) for name, how in reversed(names.items()) if len(how["of"]) == 1}
    told = [
        f"{name} {values[key] * how['times']:.{how['digits']}f}"
        for key, (name, how) in reversed(single.items())
        if key in values
    ]
    first = next(iter(names.values()))
    known = values.get(first["of"][0])
    if known is None:
        return dataclasses.replace(sample, reason=sample.reason or ", ".join(told))
    low, high = first["scale"]
    outcome = GRADED if sample.outcome == NOT_JUDGED else sample.outcome
    reason, score = sample.reason or ", ".join(told), (known - low) / (high - low)
    return dataclasses.replace(sample, outcome=outcome, reason=reason, judge_score=score)


def _first(record: dict[str, Any], names: tuple[str, str], unknown: str | None = None) -> str:
    """What stands under GenEval's name, or else under that of the editing suites."""
    value = record.get(names[0], record.get(names[1], unknown))
    if value is None:
        raise KeyError(names[0])
    return str(value)


def _failed(
    run: Path,
    key: Key,
    line: dict[str, Any],
    chain: dict[str, Any],
    sibling: dict[str, Any] | None,
    copies: dict[str, Path],
) -> SampleRecord:
    """A sample without a verdict; its prompt is known from another image of the case, or from the case's own file."""
    file = inside(run, f"images/{key[0]}/samples/{key[1]:04d}.png")
    told = sibling.get("metadata") if sibling else None
    metadata = json.loads(told) if told else _metadata(inside(run, f"images/{key[0]}/metadata.jsonl"))
    return SampleRecord(
        case=key[0],
        index=key[1],
        task=_first(sibling or metadata, ("tag", "category"), "unknown"),
        prompt=_first(sibling or metadata, ("prompt", "instruction"), ""),
        outcome="missing",
        stage="failed",
        reason=f"{line['stage']}: {line['error']}",
        chain=str(chain.get("chain") or ""),
        file=file if file is not None and file.is_file() else None,
        width=0,
        height=0,
        planned=layout.parse_plan(str(chain.get("chain") or "")),
        seen=(),
        metadata=metadata,
        has_plan=bool(chain.get("chain")),
        source=copies.get("source"),
        target=copies.get("target"),
    )


def _copies(run: Path, case: str) -> dict[str, Path]:
    """The copies of a case's source and target, as far as the run keeps them."""
    found = {name: inside(run, f"images/{case}/{name}.webp") for name in ("source", "target")}
    return {name: path for name, path in found.items() if path is not None and path.is_file()}


def _metadata(path: Path | None) -> dict[str, Any]:
    if path is None or not path.is_file():
        return {}
    return read_object(path, UserError)
