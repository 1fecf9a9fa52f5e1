"""Checkpoints and data sets by name: the embedded weights, a folder, or a repository on the hub. Needs no torch."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from got.util.errors import first_line
from got.util.files import read_object

if TYPE_CHECKING:
    from collections.abc import Container, Iterator


MINI_PATH = Path(__file__).parents[1] / "mini"
"""The embedded weights."""
_EMBEDDED = ("mini", "got/mini")
_PATIENCE_S = 5.0
"""The hub answers in so many seconds, or counts as not there."""
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


def unreachable(name: str) -> str | None:
    """Why a model cannot be had, in words; None if it is here, in the hub's cache, or to be had from the hub.

    It is asked for once: the libraries that load models repeat a request for half a minute where there is no network.

    Args:
        name: A folder, or an id of the hub.
    """
    from huggingface_hub import HfApi, constants

    if Path(name).exists() or snapshot(Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}") is not None:
        return None
    try:
        HfApi().model_info(name, timeout=_PATIENCE_S)
    except Exception as problem:  # as in `_said`
        return f"no folder {Path(name).absolute()}, and not to be had from the hub ({first_line(problem)[:200]})"
    return None


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
    return download(str(name), CheckpointError, **options)


def on_hub(place: str) -> tuple[str, str | None] | None:
    """Hub id and revision that ``OWNER/NAME`` or ``OWNER/NAME@REVISION`` stands for; None for any other form.

    >>> on_hub("owner/name"), on_hub("owner/name@main"), on_hub("a/b/c"), on_hub("../name")
    (('owner/name', None), ('owner/name', 'main'), None, None)
    """
    name, _, revision = place.partition("@")
    return (name, revision or None) if _HUB_ID.fullmatch(name) else None


def download(hub_id: str, error: type[Exception], **options: Any) -> Path:
    """The folder of a repository in the hub's own cache, fetched if it is not there.

    Args:
        hub_id: ``OWNER/NAME``.
        error: What is raised if it cannot be had.
        options: As of `huggingface_hub.snapshot_download`.
    """
    from huggingface_hub import snapshot_download  # here, because what lies on this machine needs no network code

    with _said(hub_id, error):
        return Path(snapshot_download(hub_id, **options))


def commit_of(hub_id: str, revision: str | None, error: type[Exception]) -> str:
    """The full commit of a data set's revision; of a full commit without asking, so that a cached set needs no network.

    Args:
        hub_id: ``OWNER/NAME``.
        revision: Branch, tag or commit; the newest if None.
        error: What is raised if the hub does not tell.
    """
    if re.fullmatch(r"[0-9a-f]{40}", revision or ""):
        return str(revision)
    from huggingface_hub import HfApi

    with _said(hub_id, error):
        return HfApi().dataset_info(hub_id, revision=revision).sha or ""


@contextlib.contextmanager
def _said(hub_id: str, error: type[Exception]) -> Iterator[None]:
    try:
        yield
    except Exception as problem:  # the client raises its own, requests' and httpx's errors: all mean "not there"
        # Without the client's own errors, which are a page of text and say no more.
        raise error(
            f"{hub_id}: no such file or folder, and it cannot be had from the hub: {first_line(problem)}"
        ) from None


def snapshot(folder: Path) -> Path | None:
    """The newest revision in the root of a repository in a hub's cache (``models--OWNER--NAME``); None of others.

    >>> snapshot(Path("/")) is None
    True
    """
    below = folder / "snapshots"
    found = [path for path in below.iterdir() if path.is_dir()] if below.is_dir() else []
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


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
        trained = folder / "model"  # where `got.finetune` puts its pipeline
        hint = f"; {trained} is one" if (trained / index.name).is_file() else ""
        if newest := snapshot(folder):
            hint = f"; it is the root of a hub's cache, whose files are in {newest}"
        raise CheckpointError(f"{folder} has no model_index.json, so it is not a saved pipeline{hint}")
    content = read_object(index, CheckpointError)
    if str(content.get("_class_name")).rpartition(".")[2] not in saved_as:
        raise CheckpointError(f"Expected a GoTPipeline in {folder} but found {content.get('_class_name')}")
    return content


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Run without the libraries' own progress bars, which show one line per component; puts back what was set."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries = [library for library in (transformers_logging, diffusers_logging) if library.is_progress_bar_enabled()]
    for library in libraries:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in libraries:
            library.enable_progress_bar()
