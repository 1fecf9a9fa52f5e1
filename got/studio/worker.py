"""One thread that draws, job by job, and tells the pages how far each job is.

Jobs and their queue belong to the server's event loop: nothing but a job's own work happens in the thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
import threading
import traceback
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from got.cli.draw import memory_errors
from got.util.errors import UserError, first_line, one_line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

ENDS = ("done", "stopped", "error")
"""Kinds of the last event of a job."""
MISTAKES = (UserError, ValueError, IndexError, OSError)
"""What a person may cause: the message says it all."""
PATIENCE_SECONDS = 10
"""A job goes on so long with no page that listens; a page that is loaded again is back by then."""


class Stopped(Exception):
    """A person has stopped the job."""


class Busy(UserError):
    """So many jobs wait that no more are taken."""


class Job:
    """Work for the thread, and what it tells pages on its way: JSON objects with a ``kind``.

    Args:
        session: Whose job it is.
        asked: What a page asked for.
        work: Does it.
    """

    def __init__(self, session: str, asked: dict[str, Any], work: Callable[[Job], object]) -> None:
        self.id = secrets.token_urlsafe(12)
        self.session, self.asked = session, asked
        self.turn: Future[None] = Future()
        self.over: Callable[[Job], object] = lambda _: None
        self._work = work
        self._loop = asyncio.get_running_loop()
        self._told: list[dict[str, Any]] = [{"kind": "accepted", "job": self.id, "asked": asked}]
        self._news = asyncio.Event()
        self._pages = 0
        self._stop = threading.Event()

    def say(self, kind: str, **fields: Any) -> None:
        """Tells all pages that listen, and those that will; from any thread."""
        with contextlib.suppress(RuntimeError):  # the server has ended
            self._loop.call_soon_threadsafe(self._tell, {"kind": kind, **fields})

    def _tell(self, event: dict[str, Any]) -> None:
        self._told.append(event)
        self._news.set()
        self._news = asyncio.Event()
        if event["kind"] in ENDS:
            self.over(self)

    def stop(self) -> None:
        """Ends it: at once if it waits, else at its next step."""
        self._stop.set()
        if self.turn.cancel():
            self.say("stopped")

    def check(self) -> None:
        """Raises `Stopped` if that was asked for."""
        if self._stop.is_set():
            raise Stopped

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """All events from the first one on. Once no page listens any more, the work is stopped after a while."""
        self._pages += 1
        try:
            for place in itertools.count():
                while place == len(self._told):
                    await self._news.wait()
                yield self._told[place]
                if self._told[place]["kind"] in ENDS:
                    return
        finally:
            self._pages -= 1
            if self._told[-1]["kind"] not in ENDS:  # else a timer would hold all that was told
                self._loop.call_later(PATIENCE_SECONDS, self._stop_if_left)

    def _stop_if_left(self) -> None:
        if not self._pages:
            self.stop()

    def run(self) -> None:
        """Does the work, and says how it ended."""
        try:
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
        self.jobs: dict[str, Job] = {}
        self._limit = limit
        self._thread = ThreadPoolExecutor(1, "studio")

    def submit(self, job: Job) -> None:
        """Takes a job.

        Raises:
            Busy: If too many wait, or the studio ends.
        """
        if len(self.jobs) > self._limit:
            raise Busy("so many requests are waiting already as may; try again later")
        job.turn, job.over = self._thread.submit(job.run), self._over
        self.jobs[job.id] = job
        self._tell_places()

    def end(self, *, wait: bool = False) -> None:
        """Takes no more, and ends all jobs: for the pages at once, in the thread after the step it is at."""
        self._limit = -1
        for job in self.jobs.values():
            job.stop()
            job.say("stopped")
        self._thread.shutdown(wait=wait, cancel_futures=True)

    def _over(self, job: Job) -> None:
        self.jobs.pop(job.id, None)  # all are told of the end by `end`, too
        self._tell_places()

    def _tell_places(self) -> None:
        for ahead, job in enumerate(self.jobs.values()):
            if ahead:
                job.say("waiting", ahead=ahead)
