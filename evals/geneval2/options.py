"""The flags of GenEval 2."""

from __future__ import annotations

import dataclasses

from evals.judged.options import JudgedOptions
from evals.suite import VERDICT, option
from evals.suite.plans import LOGGED_SCORE


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules:
    """How the icon edition's questions are answered."""

    threshold: float = option(
        0.5,
        "icon edition: a detection counts if its score is above this (default: %(default)s)",
        stage=VERDICT,
        low=LOGGED_SCORE,
        high=1.0,
        metavar="X",
    )
    position_threshold: float = option(
        0.1,
        "icon edition: share of the summed sides by which centres must be apart (default: %(default)s)",
        stage=VERDICT,
        low=0.0,
        high=1.0,
        metavar="X",
    )

    def rules(self) -> dict[str, float]:
        """The icon edition's rules alone."""
        return {"threshold": self.threshold, "position_threshold": self.position_threshold}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(JudgedOptions, Rules):
    """The flags of judged benchmarks, and those of the icon edition."""

    topk_floor: float = option(
        1e-6,
        "published edition: probability of an answer that is not among an endpoint's likeliest tokens; part of the "
        "metric's name (default: %(default)s)",
        stage=VERDICT,
        low=0.0,
        high=1.0,
        metavar="X",
    )
