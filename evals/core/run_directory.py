"""A run directory on disk: durable logs, atomic files, one owner at a time, and the identity of the run."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import json
import os
from typing import TYPE_CHECKING, Any

from evals.core.records import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from PIL import Image

    from evals.core.records import Case, Sample

Key = tuple[str, int]
"""Case id and index: the name of a sample."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def encode(record: dict[str, Any]) -> bytes:
    r"""One line of JSON. A lone surrogate (from a file name) stays valid JSON.

    >>> encode({"a": "é"}), encode({"a": "\udc80"})
    (b'{"a": "\xc3\xa9"}\n', b'{"a": "\\udc80"}\n')
    """
    return json.dumps(record, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace") + b"\n"


@contextlib.contextmanager
def clear_disk_errors(path: Path) -> Iterator[None]:
    """Turns "disk full", "read-only" and "permission denied" into one clear line."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise UserError(
                f"disk full while writing {path}; free some space and run the same command again"
            ) from error
        if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR}:
            raise UserError(f"cannot write {path}: {error.strerror}") from error
        raise


def write_atomic(path: Path, data: bytes) -> None:
    """Writes a whole file or nothing: a reader never sees half of it."""
    temporary = path.with_name(path.name + ".tmp")
    with clear_disk_errors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(data)
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


def append_lines(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Appends lines durably: they are on the disk when this returns, or the file is as it was."""
    data = b"".join(encode(record) for record in records)
    if not data:
        return
    with clear_disk_errors(path), path.open("ab", buffering=0) as file:
        before = file.seek(0, os.SEEK_END)
        try:
            written = 0
            while written < len(data):
                written += file.write(data[written:])
            os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(before)
            raise


def read_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The whole lines of a log, and how many damaged ones were left out (a kill can cut the last line)."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return [], 0
    *lines, tail = data.split(b"\n")
    records: list[dict[str, Any]] = []
    damaged = int(bool(tail))
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if isinstance(record, dict):
            records.append(record)
        else:
            damaged += 1
    return records, damaged


def write_lines(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Replaces a log as a whole."""
    write_atomic(path, b"".join(encode(record) for record in records))


def png_bytes(image: Image.Image) -> bytes:
    """A losslessly compressed file of an RGB image; the fast setting, these files are small anyway."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


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
    """Names and logs of one run. ``images/00042/samples/0001.png`` is GenEval's layout."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spec = path / "run.json"
        self.chains = path / "chains.jsonl"
        self.observations = path / "observations.jsonl"
        self.failures = path / "failures.jsonl"
        self.times = path / "times.jsonl"
        self.results = path / "results.jsonl"
        self.scores = path / "scores.json"
        self.sources = path / "sources.jsonl"
        """Of ``--model folder:PATH``, the file that each image is made of, with its hash."""

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the directory for this process; the system lets go of it even after kill -9.

        Raises:
            UserError: Another process holds it, or the folder belongs to something else.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path} is no folder; choose another --output")
        with clear_disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            strangers = [entry.name for entry in self.path.iterdir() if entry.name != ".lock"]
            if strangers and not self.spec.exists():
                raise UserError(f"{self.path} has files but no run.json; choose another --output")
            handle = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._own(handle)
            yield
            os.ftruncate(handle, 0)
        finally:
            os.close(handle)

    def _own(self, handle: int) -> None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(handle, 32, 0).decode(errors="replace").strip() or "unknown"
            raise UserError(f"{self.path} is in use by another process (pid {owner})") from error
        except OSError as error:  # some network file systems have no locks
            raise UserError(f"{self.path} cannot be locked: {error.strerror}; choose another --output") from error
        with clear_disk_errors(self.path / ".lock"):
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)

    def read_spec(self) -> dict[str, Any] | None:
        """run.json, or None in a new directory."""
        try:
            spec = json.loads(self.spec.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UserError(f"{self.spec} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise UserError(f"{self.spec} is damaged ({error}); choose another --output") from error
        if not isinstance(spec, dict) or not spec.keys() >= {"arguments", "machine", "identity"}:
            raise UserError(f"{self.spec} was not written by this program; choose another --output")
        return spec

    def read_scores(self) -> dict[str, Any] | None:
        """scores.json, the mark of a finished run; None where there is none that can be read."""
        try:
            scores = json.loads(self.scores.read_bytes())
        except (OSError, ValueError):
            return None
        return scores if isinstance(scores, dict) else None

    def write_json(self, path: Path, content: dict[str, Any]) -> None:
        """Writes an indented JSON file atomically."""
        write_atomic(path, (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())

    def image_name(self, sample: Sample) -> str:
        """Path of a sample's image relative to the run directory."""
        return f"images/{sample.case.id}/samples/{sample.index:04d}.png"

    def write_metadata(self, case: Case) -> None:
        """The case's own line, where GenEval's tools look for it."""
        write_atomic(self.path / "images" / case.id / "metadata.jsonl", (json.dumps(case.metadata) + "\n").encode())

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

    def load(self, path: Path, keys: set[Key]) -> dict[Key, dict[str, Any]]:
        """A log by sample; the last line of a sample counts. Damaged lines are cut out of the file."""
        records, damaged = read_lines(path)
        if damaged:
            write_lines(path, records)
        return {key_of(record): record for record in records if key_of(record) in keys}
