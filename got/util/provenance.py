"""Where numbers come from: package versions, commit, and the hashes of weights. Imports no package it asks about."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

from got.util.files import sha256
from got.util.weight_files import below

PACKAGES = (
    "got-bench",
    "torch",
    "torchvision",
    "transformers",
    "diffusers",
    "open_clip_torch",
    "onedl-mmengine",
    "onedl-mmcv",
    "onedl-mmdetection",
    "numpy",
    "scipy",
    "pillow",
    "safetensors",
    "torchmetrics",
)


def package_versions() -> dict[str, str]:
    """Installed versions of everything that can move a number."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def commit() -> dict[str, Any]:
    """Commit of this source tree and whether it has local changes; both None outside a checkout."""
    root = Path(__file__).resolve().parents[2]

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, timeout=20, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    if git("rev-parse", "--show-prefix") != "":  # no checkout, or installed somewhere inside of another project's
        return {"commit": None, "dirty": None}
    status = git("status", "--porcelain", "--untracked-files=no")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}


def code_sha256() -> str:
    """One hash of the Python source that draws and observes: a commit says nothing about local changes."""
    root = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256()
    for path in sorted(path for package in ("got", "evals") for path in (root / package).rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


@functools.cache
def installed() -> dict[str, Any]:
    """Versions, commit and code of this process, as two processes compare them."""
    return {**package_versions(), "commit": commit()["commit"], "code": code_sha256()[:12]}


def weights_sha256(place: Path) -> dict[str, str]:
    """SHA-256 of a weights file, or of every weights file under a folder, by relative name.

    What lies in a folder `training` draws nothing: it is left out.

    A place that does not exist here (a hub id) gives an empty record: nothing is guessed.
    """
    if place.is_file():
        files = [place]
    else:
        files = [path for path in below(place) if path.relative_to(place).parts[0] != "training"]
    root = place.parent if place.is_file() else place
    return {path.relative_to(root).as_posix(): sha256(path) for path in files}
