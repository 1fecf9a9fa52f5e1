"""Where models of a process run, and with how many threads."""

from __future__ import annotations

import os
import sys

from got.util.errors import UserError


def resolve_device(name: str) -> str:
    """The device of a name; ``auto`` is a GPU if there is one.

    Raises:
        UserError: It cannot be used here.
    """
    if name == "cpu":
        return name
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    # A missing CUDA is an AssertionError or a RuntimeError, by how torch was built.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"--device {name} cannot be used: {' '.join(str(error).split())[:200]}") from error
    return name


def set_threads() -> None:
    """Decides the number of torch's threads, here and nowhere else: OMP_NUM_THREADS, or the cores we may use."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if "torch" not in sys.modules and wanted.isdecimal() and int(wanted):
        return  # torch reads it when it is imported, and whoever needs no model has not to wait for that
    import torch

    # Only Linux tells which cores this process may use; a container often has fewer than the machine.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(int(wanted) if wanted.isdecimal() and int(wanted) else cores)
