"""Where samples are computed. An engine runs a job over batches and hands results back in order."""

from __future__ import annotations

import dataclasses
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from evals.core.options import GENERATE, OBSERVE
from evals.core.run_directory import RunDirectory
from evals.harness.outcomes import Failed, Outcome
from evals.harness.weight_places import sizes
from evals.harness.worker import Asker, Job, RecordedImages, SentImages
from got.util import provenance
from got.util.workers.options import options_of
from got.util.workers.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from evals.core.records import Sample
    from evals.harness.outcomes import Guard
    from evals.harness.plan import Plan
    from evals.harness.settings import Settings
    from evals.harness.worker import RecordedImage, Worker

Item = TypeVar("Item")
Result = TypeVar("Result")


class Engine(Protocol):
    """Computes batches for one run after the other, and lets go of all it holds at the end."""

    @property
    def note(self) -> str:
        """What a line of progress says of the engine."""

    @property
    def width(self) -> int:
        """How many batches it computes at a time, once it has begun."""

    def machine(self, plan: Plan) -> dict[str, Any]:
        """Versions, commit and device of where samples are computed, for run.json; loads no model."""

    def check(self, job: Job) -> None:
        """Loads what a job needs; `UserError` if that cannot be had."""

    def run(self, job: Job, batches: Sequence[Sequence[Sample]], guard: Guard | None = None) -> Iterable[list[Outcome]]:
        """The outcomes of each batch, in order. Samples that no worker outlives are told a guard at once."""

    def __enter__(self) -> Engine: ...

    def __exit__(self, *_: object) -> None: ...


class LocalEngine:
    """One worker in this process, built before the first batch."""

    note, width = "", 1

    def __init__(self, settings: Settings) -> None:
        self._worker: Worker | None = None

    def machine(self, plan: Plan) -> dict[str, Any]:
        """Versions, commit and device of this process."""
        return plan.machine

    def check(self, job: Job) -> None:
        """Builds the worker."""
        self._worker = _asking_here(job).worker(self._worker)

    def run(self, job: Job, batches: Sequence[Sequence[Sample]], guard: Guard | None = None) -> Iterator[list[Outcome]]:
        """One batch after the other; the next ones are drawn while a judge by endpoint answers about the last ones."""
        self.check(job)
        assert self._worker is not None, "built"
        yield from _asked(job, _asking_here(job), map(self._worker, batches))

    def __enter__(self) -> LocalEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self._worker = None


def _asking_here(job: Job) -> Job:
    """What is left to workers if this process asks a judge by endpoint: with one budget, one rate and one log."""
    if not job.plan.suite.concurrent_requests(job.plan.options):
        return job
    _ = job.plan.judge  # what cannot be had fails now
    return dataclasses.replace(job, asks=False)


def _asked(job: Job, sent: Job, done: Iterable[list[Outcome]]) -> Iterator[list[Outcome]]:
    """The outcomes of workers, with the answers that these did not ask for themselves.

    Args:
        job: All that is to be done.
        sent: What workers do of it.
        done: Their outcomes.
    """
    if sent.asks:
        yield from done
        return
    most = 2 * job.plan.suite.concurrent_requests(job.plan.options)  # more would be held back without being asked about
    yield from _behind(done, Asker(sent), most)


def _behind(
    done: Iterable[list[Outcome]], finish: Callable[[list[list[Outcome]]], list[list[Outcome]]], most: int
) -> Iterator[list[Outcome]]:
    """Finishes batches while the next ones are under way: all that have come meanwhile at a time.

    Args:
        done: The batches.
        finish: Takes some of them.
        most: From so many samples on that wait to be finished, no more are taken.
    """
    waiting: Future[list[list[Outcome]]] | None = None
    come: list[list[Outcome]] = []
    for outcomes in done:
        come.append(outcomes)
        if waiting is not None and not waiting.done() and sum(map(len, come)) < most:
            continue
        if waiting is not None:
            yield from waiting.result()
        waiting, come = _in_thread(finish, come), []
    if waiting is not None:
        yield from waiting.result()
    if come:
        yield from finish(come)


def _in_thread(work: Callable[[Item], Result], item: Item) -> Future[Result]:
    """Work in a thread that does not keep the process alive after Ctrl-C, as those of executors do."""
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(work(item))
        except BaseException as error:  # raised again where the result is asked for
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Item:
    """A sample as it is sent to a worker."""

    number: int
    """Its number among the plan's samples."""
    recorded: RecordedImage | None
    """Its image, where that is drawn already."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _RayJob:
    """A job in the form that a pool of workers takes; samples are sent as their numbers in the plan."""

    job: Job
    guard: Guard | None = None
    """Hears of samples under which workers died."""

    def about(self) -> dict[str, Any]:
        """Code, packages, cases, and the names and sizes of weights: not their hashes, which would take minutes."""
        plan = self.job.plan
        return {**provenance.installed(), "prompts": plan.prompts_sha256[:12], **sizes(plan.weight_places())}

    def place(self) -> dict[str, Any]:
        """Its device."""
        return {"device": self.job.plan.device}

    def worker(self, before: _RayWorker | None = None) -> _RayWorker:
        """Loads what is needed."""
        return _RayWorker(self.job.worker(None if before is None else before.worker))

    def files(self) -> list[Path]:
        """Its weights."""
        return list(self.job.plan.weight_places().values())

    def at(self, places: dict[str, Path]) -> _RayJob:
        """The same job, with its weights at other paths."""
        return _RayJob(job=dataclasses.replace(self.job, plan=self.job.plan.with_weights_at(places)))

    def lost(self, item: _Item, why: str) -> Outcome:
        """The outcome of a sample whose workers died."""
        stage = GENERATE if item.recorded is None else OBSERVE
        failed = Failed(stage=stage, error=f"its worker died each time ({why})", raised=True)
        sample = self.job.plan.samples[item.number]
        if self.guard is not None:
            self.guard.heed_lost(sample, failed)
        return Outcome(sample=sample, png=None, chain=None, warnings=(), observation=failed)


class _RayWorker:
    """A worker whose results leave its process."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    def __call__(self, items: Sequence[_Item]) -> list[Outcome]:
        """One outcome per item, without its sample, which the other side has."""
        batch = [self.worker.plan.samples[item.number] for item in items]
        sent = [item.recorded for item in items if item.recorded is not None]
        outcomes = self.worker(batch, SentImages(batch, sent) if sent else None)
        return [dataclasses.replace(one, sample=None) for one in outcomes]  # type: ignore[arg-type]


class RayEngine:
    """Workers in processes of Ray, here or on other machines. This process alone reads and writes the run directory."""

    def __init__(self, settings: Settings) -> None:
        self._pool = Pool(options_of(settings, gpus=settings.device != "cpu"))

    @property
    def note(self) -> str:
        """How many workers there are."""
        return self._pool.note

    @property
    def width(self) -> int:
        """One for each worker."""
        return self._pool.width

    def machine(self, plan: Plan) -> dict[str, Any]:
        """Versions and commit of this process, to which all workers must be equal, with the workers' device."""
        return plan.machine_with(self._pool.place(_RayJob(job=Job(plan=plan)))["device"])

    def check(self, job: Job) -> None:
        """Waits for a first worker."""
        self._pool.check(_RayJob(job=self._sent(job)))

    def _sent(self, job: Job) -> Job:
        """What is left to the workers. Of a local judge they have the model, and this process the log."""
        sent = _asking_here(job)
        if sent.asks and job.plan.has_local_judge:
            return dataclasses.replace(job, asks=False, hands_on=True)
        return sent

    def run(self, job: Job, batches: Sequence[Sequence[Sample]], guard: Guard | None = None) -> Iterator[list[Outcome]]:
        """As the workers finish, in order; questions to an endpoint are put while they go on."""
        sent = self._sent(job)
        yield from _asked(job, sent, self._looked_at(sent, batches, guard))

    def _looked_at(self, job: Job, batches: Sequence[Sequence[Sample]], guard: Guard | None) -> Iterator[list[Outcome]]:
        plan = job.plan
        numbers = {(sample.case.id, sample.index): number for number, sample in enumerate(plan.samples)}
        recorded = RecordedImages(RunDirectory(plan.output)) if job.recorded else None

        def sent(sample: Sample) -> _Item:
            image = None if recorded is None else recorded.read(sample)
            return _Item(number=numbers[sample.case.id, sample.index], recorded=image)

        found = self._pool.run(_RayJob(job=job, guard=guard), ([sent(sample) for sample in batch] for batch in batches))
        for batch, outcomes in zip(batches, found, strict=True):
            yield [dataclasses.replace(one, sample=sample) for one, sample in zip(outcomes, batch, strict=True)]

    def __enter__(self) -> RayEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.close()


ENGINES: dict[str, Callable[[Settings], Engine]] = {"local": LocalEngine, "ray": RayEngine}
"""By the words of ``--engine``."""
