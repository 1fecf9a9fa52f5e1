"""Data files of a benchmark: found in the user's folder, read as JSON, and known by their hash."""

from __future__ import annotations

import collections
import hashlib
import json
import re
from typing import TYPE_CHECKING, Any

from evals.core.records import EncodedImage, UserError
from evals.judged.records import digest
from got.util import files

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from pathlib import Path

    from evals.judged.records import Item, Origin

OTHER = "--allow-other-data takes it, under a name of its own"


def needed(place: Path | None, origin: Origin) -> Path:
    """The folder with the data.

    Raises:
        UserError: None is given, or there is none; says where to get it.
    """
    where = f"{origin.page} ({origin.size}; {origin.licence})"
    if place is None:
        raise UserError(f"{origin.name} needs --data, the folder with its files: get them from {where}")
    if not place.is_dir():
        raise UserError(f"--data {place}: no such folder; {origin.name} is at {where}")
    return place


def find(root: Path, names: Sequence[str], origin: Origin, *, folder: bool = False) -> Path:
    """The first of some files, or of some folders, that is there.

    Raises:
        UserError: None is.
    """
    for place in (root / name for name in names):
        if place.is_dir() if folder else place.is_file():
            return place
    what = f"{'a folder ' if folder else ''}{' or '.join(names)}"
    raise UserError(f"--data {root}: {what} is missing; {origin.name} is at {origin.page}")


def load_json(path: Path) -> Any:
    """A JSON file, or one JSON object a line.

    Raises:
        UserError: It cannot be read, or an object has a key twice, of which JSON readers keep the last.
    """
    text = files.read_text(path, UserError)
    try:
        if path.suffix == ".jsonl":
            return [json.loads(line, object_pairs_hook=_object) for line in text.splitlines() if line.strip()]
        return json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: expected JSON ({str(error)[:120]})") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        again = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
        raise ValueError(f"no key twice, but {again!r} occurs twice")
    return found


class Row(dict[str, Any]):
    """An object of a benchmark's data, and its file and place, for messages."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        super().__init__(values)
        self.where = where

    def text(self, key: str) -> str:
        """A text that it must have.

        Raises:
            UserError: It has none.
        """
        value = self.get(key)
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise UserError(f"{self.where}: expected a text under {key!r} but got {json.dumps(value)[:60]}")
        return str(value)

    def one_of(self, key: str, known: Collection[str]) -> str:
        """A text that it must have, and that must be one of some.

        Raises:
            UserError: It is none of them.
        """
        value = self.text(key)
        if value not in known:
            raise UserError(f"{self.where}: expected {key!r} to be one of {', '.join(known)} but got {value!r}")
        return value

    def image(self, root: Path, name: str) -> EncodedImage:
        """An image that it names; read when it is looked at.

        Raises:
            UserError: Its name leads out of the folder, or there is no such file.
        """
        path = files.inside(root, name)
        if path is None or not path.is_file():
            raise UserError(f"{self.where}: image {name!r} is {'missing in' if path else 'outside'} {root}")
        return EncodedImage(name=name, read=path.read_bytes)

    def images(self, root: Path, key: str) -> list[EncodedImage]:
        """The images that it names under a key, one by itself or a list.

        Raises:
            UserError: There is none, or not as `image` has it.
        """
        given = self.get(key)
        names = [given] if isinstance(given, str) else given
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise UserError(f"{self.where}: expected one image or more under {key!r} but got {str(given)[:60]}")
        return [self.image(root, name) for name in names]


def _row(path: Path, place: str, content: Any) -> Row:
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected an object as {place} but got {json.dumps(content)[:60]}")
    return Row(content, f"{path.name} {place}")


def rows_in(path: Path) -> list[Row]:
    """The objects of a JSON list, or of lines of JSON.

    Raises:
        UserError: It holds something else, or nothing.
    """
    found = load_json(path)
    if not isinstance(found, list):
        raise UserError(f"{path}: expected a JSON list of objects")
    if not found:
        raise UserError(f"{path}: expected one object or more but the list is empty")
    what = "line" if path.suffix == ".jsonl" else "row"
    return [_row(path, f"{what} {number}", content) for number, content in enumerate(found, 1)]


def rows_by_key(path: Path) -> dict[str, Row]:
    """The objects of a JSON object.

    Raises:
        UserError: It holds something else, or nothing.
    """
    found = load_json(path)
    if not isinstance(found, dict):
        raise UserError(f"{path}: expected a JSON object of objects by key")
    if not found:
        raise UserError(f"{path}: expected one key or more but the object is empty")
    return {key: _row(path, f"key {key}", content) for key, content in found.items()}


def edition(name: str, paths: Sequence[Path], origin: Origin, *, allowed: bool) -> str:
    """The name of an edition, if its files are the published ones; else with a part of their hash.

    Args:
        name: Of the published edition.
        paths: Its files.
        origin: Has their hashes.
        allowed: Whether other data will do.

    Raises:
        UserError: They are others, and that is not allowed.
    """
    known = origin.sha256
    digests = {path.name: files.sha256(path) for path in paths}
    for path in paths:
        if digests[path.name] != known.get(path.name) and not allowed:
            published = known.get(path.name, "unknown")[:12]
            raise UserError(f"{path}: sha256 {digests[path.name][:12]}, {name} has {published}; {OTHER}")
    if all(digests[path.name] == known.get(path.name) for path in paths):
        return name
    return _other(name, hashlib.sha256("".join(digests.values()).encode()).hexdigest()[:8])


def counted(name: str, items: Sequence[Item], parts: Iterable[str], origin: Origin, *, allowed: bool) -> str:
    """The name of an edition of edits whose files have no published hash, if it has the published numbers of them.

    Args:
        name: Of the published edition.
        items: Of the data.
        parts: What each counts as.
        origin: Has the numbers.
        allowed: Whether other data will do; they have a part of the hash of their ids and prompts in their name.

    Raises:
        UserError: The numbers are others, and that is not allowed.
    """
    known = origin.counts
    if collections.Counter(parts) == known:
        return name
    if not allowed:
        raise UserError(
            f"{name}: {len(items):,} edits, expected {sum(known.values()):,} in {len(known)} parts; {OTHER}"
        )
    return _other(name, digest(items))


def _other(name: str, hashed: str) -> str:
    """The name of an edition of other data: without the number of cases, which is the published one's.

    >>> _other("kris-1267", "0123abcd"), _other("wise-verified", "0123abcd")
    ('kris-other-0123abcd', 'wise-verified-other-0123abcd')
    """
    return f"{re.sub(r'-[0-9]+$', '', name)}-other-{hashed}"
