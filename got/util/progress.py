"""Progress of a long command on standard error: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Self, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

_QUIET_SECONDS = 20.0
"""Time between lines where there is no terminal."""


def clock(seconds: float) -> str:
    """A duration for people.

    >>> clock(7), clock(75), clock(4000)
    ('7s', '1m15s', '1h06m')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


class Progress:
    """Counts what is done. A context manager, so that a bar is always taken down.

    Args:
        what: What is counted, in the plural.
        total: How many there are; None if nobody knows.
        done: How many of them an earlier command has done.
        stream: Standard error, if not given.
    """

    def __init__(self, what: str, total: int | None, done: int = 0, stream: TextIO | None = None) -> None:
        self.what, self.total, self.done, self.failed, self.note = what, total, done, 0, ""
        self._start_done, self._start = done, time.monotonic()
        self._spoken = self._start
        self._stream = stream or sys.stderr
        self._bar: Bar | None = None

    def __enter__(self) -> Self:
        if self._stream.isatty():
            self._bar = _make_bar(self._stream)
            self._bar.start()
            self._bar.add_task(self.what, total=self.total, completed=self.done, note="")
        elif self.total is not None:
            self._say(f"{self.total - self.done} of {self.total} {self.what} to do")
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self.done > self._start_done:
            self._say(self.line())

    def advance(self, done: int = 1, failed: int = 0, note: str = "") -> None:
        """Adds some that are done, how many of them failed, and what else there is to say."""
        self.failed += failed
        said = ", ".join(filter(None, [note, f"{self.failed} failed" if self.failed else ""]))
        self.update(self.done + done, said or None)

    def update(self, done: int, note: str | None = None) -> None:
        """Says how many are done by now, and what else there is to say until it is said anew."""
        self.done, self.note = done, self.note if note is None else note
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self.done, note=self.note)
        elif time.monotonic() - self._spoken >= _QUIET_SECONDS:
            self._spoken = time.monotonic()
            self._say(self.line())

    def line(self) -> str:
        """The state of the work in one line."""
        seconds = max(time.monotonic() - self._start, 1e-9)
        rate = (self.done - self._start_done) / seconds
        text = f"{self.done}{'' if self.total is None else f'/{self.total}'} {self.what}, {rate:.1f}/s"
        if rate and self.total is not None and self.done < self.total:
            text += f", {clock((self.total - self.done) / rate)} left"
        return text + (f", {self.note}" if self.note else "")

    def _say(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()


def _make_bar(stream: TextIO) -> Bar:
    from rich import progress
    from rich.console import Console

    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TextColumn("left"),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.fields[note]}"),
        console=Console(file=stream),
        # One redraw a second: on two cores the bar must not compete with the models.
        refresh_per_second=1,
    )
