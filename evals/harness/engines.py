"""Where samples are computed. An engine runs a worker over batches and hands results back in order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

Batch = TypeVar("Batch", bound="Sequence[Any]")
Result = TypeVar("Result")


def run_local(make_worker: Callable[[], Callable[[Batch], Result]], batches: Iterable[Batch]) -> Iterator[Result]:
    """One worker in this process, built once, before the first batch.

    >>> list(run_local(lambda: sum, [[1, 2], [3]]))
    [3, 3]
    """
    worker = make_worker()
    for batch in batches:
        yield worker(batch)


ENGINES = {"local": run_local}
"""Name -> engine: ``(make_worker, batches) -> results in order``."""
