"""Where samples are computed. An engine runs a job over batches and hands results back in order."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any, Protocol

    Batch = TypeVar("Batch", bound="Sequence[Any]")
    Result = TypeVar("Result", covariant=True)

    class Job(Protocol[Batch, Result]):
        """What is to be done. Picklable: any process makes a worker of it."""

        def worker(self) -> Callable[[Batch], Result]:
            """Loads what is needed, once; what it returns is called with one batch after the other."""


def run_local(job: Job[Batch, Result], batches: Iterable[Batch]) -> Iterator[Result]:
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
