"""A run directory on disk: its logs and files, one owner at a time, and the identity of the run."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

from evals.core.records import UserError, note
from got.util.errors import shortened
from got.util.files import FolderLock, clear_disk_errors, encode, write_atomic
from got.util.hashes import HASHES, HashedFolder

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from evals.core.records import Case, Sample

Key = tuple[str, int]
"""Case id and index: the name of a sample."""

MEND = "the command that made the run, given again without --from, makes it anew"
"""How to go on where a file of a run is damaged."""

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
            found.append(f"{prefix}{key}: {shortened(json.dumps(before), 40)} -> {shortened(json.dumps(after), 40)}")
    return found


class RunDirectory:
    """Names and logs of one run. ``images/00042/samples/0001.png`` is GenEval's layout.

    What is written here is hashed, and checked when it is read.

    Args:
        path: The folder.
        part: Whether it holds a share of a run's samples, whose end is marked by ``part.json`` and not by scores.
    """

    def __init__(self, path: Path, *, part: bool = False) -> None:
        self.path = path
        self.files = HashedFolder(path)
        self.spec = path / "run.json"
        self.chains = path / "chains.jsonl"
        self.observations = path / "observations.jsonl"
        self.failures = path / "failures.jsonl"
        self.times = path / "times.jsonl"
        self.results = path / "results.jsonl"
        self.scores = path / ("part.json" if part else "scores.json")
        self.sources = path / "sources.jsonl"
        """Of ``--model folder:PATH``, the file that each image is made of, with its hash."""
        self._lock: Path | None = None
        self._damage: set[str] = set()

    def locked(self) -> FolderLock:
        """Holds the directory for this process.

        Raises:
            UserError: Another process holds it, or the folder belongs to something else.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path} is no folder; choose another --output")
        with clear_disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            strangers = {entry.name for entry in self.path.iterdir()} - {".lock", HASHES, PARTS}
            if strangers and not self.spec.exists():
                raise UserError(f"{self.path} has files but no run.json; choose another --output")
        lock = FolderLock(self.path)
        self._lock = self.path / ".lock"
        return lock

    def read_spec(self) -> dict[str, Any] | None:
        """run.json, or None in a new directory."""
        if not self.spec.exists():
            return None
        try:
            spec = self.files.read_json(self.spec.name)
        except UserError as error:
            raise UserError(f"{error}; choose another --output") from error
        if not spec.keys() >= {"arguments", "machine", "identity"}:
            raise UserError(f"{self.spec} was not written by this program; choose another --output")
        return spec

    def read_scores(self) -> dict[str, Any] | None:
        """scores.json, the mark of a finished run; None where there is none that can be read."""
        try:
            return self.files.read_json(self.scores.name) if self.scores.exists() else None
        except UserError as error:
            self._mend(str(error))
            return None

    def read(self, log: Path) -> list[dict[str, Any]]:
        """The lines of a log of a finished run.

        Raises:
            UserError: One is damaged, or some are lost.
        """
        found = self.files.read_log(log.name, complete=self.scores.exists())
        if found.damage is not None:
            raise UserError(f"{found.damage}; {MEND}")
        return found.records

    def mended(self, log: Path) -> list[dict[str, Any]]:
        """The undamaged lines of a log that is to be completed; damage is reported, once."""
        found = self.files.read_log(log.name, complete=self.scores.exists())
        if found.damage is not None:
            self._mend(found.damage)
        return found.records

    def _mend(self, damage: str) -> None:
        if damage not in self._damage:
            self._damage.add(damage)
            note(f"{damage}; results that it held are made again")

    @property
    def is_damaged(self) -> bool:
        """Whether a file that was read is damaged."""
        return bool(self._damage)

    def write(self, file: Path, content: Any) -> None:
        """Replaces a file of JSON."""
        self._before_writing()
        self.files.write_json(file.name, content)

    def replace(self, log: Path, lines: Iterable[Mapping[str, Any]]) -> None:
        """Replaces a log as a whole."""
        self._before_writing()
        self.files.write_lines(log.name, lines)

    def append(self, logs: Mapping[Path, Iterable[Mapping[str, Any]]]) -> None:
        """Adds lines to logs, one log after the other."""
        self._before_writing()
        self.files.append_lines({log.name: lines for log, lines in logs.items()})

    def _before_writing(self) -> None:
        self.check_there()
        if self.spec.exists() and not self.files.is_hashed():
            note(f"{self.path} is of an older version, without hashes: its files are taken as they are")
            logs = (self.chains, self.observations, self.failures, self.times, self.results, self.sources)
            self.files.accept(*(path.name for path in (self.spec, self.scores, *logs)))

    def check_there(self) -> None:
        """Stops a run whose directory somebody has deleted or put another in its place: its results would be lost.

        Raises:
            UserError: That is so.
        """
        if self._lock is not None and not self._lock.exists():
            raise UserError(f"{self.path} was deleted or replaced while the run went on; the same command begins anew")

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
        """Deletes the directory of a run that never began, so that the corrected command finds its place free.

        One image or one empty log is a trace: without run.json nobody could go on there.
        """
        lock = self.path / ".lock"
        ours = [self.spec, self.sources, self.files.path / HASHES, lock]
        if {entry.name for entry in self.path.iterdir()} <= {path.name for path in ours}:
            for path in ours:
                path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self.path.rmdir()
                if self.path.parent.name == PARTS:
                    self.path.parent.rmdir()
                    self.path.parent.parent.rmdir()

    def load(self, log: Path, keys: set[Key], *, mend: bool) -> dict[Key, dict[str, Any]]:
        """A log by sample; the last line of a sample counts.

        Args:
            log: The log.
            keys: The run's samples; lines of others are left out.
            mend: Go on without damaged lines, whose samples are made again.

        Raises:
            UserError: A line is damaged, and nothing is mended.
        """
        found: dict[Key, dict[str, Any]] = {}
        older = not self.files.is_hashed()
        for record in self.mended(log) if mend else self.read(log):
            damage = f"{log} has a line without a case and its index"
            try:
                key = key_of(record)
                if older:  # nothing says that it is as it was written
                    damage = f"{log} has a line with a number that is none (case {key[0]}, index {key[1]})"
                    encode(record)
                found[key] = record
            except (KeyError, TypeError, ValueError) as error:
                if not mend:
                    raise UserError(f"{damage}; {MEND}") from error
                self._mend(damage)
        return {key: record for key, record in found.items() if key in keys}
