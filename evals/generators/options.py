"""What a generator is built with."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from got.util.hub import CheckpointError, local_folder

if TYPE_CHECKING:
    from evals.generators.folder_images import Assignment

GUIDANCE = (
    "semantic", "spatial", "reference", "semantic_scale", "spatial_scale", "reference_scale", "guidance_interval",
    "chain",
)  # fmt: skip
PLACE = ("offload", "compile")
"""Flags that only some generators heed: `GUIDANCE` is about what is drawn, `PLACE` about where it is computed."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorOptions:
    """What a person may decide about a generator. None leaves a number to the model's own config."""

    model: str
    """The generator's name, for a factory that makes several."""
    argument: str
    """What stands behind the colon of ``--model folder:PATH``; empty elsewhere."""
    checkpoint: str
    steps: int | None
    semantic: bool
    spatial: bool
    reference: bool
    semantic_scale: float | None
    spatial_scale: float | None
    reference_scale: float | None
    chain: str
    """Whose plan is drawn: ``own``, ``none``, ``oracle``, or the oracle's made wrong, as in ``jitter:0.1``."""
    device: str
    dtype: str
    guidance_interval: tuple[float, ...] | None = None
    """In which part of the steps there is guidance; None keeps the checkpoint's."""
    scheduler: str | None = None
    """GoT's sampler, one of `got.model.schedulers.SCHEDULERS`; None keeps the checkpoint's."""
    reference_compat: bool = False
    """Whether GoT does as its released code does, see `got.released.reference`."""
    own_size: bool = False
    """Whether edits keep the model's own size."""
    offload: str | None = None
    """Where weights wait, see `got.checkpoint.place`."""
    compiled: bool = False
    """Whether the denoising network is compiled."""
    folder: Assignment | None = None
    """Which file is which image, for ``--model folder:PATH``."""


def checkpoint_folder(checkpoint: str) -> Path | None:
    """Where a checkpoint lies on this machine; None if it is a hub id, or gone."""
    try:
        return local_folder(checkpoint)
    except CheckpointError:  # gone since the run was made: `make_got` says so, where it is needed
        return None
