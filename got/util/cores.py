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


def row_parts(network: nn.Module, items: int, rows_each: int = 1) -> list[slice]:
    """How a batch is split for a network: into one part per thread, or not at all.

    Args:
        network: If it is compiled, has hooks, lies elsewhere than on a CPU or is being trained, it gets whole batches.
        items: Of the batch; none is cut.
        rows_each: Rows of an item.
    """
    threads = torch.get_num_threads()
    if items < threads or items * rows_each < _ROWS_EACH * threads or not can_split(network):
        return [slice(0, items)]
    ends = [items * number // threads for number in range(threads + 1)]
    return [slice(start, end) for start, end in itertools.pairwise(ends)]


def can_split(network: nn.Module) -> bool:
    """Whether several threads can use a network at the same time, and are faster together."""
    on_cpu = next(network.parameters()).device.type == "cpu"
    return on_cpu and torch.get_num_threads() > 1 and is_plain(network) and not _has_hooks(network)


def is_plain(network: nn.Module) -> bool:
    """Whether a pass is that of the layers as their library made them, in the precision of their weights.

    It is not where gradients are wanted, where something is compiled or offloaded, and where hooks watch a layer. Hooks
    of the network as a whole may be there.
    """
    kind = next(network.parameters()).device.type
    return not (
        torch.is_grad_enabled()
        or kind == "meta"  # weights wait elsewhere
        or torch.is_autocast_enabled(kind)
        or any(
            module._compiled_call_impl is not None
            or "_orig_mod" in module._modules  # torch.compile(network) is a module around it
            or hasattr(module, "_hf_hook")  # accelerate's, of offloading
            or (module is not network and _has_hooks(module))
            for module in network.modules()
        )
    )


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def on_cores(work: Callable[[Part], Result], parts: Sequence[Part], *, split: bool = True) -> list[Result]:
    """Calls a function without gradients for each part, each on one thread, and returns the results in order.

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
    """A pool of threads with one torch thread each; per process, since a fork has no threads of its parent."""
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
