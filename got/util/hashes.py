"""Hashes of files and of lines, so that damage is found where they are read and never becomes another number.

A folder's `hashes.txt` has a hash of every file and of every line of its logs, in any order. A hash is written before
what it is of: a kill in between leaves one too many, which changes nothing, and never a line without one. So logs may
be sorted, added to and merged. A file that is one record keeps its hash inside (`sealed`), and so does each line of a
log that several processes add to (`SealedLog`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from typing import TYPE_CHECKING, Any

from got.util.errors import UserError
from got.util.files import (
    append_bytes,
    append_lines,
    as_json,
    clear_disk_errors,
    encode,
    json_object,
    mend_tail,
    write_atomic,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

HASHES = "hashes.txt"
OWN_HASH = "sha256"
"""Where a record has its own hash."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """What could be read of a log."""

    records: list[dict[str, Any]]
    """The records of undamaged lines, in the file's order."""
    damage: str | None
    """A message about the first damaged line; None if there is none."""


class HashedFolder:
    """A folder whose files are checked when they are read. One process at a time writes into it.

    Args:
        path: The folder, which need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._hashes = path / HASHES
        self._known: set[str] = set()
        self._size: int | None = None
        """Bytes of the file that `_known` is of."""
        self._ends = True

    def is_hashed(self) -> bool:
        """False in a folder of an older version: its files are taken as they are."""
        return self._hashes.exists()

    # ---------------------------------------------------------------------------------------------------------- write
    def write_json(self, name: str, content: Any) -> None:
        """Replaces a file of JSON, as `got.util.files.write_json` does."""
        data = as_json(content)
        self._add([_hash(name, data)])
        write_atomic(self.path / name, data)

    def write_lines(self, name: str, records: Iterable[Mapping[str, Any]]) -> None:
        """Replaces a log as a whole."""
        data = b"".join(map(encode, records))
        self._add(_hashes_of(name, data))
        write_atomic(self.path / name, data)

    def append_lines(self, logs: Mapping[str, Iterable[Mapping[str, Any]]]) -> None:
        """Appends to logs, one after the other; each gets all of its lines or stays as it was.

        All outlive this process. A power cut may take lines from any of them but the last, whose lines are on the disk
        when this returns, as their hashes are: each further wait costs milliseconds.
        """
        encoded = {name: [encode(record) for record in records] for name, records in logs.items()}
        encoded = {name: lines for name, lines in encoded.items() if lines}
        self._add([_hash(name, line[:-1]) for name, lines in encoded.items() for line in lines])
        for left, (name, lines) in zip(reversed(range(len(encoded))), encoded.items(), strict=True):
            _cut_tail(self.path / name)
            append_bytes(self.path / name, b"".join(lines), durable=not left)

    def accept(self, *names: str) -> None:
        """Records the present hashes of files from an older version; a missing file counts as empty."""
        contents = {name: _bytes(self.path / name) if (self.path / name).is_file() else b"" for name in names}
        self._add(one for name, content in contents.items() for one in _hashes_of(name, content))

    def _add(self, hashes: Iterable[str]) -> None:
        size = self._hashes.stat().st_size if self._hashes.exists() else 0
        if size != self._size:  # at first, and where another process has written since
            text = self._text() or ""
            self._known, self._ends = set(text.split()), text.endswith("\n") or not text
        new = [one for one in dict.fromkeys(hashes) if one not in self._known]
        # A kill may have cut the last one short: it ends here, and is the hash of nothing.
        data = ("" if self._ends else "\n") + "".join(f"{one}\n" for one in new)
        self._size = None
        self.path.mkdir(parents=True, exist_ok=True)
        append_bytes(self._hashes, data.encode())
        self._known.update(new)
        self._size, self._ends = size + len(data), True

    def _text(self) -> str | None:
        try:
            return self._hashes.read_text("ascii", errors="replace")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UserError(f"Cannot read {self._hashes}: {error.strerror}") from error

    # ----------------------------------------------------------------------------------------------------------- read
    def read_json(self, name: str) -> dict[str, Any]:
        """The object in a file of JSON.

        Raises:
            UserError: It cannot be read, or is not as it was written.
        """
        path, text = self.path / name, self._text()
        data = _bytes(path)
        content = json_object(data, str(path), UserError)
        if text is not None and _hash(name, data) not in text.split():
            raise UserError(f"{path} is damaged: it is not as it was written")
        return content

    def read_log(self, name: str, *, complete: bool) -> Log:
        """The lines of a log. A last line that a kill has cut short is no damage.

        Args:
            name: The log; one that is not there is empty.
            complete: Whether nothing will be added to it: then lines that were lost are damage, too.

        Raises:
            UserError: It cannot be read.
        """
        path, text = self.path / name, self._text()
        data = _bytes(path) if path.exists() else b""
        known = frozenset((text or "").split())
        *lines, _ = data.split(b"\n")
        whole = text is None or _hash(name, data) in known
        records, damage = [], None
        for number, line in enumerate(lines, 1):
            where = f"{path} line {number}"
            try:
                if not (whole or _hash(name, line) in known):
                    raise UserError(f"{where} is damaged: it is not as it was written")
                records.append(json_object(line, where, UserError))
            except UserError as error:
                damage = damage or str(error)
        if complete and not whole:
            damage = damage or f"{path} is damaged: it has lost lines"
        return Log(records=records, damage=damage)


def _cut_tail(log: Path) -> None:
    """Removes a last line that a kill has cut short, so that the next one does not begin in its middle."""
    if not log.exists():
        return
    with clear_disk_errors(log), log.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        if not end:
            return
        file.seek(end - 1)
        if file.read(1) != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}") from error


def _hash(name: str, content: bytes) -> str:
    return hashlib.sha256(name.encode() + b"\n" + content).hexdigest()[:16]


def _hashes_of(name: str, log: bytes) -> list[str]:
    """The hash of a file, and of each of its whole lines."""
    return [_hash(name, log), *(_hash(name, line) for line in log.split(b"\n")[:-1])]


# --------------------------------------------------------------------------------------------------------- one record
def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record with its own hash in it.

    >>> is_sealed(sealed({"score": 0.5}), "here"), is_sealed({"score": 0.5}, "here")
    (True, False)
    """
    return {**record, OWN_HASH: _digest(record)}


def is_sealed(record: Mapping[str, Any], where: str, error: type[Exception] = UserError) -> bool:
    """Whether a record has a hash; one of an older version has none.

    Args:
        record: As it was read.
        where: What errors call it.
        error: What is raised.

    Raises:
        Exception: The given kind of it, if the record is not as it was sealed.

    >>> is_sealed({**sealed({"score": 0.5}), "score": 0.6}, "baseline.json")
    Traceback (most recent call last):
    got.util.errors.UserError: baseline.json is damaged: it is not as it was written
    """
    if OWN_HASH not in record:
        return False
    try:
        intact = record[OWN_HASH] == _digest({key: value for key, value in record.items() if key != OWN_HASH})
    except RecursionError:
        intact = False
    if not intact:
        raise error(f"{where} is damaged: it is not as it was written")
    return True


def _looks_hashed(record: Mapping[str, Any]) -> bool:
    """Whether the last value of a record is a hash, whatever name it stands under: the name itself may be damaged."""
    return any(isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) for value in [*record.values()][-1:])


def _digest(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


# ---------------------------------------------------------------------------------------------------- many in one file
class SealedLog:
    """A log of records, each with its own hash, that several processes may add to.

    Lines without a hash are of an older version and taken as they are, but only before the first one that has it.
    """

    def __init__(self, path: Path, if_removed: str) -> None:
        """Opens the log, or begins it; a last line that a kill has cut is taken out.

        Args:
            path: The file; its folder is made if it is not there.
            if_removed: What becomes of a line that is taken out, for the error about one that is damaged.

        Raises:
            UserError: It cannot be read or written.
        """
        self.path, self._if_removed = path, if_removed
        self.unsealed = 0
        """Lines without a hash, of those read so far."""
        self._bytes = self._lines = 0
        with clear_disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            mend_tail(path)

    def news(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The records that were added since this was last asked, by whatever process, and where each stands.

        A line that is being written just now comes the next time.

        Raises:
            UserError: A line is not as it was written.
        """
        if self.path.stat().st_size <= self._bytes:
            return
        with self.path.open("rb") as file:
            file.seek(self._bytes)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._bytes, self._lines = self._bytes + len(line), self._lines + 1
                where = f"{self.path} line {self._lines}"
                yield where, self._record(line, where)

    def _record(self, line: bytes, where: str) -> dict[str, Any]:
        try:
            record = json_object(line, where, UserError)
            hashed = is_sealed(record, where)
        except UserError as error:
            raise self.damaged(where) from error
        if not hashed and (self._lines > self.unsealed + 1 or _looks_hashed(record)):
            raise self.damaged(where)
        self.unsealed += not hashed
        record.pop(OWN_HASH, None)
        return record

    def damaged(self, where: str) -> UserError:
        """The error about a line."""
        return UserError(f"{where} is damaged: it is not as it was written; take the line out, and {self._if_removed}")

    def add(self, record: Mapping[str, Any]) -> None:
        """Appends a record; it outlives this process, but not a power cut.

        Raises:
            UserError: The disk is full, or must not be written to.
        """
        append_lines(self.path, [sealed(record)], durable=False)
