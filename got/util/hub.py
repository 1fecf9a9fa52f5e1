"""Checkpoints by name: the embedded weights, a folder, or a repository on the hub. Needs no torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from got.util.cli import read_object

if TYPE_CHECKING:
    from collections.abc import Container

MINI_PATH = Path(__file__).parents[1] / "mini"
"""The embedded weights."""
_EMBEDDED = ("mini", "got/mini")
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message says which part of it and why, in one line."""


def local_folder(name: str | Path) -> Path | None:
    """The folder that a name stands for on this machine, or None for a hub id.

    ``mini`` and ``got/mini`` are the embedded weights in every working directory, and the hub is never asked for
    them. A folder called ``mini`` is ``./mini``; where there is a folder ``got/mini``, that is meant.

    Raises:
        CheckpointError: If it is a file, or neither a folder nor the form of a hub id.

    >>> local_folder("got/mini").name, local_folder("owner/got-6b")
    ('mini', None)
    """
    if not isinstance(name, str | Path) or not str(name).strip():
        raise CheckpointError(f"Expected mini, a folder or a hub id (owner/name) but got {name!r}")
    text, path = str(name).rstrip("/"), Path(name)
    if text == "mini" or (text in _EMBEDDED and not path.exists()):
        path = MINI_PATH
    if path.is_dir():
        return path
    if path == MINI_PATH:
        raise CheckpointError(f"The embedded weights are missing: {path} does not exist (see got/mini/README.md)")
    if path.exists():
        raise CheckpointError(f"Expected a folder but {path} is a file")
    if not _HUB_ID.fullmatch(text):
        raise CheckpointError(f"Expected mini, a folder or a hub id (owner/name) but {name} is none of these")
    return None


def missing_model(name: str) -> str | None:
    """Why a name stands for no model, neither of this machine nor of the hub, as far as can be told without asking it.

    Args:
        name: A folder, or an id of the hub as any library has it: ``owner/name``, or ``name`` alone.

    >>> missing_model("owner/name"), missing_model("bert-base")
    (None, None)
    >>> missing_model("/no/such/folder")
    'neither a folder here nor the form of a hub id (owner/name)'
    """
    if not name:
        return "expected a folder or a hub id (owner/name) but got nothing"
    if Path(name).exists() or _HUB_ID.fullmatch(name) or re.fullmatch(r"\w[\w.-]*", name):
        return None
    return "neither a folder here nor the form of a hub id (owner/name)"


def locate(name: str | Path, **options: Any) -> Path:
    """The folder of a checkpoint; downloads it if the name is a hub id.

    Args:
        name: As of `local_folder`.
        options: Of a download, as of `huggingface_hub.snapshot_download`.

    Raises:
        CheckpointError: If there is nothing under that name, or the hub cannot be reached.
    """
    folder = local_folder(name)
    if folder is not None:
        return folder
    from huggingface_hub import snapshot_download  # here, because local checkpoints need no network code

    try:
        return Path(snapshot_download(str(name), **options))
    except Exception as error:  # the client raises its own, requests' and httpx's errors: all mean "not there"
        # Without the client's own errors, which are a page of text and say no more.
        raise CheckpointError(f"No folder {name}, and no download from the hub: {first_line(error)}") from None


def read_index(folder: Path, saved_as: Container[str] = ("GoTPipeline",)) -> dict[str, Any]:
    """The index of a saved `GoTPipeline`.

    Args:
        folder: Of the pipeline.
        saved_as: Names of the classes that it may have been saved from.

    Raises:
        CheckpointError: There is none, or it is another pipeline's.
    """
    index = folder / "model_index.json"
    if not index.is_file():
        raise CheckpointError(f"{folder} has no model_index.json, so it is not a saved pipeline")
    content = read_object(index, CheckpointError)
    if content.get("_class_name") not in saved_as:
        raise CheckpointError(f"Expected a GoTPipeline in {folder} but found {content.get('_class_name')}")
    return content


def first_line(error: BaseException) -> str:
    """An error's class and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
