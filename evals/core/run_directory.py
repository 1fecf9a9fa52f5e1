"""A run directory on disk: its logs and files, one owner at a time, and the identity of the run."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

from evals.core.records import UserError
from got.util.files import FolderLock, clear_disk_errors, read_lines, read_object, write_atomic, write_lines

if TYPE_CHECKING:
    from pathlib import Path

    from evals.core.records import Case, Sample

Key = tuple[str, int]
"""Case id and index: the name of a sample."""


PARTS = "parts"
"""Folder in a run directory for the parts that ``--shard`` makes, each a run directory without scores."""


def key_of(record: dict[str, Any]) -> Key:
    """The sample a log line speaks of."""
    return str(record["case"]), int(record["index"])


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """What changed between two nested records, one short line per leaf.

    >>> differences({"seed": 1, "w": {"a": "x"}}, {"seed": 2, "w": {"a": "x"}})
    ['seed: 1 -> 2']
    """
    found: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found.append(f"{prefix}{key}: {_short(before)} -> {_short(after)}")
    return found


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."


class RunDirectory:
    """Names and logs of one run. ``images/00042/samples/0001.png`` is GenEval's layout.

    Args:
        path: The folder.
        part: Whether it holds a share of a run's samples, whose end is marked by ``part.json`` and not by scores.
    """

    def __init__(self, path: Path, *, part: bool = False) -> None:
        self.path = path
        self.spec = path / "run.json"
        self.chains = path / "chains.jsonl"
        self.observations = path / "observations.jsonl"
        self.failures = path / "failures.jsonl"
        self.times = path / "times.jsonl"
        self.results = path / "results.jsonl"
        self.scores = path / ("part.json" if part else "scores.json")
        self.sources = path / "sources.jsonl"
        """Of ``--model folder:PATH``, the file that each image is made of, with its hash."""

    def locked(self) -> FolderLock:
        """Holds the directory for this process.

        Raises:
            UserError: Another process holds it, or the folder belongs to something else.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path} is no folder; choose another --output")
        with clear_disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            strangers = [entry.name for entry in self.path.iterdir() if entry.name not in (".lock", PARTS)]
            if strangers and not self.spec.exists():
                raise UserError(f"{self.path} has files but no run.json; choose another --output")
        return FolderLock(self.path)

    def read_spec(self) -> dict[str, Any] | None:
        """run.json, or None in a new directory."""
        if not self.spec.exists():
            return None
        try:
            spec = read_object(self.spec, UserError)
        except UserError as error:
            raise UserError(f"{error}; choose another --output") from error
        if not spec.keys() >= {"arguments", "machine", "identity"}:
            raise UserError(f"{self.spec} was not written by this program; choose another --output")
        return spec

    def read_scores(self) -> dict[str, Any] | None:
        """scores.json, the mark of a finished run; None where there is none that can be read."""
        try:
            return read_object(self.scores, UserError)
        except UserError:
            return None

    def image_name(self, sample: Sample) -> str:
        """Path of a sample's image relative to the run directory."""
        return f"images/{sample.case.id}/samples/{sample.index:04d}.png"

    def write_metadata(self, case: Case) -> None:
        """The case's own line, where GenEval's tools look for it."""
        write_atomic(self.path / "images" / case.id / "metadata.jsonl", json.dumps(case.metadata) + "\n")

    def is_empty(self) -> bool:
        """Whether nothing was drawn or judged here yet."""
        return not any(log.exists() and log.stat().st_size for log in (self.chains, self.observations, self.failures))

    def forget_if_empty(self) -> None:
        """Leaves no trace of a run that never began, so that the corrected command finds a free place.

        One image or one empty log is a trace: without run.json nobody could go on there.
        """
        lock = self.path / ".lock"
        if {entry.name for entry in self.path.iterdir()} <= {self.spec.name, self.sources.name, lock.name}:
            for path in (self.spec, self.sources, lock):
                path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self.path.rmdir()
                if self.path.parent.name == PARTS:
                    self.path.parent.rmdir()
                    self.path.parent.parent.rmdir()

    def load(self, path: Path, keys: set[Key]) -> dict[Key, dict[str, Any]]:
        """A log by sample; the last line of a sample counts. Damaged lines are cut out of the file."""
        records, damaged = read_lines(path)
        if damaged:
            write_lines(path, records)
        return {key_of(record): record for record in records if key_of(record) in keys}
