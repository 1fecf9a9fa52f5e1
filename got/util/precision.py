"""Precision, memory layout and worker processes that make networks fast, above all on a CPU."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import logging
import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.data import DataLoader, Dataset

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


_LOG = logging.getLogger(__name__)

# glibc's malloc.h
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


def has_native_dtype(dtype: torch.dtype, device: str | torch.device) -> bool:
    """Whether a device computes in a dtype natively. Emulation is much slower than float32.

    For bfloat16, processors need AVX512 or better (AMX, Arm's BF16). With AVX2 alone a pass of mini's UNet takes 26
    times as long as in float32.

    Args:
        dtype: float32, bfloat16 or float16.
        device: Any; GPUs are taken to multiply what they can load, but for old ones and bfloat16.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return dtype is not torch.bfloat16 or torch.cuda.is_bf16_supported(including_emulation=False)
    if kind != "cpu" or dtype is torch.float32:
        return True
    if not torch.backends.mkldnn.is_available():
        return False
    asked = torch.ops.mkldnn
    return bool(asked._is_mkldnn_bf16_supported() if dtype is torch.bfloat16 else asked._is_mkldnn_fp16_supported())


def warn_if_emulated(dtype: torch.dtype, device: str | torch.device) -> None:
    """Log a warning if a device only emulates a dtype."""
    if not has_native_dtype(dtype, device):
        name = str(dtype).partition(".")[2]
        _LOG.warning("This %s only emulates %s: float32 is many times as fast", torch.device(device).type, name)


def lay_out_for_cpu(pipeline: Any) -> None:
    """Order weights as a CPU's convolutions want them: a pass of the UNet takes a tenth less, of a decoder a sixth.

    Not the encoder's: on flat images, as masks are, its group norms divide by almost nothing, and sums in another order
    would move latents by 1e-3.

    Args:
        pipeline: Any of diffusers; what it lacks is passed over.
    """
    for part in (
        getattr(pipeline, "unet", None),
        getattr(pipeline, "transformer", None),
        getattr(getattr(pipeline, "vae", None), "decoder", None),
    ):
        if part is not None:
            part.to(memory_format=torch.channels_last)


def missing_to_compile(device: str | torch.device) -> str | None:
    """What `torch.compile` lacks: inductor wants a C++ compiler for a CPU, triton one of C for a GPU of NVIDIA.

    Both compile against Python's headers.

    Args:
        device: Where the compiled network will run.

    Returns:
        A clause that names what is missing and what to do; None if nothing is, or the device needs nothing.
    """
    kind = torch.device(device).type
    if kind not in ("cpu", "cuda"):
        return None
    gnu = "clang++" if sys.platform == "darwin" else "g++"
    variable, usual = ("CXX", (gnu,)) if kind == "cpu" else ("CC", ("gcc", "clang"))
    named = os.environ.get(variable)
    tried = usual if named is None else (named,)
    if not any(_runs(command) for command in tried):
        if named is not None:
            return f"{variable} names {named!r}, which does not run"
        install = "install one (on Debian, apt-get install g++)"
        return f"{' and '.join(usual)} cannot be run: {install} or name one in {variable}"
    if sys.platform != "darwin" and not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return "Python's headers are missing (on Debian, apt-get install python3-dev)"
    return None


def _runs(command: str) -> bool:
    try:
        subprocess.run([*shlex.split(command), "--version"], capture_output=True, check=True)
    except (OSError, ValueError, subprocess.SubprocessError):
        return False
    return True


@contextlib.contextmanager
def bf16(device: str | torch.device) -> Iterator[None]:
    """Autocast to bfloat16 where the device computes in it natively.

    Weights and losses stay in float32, and so does attention on a CPU.
    """
    kind = torch.device(device).type
    if not has_native_dtype(torch.bfloat16, device):
        yield
        return
    with torch.autocast(kind, torch.bfloat16), _Float32Attention() if kind == "cpu" else contextlib.nullcontext():
        yield


class _Float32Attention(TorchFunctionMode):
    """Attention in float32: on CPUs its backward pass in half precision takes three times as long."""

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
    """Keep freed memory in this process: a step asks for the same blocks again.

    Fresh pages cost a third of a step of training, and an eighth of mini's pass over a batch of 32.
    """
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def stream(make: Callable[[int], list[Any]], start: int, size: int, workers: int) -> Iterator[Any]:
    """The items of `make(0)`, `make(1)`, ..., `size` each, from item `start` on; worker processes make them ahead."""
    loader = DataLoader(
        _Made(make),
        batch_size=None,
        sampler=range(start // size, sys.maxsize),
        num_workers=workers,
        prefetch_factor=1 if workers else None,  # every tensor that waits holds a file open
        collate_fn=list,
    )
    return itertools.islice(itertools.chain.from_iterable(loader), start % size, None)


class _Made(Dataset[Any]):
    def __init__(self, make: Callable[[int], list[Any]]) -> None:
        self.make = make

    def __getitem__(self, number: int) -> list[Any]:
        return self.make(number)
