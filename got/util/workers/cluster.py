"""Joins a running Ray, or starts one that ends with this process.

Processes that are not to outlive this one, even if it is killed, have a watcher that waits for its end and kills them.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

from got.util.errors import UserError, one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_OBJECT_STORE_BYTES = 256 * 2**20
"""Object store of a Ray that is started here, for results on their way; more than that goes to the disk."""


def set_environment(address: str) -> None:
    """Sets the variables that Ray reads on import; those that are set already stay."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # as Ray will do, and warns of until then
    if address == "local" and "ray" not in sys.modules:
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # as Ray does by itself, with a warning
        # A token of Ray's own would stay in the home directory, and a later `ray start` would want it of everybody.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def connect(address: str) -> Callable[[], None]:
    """Joins a running Ray, or starts one (``local``) that ends with this process.

    Returns:
        A function to call before leaving Ray.

    Raises:
        UserError: Nobody answers at the address.
    """
    own: dict[str, Any] = {}
    if address == "local":
        own = {"include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES, "_node_ip_address": "127.0.0.1"}
        own["num_cpus"] = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    else:
        _knock(address)
    import ray

    before, others = signal.getsignal(signal.SIGTERM), descendants()
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray ends a process by it in a way of its own
    except Exception as error:  # of many kinds
        if own:
            raise UserError(f"Ray cannot be started here: {one_line(error)}") from error
        found = "no running Ray was found here" if address == "auto" and isinstance(error, ConnectionError) else ""
        advice = "where that Ray wants a token, set RAY_AUTH_MODE=token"
        raise UserError(f"--ray-address {address}: {found or f'{one_line(error)}; {advice}'}") from error
    # Killed with this process, Ray's server leaves its agents behind, which try for a minute to tell it of that.
    return kill_with_this_process(descendants() - others if own else set())


def _knock(address: str) -> None:
    """Refuses an address where nothing answers: Ray itself waits for minutes, and then ends the process."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if address == "auto":
        return
    if not (colon and port.isdecimal()):
        raise UserError(f"--ray-address: expected auto, HOST:PORT or ray://HOST:PORT but got {address}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"--ray-address {address}: nobody answers ({one_line(error)})") from error


# -------------------------------------------------------------------------------------------------------------- orphans
_WATCH = """
import signal, sys
sys.stdin.read()  # until the other end of the pipe is gone
for handle in sys.argv[1:]:
    try:
        signal.pidfd_send_signal(int(handle), signal.SIGKILL)
    except ProcessLookupError:
        pass
"""


def descendants() -> set[int]:
    """All descendants of this process. Needs psutil, which Ray brings."""
    import psutil

    return {process.pid for process in psutil.Process().children(recursive=True)}


def kill_with_this_process(pids: Iterable[int]) -> Callable[[], None]:
    """Has processes killed when this one ends; returns a function that cancels that.

    Without process handles, which Linux has, nothing is done: the number of a process may be reused.
    """
    handles = []
    for pid in pids:
        try:
            handles.append(os.pidfd_open(pid))
        except ProcessLookupError:  # it has ended meanwhile
            continue
        except (AttributeError, OSError):
            break
    if not handles:
        return lambda: None
    watcher = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _WATCH, *map(str, handles)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=handles,
        start_new_session=True,  # Ctrl-C is for this process alone
    )
    for handle in handles:
        os.close(handle)

    def stop() -> None:
        watcher.kill()
        watcher.communicate()

    return stop
