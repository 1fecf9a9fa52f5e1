"""Detectors by name: what finds the objects in a picture. Back-ends are imported when they are named."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from evals.core.records import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from evals.core.protocols import Detector


CHOICES = "mask2former[:WEIGHTS] or hf:ID|PATH for photographs, icon[:WEIGHTS] for the icon world"
"""The values of ``--detector``, for people."""


def make_detector(spec: str, device: str = "cpu") -> Detector:
    """A detector by name.

    Args:
        spec: `icon` (embedded, icon world), `icon:WEIGHTS` or a path to a `.safetensors` file (another training of the
            embedded config), `mask2former[:WEIGHTS]` (GenEval's own, photographs; of MMDetection 3 or 2), `hf:ID` or
            `hf:FOLDER` (an object detector, instance segmenter or open-vocabulary detector of transformers).
        device: torch device.

    Raises:
        UserError: no such detector, or its weights are missing or do not fit its config.
    """
    kind, _, argument = spec.partition(":")
    if kind in DETECTORS:
        return DETECTORS[kind](argument, device)
    if spec.endswith(".safetensors"):
        return _icon(spec, device)
    raise UserError(f"Expected a detector among {CHOICES} but got {spec!r}")


def _icon(argument: str, device: str) -> Detector:
    from evals.detectors.icon import WEIGHTS, IconDetector

    return IconDetector.load(Path(argument) if argument else WEIGHTS, device=device)


def _mask2former(argument: str, device: str) -> Detector:
    from evals.detectors.photo import load_mask2former

    return load_mask2former(Path(argument) if argument else None, device=device)


def _transformers(argument: str, device: str) -> Detector:
    from evals.detectors.hub import load_transformers

    if not argument:
        raise UserError("Expected hf:ID or hf:FOLDER but got 'hf'")
    return load_transformers(argument, device=device)


DETECTORS: dict[str, Callable[[str, str], Detector]] = {
    "icon": _icon,
    "mask2former": _mask2former,
    "hf": _transformers,
}
