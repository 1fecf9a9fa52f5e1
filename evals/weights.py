"""Weights that fit their network exactly, or one sentence that says what does not."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.records import UserError

if TYPE_CHECKING:
    import torch

_SHOWN = 5
"""So many keys of a kind are named in an error."""


def sha256(path: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        UserError: there is no such file, or it is not one.
    """
    import safetensors
    import safetensors.torch

    if not path.is_file():
        raise UserError(f"{path}: no such weights file")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
        return safetensors.torch.load_file(path), metadata
    except safetensors.SafetensorError as error:
        raise UserError(f"{path}: not a safetensors file ({error})") from error


def fit(network: torch.nn.Module, state: dict[str, torch.Tensor], source: str) -> None:
    """Load weights into a network of exactly these keys and shapes; floating point is cast to the network's type.

    Raises:
        UserError: keys are missing, unexpected or of another shape; all kinds are listed, nothing is loaded.
    """
    wanted = network.state_dict()
    shapes = {
        key: f"{key} {tuple(state[key].shape)} for {tuple(wanted[key].shape)}"
        for key in wanted.keys() & state.keys()
        if state[key].shape != wanted[key].shape
    }
    wrong = {
        "missing": sorted(wanted.keys() - state.keys()),
        "unexpected": sorted(state.keys() - wanted.keys()),
        "mis-shaped": [shapes[key] for key in sorted(shapes)],
    }
    if any(wrong.values()):
        parts = [f"{len(keys)} {kind} ({_listed(keys)})" for kind, keys in wrong.items() if keys]
        raise UserError(f"{source} does not fit its config: {'; '.join(parts)}")
    network.load_state_dict(state, strict=True)


def _listed(keys: list[Any]) -> str:
    return ", ".join(map(str, keys[:_SHOWN])) + (", ..." if len(keys) > _SHOWN else "")
