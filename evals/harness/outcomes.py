"""What became of a sample: its image and what was seen in it, or why there is neither."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evals.core.records import Sample
    from evals.judges.handing import HandedOn


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """Why a sample has no result."""

    stage: str
    """``"generate"`` or ``"observe"``."""
    error: str
    raised: bool = False
    """Whether the reason is an exception, which may not come again, rather than a missing or damaged image."""
    damaged: bool = False
    """Whether an image of the sample's own edit cannot be read, so that nothing was tried."""
    missing_classes: tuple[str, ...] = ()
    """Classes that the case needs and the detector has no label for, if that is why."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one sample."""

    sample: Sample
    png: bytes | None
    """The image file to write; None if it is on disk already or there is none."""
    chain: str | None
    warnings: tuple[str, ...]
    observation: dict[str, Any] | Failed
    generate_s: float | None = None
    """Its share of the time in which its batch was drawn; None if it was not drawn now."""
    observe_s: float = 0.0
    """Its share of the time in which its batch was observed."""
    replies: tuple[HandedOn, ...] = ()
    """Of the first one of a batch: what a worker's model said of the batch, where somebody else writes that down."""
