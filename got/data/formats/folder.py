"""A chain dataset as a folder: `examples.jsonl`, a row a line, and the images it refers to by relative paths.

Easy to look into and to change with an editor; the format for up to some hundred thousand examples.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from got.data.records import DataError, Entry, Example, bytes_of, encode, suffix_of
from got.util.files import append_lines, inside, recorded

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

LINES = "examples.jsonl"
_CHUNK = 1 << 24
_EXAMPLES_TOGETHER = 1000  # in one folder of images: more are slow to list, and many folders slow to make


class FolderReader:
    """Reads rows line by line; every line is a block of its own, so that any order costs the same."""

    buffer = 0

    def __init__(self, lines: Path) -> None:
        self.lines = lines
        self._offsets = _line_offsets(lines)
        self.sizes = np.ones(len(self._offsets), np.int64)

    def entries(self, blocks: Iterable[tuple[int, np.ndarray]]) -> Iterator[Entry]:
        """Rows of the wanted lines."""
        with self.lines.open("rb") as file:
            for block, wanted in blocks:
                if wanted.all():
                    file.seek(int(self._offsets[block]))
                    yield self._entry(file.readline(), block)

    def _entry(self, line: bytes, block: int) -> Entry:
        where = f"{self.lines}:{block + 1}"
        try:
            return Entry(number=0, where=where, row=json.loads(line), image=self._image)
        except (ValueError, RecursionError) as error:
            cut = "the line is cut off" if not line.endswith(b"\n") else f"expected JSON but {error}"
            return Entry(number=0, where=where, row=None, image=self._image, broken=f"row: {cut}")

    def _image(self, field: str, reference: Any) -> Path:
        if not isinstance(reference, str) or not reference or "\0" in reference:
            raise DataError(f"{field}: expected a path relative to the folder but got {reference!r}")
        path = inside(self.lines.parent, reference)
        if path is None:
            raise DataError(f"{field}: expected a path that stays in the folder but got {reference!r}")
        return path


class FolderWriter:
    """Appends: images first, then the line, so that a line's images are always there."""

    def __init__(self, folder: Path, per_file: int) -> None:
        self.folder = folder
        self._lines = folder / LINES
        self.known = {_id_of(row, self._lines) for row in recorded(self._lines, DataError)}
        self._lines.touch()
        self._made: set[Path] = set()

    def add(self, example: Example) -> None:
        """Write one example."""
        images = {name: bytes_of(image) for name, image in example.images()}
        place = f"images/{len(self.known) // _EXAMPLES_TOGETHER:05d}"
        references = {name: f"{place}/{example.id}.{name}{suffix_of(data)}" for name, data in images.items()}
        row = encode(example, references)
        if (folder := self.folder / place) not in self._made:
            folder.mkdir(parents=True, exist_ok=True)
            self._made.add(folder)
        for name, reference in references.items():
            (self.folder / reference).write_bytes(images[name])
        append_lines(self._lines, [row], durable=False)

    def close(self) -> None:
        """Leave everything on disk."""
        with self._lines.open("rb+") as file:
            os.fsync(file.fileno())


def _line_offsets(lines: Path) -> np.ndarray:
    """Where each line begins, int64 (n,)."""
    starts: list[np.ndarray] = [np.zeros(1, np.int64)]
    base = 0
    with lines.open("rb") as file:
        while chunk := file.read(_CHUNK):
            starts.append(np.flatnonzero(np.frombuffer(chunk, np.uint8) == ord("\n")) + base + 1)
            base += len(chunk)
    offsets = np.concatenate(starts)
    return offsets[offsets < base]


def _id_of(row: dict[str, Any], lines: Path) -> str:
    if not isinstance(row.get("id"), str):
        raise DataError(f"{lines}: id: expected one in every row, to go on behind them, but got {row.get('id')!r}")
    return str(row["id"])
