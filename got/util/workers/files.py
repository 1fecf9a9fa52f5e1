"""Files that this machine has and a worker's lacks: into Ray's store once, and from there to each machine once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

from got.util.errors import UserError

Packed = tuple[str, dict[str, Any]]
"""A name that changes with the content, and Ray's reference to each file by its relative path; the path of a file that
is packed alone is its name."""


def pack(place: Path) -> Packed:
    """Puts a file, or all files below a folder, into the store."""
    import numpy as np
    import ray

    paths = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
    root = place.parent if place.is_file() else place
    kept = {path.relative_to(root).as_posix(): path for path in paths}
    said = [(name, path.stat().st_size, path.stat().st_mtime_ns) for name, path in kept.items()]
    digest = hashlib.sha256(json.dumps([str(place.resolve()), said]).encode()).hexdigest()[:16]
    # Mapped, not read: a shard of a large model is never in this process's memory.
    refs = {
        name: ray.put(np.memmap(path, np.uint8, "r") if path.stat().st_size else np.zeros(0, np.uint8))
        for name, path in kept.items()
    }
    return digest, refs


def unpack(packed: Packed, *, folder: bool) -> Path:
    """Writes what was packed below this machine's temporary folder, unless it is there; returns where.

    Several workers of one machine may do so at once.

    Args:
        packed: From `pack`.
        folder: Whether it was a folder.

    Raises:
        UserError: Another user could have put files there.
    """
    import ray

    digest, refs = packed
    place = _own_folder() / digest
    for name, ref in refs.items():
        path = place / name
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        data: Any = ray.get(ref)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(memoryview(data))
        Path(file.name).replace(path)
    return place if folder else place / next(iter(refs))


def _own_folder() -> Path:
    """Where files are written, which this user alone can write to: anybody may make a folder of that name before."""
    folder = Path(tempfile.gettempdir()) / f"got-bench-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise UserError(
            f"{folder}: expected a folder of your own that nobody else can write to; remove it or set TMPDIR"
        )
    return folder
