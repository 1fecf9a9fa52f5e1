"""A chain dataset as WebDataset shards: tar files with `KEY.json` and the images beside it, `KEY.target.png`.

Read and written from front to back, which is what disks and networks are good at; the format for millions of examples.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from got.data.records import DataError, Entry, Example, bytes_of, encode, suffix_of
from got.util.files import finish, write_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

INDEX = "index.json"
"""Bytes and examples of each shard: without it, counting means reading every header."""
_END = bytes(1024)


class ShardReader:
    """Reads shards; each is a block."""

    buffer = 1000

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = list(files)
        index = _read_index(self._files[0].parent)
        sizes = []
        for path in self._files:
            size, examples = index.get(path.name, (-1, -1))
            whole = size == path.stat().st_size
            sizes.append(examples if whole else len({_key(member.name) for member in _members(path)}))
        self.sizes = np.array(sizes, np.int64)

    def entries(self, blocks: Iterable[tuple[int, np.ndarray]]) -> Iterator[Entry]:
        """Wanted examples of the shards."""
        for block, wanted in blocks:
            path = self._files[block]
            for number, (key, members) in enumerate(_groups(path, wanted)):
                if number < len(wanted) and wanted[number]:
                    yield _entry(members, number, key, f"{path}: key {key}")


class ShardWriter:
    """Writes shards of a fixed number of examples, each under another name until it is complete."""

    def __init__(self, folder: Path, per_file: int) -> None:
        self.folder, self.per_file = folder, per_file
        files = sorted(folder.glob("*.tar"))
        # Of "./a.json", as a tar that was packed anew has it, the folder is no part of the id.
        self.known = {_key(member.name).rpartition("/")[2] for path in files for member in _members(path)}
        numbers = [path.stem.rpartition("-")[2] for path in files]
        self._next = max((int(number) for number in numbers if number.isdecimal()), default=-1) + 1
        self._index = _read_index(folder)
        for left in folder.glob(".data-*.tar.part"):
            left.unlink()
        self._tar: BinaryIO | None = None
        self._written = 0

    def add(self, example: Example) -> None:
        """Write one example."""
        images = {name: bytes_of(image) for name, image in example.images()}
        references = {name: f"{name}{suffix_of(data)}" for name, data in images.items()}
        row = json.dumps(encode(example, references), ensure_ascii=False, allow_nan=False).encode()
        files = {"json": row} | {references[name]: data for name, data in images.items()}
        members = b"".join(_member(f"{example.id}.{ending}", data) for ending, data in files.items())
        if self._tar is None:
            self._tar = self._paths()[0].open("wb")
        self._tar.write(members)  # at once, so that Ctrl-C comes before or after it
        self._written += 1
        if self._written >= self.per_file:
            self.close()

    def close(self) -> None:
        """Complete the shard in hand."""
        if self._tar is None:
            return
        with self._tar as file:
            file.write(_END)
        part, whole = self._paths()
        finish(part, whole)
        self._index[whole.name] = (whole.stat().st_size, self._written)
        write_json(self.folder / INDEX, self._index, indent=1)
        self._tar, self._written = None, 0
        self._next += 1

    def _paths(self) -> tuple[Path, Path]:
        name = f"data-{self._next:06d}.tar"
        return self.folder / f".{name}.part", self.folder / name


def _read_index(folder: Path) -> dict[str, tuple[int, int]]:
    """Bytes and examples by shard; empty if the index cannot be read."""
    try:
        index = json.loads((folder / INDEX).read_bytes())
        return {str(name): (int(size), int(examples)) for name, (size, examples) in index.items()}
    except (OSError, ValueError, RecursionError, TypeError, AttributeError):
        return {}


def _key(name: str) -> str:
    """WebDataset's rule: a member's key ends at the first dot of its file name."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def _member(name: str, data: bytes) -> bytes:
    """One file of a tar: a header, and the data filled up to whole blocks."""
    header = tarfile.TarInfo(name)
    header.size = len(data)
    return header.tobuf() + data + bytes(-len(data) % tarfile.BLOCKSIZE)


def _members(path: Path) -> Iterator[tarfile.TarInfo]:
    """Headers of a whole shard."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            file.seek(max(size - len(_END), 0))
            if file.read() != _END or size % tarfile.BLOCKSIZE:
                raise DataError(f"{path}: expected a whole tar file but it breaks off")
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    if member.isfile():
                        yield member
                    tar.members = []  # type: ignore[attr-defined]  # they would be kept, for random access
                # A damaged header ends a tar file without an error; a sound one ends with zeros.
                file.seek(tar.offset)
                if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
                    raise DataError(f"{path}: expected a whole tar file but it is damaged at byte {tar.offset}")
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"{path}: expected a whole tar file but {error}") from error


def _groups(path: Path, wanted: np.ndarray) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Key and files by ending, of one example after the other; only what is wanted is read."""
    key, number = "", -1
    files: dict[str, bytes] = {}
    with path.open("rb") as file:
        for member in _members(path):
            if _key(member.name) != key or number < 0:
                if number >= 0:
                    yield key, files
                key, number, files = _key(member.name), number + 1, {}
            if number < len(wanted) and wanted[number]:
                file.seek(member.offset_data)
                files[member.name[len(key) + 1 :]] = file.read(member.size)
    if number >= 0:
        yield key, files


def _entry(members: dict[str, bytes], number: int, key: str, where: str) -> Entry:
    def image(field: str, reference: Any) -> bytes:
        data = members.get(reference) if isinstance(reference, str) else None
        if data is None:
            raise DataError(f"{field}: expected a file beside {key}.json but there is no {key}.{reference}")
        return data

    def broken(problem: str) -> Entry:
        return Entry(number=number, where=where, row=None, image=image, broken=problem)

    if "json" not in members:
        return broken(f"row: expected {key}.json but there is {', '.join(members)} alone")
    try:
        row = json.loads(members["json"])
    except (ValueError, RecursionError) as error:
        return broken(f"row: expected JSON but {error}")
    if isinstance(row, dict) and row.get("id") != key.rpartition("/")[2]:
        return broken(f"id: expected the shard's key but got {row.get('id')!r}")
    return Entry(number=number, where=where, row=row, image=image)
