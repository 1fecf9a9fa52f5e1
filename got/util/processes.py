"""Processes of this program's own, for work that threads of Python would wait for each other at."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor


def pool(workers: int | None = None) -> ProcessPoolExecutor:
    """Processes that wait for work; each takes the better part of a second to start.

    Args:
        workers: How many; by default one for each core.
    """
    spawn = multiprocessing.get_context("spawn")  # a forked child may inherit a lock held by another thread
    return ProcessPoolExecutor(workers or os.cpu_count(), mp_context=spawn, initializer=_end_with_parent)


def _end_with_parent() -> None:
    """A worker leaves Ctrl-C to its parent, and does not outlive it whatever ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker has a parent"

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
