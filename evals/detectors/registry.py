"""Detectors by name: what finds the objects in an image. A factory is called with its argument and a torch device."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from evals.core.backends import ICON_WORLD, PHOTOGRAPHS, Backend, Registry, local_place
from evals.core.records import UserError
from got.util.hub import missing_model
from got.util.weight_files import fault as fault_of_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from evals.core.backends import Detector


def _file_fault(argument: str) -> str | None:
    """Why a file that is named holds no weights."""
    what = fault_of_file(Path(argument)) if argument else None
    return f"{argument} {what}" if what else None


def _model_fault(argument: str) -> str | None:
    what = missing_model(argument)
    return f"hf:{argument} cannot be loaded: {what}" if what else None


_ICON = Path(__file__).parents[1] / "assets" / "icon_detector.safetensors"


def _icon_weights(argument: str) -> Path:
    return Path(argument) if argument else _ICON


DETECTORS = Registry["Detector"](
    "a detector",
    "got_evals.detectors",
    {
        "icon": Backend(
            factory="evals.detectors.icon:IconDetector.load",
            argument="[WEIGHTS]",
            world=ICON_WORLD,
            embedder="icon",
            weights=_icon_weights,
            fault=_file_fault,
        ),
        "icon-fine": Backend(
            factory="evals.detectors.icon:FineIconDetector.load",
            argument="[WEIGHTS]",
            world=ICON_WORLD,
            embedder="icon",
            weights=_icon_weights,
            fault=_file_fault,
        ),
        "mask2former": Backend(
            factory="evals.detectors.photo:load_mask2former",
            argument="[WEIGHTS]",
            world=PHOTOGRAPHS,
            weights=local_place,
            fault=_file_fault,
        ),
        "hf": Backend(
            factory="evals.detectors.hub:load_transformers",
            argument="ID|PATH",
            world=PHOTOGRAPHS,
            weights=local_place,
            fault=_model_fault,
        ),
    },
)


def choices() -> str:
    """The values of ``--detector``, for people.

    >>> choices()
    'mask2former[:WEIGHTS], hf:ID|PATH for photographs, icon[:WEIGHTS], icon-fine[:WEIGHTS] for the icon world'
    """
    found = [(DETECTORS.written((world,)), world) for world in (PHOTOGRAPHS, ICON_WORLD, None)]
    articles = {PHOTOGRAPHS: " for photographs", ICON_WORLD: " for the icon world", None: ""}
    return ", ".join(names + articles[world] for names, world in found if names)


def find_detector(spec: str) -> tuple[Backend[Detector], str]:
    """The record that ``--detector`` names, and its argument. A weights file alone is one of the embedded config.

    Raises:
        UserError: No such kind, a weights file that is missing or none, or a path to nothing.

    >>> find_detector("icon")[1], find_detector("hf:owner/name")[1]
    ('', 'owner/name')
    """
    with _named(spec):
        if spec.endswith(".safetensors") and spec.partition(":")[0] not in DETECTORS:
            return DETECTORS.find(f"icon:{spec}")
        return DETECTORS.find(spec, choices())


@contextlib.contextmanager
def _named(spec: str) -> Iterator[None]:
    """Makes errors begin with the flag that they are about."""
    try:
        yield
    except UserError as error:
        raise (error if "--detector" in str(error) else UserError(f"--detector {spec}: {error}")) from error


def make_detector(spec: str, device: str = "cpu") -> Detector:
    """A detector by name.

    Args:
        spec: `icon` (embedded, icon world), `icon:WEIGHTS` or a path to a `.safetensors` file (another training of the
            embedded config), `icon-fine` (the same for many small icons), `mask2former[:WEIGHTS]` (GenEval's own,
            photographs; of MMDetection 3 or 2), `hf:ID` or
            `hf:FOLDER` (an object detector, instance segmenter or open-vocabulary detector of transformers).
        device: torch device.

    Raises:
        UserError: no such detector, or its weights are missing or do not fit its config.
    """
    record, argument = find_detector(spec)
    with _named(spec):
        return record.build(argument, device)


def in_icon_world(spec: str) -> bool:
    """Whether a `--detector` looks at icons rather than photographs.

    >>> in_icon_world("icon"), in_icon_world("icon:mine.safetensors"), in_icon_world("mine.safetensors")
    (True, True, True)
    >>> in_icon_world("mask2former"), in_icon_world("mask2former:w.safetensors"), in_icon_world("hf:w.safetensors")
    (False, False, False)
    """
    kind = spec.partition(":")[0]
    if kind in DETECTORS:
        return DETECTORS[kind].world == ICON_WORLD
    return spec.endswith(".safetensors")
