"""How the command lines end: one JSON object as the last line, or one line that says what is wrong."""

from __future__ import annotations

import contextlib
import json
import os
import select
import sys
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from rich.console import Console

DTYPES = ("float32", "bfloat16", "float16")


CUT_OFF = 141
"""Exit status where nobody reads the output on, as a shell gives it to a command that ``| head`` ends."""


@contextlib.contextmanager
def may_be_cut_off() -> Iterator[None]:
    """Ends a command with `CUT_OFF`, without a traceback, where nobody reads its output on; also a decorator.

    Raises:
        SystemExit: Of that status.
    """
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # here and not at the interpreter's end, where nobody can catch what it raises
    except BrokenPipeError:
        lost = [stream for stream in (sys.stdout, sys.stderr) if _has_no_reader(stream)]
        if not lost:  # a pipe or a socket of something else
            raise
        for stream in lost:  # what is left in its buffer goes nowhere, and Python does not complain at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        raise SystemExit(CUT_OFF) from None


def _has_no_reader(stream: TextIO) -> bool:
    try:
        place = stream.fileno()
    except (OSError, ValueError):  # no file of the system, or closed
        return False
    poll = select.poll()
    poll.register(place, select.POLLOUT)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def console() -> Console:
    """A rich console on standard output. Words are no markup: those of a run are not ours."""
    from rich.console import Console

    class Output(Console):
        def on_broken_pipe(self) -> None:
            """Leaves it to `may_be_cut_off`; rich itself would end with 1, which means something here."""
            raise  # noqa: PLE0704 (rich calls it while it handles the error)

    # Without a terminal rich assumes 80 columns and would break the tables of a log file.
    return Output(width=None if sys.stdout.isatty() else 120, markup=False)


@may_be_cut_off()
def answer(work: Callable[[], dict[str, Any]], interrupted: str = "interrupted") -> int:
    """Do the work, print what it returns, and return the exit status.

    The status is 1 if the result's ``ok`` is false; 2 after a user's mistake (`ValueError`, `OSError`), which ends in
    one line; and 130 after Ctrl-C, which ends in the line `interrupted`.

    Raises:
        SystemExit: As of `may_be_cut_off`.
    """
    try:
        result = work()
        print(json.dumps(result), flush=True)
    except BrokenPipeError:
        raise
    except (ValueError, OSError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        print(f"error: {' '.join(line.strip() for line in lines)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130
    return int(not result.get("ok", True))


def read_object(path: Path, error: type[ValueError]) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        ValueError: The given kind of it, if the file cannot be read, is damaged, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as problem:
        raise error(f"Cannot read {path}: {problem.strerror}") from problem
    except ValueError as problem:
        raise error(f"{path} is damaged, not valid JSON: {problem}") from problem
    if not isinstance(content, dict):
        raise error(f"Expected a JSON object in {path} but got {type(content).__name__}")
    return content
