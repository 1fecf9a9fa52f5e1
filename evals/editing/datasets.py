"""Published editing data where it lies: hub id, folder or Parquet file. Images are read one by one, when asked for.

Nothing is redistributed and nothing is copied: a set stays in the user's folder or in the hub's own cache. What the
data says of paths never leads out of its folder.
"""

from __future__ import annotations

import dataclasses
import functools
import glob
import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.core.records import EditCase, EncodedImage, UserError
from got.util import files
from got.util.hub import commit_of, download, on_hub
from got.util.parquet import ParquetTable
from got.util.tables import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evals.core.records import Case


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a published set comes from."""

    name: str
    licence: str
    """As the publisher states it, or that there is none."""
    page: str
    hub_id: str | None = None
    """Data set on the Hugging Face hub; None if it is not there."""
    revision: str | None = None
    """First digits of the commit that the loader was written for."""
    own: bool = False
    """Whether it is a user's own set in a published one's form; its numbers are then not the benchmark's."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EditSet:
    """Cases of a set, and what a report must say of them."""

    origin: Origin
    variant: str
    """Which part: a split, ``all`` or ``filtered``."""
    cases: tuple[EditCase, ...]
    revision: str | None = None
    """Commit of the hub that was read; None for files that the user brought."""
    dropped: dict[str, int] = dataclasses.field(default_factory=dict)
    """Reason -> number of cases that this variant leaves out."""
    notes: tuple[str, ...] = ()
    """What a reader should know of the data, a sentence each."""

    @property
    def ids_sha256(self) -> str:
        """`ids_sha256` of all its cases."""
        return ids_sha256(self.cases)

    def describe(self) -> dict[str, Any]:
        """JSON form for run.json and tables, without the cases."""
        return {
            "name": self.origin.name,
            **({"own": True} if self.origin.own else {}),
            "licence": self.origin.licence,
            "page": self.origin.page,
            "variant": self.variant,
            "revision": self.revision,
            "cases": len(self.cases),
            "ids_sha256": self.ids_sha256,
            "dropped": dict(self.dropped),
            "notes": list(self.notes),
        }


def ids_sha256(cases: Sequence[Case | EditCase]) -> str:
    """Hash of the sorted case ids: two reports with the same one speak of the same cases."""
    return hashlib.sha256("\n".join(sorted(case.id for case in cases)).encode()).hexdigest()


def unique(cases: Sequence[EditCase], what: str) -> tuple[EditCase, ...]:
    """The cases, if no two have one id.

    Raises:
        UserError: Some have: the data was read twice, or holds rows twice.
    """
    seen: set[str] = set()
    double = [case.id for case in cases if case.id in seen or seen.add(case.id)]  # type: ignore[func-returns-value]
    if double:
        raise UserError(f"{what}: {counted(len(double), 'cases', 'occur')} twice, the first is {double[0]}")
    return tuple(cases)


# --------------------------------------------------------------------------------------------------------------- places
def fetch(place: str, origin: Origin, patterns: Sequence[str] = ("*.parquet", "**/*.parquet")) -> tuple[Path, str]:
    """A folder or file on this machine, and the revision behind it.

    Args:
        place: A path that exists, or the hub id of the set; `HUB_ID@REVISION` reads another commit than the pinned one.
        origin: The set; its revision is what the hub must still have.
        patterns: Files wanted from the hub.

    Returns:
        The path, and the full commit of the hub; empty for local files.

    Raises:
        UserError: No such path; the hub cannot be reached, or has changed.
    """
    if Path(place).exists():
        return Path(place), ""
    found = on_hub(place)
    if found is None:
        raise UserError(
            f"{place}: no such file or folder" + (f"; the hub has {origin.hub_id}" if origin.hub_id else "")
        )
    hub_id, revision = found
    commit = commit_of(hub_id, revision, UserError)
    if revision is None and hub_id == origin.hub_id and not commit.startswith(origin.revision or ""):
        raise UserError(
            f"{hub_id} has changed: its commit is {commit[:12]}, this loader was written for {origin.revision}; "
            f"to take it all the same, say {hub_id}@{commit[:12]}"
        )
    wanted = list(patterns)
    return download(hub_id, UserError, repo_type="dataset", revision=commit, allow_patterns=wanted), commit


def inside(root: Path, name: str) -> Path:
    """A file that the data names, if its name stays in the data's folder.

    Raises:
        UserError: The name leads elsewhere, or there is no such file.
    """
    path = files.inside(root, name)
    if path is None:
        raise UserError(f"{name!r} lies outside {root}")
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    return path


def file_image(root: Path, name: str) -> EncodedImage:
    """An image in a file of the data's folder."""
    return EncodedImage(name=name, read=inside(root, name).read_bytes)


def safe_id(text: str) -> str:
    """A case id that is also a file name.

    >>> safe_id("local/7 .."), safe_id("sample_151_1")
    ('local_7', 'sample_151_1')
    """
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_")[:120] or "_"


# -------------------------------------------------------------------------------------------------------------- Parquet
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Row:
    """A row of a Parquet file: its words and numbers at hand, its images on demand."""

    values: dict[str, Any]
    table: ParquetTable
    number: int
    """Row number in its file."""

    def image(self, column: str) -> EncodedImage:
        """The image in a column of this row."""
        return EncodedImage(
            name=f"{self.table.path.name} row {self.number} {column}",
            read=functools.partial(_image_bytes, self.table, self.number, column),
        )

    def text(self, column: str) -> str:
        """The text in a column of this row, without spaces around it; empty where there is none."""
        value = self.values[column]
        return "" if value is None else str(value).strip()


def rows_of(table: ParquetTable, words: Sequence[str], images: Sequence[str]) -> list[Row]:
    """All rows of a file.

    Args:
        table: The file.
        words: Columns that must be there and are read now.
        images: Columns that must be there and are read on demand.

    Raises:
        UserError: A column is missing.
    """
    table.check([*words, *images])
    return [Row(values=record, table=table, number=number) for number, record in enumerate(table.rows(words))]


def _image_bytes(table: ParquetTable, row: int, column: str) -> bytes:
    """An image in the hub's form, ``{"bytes": ..., "path": ...}``, or as bytes.

    Raises:
        ValueError: The cell holds none.
    """
    cell = table.row(row, [column])[column]
    if isinstance(cell, dict) and cell.get("bytes"):
        return bytes(cell["bytes"])
    if isinstance(cell, dict) and cell.get("path"):
        return inside(table.path.parent, str(cell["path"])).read_bytes()
    if isinstance(cell, bytes) and cell:
        return cell
    raise ValueError(f"{table.path.name} row {row}: no image in column {column}")


def parquet_splits(place: Path) -> dict[str, list[ParquetTable]]:
    """Files of a folder by split, as the hub names them: ``data/test-00000-of-00005-*.parquet``; or one single file.

    Raises:
        UserError: There are none, or a split has a piece twice or lacks one (old revisions of a set did).
    """
    # Path's own glob follows no links to folders.
    found = () if place.is_file() else glob.glob("**/*.parquet", root_dir=place, recursive=True)  # noqa: PTH207
    paths = [place] if place.is_file() else sorted(place / name for name in found)
    if not paths:
        raise UserError(f"{place}: no Parquet files there")
    splits: dict[str, dict[tuple[int, int], Path]] = {}
    for path in paths:
        match = re.match(r"(.+?)-(\d{5})-of-(\d{5})", path.stem)
        split = match[1] if match else path.stem
        piece = (int(match[2]), int(match[3])) if match else (0, 1)
        other = splits.setdefault(split, {}).setdefault(piece, path)
        if other != path:
            raise UserError(f"{place}: split {split} has piece {piece[0]} twice: {other.name}, {path.name}")
    for split, pieces in splits.items():
        totals = {total for _, total in pieces}
        if place.is_dir() and (len(totals) != 1 or len(pieces) != totals.pop()):
            raise UserError(f"{place}: split {split} is not complete: {len(pieces)} pieces are there")
    return {
        split: [ParquetTable(path, UserError) for _, path in sorted(pieces.items())] for split, pieces in splits.items()
    }


def own_set(published: Origin, place: str | Path, rows: int, of: int) -> tuple[Origin, str]:
    """The origin of a set in a published one's form with other rows, and a sentence that says so.

    Args:
        published: The set whose form it has.
        place: Where it lies.
        rows: How many cases it has.
        of: How many the published one has.

    Raises:
        UserError: It is the published one, from the hub, and has changed.
    """
    if str(place).partition("@")[0] == published.hub_id:
        raise UserError(f"{place}: expected {of:,} rows but got {rows:,}; is it whole?")
    name = f"own data ({Path(place).name}), in the form of {published.name}"
    origin = Origin(name=name, licence="its owner's", page=published.page, own=True)
    return origin, f"own data: {rows:,} cases, not the {of:,} published ones; no number is the benchmark's"


def split_of_size(place: Path, rows: int, name: str | None = None) -> tuple[str, list[ParquetTable], int]:
    """The split with so many rows, or the one of that name, or the only one there is; and how many rows it has.

    Raises:
        UserError: None has that number or name, or several have, and there is more than one.
    """
    splits = parquet_splits(place)
    sizes = {split: sum(file.number_of_rows for file in files) for split, files in splits.items()}
    right = [split for split, size in sizes.items() if (split == name if name in splits else size == rows)]
    right = right or (list(splits) if len(splits) == 1 else [])
    if len(right) != 1:
        found = ", ".join(f"{split} {size}" for split, size in sizes.items())
        raise UserError(
            f"{place}: expected one split of {rows} rows but got {found}; --data with a file takes that one"
        )
    return right[0], splits[right[0]], sizes[right[0]]


# ---------------------------------------------------------------------------------------------------------------- rows
def required(row: Row, column: str) -> str:
    """A text field of a row; a missing or empty one is an error.

    Raises:
        UserError: It is empty.
    """
    text = row.text(column)
    if not text:
        raise UserError(f"{row.table.path.name} row {row.number}: no {column}")
    return text


def turn_case(row: Row, name: str, captions: dict[str, str]) -> EditCase:
    """A row in the form that MagicBrush and ImagenHub share, as a case."""
    return EditCase(
        id=safe_id(name),
        instruction=required(row, "instruction"),
        source=row.image("source_img"),
        target=row.image("target_img"),
        mask=row.image("mask_img"),
        captions=captions,
        category="text-guided",
        group=row.text("img_id"),
        extra={"turn_index": row.values["turn_index"]},
    )
