"""Ctrl-C while a command's libraries load, which takes seconds: one word and exit status 130, and not a traceback.

The packages import it before anything else. It acts only in a program that Python was started for as ``-m`` one of
them: nothing has begun then that would have to be ended well. `got.util.cli.run_command` takes over from it.
"""

from __future__ import annotations

import os
import signal
import sys


def end(number: int, frame: object) -> None:
    """Ends the process at once: an exception would be printed, or lost, inside the libraries' own code."""
    os.write(2, b"interrupted\n")
    os._exit(130)


# Python has not yet replaced "-m" by the module's file while it looks for the module inside its packages.
IS_COMMAND = getattr(sys, "argv", [""])[:1] == ["-m"]
"""Whether Python was started for as ``-m`` one of the packages, and not by a program that imports them."""

if IS_COMMAND and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, end)
