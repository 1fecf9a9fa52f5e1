"""What makes training fast on a CPU."""

from __future__ import annotations

import contextlib
import ctypes
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# glibc's malloc.h
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


@contextlib.contextmanager
def bf16(device: str | torch.device) -> Iterator[None]:
    """Short floats for matrix products; weights and losses stay in float32, and so does attention on a CPU."""
    kind = torch.device(device).type
    with torch.autocast(kind, torch.bfloat16), _Float32Attention() if kind == "cpu" else contextlib.nullcontext():
        yield


class _Float32Attention(TorchFunctionMode):
    """Attention in float32: on CPUs its backward pass in short floats takes three times as long."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not functional.scaled_dot_product_attention:
            return func(*args, **kwargs or {})
        with torch.autocast("cpu", enabled=False):
            named = {name: _long(value) for name, value in (kwargs or {}).items()}
            return func(*map(_long, args), **named).to(args[0].dtype)


def _long(value: Any) -> Any:
    return value.float() if torch.is_tensor(value) and value.dtype is torch.bfloat16 else value


def reuse_memory() -> None:
    """Keep freed memory in this process: a step asks for the same blocks again, and fresh pages cost a third of it."""
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
