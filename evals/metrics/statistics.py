"""Intervals and comparisons that respect the design: images of one prompt are not independent.

Every interval resamples *clusters* (prompts) with replacement and keeps the images of a prompt together. Random
numbers come from the caller's ``numpy.random.Generator``; nothing here has state.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

RESAMPLES = 4000
"""Bootstrap and permutation draws; the interval's own error is then about a hundredth of its width."""

_TAIL = 0.025
"""Probability left out on each side of a 95 % interval."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean with its interval. ``value`` is None where nothing was scored: a missing score is not 0."""

    value: float | None
    low: float | None
    """Lower end of the 95 % interval; None where too little was scored to know one."""
    high: float | None
    n: int
    """Scored items (images, boxes) the mean is over."""
    clusters: int
    """Prompts they belong to."""
    draws: NDArray[np.float64] = dataclasses.field(repr=False, compare=False)
    """The bootstrap distribution, ``(resamples,)``; empty where nothing was scored."""

    def as_dict(self) -> dict[str, Any]:
        """JSON form, without the draws."""
        return {name: getattr(self, name) for name in ("value", "low", "high", "n", "clusters")}


def ratio(sums: ArrayLike, counts: ArrayLike, rng: np.random.Generator, resamples: int = RESAMPLES) -> Estimate:
    """Mean over all items of all clusters, ``sum(sums) / sum(counts)``, with a cluster bootstrap.

    Args:
        sums: ``(clusters,)`` sum of the items' values in each cluster.
        counts: ``(clusters,)`` number of items in each cluster; clusters without items are left out.
        rng: Source of the resamples.
        resamples: How many.

    Returns:
        The mean and its 95 % percentile interval. Where all items are 0, or all are 1, resampling cannot show
        any spread: the interval then is the exact binomial one over clusters. Where it shows none for another reason
        (one cluster, or all alike), there is no interval.

    >>> rng = np.random.default_rng(0)
    >>> estimate = ratio([4, 0, 2, 2], [4, 4, 4, 4], rng)
    >>> estimate.value, estimate.n, estimate.clusters, 0 <= estimate.low < 0.5 < estimate.high <= 1
    (0.5, 16, 4, True)
    >>> round(ratio([4] * 80, [4] * 80, rng).low, 3)
    0.955
    >>> ratio([], [], rng).value is None
    True
    >>> ratio([3], [4], rng).value, ratio([3], [4], rng).low
    (0.75, None)
    """
    total, size = (np.asarray(x, dtype=np.float64) for x in (sums, counts))
    total, size = total[size > 0], size[size > 0]
    clusters = len(size)
    if clusters == 0:
        return Estimate(value=None, low=None, high=None, n=0, clusters=0, draws=np.empty(0))
    times_drawn = rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=resamples)  # (resamples, clusters)
    draws = (times_drawn @ total) / (times_drawn @ size)
    value = float(total.sum() / size.sum())
    low, high = _percentiles(draws, value, clusters)
    return Estimate(value=value, low=low, high=high, n=int(size.sum()), clusters=clusters, draws=draws)


def mean_of(parts: Sequence[Estimate]) -> Estimate:
    """Unweighted mean of independent estimates (GenEval's overall score), interval from their joint bootstrap.

    Parts without a value are left out; ``n`` and ``clusters`` are summed over the rest. With a part of a single
    cluster, whose spread nobody knows, there is no interval, unless all items are 0 or all are 1.

    >>> rng = np.random.default_rng(0)
    >>> both = mean_of([ratio([4, 0], [4, 4], rng), ratio([1, 0, 0, 0], [1] * 4, rng)])
    >>> both.value, both.n
    (0.375, 12)
    """
    scored = [part for part in parts if part.value is not None]
    if not scored:
        return Estimate(value=None, low=None, high=None, n=0, clusters=0, draws=np.empty(0))
    draws = np.mean([part.draws for part in scored], axis=0)
    value = float(np.mean([part.value for part in scored]))
    clusters = sum(part.clusters for part in scored)
    low, high = _percentiles(draws, value, clusters)
    if value not in (0.0, 1.0) and any(part.clusters == 1 for part in scored):
        low = high = None
    return Estimate(value=value, low=low, high=high, n=sum(p.n for p in scored), clusters=clusters, draws=draws)


def _percentiles(draws: NDArray[np.float64], value: float, clusters: int) -> tuple[float, float] | tuple[None, None]:
    if np.ptp(draws) < 1e-12:
        if value not in (0.0, 1.0):
            return None, None
        # P(all clusters agree) = (1 - q) ** clusters; q at the 2.5 % point.
        reach = 1 - _TAIL ** (1 / clusters)
        return (0.0, reach) if value == 0.0 else (1.0 - reach, 1.0)
    low, high = np.quantile(draws, (_TAIL, 1 - _TAIL))
    return float(low), float(high)


def bounds(total: float, scored: int, missing: int) -> tuple[float, float]:
    """Between which values the mean would lie if the missing items, each in [0, 1], were known.

    >>> bounds(total=6, scored=8, missing=2)
    (0.6, 0.8)
    """
    if scored + missing == 0:
        raise ValueError("Expected at least one item, scored or missing, but got none")
    return total / (scored + missing), (total + missing) / (scored + missing)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Run B minus run A on the cases both have."""

    value: float
    low: float
    """Lower end of the 95 % interval (paired bootstrap over cases)."""
    high: float
    p_value: float
    """Two-sided, from flipping the sign of whole cases at random."""
    cases: int
    distinguishable: bool
    """False where the interval contains 0 or the permutation test does not reject at 5 %."""


def paired_difference(
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    rng: np.random.Generator,
    *,
    strata: Sequence[str] | None = None,
    resamples: int = RESAMPLES,
) -> Difference:
    """Compare two runs case by case.

    Args:
        scores_a: ``(cases,)`` mean score of each case in run A.
        scores_b: ``(cases,)`` the same cases in run B, in the same order.
        rng: Source of the resamples.
        strata: Task of each case: the statistic is the unweighted mean of the tasks' mean differences, and
            resampling stays inside a task. By default all cases weigh the same.
        resamples: Bootstrap and permutation draws.

    >>> rng = np.random.default_rng(0)
    >>> same = paired_difference([0.5, 1.0, 0.0, 0.25] * 9, [0.5, 0.75, 0.25, 0.25] * 9, rng)
    >>> same.value, same.distinguishable
    (0.0, False)
    >>> paired_difference([0.0] * 40, [0.75, 1.0] * 20, rng).distinguishable
    True
    """
    change = np.asarray(scores_b, dtype=np.float64) - np.asarray(scores_a, dtype=np.float64)
    labels = np.asarray(strata if strata is not None else ["all"] * len(change))
    if change.ndim != 1 or len(change) == 0 or len(labels) != len(change):
        raise ValueError(
            f"Expected one or more paired cases, each with a stratum, but got {change.shape}, {labels.shape}"
        )
    value, drawn, flipped = 0.0, np.zeros(resamples), np.zeros(resamples)
    names = np.unique(labels)
    for name in names:
        part = change[labels == name]
        n = len(part)
        value += float(part.mean()) / len(names)
        drawn += rng.multinomial(n, np.full(n, 1 / n), size=resamples) @ part / n / len(names)
        flipped += (rng.integers(0, 2, size=(resamples, n)) * 2 - 1) @ part / n / len(names)
    low, high = (float(q) for q in np.quantile(drawn, (_TAIL, 1 - _TAIL)))
    # The observed signs are one of the possible assignments, hence the + 1.
    p_value = (1 + int(np.sum(np.abs(flipped) >= abs(value) - 1e-12))) / (1 + resamples)
    distinguishable = not low <= 0 <= high and p_value < 2 * _TAIL
    return Difference(
        value=value, low=low, high=high, p_value=p_value, cases=len(change), distinguishable=distinguishable
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p values for their number (Holm 1979).

    If those below alpha are rejected, a true null hypothesis is among them with probability alpha at most.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = highest
    return corrected


def wording(difference: Difference, p_value: float | None = None) -> str:
    """What may be said of a difference.

    Args:
        difference: As `paired_difference` gives it.
        p_value: Its p value after a correction, if there are several comparisons.

    >>> rng = np.random.default_rng(0)
    >>> wording(paired_difference([0.0] * 40, [0.75, 1.0] * 20, rng))
    'better'
    >>> wording(paired_difference([0.5, 1.0, 0.0, 0.25] * 9, [0.5, 0.75, 0.25, 0.25] * 9, rng))
    'not distinguishable (36 cases, interval 0.11 wide)'
    """
    sure = difference.distinguishable and (p_value is None or p_value < 2 * _TAIL)
    if sure:
        return "better" if difference.value > 0 else "worse"
    width = difference.high - difference.low
    return f"not distinguishable ({difference.cases} cases, interval {width:.2f} wide)"


# ------------------------------------------------------------------------------------------------------------ planning
def minimum_detectable_difference(changes: ArrayLike, power: float = 0.8) -> float:
    """The smallest true mean change that a paired comparison of so many cases finds with probability `power`.

    Normal approximation at the 5 % level, two-sided.

    Args:
        changes: ``(cases,)`` differences of a pilot: their spread is what matters, not their mean.
        power: In (0, 1).

    >>> round(minimum_detectable_difference([0.25, -0.25] * 50), 3)
    0.07
    """
    from scipy.stats import norm

    spread = np.asarray(changes, dtype=np.float64)
    if spread.ndim != 1 or len(spread) < 2:
        raise ValueError(f"Expected the changes of two cases or more but got {spread.shape}")
    return float((norm.isf(_TAIL) + norm.ppf(power)) * spread.std(ddof=1) / np.sqrt(len(spread)))


def images_per_prompt_for_width(share: float, correlation: float, prompts: int, width: float) -> int | None:
    """Images of each prompt that make the 95 % interval of a score no wider than `width`; None if no number does.

    Images of one prompt are alike, so more of them say less and less: Kish's design effect, normal approximation.

    Args:
        share: The score to be expected, in [0, 1].
        correlation: Of two images of one prompt, in [0, 1].
        prompts: How many.
        width: Of the whole interval.

    >>> images_per_prompt_for_width(0.6, 0.3, 553, 0.06), images_per_prompt_for_width(0.6, 0.3, 100, 0.06)
    (3, None)
    """
    single = share * (1 - share) * (2 * 1.959964 / width) ** 2 / prompts  # images needed if none were alike
    if single <= 1:
        return 1
    if single * correlation >= 1:
        return None
    return int(np.ceil(single * (1 - correlation) / (1 - single * correlation) - 1e-9))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Two judges of the same items."""

    share: float
    """Of the items on which they agree."""
    only_a: int
    """Items that only the first finds right."""
    only_b: int
    p_value: float
    """McNemar's exact test: could the disagreements be balanced?"""


def agreement(right_a: ArrayLike, right_b: ArrayLike) -> Agreement:
    """How far two detectors (or scorers) agree on the same images, and whether one is more lenient.

    Args:
        right_a: ``(items,)`` bool, the first one's verdicts.
        right_b: ``(items,)`` bool, the second one's.

    >>> agreement([True] * 9 + [False], [True] * 2 + [False] * 8)
    Agreement(share=0.3, only_a=7, only_b=0, p_value=0.015625)
    """
    from scipy.stats import binomtest

    a, b = np.asarray(right_a, dtype=bool), np.asarray(right_b, dtype=bool)
    if a.shape != b.shape or a.ndim != 1 or len(a) == 0:
        raise ValueError(f"Expected the same items, one or more, but got {a.shape} and {b.shape}")
    only_a, only_b = int(np.sum(a & ~b)), int(np.sum(b & ~a))
    p_value = float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return Agreement(share=float(np.mean(a == b)), only_a=only_a, only_b=only_b, p_value=p_value)
