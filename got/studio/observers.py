"""Who looks at images, and who knows runs: packages above this one, which announce themselves as entry points."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING, Any, Protocol

from got.util.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

GROUP = "got.studio"


class Observer(Protocol):
    """A detector's view of an image; the entry point ``observer`` makes one of a detector's name and a device."""

    def observe(self, image: Image.Image, prompt: str, chain: str, seed: int) -> dict[str, Any]:
        """What is seen.

        ``planned``, a record per planned object with ``name``, ``iou`` (0 where it is not found),
        ``found`` (IoU of 0.5 or more), ``color`` and ``seen_color``; ``objects``, all detections with ``name``,
        ``score`` and ``box_1000``; and ``verdict``, None or right and why, where the prompt is a benchmark's.
        """


class Run(Protocol):
    """Samples of a finished run; the entry point ``run`` opens one by its folder."""

    name: str

    def samples(self) -> list[dict[str, Any]]:
        """A record per sample: ``key``, ``prompt``, ``outcome`` and ``reason``."""

    def sample(self, key: str) -> dict[str, Any]:
        """One sample.

        ``image`` and ``source`` (files; no source of a caption), ``prompt``, ``chain``, ``seed``, and ``options`` of
        the pipeline.
        """


def announced(name: str) -> Any:
    """What makes an observer or opens a run, as an installed package announces it; `UserError` where none does."""
    points = importlib.metadata.entry_points(group=GROUP, name=name)
    if not points:
        raise UserError(f"no installed package announces the entry point {name} of {GROUP}; install this one again")
    return next(iter(points)).load()
