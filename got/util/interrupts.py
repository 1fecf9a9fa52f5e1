"""How the process of a command ends: by Ctrl-C while its libraries load, which takes seconds, and when it is done.

The packages import it before anything else. It acts only in a program that Python was started for as ``-m`` one of
them. Ctrl-C ends it with one word and exit status 130, and not a traceback: nothing has begun then that would have to
be ended well. `got.util.cli.run_command` takes over from it. Standard streams that are closed lead to nowhere.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import signal
import sys
from typing import NoReturn


def end(number: int, frame: object) -> None:
    """Ends the process at once: an exception would be printed, or lost, inside the libraries' own code."""
    os.write(2, b"interrupted\n")
    os._exit(130)


# Python has not yet replaced "-m" by the module's file while it looks for the module inside its packages.
IS_COMMAND = getattr(sys, "argv", [""])[:1] == ["-m"]
"""Whether Python was started for as ``-m`` one of the packages, and not by a program that imports them."""

if IS_COMMAND and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, end)


def leave(status: int) -> NoReturn:
    """Ends a command with an exit status, as `SystemExit` does, but leaves it to the system to take its memory back.

    Python would take the libraries' 800,000 objects apart one by one. Threads are waited for and `atexit` is heeded.
    """
    _statuses.append(status)
    raise SystemExit(status)


_statuses: list[int] = []


def _end() -> None:
    if _statuses:
        # Python has its own words, and its own status, for an output that cannot be written.
        with contextlib.suppress(OSError, ValueError):
            for stream in filter(None, (sys.stdout, sys.stderr)):
                stream.flush()
            os._exit(_statuses[-1])
    gc.unfreeze()  # libraries of C++ complain about objects of theirs that nobody takes apart


if IS_COMMAND:
    atexit.register(_end)  # before all others, and so called after them
    # What was closed before the start, as `>&-` does: a file that is opened later would get its number, and its output.
    for _name, _mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, _name) is None:
            setattr(sys, _name, open(os.devnull, _mode, encoding="utf-8"))  # noqa: PTH123, SIM115 (for the whole process)
