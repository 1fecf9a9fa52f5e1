"""Processes that are not to outlive this one, even if it is killed: another one waits for its end and kills them."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_WATCH = """
import signal, sys
sys.stdin.read()  # until the other end of the pipe is gone
for handle in sys.argv[1:]:
    try:
        signal.pidfd_send_signal(int(handle), signal.SIGKILL)
    except ProcessLookupError:
        pass
"""


def descendants() -> set[int]:
    """All processes that this one has started, and those that they have; once Ray is imported, which brings psutil."""
    import psutil

    return {process.pid for process in psutil.Process().children(recursive=True)}


def kill_with_this_process(pids: Iterable[int]) -> Callable[[], None]:
    """Has processes killed when this one ends; returns what calls that off.

    Where the system has no handles of processes (Linux has), nothing is done: a number may soon be another process's.
    """
    handles = []
    for pid in pids:
        try:
            handles.append(os.pidfd_open(pid))
        except ProcessLookupError:  # it has ended meanwhile
            continue
        except (AttributeError, OSError):
            break
    if not handles:
        return lambda: None
    watcher = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _WATCH, *map(str, handles)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=handles,
        start_new_session=True,  # Ctrl-C is for this process alone
    )
    for handle in handles:
        os.close(handle)

    def stop() -> None:
        watcher.kill()
        watcher.communicate()

    return stop
