"""Chain datasets on disk: read in any order, one example at a time; written so that no crash can harm them.

There are three formats, told apart by what is there: a folder with `examples.jsonl` and images
(`got.data.formats.folder`), Parquet files (`got.data.formats.parquet`), and WebDataset shards
(`got.data.formats.shards`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from got.data.formats.folder import LINES, FolderReader, FolderWriter
from got.data.formats.shards import ShardReader, ShardWriter
from got.data.records import DataError, Example
from got.util.files import FolderLock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from collections.abc import Set as AbstractSet
    from types import TracebackType
    from typing import Self

    from got.data.records import Entry

FORMATS = ("folder", "parquet", "webdataset")
PER_FILE = 1000
_PATTERNS = {"folder": LINES, "parquet": "*.parquet", "webdataset": "*.tar"}
_LOCK = ".writing"


class Reader(Protocol):
    """What a format has to offer: blocks of examples, each of which is read from front to back."""

    buffer: int
    """Over how many examples an order by blocks is mixed; 0 where blocks are single examples."""
    sizes: np.ndarray
    """Examples of each block, int64 (n,)."""

    def entries(self, blocks: Iterable[tuple[int, np.ndarray]]) -> Iterator[Entry]:
        """The entries of each block that a bool mask (size,) selects, in order."""


class _FormatWriter(Protocol):
    known: set[str]

    def add(self, example: Example) -> None: ...

    def close(self) -> None: ...


def read(
    place: str | Path,
    *,
    shuffle_seed: int | None = None,
    epoch: int = 0,
    start: int = 0,
    part: tuple[int, int] = (0, 1),
) -> Iterator[Example]:
    """The examples of a dataset, one after the other; no more than a buffer of them is in memory.

    The order depends on the arguments alone. In a folder any order is equally likely; Parquet's row groups and shards
    come in any order, and their examples are mixed over a buffer of 1000.

    Args:
        place: A folder, or one of its files.
        shuffle_seed: Fixes a random order; without it, examples come as they were written.
        epoch: Another order for each of them.
        start: Examples that have been taken already: the rest follows as it would have.
        part: Which of how many parts, (0, 4) to (3, 4): for workers and ranks. Together they are the dataset, and no
            example is in two. Whole row groups or shards are dealt out if there is one for each part at least.

    Raises:
        DataError: If there is no dataset, or an example cannot be read; names file, line or row, and field.
        ValueError: If an argument is out of range.
    """
    reader = reader_of(place)
    blocks, order = _plan(reader, shuffle_seed, epoch, part)
    if start < 0:
        raise ValueError(f"Expected start to be at least 0 but got {start}")
    return (entry.example() for entry in _stream(reader, blocks, order[start:], str(place)))


def count(place: str | Path, *, shuffle_seed: int | None = None, epoch: int = 0, part: tuple[int, int] = (0, 1)) -> int:
    """How many examples `read` gives with the same arguments.

    Raises:
        DataError: If there is no dataset.
    """
    return len(_plan(reader_of(place), shuffle_seed, epoch, part)[1])


def format_of(place: str | Path) -> str | None:
    """Which of `FORMATS` is at a place; None if there is none of them.

    Raises:
        DataError: If there are several.
    """
    path = Path(place)
    if path.is_file():
        found = [name for name, pattern in _PATTERNS.items() if path.suffix == Path(pattern).suffix]
    else:
        found = [name for name, pattern in _PATTERNS.items() if any(path.glob(pattern))]
    if len(found) > 1:
        raise DataError(f"{place}: expected a dataset in one format but there are {' and '.join(found)}")
    return found[0] if found else None


def files_of(place: str | Path) -> list[Path]:
    """The files that hold a dataset's rows, in order.

    Raises:
        DataError: If there is no dataset.
    """
    path = Path(place)
    if not path.exists():
        raise DataError(f"{place}: no such file or folder")
    found = format_of(path)
    if found is None:
        raise DataError(f"{place}: expected a dataset: {LINES}, *.parquet or *.tar")
    return [path] if path.is_file() else sorted(path.glob(_PATTERNS[found]))


def reader_of(place: str | Path) -> Reader:
    """The reader for what is at a place.

    Raises:
        DataError: If there is no dataset, or its files are damaged.
    """
    files = files_of(place)
    found = format_of(place)
    if found == "folder":
        return FolderReader(files[0])
    if found == "parquet":
        from got.data.formats.parquet import ParquetReader  # pyarrow takes its time

        return ParquetReader(files)
    return ShardReader(files)


def entries_of(place: str | Path) -> Iterator[Entry]:
    """All entries at a place, in order, sound or not.

    Raises:
        DataError: If there is no dataset, or a file breaks off.
    """
    reader = reader_of(place)
    return _stream(reader, *_plan(reader, None, 0, (0, 1)), str(place))


def _plan(reader: Reader, seed: int | None, epoch: int, part: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Blocks in the order of reading, and the order in which their examples (counted in that order) come out."""
    index, parts = part
    if not 0 <= index < parts:
        raise ValueError(f"Expected a part from 0 to {parts - 1} of {parts} but got {index}")
    blocks: np.ndarray = np.arange(len(reader.sizes))
    if seed is not None:
        blocks = np.random.default_rng([seed, epoch]).permutation(blocks)
    if whole := len(blocks) >= parts:
        blocks = blocks[index::parts]
    order: np.ndarray = np.arange(reader.sizes[blocks].sum())
    if seed is not None and reader.buffer:
        # Each example may fall behind by less than a buffer, so no more than a buffer of them waits at any time.
        late = np.random.default_rng([seed, epoch, 1]).uniform(0, reader.buffer, len(order))
        order = np.argsort(order + late, kind="stable")
    return blocks, order if whole else order[index::parts]


def _stream(reader: Reader, blocks: np.ndarray, order: np.ndarray, place: str) -> Iterator[Entry]:
    ends = np.cumsum(reader.sizes[blocks])
    needed = np.zeros(ends[-1] if len(ends) else 0, bool)
    needed[order] = True
    waiting: dict[int, Entry] = {}
    starts: list[int] = []

    def wanted() -> Iterator[tuple[int, np.ndarray]]:
        for block, end in zip(blocks.tolist(), ends.tolist(), strict=True):
            first = end - int(reader.sizes[block])
            if (mask := needed[first:end]).any():
                starts.append(first)
                yield block, mask

    found = reader.entries(wanted())
    for position in map(int, order):
        while position not in waiting:
            entry = next(found, None)
            if entry is None:
                raise DataError(f"{place}: expected {len(needed)} examples but files end before")
            waiting[starts[-1] + entry.number] = entry
        yield waiting.pop(position)


class Writer:
    """Writes a dataset, or goes on with one.

    Examples whose id is there already are left out, so that whoever writes may simply begin again. A folder has every
    example as soon as `add` returns; Parquet files and shards appear when they are full, or on `close`, which an error
    or Ctrl-C does not keep from happening. After kill -9 what is incomplete is repaired or forgotten on the next start.

    >>> import tempfile
    >>> from got.data.records import Provenance, Step
    >>> example = Example(id="a", prompt="a dog", steps=(Step(chain="there is a dog", target=b"..."),),
    ...                   provenance=Provenance(dataset="mine", license="CC0-1.0"))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with Writer(folder) as writer:
    ...         writer.add(example), writer.add(example)
    ...     [read.id for read in read(folder)]
    (True, False)
    ['a']

    Raises:
        DataError: If the folder has a dataset of another format, or another process is writing it.
        ValueError: If there is no such format.
    """

    def __init__(self, folder: str | Path, format: str = "folder", *, per_file: int = PER_FILE) -> None:
        if format not in FORMATS:
            raise ValueError(f"Expected one of {', '.join(FORMATS)} but got {format!r}")
        if per_file < 1:
            raise ValueError(f"Expected at least one example per file but got {per_file}")
        self.folder, self.format = Path(folder), format
        self.folder.mkdir(parents=True, exist_ok=True)
        there = format_of(self.folder)
        left = self.folder / _PATTERNS["folder"]  # empty where somebody began and had nothing to write
        nothing = there == "folder" != format and not left.stat().st_size
        if there not in (None, format) and not nothing:
            raise DataError(f"{folder}: expected an empty folder or one with {format} but it has {there}")
        self._lock: FolderLock | None = FolderLock(self.folder, _LOCK, DataError)
        try:
            if nothing:
                left.unlink()
            self._writer = _writer_of(format)(self.folder, per_file)
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def known_ids(self) -> AbstractSet[str]:
        """Ids of what is there and what was added."""
        return self._writer.known

    def add(self, example: Example) -> bool:
        """Write an example; False if its id is there already.

        Raises:
            DataError: If it cannot be written: its id names no file, an image cannot be read.
        """
        if example.id in self._writer.known:
            return False
        self._writer.add(example)
        self._writer.known.add(example.id)
        return True

    def close(self) -> None:
        """Complete what was begun; nothing can be added afterwards."""
        if self._lock is not None:
            with self._lock:
                self._lock = None
                self._writer.close()


def _writer_of(format: str) -> Callable[[Path, int], _FormatWriter]:
    if format == "folder":
        return FolderWriter
    if format == "parquet":
        from got.data.formats.parquet import ParquetWriter

        return ParquetWriter
    return ShardWriter
