"""Detectors by name: what finds the objects in a picture. Back-ends are imported when they are named."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from evals.core.records import UserError
from got.util.hub import missing_model
from got.util.weight_files import fault as fault_of_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from evals.core.protocols import Detector


CHOICES = "mask2former[:WEIGHTS] or hf:ID|PATH for photographs, icon[:WEIGHTS] for the icon world"
"""The values of ``--detector``, for people."""


def check_detector(spec: str) -> None:
    """Refuses a name that can stand for no detector here; loads nothing, and asks no hub.

    Raises:
        UserError: No such kind, a weights file that is missing or none, or a path to nothing.

    >>> check_detector("icon"), check_detector("hf:owner/name")
    (None, None)
    """
    kind, _, argument = spec.partition(":")
    if kind not in DETECTORS and not spec.endswith(".safetensors"):
        raise UserError(f"Expected a detector among {CHOICES} but got {spec!r}")
    if kind == "hf":
        if fault := missing_model(argument):
            raise UserError(f"{spec} cannot be loaded: {fault}")
        return
    file = argument if kind in DETECTORS else spec
    if file and (what := fault_of_file(Path(file))):
        raise UserError(f"{file} {what}")


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
    check_detector(spec)
    kind, _, argument = spec.partition(":")
    return DETECTORS[kind](argument, device) if kind in DETECTORS else _icon(spec, device)


def _icon(argument: str, device: str) -> Detector:
    from evals.detectors.icon import WEIGHTS, IconDetector

    return IconDetector.load(Path(argument) if argument else WEIGHTS, device=device)


def _mask2former(argument: str, device: str) -> Detector:
    from evals.detectors.photo import load_mask2former

    return load_mask2former(Path(argument) if argument else None, device=device)


def _transformers(argument: str, device: str) -> Detector:
    from evals.detectors.hub import load_transformers

    return load_transformers(argument, device=device)


DETECTORS: dict[str, Callable[[str, str], Detector]] = {
    "icon": _icon,
    "mask2former": _mask2former,
    "hf": _transformers,
}
