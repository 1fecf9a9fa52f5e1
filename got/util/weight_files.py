"""What a file is that should hold weights and does not: a pointer, a web page, a part of a download."""

from __future__ import annotations

import hashlib
import json
import struct
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from got.util.errors import first_line, one_line
from got.util.files import sha256
from got.util.hub import missing_model, snapshot

if TYPE_CHECKING:
    from collections.abc import Iterable


SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
"""Endings of names of files that hold weights."""
LFS = b"version https://git-lfs.github.com/spec/"
"""How a Git LFS pointer begins."""
_MARKUP = (b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--")
_LONGEST_TEXT = 512
"""Bytes: a text file up to this length is an error message that a server sent in place of weights."""


def fault(path: Path) -> str | None:
    """Why a file cannot hold weights, as far as its first bytes and its length tell; None if nothing is wrong.

    Args:
        path: The file, as safetensors or as torch saves one.

    Returns:
        Words that go on after the file's name, such as ``"is empty"``.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "a.pth"
    ...     _ = file.write_bytes(b"<!DOCTYPE html><title>Sign in</title>")
    ...     fault(file), fault(Path(folder)), fault(Path(folder) / "b.pth")
    ('is a web page, not weights: download the file itself', 'is a folder; a file is expected', 'does not exist')
    """
    if path.is_dir():
        return "is a folder; a file is expected"
    if not path.is_file():
        return "is a link to nothing" if path.is_symlink() else "does not exist"
    try:
        with path.open("rb") as file:
            head = file.read(_LONGEST_TEXT + 1)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if not head:
        return "is empty"
    if head.startswith(LFS):
        return "is a Git LFS pointer, not the weights: `git lfs pull` fetches them"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_MARKUP):
        return "is a web page, not weights: download the file itself"
    if (text := _text(head)) is not None:
        return f"is text, not weights: {text}"
    if head.startswith(b"PK\x03\x04"):
        return _archive_fault(path)
    if is_safetensors(path):
        return _cut_short(path)
    return "is no safetensors file" if path.suffix == ".safetensors" else None


def _text(head: bytes) -> str | None:
    """The beginning of a short file that holds nothing but words, in one line; None for any other file.

    >>> _text(b"Entry  not found"), _text(b'{"error": "Invalid username"}')
    ('Entry not found', '{"error": "Invalid username"}')
    """
    if len(head) > _LONGEST_TEXT:
        return None
    try:
        words = " ".join(head.decode("utf-8-sig").split())
    except UnicodeDecodeError:
        return None
    return words[:80] if words.isprintable() else None


def _archive_fault(path: Path) -> str | None:
    if path.suffix == ".safetensors":
        return "is a zip archive, as torch saves one, not safetensors"
    try:
        if not zipfile.is_zipfile(path):
            return "is cut short: its archive has no end; download it again"
        with zipfile.ZipFile(path) as archive:
            script = any(name.endswith("/constants.pkl") for name in archive.namelist())
        return "is a TorchScript archive, which holds code: save its state_dict() instead" if script else None
    except Exception as error:  # what is damaged may ask zipfile for anything
        return f"is a damaged archive ({one_line(error, 80)}); download it again"


def fault_in(folder: Path) -> str | None:
    """The first fault among the weights of a folder that could not be loaded, after the file's name.

    Libraries take safetensors where there are any: the others then are not looked at.

    Returns:
        None if there is no such folder (a hub id, for one) or nothing is wrong with its files.
    """
    found = sorted(path for path in folder.glob("**/*") if path.suffix in SUFFIXES) if folder.is_dir() else []
    taken = [path for path in found if path.suffix == SUFFIXES[0]] or found
    return next((f"{path} {what}" for path in taken if (what := fault(path)) is not None), None)


def below(folder: Path) -> list[Path]:
    """Every file of weights below a folder, in order; none if there is no such folder."""
    return sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES and path.is_file())


def digest_of(files: Iterable[Path]) -> str:
    """Eight digits of what is in some files, whatever their names and order."""
    return hashlib.sha256("".join(sorted(map(sha256, files))).encode()).hexdigest()[:8]


def why(place: str | Path, error: Exception) -> str:
    """Why a folder or hub id could not be loaded, in one line: what is wrong with a file of it, or else the error.

    >>> why("no/where/at", OSError("Repo id must be in the form ..."))
    'neither a folder here nor the form of a hub id (owner/name)'
    """
    if not Path(place).exists():
        # The hub's own messages are a page of text, of which the first line says all.
        tried = f"no folder {Path(place).absolute()}, and not to be had from the hub ({first_line(error)[:200]})"
        return missing_model(str(place)) or tried
    if newest := snapshot(Path(place)):
        return f"it is the root of a hub's cache, whose files are in {newest}"
    return fault_in(Path(place)) or one_line(error, 300)


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as a safetensors file does, whatever its name."""
    with path.open("rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:] == b"{" and struct.unpack("<Q", head[:8])[0] < 100_000_000


def read_header(path: Path) -> dict[str, dict[str, Any]]:
    """The tensors of a safetensors file without `fault`, by name: dtype, shape and place, as its header says."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    keys = ("dtype", "shape", "data_offsets")
    return {name: {key: tensor[key] for key in keys} for name, tensor in header.items() if name != "__metadata__"}


def _cut_short(path: Path) -> str | None:
    """Whether a safetensors file is shorter or longer than its header says."""
    size = path.stat().st_size
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
    if 8 + length > size:
        return f"is cut short: {size} bytes are not even its header; download it again"
    try:
        expected = 8 + length + max((entry["data_offsets"][1] for entry in read_header(path).values()), default=0)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return "is no safetensors file: its header is damaged"
    return None if size == expected else f"is cut short: expected {expected} bytes but got {size}; download it again"
