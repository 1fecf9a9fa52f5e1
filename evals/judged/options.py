"""The flags of the judged benchmarks."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.core.options import CASES, OBSERVE, mark_of, option
from evals.judges.registry import AskOptions, answerers
from got.util.cli import whole

if TYPE_CHECKING:
    from evals.judges.readers import Reader


def editions(*names: str) -> Any:
    """A field that is a flag, for one of several editions of the data, the first by default."""
    return option(names[0], "(default: %(default)s)", stage=CASES, choices=names)


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgedOptions(AskOptions):
    """Those that all of them have."""

    judge: str = option(
        "none",
        lambda: f"who is asked: {answerers()} (default: %(default)s, which will do for --dry-run alone)",
        stage=OBSERVE,
        metavar="NAME",
        names="judge",
    )
    data: Path | None = option(
        None, "folder with the benchmark's files, such as a clone", stage=CASES, metavar="DIR", parse=Path
    )
    allow_other_data: bool = option(
        False, "take data whose hash is not the published one, under a name of its own", stage=CASES
    )
    wording: str = option(
        "auto",
        "of the questions: ours, published (read from --data), published:DIGEST, or auto: published where it is there "
        "and known, else ours (default: %(default)s)",
        stage=OBSERVE,
        metavar="WHOSE",
    )
    floor: int = option(
        1,
        "judge so many untouched sources (blank images where there is no source) of each task, too "
        "(default: %(default)s)",
        stage=OBSERVE,
        metavar="N",
        parse=whole(0),
    )
    rewritten_from: Path | None = option(
        None,
        'JSON {case id: prompt}, a .jsonl of {"id": ..., "prompt": ...}, or a folder with WISE\'s *_rewrite.json: '
        "rewritten prompts to draw from; the judge still sees the original",
        stage=CASES,
        metavar="PATH",
        parse=Path,
    )

    @property
    def mark(self) -> str:
        """What they add to the name of an edition: how it asks, reads or counts."""
        return mark_of(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadingOptions(JudgedOptions):
    """Those of benchmarks whose own script reads replies that are read strictly here, or in another way."""

    reading: str = option(
        "strict",
        "of replies: strict, or scripted, as the official script reads them, an edition of its own "
        "(default: %(default)s)",
        stage=OBSERVE,
        choices=("strict", "scripted"),
        marks={"scripted": "-scripted"},
    )

    @property
    def scripted(self) -> bool:
        """Whether replies are read as the official script reads them."""
        return self.reading == "scripted"

    def reader(self, strict: Reader, scripted: Reader) -> Reader:
        """How replies are read, of the two ways."""
        return scripted if self.scripted else strict
