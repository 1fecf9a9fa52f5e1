"""What every reader of a public data set is asked: where its files are, and how its rows are to be taken."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from got.data.importers.files import rows
from got.data.records import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from got.data.importers.files import Row
    from got.data.records import Example


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
