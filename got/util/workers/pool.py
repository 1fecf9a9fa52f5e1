"""A pool of Ray workers, on one machine or several, that survives the death of workers.

A worker loads what a job needs and computes one batch after the other, with the next one queued. When a worker dies,
its batches go to others and a new worker is started. A batch that three workers died at is computed item by item; an
item that two more died at is given up, and the job decides on its result. Ray is imported when a pool starts.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import importlib.util
import io
import os
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from got.util.errors import UserError, note, overheard
from got.util.progress import clock
from got.util.workers.cluster import connect, set_environment
from got.util.workers.files import pack, unpack
from got.util.workers.options import count
from got.util.workers.queue import Queue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from got.util.workers.files import Packed
    from got.util.workers.options import PoolOptions
    from got.util.workers.queue import Task

_IN_FLIGHT = 2
"""Batches at a worker: the one that it computes, and the next."""
_AHEAD = 4
"""Batches per worker from the oldest unfinished one to the newest handed out; results in between are held back."""
_STARTS = 3
"""While none has loaded, the pool gives up once each of its workers has died this often."""
_DEATHS = 6
"""The pool gives up after this many deaths per loaded worker without a result in between; a batch may take five."""
_SILENT_SECONDS = 20.0
"""Without a loaded worker, the user is told after this long what the pool waits for, then at doubled intervals."""
_POLL_SECONDS = 0.1


class Job(Protocol):
    """The work of a pool. Picklable: each worker is built from it."""

    def about(self) -> dict[str, Any]:
        """What has to be equal here and at a worker: code, packages, data."""

    def place(self) -> dict[str, Any]:
        """What a worker reports of its place, such as the device."""

    def worker(self, before: Any = None) -> Callable[[Any], list[Any]]:
        """Loads what is needed, once, and returns the function that computes a batch.

        Args:
            before: The worker of the previous job, parts of which may be reused.
        """

    def files(self) -> list[Path]:
        """Files and folders that a worker reads; those that its machine lacks are sent to it."""

    def at(self, places: dict[str, Path]) -> Job:
        """The same job with some of these files at other paths."""

    def lost(self, item: Any, why: str) -> Any:
        """The result of an item that workers died at."""


# ------------------------------------------------------------------------------------------------------- in a worker
class _Actor:
    """The process of a worker. Methods return ``(kind, content, notes)``, since exceptions of Ray carry a traceback."""

    def __init__(self, folder: str, threads: int) -> None:
        os.environ["OMP_NUM_THREADS"] = str(threads)  # read when torch is imported
        with contextlib.suppress(OSError):  # relative paths mean the same where the disk is shared
            os.chdir(folder)
        self._worker: Any = None

    def host(self) -> str:
        """The name of its machine."""
        return socket.gethostname()

    def load(self, job: Job, build: bool, needed: list[str], sent: dict[str, Packed]) -> tuple[str, Any, list[str]]:
        """Reports the place of the worker; with `build`, after loading what the job needs.

        Args:
            job: The job.
            build: Whether to load.
            needed: Paths that the job reads.
            sent: Those of them that were sent along.
        """
        missing = [path for path in needed if path not in sent and not Path(path).exists()]
        if missing:
            return "missing", missing, []

        def load(job: Job) -> dict[str, Any]:
            if sent:
                job = job.at({path: unpack(packed) for path, packed in sent.items()})
            said = {"about": job.about(), "host": self.host()}
            if not build:
                return {**said, "place": job.place()}
            self._worker = job.worker(self._worker)
            return said

        return _answer("ready", lambda: load(job))

    def compute(self, batch: Any) -> tuple[str, Any, list[str]]:
        """The results of a batch."""
        return _answer("done", lambda: self._worker(batch))


def _answer(kind: str, work: Callable[[], Any]) -> tuple[str, Any, list[str]]:
    """The result of a call or the user's mistake that ended it, with the notes for the user."""
    try:
        content = work()
    except UserError as error:
        kind, content = "mistake", str(error)
    return kind, content, overheard()


# ----------------------------------------------------------------------------------------------------- in this process
class _Worker:
    """A worker as the pool sees it."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self.host = ""
        """Name of its machine; empty until it runs."""
        self.beginning: Any = handle.host.remote()
        """Pending answer of a worker without a process; None once it has one."""
        self.made = time.monotonic()
        self.loading: Any = None
        """Pending answer of a worker that loads; None once it has loaded."""
        self.flight: collections.deque[tuple[Any, Task]] = collections.deque()

    @property
    def next(self) -> Any:
        """The answer that is due next; None if the worker is idle."""
        if self.beginning is not None:
            return self.beginning
        return self.loading if self.loading is not None else self.flight[0][0] if self.flight else None


class _Wait:
    """Reports to the user, now and then, that the pool is waiting."""

    def __init__(self) -> None:
        """Starts to wait now."""
        self._since, self._next = time.monotonic(), _SILENT_SECONDS

    def say(self, what: str) -> None:
        """Reports what is waited for, if a report is due."""
        seconds = time.monotonic() - self._since
        if seconds >= self._next:
            self._next = 2 * seconds
            note(f"{what}, for {clock(seconds)} now")


class Pool:
    """Workers for one job after the other. A context manager, which ends the workers."""

    def __init__(self, options: PoolOptions) -> None:
        """Starts nothing yet."""
        self._options = options
        self._workers: list[_Worker] = []
        self._resources = contextlib.ExitStack()
        self._make: Callable[[], Any] | None = None
        """Starts a worker; None until Ray runs."""
        self._load: tuple[Any, bool, list[str]] = (None, False, [])
        """The job in Ray's store, whether it is built, and the paths that it reads."""
        self._packed: dict[str, Packed] = {}
        self._about: dict[str, Any] = {}
        self._stillborn: collections.Counter[int] = collections.Counter()
        """Deaths of each worker and of those that took its place, since any worker has loaded."""
        self._deaths = 0
        """Deaths of loaded workers since a result was computed or given up."""
        self._seen, self._absent = 0.0, _Wait()
        self._said: set[str] = set()
        """Notes of workers that the user has seen."""

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def note(self) -> str:
        """Number of workers that have loaded, for progress."""
        return f"{sum(worker.loading is None for worker in self._workers)} of {len(self._workers)} workers"

    @property
    def width(self) -> int:
        """Number of workers, loaded or not."""
        return len(self._workers)

    def close(self) -> None:
        """Ends the workers, and Ray if it was started here."""
        while self._workers:
            _end(self._workers.pop())
        self._make = None
        self._resources.close()

    # ------------------------------------------------------------------------------------------------------- begin
    def _start(self) -> None:
        if importlib.util.find_spec("ray") is None:
            raise UserError("--engine ray needs Ray: pip install 'got-bench[ray]'")
        options = self._options
        address = options.address or os.environ.get("RAY_ADDRESS") or "local"
        set_environment(address)
        import ray

        # What Ray itself prints about dead workers goes to standard output, where a command's result is to be.
        self._resources.enter_context(contextlib.redirect_stdout(io.StringIO()))
        try:
            if not ray.is_initialized():
                self._resources.callback(ray.shutdown)
                self._resources.callback(connect(address))
            found = ray.cluster_resources()
            gpus = options.gpus_per_worker
            gpus = float(found.get("GPU", 0) >= 1) if gpus is None else gpus
            wanted = count(options, gpus, found)
            hosts = sum(node["Alive"] for node in ray.nodes())
        except BaseException:
            self._resources.close()
            raise
        each = f"{options.cpus_per_worker} CPU" + (f" and {gpus:g} GPU" if gpus else "")
        where = "this machine" if hosts == 1 else f"{hosts} machines"
        sys.stderr.write(f"Ray: {wanted} workers of {each} on {where}\n")
        # Whoever dies is replaced here and not by Ray, which would give the same batch to every new worker.
        actor = ray.remote(_Actor).options(num_cpus=options.cpus_per_worker, num_gpus=gpus, max_restarts=0)
        self._each = each
        self._make = functools.partial(actor.remote, str(Path.cwd()), options.cpus_per_worker)
        self._workers = [_Worker(self._make()) for _ in range(wanted)]

    def _begin(self, job: Job, *, build: bool) -> None:
        """Has all workers load a job."""
        if self._make is None:
            self._start()
        import ray

        self._load = ray.put(job), build, list(map(str, job.files()))
        self._about = job.about()
        self._stillborn.clear()
        self._deaths = 0
        self._seen, self._absent = time.monotonic(), _Wait()
        for i, worker in enumerate(self._workers):
            if worker.flight:  # of a job that was broken off
                self._replace(i)
            else:
                worker.loading = worker.handle.load.remote(*self._load, {})

    def _replace(self, i: int) -> None:
        assert self._make is not None
        _end(self._workers[i])
        self._workers[i] = worker = _Worker(self._make())
        worker.loading = worker.handle.load.remote(*self._load, {})

    def place(self, job: Job) -> dict[str, Any]:
        """`Job.place` of a worker, without loading what the job needs.

        Raises:
            UserError: There is no worker, or none for this job.
        """
        place: dict[str, Any] = self._first(job, build=False)["place"]
        return place

    def check(self, job: Job) -> None:
        """Waits until a worker has loaded what a job needs.

        Raises:
            UserError: No worker can load it.
        """
        self._first(job, build=True)

    def _first(self, job: Job, *, build: bool) -> dict[str, Any]:
        self._begin(job, build=build)
        queue = Queue([], 0, job.lost)
        while True:
            for said in self._wait(queue):
                return said

    # --------------------------------------------------------------------------------------------------------- work
    def run(self, job: Job, batches: Iterable[Sequence[Any] | None]) -> Iterator[list[Any]]:
        """The results of each batch, one per item, in order.

        Args:
            job: The job.
            batches: Its items; None: nothing is available yet.

        Raises:
            UserError: A worker reports a mistake of the user, no worker can load the job, or no worker appears.
        """
        self._begin(job, build=True)
        queue = Queue(batches, _AHEAD * len(self._workers), job.lost)
        self._hand_out(queue)
        while not queue.is_over:
            self._wait(queue)
            for results in queue.finished():
                self._hand_out(queue)
                yield results
            self._hand_out(queue)

    def _hand_out(self, queue: Queue) -> None:
        # One batch each, before anybody has a second.
        for depth in range(1, _IN_FLIGHT + 1):
            for worker in self._workers:
                if worker.loading is None and len(worker.flight) < depth:
                    task = queue.take()
                    if task is None:
                        return
                    worker.flight.append((worker.handle.compute.remote(task.items), task))

    def _wait(self, queue: Queue) -> list[dict[str, Any]]:
        """Waits a moment for the next answer and handles it; returns the reports of new workers.

        Raises:
            UserError: There has been no worker for too long, or one reports a mistake of the user.
        """
        import ray

        refs = {worker.next: i for i, worker in enumerate(self._workers) if worker.next is not None}
        some: list[Any] = []
        if refs:
            some, _ = ray.wait(list(refs), num_returns=1, timeout=_POLL_SECONDS)
        else:
            time.sleep(_POLL_SECONDS / 10)
        self._watch(anything=bool(some))
        return [said for ref in some for said in self._take_in(refs[ref], queue)]

    def _watch(self, *, anything: bool) -> None:
        """Reports what is waited for while no worker has loaded; gives up if none has started for too long."""
        if any(worker.loading is None for worker in self._workers):
            self._seen, self._absent = time.monotonic(), _Wait()
            return
        loading = [worker.host for worker in self._workers if worker.beginning is None]
        if loading:
            self._seen = time.monotonic()
            hosts = ", ".join(sorted(set(loading)))
            self._absent.say(f"{len(loading)} of {len(self._workers)} workers are loading on {hosts}")
            return
        minutes = self._options.wait_minutes
        if not anything and time.monotonic() - self._seen > minutes * 60:
            raise UserError(f"no worker for {minutes:g} minutes; the same command resumes when there is one")
        self._absent.say(f"no worker has begun: Ray has no {self._each} free for one (--worker-wait {minutes:g})")

    def _take_in(self, i: int, queue: Queue) -> list[dict[str, Any]]:
        """Handles the answer of a worker, or its death."""
        import ray

        worker = self._workers[i]
        try:
            answer = ray.get(worker.next)
        except ray.exceptions.RayTaskError as error:  # of our own code, there
            cause = error.as_instanceof_cause()
            if isinstance(cause, ray.exceptions.RaySystemError):  # it could not even be read
                raise UserError(f"a worker cannot take up this job: {str(cause).strip().splitlines()[-1]}") from None
            raise cause from None
        except ray.exceptions.RayError as error:
            self._bury(i, error, queue)
            return []
        if worker.beginning is not None:
            worker.host, worker.beginning = answer, None
            return []
        kind, content, notes = answer
        for line in notes:
            if line not in self._said:
                sys.stderr.write(line)
        self._said.update(notes)
        if kind == "mistake":
            raise UserError(content)
        if kind == "missing":
            self._packed |= {path: pack(Path(path)) for path in content if path not in self._packed}
            sent = {path: self._packed[path] for path in content}
            worker.loading = worker.handle.load.remote(*self._load, sent)
            return []
        if worker.loading is None:
            self._deaths = 0
            queue.done(worker.flight.popleft()[1], content)
            return []
        _compare(self._about, content)
        worker.loading, self._seen = None, time.monotonic()
        self._stillborn.clear()
        return [content]

    def _bury(self, i: int, error: Exception, queue: Queue) -> None:
        """Replaces a worker that has died and hands its batches to others."""
        worker, why = self._workers[i], _why(error)
        if worker.loading is None:
            self._deaths += 1
        else:
            self._stillborn[i] += 1
        self._refuse_hopeless(i, why)
        given_up = queue.given_up
        note(f"a worker is lost ({why}); another one takes its place")
        for position, (_, task) in enumerate(worker.flight):
            if position == 0 and worker.loading is None:
                queue.died(task, why)
            else:
                queue.again(task)
        if queue.given_up > given_up:
            self._deaths = 0
        self._replace(i)

    def _refuse_hopeless(self, dead: int, why: str) -> None:
        """Gives up if workers keep dying while no other computes: all while loading, or those that have loaded.

        Each of them has to have died while loading: a machine without memory kills one after the other there, while
        those on other machines take their time. Who gets no process for long is not waited for.
        """
        others = [worker for i, worker in enumerate(self._workers) if i != dead]
        if any(worker.loading is None and worker.flight for worker in others):
            return
        nobody = all(worker.loading is not None for worker in self._workers)
        now = time.monotonic()
        waiting = [worker.beginning is not None and now - worker.made > _SILENT_SECONDS for worker in self._workers]
        waiting[dead] = False
        if nobody and all(left or self._stillborn[i] >= _STARTS for i, left in enumerate(waiting)):
            raise UserError(f"workers die while they begin: {why}")
        if self._deaths >= _DEATHS * len(self._workers):
            raise UserError(
                f"workers died {self._deaths} times and computed nothing in between: {why}; once that is mended, the "
                "same command resumes"
            )


def _end(worker: _Worker) -> None:
    import ray

    with contextlib.suppress(Exception):  # it is dead already, or Ray is
        ray.kill(worker.handle)


def _why(error: Exception) -> str:
    """The cause of a worker's death in one line, equal for deaths of the same kind."""
    text = str(error)
    if "ModuleNotFoundError" in text or "ImportError" in text:
        return "it cannot import this program: " + next(line for line in text.splitlines() if "Error" in line).strip()
    if "node" in text and "died" in text and "process has died" not in text:
        return "its machine is gone"
    if "OutOfMemory" in type(error).__name__ or "memory pressure" in text:
        return "out of memory"
    if "connection error code" in text:  # nobody there knew that it would end
        return "killed or crashed"
    last = (text.strip() or type(error).__name__).splitlines()[-1]
    return last.rpartition("Worker exit detail: ")[2][:200]


def _compare(here: dict[str, Any], said: dict[str, Any]) -> None:
    """Refuses a worker whose code, packages or data differ.

    >>> _compare({"torch": "2", "commit": "a"}, {"about": {"torch": "2", "commit": "b"}, "host": "x"})
    >>> _compare({"torch": "2", "commit": "a"}, {"about": {"torch": "3", "commit": "b"}, "host": "x"})
    Traceback (most recent call last):
    got.util.errors.UserError: the worker on x differs from this process: torch 2 here and 3 there, commit a here ...
    """
    there = said["about"]
    changed = [key for key in here if here[key] != there.get(key)]
    if set(changed) - {"commit"}:  # two commits may have one code
        names = ", ".join(f"{key} {here[key]} here and {there.get(key)} there" for key in changed)
        raise UserError(f"the worker on {said['host']} differs from this process: {names}")
