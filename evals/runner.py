"""generate -> observe -> verdict over a run directory. Survives a kill at any moment; redoes a stage from its log.

A batch is drawn and observed in one pass, while its images are in memory, then logged: images first, then chains, then
observations. Batches are fixed slices of the sample list, and a batch that is not complete in the logs is redone as a
whole: an interrupted run ends with the same bytes as one that never stopped.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import sys
from typing import TYPE_CHECKING, Any

from evals import sheets
from evals.progress import Progress
from evals.records import Sample, UserError, sample_seed
from evals.rundir import RunDirectory, append_lines, differences, write_atomic, write_lines
from evals.worker import Failed, RecordedImages, Worker

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from evals.protocols import Generator, Suite, Tools
    from evals.records import Case
    from evals.rundir import Key
    from evals.worker import Outcome

STAGES = ("generate", "observe", "verdict")

# Redoing a stage leaves what was decided before it untouched, so those arguments must be the run's own.
_FIXED = {None: STAGES, "generate": ("generate",), "observe": ("generate",), "verdict": ("generate", "observe")}

Log = dict["Key", dict[str, Any]]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything a run needs to know, resolved. Nothing heavy is built yet."""

    suite: Suite
    args: argparse.Namespace
    cases: list[Case]
    output: Path
    batch_size: int
    start: str | None
    """Stage to redo from; None resumes."""
    identity: dict[str, dict[str, Any]]
    """Per stage, the arguments that decide its outcome. A run directory belongs to one identity."""
    arguments: dict[str, Any]
    """As given and as resolved; for run.json."""
    machine: Callable[[], dict[str, Any]]
    """Versions, commit, device; for run.json. May import a heavy library, so only asked when a model will run."""
    make_generator: Callable[[], Generator]
    make_tools: Callable[[], Tools]
    engine: Callable[[Callable[[], Worker], Iterable[Sequence[Sample]]], Iterable[list[Outcome]]]

    @property
    def samples(self) -> list[Sample]:
        """Every image of the run, sorted by case and index."""
        return [
            Sample(case=case, index=index, seed=sample_seed(self.suite.name, case.id, index, self.args.seed))
            for case in self.cases
            for index in range(self.args.images_per_prompt)
        ]


def spread(cases: Sequence[Case], limit: int | None) -> list[Case]:
    """`limit` cases, shared evenly by the tasks and evenly spaced inside each; order kept. None keeps all.

    >>> from evals.records import Case
    >>> cases = [Case(id=str(i), prompt="", tag="ab"[i > 3], metadata={}) for i in range(10)]
    >>> [case.id for case in spread(cases, 4)]
    ['0', '2', '4', '7']
    """
    if limit is None or limit >= len(cases):
        return list(cases)
    tasks: dict[str, list[Case]] = {}
    for case in cases:
        tasks.setdefault(case.tag, []).append(case)
    quotas = dict.fromkeys(tasks, 0)
    while (left := limit - sum(quotas.values())) > 0:
        for tag in [tag for tag in tasks if quotas[tag] < len(tasks[tag])][:left]:
            quotas[tag] += 1
    kept = {members[i * len(members) // quotas[tag]].id for tag, members in tasks.items() for i in range(quotas[tag])}
    return [case for case in cases if case.id in kept]


def run(plan: Plan) -> dict[str, Any]:
    """Does what is left of a run and returns its scores. A finished run is only read.

    Raises:
        UserError: The directory is in use, was made with other arguments, or the disk is full.
    """
    directory = RunDirectory(plan.output)
    with directory.locked():
        _prepare(plan, directory)
        if not directory.scores.exists():
            _note_changes(plan, directory)
            try:
                _compute(plan, directory)
            except UserError:
                directory.forget_if_empty()
                raise
            _finish(plan, directory)
        scores: dict[str, Any] = json.loads(directory.scores.read_bytes())
        return scores


def _prepare(plan: Plan, directory: RunDirectory) -> None:
    """Checks that the directory is this run's, and clears what is to be redone."""
    spec = directory.read_spec()
    if spec is None and plan.start in ("observe", "verdict"):
        raise UserError(f"--from {plan.start} needs a run; {directory.path} has none (--output names another)")
    if spec is None or directory.is_empty():
        directory.write_json(directory.spec, _spec(plan, plan.machine(), redo=None))
        return
    _check_identity(plan, spec["identity"], directory)
    if plan.start is None or (spec.get("redo") == plan.start and spec["identity"] == plan.identity):
        return
    # The scores go first and the new identity is written last: at no moment does an old log carry a new name.
    directory.scores.unlink(missing_ok=True)
    if plan.start in ("generate", "observe"):
        directory.observations.unlink(missing_ok=True)
        kept = directory.load(directory.failures, _keys(plan)).values() if plan.start == "observe" else ()
        write_lines(directory.failures, [line for line in kept if line["stage"] == "generate"])
    if plan.start == "generate":
        directory.chains.unlink(missing_ok=True)
        directory.times.unlink(missing_ok=True)
    machine = spec["machine"] if plan.start == "verdict" else plan.machine()
    directory.write_json(directory.spec, _spec(plan, machine, redo=plan.start))


def _note_changes(plan: Plan, directory: RunDirectory) -> None:
    """Says and records that a run goes on with other code, packages or device than it began with.

    That is no reason to refuse: most changes of code move no pixel. But images of two versions must not mix silently.
    """
    spec = directory.read_spec()
    if spec is None or directory.is_empty() or plan.start == "verdict":
        return
    now = plan.machine()
    changed = differences({**spec["machine"], "started": None}, {**now, "started": None})
    if not changed or spec.get("resumed", [])[-1:] == [now]:
        return
    sys.stderr.write(f"warning: this run began elsewhere ({'; '.join(changed)}); its images may be of two kinds\n")
    directory.write_json(directory.spec, {**spec, "resumed": [*spec.get("resumed", []), now]})


def _spec(plan: Plan, machine: dict[str, Any], *, redo: str | None) -> dict[str, Any]:
    return {"arguments": plan.arguments, "machine": machine, "identity": plan.identity, "redo": redo}


def _check_identity(plan: Plan, old: dict[str, Any], directory: RunDirectory) -> None:
    changed = {stage: differences(old.get(stage, {}), plan.identity[stage]) for stage in STAGES}
    refused = [line for stage in _FIXED[plan.start] for line in changed[stage]]
    if not refused:
        return
    advice = "choose another --output"
    if not changed["generate"]:
        advice += f" or redo this one with --from {'observe' if changed['observe'] else 'verdict'}"
    raise UserError(f"{directory.path} was made with other arguments ({'; '.join(refused)}); {advice}")


def _keys(plan: Plan) -> set[Key]:
    return {(sample.case.id, sample.index) for sample in plan.samples}


def _compute(plan: Plan, directory: RunDirectory) -> None:
    """Draws and observes every batch that is not complete in the logs."""
    keys = _keys(plan)
    chains = directory.load(directory.chains, keys)
    failures = directory.load(directory.failures, keys)
    done = directory.load(directory.observations, keys).keys() | failures.keys()
    samples = plan.samples
    batches = [samples[i : i + plan.batch_size] for i in range(0, len(samples), plan.batch_size)]
    pending = [batch for batch in batches if any(_key(sample) not in done for sample in batch)]
    if not pending:
        return
    redo = (directory.read_spec() or {}).get("redo") == "observe"
    drawn = [batch for batch in pending if redo and all(_key(s) in chains or _key(s) in failures for s in batch)]
    undrawn = [batch for batch in pending if batch not in drawn]
    tools = functools.cache(plan.make_tools)

    def observer() -> Worker:
        return Worker(RecordedImages(directory, chains), tools(), plan.suite, plan.args, recorded=True)

    def drawer() -> Worker:
        return Worker(plan.make_generator(), tools(), plan.suite, plan.args, recorded=False)

    with Progress(len(samples), done=len(samples) - sum(map(len, pending))) as bar:
        again = [[sample for sample in batch if _key(sample) in chains] for batch in drawn]
        for make_worker, todo in ((observer, again), (drawer, undrawn)):
            for outcomes in plan.engine(make_worker, todo) if todo else ():
                _log(directory, outcomes)
                bar.advance(len(outcomes), sum(isinstance(each.observation, Failed) for each in outcomes))


def _key(sample: Sample) -> Key:
    return sample.case.id, sample.index


def _log(directory: RunDirectory, outcomes: list[Outcome]) -> None:
    """Writes a batch: files before the lines that speak of them."""
    chains, observations, failures, times = [], [], [], []
    for each in outcomes:
        sample, key = each.sample, {"case": each.sample.case.id, "index": each.sample.index}
        if sample.index == 0:
            directory.write_metadata(sample.case)
        if each.png is not None:
            write_atomic(directory.path / directory.image_name(sample), each.png)
            digest = hashlib.sha256(each.png).hexdigest()
            chains.append(
                {**key, "seed": sample.seed, "sha256": digest, "chain": each.chain, "warnings": list(each.warnings)}
            )
        drawn_in = {} if each.generate_s is None else {"generate_s": round(each.generate_s, 6)}
        times.append({**key, **drawn_in, "observe_s": round(each.observe_s, 6)})
        if isinstance(each.observation, Failed):
            failures.append({**key, "stage": each.observation.stage, "error": each.observation.error})
        else:
            observations.append({**key, **each.observation})
    append_lines(directory.times, times)
    append_lines(directory.chains, chains)
    append_lines(directory.observations, observations)
    append_lines(directory.failures, failures)


def _finish(plan: Plan, directory: RunDirectory) -> None:
    """Judges from the log and sums up. scores.json comes last: it marks a finished run."""
    samples, keys = plan.samples, _keys(plan)
    chains, seen = directory.load(directory.chains, keys), directory.load(directory.observations, keys)
    failed = {key: line for key, line in directory.load(directory.failures, keys).items() if key not in seen}
    for path, log in ((directory.chains, chains), (directory.observations, seen), (directory.failures, failed)):
        write_lines(path, [log[_key(sample)] for sample in samples if _key(sample) in log])
    observed = [sample for sample in samples if _key(sample) in seen]
    observations = [seen[_key(sample)] for sample in observed]
    results = [
        plan.suite.result(
            sample, directory.image_name(sample), observation, plan.suite.verdict(sample.case, observation, plan.args)
        )
        for sample, observation in zip(observed, observations, strict=True)
    ]
    write_lines(directory.results, results)
    failures = [failed[_key(sample)] for sample in samples if _key(sample) in failed]
    scores = plan.suite.summarize(plan.cases, results, observations, failures, plan.args)
    sheets.write_grids(directory.path, plan.cases, plan.args.images_per_prompt)
    plan.suite.sheets(directory.path, results, observations)
    directory.write_json(directory.scores, scores)
    spec = directory.read_spec()
    if spec is not None and spec["redo"]:
        directory.write_json(directory.spec, {**spec, "redo": None})
