"""Reads Parquet files larger than memory, in batches of rows or by row number. pyarrow is imported on opening."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

from got.util.errors import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


class ParquetTable:
    """A Parquet file. The last row group of columns that are read by row is kept in memory."""

    def __init__(self, path: Path, error: type[Exception]) -> None:
        """Reads the file's index.

        Args:
            path: The file.
            error: What is raised, with one line, where the file cannot be read or lacks a column.
        """
        import pyarrow.parquet

        self.path, self._error = path, error
        with self._readable("at its end"):
            self._file = pyarrow.parquet.ParquetFile(path)
        self.columns: list[str] = self._file.schema_arrow.names
        self.number_of_rows: int = self._file.metadata.num_rows
        self._kept: dict[tuple[str, ...], tuple[range, Any]] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[ParquetTable], tuple[Path, type[Exception]]]:
        """Pickled as its path, and reopened in the other process."""
        return ParquetTable, (self.path, self._error)

    @contextlib.contextmanager
    def _readable(self, where: str) -> Iterator[None]:
        import pyarrow

        try:
            yield
        except (OSError, ValueError, pyarrow.ArrowException) as error:
            raise self._error(f"{self.path}: not a readable Parquet file, {where} ({one_line(error, 120)})") from error

    def check(self, columns: Sequence[str]) -> None:
        """Raises the table's `error` if a column is missing."""
        missing = [name for name in columns if name not in self.columns]
        if missing:
            there = ", ".join(sorted(self.columns))
            raise self._error(f"{self.path}: expected columns {', '.join(missing)} but it has only {there}")

    def rows(self, columns: Sequence[str] | None = None, batch_size: int = 4096) -> Iterator[dict[str, Any]]:
        """All rows, in order.

        Args:
            columns: Those to read; all if None.
            batch_size: Rows held at once; rows with images are megabytes.
        """
        self.check(columns or ())
        batches, number = self._file.iter_batches(batch_size, columns=columns and list(columns)), 0
        while True:
            with self._readable(f"from row {number} on"):
                batch = next(batches, None)
                if batch is None:
                    return
                records = batch.to_pylist()
            yield from records
            number += len(records)

    def row(self, number: int, columns: Sequence[str]) -> dict[str, Any]:
        """Some columns of a row. Thread-safe."""
        with self._lock:
            return self._row(number, columns)

    def _row(self, number: int, columns: Sequence[str]) -> dict[str, Any]:
        key = tuple(columns)
        span, table = self._kept.get(key, (range(0), None))
        if number not in span:
            self._kept.pop(key, None)  # two groups at once may be more than there is memory for
            start = group = 0
            while start + self._file.metadata.row_group(group).num_rows <= number:
                start += self._file.metadata.row_group(group).num_rows
                group += 1
            span = range(start, start + self._file.metadata.row_group(group).num_rows)
            with self._readable(f"at row {number}"):
                table = self._file.read_row_group(group, columns=list(columns))
            self._kept[key] = span, table
        with self._readable(f"at row {number}"):  # texts that are no UTF-8
            row: dict[str, Any] = table.slice(number - span.start, 1).to_pylist()[0]
        return row
