"""One thread that draws, job by job, and tells each job's page how far it is.

The queue belongs to the server's event loop: nothing but a job's own work happens in the thread.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
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
MISTAKES = (UserError, ValueError, IndexError, OSError)
"""What a person may cause: the message says it all."""


class Stopped(Exception):
    """A person has stopped the job."""


class Busy(UserError):
    """So many jobs wait that no more are taken."""


class Job:
    """Work for the thread, and its events for the page: JSON objects with a ``kind``."""

    def __init__(self, work: Callable[[Job], None]) -> None:
        self.id = secrets.token_urlsafe(12)
        self.turn: concurrent.futures.Future[None] | None = None
        self._work = work
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._stop = threading.Event()

    def call(self, function: Callable[..., object], *arguments: Any) -> None:
        """Has the event loop do something soon; from any thread."""
        with contextlib.suppress(RuntimeError):  # the server has ended
            self._loop.call_soon_threadsafe(function, *arguments)

    def say(self, kind: str, **fields: Any) -> None:
        """Sends an event, from any thread."""
        self.call(self._events.put_nowait, {"kind": kind, **fields})

    def stop(self) -> None:
        """Ends it: at once if it waits, else at its next step."""
        self._stop.set()
        if self.turn is not None and self.turn.cancel():
            self.say("stopped")

    def check(self) -> None:
        """Raises `Stopped` if that was asked for."""
        if self._stop.is_set():
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

    def run(self) -> None:
        """Does the work, and says how it ended."""
        try:
            self.check()
            self.say("running")
            with memory_errors():
                self._work(self)
            self.say("done")
        except Stopped:
            self.say("stopped")
        except MISTAKES as error:
            self.say("error", words=one_line(error, 400))
        except Exception as error:  # a bug: the log has all of it, and the next job is none the worse
            traceback.print_exception(error)
            self.say("error", words=f"Something went wrong in the program: {first_line(error)}")


class Worker:
    """The thread and its queue.

    Args:
        limit: Jobs that may wait beside the one that runs.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._jobs: list[Job] = []
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "studio")

    def submit(self, job: Job) -> None:
        """Takes a job.

        Raises:
            Busy: If too many wait, or the studio ends.
        """
        if len(self._jobs) > self._limit:
            raise Busy(f"so many requests are waiting already as may ({self._limit}); try again later")
        try:
            job.turn = self._thread.submit(job.run)
        except RuntimeError as error:
            raise Busy("the studio is ending") from error
        self._jobs.append(job)
        job.turn.add_done_callback(lambda _: job.call(self._over, job))
        self._tell_places()

    def stop(self, job_id: str) -> None:
        """Stops a job; one that is over is none to stop."""
        for job in self._jobs:
            if job.id == job_id:
                job.stop()

    def end(self, *, wait: bool = False) -> None:
        """Takes no more, and ends all jobs: for those who listen at once, in the thread after the step it is at."""
        for job in self._jobs:
            job.stop()
            job.say("stopped")
        self._thread.shutdown(wait=wait, cancel_futures=True)

    def _over(self, job: Job) -> None:
        self._jobs.remove(job)
        self._tell_places()

    def _tell_places(self) -> None:
        for ahead, job in enumerate(self._jobs):
            if ahead:
                job.say("waiting", ahead=ahead)
