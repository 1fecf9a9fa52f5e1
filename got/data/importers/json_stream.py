"""JSON files larger than memory, item by item."""

from __future__ import annotations

import json
import re
from typing import IO, TYPE_CHECKING, Any

from got.data.records import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PIECE = 1 << 20
_LONGEST = 1 << 26
"""Characters that one item may have; what is longer is a file that does not close its brackets."""
_SPACE = re.compile(r"[ \t\r\n]*")
_EXCERPT = 60


def json_items(path: Path, *, objects: bool = False) -> Iterator[tuple[str, int, Any]]:
    """The items of a JSON file, one by one, in whatever size it has.

    Args:
        path: The file: an array; or objects one after the other.
        objects: The file is one object: give the items of its arrays, and leave out what else it has.

    Yields:
        The array's key (empty outside of objects), the item's number from 0, and the item.

    Raises:
        DataError: The file is not JSON or breaks off.
    """
    try:
        with path.open(encoding="utf-8-sig") as stream:
            scanner = _Scanner(path, stream)
            if scanner.peek() == "[":
                yield from scanner.array("")
            elif objects:
                yield from scanner.arrays()
            else:
                number = 0
                while scanner.peek():
                    yield "", number, scanner.value(f"item {number}")
                    number += 1
                return
            if scanner.peek():
                raise DataError(f"{path}: expected the end of the file but there is more: {scanner.excerpt()}")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected UTF-8 text ({error})") from error


class _Scanner:
    """JSON text, read a piece at a time."""

    def __init__(self, path: Path, stream: IO[str]) -> None:
        self.path = path
        self._stream = stream
        self._buffer, self._at, self._ended = "", 0, False
        self._decoder = json.JSONDecoder()

    def _more(self) -> bool:
        # Twice as much each time, so that a long item is not read over and over.
        piece = self._stream.read(max(_PIECE, len(self._buffer) - self._at))
        self._buffer, self._at, self._ended = self._buffer[self._at :] + piece, 0, not piece
        return bool(piece)

    def peek(self) -> str:
        """The next character that is no space; empty at the end of the file."""
        while True:
            match = _SPACE.match(self._buffer, self._at)
            self._at = match.end() if match else self._at
            if self._at < len(self._buffer):
                return self._buffer[self._at]
            if not self._more():
                return ""

    def excerpt(self) -> str:
        return repr(self._buffer[self._at : self._at + _EXCERPT])

    def take(self, characters: str, place: str) -> str:
        """Pass one of some characters."""
        found = self.peek()
        if not found:
            raise DataError(f"{self.path}: breaks off at {place}")
        if found not in characters:
            wanted = " or ".join(characters)
            raise DataError(f"{self.path}: not JSON at {place}: expected {wanted} but got {self.excerpt()}")
        self._at += 1
        return found

    def value(self, place: str) -> Any:
        """Pass one value of any kind."""
        if not self.peek():
            raise DataError(f"{self.path}: breaks off at {place}")
        while True:
            try:
                value, end = self._decoder.raw_decode(self._buffer, self._at)
            except RecursionError as error:
                raise DataError(f"{self.path}: {place} is nested too deeply") from error
            except ValueError as error:
                if self._ended or len(self._buffer) - self._at > _LONGEST:
                    raise DataError(f"{self.path}: breaks off or is not JSON at {place}: {self.excerpt()}") from error
                self._more()
                continue
            if end < len(self._buffer) or self._ended:
                self._at = end
                return value
            self._more()  # a number at the end of what was read may go on

    def array(self, key: str) -> Iterator[tuple[str, int, Any]]:
        """Pass an array, and give its items."""
        self.take("[", key or "the beginning")
        number = 0
        if self.peek() == "]":
            self._at += 1
            return
        while True:
            place = f"{key}[{number}]" if key else f"item {number}"
            yield key, number, self.value(place)
            number += 1
            if self.take(",]", place) == "]":
                return

    def arrays(self) -> Iterator[tuple[str, int, Any]]:
        """Pass an object, and give the items of its arrays."""
        self.take("{", "the beginning")
        if self.peek() == "}":
            self._at += 1
            return
        while True:
            key = self.value("a key")
            if not isinstance(key, str):
                raise DataError(f"{self.path}: not JSON: expected a key but got {key!r:.60}")
            self.take(":", key)
            if self.peek() == "[":
                yield from self.array(key)
            else:
                self.value(key)
            if self.take(",}", key) == "}":
                return
