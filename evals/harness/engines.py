"""Where samples are computed. An engine runs a job over batches and hands results back in order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence


class Job(Protocol):
    """What is to be done. Picklable: any process makes a worker of it."""

    def worker(self) -> Callable[[Any], Any]:
        """Loads what is needed, once; what it returns is called with one batch after the other."""


def run_local(job: Job, batches: Iterable[Sequence[Any]]) -> Iterator[Any]:
    """One worker in this process, built before the first batch.

    >>> class Sum:
    ...     def worker(self):
    ...         return sum
    >>> list(run_local(Sum(), [[1, 2], [3]]))
    [3, 3]
    """
    worker = job.worker()
    for batch in batches:
        yield worker(batch)


ENGINES = {"local": run_local}
"""Name -> engine: ``(job, batches) -> results in order``."""
