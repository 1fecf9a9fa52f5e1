"""generate -> observe -> verdict over a run directory. Survives a kill at any moment; redoes a stage from its log.

A batch is drawn and observed in one pass, while its images are in memory, then logged: images first, then chains, then
observations. Batches are fixed slices of the sample list, and a batch that is not complete in the logs is redone as a
whole: an interrupted run ends with the same bytes as one that never stopped. An image is scored once; results, scores
and sheets are made of that.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.core import contact_sheets
from evals.core.folder_listing import some
from evals.core.options import GENERATE, OBSERVE, STAGES, VERDICT
from evals.core.records import Scored, UserError, note, unread
from evals.core.run_directory import RunDirectory, differences, key_of
from evals.generators.folder_images import counted_changes
from evals.harness import identity as identities
from evals.harness.engines import ENGINES, LocalEngine
from evals.harness.outcomes import Failed, Guard
from evals.harness.worker import Job
from got.util.errors import first_line, warn
from got.util.files import write_atomic
from got.util.progress import Progress
from got.util.tables import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from evals.core.records import Sample, Score
    from evals.core.run_directory import Key
    from evals.harness.engines import Engine
    from evals.harness.outcomes import Outcome
    from evals.harness.plan import Plan

# Stages of which a sample that failed by an exception is tried again.
_RETRIED = {None: (GENERATE, OBSERVE), GENERATE: (GENERATE, OBSERVE), OBSERVE: (OBSERVE,), VERDICT: ()}

Log = dict["Key", dict[str, Any]]


def run(plan: Plan, engine: Engine | None = None) -> dict[str, Any]:
    """Does what is left of a run and returns its scores.

    A finished run is only read, unless samples of it failed by an exception: these are tried again.

    Args:
        plan: The run.
        engine: Where samples are computed, for runs that share one; None opens the plan's own.

    Raises:
        UserError: The directory is in use, was made with other arguments, or the disk is full.
    """
    if engine is None:
        with ENGINES[plan.settings.engine](plan.settings) as own:
            return run(plan, own)
    directory = RunDirectory(plan.output, part=plan.settings.shard is not None)
    with directory.locked():
        begun = directory.spec.exists()
        this = _Run(plan, directory, engine)
        try:
            this.prepare()
        except UserError:
            if not begun:
                directory.forget_if_empty()
            raise
        finished = directory.read_scores()
        logs = _Logs.read(plan, directory)
        for log in (directory.times, *([] if plan.settings.shard else [directory.results])):
            directory.mended(log)
        if finished is None or logs.retried or directory.is_damaged:
            try:
                this.note_changes()
                this.compute(logs)
            except UserError as error:
                directory.check_there()
                directory.forget_if_empty()
                if finished is None:
                    raise
                raise UserError(f"{error} (--from verdict shows the run as it is)") from error
            this.finish()
        return _scores_of(directory)


def finish(plan: Plan, directory: RunDirectory) -> dict[str, Any]:
    """Scores what the logs of a directory hold, sums it up and returns the scores; for one that this process holds."""
    _Run(plan, directory, LocalEngine(plan.settings)).finish()
    return _scores_of(directory)


def _scores_of(directory: RunDirectory) -> dict[str, Any]:
    scores = directory.read_scores()
    assert scores is not None, "a run that is done has scores"
    return scores


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Logs:
    """What the logs say of a plan's samples."""

    chains: Log
    observations: Log
    failures: Log
    """Failures of samples without an observation."""
    retried: frozenset[Key]
    """Samples that this command tries again: their failure may go away, or their observation lacks something."""

    @classmethod
    def read(cls, plan: Plan, directory: RunDirectory) -> _Logs:
        keys, start = {_key(sample) for sample in plan.samples}, plan.settings.start
        read = functools.partial(directory.load, keys=keys, mend=start != VERDICT)
        chains, seen, failures = map(read, (directory.chains, directory.observations, directory.failures))
        if directory.is_damaged or start != VERDICT:  # where an image's own line is lost, both are made again
            seen = {key: line for key, line in seen.items() if key in chains}
        failed = {key: line for key, line in failures.items() if key not in seen}
        again = {key for key, line in failed.items() if line.get("raised") and line["stage"] in _RETRIED[start]}
        if start != VERDICT and directory.read_scores() is None:
            again |= {key for key, line in seen.items() if plan.suite.incomplete(line)}
            if all(plan.suite.unanswered(line) for line in seen.values()):
                again |= seen.keys()
        return cls(chains=chains, observations=seen, failures=failed, retried=frozenset(again))

    def drawn(self, samples: Iterable[Sample]) -> bool:
        """Whether each sample has its image, or is known to have none."""
        final = self.failures.keys() - self.retried
        return all(_key(sample) in self.chains or _key(sample) in final for sample in samples)

    def logged(self, samples: Iterable[Sample]) -> bool:
        """Whether each sample has its observation, or a recorded failure."""
        return all(_key(sample) in self.observations or _key(sample) in self.failures for sample in samples)


class _Run:
    """A plan at work in its directory."""

    def __init__(self, plan: Plan, directory: RunDirectory, engine: Engine) -> None:
        self.plan, self.directory, self.engine = plan, directory, engine
        self.start = plan.settings.start
        self.left_out = plan.suite.left_out(plan.options, plan.context)  # now, while the scores that may tell are there

    # ------------------------------------------------------------------------------------------------------- begin
    def prepare(self) -> None:
        """Checks that the directory is this run's, and clears what is to be redone."""
        plan, directory, start = self.plan, self.directory, self.start
        spec = directory.read_spec()
        if spec is None and start in (OBSERVE, VERDICT):
            raise UserError(f"--from {start} needs a run; {directory.path} has none (--output names another)")
        if spec is not None:
            spec = self._clear(spec)  # as a kill has left it
        if spec is None or directory.is_empty():
            directory.write(directory.spec, self._spec(plan.identity, self.engine.machine(plan), redo=None))
            self._write_sources()
            return
        old = identities.as_now(spec, plan)
        logs = _Logs.read(plan, directory)
        identity = identities.of_run(plan, old, self._standing(logs))
        changed = identities.changed_images(plan, directory, old[GENERATE], identity[GENERATE])
        if changed:
            old = {**old, GENERATE: identity[GENERATE]}
        identities.check(start, old, identity, directory.path, identities.other_cases(spec, plan.options))
        if changed:
            self._redo_images({**spec, "identity": old}, changed)
        elif "folder_sha256" in old[GENERATE].keys() - spec["identity"].get(GENERATE, {}).keys():
            note(f"{directory.path} does not say which images it was made of; not checked, taken to be those of now")
            self._write_sources()
            self._write_folder({**spec, "identity": old})
        goes_on = spec.get("redo") == start and old == identity and directory.read_scores() is None
        if start is not None and not goes_on:
            self._begin_again(spec, identity, logs)

    def _standing(self, logs: _Logs) -> tuple[str, ...]:
        """The stages that this command leaves as they are."""
        if self.start == OBSERVE and logs.drawn(self.plan.samples):
            return (GENERATE,)
        return (GENERATE, OBSERVE) if self.start == VERDICT and logs.logged(self.plan.samples) else ()

    def _begin_again(self, spec: dict[str, Any], identity: identities.Identity, logs: _Logs) -> None:
        """Deletes what is to be redone, once it is sure that it can be; until then the old results stay."""
        assert self.start is not None, "nothing is redone without --from"
        plan, machine, redo = self.plan, spec["machine"], self.start
        if self.start == VERDICT:
            _ = self._scored
            redo = spec.get("redo") or redo  # an observation that was begun anew is not finished by judging it
        else:
            machine = self.engine.machine(plan)
            self.engine.check(Job(plan=plan, recorded=self.start == OBSERVE and logs.drawn(plan.samples)))
        # From here on the run is the new one: a kill leaves the rest of the clearing to the next command.
        stand = STAGES[: STAGES.index(self.start)]
        known = identities.hashes(identity)
        spec = {**self._spec(identity, machine, redo=redo), "made_with": {stage: known[stage] for stage in stand}}
        self.directory.write(self.directory.spec, spec)
        self._clear(spec)
        if self.start == GENERATE:
            self._write_sources()

    def _clear(self, spec: dict[str, Any]) -> dict[str, Any]:
        """Deletes the rest of the stages that are to be made anew; returns the new run.json."""
        directory, first = self.directory, identities.left_over(spec)
        if first is None:
            return spec
        directory.scores.unlink(missing_ok=True)
        if first in (GENERATE, OBSERVE):
            directory.observations.unlink(missing_ok=True)
            kept = directory.mended(directory.failures) if first == OBSERVE else []
            drawn = {key_of(line) for line in directory.mended(directory.chains)}  # at another try, perhaps
            left = [line for line in kept if line.get("stage") == GENERATE and key_of(line) not in drawn]
            directory.replace(directory.failures, left)
        if first == GENERATE:
            directory.chains.unlink(missing_ok=True)
            directory.times.unlink(missing_ok=True)
        cleared = {key: value for key, value in spec.items() if key != "clearing"}
        cleared["made_with"] = identities.hashes(spec["identity"])
        directory.write(directory.spec, cleared)
        return cleared

    def _spec(self, identity: identities.Identity, machine: dict[str, Any], *, redo: str | None) -> dict[str, Any]:
        """run.json."""
        arguments = self.plan.arguments
        kept = {name: identity[GENERATE][name] for name in self.plan.usual}
        return {
            "arguments": {**arguments, "resolved": {**arguments["resolved"], **kept}},
            "machine": machine,
            "identity": identity,
            "redo": redo,
            "made_with": identities.hashes(identity),
        }

    def _write_sources(self) -> None:
        if self.plan.sources:
            self.directory.replace(self.directory.sources, self.plan.sources)

    def _write_folder(self, spec: dict[str, Any]) -> None:
        """Writes run.json with what the folder holds now."""
        arguments = {**spec["arguments"], "folder": self.plan.arguments["folder"]}
        made_with = identities.hashes(spec["identity"])
        self.directory.write(self.directory.spec, {**spec, "arguments": arguments, "made_with": made_with})

    def _redo_images(self, spec: dict[str, Any], changed: dict[Key, tuple[str, str]]) -> None:
        """Deletes changed samples, so that they are done again, once it is sure that they can be; names them."""
        plan, directory = self.plan, self.directory
        _ = self.engine.machine(plan)
        self.engine.check(Job(plan=plan))
        redone = [batch for batch in self._batches() if any(_key(sample) in changed for sample in batch)]
        others = sum(_key(sample) not in changed for batch in redone for sample in batch)
        what = (
            f"of {len(plan.sources):,} images {counted_changes(changed.values())} since this run was made: done again"
        )
        note(f"{what}, with {others:,} others of the same batches" if others else what)
        directory.scores.unlink(missing_ok=True)
        for log in (directory.chains, directory.observations, directory.failures):
            directory.replace(log, [line for line in directory.mended(log) if key_of(line) not in changed])
        for sample in plan.samples:
            if _key(sample) in changed:
                (directory.path / directory.image_name(sample)).unlink(missing_ok=True)
        self._write_folder(spec)
        self._write_sources()  # last: a kill before it leaves the same to the next command

    def note_changes(self) -> None:
        """Says and records that a run continues with other code, packages or device than it began with.

        That is no reason to refuse: most changes of code move no pixel. But images of two versions must not mix
        silently.
        """
        spec = self.directory.read_spec()
        if spec is None or self.directory.is_empty() or self.start == VERDICT:
            return
        now = self.engine.machine(self.plan)
        changed = differences({**spec["machine"], "started": None}, {**now, "started": None})
        if not changed or spec.get("resumed", [])[-1:] == [now]:
            return
        warn(f"this run began elsewhere ({'; '.join(changed)}); its images may be of two kinds")
        self.directory.write(self.directory.spec, {**spec, "resumed": [*spec.get("resumed", []), now]})

    # -------------------------------------------------------------------------------------------- draw and observe
    def _batches(self) -> list[list[Sample]]:
        """The samples in fixed slices, each drawn and observed as a whole."""
        samples, size = self.plan.samples, self.plan.batch_size
        return [samples[i : i + size] for i in range(0, len(samples), size)]

    def compute(self, logs: _Logs) -> None:
        """Draws and observes every batch that is not complete in the logs, or in which a sample is tried again."""
        samples, batches = self.plan.samples, self._batches()
        done = (logs.observations.keys() | logs.failures.keys()) - logs.retried
        pending = [batch for batch in batches if any(_key(sample) not in done for sample in batch)]
        if not pending:
            return
        self.__dict__.pop("_scored", None)
        redo = (self.directory.read_spec() or {}).get("redo") == OBSERVE

        def drawn(batch: Sequence[Sample]) -> bool:
            return logs.drawn(batch) and (redo or logs.logged(batch))

        guard = Guard(self.plan, logs.retried)
        with Progress("images", len(samples), done=len(samples) - sum(map(len, pending))) as bar:
            # What has failed before waits until the rest is done.
            for late in (False, True):
                todo = [batch for batch in pending if any(_key(sample) in logs.retried for sample in batch) == late]
                again = [[sample for sample in batch if _key(sample) in logs.chains] for batch in todo if drawn(batch)]
                undrawn = [batch for batch in todo if not drawn(batch)]
                for recorded, some_batches in ((True, again), (False, undrawn)):
                    if some_batches:
                        job = Job(plan=self.plan, recorded=recorded)
                        self._log_all(self.engine.run(job, some_batches, guard), guard, bar)

    def _log_all(self, results: Iterable[list[Outcome]], guard: Guard, bar: Progress) -> None:
        """Writes batches as they come. A batch of exceptions only is held back until the next one has come.

        If that is no better and ends the run, it was no fault of these samples: none of them is a failure then.
        """
        waiting: list[list[Outcome]] = []
        for outcomes in results:
            failed = [each.observation for each in outcomes if isinstance(each.observation, Failed)]
            waiting.append(outcomes)
            if not guard.heed(outcomes):
                while waiting:
                    _log(self.directory, waiting.pop(0))
            bar.advance(len(outcomes), len(failed), self.engine.note)
        for outcomes in waiting:
            _log(self.directory, outcomes)

    # ------------------------------------------------------------------------------------------------------ sum up
    @functools.cached_property
    def _scored(self) -> list[Scored]:
        """Every image that was observed, with its score."""
        plan, logs = self.plan, _Logs.read(self.plan, self.directory)
        seen = [
            (sample, logs.observations[_key(sample)]) for sample in plan.samples if _key(sample) in logs.observations
        ]
        return [Scored(sample=sample, observation=line, score=self._score(sample, line)) for sample, line in seen]

    def _score(self, sample: Sample, line: dict[str, Any]) -> Score:
        try:
            return self.plan.suite.score(sample.case, line, self.plan.options)
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            what = f"{self.directory.observations}: the line of {sample.case.id}/{sample.index} cannot be scored"
            where = f"{Path(frame.filename).name} line {frame.lineno}"
            raise UserError(f"{what} ({first_line(error)}, {where}); --from observe makes it again") from error

    def finish(self) -> None:
        """Scores from the log and sums up. scores.json comes last: it marks a finished run."""
        plan, directory, logs = self.plan, self.directory, _Logs.read(self.plan, self.directory)
        kept = {directory.chains: logs.chains, directory.observations: logs.observations}
        for path, log in (kept | {directory.failures: logs.failures}).items():
            directory.replace(path, [log[_key(sample)] for sample in plan.samples if _key(sample) in log])
        directory.replace(directory.times, directory.mended(directory.times))
        failures = [logs.failures[_key(sample)] for sample in plan.samples if _key(sample) in logs.failures]
        if plan.settings.shard is not None:
            self._end({"images": len(plan.samples), "observed": len(logs.observations), "failed": len(failures)})
            return
        results = [plan.suite.result(one, directory.image_name(one.sample)) for one in self._scored]
        directory.replace(directory.results, results)
        if results and failures:
            shown = some([f"{line['case']}/{line['index']}: {line['error']}" for line in failures])
            note(
                f"{counted(len(failures), 'images', 'have', of=len(plan.samples))} no score, "
                f"see failures.jsonl ({shown})"
            )
        for kind, prompts in unread(logs.chains.values()).items():
            note(f"words that are {kind}, in {len(prompts):,} of {len(plan.cases):,} prompts ({some(prompts)})")
        scores = plan.suite.summarize(plan.cases, self._scored, failures, plan.options, plan.context)
        scores |= {"left_out": self.left_out} if self.left_out else {}
        contact_sheets.write_grids(directory.path, plan.cases, plan.settings.images_per_prompt)
        plan.suite.sheets(directory.path, results, self._scored, plan.options)
        self._end(scores)

    def _end(self, scores: dict[str, Any]) -> None:
        """Marks the run as finished."""
        directory = self.directory
        directory.write(directory.scores, scores)
        spec = directory.read_spec()
        if spec is not None and spec["redo"]:
            directory.write(directory.spec, {**spec, "redo": None})


def _key(sample: Sample) -> Key:
    return sample.case.id, sample.index


def _log(directory: RunDirectory, outcomes: list[Outcome]) -> None:
    """Writes a batch, files before the log lines that name them. A finished run that gets more is unfinished again."""
    directory.check_there()
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
    logs = {directory.times: times, directory.chains: chains}
    directory.append(logs | {directory.observations: observations, directory.failures: failures})
