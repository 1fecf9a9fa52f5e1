"""Progress of a long run on stderr: a bar with ETA on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from types import TracebackType

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
    """Counts samples done and failed. A context manager, so a bar is always taken down."""

    def __init__(self, total: int, done: int = 0, stream: TextIO | None = None) -> None:
        self.total, self.done, self.failed = total, done, 0
        self._start_done, self._start = done, time.monotonic()
        self._spoken = self._start
        self._stream = stream or sys.stderr
        self._bar: Bar | None = None

    def __enter__(self) -> Progress:
        if self._stream.isatty():
            self._bar = _make_bar(self._stream)
            self._bar.start()
            self._bar.add_task("images", total=self.total, completed=self.done, note="")
        else:
            self._say(f"{self.total - self.done} of {self.total} images to do")
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self.done > self._start_done:
            self._say(self.line())

    def advance(self, done: int, failed: int) -> None:
        """Adds the samples of a batch."""
        self.done += done
        self.failed += failed
        if self._bar is not None:
            note = f"{self.failed} failed" if self.failed else ""
            self._bar.update(self._bar.task_ids[0], completed=self.done, note=note)
        elif time.monotonic() - self._spoken >= _QUIET_SECONDS:
            self._spoken = time.monotonic()
            self._say(self.line())

    def line(self) -> str:
        """Where the run stands, in one line."""
        seconds = max(time.monotonic() - self._start, 1e-9)
        rate = (self.done - self._start_done) / seconds
        text = f"{self.done}/{self.total} images, {rate:.1f}/s"
        if rate and self.done < self.total:
            text += f", {clock((self.total - self.done) / rate)} left"
        return text + (f", {self.failed} failed" if self.failed else "")

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
        progress.TextColumn("[red]{task.fields[note]}"),
        console=Console(file=stream),
        # One redraw a second: on two cores the bar must not compete with the models.
        refresh_per_second=1,
    )
