"""A judge's answers summed up: what failed is counted by cause, and says how far it could move the mean.

No answer is made up. Others do otherwise (a random number, a zero), and their means cannot be compared across judges
that fail more or less often.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from evals.core.records import UserError
from evals.metrics.statistics import bounds, by_cluster, ratio

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from evals.core.records import Judgement

CAUSES = {
    "transport": "no connection, a time-out, a cut or broken answer, or an error of the server",
    "rate limit": "the server asked to wait longer than we were willing to",
    "refusal": "the judge, or a filter before it, would not judge",
    "rejected": "the server did not accept the request",
    "unparsable": "no legal scores in the reply",
    "unknown form": "the content of the answer is no text",
    "truncated": "the answer ended at the limit of tokens; --judge-max-tokens raises it",
    "out of range": "scores outside their scale, or not finite",
    "no probabilities": "the endpoint does not say how likely its words are",
    "budget": "the allowed spending was reached",
    "no image": "there is no image to judge",
}
"""Every way to have no judgement."""
UNASKED = ("transport", "rate limit", "budget")
"""Causes that are not about the image: if asked at another time, the judge may well answer."""
UNANSWERED = (*UNASKED, "rejected", "unknown form", "truncated")
"""Causes that may be about how all is asked."""
MAX_FAILED = 0.05
"""Share of failed judgements from which a mean is no headline any more."""


def minimum(scores_0_10: Sequence[float]) -> float:
    """GoT's final score in [0, 1]: the lower of the judge's scores, over 10.

    >>> minimum([7, 3])
    0.3
    """
    return min(scores_0_10) / 10


def geometric(consistency_0_10: Sequence[float], quality_0_10: Sequence[float]) -> float:
    """VIEScore's final score in [0, 1]: ``sqrt(min(SC) * min(PQ)) / 10``.

    >>> geometric([9, 4], [9, 10])
    0.6
    """
    return float(np.sqrt(min(consistency_0_10) * min(quality_0_10))) / 10


def summarize(
    judgements: Sequence[Sequence[Judgement]],
    groups: Sequence[str],
    rng: np.random.Generator,
    *,
    max_failed: float = MAX_FAILED,
    resamples: int = 2000,
) -> dict[str, Any]:
    """Mean of the final scores with interval and bounds, mean of each single score, and how much the judge wavers.

    A case's score is the mean over its repeats that did not fail. The mean of minima is not the minimum of means, so
    both the final score and the single ones are given.

    Args:
        judgements: ``[case][repeat]``, all of one judge.
        groups: Source image of each case; the bootstrap resamples these.
        rng: Source of the resamples.
        max_failed: Share of failed judgements above which `headline` is None; 1 switches this off.
        resamples: How many.

    Returns:
        ``headline`` (the mean, or None), ``score`` (estimate), ``bounds`` (were all that failed 0, or 1), ``parts``
        (mean of each single score, 0 to 10), ``zeros`` (share of cases at 0), ``failed`` (by cause), ``judge_sd``
        (spread of the repeats of one case, None without repeats), ``calls``, ``tokens_in``, ``tokens_out``, ``usd``.

    Raises:
        UserError: There are two judges: one was exchanged while the run lasted.

    >>> from evals.core.records import Judgement
    >>> right = Judgement(judge="got@x", scores_0_10={"success": 8, "restraint": 6}, value=0.6)
    >>> wrong = Judgement(judge="got@x", failure="refusal")
    >>> found = summarize([[right], [right], [wrong]], ["a", "b", "c"], np.random.default_rng(0))
    >>> found["headline"], found["score"]["value"], [round(x, 3) for x in found["bounds"]], found["failed"]
    (None, 0.6, [0.4, 0.733], {'refusal': 1})
    """
    flat = [one for repeats in judgements for one in repeats]
    judges = {one.judge for one in flat}
    check_one_judge(judges)
    failed = [one.failure for one in flat if one.failure is not None]
    values = [_mean([one.value for one in repeats if one.value is not None]) for repeats in judgements]
    estimate = ratio(*by_cluster(values, groups), rng, resamples)
    scored = [one for one in flat if one.value is not None]
    total = sum(one.value or 0.0 for one in scored)
    share = len(failed) / len(flat) if flat else 0.0
    prices = [one.usd for one in flat if one.usd is not None]
    return {
        "judge": next(iter(judges), None),
        "headline": estimate.value if share <= max_failed else None,
        "score": estimate.as_dict(),
        "bounds": bounds(total, len(scored), len(failed)) if flat else None,
        "parts": _parts(scored),
        "zeros": _mean([float(value == 0) for value in values if value is not None]),
        "judgements": len(flat),
        "failed": {cause: failed.count(cause) for cause in CAUSES if cause in failed},
        "judge_sd": judge_spread([[one.value for one in repeats if one.value is not None] for repeats in judgements]),
        "calls": sum(one.calls for one in flat),
        "tokens_in": sum(one.tokens_in for one in flat),
        "tokens_out": sum(one.tokens_out for one in flat),
        "usd": sum(prices) if prices else None,
    }


def check_one_judge(judges: Collection[str]) -> None:
    """Refuses judgements of several judges.

    Raises:
        UserError: There are two judges: one was exchanged while the run lasted.

    >>> check_one_judge({"got@x#1"})
    """
    if len(judges) > 1:
        raise UserError(f"the run holds judgements of {' and '.join(sorted(judges))}; --from observe asks one judge")


def judge_spread(values: Sequence[Sequence[float]]) -> float | None:
    """Standard deviation of repeated judgements of one case, pooled over cases; None without repeats.

    >>> judge_spread([[0.2, 0.4], [0.6, 0.6], [0.1]])
    0.1
    >>> judge_spread([[0.2], [0.4]]) is None
    True
    """
    repeated = [np.asarray(each, dtype=np.float64) for each in values if len(each) > 1]
    if not repeated:
        return None
    squares = sum(float(((each - each.mean()) ** 2).sum()) for each in repeated)
    return round(float(np.sqrt(squares / sum(len(each) - 1 for each in repeated))), 12)


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _parts(scored: Sequence[Judgement]) -> dict[str, float]:
    names = list(dict.fromkeys(name for one in scored for name in one.scores_0_10))
    return {name: float(np.mean([one.scores_0_10[name] for one in scored])) for name in names}
