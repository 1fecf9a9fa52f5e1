"""Files of published data sets, row by row: JSON of any size, JSON lines, Parquet; and the images that rows name.

Nothing is read before it is asked for, and no more than a piece at a time, so a file may be larger than memory. What a
file says of paths never leads out of its folder of images. Whatever is wrong with a row is a `DataError` that names
the file, the line, item or row, and the field. `Request` is what every reader is asked.
"""

from __future__ import annotations

import codecs
import dataclasses
import glob
import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ijson

from got.data.records import DataError
from got.util.errors import shortened
from got.util.files import inside, json_object, numbered_lines
from got.util.hub import download, on_hub
from got.util.parquet import ParquetTable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from got.data.records import Example

_SUFFIXES = (".parquet", ".jsonl", ".json")
_SHARD = re.compile(r"(.+?)-\d{5}-of-\d{5}.*|(train|training|test|testing|val|valid|validation|dev)")
_EXCERPT = 60


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of a set, and where it stands."""

    values: Mapping[str, Any]
    file: Path
    place: str
    """Where in the file, e.g. ``"line 3"``, ``"row 0"``, ``"annotations[7]"``."""

    @property
    def origin(self) -> str:
        """File name and place, as provenance has them."""
        return f"{self.file.name} {self.place}"

    @property
    def label(self) -> str:
        """File and place as a part of an id, the same whatever other files there are.

        >>> Row(values={}, file=Path("split_1.jsonl"), place="line 3").label
        'split_1_00000003'
        """
        return safe_id(f"{self.file.stem}_{int(re.findall(r'[0-9]+', self.place)[-1]):08d}")

    def error(self, field: str, message: str) -> DataError:
        """What is wrong with a field of this row."""
        return DataError(f"{self.file} {self.place}, field {field}: {message}")

    def find(self, names: Sequence[str]) -> tuple[str, Any]:
        """The first of some fields that has a value, and the value; the first name and None if there is none."""
        for name in names:
            if self.values.get(name) is not None:
                return name, self.values[name]
        return names[0], None

    def text(self, names: Sequence[str], *, optional: bool = False) -> str:
        """The first of some fields that is there, as words without spaces around them.

        Raises:
            DataError: None is there (unless that is optional), or it is no text, or empty.
        """
        name, value = self.find(names)
        if value is None:
            if optional:
                return ""
            there = ", ".join(sorted(map(str, self.values))) or "nothing"
            raise self.error(name, f"expected {' or '.join(names)} but the row has {there}")
        if not isinstance(value, str):
            raise self.error(name, f"expected text but got {type(value).__name__} {_excerpt(value)}")
        if not value.strip() and not optional:
            raise self.error(name, "expected text but it is empty")
        return value.strip()

    def image(self, names: Sequence[str], root: Path, strip_prefix: str = "") -> bytes | Path:
        """The first of some fields that is there, as an image: its bytes, or a file below a folder.

        Args:
            names: Fields. A field is a path, bytes, or the hub's ``{"bytes": ..., "path": ...}``.
            root: Folder of the images.
            strip_prefix: Beginning of paths to leave out, where a set was written with longer ones.

        Raises:
            DataError: There is none, its path leads out of the folder, or there is no such file.
        """
        name, value = self.find(names)
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes) and value:
            return value
        if value is None or value == "" or value == b"":
            there = ", ".join(sorted(map(str, self.values))) or "nothing"
            raise self.error(name, f"expected an image in {' or '.join(names)} but there is none; the row has {there}")
        if not isinstance(value, str):
            raise self.error(name, f"expected a path or an image but got {type(value).__name__} {_excerpt(value)}")
        return self._inside(name, value.removeprefix(strip_prefix), root)

    def _inside(self, field: str, name: str, root: Path) -> Path:
        path = inside(root, name)
        if path is None:
            raise self.error(field, f"expected a path inside {root} but got {_excerpt(name)}")
        try:
            there = path.is_file()
        except OSError as error:  # a name that no file system takes
            raise self.error(field, f"{error.strerror}: {_excerpt(name)}") from error
        if not there:
            raise self.error(field, f"no such file: {path}")
        # A hub's cache is made of links; any other one may lead to what was never meant to be copied.
        if "snapshots" not in root.parts and not path.resolve().is_relative_to(root.resolve()):
            raise self.error(field, f"expected a file inside {root} but {path} is a link to {path.resolve()}")
        return path


def _excerpt(value: object) -> str:
    return shortened(repr(value), _EXCERPT)


def safe_id(text: str) -> str:
    """An id of ASCII letters, digits, ``-`` and ``_``; different texts get different ids.

    >>> safe_id("task_obj_swap_7"), safe_id("7/a.png")
    ('task_obj_swap_7', '7_a_png_60a93b2d')
    """
    if re.fullmatch(r"[A-Za-z0-9_-]{1,100}", text):
        return text
    clean = re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_")[:80]
    return f"{clean}_{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:8]}".lstrip("_")


# --------------------------------------------------------------------------------------------------------------- places
def fetch(place: str | Path, hub_id: str, patterns: Sequence[str]) -> Path:
    """A file or folder on this machine, or the hub's copy of it in the hub's own cache.

    Args:
        place: A path that exists, or a hub id; ``OWNER/NAME@REVISION`` for a certain revision.
        hub_id: Where the set lives on the hub, for the error message; empty if it does not.
        patterns: Files wanted from the hub.

    Raises:
        DataError: There is no such path, or the hub cannot be reached or does not have it.
    """
    path = Path(place)
    if path.exists():
        return path
    found = on_hub(str(place))
    if found is None:
        raise DataError(f"{place}: no such file or folder" + (f"; the hub has {hub_id}" if hub_id else ""))
    name, revision = found
    return download(name, DataError, repo_type="dataset", revision=revision, allow_patterns=list(patterns))


def files_below(place: Path, pattern: str) -> list[Path]:
    """Files of a folder and its sub-folders, sorted, hidden ones left out. Links to folders are followed, too.

    >>> files_below(Path("nowhere"), "*.json")
    []
    """
    names = glob.glob(f"**/{pattern}", root_dir=place, recursive=True)  # noqa: PTH207 - Path's own follows no links
    return sorted(path for name in names if (path := place / name).is_file())


def data_files(place: Path, split: str = "", *, all_splits: bool = False) -> list[Path]:
    """The files of a set, in order: a file itself, or of a folder its Parquet, else its JSON-lines, else its JSON.

    Args:
        place: File or folder.
        split: Beginning of the names wanted, as in ``train-00000-of-00005.parquet``.
        all_splits: Take all splits where none is given.

    Raises:
        DataError: There are none, or there are several splits and none was chosen.
    """
    if place.is_file():
        if place.suffix not in _SUFFIXES:
            raise DataError(f"{place}: expected a file that ends in {', '.join(_SUFFIXES)}")
        return [place]
    for suffix in _SUFFIXES:
        paths = files_below(place, f"*{suffix}")
        if paths:
            break
    else:
        raise DataError(f"{place}: expected files that end in {', '.join(_SUFFIXES)} but there are none")
    splits = sorted({match[1] or match[2] for path in paths if (match := _SHARD.fullmatch(path.stem))})
    if split:
        chosen = [path for path in paths if re.match(re.escape(split) + r"(?:[-_.]|$)", path.stem)]
        if not chosen:
            there = ", ".join(splits or [path.name for path in paths[:5]])
            raise DataError(f"{place}: expected files of split {split} but there are only {there}")
        return chosen
    if len(splits) > 1 and not all_splits:
        raise DataError(f"{place}: expected a choice of one split (--split), of {', '.join(splits)}")
    return paths


def rows(
    place: Path, split: str = "", *, all_splits: bool = False, failed: Callable[[DataError], None] | None = None
) -> Iterator[Row]:
    """All rows of a set, file by file.

    Args:
        place: File or folder.
        split: As for `data_files`.
        all_splits: As for `data_files`.
        failed: Told of lines that are no rows, and of files that cannot be read to their end; without, they end it.

    Raises:
        DataError: There are no files, or one is damaged.
    """
    for path in data_files(place, split, all_splits=all_splits):
        try:
            if path.suffix == ".parquet":
                yield from parquet_rows(path)
            elif path.suffix == ".jsonl":
                yield from line_rows(path, failed)
            else:
                yield from json_rows(path)
        except DataError as error:
            if failed is None:
                raise
            failed(error)


# ----------------------------------------------------------------------------------------------------------------- JSON
def line_rows(path: Path, failed: Callable[[DataError], None] | None = None) -> Iterator[Row]:
    """The rows of a file with a JSON object a line; empty lines are passed over.

    Args:
        path: The file.
        failed: Told of lines that are none, which are passed over, too.

    Raises:
        DataError: A line is no JSON object.
    """
    for number, line in numbered_lines(path, DataError):
        place = f"line {number}"
        try:
            row = Row(values=json_object(line, f"{path} {place}", DataError), file=path, place=place)
        except DataError as error:
            if failed is None:
                raise
            failed(error)
        else:
            yield row


def json_rows(path: Path) -> Iterator[Row]:
    """The rows of a JSON file: an array of objects, or objects one after the other.

    Raises:
        DataError: It is not JSON, breaks off, or holds something else.
    """
    for number, value in json_items(path):
        yield row_of(path, f"item {number}", value)


def json_items(path: Path, key: str = "") -> Iterator[tuple[int, Any]]:
    """The items of a JSON file, one by one and with their numbers from 0, in whatever size it has.

    Args:
        path: The file: an array; or objects one after the other.
        key: The file is one object: gives the items of this array of it.

    Raises:
        DataError: The file is not JSON or breaks off.
    """
    with path.open("rb") as stream:
        if stream.peek(len(codecs.BOM_UTF8)).startswith(codecs.BOM_UTF8):
            stream.seek(len(codecs.BOM_UTF8))
        array = stream.peek(1).lstrip().startswith(b"[")
        where = f"{key}.item" if key else "item" if array else ""
        number = 0
        try:
            for number, value in enumerate(ijson.items(stream, where, use_float=True, multiple_values=not where), 1):
                yield number - 1, value
        except ijson.JSONError as error:
            why = shortened(str(error.args[0] if error.args else error), _EXCERPT)
            raise DataError(f"{path}: breaks off or is not JSON at {key}[{number}]: {why}") from error


def row_of(path: Path, place: str, value: Any) -> Row:
    """A JSON value as a row; raises `DataError` if it is no object."""
    if not isinstance(value, dict):
        raise DataError(f"{path} {place}: expected an object but got {type(value).__name__} {_excerpt(value)}")
    return Row(values=value, file=path, place=place)


# -------------------------------------------------------------------------------------------------------------- Parquet
def parquet_rows(path: Path) -> Iterator[Row]:
    """The rows of a Parquet file, a few at a time.

    Raises:
        DataError: The file is damaged.
    """
    for number, values in enumerate(ParquetTable(path, DataError).rows(batch_size=16)):
        yield Row(values=values, file=path, place=f"row {number}")


# ------------------------------------------------------------------------------------------------------------- requests
FIELDS = ("id", "prompt", "chain", "boxes", "image", "source", "target", "instruction")
"""Our words for what a set's fields may be; which of them a set has depends on its task."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a set is read. What a set has no use for is ignored by it."""

    split: str = ""
    """Beginning of the file names wanted, such as ``train``; may be empty where there is only one."""
    fields: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Our word for a field -> the field's name in the files, where it differs from all that the reader knows."""
    strip_prefix: str = ""
    """Beginning of the paths in the files to leave out, such as a folder of whoever wrote them."""
    single_turn: bool = False
    """Every turn of a multi-turn edit as an edit of its own, from the true image before it."""
    max_boxes: int = 10
    """Objects per chain where the reader writes the chain (COCO); the largest are taken."""
    min_area: float = 0.005
    """Smallest part of the image that an object may take, in [0, 1], where the reader writes the chain (COCO)."""
    on_error: Callable[[DataError], None] | None = None
    """Called for a row that cannot be used, and reading goes on; without it the error is raised."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One set to be read."""

    dataset: str
    """Name of the set."""
    license: str
    """What its card says."""
    place: Path
    """File or folder of the annotations."""
    images: Path | None
    """Folder of the images; None if they are in the annotations or beside them."""
    options: Options

    @property
    def root(self) -> Path:
        """Folder that paths of images start from."""
        if self.images is not None:
            return self.images
        return self.place.parent if self.place.is_file() else self.place

    def names(self, field: str, defaults: Sequence[str]) -> Sequence[str]:
        """Names under which a field may stand in the files."""
        return (self.options.fields[field],) if field in self.options.fields else defaults

    def image(self, row: Row, field: str, defaults: Sequence[str]) -> bytes | Path:
        """An image of a row."""
        return row.image(self.names(field, defaults), self.root, self.options.strip_prefix)

    def text(self, row: Row, field: str, defaults: Sequence[str], *, optional: bool = False) -> str:
        """A text of a row."""
        return row.text(self.names(field, defaults), optional=optional)

    def failed(self, error: DataError) -> None:
        """Reports a row that cannot be used: by `Options.on_error` if there is one, else as an error."""
        if self.options.on_error is None:
            raise error
        self.options.on_error(error)

    def rows(self, place: Path, *, all_splits: bool = False) -> Iterator[Row]:
        """The rows at a place; `failed` gets what is no row."""
        return rows(place, self.options.split, all_splits=all_splits, failed=self.failed)

    def examples(self, rows: Iterable[Row], read: Callable[[Row], Iterable[Example]]) -> Iterator[Example]:
        """The examples of some rows.

        Args:
            rows: The rows.
            read: Row -> its examples.
        """
        for row in rows:
            try:
                found = list(read(row))
            except DataError as error:
                self.failed(error)
                continue
            yield from found
