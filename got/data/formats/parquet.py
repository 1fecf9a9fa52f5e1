"""A chain dataset as Parquet files, with images inside as the `datasets` library keeps them: bytes and a name.

`datasets.load_dataset("parquet", data_files="DIR/*.parquet")` and the hub's viewer show them as images.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from got.data.records import DataError, Entry, Example, bytes_of, encode, suffix_of
from got.util.errors import one_line
from got.util.files import finish

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_GROUP_ROWS = 100
_GROUP_BYTES = 1 << 26
"""A row group is the least that can be read: this many rows or bytes at most."""
_IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
_TEXTS = {"id": pa.string(), "prompt": pa.string()}
_STEP = {"instruction": pa.string(), "chain": pa.string(), "target": _IMAGE}
_PROVENANCE = {"dataset": pa.string(), "license": pa.string(), "origin": pa.string(), "made_by": pa.string()}
_TEXT_FEATURE, _IMAGE_FEATURE = {"dtype": "string", "_type": "Value"}, {"_type": "Image"}
_FEATURES = {
    **dict.fromkeys(_TEXTS, _TEXT_FEATURE),
    "source": _IMAGE_FEATURE,
    "steps": {
        "feature": {"instruction": _TEXT_FEATURE, "chain": _TEXT_FEATURE, "target": _IMAGE_FEATURE},
        "_type": "List",
    },
    "provenance": dict.fromkeys(_PROVENANCE, _TEXT_FEATURE),
    "extra": _TEXT_FEATURE,
}
SCHEMA = pa.schema(
    {
        **_TEXTS,
        "source": _IMAGE,
        "steps": pa.list_(pa.struct(_STEP)),
        "provenance": pa.struct(_PROVENANCE),
        "extra": pa.string(),
    },
    metadata={"huggingface": json.dumps({"info": {"features": _FEATURES}})},
)
"""The columns; `extra` is JSON, for its fields differ from set to set."""


class ParquetReader:
    """Reads row groups; each is a block."""

    buffer = 1000

    def __init__(self, files: Sequence[Path]) -> None:
        self._groups: list[tuple[Path, int, int]] = []
        sizes = []
        for path in files:
            first = 0
            with _opened(path) as file:
                missing = [name for name in SCHEMA.names if name not in file.schema_arrow.names]
                if missing:
                    raise DataError(f"{path}: {missing[0]}: expected columns {', '.join(SCHEMA.names)}")
                for group in range(file.num_row_groups):
                    sizes.append(file.metadata.row_group(group).num_rows)
                    self._groups.append((path, group, first))
                    first += sizes[-1]
        self.sizes = np.array(sizes, np.int64)

    def entries(self, blocks: Iterable[tuple[int, np.ndarray]]) -> Iterator[Entry]:
        """Wanted rows of the row groups."""
        for block, wanted in blocks:
            path, group, first = self._groups[block]
            numbers = np.flatnonzero(wanted).tolist()
            with _opened(path) as file:
                try:
                    table = file.read_row_group(group, columns=SCHEMA.names)
                    rows = table.filter(pa.array(wanted)).to_pylist()
                except (pa.ArrowException, OSError, ValueError) as error:
                    why = f"row: its group cannot be read: {one_line(error, 120)}"
                    rows = [None] * len(numbers)
            for number, row in zip(numbers, rows, strict=True):
                where = f"{path}: row {first + number}"
                if row is None:
                    yield Entry(number=number, where=where, row=None, image=_image, broken=why)
                else:
                    yield _entry(row, number, where)


class ParquetWriter:
    """Writes files of a fixed number of rows, each under another name until it is complete."""

    def __init__(self, folder: Path, per_file: int) -> None:
        self.folder, self.per_file = folder, per_file
        files = sorted(folder.glob("*.parquet"))
        self.known = {known for path in files for known in _ids(path)}
        numbers = [path.stem.rpartition("-")[2] for path in files]
        self._next = max((int(number) for number in numbers if number.isdecimal()), default=-1) + 1
        for left in folder.glob(".data-*.parquet.part"):
            left.unlink()
        self._file: pq.ParquetWriter | None = None
        self._rows: list[dict[str, Any]] = []
        self._bytes = self._written = 0

    def add(self, example: Example) -> None:
        """Write one example."""
        images = {name: bytes_of(image) for name, image in example.images()}
        row = encode(example, {n: {"bytes": d, "path": f"{example.id}.{n}{suffix_of(d)}"} for n, d in images.items()})
        self._rows.append({**row, "extra": json.dumps(row["extra"], ensure_ascii=False, allow_nan=False)})
        self._bytes += sum(map(len, images.values()))
        if self._written + len(self._rows) >= self.per_file:
            self.close()
        elif len(self._rows) >= _GROUP_ROWS or self._bytes >= _GROUP_BYTES:
            self._write_group()

    def close(self) -> None:
        """Complete the file in hand."""
        self._write_group()
        if self._file is not None:
            self._file.close()
            finish(*self._paths())
            self._file, self._written = None, 0
            self._next += 1

    def _paths(self) -> tuple[Path, Path]:
        name = f"data-{self._next:05d}.parquet"
        return self.folder / f".{name}.part", self.folder / name

    def _write_group(self) -> None:
        if not self._rows:
            return
        if self._file is None:
            # Images are compressed already and never alike: neither a dictionary nor statistics are of use.
            self._file = pq.ParquetWriter(
                self._paths()[0], SCHEMA, compression="zstd", use_dictionary=False, write_statistics=["id"]
            )
        rows, self._rows, self._bytes = self._rows, [], 0
        self._written += len(rows)
        self._file.write_table(pa.Table.from_pylist(rows, SCHEMA))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    """A file; what a damaged one raises, also of names and texts that are no UTF-8, is one line."""
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except DataError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path}: expected a whole Parquet file but {one_line(error)}") from error


def _ids(path: Path) -> list[str]:
    with _opened(path) as file:
        ids: list[str] = file.read(columns=["id"]).column("id").to_pylist()
    return ids


def _entry(row: dict[str, Any], number: int, where: str) -> Entry:
    """The row without the nulls that Parquet writes for missing fields, and with its JSON decoded."""
    for record in (row["provenance"], *(row["steps"] or ())):
        for name in [name for name, value in (record or {}).items() if value is None]:
            del record[name]
    try:
        extra = json.loads(row["extra"] or "{}")
    except (ValueError, RecursionError) as error:
        return Entry(number=number, where=where, row=None, image=_image, broken=f"extra: expected JSON but {error}")
    return Entry(number=number, where=where, row={**row, "extra": extra}, image=_image)


def _image(field: str, reference: Any) -> bytes:
    data = reference.get("bytes") if isinstance(reference, dict) else None
    if not isinstance(data, bytes):
        raise DataError(f"{field}.bytes: expected the image's bytes but got nothing")
    return data
