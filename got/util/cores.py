"""A network's pass over a batch as one part for each core of a CPU.

Two passes on one thread each end sooner than one pass on two threads, which wait for each other at every layer.
"""

from __future__ import annotations

import functools
import itertools
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import nn

Part = TypeVar("Part")
Result = TypeVar("Result")

_ROWS_EACH = 8
"""Fewer are not worth a thread, and with fewer than four sums come in another order."""


def row_parts(network: nn.Module, rows: int) -> list[slice]:
    """How a batch passes a network: by parts, one for each thread, or as a whole.

    Args:
        network: If it is compiled, has hooks, lies elsewhere than on a CPU or is being trained, it gets whole batches.
        rows: Of the batch.
    """
    threads = torch.get_num_threads()
    if rows < _ROWS_EACH * threads or not can_split(network):
        return [slice(0, rows)]
    ends = [rows * number // threads for number in range(threads + 1)]
    return [slice(start, end) for start, end in itertools.pairwise(ends)]


def can_split(network: nn.Module) -> bool:
    """Whether several threads may ask a network at a time, and would be done sooner."""
    weight = next(network.parameters())
    return (
        weight.device.type == "cpu"
        and torch.get_num_threads() > 1
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and network._compiled_call_impl is None
        and not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    )


def on_cores(work: Callable[[Part], Result], parts: Sequence[Part], *, split: bool = True) -> list[Result]:
    """What work without gradients makes of each part, in order; each on one thread, as many at a time as torch has.

    Args:
        work: Calls networks; it must change nothing that another part sees.
        parts: What it is called with.
        split: False does one after the other, each on all threads.
    """
    if len(parts) == 1 or not split:
        return [work(part) for part in parts]
    inference = torch.is_inference_mode_enabled()

    def alone(part: Part) -> Result:
        with torch.inference_mode(inference), torch.no_grad():
            return work(part)

    return list(_pool(torch.get_num_threads(), os.getpid()).map(alone, parts))


@functools.lru_cache(maxsize=1)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Threads that torch computes on alone; of this process, since those of its parent are not in a fork."""
    begun = threading.Barrier(threads + 1)

    def begin() -> None:
        torch.get_num_threads()  # a thread's first question sets its number, and would do so again later
        torch.set_num_threads(1)
        begun.wait()

    pool = ThreadPoolExecutor(threads, "cores", begin)
    for _ in range(threads):
        pool.submit(int)
    begun.wait()
    torch.set_num_threads(threads)  # what the next new thread begins with was set to one, too
    return pool
