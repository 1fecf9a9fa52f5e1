"""The flags of the editing suites."""

from __future__ import annotations

import dataclasses

from evals.judges.registry import JudgeOptions
from evals.suite import CASES, OBSERVE, option


@dataclasses.dataclass(frozen=True, kw_only=True)
class EditOptions(JudgeOptions):
    """The flags that all editing suites have."""

    clip: tuple[str, ...] = option(
        (),
        "more CLIPs to measure with, beside --embedder",
        stage=OBSERVE,
        metavar="NAME",
        nargs="+",
        parse=str,
        names="embedder",
    )
    dino: str = option(
        "none",
        "a DINO to measure with (default: %(default)s)",
        stage=OBSERVE,
        metavar="dino:ID|PATH",
        names="image embedder",
    )
    lpips: str = option(
        "none", "squeeze, alex or vgg (default: %(default)s)", stage=OBSERVE, metavar="NET[:PATH]", names="backbone"
    )
    data: str | None = option(None, "", stage=CASES)
    """The published set; None for the icon world's edition, and no flag where there is no other."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublishedOptions(EditOptions):
    """The flags of suites that have a published set."""

    data: str | None = option(
        None,
        "published set: hub id, folder or Parquet file (default: the icon world's edition)",
        stage=CASES,
        metavar="ID|PATH",
    )
