"""One thread that draws, job by job, and tells each job's page how far it is."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import secrets
import threading
import traceback
from typing import TYPE_CHECKING, Any

from got.cli.draw import memory_errors
from got.util.errors import UserError, first_line, one_line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

ENDS = ("done", "stopped", "error")
"""Kinds of the last event of a job."""


class Stopped(Exception):
    """A person has stopped the job."""


class Busy(UserError):
    """So many jobs wait that no more are taken."""


class Job:
    """Work for the thread, and its events for the page: JSON objects with a ``kind``."""

    def __init__(self, work: Callable[[Job], None]) -> None:
        self.id = secrets.token_urlsafe(12)
        self.work = work
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._stop = threading.Event()

    def say(self, kind: str, **fields: Any) -> None:
        """Sends an event, from any thread."""
        with contextlib.suppress(RuntimeError):  # the server has ended
            self._loop.call_soon_threadsafe(self._events.put_nowait, {"kind": kind, **fields})

    def stop(self) -> None:
        """Asks the work to end soon."""
        self._stop.set()

    @property
    def is_stopped(self) -> bool:
        """Whether that was asked for."""
        return self._stop.is_set()

    def check(self) -> None:
        """Raises `Stopped` if that was asked for."""
        if self.is_stopped:
            raise Stopped

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """All events; whoever no longer listens stops the work."""
        try:
            while True:
                event = await self._events.get()
                yield event
                if event["kind"] in ENDS:
                    return
        finally:
            self.stop()


class Worker:
    """The thread and its queue.

    Args:
        limit: Jobs that may wait beside the one that runs.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: collections.deque[Job] = collections.deque()
        self._running: Job | None = None
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="studio", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Takes a job.

        Raises:
            Busy: If too many wait, or the studio ends.
        """
        with self._changed:
            if self._closed:
                raise Busy("the studio is ending")
            # Pages that were closed meanwhile.
            self._waiting = collections.deque(waiting for waiting in self._waiting if not waiting.is_stopped)
            if len(self._waiting) >= self._limit:
                raise Busy(f"{len(self._waiting)} requests are waiting already, which is all that may; try again later")
            self._waiting.append(job)
            self._tell_places()
            self._changed.notify()

    def stop(self, job_id: str) -> None:
        """Stops a job; one that waits ends at once, and one that is over is none to stop."""
        with self._changed:
            for job in [*self._waiting, *([self._running] if self._running else [])]:
                if job.id == job_id:
                    job.stop()
                    if job in self._waiting:
                        self._waiting.remove(job)
                        job.say("stopped")
                        self._tell_places()

    def end(self) -> None:
        """Ends all jobs, for those who listen at once, and takes no more."""
        with self._changed:
            self._closed = True
            for job in [*self._waiting, *([self._running] if self._running else [])]:
                job.stop()
                job.say("stopped")
            self._waiting.clear()
            self._changed.notify()

    def close(self) -> None:
        """Ends the thread, after the step that it is at."""
        self.end()
        self._thread.join(timeout=60)

    def _tell_places(self) -> None:
        ahead = int(self._running is not None)
        for place, job in enumerate(self._waiting, ahead):
            job.say("waiting", ahead=place)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    if self._closed:
                        return
                    self._changed.wait()
                job = self._running = self._waiting.popleft()
                self._tell_places()
            try:
                job.check()
                job.say("running", job=job.id)
                with memory_errors():
                    job.work(job)
                job.say("done")
            except Stopped:
                job.say("stopped")
            except (UserError, ValueError, IndexError, OSError) as error:
                job.say("error", words=one_line(error, 400))
            except Exception as error:  # a bug: the log has all of it, and the next job is none the worse
                traceback.print_exception(error)
                job.say("error", words=f"Something went wrong in the program: {first_line(error)}")
            finally:
                with self._changed:
                    self._running = None
