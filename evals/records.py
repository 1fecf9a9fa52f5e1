"""What crosses a stage boundary: frozen records, and their JSON forms. Imports nothing heavy."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

BoxPx = tuple[float, float, float, float]
"""x1, y1, x2, y2 in pixels of the image, origin at the top left."""


class UserError(Exception):
    """A mistake of the person at the keyboard: one line with the value and what is allowed, shown without traceback."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One prompt (or edit) of a suite."""

    id: str
    """Stable name inside the suite; GenEval uses the zero-padded line number, ``"00042"``."""
    prompt: str
    tag: str
    """The task the case belongs to, e.g. ``"two_object"``."""
    metadata: dict[str, Any]
    """The case's own line of the benchmark file, unchanged."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One image to be made for a case."""

    case: Case
    index: int
    seed: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """What a generator returns for a sample: an image, or the reason why there is none."""

    image: Image.Image | None
    chain: str | None = None
    """The reasoning chain with boxes, where the model writes one."""
    warnings: tuple[str, ...] = ()
    error: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Detection:
    """One detected object."""

    name: str
    """Class name in GenEval's spelling."""
    score: float
    """Confidence in [0, 1]."""
    box_xyxy_px: BoxPx
    color: str | None = None
    """Colour word, filled in only where the suite asks for it."""
    mask: NDArray[np.bool_] | None = None
    """Boolean (height, width) instance mask, if the detector gives one. Not logged."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What an observation means for its case."""

    correct: bool
    reason: str
    """Empty if correct; else one line per thing that is wrong."""
    kept: dict[str, tuple[Detection, ...]] = dataclasses.field(default_factory=dict)
    """Class name -> detections that passed the thresholds, best first."""


def in_icon_world(detector: str) -> bool:
    """Whether a `--detector` looks at icons rather than photographs.

    >>> in_icon_world("icon"), in_icon_world("icon:mine.safetensors"), in_icon_world("mask2former")
    (True, True, False)
    """
    return detector.partition(":")[0] == "icon" or detector.endswith(".safetensors")


def sample_seed(suite: str, case_id: str, index: int, base_seed: int) -> int:
    """Seed of one sample, independent of batch, shard and run order.

    >>> sample_seed("geneval", "00000", 0, 42) == sample_seed("geneval", "00000", 0, 42)
    True
    >>> 0 <= sample_seed("geneval", "00000", 1, 42) < 2**63
    True
    """
    key = "\x1f".join((suite, case_id, str(index), str(base_seed))).encode()
    return int.from_bytes(hashlib.sha256(key).digest()[:8], "big") >> 1
