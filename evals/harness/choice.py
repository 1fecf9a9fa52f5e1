"""Which cases and samples of a suite a run takes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from evals.core.records import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evals.core.records import Case


def in_share(number: int, batch_size: int, shard: tuple[int, int]) -> bool:
    """Whether a sample is in a share: whole batches in turn, drawn beside the same others as in one process.

    >>> [number for number in range(10) if in_share(number, 2, (1, 3))]
    [0, 1, 6, 7]
    """
    return number // batch_size % shard[1] == shard[0] - 1


def of_tasks(cases: Sequence[Case], tasks: Sequence[str]) -> list[Case]:
    """The cases of some tasks, which keep their ids; of all where none is named.

    Raises:
        UserError: There is no such task.

    >>> from evals.core.records import Case
    >>> cases = [Case(id=str(i), prompt="", tag="ab"[i > 3], metadata={}) for i in range(6)]
    >>> [case.id for case in of_tasks(cases, ["b"])]
    ['4', '5']
    """
    known = dict.fromkeys(case.tag for case in cases)
    unknown = [name for name in tasks if name not in known]
    if unknown:
        # A name with a comma is quoted: it is one name, and only a JSON list can give it.
        said, tasks_are = (", ".join(json.dumps(x) if "," in x else x for x in some) for some in (unknown, known))
        raise UserError(f"--tasks: {said} is no task here; the tasks are {tasks_are}")
    return [case for case in cases if not tasks or case.tag in tasks]


def spread(cases: Sequence[Case], limit: int | None) -> list[Case]:
    """`limit` cases, shared evenly by the tasks and evenly spaced inside each; order kept. None keeps all.

    >>> from evals.core.records import Case
    >>> cases = [Case(id=str(i), prompt="", tag="ab"[i > 3], metadata={}) for i in range(10)]
    >>> [case.id for case in spread(cases, 4)]
    ['0', '2', '4', '7']
    """
    if limit is None or limit >= len(cases):
        return list(cases)
    tasks: dict[str, list[Case]] = {}
    for case in cases:
        tasks.setdefault(case.tag, []).append(case)
    quotas = dict.fromkeys(tasks, 0)
    while (left := limit - sum(quotas.values())) > 0:
        for tag in [tag for tag in tasks if quotas[tag] < len(tasks[tag])][:left]:
            quotas[tag] += 1
    kept = {members[i * len(members) // quotas[tag]].id for tag, members in tasks.items() for i in range(quotas[tag])}
    return [case for case in cases if case.id in kept]
