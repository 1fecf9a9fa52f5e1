"""What a folder of images made elsewhere holds, by name alone.

Layouts, with any suffix of `IMAGE_SUFFIXES` in small or capital letters:

- ``00042/samples/0000.png`` beside ``00042/metadata.jsonl`` (GenEval's), padded with zeros or not, or without
  ``samples``;
- ``CASE.png``, or ``CASE_0.png`` to ``CASE_3.png``, in one flat folder.

Links inside the folder are followed wherever they lead: a hub's cache is made of them. No path is built from what a
file says.
"""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

from evals.core.records import UserError
from got.util.files import IMAGE_SUFFIXES
from got.util.hub import snapshot

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from pathlib import Path

SAMPLES, METADATA = "samples", "metadata.jsonl"
_BESIDE = ("grid", "source", "target")
"""Images that tools put beside the results."""
_EXPECTED = 'expected one JSON object with a prompt, as {"prompt": "a photo of a dog"}'
"""What a ``metadata.jsonl`` must hold, for messages."""
_SHOWN = 3
"""So many names are listed in a message."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The images under one name: those of a sub-folder, or the files of a flat folder whose names begin with it."""

    name: str
    images: dict[int, Path]
    """By the number in their names, in order."""
    duplicates: tuple[Path, ...] = ()
    """More images with a number that another one has."""
    unnumbered: tuple[Path, ...] = ()
    """Images whose names are no number."""
    metadata: dict[str, Any] | None = None
    """What its ``metadata.jsonl`` says; None where there is none."""
    broken: str | None = None
    """Why its ``metadata.jsonl`` cannot be read; None if it can, or if there is none."""

    @property
    def number(self) -> int | None:
        """The name as a number; None if it is none."""
        return number_of(self.name)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What a folder holds."""

    root: Path
    places: tuple[Place, ...]
    """Its sub-folders with images or metadata, in order of their numbers, then of their names."""
    flat: tuple[Path, ...]
    """Images in the folder itself, in order."""
    others: tuple[str, ...] = ()
    """Names of files in it and its sub-folders that are no images by their names, but for hidden ones and metadata."""
    official: tuple[str, ...] = ()
    """Where a benchmark's own scripts would have an image of it."""

    @property
    def images(self) -> list[Path]:
        """Every image file."""
        inside = (path for place in self.places for path in files_of(place))
        return [*inside, *self.flat]


def files_of(place: Place) -> Iterator[Path]:
    """Every image file of a place."""
    yield from (*place.images.values(), *place.duplicates, *place.unnumbered)


def number_of(text: str) -> int | None:
    """A name of digits as a number; None for any other name.

    >>> number_of("00042"), number_of("7"), number_of("-1"), number_of("²"), number_of("1_0")
    (42, 7, None, None, None)
    """
    return int(text) if text.isascii() and text.isdigit() else None


def list_folder(root: Path, official: Sequence[str] = ()) -> Listing:
    """The images of a folder, by name.

    Args:
        root: The folder.
        official: Where a benchmark's own scripts would have an image of it, for messages.

    Raises:
        UserError: There is no such folder, it cannot be read, or it has no images; says where they may be.
    """
    if not root.is_dir():
        raise UserError(f"--model folder:{root}: no such folder")
    if (root / "run.json").is_file() and (root / "images").is_dir():
        raise UserError(f"--model folder:{root} is a run's own folder; its images are in folder:{root / 'images'}")
    try:
        entries = sorted(root.iterdir())
        listing = Listing(
            root=root,
            places=tuple(sorted(_places(entries), key=_order)),
            flat=tuple(path for path in entries if is_image(path) and not path.is_dir()),
            others=tuple(_others(entries)),
            official=tuple(official),
        )
    except OSError as error:
        raise UserError(f"--model folder:{root}: cannot be read ({error.strerror}: {error.filename})") from error
    if not listing.images:
        there = f"; found {some([path.name for path in entries])}" if entries else ""
        suffixes = f"; images end in {', '.join(sorted(IMAGE_SUFFIXES))}" if entries else ""
        raise UserError(f"--model folder:{root}: no images there; {_hint(root, entries, official)}{there}{suffixes}")
    return listing


def is_image(path: Path) -> bool:
    """Whether a name ends as an image's does, and is no hidden one."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def _others(entries: Iterable[Path], depth: int = 2) -> Iterator[str]:
    for path in entries:
        if path.name.startswith(".") or path.name == METADATA:
            continue
        if not path.is_dir():
            yield from () if is_image(path) else (path.name,)
        elif depth:
            yield from _others(path.iterdir(), depth - 1)


def _order(place: Place) -> tuple[bool, int, str]:
    return place.number is None, place.number or 0, place.name


def _places(entries: Iterable[Path]) -> Iterator[Place]:
    for folder in entries:
        if not folder.is_dir() or folder.name.startswith("."):
            continue
        inner = _images(folder / SAMPLES) or _images(folder)
        numbered = [(number, path) for path in inner if (number := number_of(path.stem)) is not None]
        images, duplicates = by_number(numbered)
        unnumbered = tuple(path for path in inner if number_of(path.stem) is None and path.stem not in _BESIDE)
        metadata, broken = _read_metadata(folder / METADATA)
        if images or unnumbered or metadata or broken:
            yield Place(
                name=folder.name,
                images=images,
                duplicates=duplicates,
                unnumbered=unnumbered,
                metadata=metadata,
                broken=broken,
            )


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if is_image(path)) if folder.is_dir() else []


def by_number(numbered: Iterable[tuple[int, Path]]) -> tuple[dict[int, Path], tuple[Path, ...]]:
    """The first file of each number, in order of the numbers, and the others."""
    images: dict[int, Path] = {}
    duplicates = []
    for number, path in sorted(numbered):
        if images.setdefault(number, path) != path:
            duplicates.append(path)
    return images, tuple(duplicates)


def indices(numbers: Collection[int], first: int, last: int, images_per_prompt: int) -> list[int]:
    """The index of each of a prompt's images, by the numbers in their names, in order.

    Where all numbers, from `first` to `last`, fit into 0 to ``images_per_prompt - 1``, counted from the first, they are
    indexes. Any others, as seeds in names, are taken in order.

    >>> indices([1, 3], 1, 4, 4), indices([42, 99], 42, 99, 4)
    ([0, 2], [0, 1])
    """
    fits = last - first < images_per_prompt
    return [number - first for number in numbers] if fits else list(range(len(numbers)))


def _read_metadata(path: Path) -> tuple[dict[str, Any] | None, str | None]:
    """The content of a ``metadata.jsonl``, or why it cannot be read; neither if there is no such file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return None, f"a link to nothing; {_EXPECTED}" if path.is_symlink() else None
    except json.JSONDecodeError as error:
        return None, f"line {error.lineno}, column {error.colno}: not JSON ({error.msg}); {_EXPECTED}"
    except UnicodeDecodeError as error:
        return None, f"byte {error.start} is not UTF-8; {_EXPECTED}"
    except (ValueError, RecursionError) as error:  # numbers that are too long, lists that are too deep
        return None, f"not JSON that can be read ({error}); {_EXPECTED}"
    except OSError as error:
        return None, f"{error.strerror}; {_EXPECTED}"
    if not isinstance(content, dict) or not isinstance(content.get("prompt"), str):
        found = "an object without a prompt" if isinstance(content, dict) else f"a {type(content).__name__}"
        return None, f"{found}; {_EXPECTED}"
    return content, None


def _hint(root: Path, entries: Sequence[Path], official: Sequence[str]) -> str:
    """Where the images may lie that a folder does not have, or what is expected."""
    if newest := snapshot(root):
        return f"it is the root of a hub's cache, whose files are in folder:{newest}"
    if newest := next(filter(None, map(snapshot, entries)), None):  # one higher, where a cache keeps all its roots
        return f"it is a hub's cache, and files are in folder:{newest}"
    for child in entries:
        if child.is_dir() and any(is_image(path) for path in _shallow(child)):
            return f"there are some in folder:{child}"
    places = (*official, f"00000/{SAMPLES}/0000.png", "CASE.png")
    return f"expected {', or '.join(str(root / place) for place in places)}"


def _shallow(folder: Path) -> Iterator[Path]:
    """Files of a folder, of its sub-folders, and of their ``samples``."""
    for pattern in ("*", "*/*", f"*/{SAMPLES}/*"):
        yield from folder.glob(pattern)


def some(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are.

    >>> some(["a", "b", "c", "d"])
    'a, b, c and 1 more'
    """
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
