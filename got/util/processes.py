"""Pools of local processes, for work in Python that threads cannot do in parallel."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor


def pool(workers: int | None = None) -> ProcessPoolExecutor:
    """A pool of processes, each of which takes the better part of a second to start.

    Args:
        workers: Number of processes; by default one per core.
    """
    spawn = multiprocessing.get_context("spawn")  # a forked child may inherit a lock held by another thread
    return ProcessPoolExecutor(workers or os.cpu_count(), mp_context=spawn, initializer=_end_with_parent)


def _end_with_parent() -> None:
    """Lets a worker ignore Ctrl-C and end with its parent, however that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker has a parent"

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
