"""The queue of a pool: tasks go out in order, and so do results."""

from __future__ import annotations

import dataclasses
import heapq
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

_DEATHS_OF_A_BATCH, _DEATHS_OF_AN_ITEM = 3, 2


@dataclasses.dataclass(slots=True, order=True)
class Task:
    """A batch, or one item of a batch that is computed item by item."""

    number: int
    part: int
    items: Sequence[Any] = dataclasses.field(compare=False)
    alone: bool = dataclasses.field(default=False, compare=False)
    deaths: int = dataclasses.field(default=0, compare=False)


class Queue:
    """Hands out batches as tasks and returns their results in order. Knows no Ray.

    >>> queue = Queue(["ab", "c"], ahead=9, lost=lambda item, why: item.upper())
    >>> first, second = queue.take(), queue.take()
    >>> queue.done(second, ["c!"])
    >>> list(queue.finished())
    []
    >>> for _ in range(_DEATHS_OF_A_BATCH):
    ...     queue.died(first, "why")
    ...     again = queue.take()
    >>> queue.done(again, ["a!"])
    >>> for _ in range(_DEATHS_OF_AN_ITEM):
    ...     queue.died(queue.take(), "why")
    >>> queue.take()
    >>> list(queue.finished()), queue.is_over
    ([['a!', 'B'], ['c!']], True)
    """

    def __init__(self, batches: Iterable[Sequence[Any] | None], ahead: int, lost: Callable[[Any, str], Any]) -> None:
        """Batches are taken lazily.

        Args:
            batches: The batches; None: nothing is available yet.
            ahead: Most batches that are handed out or wait for an older one.
            lost: Makes the result of an item that workers died at, from the item and the reason.
        """
        self._batches, self._ahead, self._lost = iter(batches), ahead, lost
        self._count = 0
        self._again: list[Task] = []
        self._parts: dict[int, dict[int, list[Any] | None]] = {}
        """Results of the parts of each batch under way; None: not there yet."""
        self._turn, self._all_taken = 0, False
        self.given_up = 0
        """Number of items that were given up."""

    @property
    def is_over(self) -> bool:
        """Whether all results were returned."""
        return self._all_taken and not self._parts

    def take(self) -> Task | None:
        """The next task; None if there is none, or too many results wait for an older one."""
        if self._again:
            return heapq.heappop(self._again)
        if len(self._parts) >= self._ahead:
            return None
        try:
            items = next(self._batches)
        except StopIteration:
            self._all_taken = True
            return None
        if items is None:
            return None
        self._parts[self._count] = {0: None}
        self._count += 1
        return Task(self._count - 1, 0, items)

    def done(self, task: Task, results: list[Any]) -> None:
        """Takes the results of a task."""
        self._parts[task.number][task.part] = results

    def again(self, task: Task) -> None:
        """Puts back a task that was not started."""
        heapq.heappush(self._again, task)

    def died(self, task: Task, why: str) -> None:
        """Puts back a task that a worker died at, item by item or not at all if it happened too often."""
        task.deaths += 1
        if task.alone and task.deaths >= _DEATHS_OF_AN_ITEM:
            self.given_up += 1
            self.done(task, [self._lost(task.items[0], why)])
        elif task.alone or task.deaths < _DEATHS_OF_A_BATCH:
            self.again(task)
        else:
            self._parts[task.number] = dict.fromkeys(range(len(task.items)))
            for part, item in enumerate(task.items):
                self.again(Task(task.number, part, [item], alone=True))

    def finished(self) -> Iterator[list[Any]]:
        """The results of finished batches, up to the first unfinished one."""
        while None not in (parts := self._parts.get(self._turn, {0: None})).values():
            del self._parts[self._turn]
            self._turn += 1
            yield [result for results in parts.values() for result in results or ()]
