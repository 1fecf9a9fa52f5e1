"""Images of a run, made small enough for a page by the thousand."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import os
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from got.util import processes
from got.util.images import open_if_any

if TYPE_CHECKING:
    from collections.abc import Iterable
    from concurrent.futures import Executor, Future

    from PIL import Image

THUMBNAIL_PX = 256
"""Longer side of a thumbnail; smaller images keep their size."""
_CHUNK = 64
_WORTH_BYTES = 8_000_000
"""Of files of images: less is done before a process has begun."""


def _small(image: Image.Image) -> Image.Image:
    """The image, its longer side at most `THUMBNAIL_PX`."""
    from PIL import Image

    if max(image.size) > THUMBNAIL_PX:
        image = image.copy()
        image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS)
    return image


def _encoded(image: Image.Image) -> bytes:
    """JPEG with colours as fine as light: nearer to the image than WebP of half the size, in a sixth of its time."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80, subsampling=0)
    return buffer.getvalue()


def _thumbnail(path: str) -> tuple[str, bytes] | None:
    """Name and content of a file's thumbnail; None where it holds no image that can be read."""
    image = open_if_any(Path(path))
    if image is None:
        return None
    content = _encoded(_small(image))
    return f"{hashlib.sha256(content).hexdigest()[:20]}.jpg", content


def _thumbnails(paths: list[str]) -> list[tuple[str, bytes] | None]:
    return [_thumbnail(path) for path in paths]


def _are_many(paths: list[str]) -> bool:
    """Whether other processes pay."""
    total = 0
    for path in paths:
        with contextlib.suppress(OSError, ValueError):  # of a name that no file can have
            total += Path(path).stat().st_size
        if total > _WORTH_BYTES:
            return True
    return False


class Album:
    """Thumbnails of a report: each distinct one once, named by its content, never by a run's own words.

    Where they are many, other processes make them while this one goes on; they end with the ``with`` block.

    Args:
        paths: Images that will be added, best in that order. Others may be, too.
    """

    def __init__(self, paths: Iterable[Path] = ()) -> None:
        self.files: dict[str, bytes] = {}
        """File name -> content."""
        self._coming: dict[str, tuple[Future[list[tuple[str, bytes] | None]], int]] = {}
        """Path -> what will hold its thumbnail, and where."""
        every = list(dict.fromkeys(map(str, paths)))
        self._pool = processes.pool() if _are_many(every) else None
        if self._pool is not None:
            with contextlib.suppress(BrokenExecutor):  # as of `_made`
                self._begin(self._pool, every)

    def _begin(self, pool: Executor, paths: list[str]) -> None:
        for start in range(0, len(paths), _CHUNK):
            chunk = paths[start : start + _CHUNK]
            future = pool.submit(_thumbnails, chunk)
            self._coming.update((path, (future, place)) for place, path in enumerate(chunk))

    def __enter__(self) -> Album:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None
        self._coming.clear()

    def add(self, path: Path | None) -> str | None:
        """Takes an image in; its name here, or None where it cannot be read."""
        made = None if path is None else self._made(str(path))
        if made is None:
            return None
        self.files.setdefault(*made)
        return made[0]

    def _made(self, path: str) -> tuple[str, bytes] | None:
        if path in self._coming:
            future, place = self._coming[path]
            with contextlib.suppress(BrokenExecutor):  # a process was killed, as for lack of memory
                return future.result()[place]
        return _thumbnail(path)

    @property
    def size(self) -> int:
        """Bytes of all thumbnails."""
        return sum(map(len, self.files.values()))

    def inline(self) -> dict[str, str]:
        """File name -> data URI."""
        return {
            name: f"data:image/jpeg;base64,{base64.b64encode(content).decode()}" for name, content in self.files.items()
        }

    def write(self, folder: Path) -> None:
        """The thumbnails as files. One that an earlier report has left, whole, is written no more."""
        folder.mkdir(parents=True, exist_ok=True)
        with os.scandir(folder) as entries:
            there = {entry.name: entry.stat().st_size for entry in entries if entry.name in self.files}
        for name, content in self.files.items():
            if there.get(name) != len(content):
                (folder / name).write_bytes(content)
