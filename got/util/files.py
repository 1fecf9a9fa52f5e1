"""Files that are whole or not there, JSON and lines of JSON, and one owner of a folder at a time."""

from __future__ import annotations

import collections
import contextlib
import errno
import hashlib
import json
import os
import posixpath
import shutil
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from got.util.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from io import BufferedRandom, FileIO
    from pathlib import Path

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jfif", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif"}
)
"""Endings of image files' names, in small or capital letters."""
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR}


@contextlib.contextmanager
def clear_disk_errors(path: Path) -> Iterator[None]:
    """Turns "disk full", "read-only" and "permission denied" into one clear line.

    Raises:
        UserError: One of these happened.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise UserError(
                f"disk full while writing {path}; free some space and run the same command again"
            ) from error
        if error.errno in _REFUSED:
            raise UserError(f"cannot write {path}: {error.strerror}") from error
        raise


# -------------------------------------------------------------------------------------------------------- whole or not
@contextlib.contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Gives a file name to write to; that file takes the place of `path` once the block ends without an error.

    Whenever the program is killed, a reader finds the old file or the new one, never half of it. The temporary file
    lies in the same folder, because only within one file system a file takes another's place in one move. Two processes
    must not write the same file at once: they would share the temporary one (`FolderLock` keeps them apart).

    Args:
        path: The file. Its folder is made if it is not there.
        durable: Wait until the content is on the disk, so that a power cut cannot leave an empty file either. That
            costs milliseconds, so it is for the few files that cannot be made again.

    Raises:
        UserError: The disk is full, or must not be written to.
    """
    if not path.name:  # of the root
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    temporary = path.with_name(f".{path.name}.part")
    with clear_disk_errors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            if durable:
                finish(temporary, path)
            else:
                temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


def finish(part: Path, path: Path) -> None:
    """Gives a file that took long to write its name, once its content is on the disk."""
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    part.replace(path)


def write_atomic(path: Path, content: bytes | str, *, durable: bool = False) -> None:
    """Writes a whole file or nothing, as `replacing` does; text as UTF-8."""
    with replacing(path, durable=durable) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, content: Any, *, indent: int = 2, allow_nan: bool = False, durable: bool = False) -> None:
    """Writes JSON for people and programs, a whole file or nothing.

    Raises:
        ValueError: There is a NaN or an infinity in it, and `allow_nan` is false: no other language reads them.
        UserError: As of `replacing`.
    """
    write_atomic(path, as_json(content, indent=indent, allow_nan=allow_nan), durable=durable)


def as_json(content: Any, *, indent: int = 2, allow_nan: bool = False) -> bytes:
    """What `write_json` writes."""
    text = json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=allow_nan)
    return text.encode("utf-8", "backslashreplace") + b"\n"


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Gives an empty folder to fill; it takes the place of `path` once the block ends without an error."""
    part, old = (path.with_name(f".{path.name}.{suffix}") for suffix in ("part", "old"))
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    part.rename(path)
    shutil.rmtree(old, ignore_errors=True)


# ------------------------------------------------------------------------------------------------------------- reading
def json_object(text: str | bytes, where: str, error: type[Exception]) -> dict[str, Any]:
    """The JSON object that a text holds.

    Args:
        text: A line or a file.
        where: What errors call it.
        error: What is raised if it is no JSON, or not an object.

    >>> json_object('{"a": 1}', "here", ValueError)
    {'a': 1}
    >>> json_object('[1]', "prompts.jsonl line 3", ValueError)
    Traceback (most recent call last):
    ValueError: Expected a JSON object in prompts.jsonl line 3 but got list
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise error(f"{where} is not valid JSON: {_fault(problem)}") from problem
    if not isinstance(content, dict):
        raise error(f"Expected a JSON object in {where} but got {type(content).__name__}")
    return content


def _fault(problem: Exception) -> str:
    if not isinstance(problem, json.JSONDecodeError):
        return str(problem)
    line = f"line {problem.lineno}, " if "\n" in problem.doc else ""  # of one line, the number is the caller's
    return f"{problem.msg} at {line}column {problem.colno}"


def read_object(path: Path, error: type[Exception]) -> dict[str, Any]:
    """The JSON object in a file, UTF-8 with or without a byte order mark.

    Raises:
        Exception: The given kind of it, if the file cannot be read, is no JSON, or holds something else.
    """
    return json_object(read_text(path, error), str(path), error)


def read_text(path: Path, error: type[Exception]) -> str:
    """A text file, UTF-8 with or without a byte order mark.

    Raises:
        Exception: The given kind of it, if the file cannot be read or is no such text.
    """
    with _reading(path, error):
        return path.read_text(encoding="utf-8-sig")


@contextlib.contextmanager
def _reading(path: Path, error: type[Exception]) -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        raise error(f"Cannot read {path}: {problem.strerror}") from problem
    except UnicodeDecodeError as problem:
        raise error(f"{path}: expected UTF-8 text ({problem})") from problem
    except ValueError as problem:  # a name with a NUL
        raise error(f"Cannot read {path}: {problem}") from problem


def sha256(path: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def inside(root: Path, name: str) -> Path | None:
    r"""The file that untrusted data names, or None if the name leads out of the folder.

    The name alone is checked: where links in the folder lead is up to its owner, and a hub's cache is made of links.

    >>> from pathlib import Path
    >>> inside(Path("run"), "images/0.png").as_posix(), inside(Path("run"), "a/../../b"), inside(Path("run"), "..\\b")
    ('run/images/0.png', None, None)
    """
    lexical = posixpath.normpath(name.replace("\\", "/"))
    if lexical.startswith(("/", "../")) or lexical in ("..", ".") or "\0" in name:
        return None
    return root / lexical


def left_out(names: Iterable[str]) -> str:
    """A sentence about a folder's files that are no images; empty if there are none.

    >>> left_out(["a.mp4", "b.MP4", "README"])
    '3 files are left out, which are no images by their names (2 × .mp4, 1 × no suffix)'
    >>> left_out(["a.json"])
    '1 file is left out, which is no image by its name (1 × .json)'
    """
    kinds = collections.Counter(posixpath.splitext(name)[1].lower() or "no suffix" for name in names)
    shown = ", ".join(f"{count:,} × {kind}" for kind, count in kinds.most_common(5))
    if kinds.total() == 1:
        return f"1 file is left out, which is no image by its name ({shown})"
    return f"{kinds.total():,} files are left out, which are no images by their names ({shown})" if kinds else ""


# ------------------------------------------------------------------------------------------------------- lines of JSON
# A line ends at "\n" alone. The other line ends of Unicode, which `str.splitlines` takes, may stand inside JSON.
def encode(record: Mapping[str, Any], *, allow_nan: bool = False) -> bytes:
    r"""One line of JSON. A lone surrogate (from a file name) stays valid JSON.

    >>> encode({"a": "é"}), encode({"a": "\udc80"})
    (b'{"a": "\xc3\xa9"}\n', b'{"a": "\\udc80"}\n')
    """
    text = json.dumps(record, ensure_ascii=False, allow_nan=allow_nan)
    return text.encode("utf-8", "backslashreplace") + b"\n"


@contextlib.contextmanager
def alone_in(file: FileIO | BufferedRandom) -> Iterator[None]:
    """No other process appends to the open log, or takes a cut line out, until the block ends."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)
    except (ImportError, OSError):  # some systems, and some network file systems, have no such locks
        yield
        return
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


def append_lines(
    path: Path, records: Iterable[Mapping[str, Any]], *, durable: bool = True, allow_nan: bool = False
) -> None:
    """Appends all lines, or leaves the file as it was.

    Args:
        path: The log.
        records: Its new lines.
        durable: Wait until they are on the disk; without, they outlive this process, but not a power cut.
        allow_nan: Write NaN and infinities, which only Python reads.

    Raises:
        UserError: The disk is full, or must not be written to.
    """
    append_bytes(path, b"".join(encode(record, allow_nan=allow_nan) for record in records), durable=durable)


def append_bytes(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Appends all bytes or leaves the file as it was, as `append_lines` does."""
    if not data:
        return
    with clear_disk_errors(path), path.open("ab", buffering=0) as file, alone_in(file):
        before = file.seek(0, os.SEEK_END)
        try:
            written = 0
            while written < len(data):
                written += file.write(data[written:])
            if durable:
                os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(before)
            raise


def write_lines(
    path: Path, records: Iterable[Mapping[str, Any]], *, durable: bool = False, allow_nan: bool = False
) -> None:
    """Replaces a log as a whole."""
    write_atomic(path, b"".join(encode(record, allow_nan=allow_nan) for record in records), durable=durable)


def read_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The whole lines of one of our own logs, and how many damaged ones were left out (a kill can cut the last line).

    A log that is not there is empty.
    """
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
        except (ValueError, RecursionError):
            record = None
        if isinstance(record, dict):
            records.append(record)
        else:
            damaged += 1
    return records, damaged


def recorded(log: Path, error: type[Exception] = UserError) -> Iterator[dict[str, Any]]:
    """The records of a log that will be appended to, one at a time; a log that is not there is empty.

    Its last line is mended first (`mend_tail`).

    Raises:
        Exception: The given kind of it, if another line is no JSON object; the message names it.
    """
    if not log.exists():
        return
    mend_tail(log)
    with log.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            yield json_object(line, f"{log} line {number}", error)


def mend_tail(log: Path) -> None:
    """Takes out a last line that a kill has cut short; one that lacks nothing but its line end gets it.

    It waits for a line that another process is writing.
    """
    with log.open("r+b") as file, alone_in(file):
        end = file.seek(0, os.SEEK_END)
        file.seek(max(end - 1, 0))
        if file.read(1) in (b"", b"\n"):
            return
        file.seek(0)
        start = file.read().rfind(b"\n") + 1
        file.seek(start)
        try:
            json_object(file.read(), "", ValueError)
        except ValueError:
            file.truncate(start)
        else:
            file.write(b"\n")
            file.flush()  # before the lock goes


def numbered_lines(path: Path, error: type[Exception]) -> Iterator[tuple[int, str]]:
    """The lines of a text file from elsewhere, with their numbers from 1, one at a time; blank ones are passed over.

    Raises:
        Exception: The given kind of it, if the file cannot be read or is no UTF-8 text.
    """
    with _reading(path, error), path.open(encoding="utf-8-sig", newline="\n") as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                yield number, line.strip()


# ----------------------------------------------------------------------------------------------------------- ownership
class FolderLock:
    """Holds a folder for this process; the system lets go of it even after kill -9.

    Args:
        folder: The folder, which is there.
        name: File in it that is locked, and says whose it is.
        error: What is raised if that cannot be.

    Raises:
        Exception: The given kind of it, if another process holds the folder, or its file system has no locks.
    """

    def __init__(self, folder: Path, name: str = ".lock", error: type[Exception] = UserError) -> None:
        path = folder / name
        # No soft lock where the system has none: it would outlive kill -9.
        self._lock = FileLock(path, fallback_to_soft=False, on_acquired=_sign)
        try:
            with clear_disk_errors(path):
                self._lock.acquire(blocking=False)
        except Timeout as problem:
            owner = ""
            with contextlib.suppress(OSError):
                owner = path.read_text(errors="replace").strip()
            raise error(f"{folder} is in use by another process (pid {owner or 'unknown'})") from problem
        except OSError as problem:  # some network file systems have no locks
            raise error(f"{folder} cannot be locked: {problem.strerror}; choose another one") from problem

    def release(self) -> None:
        """Lets go; a second time does nothing."""
        self._lock.release()

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _sign(handle: int) -> None:
    os.write(handle, f"{os.getpid()}\n".encode())
