"""What a file is that should hold weights and does not: a pointer, a web page, a part of a download."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path

SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
"""Of files that hold weights."""
_LFS = b"version https://git-lfs.github.com/spec/"
_MARKUP = (b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--")


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
        return "does not exist"
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if not head:
        return "is empty"
    if head.startswith(_LFS):
        return "is a Git LFS pointer, not the weights: `git lfs pull` fetches them"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_MARKUP):
        return "is a web page, not weights: download the file itself"
    if head.startswith(b"PK\x03\x04"):
        return None if zipfile.is_zipfile(path) else "is cut short: its archive has no end; download it again"
    if is_safetensors(path):
        return _cut_short(path)
    return "is no safetensors file" if path.suffix == ".safetensors" else None


def fault_in(folder: Path) -> str | None:
    """The first fault among the weights of a folder that could not be loaded, behind the file's name.

    Libraries take safetensors where there are any: the others then are not looked at.

    Returns:
        None if there is no such folder (a hub id, for one) or nothing is wrong with its files.
    """
    found = sorted(path for path in folder.glob("**/*") if path.suffix in SUFFIXES) if folder.is_dir() else []
    taken = [path for path in found if path.suffix == SUFFIXES[0]] or found
    return next((f"{path} {what}" for path in taken if (what := fault(path)) is not None), None)


def why(place: str | Path, error: Exception) -> str:
    """Why a folder or hub id could not be loaded, in one line: what is wrong with a file of it, or else the error."""
    return fault_in(Path(place)) or " ".join(str(error).split())[:300] or type(error).__name__


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as a safetensors file does, whatever its name."""
    with path.open("rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:] == b"{" and struct.unpack("<Q", head[:8])[0] < 100_000_000


def _cut_short(path: Path) -> str | None:
    """Whether a safetensors file is shorter or longer than its header says."""
    size = path.stat().st_size
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if 8 + length > size:
            return f"is cut short: {size} bytes are not even its header; download it again"
        try:
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            return "is no safetensors file: its header is damaged"
    expected = 8 + length + max(ends, default=0)
    return None if size == expected else f"is cut short: expected {expected} bytes but got {size}; download it again"
