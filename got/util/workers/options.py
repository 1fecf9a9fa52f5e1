"""The flags of worker pools, which several commands share."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from got.util.cli import number, whole
from got.util.errors import UserError


def _auto(text: str) -> int | None:
    return None if text == "auto" else whole()(text)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PoolOptions:
    """Options of a pool."""

    workers: int | None = None
    """Number of workers; None: one per GPU of the cluster, or without GPUs, as many as the CPUs allow."""
    cpus_per_worker: int = 1
    """CPUs, and threads, per worker."""
    gpus_per_worker: float | None = None
    """GPUs per worker; None: 1 where the cluster has GPUs, else 0."""
    address: str | None = None
    """Address of a running Ray; None: ``RAY_ADDRESS``, or a Ray that is started here and stopped at the end."""
    wait_minutes: float = 10.0
    """Longest time without any worker."""


FLAGS: dict[str, dict[str, Any]] = {
    "workers": {
        "default": None,
        "type": _auto,
        "metavar": "N|auto",
        "help": "of --engine ray (default: auto, one per GPU of the cluster; without GPUs one per --cpus-per-worker)",
    },
    "cpus_per_worker": {
        "default": 1,
        "type": whole(),
        "metavar": "N",
        "help": "CPUs and threads of each worker (default: %(default)s)",
    },
    "gpus_per_worker": {
        "default": None,
        "type": number(0),
        "metavar": "X",
        "help": "fractions share a GPU (default: 1 where the cluster has GPUs)",
    },
    "ray_address": {
        "default": None,
        "metavar": "ADDRESS",
        "help": "auto, HOST:PORT or ray://HOST:PORT of a running Ray (default: RAY_ADDRESS, or start one here)",
    },
    "worker_wait": {
        "default": 10.0,
        "type": number(0),
        "metavar": "MINUTES",
        "help": "end if there is no worker for so long; the same command resumes (default: %(default)g)",
    },
}
"""Field -> arguments of `argparse` of its flag."""


def add_flags(group: argparse._ActionsContainer) -> None:
    """Adds `FLAGS` to a command."""
    for name, how in FLAGS.items():
        group.add_argument(f"--{name.replace('_', '-')}", **how)


def options_of(given: object, *, gpus: bool) -> PoolOptions:
    """The options of an object with the fields of `FLAGS`; without `gpus`, workers request none."""
    return PoolOptions(
        workers=given.workers,  # type: ignore[attr-defined]
        cpus_per_worker=given.cpus_per_worker,  # type: ignore[attr-defined]
        gpus_per_worker=given.gpus_per_worker if gpus else 0.0,  # type: ignore[attr-defined]
        address=given.ray_address,  # type: ignore[attr-defined]
        wait_minutes=given.worker_wait,  # type: ignore[attr-defined]
    )


def count(options: PoolOptions, gpus: float, found: dict[str, float]) -> int:
    """The number of workers.

    Raises:
        UserError: There are fewer CPUs or GPUs than they need.

    >>> count(PoolOptions(), 0.5, {"CPU": 8.0, "GPU": 2.0}), count(PoolOptions(cpus_per_worker=2), 0, {"CPU": 5.0})
    (4, 2)
    """
    have = {"CPU": found.get("CPU", 0.0), "GPU": found.get("GPU", 0.0)}
    each = {"CPU": float(options.cpus_per_worker), "GPU": gpus}
    most = {kind: int(have[kind] / each[kind] + 1e-6) for kind in have if each[kind]}
    count = options.workers or min(most.values())
    for kind, fit in most.items():
        if count > fit or not fit:
            wanted = f"{max(count, 1)} of {each[kind]:g} {kind}s each"
            raise UserError(f"--workers: the cluster has {have[kind]:g} {kind}s, too few for {wanted}")
    return count
