"""Images of a run, made small enough for a page by the thousand."""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import os
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from got.util.images import open_if_any

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

THUMBNAIL_PX = 256
"""Longer side of a thumbnail; smaller images keep their size."""


def _small(image: Image.Image) -> Image.Image:
    """The image, its longer side at most `THUMBNAIL_PX`."""
    from PIL import Image

    if max(image.size) > THUMBNAIL_PX:
        image = image.copy()
        image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS)
    return image


def _webp(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=88, method=2)
    return buffer.getvalue()


class Album:
    """Thumbnails of a report: each distinct one once, named by its pixels, never by a run's own words."""

    def __init__(self) -> None:
        self._coming: dict[str, Future[bytes]] = {}
        # Encoding takes as long as all else that a sample needs, and leaves Python's lock to others.
        self._pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))

    def add(self, path: Path | None) -> str | None:
        """Takes an image in; its name here, or None where it cannot be read."""
        image = open_if_any(path)
        if image is None:
            return None
        small = _small(image)
        name = f"{hashlib.sha256(f'{small.size}'.encode() + small.tobytes()).hexdigest()[:20]}.webp"
        if name not in self._coming:
            self._coming[name] = self._pool.submit(_webp, small)
        return name

    @functools.cached_property
    def files(self) -> dict[str, bytes]:
        """File name -> content. No image can be added any more."""
        self._pool.shutdown()
        return {name: one.result() for name, one in self._coming.items()}

    @property
    def size(self) -> int:
        """Bytes of all thumbnails."""
        return sum(map(len, self.files.values()))

    def inline(self) -> dict[str, str]:
        """File name -> data URI."""
        return {
            name: f"data:image/webp;base64,{base64.b64encode(content).decode()}" for name, content in self.files.items()
        }

    def write(self, folder: Path) -> None:
        """The thumbnails as files."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            (folder / name).write_bytes(content)
