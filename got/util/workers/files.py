"""Files that this machine has and a worker's lacks: into Ray's store once, and from there to each machine once.

They lie there for as long as a worker of any command uses them: the last one has them removed, however it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

from got.util.errors import UserError

Packed = tuple[str, str, dict[str, Any]]
"""A digest that changes with the content, the name of the file or folder, and Ray's reference to each file by its path
from where that lies."""

_SWEEP = """
import fcntl, os, shutil, sys, time
if os.fork():
    os._exit(0)  # Ray would kill a child with its worker
sys.stdin.read()  # until the other end of the pipe is gone
folder, name = sys.argv[1], sys.argv[1] + ".lock"
for _ in range(50):  # the lock may go a moment later
    try:
        lock = open(name, "rb")
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(lock.fileno()).st_ino == os.stat(name).st_ino:
            shutil.rmtree(folder, ignore_errors=True)
            os.unlink(name)
            os.rmdir(os.path.dirname(name))
        break
    except BlockingIOError:  # another worker uses it
        time.sleep(0.1)
    except OSError:  # another one has done it, or has files beside it
        break
"""
_held: dict[Path, tuple[IO[bytes], Any]] = {}
"""Folders that this process uses: their locks, and the pipes to the processes that remove them."""


def pack(place: Path) -> Packed:
    """Puts a file, or all files below a folder, into the store."""
    import numpy as np
    import ray

    paths = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
    # Models are named after their folders, in logs as well; the ending of a file's name says how it is read.
    name = place.name if place.is_file() else place.resolve().name
    kept = {Path(name, path.relative_to(place)).as_posix(): path for path in paths}
    said = [(path, file.stat().st_size, file.stat().st_mtime_ns) for path, file in kept.items()]
    digest = hashlib.sha256(json.dumps([str(place.resolve()), said]).encode()).hexdigest()[:16]
    # Mapped, not read: a shard of a large model is never in this process's memory.
    refs = {
        path: ray.put(np.memmap(file, np.uint8, "r") if file.stat().st_size else np.zeros(0, np.uint8))
        for path, file in kept.items()
    }
    return digest, name, refs


def unpack(packed: Packed) -> Path:
    """Writes what was packed below this machine's temporary folder, unless it is there; returns where.

    Several workers of one machine may do so at once. It is removed when the last one of them has ended.

    Args:
        packed: From `pack`.

    Raises:
        UserError: Another user could have put files there.
    """
    import ray

    digest, name, refs = packed
    place = _own_folder() / digest
    _hold(place)
    for file_name, ref in refs.items():
        path = place / file_name
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        data: Any = ray.get(ref)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(memoryview(data))
        Path(file.name).replace(path)
    return place / name


def _hold(place: Path) -> None:
    """Keeps a folder until this process ends; it is removed with the last process that uses it."""
    if place not in _held:
        _held[place] = _lock(place), _swept_at_the_end(place)


def _lock(place: Path) -> IO[bytes]:
    """A shared lock of a folder, held while the file is open."""
    lock = place.with_name(f"{place.name}.lock")
    while True:
        with contextlib.suppress(FileNotFoundError):  # it was removed between two of these lines
            file = lock.open("ab")
            fcntl.flock(file, fcntl.LOCK_SH)
            if lock.stat().st_ino == os.fstat(file.fileno()).st_ino:
                return file
            file.close()
        _own_folder()


def _swept_at_the_end(place: Path) -> Any:
    """Starts a process that removes a folder after the end of this one, unless others use it; returns its pipe."""
    words = [sys.executable, "-I", "-S", "-c", _SWEEP, str(place)]
    quiet = subprocess.DEVNULL
    sweeper = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, start_new_session=True)
    sweeper.wait()  # it goes on as a process of its own
    return sweeper.stdin


def _own_folder() -> Path:
    """A temporary folder that this user alone can write to; others could have made one of the same name."""
    folder = Path(tempfile.gettempdir()) / f"got-bench-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise UserError(
            f"{folder}: expected a folder of your own that nobody else can write to; remove it or set TMPDIR"
        )
    return folder
