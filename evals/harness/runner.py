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
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.core import contact_sheets
from evals.core.progress import Progress
from evals.core.records import Sample, UserError, note, sample_seed
from evals.core.run_directory import (
    RunDirectory,
    append_lines,
    differences,
    key_of,
    read_lines,
    write_atomic,
    write_lines,
)
from evals.generators.folder_images import change, content, counted_changes
from evals.harness.worker import Failed, RecordedImages, Worker, check_classes

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Sequence

    from evals.core.protocols import Generator, Suite, Tools
    from evals.core.records import Case
    from evals.core.run_directory import Key
    from evals.harness.worker import Outcome

STAGES = ("generate", "observe", "verdict")

# Redoing a stage leaves what was decided before it untouched, so those arguments must be the run's own.
_FIXED = {None: STAGES, "generate": ("generate",), "observe": ("generate",), "verdict": ("generate", "observe")}

# Stages of which a sample that failed by an exception is tried again.
_RETRIED = {None: ("generate", "observe"), "generate": ("generate", "observe"), "observe": ("observe",), "verdict": ()}

# Parts of an identity that lie in files, not in arguments.
_FILES = ("weights_sha256", "folder_sha256")
# ... or come from the environment as well.
_PLACES = (*_FILES, "judge_place")

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
    sources: Sequence[dict[str, Any]] = ()
    """Of ``--model folder:PATH``, what each sample is made of, see `evals.generators.folder_images.fingerprints`."""

    @property
    def samples(self) -> list[Sample]:
        """Every image of the run, sorted by case and index."""
        return [
            Sample(case=case, index=index, seed=sample_seed(self.suite.name, case.id, index, self.args.seed))
            for case in self.cases
            for index in range(self.args.images_per_prompt)
        ]


def run(plan: Plan) -> dict[str, Any]:
    """Does what is left of a run and returns its scores.

    A finished run is only read, unless samples of it failed by an exception: these are tried again.

    Raises:
        UserError: The directory is in use, was made with other arguments, or the disk is full.
    """
    directory = RunDirectory(plan.output)
    with directory.locked():
        begun = directory.spec.exists()
        try:
            plan = _prepare(_build_once(plan), directory)
        except UserError:
            if not begun:
                directory.forget_if_empty()
            raise
        finished = directory.read_scores()
        logs = _Logs.read(plan, directory)
        if finished is None or logs.retried:
            try:
                _note_changes(plan, directory)
                _compute(plan, directory, logs)
            except UserError as error:
                directory.forget_if_empty()
                if finished is None:
                    raise
                raise UserError(f"{error} (--from verdict shows the run as it is)") from error
            _finish(plan, directory)
        scores: dict[str, Any] = json.loads(directory.scores.read_bytes())
        return scores


def _build_once(plan: Plan) -> Plan:
    """The plan with a memory: what was built to see whether it can be used is what is used then."""

    @functools.cache
    def make_tools() -> Tools:
        tools = plan.make_tools()
        check_classes(plan.suite, plan.cases, tools, allowed=plan.args.allow_missing_classes)
        if plan.suite.prepare is not None:
            plan.suite.prepare(tools, plan.args)
        return tools

    machine, make_generator = functools.cache(plan.machine), functools.cache(plan.make_generator)
    return dataclasses.replace(plan, machine=machine, make_generator=make_generator, make_tools=make_tools)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Logs:
    """What the logs say of a plan's samples."""

    chains: Log
    observations: Log
    failures: Log
    """Of samples without an observation."""
    retried: set[Key]
    """Samples that this command tries again: their failure may go away, or their observation lacks something."""

    @classmethod
    def read(cls, plan: Plan, directory: RunDirectory) -> _Logs:
        keys = {_key(sample) for sample in plan.samples}
        seen = directory.load(directory.observations, keys)
        failed = {key: line for key, line in directory.load(directory.failures, keys).items() if key not in seen}
        again = {key for key, line in failed.items() if line.get("raised") and line["stage"] in _RETRIED[plan.start]}
        if plan.suite.incomplete is not None and plan.start != "verdict" and directory.read_scores() is None:
            again |= {key for key, line in seen.items() if plan.suite.incomplete(line)}
        return cls(chains=directory.load(directory.chains, keys), observations=seen, failures=failed, retried=again)

    def drawn(self, samples: Iterable[Sample]) -> bool:
        """Whether each sample has its image, or none for good."""
        final = self.failures.keys() - self.retried
        return all(_key(sample) in self.chains or _key(sample) in final for sample in samples)

    def logged(self, samples: Iterable[Sample]) -> bool:
        """Whether each sample has its observation, or none, be it for good or not."""
        return all(_key(sample) in self.observations or _key(sample) in self.failures for sample in samples)


def _prepare(plan: Plan, directory: RunDirectory) -> Plan:
    """Checks that the directory is this run's, and clears what is to be redone.

    Returns:
        The plan, with the identity that the run now has.
    """
    spec = directory.read_spec()
    if spec is None and plan.start in ("observe", "verdict"):
        raise UserError(f"--from {plan.start} needs a run; {directory.path} has none (--output names another)")
    if spec is not None and spec.get("clearing"):  # as a kill has left it
        spec = _clear(directory, spec)
    if spec is None or directory.is_empty():
        directory.write_json(directory.spec, _spec(plan, plan.machine(), redo=None))
        _write_sources(plan, directory)
        return plan
    identity = spec["identity"]
    spec["identity"] = _folder_as_now(plan, identity)
    logs = _Logs.read(plan, directory)
    plan = dataclasses.replace(plan, identity=_identity(plan, spec["identity"], logs))
    changed = _changed_images(plan, directory, spec["identity"]["generate"])
    if changed:
        spec["identity"] = {**spec["identity"], "generate": plan.identity["generate"]}
    _check_identity(plan, spec["identity"], directory)
    if changed:
        _redo_images(plan, directory, spec, changed)
    elif "folder_sha256" in spec["identity"]["generate"].keys() - identity.get("generate", {}).keys():
        note(f"{directory.path} does not say which images it was made of; not checked, taken to be those of now")
        _write_sources(plan, directory)
        _write_folder(plan, directory, spec)
    goes_on = spec.get("redo") == plan.start and spec["identity"] == plan.identity and directory.read_scores() is None
    if plan.start is None or goes_on:
        return plan
    _try_out(plan, directory, logs)
    # An observation that was begun anew is not finished by judging it.
    redo = spec.get("redo") or plan.start if plan.start == "verdict" else plan.start
    machine = spec["machine"] if plan.start == "verdict" else plan.machine()
    # From here on the run is the new one: a kill leaves the rest of the clearing to the next command.
    spec = {**_spec(plan, machine, redo=redo), "clearing": plan.start}
    directory.write_json(directory.spec, spec)
    _clear(directory, spec)
    if plan.start == "generate":
        _write_sources(plan, directory)
    return plan


def _try_out(plan: Plan, directory: RunDirectory, logs: _Logs) -> None:
    """Finds out whether a redone stage can be done at all, while the old results are still there."""
    if plan.start == "verdict":
        _judge(plan, directory, logs)
        return
    plan.machine()
    if plan.start == "generate" or not logs.drawn(plan.samples):
        plan.make_generator()
    plan.make_tools()


def _clear(directory: RunDirectory, spec: dict[str, Any]) -> dict[str, Any]:
    """Takes away what is to be redone; returns run.json as it then is."""
    directory.scores.unlink(missing_ok=True)
    if spec["clearing"] in ("generate", "observe"):
        directory.observations.unlink(missing_ok=True)
        kept = read_lines(directory.failures)[0] if spec["clearing"] == "observe" else []
        drawn = {key_of(line) for line in read_lines(directory.chains)[0]}  # at another try, perhaps
        left = [line for line in kept if line.get("stage") == "generate" and key_of(line) not in drawn]
        write_lines(directory.failures, left)
    if spec["clearing"] == "generate":
        directory.chains.unlink(missing_ok=True)
        directory.times.unlink(missing_ok=True)
    cleared = {key: value for key, value in spec.items() if key != "clearing"}
    directory.write_json(directory.spec, cleared)
    return cleared


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


def _identity(plan: Plan, old: dict[str, Any], logs: _Logs) -> dict[str, dict[str, Any]]:
    """The plan's identity; stages that stand keep the files that they were made of, moved or changed as they may be."""
    stand: tuple[str, ...] = ()
    if plan.start == "observe" and logs.drawn(plan.samples):
        stand = ("generate",)
    elif plan.start == "verdict" and logs.logged(plan.samples):
        stand = ("generate", "observe")
    identity = dict(plan.identity)
    for stage in stand:
        arguments = {key: value for key, value in plan.identity[stage].items() if key not in _PLACES}
        identity[stage] = arguments | {key: old[stage][key] for key in _PLACES if key in old[stage]}
    generate, before = identity["generate"], old.get("generate", {})
    if plan.start != "generate" and "folder_sha256" not in before:
        # Older runs do not say which images they were given.
        generate = {key: value for key, value in generate.items() if key != "folder_sha256"}
    elif "folder_sha256" in generate and generate["folder_sha256"] == before["folder_sha256"]:
        generate = {**generate, "model": before["model"]}  # the same images at another place
    return {**identity, "generate": generate}


def _folder_as_now(plan: Plan, identity: dict[str, Any]) -> dict[str, Any]:
    """An older run's identity as it would be now: its folder's path resolved, and its images taken to be as they are.

    Later stages go by what the run has, whatever the folder holds.
    """
    generate = {key: value for key, value in identity.get("generate", {}).items() if key != "images_sha256"}
    kind, _, place = str(generate.get("model", "")).partition(":")
    if kind == "folder":
        generate["model"] = f"folder:{Path(place).resolve()}"
        now = plan.identity["generate"]
        if plan.start is None and generate["model"] == now["model"]:
            generate = {"folder_sha256": now["folder_sha256"], **generate}
    return {**identity, "generate": generate}


def _write_sources(plan: Plan, directory: RunDirectory) -> None:
    if plan.sources:
        write_lines(directory.sources, plan.sources)


def _write_folder(plan: Plan, directory: RunDirectory, spec: dict[str, Any]) -> None:
    """Writes run.json with what the folder holds now."""
    arguments = {**spec["arguments"], "folder": plan.arguments["folder"]}
    directory.write_json(directory.spec, {**spec, "arguments": arguments})


def _changed_images(plan: Plan, directory: RunDirectory, old: dict[str, Any]) -> dict[Key, tuple[str, str]]:
    """The samples whose file in the user's folder is another: ``changed``, ``added`` or ``deleted``, and its name.

    Args:
        plan: The command's plan.
        directory: The run.
        old: The generate part of its identity.

    Raises:
        UserError: Most files have changed: these are other images, and the run's results would be lost.
    """
    before: Log = {key_of(line): line for line in read_lines(directory.sources)[0]}
    now: Log = {key_of(line): line for line in plan.sources}
    changed = [key for key in now if key not in before or content(now[key]) != content(before[key])]
    replaced = [key for key in changed if before.get(key, {}).get("sha256")]
    same_otherwise = all(line.startswith("folder_sha256") for line in differences(old, plan.identity["generate"]))
    known = sum(bool(line["sha256"]) for line in before.values())
    if plan.start is not None or not before or not same_otherwise:
        return {}
    found = {key: change(before.get(key), now[key]) for key in changed}
    if 2 * len(replaced) > known:
        what = f"of its {known:,} images {counted_changes([found[key] for key in replaced])}"
        advice = "choose another --output or redo this one with --from generate"
        raise UserError(f"{directory.path} was made with other files ({what}); {advice}")
    return found


def _redo_images(
    plan: Plan, directory: RunDirectory, spec: dict[str, Any], changed: dict[Key, tuple[str, str]]
) -> None:
    """Forgets changed samples, so that they are done again, and says which; not before it is known that they can be."""
    plan.machine()
    plan.make_generator()
    plan.make_tools()
    redone = [batch for batch in _batches(plan) if any(_key(sample) in changed for sample in batch)]
    others = sum(map(len, redone)) - len(changed)
    what = f"of {len(plan.sources):,} images {counted_changes(changed.values())} since this run was made: done again"
    note(f"{what}, with {others:,} others of the same batches" if others else what)
    directory.scores.unlink(missing_ok=True)
    for log in (directory.chains, directory.observations, directory.failures):
        write_lines(log, [line for line in read_lines(log)[0] if key_of(line) not in changed])
    for sample in plan.samples:
        if _key(sample) in changed:
            (directory.path / directory.image_name(sample)).unlink(missing_ok=True)
    _write_folder(plan, directory, spec)
    _write_sources(plan, directory)  # last: a kill before it leaves the same to the next command


def _check_identity(plan: Plan, old: dict[str, Any], directory: RunDirectory) -> None:
    changed = {stage: differences(old.get(stage, {}), plan.identity[stage]) for stage in STAGES}
    refused = [line for stage in _FIXED[plan.start] for line in changed[stage]]
    if plan.start == "generate":  # draws from what the files hold now
        refused = [line for line in refused if not line.startswith(_FILES)]
    if not refused:
        return
    what = "files" if all(line.startswith(_FILES) for line in refused) else "arguments"
    advice = "choose another --output"
    if all(line.startswith(_FILES) for line in changed["generate"]):
        stage = next(stage for stage in STAGES if changed[stage])
        advice += f" or redo this one with --from {stage}"
    raise UserError(f"{directory.path} was made with other {what} ({'; '.join(refused)}); {advice}")


def _batches(plan: Plan) -> list[list[Sample]]:
    """The samples in fixed slices, each drawn and observed as a whole."""
    samples = plan.samples
    return [samples[i : i + plan.batch_size] for i in range(0, len(samples), plan.batch_size)]


def _compute(plan: Plan, directory: RunDirectory, logs: _Logs) -> None:
    """Draws and observes every batch that is not complete in the logs, or in which a sample is tried again."""
    samples, batches = plan.samples, _batches(plan)
    done = (logs.observations.keys() | logs.failures.keys()) - logs.retried
    pending = [batch for batch in batches if any(_key(sample) not in done for sample in batch)]
    if not pending:
        return
    redo = (directory.read_spec() or {}).get("redo") == "observe"

    def drawn(batch: Sequence[Sample]) -> bool:
        return logs.drawn(batch) and (redo or logs.logged(batch))

    def observer() -> Worker:
        images = RecordedImages(directory, logs.chains)
        return Worker(images, plan.make_tools(), plan.suite, plan.args, recorded=True, hard=logs.retried)

    def drawer() -> Worker:
        generator, tools = plan.make_generator(), plan.make_tools()
        return Worker(generator, tools, plan.suite, plan.args, recorded=False, hard=logs.retried)

    with Progress(len(samples), done=len(samples) - sum(map(len, pending))) as bar:
        # What has failed before waits until the rest is done.
        for late in (False, True):
            todo = [batch for batch in pending if any(_key(sample) in logs.retried for sample in batch) == late]
            again = [[sample for sample in batch if _key(sample) in logs.chains] for batch in todo if drawn(batch)]
            undrawn = [batch for batch in todo if not drawn(batch)]
            for make_worker, batches in ((observer, again), (drawer, undrawn)):
                if batches:
                    _log_all(directory, plan.engine(make_worker, batches), bar)


def _log_all(directory: RunDirectory, results: Iterable[list[Outcome]], bar: Progress) -> None:
    """Writes batches as they come. One in which nothing but exceptions came waits for the next.

    If that is no better and ends the run, it was no fault of these samples: none of them is a failure then.
    """
    waiting: list[list[Outcome]] = []
    for outcomes in results:
        failed = [each.observation for each in outcomes if isinstance(each.observation, Failed)]
        waiting.append(outcomes)
        if sum(one.raised for one in failed) < len(outcomes):
            while waiting:
                _log(directory, waiting.pop(0))
        bar.advance(len(outcomes), len(failed))
    for outcomes in waiting:
        _log(directory, outcomes)


def _key(sample: Sample) -> Key:
    return sample.case.id, sample.index


def _log(directory: RunDirectory, outcomes: list[Outcome]) -> None:
    """Writes a batch: files before the lines that speak of them. What is added to is not finished any more."""
    directory.scores.unlink(missing_ok=True)
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
            failed = each.observation
            raised = {"raised": True} if failed.raised else {}
            lacking = {"missing_classes": list(failed.missing_classes)} if failed.missing_classes else {}
            failures.append({**key, "stage": failed.stage, "error": failed.error, **raised, **lacking})
        else:
            observations.append({**key, **each.observation})
    append_lines(directory.times, times)
    append_lines(directory.chains, chains)
    append_lines(directory.observations, observations)
    append_lines(directory.failures, failures)


def _finish(plan: Plan, directory: RunDirectory) -> None:
    """Judges from the log and sums up. scores.json comes last: it marks a finished run."""
    samples, logs = plan.samples, _Logs.read(plan, directory)
    kept = {directory.chains: logs.chains, directory.observations: logs.observations, directory.failures: logs.failures}
    in_order = {path: [log[_key(sample)] for sample in samples if _key(sample) in log] for path, log in kept.items()}
    for path, lines in in_order.items():
        write_lines(path, lines)
    observations, failures = in_order[directory.observations], in_order[directory.failures]
    results = _judge(plan, directory, logs)
    write_lines(directory.results, results)
    scores = plan.suite.summarize(plan.cases, results, observations, failures, plan.args)
    contact_sheets.write_grids(directory.path, plan.cases, plan.args.images_per_prompt)
    plan.suite.sheets(directory.path, results, observations)
    directory.write_json(directory.scores, scores)
    spec = directory.read_spec()
    if spec is not None and spec["redo"]:
        directory.write_json(directory.spec, {**spec, "redo": None})


def _judge(plan: Plan, directory: RunDirectory, logs: _Logs) -> list[dict[str, Any]]:
    """The lines of results.jsonl."""
    results = []
    for sample in plan.samples:
        observation = logs.observations.get(_key(sample))
        if observation is not None:
            verdict = plan.suite.verdict(sample.case, observation, plan.args)
            results.append(plan.suite.result(sample, directory.image_name(sample), observation, verdict))
    return results
